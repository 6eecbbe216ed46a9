"""A simulated arm for tests of teaching: muscles, electrodes over them, and gestures made on request.

It does not use the project's simulators. Each gesture drives some muscles, each muscle is band-limited noise, and each
electrode picks up all of them, the near ones most.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from cpep_edge.blocks import Block, StreamInfo
from cpep_edge.manifest import Manifest
from cpep_edge.personal import Repetition, design_reading
from cpep_edge.session import SessionMeta, write_session
from cpep_edge.taught import fit_taught, write_taught
from tests.cpep_edge.fake_stream import ListSource

Unit = Literal["uV", "count"]
N_MUSCLES = 6
NOISE_UV = 4.0


class Arm:
    """One wearer with one band."""

    def __init__(self, seed: int = 0, n_channels: int = 6, rate_hz: float = 500.0, scale: float = 1.0) -> None:
        """scale: multiplies every sample; a value other than 1 simulates a band that sends counts"""
        self.rate_hz, self.n_channels, self.scale = rate_hz, n_channels, scale
        self._rng = np.random.default_rng(seed)
        place = np.arange(n_channels)[:, None] / n_channels - np.arange(N_MUSCLES)[None] / N_MUSCLES
        apart = np.abs((place + 0.5) % 1 - 0.5)
        self.mixing = np.exp(-8 * apart) * self._rng.uniform(0.7, 1.3, (n_channels, N_MUSCLES))
        high_hz = min(200.0, 0.4 * rate_hz)
        self._sos = signal.butter(2, (30.0, high_hz), "bandpass", fs=rate_hz, output="sos")
        self.drives: dict[str, NDArray[np.float64]] = {"Rest": np.zeros(N_MUSCLES)}

    def drive(self, gesture: str) -> NDArray[np.float64]:
        """The drive of each muscle, (N_MUSCLES,). A new gesture gets two muscles that are stronger than the rest."""
        if gesture not in self.drives:
            number = len(self.drives) - 1
            drive = np.full(N_MUSCLES, 2.0)
            drive[[number % N_MUSCLES, (number + 1 + number // N_MUSCLES) % N_MUSCLES]] = 60.0, 35.0
            self.drives[gesture] = drive
        return self.drives[gesture]

    def make(self, gesture: str, seconds: float, *, turned: int = 0) -> NDArray[np.float32]:
        """EMG of a gesture that is held for some seconds, slightly different each time, (n, C)."""
        n = round(seconds * self.rate_hz)
        drive = self.drive(gesture) * self._rng.uniform(0.85, 1.15, N_MUSCLES)
        fibres = signal.sosfilt(self._sos, self._rng.normal(size=(n + 100, N_MUSCLES)), axis=0)[100:]
        heard = (fibres * drive) @ self.mixing.T + self._rng.normal(0, NOISE_UV, (n, self.n_channels))
        return (self.scale * np.roll(heard, turned, axis=1)).astype(np.float32)

    def repetitions(self, gestures: list[str], n: int, seconds: float = 2.0, wearing: int = 0) -> list[Repetition]:
        """n repetitions of each gesture and of rest."""
        named = [(name, number) for number in range(1, n + 1) for name in ("Rest", *gestures)]
        return [Repetition(name, number, self.make(name, seconds), wearing) for name, number in named]

    def teach(self, path: Path, gestures: Sequence[str], unit: Unit = "uV") -> Manifest:
        """Write a bundle that was taught these gestures, by three repetitions of each."""
        repetitions = self.repetitions(list(gestures), 3)
        fitted = fit_taught(repetitions, "Rest", design_reading(self.n_channels, self.rate_hz), unit)
        return write_taught(path, fitted, repetitions, "a test")

    def session(self, folder: Path, gesture: str, turned: int = 0) -> Path:
        """Write a recording of four seconds of a gesture."""
        samples, file = self.make(gesture, 4, turned=turned), folder / f"{gesture}.hdf5"
        meta = SessionMeta("s", "u", gesture, "right", 0.0, 4.0, self.n_channels, self.rate_hz, gesture)
        write_session(file, meta, np.arange(len(samples)) / self.rate_hz, samples)
        return file

    def sends(self, samples: NDArray[np.float32]) -> ListSource:
        """A band on this arm that sends these samples and then ends."""
        return ListSource(blocks(samples, self.rate_hz), info=self.info())

    def info(self, unit: Unit = "uV") -> StreamInfo:
        return StreamInfo("arm", self.n_channels, self.rate_hz, unit=unit)


def blocks(samples: NDArray[np.float32], rate_hz: float, size: int = 25, first: int = 0) -> list[Block]:
    """A signal in blocks, as a band sends it."""
    starts = range(0, len(samples), size)
    return [Block(samples[s : s + size], first + s, (first + s) / rate_hz, host_t_s=0.0) for s in starts]
