"""The firmware's state machine on a board made of Python: its clock, line, converter and classifier are the test's."""

import ctypes as ct
import shutil
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.frames import (
    UNCHANGED_FORMAT,
    Ack,
    BenchCommand,
    BenchResult,
    Capability,
    Command,
    Config,
    Data,
    DataFlag,
    End,
    Frame,
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
    encode_frame,
    samples_to_uv,
)
from cpep_bridge.loss import StreamLedger
from tests.firmware_bridge import firmware_library as firmware

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("make") is None, reason="needs make and a C compiler"
)

RATE_HZ = 2_000.0
PERIOD_US = 500
INFO = Info(0, 77, 0.25, RATE_HZ, 921_600, 0, 10, 2, 0, 0, b"\0\1", "bench board", "7", "1.0")
MAX_CHANNELS = 32
BAND_BYTES = 1 << 14  # more than a band takes

_Bytes, _Void = ct.POINTER(ct.c_uint8), ct.c_void_p


class CSample(ct.Structure):
    _fields_ = (
        ("t_us", ct.c_uint64), ("n_missed", ct.c_uint32), ("flags", ct.c_uint8), ("counts", ct.c_int32 * MAX_CHANNELS)
    )  # fmt: skip


class CHal(ct.Structure):
    _fields_ = (
        ("context", _Void),
        ("clock_us", ct.CFUNCTYPE(ct.c_uint64, _Void)),
        ("receive", ct.CFUNCTYPE(ct.c_uint32, _Void, _Bytes, ct.c_uint32)),
        ("transmit", ct.CFUNCTYPE(ct.c_uint32, _Void, _Bytes, ct.c_uint32)),
        ("start", ct.CFUNCTYPE(ct.c_bool, _Void, ct.c_float)),
        ("stop", ct.CFUNCTYPE(None, _Void)),
        ("take", ct.CFUNCTYPE(ct.c_int, _Void, ct.POINTER(CSample))),
        ("measure", ct.CFUNCTYPE(None, _Void, ct.POINTER(firmware.CTelemetry))),
        ("offers_rate", ct.CFUNCTYPE(ct.c_bool, _Void, ct.c_float)),
    )


class CClassifier(ct.Structure):
    _fields_ = (
        ("context", _Void),
        ("start", ct.CFUNCTYPE(None, _Void, ct.c_float)),
        ("push", ct.CFUNCTYPE(None, _Void, ct.POINTER(ct.c_int32), ct.c_uint32)),
        ("take", ct.CFUNCTYPE(ct.c_bool, _Void, ct.POINTER(firmware.CPrediction))),
        ("bench", ct.CFUNCTYPE(ct.c_bool, _Void, ct.c_uint16, ct.POINTER(firmware.CBenchResult))),
    )


@dataclass
class Engine:
    """A classifier that answers what the test tells it to."""

    pushed: list[tuple[int, ...]] = field(default_factory=list)  # index, counts
    decisions: list[Prediction] = field(default_factory=list)
    n_starts: int = 0
    can_bench: bool = True

    def as_c(self) -> CClassifier:
        kinds = dict(CClassifier._fields_)
        return CClassifier(
            None, kinds["start"](self._start), kinds["push"](self._push), kinds["take"](self._take),
            kinds["bench"](self._bench),
        )  # fmt: skip

    def _start(self, _: object, rate_hz: float) -> None:
        self.n_starts += 1
        self.pushed.clear()

    def _push(self, _: object, counts: "ct._Pointer[ct.c_int32]", index: int) -> None:
        self.pushed.append((index, counts[0], counts[1]))

    def _take(self, _: object, prediction: "ct._Pointer[ct.Structure]") -> bool:
        if not self.decisions:
            return False
        ct.memmove(prediction, ct.byref(firmware.to_c(self.decisions.pop(0)).fields), ct.sizeof(firmware.CPrediction))
        return True

    def _bench(self, _: object, n_runs: int, result: "ct._Pointer[ct.Structure]") -> bool:
        answer = BenchResult(0, n_runs, 1, 2, 3, 4, 5, 6.0)
        ct.memmove(result, ct.byref(firmware.to_c(answer).fields), ct.sizeof(firmware.CBenchResult))
        return self.can_bench


class Board:
    """A board: `converted` are the samples that wait, `room_bytes` is what the line takes."""

    def __init__(self, info: Info = INFO, engine: Engine | None = None, rates: tuple[float, ...] = ()) -> None:
        self.clock_us = 0
        self.room_bytes = 1 << 30
        self.converted: list[tuple[int, int, int, tuple[int, ...]]] = []  # t_us, n_missed, flags, counts
        self.over = False  # after those
        self.starts = True
        self.incoming, self.wire = bytearray(), bytearray()
        self.n_starts = self.n_stops = 0
        self._rates = rates
        self._decoder = FrameDecoder()
        self._seq = 0
        self._hal = self._hal_of_this()
        self._classifier = engine.as_c() if engine is not None else None
        self._info = firmware.to_c(info)
        self._band = ct.create_string_buffer(BAND_BYTES)
        self.works = firmware.library().band_init(
            self._band,
            ct.byref(self._hal),
            ct.byref(self._classifier) if self._classifier is not None else None,
            ct.byref(self._info.fields),
        )

    def poll(self) -> list[Frame]:
        """Run the firmware once; what it sent."""
        firmware.library().band_poll(self._band)
        sent = bytes(self.wire)
        self.wire.clear()
        received = self._decoder.feed(sent)
        assert self._decoder.counts.corrupt_frames == 0
        return received

    def order(self, command: type[Command], *fields_: float) -> list[Frame]:
        self._seq += 1
        self.incoming += encode_frame(command(self._seq, *fields_))
        return self.poll()

    def convert(self, n_samples: int, first: int = 0) -> None:
        """Let time pass and samples wait: channel 0 counts up from `first`, channel 1 down."""
        for number in range(first, first + n_samples):
            self.converted.append((self.clock_us, 0, 0, (number, -number)))
            self.clock_us += PERIOD_US

    def wanted(self) -> int:
        return int(firmware.library().band_samples_wanted(self._band))

    def log(self, level: int, line: str) -> None:
        firmware.library().band_log(self._band, level, firmware.text(line.encode()))

    def _hal_of_this(self) -> CHal:
        kinds = dict(CHal._fields_)
        return CHal(
            None,
            kinds["clock_us"](lambda _: self.clock_us),
            kinds["receive"](self._receive),
            kinds["transmit"](self._transmit),
            kinds["start"](self._start),
            kinds["stop"](self._stop),
            kinds["take"](self._take),
            kinds["measure"](self._measure),
            kinds["offers_rate"](lambda _, rate_hz: rate_hz in self._rates),
        )

    def _receive(self, _: object, into: "ct._Pointer[ct.c_uint8]", size: int) -> int:
        taken = bytes(self.incoming[:size])
        ct.memmove(into, taken, len(taken))
        del self.incoming[: len(taken)]
        return len(taken)

    def _transmit(self, _: object, data: "ct._Pointer[ct.c_uint8]", size: int) -> int:
        n_taken = min(size, self.room_bytes)
        self.wire += ct.string_at(data, n_taken)
        self.room_bytes -= n_taken
        return n_taken

    def _start(self, _: object, rate_hz: float) -> bool:
        self.n_starts += 1
        self.converted.clear()
        return self.starts

    def _stop(self, _: object) -> None:
        self.n_stops += 1

    def _take(self, _: object, sample: "ct._Pointer[CSample]") -> int:
        if not self.converted:
            return 2 if self.over else 0
        t_us, n_missed, flags, counts = self.converted.pop(0)
        content = sample.contents
        content.t_us = t_us
        content.n_missed += n_missed  # the firmware cleared it
        content.flags |= flags
        for channel, count in enumerate(counts):
            content.counts[channel] = count
        return 1

    def _measure(self, _: object, telemetry: "ct._Pointer[ct.Structure]") -> None:
        telemetry.contents.battery_mv = 3_700


def data(received: list[Frame]) -> list[Data]:
    return [frame for frame in received if isinstance(frame, Data)]


def streaming(board: Board) -> Board:
    board.poll()
    assert isinstance(board.order(Start)[0], Ack)
    return board


def test_a_band_greets_with_info_and_repeats_it_when_asked() -> None:
    board = Board()
    (greeting,) = board.poll()
    (answer,) = board.order(Identify)

    assert isinstance(greeting, Info)
    assert isinstance(answer, Info)
    assert (greeting.seq, answer.seq) == (0, 1)
    assert (answer.boot_id, answer.channel_order, answer.model, answer.state) == (77, b"\0\1", "bench board", 0)
    assert answer.capabilities == Capability.TELEMETRY | Capability.CONFIG


def test_the_first_byte_on_the_wire_is_a_delimiter() -> None:
    board = Board()
    firmware.library().band_poll(board._band)

    assert board.wire[0] == 0


def test_a_stream_follows_its_ack_and_counts_from_zero() -> None:
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


def test_the_number_of_a_frame_wraps_and_the_index_of_a_sample_does_not() -> None:
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


def test_a_board_is_told_how_many_samples_it_may_sleep() -> None:
    board = Board()
    assert board.wanted() == 0
    streaming(board)
    assert board.wanted() == 10
    board.convert(13)
    board.poll()
    assert board.wanted() == 7


def test_stop_sends_what_was_converted_and_where_the_stream_ended() -> None:
    board = streaming(Board())
    board.convert(13)
    board.poll()
    ack, rest, end = board.order(Stop)

    assert isinstance(ack, Ack)
    assert isinstance(rest, Data)
    assert (rest.seq, rest.sample_index, rest.n_samples) == (1, 10, 3)
    assert end == End(2, 6_500, 13)
    assert board.order(Stop)[1:] == [end]  # a host that did not hear it asks again
    assert board.n_stops == 2


def test_a_recording_that_is_over_ends_the_stream() -> None:
    board = streaming(Board())
    board.convert(12)
    board.over = True
    first, rest, end = (frame for frame in board.poll() if not isinstance(frame, Telemetry))

    assert [frame.n_samples for frame in data([first, rest])] == [10, 2]
    assert end == End(2, 6_000, 12)
    assert board.poll() == []


def test_before_any_stream_stop_repeats_no_end() -> None:
    board = Board()
    board.poll()

    assert [type(frame) for frame in board.order(Stop)] == [Ack]


def test_start_in_the_midst_of_a_stream_begins_a_new_one() -> None:
    board = streaming(Board())
    board.convert(17)
    board.poll()
    again = board.order(Start)
    board.convert(10, first=100)

    assert isinstance(again[0], Ack)
    (frame,) = data(again + board.poll())
    assert (frame.seq, frame.sample_index, frame.counts()[0, 0]) == (0, 0, 100)
    assert board.n_starts == 2


def test_a_converter_that_does_not_start_is_a_refusal() -> None:
    board = Board()
    board.starts = False
    board.poll()
    (answer,) = board.order(Start)

    assert isinstance(answer, Nak)
    assert answer.code == NakCode.NOT_NOW


def test_a_full_line_costs_whole_frames_which_are_counted_and_flagged() -> None:
    board = streaming(Board())
    board.room_bytes = 0
    board.convert(50)
    assert board.poll() == []
    board.room_bytes = 1 << 30
    board.clock_us = 2_000_000
    board.convert(10, first=50)
    received = board.poll()
    (telemetry,) = (frame for frame in received if isinstance(frame, Telemetry))

    # The frame that was on its way when the line filled up waits for it; the other four have no place to wait.
    assert [(frame.seq, frame.sample_index) for frame in data(received)] == [(0, 0), (5, 50)]
    assert [frame.flags for frame in data(received)] == [0, DataFlag.OVERRUN]
    assert (telemetry.tx_overruns, telemetry.battery_mv) == (4, 3_700)


def test_a_frame_is_never_cut_by_a_line_that_takes_a_few_bytes_at_a_time() -> None:
    board = streaming(Board())
    received = []
    for number in range(40):
        board.convert(1, first=number)
        board.room_bytes = 17
        received += board.poll()  # which sees to it that nothing was corrupt

    assert len(data(received)) >= 3


def test_samples_that_the_converter_missed_are_counted_and_part_frames() -> None:
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
def test_what_exceeds_the_format_is_clipped_and_flagged(sample_format: SampleFormat, limit: int) -> None:
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


def test_telemetry_comes_once_a_second_of_a_stream() -> None:
    board = Board()
    board.poll()
    assert board.poll() == []
    times_us = [frame.t_us for frame in board.order(Start) if isinstance(frame, Telemetry)]
    for _ in range(50):
        board.clock_us += 100_000
        times_us += [frame.t_us for frame in board.poll() if isinstance(frame, Telemetry)]

    assert times_us == [n * 1_000_000 for n in range(6)]


def test_ping_is_answered_with_when_it_came_and_when_the_answer_left() -> None:
    board = Board()
    board.poll()
    board.clock_us = 123_456

    assert board.order(Ping) == [Pong(1, 123_456, 123_456)]


def test_config_changes_the_next_stream_and_refuses_what_cannot_be() -> None:
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


def test_a_band_without_an_engine_refuses_to_time_it() -> None:
    board = Board()
    board.poll()
    (answer,) = board.order(BenchCommand, 10)

    assert isinstance(answer, Nak)
    assert (answer.command, answer.code) == (BenchCommand.TYPE, NakCode.UNSUPPORTED)


def test_an_engine_hears_every_sample_and_is_heard_at_once() -> None:
    engine = Engine()
    board = streaming(Board(engine=engine))
    board.convert(3)
    board.converted.append((9_000, 5, 0, (40_000, 0)))
    said = Prediction(0, 9_100, 9, 4, 0.75, 80, 100)
    engine.decisions.append(said)

    assert said in board.poll()
    assert engine.pushed == [(0, 0, 0), (1, 1, -1), (2, 2, -2), (8, 32_767, 0)]  # what the host sees, clipped as there
    assert engine.n_starts == 1


def test_an_engine_is_timed_when_nothing_streams() -> None:
    engine = Engine()
    board = Board(engine=engine)
    (info,) = board.poll()
    assert isinstance(info, Info)
    assert info.capabilities & (Capability.PREDICTION | Capability.BENCH) == Capability.PREDICTION | Capability.BENCH
    assert board.order(BenchCommand, 500) == [BenchResult(1, 500, 1, 2, 3, 4, 5, 6.0)]

    refused = board.order(BenchCommand, 0)
    engine.can_bench = False
    refused += board.order(BenchCommand, 1)
    board.order(Start)
    refused += board.order(BenchCommand, 1)
    assert [frame.code for frame in refused if isinstance(frame, Nak)] == [2, 3, 3]


def test_log_lines_reach_the_host() -> None:
    board = Board()
    board.poll()
    board.clock_us = 9
    board.log(30, "the battery is cold")

    assert board.poll() == [Log(0, 9, 30, "the battery is cold")]


def test_an_impossible_band_does_not_start() -> None:
    for shape in ((63, 8), (0, 2), (10, 0), (1, 33)):
        impossible = Info(0, 1, 1, 1, 0, 0, *shape, 0, 0, b"", "", "", "")
        assert not Board(impossible).works
    assert not Board(Info(0, 1, 1, 1, 0, 0, 1, 1, 0, 0, bytes(255), *["x" * 255] * 3)).works


def test_a_host_that_asks_and_never_reads_costs_no_more_than_the_outbox() -> None:
    board = Board()
    board.poll()
    board.room_bytes = 0
    for _ in range(200):
        board.order(Identify)
    board.room_bytes = 1 << 30
    waited = board.poll()

    assert 10 < len(waited) < 40
    assert all(isinstance(frame, Info) for frame in waited)
    assert isinstance(board.order(Ping)[0], Pong)


commands = st.sampled_from([Identify(1), Start(2), Stop(3), Ping(4), BenchCommand(5, 9), Config(6, 0.0, 7, 1)])
events = st.one_of(
    commands.map(encode_frame),
    commands.map(lambda command: encode_frame(command)[1:]),
    st.binary(max_size=300),
    st.just(b"\x2a" * 200),  # longer than any command
    st.integers(0, 40),  # samples
    st.sampled_from([-1, -50, -400, -100_000]),  # room
)


@given(st.lists(events, max_size=40))
@settings(max_examples=firmware.N_EXAMPLES, deadline=None)
def test_whatever_happens_frames_stay_whole_and_samples_are_accounted_for(happenings: list[bytes | int]) -> None:
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
