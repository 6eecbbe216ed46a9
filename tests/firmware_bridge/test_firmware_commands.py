"""The firmware's answers to commands, and the frames that it sends unasked."""

import math
import struct

import pytest

from cpep_bridge.frames import (
    UNCHANGED_FORMAT,
    Ack,
    BenchCommand,
    BenchResult,
    Calibrate,
    Capability,
    Config,
    Identify,
    Info,
    Log,
    Nak,
    NakCode,
    Ping,
    Pong,
    Prediction,
    SampleFormat,
    Start,
    Stop,
    Telemetry,
)
from tests.firmware_bridge import firmware_library as firmware
from tests.firmware_bridge.compiler import needs_compiler
from tests.firmware_bridge.firmware_board import Board, Engine, streaming

pytestmark = needs_compiler


@pytest.fixture
def board() -> Board:
    """A board that has already announced itself."""
    board = Board()
    board.poll()
    return board


def test_a_band_greets_with_info_and_repeats_it_when_asked():
    board = Board()
    (greeting,) = board.poll()
    (answer,) = board.order(Identify)

    assert isinstance(greeting, Info)
    assert isinstance(answer, Info)
    assert (greeting.seq, answer.seq) == (0, 1)
    assert (answer.boot_id, answer.channel_order, answer.model, answer.state) == (77, b"\0\1", "bench board", 0)
    assert answer.capabilities == Capability.TELEMETRY | Capability.CONFIG


def test_the_first_byte_on_the_wire_is_a_delimiter():
    board = Board()
    firmware.library().cpep_band_poll(board._band)

    assert board.wire[0] == 0


def test_before_any_stream_stop_repeats_no_end(board):

    assert [type(frame) for frame in board.order(Stop)] == [Ack]


def test_telemetry_comes_once_a_second_of_a_stream(board):
    assert board.poll() == []
    times_us = [frame.t_us for frame in board.order(Start) if isinstance(frame, Telemetry)]
    for _ in range(50):
        board.clock_us += 100_000
        times_us += [frame.t_us for frame in board.poll() if isinstance(frame, Telemetry)]

    assert times_us == [n * 1_000_000 for n in range(6)]


def test_ping_is_answered_with_when_it_came_and_when_the_answer_left(board):
    board.clock_us = 123_456

    assert board.order(Ping)[0] == Pong(1, 123_456, 123_456)


def test_an_idle_board_tells_its_battery_behind_a_pong_once_a_second_at_most(board):
    times_us = []
    for _ in range(50):
        board.clock_us += 100_000
        assert board.poll() == []  # nothing unasked
        answer, *telemetry = board.order(Ping)
        assert isinstance(answer, Pong)
        times_us += [frame.t_us for frame in telemetry if isinstance(frame, Telemetry)]

    assert times_us == [100_000 + n * 1_000_000 for n in range(5)]


def test_a_benchmark_tells_the_battery_between_its_runs_once_a_second():
    engine = Engine()
    board = Board(engine=engine)
    board.poll()
    board.clock_us = 5_000_000

    def run() -> None:
        board.clock_us += 300_000

    engine.run = run
    *telemetry, result = board.order(BenchCommand, 10)

    assert isinstance(result, BenchResult)
    assert [frame.t_us for frame in telemetry if isinstance(frame, Telemetry)] == [5_300_000, 6_500_000, 7_700_000]


def test_config_changes_the_next_stream_and_refuses_what_cannot_be():
    board = Board(rates=(1_000.0,))
    board.poll()
    assert board.order(Config, 0.0, 20, UNCHANGED_FORMAT) == [Ack(1, Config.TYPE)]
    assert board.order(Config, 1_000.0, 0, SampleFormat.I24) == [Ack(2, Config.TYPE)]
    (info,) = board.order(Identify)
    assert isinstance(info, Info)
    assert (info.n_samples, info.sample_format, info.sample_rate_hz) == (20, SampleFormat.I24, 1_000.0)

    asked = [(500.0, 0, 255), (float("nan"), 0, 255), (-1.0, 0, 255), (0.0, 255, 1), (0.0, 0, 2)]
    refused = [board.order(Config, *fields_)[0] for fields_ in asked]
    board.order(Start)
    refused.append(board.order(Config, 0.0, 10, 0)[0])
    assert [frame.code for frame in refused if isinstance(frame, Nak)] == [2, 2, 2, 2, 2, 3]


@pytest.mark.parametrize(("order", "fields"), [(BenchCommand, (10,)), (Calibrate, (0, struct.pack("<2f", 1, 1)))])
def test_a_band_without_an_engine_can_neither_time_nor_calibrate_it(board, order, fields):
    (answer,) = board.order(order, *fields)

    assert isinstance(answer, Nak)
    assert (answer.command, answer.code) == (order.TYPE, NakCode.UNSUPPORTED)


def test_an_engine_hears_every_sample_and_is_heard_at_once():
    engine = Engine()
    board = streaming(Board(engine=engine))
    board.convert(3)
    board.converted.append((9_000, 5, 0, (40_000, 0)))
    said = Prediction(0, 9_100, 9, 4, 0.75, 80, 100)
    engine.decisions.append(said)

    assert said in board.poll()
    assert engine.pushed == [(0, 0, 0), (1, 1, -1), (2, 2, -2), (8, 32_767, 0)]  # what the host gets, also clipped
    assert engine.n_starts == 1


def test_an_engine_is_timed_when_nothing_streams():
    engine = Engine()
    board = Board(engine=engine)
    (info,) = board.poll()
    assert isinstance(info, Info)
    assert info.capabilities & (Capability.PREDICTION | Capability.BENCH) == Capability.PREDICTION | Capability.BENCH
    assert board.order(BenchCommand, 500)[-1] == BenchResult(1, 500, 1, 2, 3, 4, 5, 6.0)

    refused = board.order(BenchCommand, 0)
    engine.can_bench = False
    refused += board.order(BenchCommand, 1)
    board.order(Start)
    refused += board.order(BenchCommand, 1)
    assert [frame.code for frame in refused if isinstance(frame, Nak)] == [2, 3, 3]


def test_an_engine_is_calibrated_when_nothing_streams_and_with_a_gain_for_each_channel():
    engine = Engine()
    board = Board(engine=engine)
    (info,) = board.poll()
    assert isinstance(info, Info)
    assert info.capabilities & Capability.CALIBRATION

    assert board.order(Calibrate, 1, struct.pack("<2f", 0.5, 3.0)) == [Ack(1, Calibrate.TYPE)]
    assert engine.calibration == (1, 0.5, 3.0)

    refused = board.order(Calibrate, 2, struct.pack("<2f", 1, 1))  # a full turn, which is out of range
    for gains in ((1,), (1, 1, 1), (1, 0), (1, -1), (1, math.nan), (1, math.inf)):
        refused += board.order(Calibrate, 0, struct.pack(f"<{len(gains)}f", *gains))
    board.order(Start)
    refused += board.order(Calibrate, 0, struct.pack("<2f", 1, 1))
    assert [frame.code for frame in refused if isinstance(frame, Nak)] == [NakCode.BAD_VALUE] * 7 + [NakCode.NOT_NOW]
    assert engine.calibration == (1, 0.5, 3.0)


def test_log_lines_reach_the_host(board):
    board.clock_us = 9
    board.log(30, "the battery is cold")

    assert board.poll() == [Log(0, 9, 30, "the battery is cold")]


def test_an_impossible_band_does_not_start():
    for shape in ((63, 8), (0, 2), (10, 0), (1, 33)):
        impossible = Info(0, 1, 1, 1, 0, 0, *shape, 0, 0, b"", "", "", "")
        assert not Board(impossible).works
    assert not Board(Info(0, 1, 1, 1, 0, 0, 1, 1, 0, 0, bytes(255), *["x" * 255] * 3)).works


def test_a_host_that_asks_and_never_reads_costs_no_more_than_the_outbox(board):
    board.room_bytes = 0
    for _ in range(200):
        board.order(Identify)
    board.room_bytes = 1 << 30
    waited = board.poll()

    assert 10 < len(waited) < 40
    assert all(isinstance(frame, Info) for frame in waited)
    assert isinstance(board.order(Ping)[0], Pong)
