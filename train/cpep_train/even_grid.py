"""Resample recordings with uneven time stamps onto an even grid."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The longest step between two time stamps that counts as jitter; the longer of the two applies.
LONGEST_GAP_S, LONGEST_GAP_PERIODS = 0.1, 3

Floats = NDArray[np.floating[Any]]


def evened(
    time_s: NDArray[np.float64], values: Floats, rate_hz: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interpolate samples with jittering time stamps linearly onto an even grid; longer gaps stay gaps.

    time_s: (n,), not falling; equal stamps, as when packets arrive in bursts, are spread out first
    values: (n, columns)
    returns: time (m,) and values (m, columns)
    """
    longest_gap_s = max(LONGEST_GAP_S, LONGEST_GAP_PERIODS / rate_hz)
    time_s, first = _spread_bursts(time_s, rate_hz), 0
    cuts = [*(np.flatnonzero(np.diff(time_s) > longest_gap_s) + 1).tolist(), len(time_s)]
    times, parts = [], []
    for stop in cuts:
        piece = time_s[first:stop]
        start = np.ceil((piece[0] - time_s[0]) * rate_hz - 0.25)
        grid = time_s[0] + np.arange(start, np.floor((piece[-1] - time_s[0]) * rate_hz + 0.25) + 1) / rate_hz
        if len(grid):
            times.append(grid)
            parts.append(np.column_stack([np.interp(grid, piece, column) for column in values[first:stop].T]))
        first = stop
    return np.concatenate(times), np.concatenate(parts)


def usual_rate(time_s: NDArray[np.float64]) -> float | None:
    """Samples per second, from time stamps that may jitter, repeat or have gaps; None when they do not rise.

    time_s: (n,), not falling
    """
    step_s = np.diff(time_s)
    if not (step_s > 0).any():
        return None
    moving = step_s[step_s <= 10 * np.median(step_s[step_s > 0])]  # without gaps
    rate_hz = len(moving) / float(moving.sum())
    near = round(rate_hz)
    return float(near) if near and abs(rate_hz / near - 1) < 0.005 else round(rate_hz, 3)


def _spread_bursts(time_s: NDArray[np.float64], rate_hz: float) -> NDArray[np.float64]:
    """Spread the time stamps of samples that came in bursts, one stamp for several, one period apart."""
    if not (np.diff(time_s) <= 0).any():
        return time_s
    order = np.arange(len(time_s))
    newest = np.append(np.diff(time_s) > 0, True)  # the stamp of a burst is the time of its last sample
    return np.maximum.accumulate(np.interp(order, order[newest], time_s[newest]) + order * 1e-9)
