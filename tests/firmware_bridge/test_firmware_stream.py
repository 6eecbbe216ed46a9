"""The firmware's streams: frames are whole and every sample is sent or counted, whatever line and converter do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpep_bridge.frames import (
    Ack,
    BenchCommand,
    Config,
    Data,
    DataFlag,
    End,
    Frame,
    Identify,
    Nak,
    NakCode,
    Ping,
    SampleFormat,
    Start,
    Stop,
    Telemetry,
    encode_frame,
    samples_to_uv,
)
from cpep_bridge.lost_samples import StreamLedger
from tests.firmware_bridge import firmware_library as firmware
from tests.firmware_bridge.compiler import needs_compiler
from tests.firmware_bridge.firmware_board import Board, Engine, data, streaming

pytestmark = needs_compiler


def test_a_stream_follows_its_ack_and_counts_from_zero():
    board = streaming(Board())
    board.convert(25)
    first = board.poll()
    board.convert(5, first=25)

    frames = data(first) + data(board.poll())
    assert [(frame.seq, frame.sample_index, frame.n_samples) for frame in frames] == [
        (0, 0, 10),
        (1, 10, 10),
        (2, 20, 10),
    ]
    assert [frame.t_us for frame in frames] == [0, 5_000, 10_000]
    counts = np.concatenate([frame.counts() for frame in frames])
    np.testing.assert_array_equal(counts, np.stack([np.arange(30), -np.arange(30)], axis=1))


def test_the_number_of_a_frame_wraps_and_the_index_of_a_sample_does_not():
    board = Board()
    board.poll()
    board.order(Config, 0.0, 1, SampleFormat.I16)
    board.order(Start)
    board.converted = [(0, 0, 0, (0, 0))] * 65_540
    ledger, received = StreamLedger(), list[Data]()
    for _ in range(70):
        received += data(board.poll())

    assert [frame.seq for frame in received[-5:]] == [65_535, 0, 1, 2, 3]
    assert all(ledger.accept(frame.seq, frame.sample_index, 1) == index for index, frame in enumerate(received))


def test_a_board_is_told_how_many_samples_it_may_sleep():
    board = Board()
    assert board.wanted() == 0
    streaming(board)
    assert board.wanted() == 10
    board.convert(13)
    board.poll()
    assert board.wanted() == 7


def test_stop_sends_what_was_converted_and_where_the_stream_ended():
    board = streaming(Board())
    board.convert(13)
    board.poll()
    ack, rest, end = board.order(Stop)

    assert isinstance(ack, Ack)
    assert isinstance(rest, Data)
    assert (rest.seq, rest.sample_index, rest.n_samples) == (1, 10, 3)
    assert end == End(2, 6_500, 13)
    assert board.order(Stop)[1:] == [end]  # a host that missed it asks again
    assert board.n_stops == 2


def test_a_recording_that_is_over_ends_the_stream():
    board = streaming(Board())
    board.convert(12)
    board.over = True
    first, rest, end = (frame for frame in board.poll() if not isinstance(frame, Telemetry))

    assert [frame.n_samples for frame in data([first, rest])] == [10, 2]
    assert end == End(2, 6_000, 12)
    assert board.poll() == []


def test_start_in_the_midst_of_a_stream_begins_a_new_one():
    board = streaming(Board())
    board.convert(17)
    board.poll()
    again = board.order(Start)
    board.convert(10, first=100)

    assert isinstance(again[0], Ack)
    (frame,) = data(again + board.poll())
    assert (frame.seq, frame.sample_index, frame.counts()[0, 0]) == (0, 0, 100)
    assert board.n_starts == 2


def test_a_converter_that_does_not_start_is_a_refusal():
    board = Board()
    board.starts = False
    board.poll()
    (answer,) = board.order(Start)

    assert isinstance(answer, Nak)
    assert answer.code == NakCode.NOT_NOW


def test_a_full_line_costs_whole_frames_which_are_counted_and_flagged():
    board = streaming(Board())
    board.room_bytes = 0
    board.convert(50)
    assert board.poll() == []
    board.room_bytes = 1 << 30
    board.clock_us = 2_000_000
    board.convert(10, first=50)
    received = board.poll()
    (telemetry,) = (frame for frame in received if isinstance(frame, Telemetry))

    # The frame that was being sent when the line filled up is kept; there is no memory for the other four.
    assert [(frame.seq, frame.sample_index) for frame in data(received)] == [(0, 0), (5, 50)]
    assert [frame.flags for frame in data(received)] == [0, DataFlag.OVERRUN]
    assert (telemetry.tx_overruns, telemetry.battery_mv) == (4, 3_700)


def test_a_frame_is_never_cut_by_a_line_that_takes_a_few_bytes_at_a_time():
    board = streaming(Board())
    received = []
    for number in range(40):
        board.convert(1, first=number)
        board.room_bytes = 17
        received += board.poll()  # also checks that no frame is corrupt

    assert len(data(received)) >= 3


def test_samples_that_the_converter_missed_are_counted_and_part_frames():
    board = streaming(Board())
    board.convert(4)
    board.converted.append((9_000, 3, 0, (7, -7)))
    board.clock_us = 2_000_000
    board.convert(9, first=8)
    received = board.poll()
    telemetry = [frame for frame in received if isinstance(frame, Telemetry)]

    assert [(f.seq, f.sample_index, f.n_samples, f.t_us) for f in data(received)] == [(0, 0, 4, 0), (1, 7, 10, 9_000)]
    assert telemetry[0].adc_overruns == 3
    ledger = StreamLedger()
    for frame in data(received):
        ledger.accept(frame.seq, frame.sample_index, frame.n_samples)
    assert (ledger.lost_samples, ledger.lost_frames) == (3, 0)


@pytest.mark.parametrize(("sample_format", "limit"), [(SampleFormat.I16, 2**15), (SampleFormat.I24, 2**23)])
def test_what_exceeds_the_format_is_clipped_and_flagged(sample_format, limit):
    board = Board()
    board.poll()
    board.order(Config, 0.0, 2, sample_format)
    board.order(Start)
    board.converted = [
        (0, 0, 0, (limit - 2, 2 - limit)), (0, 0, DataFlag.LEAD_OFF, (0, 0)),
        (0, 0, 0, (limit, -limit - 1)), (0, 0, DataFlag.TRIGGER, (2**31 - 1, -(2**31))),
    ]  # fmt: skip
    inside, beyond = data(board.poll())

    assert (inside.flags, beyond.flags) == (DataFlag.LEAD_OFF, DataFlag.SATURATION | DataFlag.TRIGGER)
    np.testing.assert_array_equal(inside.counts(), [[limit - 2, 2 - limit], [0, 0]])
    np.testing.assert_array_equal(beyond.counts(), [[limit - 1, -limit]] * 2)
    assert samples_to_uv(beyond.samples, 2, sample_format, np.float32(1))[0, 1] == -limit


commands = st.sampled_from([Identify(1), Start(2), Stop(3), Ping(4), BenchCommand(5, 9), Config(6, 0.0, 7, 1)])
events = st.one_of(
    commands.map(encode_frame),
    commands.map(lambda command: encode_frame(command)[1:]),
    st.binary(max_size=300),
    st.just(b"\x2a" * 200),  # longer than any command
    st.integers(0, 40),  # samples to convert
    st.sampled_from([-1, -50, -400, -100_000]),  # room on the line, negated
)


@given(st.lists(events, max_size=40))
@settings(max_examples=firmware.N_EXAMPLES, deadline=None)
def test_whatever_happens_frames_stay_whole_and_samples_are_accounted_for(happenings):
    board, received, n_converted = Board(engine=Engine()), list[Frame](), 0
    for happening in happenings:
        if isinstance(happening, bytes):
            board.incoming += happening
        elif happening < 0:
            board.room_bytes = -happening
        else:
            board.convert(happening, first=n_converted)
            n_converted += happening
        received += board.poll()
    board.room_bytes = 1 << 30
    board.incoming += b"\0"
    for _ in range(20):
        received += board.poll()
    begun = board.order(Start)
    received = begun[begun.index(Ack(1, Start.TYPE)) :]
    for _ in range(3):
        board.convert(7)
        received += board.poll()
    received += board.order(Stop)

    ledger = StreamLedger()
    for frame in data(received):
        assert ledger.accept(frame.seq, frame.sample_index, frame.n_samples) is not None
    (end,) = (frame for frame in received if isinstance(frame, End))
    ledger.finish(end.seq, end.sample_index)
    assert (end.sample_index, ledger.lost_samples) == (21, 0)
