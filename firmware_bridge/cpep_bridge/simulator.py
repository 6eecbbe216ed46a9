"""A simulated wristband on a pty: it speaks the wire protocol and plays EMG at the pace of a real one.

It streams when told to START, never waits for a slow reader (frames are dropped and counted, as a band does), and can
lose, damage and repeat frames by chance, or run its clock fast. What it really did is in `sent`, so that a test can
compare it with what the host noticed. POSIX only.
"""

import random
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.frames import DELIMITER, VERSION, Capability, Data, End, Info, SampleFormat, encode_frame
from cpep_bridge.playback import Playback, Segment
from cpep_bridge.pty_port import PtyPort
from cpep_bridge.simulated_device import SimulatedDevice

SAMPLES_PER_FRAME = 10
UV_PER_COUNT = 0.25  # i16 then spans +-8.2 mV

_IDLE_S = 0.02  # how long the loop sleeps at most, so that stop() is heard
_BURST_FRAMES = 64  # sent before commands are looked at again
_END_WAIT_S = 1.0  # for STOP, once the reader has read everything
_UNREAD_WAIT_S = 10.0  # for a reader that stopped reading
_LEAVE_WAIT_S = 0.3  # for the last answer to be read before hanging up


@dataclass(frozen=True, slots=True)
class SentCounts:
    """What a simulated band did since it was started: the truth that a host's counts are held against."""

    frames: int = 0  # DATA frames made, whatever became of them
    samples: int = 0  # in those
    injected_losses: int = 0  # frames left out on purpose
    overruns: int = 0  # frames dropped because the pty was full
    corrupted: int = 0  # frames damaged on purpose
    duplicated: int = 0  # frames sent twice on purpose
    lost_samples: int = 0  # in all the frames that were left out, dropped or damaged

    @property
    def lost_frames(self) -> int:
        """Frames that cannot have arrived intact."""
        return self.injected_losses + self.overruns + self.corrupted


class SimulatedBand:
    """A wristband that plays `segments`; `with` runs it in a thread of its own, and `port` is where a host finds it.

    segments: arrays (n_samples, n_channels) float32 in microvolts, or open sessions; played back to back
    link: a symbolic link to make to the pty, for as long as the band runs
    speed: how many times faster than real time
    loss, corrupt, duplicate: chance of each frame to be left out, to have a bit flipped, to be sent twice
    drift_ppm: how much too fast the device's clock runs
    once: finish with the segments, rather than start over
    lossless: wait for a slow reader rather than drop frames, for replays faster than the reader
    seed: decides which frames suffer, and the boot_id
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        sample_rate_hz: float,
        *,
        link: Path | None = None,
        speed: float = 1.0,
        loss: float = 0.0,
        corrupt: float = 0.0,
        duplicate: float = 0.0,
        drift_ppm: float = 0.0,
        once: bool = False,
        lossless: bool = False,
        seed: int = 0,
        uv_per_count: float = UV_PER_COUNT,
        sample_format: SampleFormat = SampleFormat.I16,
        n_samples: int = SAMPLES_PER_FRAME,
        serial_number: str = "SIM-0001",
    ) -> None:
        if not 0 < speed < float("inf"):
            raise ValueError(f"speed must be a positive number, not {speed}")
        playback = Playback(segments, sample_rate_hz)
        info = _info(playback, sample_rate_hz, uv_per_count, sample_format, n_samples, serial_number, seed)
        self._device = SimulatedDevice(info, playback, clock_speed=speed * (1 + drift_ppm * 1e-6), repeat=not once)
        self._faults = _Faults(loss, corrupt, duplicate, seed)
        self._link = link
        self._once = once
        self._lossless = lossless
        self._tally = {field.name: 0 for field in fields(SentCounts)}
        self._decoder = FrameDecoder()
        self._pty: PtyPort | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._rebooting = threading.Event()
        self._error: BaseException | None = None
        self._progress_s = 0.0
        self._unread_bytes = 0

    def __enter__(self) -> "SimulatedBand":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def port(self) -> str:
        """Path of the pty. Raises ValueError before start()."""
        if self._pty is None:
            raise ValueError("the simulated band was not started")
        return self._pty.path

    @property
    def sent(self) -> SentCounts:
        """What was done so far."""
        return SentCounts(**self._tally)

    def start(self) -> None:
        """Open the pty, make the link, and run. Raises LinkError when the link cannot be made."""
        self._pty = PtyPort(self._link)
        self._thread = threading.Thread(target=self._run, args=(self._pty,), name="simulated-band", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End at once and hang up. Raises what went wrong meanwhile, such as DataError for a damaged session."""
        self._stopping.set()
        self.wait()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until a band that plays once has finished; whether it has. Raises what went wrong meanwhile."""
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return not self._thread.is_alive()

    def reboot(self) -> None:
        """Do what a band does whose battery slipped: forget the stream, draw a new boot_id, say INFO."""
        self._rebooting.set()

    def _run(self, port: PtyPort) -> None:
        try:
            port.put(DELIMITER + encode_frame(self._device.info))
            while not self._stopping.is_set() and not self._finished(port):
                self._serve(port)
        except BaseException as error:  # handed over to whoever waits
            self._error = error
        finally:
            port.close()

    def _serve(self, port: PtyPort) -> None:
        """One round: commands in, answers and what is due out."""
        received = port.read(self._sleep_s(port))
        now_s = time.monotonic()
        if self._rebooting.is_set():
            self._rebooting.clear()
            port.put(encode_frame(self._device.reboot()))
        for command in self._decoder.feed(received):
            for answer in self._device.answer(command, now_s):
                port.put(encode_frame(answer))
        self._send_due(port, now_s)

    def _sleep_s(self, port: PtyPort) -> float:
        wait_s = self._device.wait_s(time.monotonic())
        if wait_s <= 0 and self._lossless and not port.ready():
            return _IDLE_S  # reading ends earlier, when the line has room
        return min(max(wait_s, 0.0), _IDLE_S)

    def _send_due(self, port: PtyPort, now_s: float) -> None:
        telemetry = self._device.telemetry(now_s)
        if telemetry is not None:
            port.offer(encode_frame(telemetry))
        for _ in range(_BURST_FRAMES):
            if self._device.wait_s(now_s) > 0 or (self._lossless and not port.ready()):
                return
            frame = self._device.next_frame(now_s)
            if isinstance(frame, End):
                port.put(encode_frame(frame))
                self._progress_s = now_s
                return
            self._send(port, frame)

    def _send(self, port: PtyPort, frame: Data) -> None:
        self._tally["frames"] += 1
        self._tally["samples"] += frame.n_samples
        fault = self._faults.draw()
        wire = encode_frame(frame)
        if fault.loss:
            self._lose("injected_losses", frame)
        elif not port.offer(self._faults.damage(wire) if fault.corrupt else wire):
            self._device.note_overrun()
            self._lose("overruns", frame)
        elif fault.corrupt:
            self._lose("corrupted", frame)
        elif fault.duplicate:
            port.put(wire)
            self._tally["duplicated"] += 1

    def _lose(self, how: str, frame: Data) -> None:
        self._tally[how] += 1
        self._tally["lost_samples"] += frame.n_samples

    def _finished(self, port: PtyPort) -> bool:
        """Whether a band that plays once may hang up: the host has read everything, or has stopped reading."""
        if not self._once or not self._device.played_out:
            return False
        now_s = time.monotonic()
        unread_bytes = port.unread_bytes()
        if unread_bytes != self._unread_bytes:
            self._unread_bytes, self._progress_s = unread_bytes, now_s
        if unread_bytes:
            patience_s = _LEAVE_WAIT_S if self._device.dismissed else _UNREAD_WAIT_S
            return now_s - self._progress_s > patience_s
        return self._device.dismissed or now_s - self._progress_s > _END_WAIT_S


@dataclass(frozen=True, slots=True)
class _Fault:
    loss: bool
    corrupt: bool
    duplicate: bool


class _Faults:
    """Chance, drawn frame by frame, so that the same seed harms the same frames at any speed."""

    def __init__(self, loss: float, corrupt: float, duplicate: float, seed: int) -> None:
        for name, chance in (("loss", loss), ("corrupt", corrupt), ("duplicate", duplicate)):
            if not 0 <= chance <= 1:
                raise ValueError(f"{name} must be a probability, not {chance}")
        self._loss, self._corrupt, self._duplicate = loss, corrupt, duplicate
        self._random = random.Random(seed)
        self._bits = random.Random(seed + 1)

    def draw(self) -> _Fault:
        """What befalls the next frame."""
        loss, corrupt, duplicate = (self._random.random() for _ in range(3))
        return _Fault(loss < self._loss, corrupt < self._corrupt, duplicate < self._duplicate)

    def damage(self, wire: bytes) -> bytes:
        """The frame with one bit flipped, anywhere but in its delimiter: so the next frame stays whole."""
        bit = self._bits.randrange(8 * (len(wire) - 1))
        damaged = bytearray(wire)
        damaged[bit // 8] ^= 1 << bit % 8
        return bytes(damaged)


def _info(
    playback: Playback,
    sample_rate_hz: float,
    uv_per_count: float,
    sample_format: SampleFormat,
    n_samples: int,
    serial_number: str,
    seed: int,
) -> Info:
    return Info(
        seq=0,
        boot_id=random.Random(seed).getrandbits(32),
        uv_per_count=struct.unpack("<f", struct.pack("<f", uv_per_count))[0],  # the very number that the host will read
        sample_rate_hz=sample_rate_hz,
        baud=0,
        capabilities=Capability.TELEMETRY | Capability.CONFIG,
        n_samples=n_samples,
        n_channels=playback.n_channels,
        sample_format=sample_format,
        state=0,
        channel_order=bytes(range(playback.n_channels)),
        model="cpep simulated band",
        serial_number=serial_number,
        firmware=f"simulator, protocol {VERSION}",
    )
