"""The motor unit pool, compared with its authors' figures and with physiology."""

import numpy as np

from cpep_train.motor_units import (
    FIRST_RATE_HZ,
    INTERVAL_SCATTER,
    LARGEST_EXCITATION,
    excitation_for,
    firing_rates,
    spike_trains,
    thresholds,
    twitch_forces,
)

PLACE = np.arange(1, 121) / 120
RATE_HZ = 25.0


def _trains(excitation: float, seconds: float, factor: float = 1.0) -> list[np.ndarray]:
    n = int(seconds * RATE_HZ) + 1
    drive, slowing = np.full((n, 120), excitation), np.full((n, 120), factor)
    unit, time_s = spike_trains(PLACE, drive, slowing, RATE_HZ, np.random.default_rng(1))
    return [time_s[unit == one] for one in range(120)]


def test_small_units_are_recruited_first_and_half_of_all_at_a_fifth_of_the_excitation():
    assert np.all(np.diff(thresholds(PLACE)) > 0)
    assert np.all(np.diff(twitch_forces(PLACE)) > 0)
    recruited = firing_rates(PLACE, np.array(0.2 * LARGEST_EXCITATION)) > 0
    assert np.array_equal(recruited, PLACE <= PLACE[recruited].max())
    assert 0.5 < recruited.mean() < 0.8


def test_a_unit_starts_at_eight_hertz_and_never_slows_with_more_excitation():
    rates_hz = firing_rates(PLACE, np.linspace(0, LARGEST_EXCITATION, 400)[:, None])
    assert np.all(np.diff(rates_hz, axis=0) >= 0)
    assert rates_hz[rates_hz > 0].min() >= FIRST_RATE_HZ
    assert rates_hz.max() < 35.0


def test_more_force_takes_more_excitation_and_no_force_none():
    excitation = excitation_for(np.linspace(0, 1, 50))
    assert excitation[0] < 1  # below the lowest recruitment threshold
    assert np.all(np.diff(excitation[1:]) > 0)
    assert excitation[-1] <= LARGEST_EXCITATION


def test_spike_trains_have_the_rates_and_the_scatter_they_were_asked_for():
    trains = _trains(20.0, 60.0)
    wanted_hz = firing_rates(PLACE, np.array(20.0))
    found_hz = np.array([len(train) for train in trains]) / 60.0
    np.testing.assert_allclose(found_hz, wanted_hz, atol=0.4)
    intervals = [np.diff(train) for train in trains if len(train) > 100]
    scatter = np.mean([interval.std() / interval.mean() for interval in intervals])
    assert abs(scatter - INTERVAL_SCATTER) < 0.02


def test_fatigue_slows_a_unit_that_is_recruited():
    rested, tired = (np.array([len(t) for t in _trains(20.0, 30.0, factor)]) for factor in (1.0, 0.8))
    assert 0.77 < tired.sum() / rested.sum() < 0.83


def test_a_muscle_without_excitation_is_silent():
    assert sum(map(len, _trains(0.0, 10.0))) == 0
