"""A simulated wristband on a pty: it speaks the wire protocol and plays EMG at the pace of a real one.

It streams when told to START, never waits for a slow reader (frames are dropped and counted, as a band does), and can
lose, damage, repeat and reorder frames by chance, run its clock fast, stall, restart, or be unplugged and plugged in
again. What it really did is in `sent`, so that a test can compare it with what the host noticed. POSIX only.
"""

import secrets
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.frames import DELIMITER, VERSION, Capability, Data, End, Info, SampleFormat, Telemetry, encode_frame
from cpep_bridge.playback import Playback, Segment
from cpep_bridge.pty_port import PtyPort
from cpep_bridge.simulated import Faults, SimulatedThread
from cpep_bridge.simulated_device import SimulatedDevice

SAMPLES_PER_FRAME = 10
UV_PER_COUNT = 0.25  # i16 then spans +-8.2 mV

_IDLE_S = 0.02  # how long the loop sleeps at most, so that stop() is heard
_BURST_FRAMES = 64  # sent before commands are looked at again
_END_WAIT_S = 1.0  # for STOP, once the reader has read everything
_UNREAD_WAIT_S = 10.0  # for a reader that stopped reading
_LEAVE_WAIT_S = 0.3  # for the last answer to be read before hanging up
_NO_BATTERY = encode_frame(Telemetry(0, 0, 0, 0, 0, float("nan"), 0, 0))


class SimulatedBand(SimulatedThread):
    """A wristband that plays `segments`; `with` runs it in a thread of its own, and `port` is where a host finds it.

    segments: arrays (n_samples, n_channels) float32 in microvolts, or open sessions; played back to back
    link: a symbolic link to make to the pty, for as long as the band runs
    speed: how many times faster than real time
    loss, corrupt, cut, duplicate, reorder, noise: chance of each frame to be left out, to have a bit flipped, to lose
        some of its bytes, to be sent twice, to be sent after its successor, to come behind noise and a battery of NaN
    garbage: bytes to send before anything else
    drift_ppm: how much too fast the device's clock runs
    once: finish with the segments, rather than start over
    lossless: wait for a slow reader rather than drop frames, for replays faster than the reader
    seed: decides which frames suffer
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
        cut: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        noise: float = 0.0,
        garbage: bytes = b"",
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
        super().__init__(link)
        playback = Playback(segments, sample_rate_hz)
        info = _info(playback, sample_rate_hz, uv_per_count, sample_format, n_samples, serial_number)
        self._device = SimulatedDevice(info, playback, clock_speed=speed * (1 + drift_ppm * 1e-6), repeat=not once)
        chances = {"loss": loss, "corrupt": corrupt, "cut": cut, "duplicate": duplicate, "reorder": reorder}
        chances |= {"noise": noise} if noise else {}  # so that the others are drawn as without it
        self._faults = Faults(chances, seed)
        self._held: Data | None = None  # to be sent after its successor
        self._garbage = garbage
        self._once = once
        self._lossless = lossless
        self._decoder = FrameDecoder()
        self._rebooting = threading.Event()
        self._unplug_s: float | None = None  # how long to be away, when asked to leave
        self._stall_s = 0.0  # how long to send nothing, when asked to
        self._progress_s = 0.0
        self._unread_bytes = 0

    def reboot(self) -> None:
        """Do what a band does whose battery slipped: forget the stream, draw a new boot_id, say INFO."""
        self._rebooting.set()

    def unplug(self, seconds: float) -> None:
        """Hang up for a while and come back on another pty, with power all the time: the stream goes on."""
        self._unplug_s = seconds

    def stall(self, seconds: float) -> None:
        """Send nothing for a while, as a device whose radio is busy; what fell due goes out after it, or is dropped."""
        self._stall_s = seconds

    def _run(self, port: PtyPort) -> None:
        port.put(self._garbage + DELIMITER + encode_frame(self._device.info))
        while not self._stopping.is_set() and not self._finished(port):
            if self._unplug_s is not None:
                port, self._unplug_s = self._replugged(port, self._unplug_s), None
            self._serve(port)

    def _replugged(self, port: PtyPort, seconds: float) -> PtyPort:
        """Leave a port for some seconds and take another."""
        other = PtyPort()  # while the old one is still there, so that it is another node
        port.close()
        end_s = time.monotonic() + seconds
        while (now_s := time.monotonic()) < end_s and not self._stopping.is_set():
            while self._device.wait_s(now_s) <= 0:
                frame = self._device.next_frame(now_s)
                if isinstance(frame, Data):
                    self._made(frame.n_samples)
                    self._lost("unplugged", frame.n_samples)
            time.sleep(min(_IDLE_S, end_s - now_s))
        if self._link is not None:
            other.link_to(self._link)
        self._pty = other
        return other

    def _serve(self, port: PtyPort) -> None:
        """One round: commands in, answers and what is due out."""
        if self._stall_s:
            self._stopping.wait(self._stall_s)
            self._stall_s = 0.0
        received = port.read(self._sleep_s(port))
        now_s = time.monotonic()
        if self._rebooting.is_set():
            self._rebooting.clear()
            self._held = None
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
                if self._held is not None:  # nothing overtook it
                    port.put(encode_frame(self._held))
                    self._held = None
                port.put(encode_frame(frame))
                self._progress_s = now_s
                return
            self._send(port, frame)

    def _send(self, port: PtyPort, frame: Data) -> None:
        self._made(frame.n_samples)
        if not frame.sample_index:
            self._held = None  # of an earlier stream
        fault = self._faults.draw()
        wire = encode_frame(frame)
        if "noise" in fault and port.ready():
            port.put(self._faults.noise() + _NO_BATTERY)
            self._tally["noisy"] += 1
        if "loss" in fault:
            self._lost("injected_losses", frame.n_samples)
        elif "reorder" in fault and self._held is None:
            self._held = frame
            return
        elif not port.offer(self._faults.damage(wire, fault)):
            self._device.note_overrun()
            self._lost("overruns", frame.n_samples)
        elif "cut" in fault:
            self._lost("cut", frame.n_samples)
        elif "corrupt" in fault:
            self._lost("corrupted", frame.n_samples)
        elif self._held is not None:
            self._send_held(port, self._held)
        elif "duplicate" in fault:
            port.put(wire)
            self._tally["duplicated"] += 1

    def _send_held(self, port: PtyPort, frame: Data) -> None:
        """Its successor went out: now it comes too late."""
        self._held = None
        self._lost("reordered", frame.n_samples)
        port.put(encode_frame(frame))

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


def _info(
    playback: Playback,
    sample_rate_hz: float,
    uv_per_count: float,
    sample_format: SampleFormat,
    n_samples: int,
    serial_number: str,
) -> Info:
    return Info(
        seq=0,
        boot_id=secrets.randbits(32),  # another one in every run, whatever the seed
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
