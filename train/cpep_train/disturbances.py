"""Faults that a band can develop after calibration, applied to raw EMG: turns, dead electrodes, drift, noise, loss.

A disturbance takes the samples of one recording and returns them disturbed, and marks those on which the live policy
would not decide. Its random generator is seeded by the recording, so all strengths use the same random draws.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_edge.blocks import FRAME_SAMPLES, INTERPOLATED_GAP_S


@dataclass(frozen=True, slots=True)
class Disturbed:
    """One recording after a disturbance."""

    emg_uv: NDArray[np.float32]  # (n_samples, n_channels)
    undecided: NDArray[np.bool_] | None = None  # (n_samples,), inside a loss too long to be filled; None: nowhere


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a disturbance may need to know about the recording."""

    sample_rate_hz: float
    level_uv: float  # typical RMS of filtered EMG in the corpus
    rng: np.random.Generator


Disturbance = Callable[[NDArray[np.float32], float, Circumstances], Disturbed]


def turn(emg_uv: NDArray[np.float32], electrodes: float, given: Circumstances) -> Disturbed:
    """Turn a ring of electrodes by any number of places, band-limited in between; whole turns only move channels.

    emg_uv: (n_samples, n_channels)
    """
    n = emg_uv.shape[1]
    if float(electrodes).is_integer():
        return Disturbed(np.roll(emg_uv, int(electrodes), axis=1))
    spectrum = np.fft.rfft(emg_uv, axis=1)
    shift = np.exp(-2j * np.pi * np.arange(spectrum.shape[1]) * electrodes / n)
    return Disturbed(np.fft.irfft(spectrum * shift, n=n, axis=1).astype(np.float32))


def kill_electrodes(emg_uv: NDArray[np.float32], n_dead: float, given: Circumstances) -> Disturbed:
    """Silence some electrodes, drawn at random."""
    dead = given.rng.permutation(emg_uv.shape[1])[: int(n_dead)]
    out = emg_uv.copy()
    out[:, dead] = 0
    return Disturbed(out)


def drift_gains(emg_uv: NDArray[np.float32], sd_db: float, given: Circumstances) -> Disturbed:
    """Change each electrode's gain at random, as sweat and pressure do after calibration."""
    gain_db = sd_db * given.rng.standard_normal(emg_uv.shape[1])
    return Disturbed((emg_uv * 10 ** (gain_db / 20)).astype(np.float32))


def add_noise(emg_uv: NDArray[np.float32], signal_to_noise_db: float, given: Circumstances) -> Disturbed:
    """Add white noise at this many decibels below the typical level of filtered EMG."""
    sd_uv = given.level_uv * 10 ** (-signal_to_noise_db / 20)
    return Disturbed((emg_uv + sd_uv * given.rng.standard_normal(emg_uv.shape)).astype(np.float32))


def lose_frames(emg_uv: NDArray[np.float32], share: float, given: Circumstances) -> Disturbed:
    """Lose frames at random; interpolate all losses and mark long ones as undecided, as live does."""
    n_samples = len(emg_uv)
    drawn = given.rng.random(-(-n_samples // FRAME_SAMPLES))
    drawn[0] = drawn[-1] = 1  # a recording starts and ends with received samples
    lost = np.repeat(drawn < share, FRAME_SAMPLES)[:n_samples]
    received = np.flatnonzero(~lost)
    at = np.arange(n_samples)
    filled = np.column_stack([np.interp(at, received, channel[received]) for channel in emg_uv.T])
    edges = np.flatnonzero(np.diff(lost.astype(np.int8), prepend=0, append=0))
    long = np.zeros(len(lost), bool)
    for start, stop in edges.reshape(-1, 2):
        long[start:stop] = stop - start > INTERPOLATED_GAP_S * given.sample_rate_hz
    return Disturbed(filled.astype(np.float32), long)


def jitter_clock(emg_uv: NDArray[np.float32], share: float, given: Circumstances) -> Disturbed:
    """Shift each sample in time at random, share being the sd in sample periods, by linear interpolation."""
    n_samples = len(emg_uv)
    at = np.clip(np.arange(n_samples) + share * given.rng.standard_normal(n_samples), 0, n_samples - 1)
    moved = np.column_stack([np.interp(at, np.arange(n_samples), channel) for channel in emg_uv.T])
    return Disturbed(moved.astype(np.float32))
