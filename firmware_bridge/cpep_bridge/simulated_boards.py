"""Boards of other makers, simulated on a pty: they answer the commands and send the bytes that the real ones do.

What was really sent is in `sent`, to be compared with what a host noticed. POSIX only.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cpep_bridge import chords, cyton
from cpep_bridge.devices import find_driver
from cpep_bridge.fixed_frames import FrameLayout, pack_frame, value_limits
from cpep_bridge.playback import Playback, Segment
from cpep_bridge.profile import Profile, find_profile
from cpep_bridge.pty_port import PtyPort
from cpep_bridge.resampling import Resampler
from cpep_bridge.simulator import Faults, SentCounts, SimulatedBand
from cpep_bridge.text_lines import LineLayout, pack_line
from cpep_edge.errors import DataError
from cpep_edge.session import Session

_IDLE_S = 0.02
_BURST_SAMPLES = 256  # sent before commands are looked at again
_UNREAD_WAIT_S = 10.0
_LEAVE_WAIT_S = 0.3
_MIDDLE_COUNTS = 2048  # of a 12-bit converter whose counts have no sign


class Personality(Protocol):
    """What one kind of board says and sends."""

    n_channels: int
    sample_rate_hz: float
    n_samples: int  # in a frame

    def answer(self, heard: bytes) -> tuple[bytes, bool | None]:
        """The reply to what the host sent, and whether the board streams from now on; None leaves it as it is."""
        ...

    def counts(self, emg_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """Microvolts as whole counts of the converter."""
        ...

    def frame(self, number: int, counts: NDArray[np.float32]) -> bytes:
        """Frame `number` since the start, of (n_samples, n_channels)."""
        ...


class SimulatedCyton:
    """A Cyton, with a Daisy on it or not. A frame with a Daisy is two on the wire: one sample of 16 channels."""

    def __init__(self, daisy: bool = False) -> None:
        self._has_daisy = self._uses_daisy = daisy
        self.n_channels = cyton.N_CHANNELS * (2 if daisy else 1)
        self.sample_rate_hz = cyton.RATE_HZ / (2 if daisy else 1)
        self.n_samples = 1

    def answer(self, heard: bytes) -> tuple[bytes, bool | None]:
        """See Personality."""
        reply, streams = b"", None
        for letter in (heard[index : index + 1] for index in range(len(heard))):
            said, change = self._answer(letter)
            reply += said
            streams = streams if change is None else change
        return reply, streams

    def counts(self, emg_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """See Personality."""
        limit = 2**23 - 1
        counts: NDArray[np.float32] = np.clip(np.rint(emg_uv / np.float32(cyton.UV_PER_COUNT)), -limit, limit)
        return counts

    def frame(self, number: int, counts: NDArray[np.float32]) -> bytes:
        """See Personality. The counter starts at 0; with a Daisy, its frame goes first."""
        if not self._has_daisy:
            return pack_frame(cyton.LAYOUT, number, counts)
        board, daisy = counts[:, : cyton.N_CHANNELS], counts[:, cyton.N_CHANNELS :]
        return pack_frame(cyton.LAYOUT, 2 * number, daisy) + pack_frame(cyton.LAYOUT, 2 * number + 1, board)

    def _answer(self, letter: bytes) -> tuple[bytes, bool | None]:
        match letter:
            case cyton.RESET:
                on_daisy = "On Daisy ADS1299 Device ID: 0x3E\n" if self._has_daisy else ""
                said = f"OpenBCI V3 8-16 channel\nOn Board ADS1299 Device ID: 0x3E\n{on_daisy}Firmware: v3.1.2\n"
                return said.encode() + cyton.ANSWER_END, False
            case cyton.DEFAULTS:
                return b"updating channel settings to default" + cyton.ANSWER_END, None
            case cyton.WITH_DAISY:
                return (b"16" if self._has_daisy else b"no daisy to attach!8") + cyton.ANSWER_END, None
            case cyton.ONLY_BOARD:
                return b"daisy removed" + cyton.ANSWER_END, None
            case cyton.START:
                return b"", True
            case cyton.STOP:
                return b"", False
        return b"", None


class SimulatedChords:
    """A board with the Chords firmware."""

    def __init__(self, name: str = "NPG-LITE") -> None:
        board = chords.BOARDS[name]
        self._name = name
        self._layout = chords.chords_layout(board.n_channels)
        self._heard = b""
        self.n_channels = board.n_channels
        self.sample_rate_hz = board.sample_rate_hz
        self.n_samples = 1

    def answer(self, heard: bytes) -> tuple[bytes, bool | None]:
        """See Personality."""
        *lines, self._heard = (self._heard + heard).split(chords.LINE_END)
        reply, streams = b"", None
        for line in (line + chords.LINE_END for line in lines):
            if line == chords.WHO:
                reply += self._name.encode() + b"\r\n"
            elif line in (chords.START, chords.STOP):
                streams = line == chords.START
        return reply, streams

    def counts(self, emg_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """See Personality; a count stands for a microvolt here."""
        counts: NDArray[np.float32] = np.clip(np.rint(emg_uv) + _MIDDLE_COUNTS, 0, 2 * _MIDDLE_COUNTS - 1)
        return counts

    def frame(self, number: int, counts: NDArray[np.float32]) -> bytes:
        """See Personality."""
        return pack_frame(self._layout, number, counts)


class SimulatedProfile:
    """A board as a profile describes it. One without commands streams from the start."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._layout = profile.layout
        self.n_channels = profile.n_channels
        self.sample_rate_hz = profile.sample_rate_hz
        self.n_samples = 1 if profile.frame is None else profile.frame.n_samples

    def answer(self, heard: bytes) -> tuple[bytes, bool | None]:
        """See Personality."""
        commands = self._profile.commands
        reply = commands.answer.encode() if commands.greeting and commands.greeting.encode() in heard else b""
        if not commands.start:
            return reply, True
        starts, stops = heard.rfind(commands.start.encode()), heard.rfind(commands.stop.encode() or b"\0")
        return reply, None if starts == stops else starts > stops

    def counts(self, emg_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """See Personality; where the profile has no scale, a count stands for a microvolt."""
        counts: NDArray[np.float32] = np.rint(emg_uv / np.float32(self._profile.uv_per_count or 1))
        if isinstance(self._layout, LineLayout):
            return counts
        least, greatest = value_limits(self._layout.sample_type)
        if least == 0:
            counts += _MIDDLE_COUNTS
        clipped: NDArray[np.float32] = np.clip(counts, np.float32(least), np.float32(greatest))
        return clipped

    def frame(self, number: int, counts: NDArray[np.float32]) -> bytes:
        """See Personality."""
        layout = self._layout
        return (
            pack_frame(layout, number, counts) if isinstance(layout, FrameLayout) else pack_line(layout, number, counts)
        )


class SimulatedBoard:
    """A board that plays `segments`; `with` runs it in a thread of its own, and `port` is where a host finds it.

    segments: as its personality's channels and rate are, microvolts
    link, speed, drift_ppm, once: as of SimulatedBand
    loss, corrupt, duplicate: chance of each frame to be left out, to have a bit flipped, to be sent twice; a flipped
        bit goes unnoticed where it meets a sample, for such frames have no CRC
    lossless: wait for a slow reader
    """

    def __init__(
        self,
        personality: Personality,
        segments: Sequence[Segment],
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
    ) -> None:
        if not 0 < speed < float("inf"):
            raise ValueError(f"speed must be a positive number, not {speed}")
        self._personality = personality
        self._playback = Playback(segments, personality.sample_rate_hz)
        if self._playback.n_channels != personality.n_channels:
            raise ValueError(f"the board has {personality.n_channels} channels, segments {self._playback.n_channels}")
        self._frame_s = personality.n_samples / personality.sample_rate_hz / (speed * (1 + drift_ppm * 1e-6))
        self._faults = Faults({"loss": loss, "corrupt": corrupt, "duplicate": duplicate}, seed)
        self._link, self._once, self._lossless = link, once, lossless
        self._tally = {field.name: 0 for field in fields(SentCounts)}
        self._frames: Iterator[NDArray[np.float32]] | None = None  # of the stream, None while idle
        self._number = 0
        self._start_s = 0.0
        self._played_out = False
        self._pty: PtyPort | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._error: BaseException | None = None

    def __enter__(self) -> "SimulatedBoard":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def port(self) -> str:
        """Path of the pty. Raises ValueError before start()."""
        if self._pty is None:
            raise ValueError("the simulated board was not started")
        return self._pty.path

    @property
    def sent(self) -> SentCounts:
        """What was done so far."""
        return SentCounts(**self._tally)

    def start(self) -> None:
        """Open the pty, make the link, and run. Raises LinkError when the link cannot be made."""
        self._pty = PtyPort(self._link)
        self._thread = threading.Thread(target=self._run, args=(self._pty,), name="simulated-board", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End at once and hang up. Raises what went wrong meanwhile."""
        self._stopping.set()
        self.wait()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until a board that plays once has finished; whether it has. Raises what went wrong meanwhile."""
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return not self._thread.is_alive()

    def _run(self, port: PtyPort) -> None:
        try:
            self._obey(self._personality.answer(b"")[1])
            while not self._stopping.is_set() and not self._played_out:
                reply, streams = self._personality.answer(port.read(self._sleep_s(port)))
                self._obey(streams)
                port.put(reply)
                self._send_due(port)
            self._linger(port)
        except BaseException as error:  # handed over to whoever waits
            self._error = error
        finally:
            port.close()

    def _obey(self, streams: bool | None) -> None:
        if streams and self._frames is None:
            self._frames, self._number, self._start_s = self._counts(), 0, time.monotonic()
        elif streams is False:
            self._frames = None

    def _counts(self) -> Iterator[NDArray[np.float32]]:
        """The signal, frame by frame; what does not fill the last one is left out."""
        size = self._personality.n_samples
        rest = np.empty((0, self._personality.n_channels), np.float32)
        for emg_uv in self._playback.chunks(repeat=not self._once):
            counts = np.concatenate([rest, self._personality.counts(emg_uv)])
            whole = len(counts) // size * size
            yield from counts[:whole].reshape(-1, size, counts.shape[1])
            rest = counts[whole:]

    def _sleep_s(self, port: PtyPort) -> float:
        if self._frames is None or (self._lossless and not port.ready()):
            return _IDLE_S
        due_s = self._start_s + (self._number + 1) * self._frame_s
        return min(max(due_s - time.monotonic(), 0.0), _IDLE_S)

    def _send_due(self, port: PtyPort) -> None:
        now_s = time.monotonic()
        for _ in range(_BURST_SAMPLES):
            due_s = self._start_s + (self._number + 1) * self._frame_s
            if self._frames is None or due_s > now_s or (self._lossless and not port.ready()):
                return
            counts = next(self._frames, None)
            if counts is None:
                self._frames, self._played_out = None, True
                return
            self._send(port, self._personality.frame(self._number, counts), len(counts))
            self._number += 1

    def _send(self, port: PtyPort, wire: bytes, n_samples: int) -> None:
        self._tally["frames"] += 1
        self._tally["samples"] += n_samples
        fault = self._faults.draw()
        if "loss" in fault:
            self._lose("injected_losses", n_samples)
        elif not port.offer(self._faults.damage(wire, fault)):
            self._lose("overruns", n_samples)
        elif "corrupt" in fault:
            self._tally["corrupted"] += 1
        elif "duplicate" in fault:
            port.put(wire)
            self._tally["duplicated"] += 1

    def _lose(self, how: str, n_samples: int) -> None:
        self._tally[how] += 1
        self._tally["lost_samples"] += n_samples

    def _linger(self, port: PtyPort) -> None:
        """Let the host read the rest before hanging up."""
        deadline_s = time.monotonic() + _UNREAD_WAIT_S
        while not self._stopping.is_set() and time.monotonic() < deadline_s and port.unread_bytes():
            port.read(_IDLE_S)
        self._stopping.wait(_LEAVE_WAIT_S if self._played_out else 0.0)


PERSONALITIES: dict[str, Callable[[], Personality]] = {
    "cyton": SimulatedCyton,
    "cyton-daisy": lambda: SimulatedCyton(daisy=True),
    "chords": SimulatedChords,
}


def simulate_device(
    device: str,
    sessions: Sequence[Session],
    *,
    link: Path | None = None,
    speed: float = 1.0,
    loss: float = 0.0,
    corrupt: float = 0.0,
    drift_ppm: float = 0.0,
    once: bool = False,
    seed: int = 0,
) -> SimulatedBand | SimulatedBoard:
    """The device that `--device` names, playing sessions; a board plays its first channels, at its own rate.

    Raises ConfigError for an unknown device, DataError when a session has fewer channels than the board.
    """
    if device == "cpep":
        rate_hz = sessions[0].meta.sample_rate
        return SimulatedBand(
            sessions,
            rate_hz,
            link=link,
            speed=speed,
            loss=loss,
            corrupt=corrupt,
            drift_ppm=drift_ppm,
            once=once,
            seed=seed,
        )
    find_driver(device)  # or say what there is
    profile = find_profile(device)
    personality = PERSONALITIES[device]() if profile is None else SimulatedProfile(profile)
    return SimulatedBoard(
        personality,
        [_fitted(session, personality) for session in sessions],
        link=link,
        speed=speed,
        loss=loss,
        corrupt=corrupt,
        drift_ppm=drift_ppm,
        once=once,
        seed=seed,
    )


def _fitted(session: Session, personality: Personality) -> NDArray[np.float32]:
    meta, n_channels = session.meta, personality.n_channels
    if meta.num_channels < n_channels:
        raise DataError(f"{session.path}: has {meta.num_channels} channels, but the board to simulate has {n_channels}")
    return Resampler(meta.sample_rate, personality.sample_rate_hz, n_channels)(session.emg()[:, :n_channels])
