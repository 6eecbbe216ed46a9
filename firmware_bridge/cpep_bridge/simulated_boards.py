"""Boards of other makers, simulated on a pty: they answer commands and send bytes as the real ones do.

`sent` counts what was really sent, to compare a host's counts with. POSIX only.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.board_models import BOARD_MODELS, BoardModel, SimulatedProfile
from cpep_bridge.board_profile import find_profile
from cpep_bridge.devices import find_driver
from cpep_bridge.firmware import FirmwareBand
from cpep_bridge.playback import Playback, Segment
from cpep_bridge.pty_port import PtyPort
from cpep_bridge.resampling import Resampler
from cpep_bridge.simulated import Faults, Simulated, SimulatedThread
from cpep_bridge.simulator import SimulatedBand
from cpep_edge.bundle import Bundle
from cpep_edge.errors import ConfigError, DataError
from cpep_edge.session import Session

_IDLE_S = 0.02
_BURST_SAMPLES = 256  # most frames sent before the next look for commands
_UNREAD_WAIT_S = 10.0
_LEAVE_WAIT_S = 0.3
_RESET_S = 0.3


class SimulatedBoard(SimulatedThread):
    """A board that plays `segments`. `with` runs it in its own thread; a host opens it at the path `port`.

    segments: microvolts, with the channels and the rate of the model
    link, speed, drift_ppm, once: as in SimulatedBand
    loss, corrupt, duplicate: probability for each frame to be left out, to have a bit flipped, to be sent twice; the
        frames have no CRC, so a flipped bit in a sample goes unnoticed
    lossless: wait for a slow reader rather than drop frames
    """

    def __init__(
        self,
        model: BoardModel,
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
        super().__init__(link)
        self._model = model
        self._playback = Playback(segments, model.sample_rate_hz)
        if self._playback.n_channels != model.n_channels:
            raise ValueError(f"the board has {model.n_channels} channels, segments {self._playback.n_channels}")
        self._frame_s = model.n_samples / model.sample_rate_hz / (speed * (1 + drift_ppm * 1e-6))
        self._faults = Faults({"loss": loss, "corrupt": corrupt, "duplicate": duplicate}, seed)
        self._once, self._lossless = once, lossless
        self._frames: Iterator[NDArray[np.float32]] | None = None  # counts of the coming frames; None: no stream
        self._number = 0
        self._start_s = 0.0
        self._played_out = False
        self._resetting = threading.Event()

    def reset(self) -> None:
        """Act as if the reset button was pressed: pause, then count frames from 0 again. The line stays open."""
        self._resetting.set()

    def _run(self, port: PtyPort) -> None:
        self._obey(self._model.answer(b"")[1])
        while not self._stopping.is_set() and not self._played_out:
            reply, streams = self._model.answer(port.read(self._sleep_s(port)))
            self._obey(streams)
            if self._resetting.is_set() and self._frames is not None:
                self._resetting.clear()
                self._stopping.wait(_RESET_S)
                self._frames, self._number, self._start_s = self._counts(), 0, time.monotonic()
            port.put(reply)
            self._send_due(port)
        deadline_s = time.monotonic() + _UNREAD_WAIT_S  # gives the host time to read the rest
        while not self._stopping.is_set() and time.monotonic() < deadline_s and port.unread_bytes():
            port.read(_IDLE_S)
        self._stopping.wait(_LEAVE_WAIT_S if self._played_out else 0.0)

    def _obey(self, streams: bool | None) -> None:
        if streams and self._frames is None:
            self._frames, self._number, self._start_s = self._counts(), 0, time.monotonic()
        elif streams is False:
            self._frames = None

    def _counts(self) -> Iterator[NDArray[np.float32]]:
        """The signal in counts, frame by frame; an incomplete last frame is left out."""
        size = self._model.n_samples
        rest = np.empty((0, self._model.n_channels), np.float32)
        for emg_uv in self._playback.chunks(repeat=not self._once):
            counts = np.concatenate([rest, self._model.counts(emg_uv)])
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
            self._send(port, self._model.frame(self._number, counts), len(counts))
            self._number += 1

    def _send(self, port: PtyPort, wire: bytes, n_samples: int) -> None:
        self._made(n_samples)
        fault = self._faults.draw()
        if "loss" in fault:
            self._lost("injected_losses", n_samples)
        elif not port.offer(self._faults.damage(wire, fault)):
            self._lost("overruns", n_samples)
        elif "corrupt" in fault:
            self._tally["corrupted"] += 1
        elif "duplicate" in fault:
            port.put(wire)
            self._tally["duplicated"] += 1


class Playing(TypedDict, total=False):
    """Options of all simulated devices; SimulatedBand explains them."""

    link: Path | None
    speed: float
    loss: float
    corrupt: float
    drift_ppm: float
    once: bool
    seed: int


def simulate_device(
    device: str,
    sessions: Sequence[Session],
    *,
    firmware: bool = False,
    model: Bundle | None = None,
    **playing: Unpack[Playing],
) -> Simulated:
    """Simulate the device that `--device` names, playing sessions.

    A board plays as many of the first channels as it has, at its own rate.

    firmware: run the band's own firmware, built for this machine, in place of SimulatedBand
    model: a bundle for Cortex-M, with which that firmware recognises gestures by itself
    Raises ConfigError for an unknown device or, with `firmware`, one that is not the cpep band; DataError when a
    session has fewer channels than the board.
    """
    if device == "cpep":
        rate_hz = sessions[0].meta.sample_rate
        if firmware:
            return FirmwareBand(sessions, rate_hz, model=model, **playing)
        return SimulatedBand(sessions, rate_hz, **playing)
    find_driver(device)  # raises ConfigError with the choices when the device is unknown
    if firmware:
        raise ConfigError(f"a {device} does not run the band's firmware: leave out --firmware, or use --device cpep")
    profile = find_profile(device)
    board = BOARD_MODELS[device]() if profile is None else SimulatedProfile(profile)
    return SimulatedBoard(board, [_fitted(session, board) for session in sessions], **playing)


def _fitted(session: Session, model: BoardModel) -> NDArray[np.float32]:
    meta, n_channels = session.meta, model.n_channels
    if meta.num_channels < n_channels:
        raise DataError(f"{session.path}: has {meta.num_channels} channels, but the board to simulate has {n_channels}")
    return Resampler(meta.sample_rate, model.sample_rate_hz, n_channels)(session.emg()[:, :n_channels])
