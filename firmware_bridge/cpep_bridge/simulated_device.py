"""The state machine of a simulated band: it takes commands and returns frames. The caller provides time and port."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cpep_bridge.frames import (
    MAX_BODY_BYTES,
    UNCHANGED_FORMAT,
    Ack,
    BenchCommand,
    Calibrate,
    Config,
    Data,
    DataFlag,
    DeviceFrame,
    End,
    Frame,
    Identify,
    Info,
    Nak,
    NakCode,
    Ping,
    Pong,
    SampleFormat,
    Start,
    Stop,
    Telemetry,
    frame_bytes,
)
from cpep_bridge.playback import Packet, Playback

_TELEMETRY_US = 1_000_000
_BATTERY_MV = 3_900


@dataclass(slots=True)
class _Stream:
    packets: Iterator[Packet]
    start_us: int
    seq: int = 0
    sample_index: int = 0


class SimulatedDevice:
    """A band that plays EMG.

    clock_speed: seconds of the device's clock per second of the caller's
    repeat: start the playback over at its end, rather than send END
    """

    def __init__(self, info: Info, playback: Playback, clock_speed: float, repeat: bool) -> None:
        _check_frame_size(info)
        self._info = info
        self._playback = playback
        self._clock_speed = clock_speed
        self._repeat = repeat
        self._random = random.Random(info.boot_id)
        self._boot_s: float | None = None
        self._stream: _Stream | None = None
        self._telemetry_due_us = 0
        self._n_overruns = 0
        self._overrun = False  # whether frames were dropped since the last DATA frame
        self._last_end: End | None = None  # the END of the last stream
        self.played_out = False  # whether the last stream ended with the playback
        self.dismissed = False  # whether the host sent STOP after that

    @property
    def info(self) -> Info:
        """The device's current answer to IDENTIFY."""
        return replace(self._info, state=int(self._stream is not None))

    def reboot(self) -> Info:
        """Forget the stream and draw a new boot_id; returns the INFO to send."""
        self._info = replace(self._info, boot_id=self._random.getrandbits(32))
        self._stream = self._last_end = self._boot_s = None
        self._n_overruns, self.played_out = 0, False
        return self.info

    def answer(self, frame: Frame, now_s: float) -> list[DeviceFrame]:
        """Execute a command; returns the answers."""
        match frame:
            case Identify(seq):
                return [replace(self.info, seq=seq)]
            case Ping(seq):
                return [Pong(seq, self._clock_us(now_s), self._clock_us(now_s)), *self._idle_telemetry(now_s)]
            case Start(seq):
                self._begin(now_s)
                return [Ack(seq, Start.TYPE)]
            case Stop(seq):
                return [Ack(seq, Stop.TYPE), *self._stop(now_s)]
            case Config():
                return [self._configure(frame)]
            case Calibrate(seq):
                return [Nak(seq, Calibrate.TYPE, NakCode.UNSUPPORTED, "a simulated band has no engine to calibrate")]
            case BenchCommand(seq):
                return [Nak(seq, BenchCommand.TYPE, NakCode.UNSUPPORTED, "a simulated band has no encoder")]
            case _:
                return []  # a frame of the device itself, which the line echoed

    def wait_s(self, now_s: float) -> float:
        """Time until the next DATA frame is complete, at most 0 when it is; infinite without a stream."""
        if self._stream is None:
            return float("inf")
        n_samples = self._stream.sample_index + self._info.n_samples
        due_us = self._stream.start_us + n_samples / self._info.sample_rate_hz * 1e6
        return (due_us - self._clock_us(now_s)) / 1e6 / self._clock_speed

    def next_frame(self, now_s: float) -> Data | End:
        """The next frame of the stream, END after the last one. Raises ValueError without a stream."""
        stream = self._stream
        if stream is None:
            raise ValueError("no stream was started")
        packet = next(stream.packets, None)
        if packet is None:
            self.played_out = True
            return self._finish(stream, now_s)
        frame = Data(
            seq=stream.seq & 0xFFFF,
            sample_index=stream.sample_index & 0xFFFF_FFFF,
            t_us=stream.start_us + round(stream.sample_index / self._info.sample_rate_hz * 1e6),
            n_samples=packet.n_samples,
            n_channels=self._info.n_channels,
            sample_format=self._info.sample_format,
            flags=packet.flags | (DataFlag.OVERRUN.value if self._overrun else 0),
            samples=packet.samples,
        )
        self._overrun = False
        stream.seq += 1
        stream.sample_index += packet.n_samples
        return frame

    def note_overrun(self) -> None:
        """Note that a DATA frame was dropped because the line was full."""
        self._n_overruns += 1
        self._overrun = True

    def telemetry(self, now_s: float) -> Telemetry | None:
        """TELEMETRY when it is due, once a second during a stream; else None."""
        return None if self._stream is None else self._due_telemetry(now_s)

    def _idle_telemetry(self, now_s: float) -> list[DeviceFrame]:
        telemetry = None if self._stream is not None else self._due_telemetry(now_s)
        return [] if telemetry is None else [telemetry]

    def _due_telemetry(self, now_s: float) -> Telemetry | None:
        t_us = self._clock_us(now_s)
        if t_us < self._telemetry_due_us:
            return None
        self._telemetry_due_us = t_us + _TELEMETRY_US
        return Telemetry(
            seq=0,
            t_us=t_us,
            battery_mv=_BATTERY_MV,
            battery_current_ua=-21_000,
            charge_percent=80,
            temperature_c=31.5,
            adc_overruns=0,
            tx_overruns=self._n_overruns,
        )

    def _clock_us(self, now_s: float) -> int:
        if self._boot_s is None:
            self._boot_s = now_s
        return int((now_s - self._boot_s) * self._clock_speed * 1e6)

    def _begin(self, now_s: float) -> None:
        info = self._info
        packets = self._playback.packets(
            info.n_samples, SampleFormat(info.sample_format), info.uv_per_count, self._repeat
        )
        self._stream = _Stream(packets, start_us=self._clock_us(now_s))
        self._telemetry_due_us = self._stream.start_us
        self.played_out = self.dismissed = False

    def _stop(self, now_s: float) -> list[DeviceFrame]:
        """The END of the stream; without one, that of the last stream, because the host may not have received it."""
        if self._stream is not None:
            return [self._finish(self._stream, now_s)]
        self.dismissed = True
        return [] if self._last_end is None else [self._last_end]

    def _finish(self, stream: _Stream, now_s: float) -> End:
        self._stream = None
        self._last_end = End(stream.seq & 0xFFFF, self._clock_us(now_s), stream.sample_index & 0xFFFF_FFFF)
        return self._last_end

    def _configure(self, config: Config) -> Ack | Nak:
        if self._stream is not None:
            return Nak(config.seq, Config.TYPE, NakCode.NOT_NOW, "the stream must be stopped first")
        if config.sample_rate_hz not in (0, self._info.sample_rate_hz):
            return Nak(config.seq, Config.TYPE, NakCode.BAD_VALUE, f"the rate is {self._info.sample_rate_hz:g} Hz")
        try:
            wanted = replace(
                self._info,
                n_samples=config.n_samples or self._info.n_samples,
                sample_format=self._info.sample_format
                if config.sample_format == UNCHANGED_FORMAT
                else SampleFormat(config.sample_format),
            )
            _check_frame_size(wanted)
        except ValueError as error:
            return Nak(config.seq, Config.TYPE, NakCode.BAD_VALUE, str(error))
        self._info = wanted
        return Ack(config.seq, Config.TYPE)


def _check_frame_size(info: Info) -> None:
    """Raises ValueError when a DATA frame described by `info` would be too long."""
    size_bytes = frame_bytes(info.n_samples, info.n_channels, SampleFormat(info.sample_format))
    if not 0 < info.n_samples < 256 or size_bytes > MAX_BODY_BYTES:
        raise ValueError(
            f"{info.n_samples} samples of {info.n_channels} channels make a frame of {size_bytes} bytes, "
            f"the limit is {MAX_BODY_BYTES}"
        )
