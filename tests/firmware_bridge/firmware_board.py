"""A board in Python that the firmware's state machine runs on: its clock, line, converter and classifier."""

import ctypes as ct
from collections.abc import Callable
from dataclasses import dataclass, field

from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.frames import Ack, BenchResult, Command, Data, Frame, Info, Prediction, Start, encode_frame
from tests.firmware_bridge import firmware_library as firmware

RATE_HZ = 2_000.0
PERIOD_US = 500
INFO = Info(0, 77, 0.25, RATE_HZ, 921_600, 0, 10, 2, 0, 0, b"\0\1", "bench board", "7", "1.0")
MAX_CHANNELS = 32
BAND_BYTES = 1 << 14  # more than a band needs

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


_Between = ct.CFUNCTYPE(None, _Void)


class CClassifier(ct.Structure):
    _fields_ = (
        ("context", _Void),
        ("start", ct.CFUNCTYPE(None, _Void, ct.c_float)),
        ("push", ct.CFUNCTYPE(None, _Void, ct.POINTER(ct.c_int32), ct.c_uint32)),
        ("take", ct.CFUNCTYPE(ct.c_bool, _Void, ct.POINTER(firmware.CPrediction))),
        ("bench", ct.CFUNCTYPE(ct.c_bool, _Void, ct.c_uint16, ct.POINTER(firmware.CBenchResult), _Between, _Void)),
        ("calibrate", ct.CFUNCTYPE(None, _Void, ct.POINTER(ct.c_float), ct.c_uint8)),
    )


@dataclass
class Engine:
    """A classifier that gives the decisions that a test sets."""

    pushed: list[tuple[int, ...]] = field(default_factory=list)  # index, counts
    decisions: list[Prediction] = field(default_factory=list)
    calibration: tuple[float, ...] = ()  # turn, gains
    n_starts: int = 0
    can_bench: bool = True
    run: Callable[[], object] = lambda: None  # called once per run of a benchmark

    def as_c(self) -> CClassifier:
        kinds = dict(CClassifier._fields_)
        return CClassifier(
            None, kinds["start"](self._start), kinds["push"](self._push), kinds["take"](self._take),
            kinds["bench"](self._bench), kinds["calibrate"](self._calibrate),
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

    def _bench(
        self, _: object, n_runs: int, result: "ct._Pointer[ct.Structure]", between: Callable[[object], None], b: object
    ) -> bool:
        for _run in range(n_runs):
            self.run()
            between(b)
        answer = BenchResult(0, n_runs, 1, 2, 3, 4, 5, 6.0)
        ct.memmove(result, ct.byref(firmware.to_c(answer).fields), ct.sizeof(firmware.CBenchResult))
        return self.can_bench

    def _calibrate(self, _: object, gains: "ct._Pointer[ct.c_float]", turn: int) -> None:
        self.calibration = turn, gains[0], gains[1]


class Board:
    """A board. `converted` has the samples that wait to be sent; `room_bytes` is the free room on the line."""

    def __init__(self, info: Info = INFO, engine: Engine | None = None, rates: tuple[float, ...] = ()) -> None:
        self.clock_us = 0
        self.room_bytes = 1 << 30
        self.converted: list[tuple[int, int, int, tuple[int, ...]]] = []  # t_us, n_missed, flags, counts
        self.over = False  # whether the converter ends after these samples
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
        self.works = firmware.library().cpep_band_init(
            self._band,
            ct.byref(self._hal),
            ct.byref(self._classifier) if self._classifier is not None else None,
            ct.byref(self._info.fields),
        )

    def poll(self) -> list[Frame]:
        """Run the firmware once; returns the frames that it sent."""
        firmware.library().cpep_band_poll(self._band)
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
        """Convert samples and advance the clock: channel 0 counts up from `first`, channel 1 down from its negative."""
        for number in range(first, first + n_samples):
            self.converted.append((self.clock_us, 0, 0, (number, -number)))
            self.clock_us += PERIOD_US

    def wanted(self) -> int:
        return int(firmware.library().cpep_band_samples_wanted(self._band))

    def log(self, level: int, line: str) -> None:
        firmware.library().cpep_band_log(self._band, level, firmware.text(line.encode()))

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
        content.n_missed += n_missed  # the firmware has cleared it
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
