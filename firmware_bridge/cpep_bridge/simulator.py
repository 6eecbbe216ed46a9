"""A simulated wristband on a pty: it speaks the wire protocol and plays EMG at the pace of a real one.

It streams after START and never waits for a slow reader: like a band, it drops frames and counts them. It can lose,
damage, repeat and reorder frames at random, run its clock fast, stall, restart, or be unplugged and plugged in again.
`sent` counts what it really did, so that a test can compare that with what the host noticed. POSIX only.
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

_IDLE_S = 0.02  # longest sleep of the loop, so that stop() takes effect soon
_BURST_FRAMES = 64  # most frames sent before the next look for commands
_END_WAIT_S = 1.0  # how long to wait for STOP once the reader has read everything
_UNREAD_WAIT_S = 10.0  # how long to wait for a reader that stopped reading
_LEAVE_WAIT_S = 0.3  # how long to wait for the last answer to be read before hanging up
_NO_BATTERY = encode_frame(Telemetry(0, 0, 0, 0, 0, float("nan"), 0, 0))


class SimulatedBand(SimulatedThread):
    """A wristband that plays `segments`. `with` runs it in its own thread; a host opens it at the path `port`.

    segments: arrays (n_samples, n_channels) float32 in microvolts, or open sessions; played back to back
    link: path of a symbolic link to the pty, which exists while the band runs
    speed: how many times faster than real time
    loss, corrupt, cut, duplicate, reorder, noise: probability for each frame to be left out, to have a bit flipped, to
        lose some of its bytes, to be sent twice, to be sent after its successor, or to follow random bytes and a
        TELEMETRY frame with NaN
    garbage: bytes to send before anything else
    drift_ppm: how much too fast the device's clock runs
    once: stop after the last segment rather than start over
    lossless: wait for a slow reader rather than drop frames, for replays faster than the reader
    seed: of the random choice of faulty frames
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
        chances |= {"noise": noise} if noise else {}  # without noise, the draws of the other faults stay the same
        self._faults = Faults(chances, seed)
        self._held: Data | None = None  # a frame that waits to be sent after its successor
        self._garbage = garbage
        self._once = once
        self._lossless = lossless
        self._decoder = FrameDecoder()
        self._rebooting = threading.Event()
        self._unplug_s: float | None = None  # how long to stay unplugged; None: stay plugged in
        self._stall_s = 0.0  # how long to send nothing
        self._progress_s = 0.0
        self._unread_bytes = 0

    def reboot(self) -> None:
        """Restart like a band that lost power for a moment: forget the stream, draw a new boot_id, send INFO."""
        self._rebooting.set()

    def unplug(self, seconds: float) -> None:
        """Hang up for some seconds and come back on another pty. The band keeps its power, so its stream goes on."""
        self._unplug_s = seconds

    def stall(self, seconds: float) -> None:
        """Send nothing for some seconds, like a device with a busy radio; then send or drop the frames that are due."""
        self._stall_s = seconds

    def _run(self, port: PtyPort) -> None:
        port.put(self._garbage + DELIMITER + encode_frame(self._device.info))
        while not self._stopping.is_set() and not self._finished(port):
            if self._unplug_s is not None:
                port, self._unplug_s = self._replugged(port, self._unplug_s), None
            self._serve(port)

    def _replugged(self, port: PtyPort, seconds: float) -> PtyPort:
        """Close a port, stay away for some seconds and return the new port."""
        other = PtyPort()  # opened while the old one still exists, so that its path differs
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
        """One round of the loop: read commands, then send answers and the frames that are due."""
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
            return _IDLE_S  # the read returns earlier when the line has room
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
                if self._held is not None:  # no later frame was sent before it, so it is still in order
                    port.put(encode_frame(self._held))
                    self._held = None
                port.put(encode_frame(frame))
                self._progress_s = now_s
                return
            self._send(port, frame)

    def _send(self, port: PtyPort, frame: Data) -> None:
        self._made(frame.n_samples)
        if not frame.sample_index:
            self._held = None  # it belongs to the previous stream
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
        """Send the held frame after its successor; the host has given it up by now."""
        self._held = None
        self._lost("reordered", frame.n_samples)
        port.put(encode_frame(frame))

    def _finished(self, port: PtyPort) -> bool:
        """Whether a band with `once` may hang up: the host has read everything, or has stopped reading."""
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
        boot_id=secrets.randbits(32),  # different in every run, whatever the seed
        uv_per_count=struct.unpack("<f", struct.pack("<f", uv_per_count))[0],  # rounded to f32, as the host reads it
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
