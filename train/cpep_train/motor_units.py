"""Motor units: which of a muscle's units fire at an activation, how fast, and when.

The model is that of Fuglevand, Winter & Patla (1993), with their parameters: thresholds of recruitment and twitch
forces grow exponentially through a pool, so most units are small and recruited early; a unit starts at 8 Hz and
speeds up with the excitation, those recruited first to the highest rates; the intervals between its spikes scatter by
a fifth. An activation is taken for a share of the pool's greatest isometric force, and the excitation that gives it
is looked up.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

THRESHOLD_RANGE = 30.0  # excitation that recruits the last unit over that of the first, which is 1
TWITCH_RANGE = 100.0  # of the last unit's twitch force to the first's
FIRST_RATE_HZ = 8.0
PEAK_RATE_HZ = (35.0, 25.0)  # of the first unit and of the last
RATE_GAIN_HZ = 1.0  # a unit of excitation above its threshold
INTERVAL_SCATTER = 0.2  # coefficient of variation
LARGEST_EXCITATION = THRESHOLD_RANGE + (PEAK_RATE_HZ[1] - FIRST_RATE_HZ) / RATE_GAIN_HZ
_SLOWEST_TWITCH_S, _TWITCH_TIME_RANGE = 0.090, 3.0
_N_REFERENCE = 120  # units of the pool whose force is tabulated


def thresholds(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Excitation at which units are recruited; place: of a unit in its pool, above 0 (first) to 1 (last)."""
    found: NDArray[np.float64] = THRESHOLD_RANGE**place
    return found


def twitch_forces(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twitch force of units, 1 to `TWITCH_RANGE`; the number of a unit's fibres is in proportion to it."""
    found: NDArray[np.float64] = TWITCH_RANGE**place
    return found


def firing_rates(place: NDArray[np.float64], excitation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rate of each unit in Hz, 0 where it is not recruited; the arguments broadcast."""
    threshold = thresholds(place)
    peak_hz = PEAK_RATE_HZ[0] + (PEAK_RATE_HZ[1] - PEAK_RATE_HZ[0]) * threshold / THRESHOLD_RANGE
    rate_hz = np.minimum(FIRST_RATE_HZ + RATE_GAIN_HZ * (excitation - threshold), peak_hz)
    return np.where(excitation >= threshold, rate_hz, 0.0)


def excitation_for(activation: NDArray[np.float64]) -> NDArray[np.float64]:
    """The excitation at which a pool gives a share of its greatest force, 0 to 1; any shape."""
    excitation, force = _force_curve()
    return np.interp(activation, force, excitation)


@lru_cache(maxsize=1)
def _force_curve() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Excitations and the share of the greatest force that a pool gives at each."""
    place = np.arange(1, _N_REFERENCE + 1) / _N_REFERENCE
    excitation = np.linspace(0, LARGEST_EXCITATION, 500)
    twitch = twitch_forces(place)
    contraction_s = _SLOWEST_TWITCH_S * twitch ** (-math.log(_TWITCH_TIME_RANGE) / math.log(TWITCH_RANGE))
    overlap = firing_rates(place, excitation[:, None]) * contraction_s  # contraction time over interval
    # Below .4 twitches add up; above, their sum saturates. The factor e of both cancels in the share.
    saturated = 0.4 * -np.expm1(-2 * overlap**3) / -math.expm1(-2 * 0.4**3)
    force = np.sum(twitch * np.where(overlap < 0.4, overlap, saturated), axis=1)
    return excitation, force / force[-1]


def spike_trains(
    place: NDArray[np.float64],
    excitation: NDArray[np.float64],
    rate_factor: NDArray[np.float64],
    rate_hz: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Spikes of units that follow their excitation.

    place: (n_units,); excitation: (n, n_units), `rate_hz` values a second, joined by straight lines
    rate_factor: (n, n_units), below 1 where fatigue slows a unit
    returns: (n_spikes,) the unit of each spike and its time in seconds, unit by unit
    """
    rates_hz = firing_rates(place, excitation) * rate_factor  # (n, n_units)
    steps = (rates_hz[1:] + rates_hz[:-1]) / 2 / rate_hz
    phase = np.concatenate([np.zeros((1, len(place))), np.cumsum(steps, axis=0)])  # spikes due until each moment
    n_due = np.ceil(phase[-1] * 1.5).astype(int) + 6
    firing = np.flatnonzero(phase[-1] > 0)
    intervals = np.maximum(1 + INTERVAL_SCATTER * rng.standard_normal(int(n_due[firing].sum())), 0.2)
    first = rng.random(len(firing))
    clock_s = np.arange(len(phase)) / rate_hz
    units, times_s, start = [], [], 0
    for unit, head in zip(firing, first, strict=True):
        due = np.cumsum(intervals[start : start + n_due[unit]]) - head
        start += n_due[unit]
        due = due[(due >= 0) & (due < phase[-1, unit])]
        units.append(np.full(len(due), unit))
        times_s.append(np.interp(due, phase[:, unit], clock_s))
    if not units:
        return np.empty(0, np.intp), np.empty(0)
    return np.concatenate(units), np.concatenate(times_s)
