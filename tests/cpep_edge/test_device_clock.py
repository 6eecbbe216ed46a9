"""The fit of the device's clock, tested on clocks with known offset and drift."""

import numpy as np
import pytest

from cpep_edge.device_clock import DeviceClock

HOST_ZERO_S = 86_400.0


def filled_clock(drift_ppm: float, seconds: float, seed: int = 0, round_trips: bool = False) -> DeviceClock:
    """A clock with 200 arrivals per second, each at least 0.5 ms late and usually some milliseconds more."""
    rng = np.random.default_rng(seed)
    clock, rate = DeviceClock(), 1 + drift_ppm * 1e-6
    for device_s in np.arange(0.005, seconds, 0.005):
        clock.add_arrival(device_s, HOST_ZERO_S + device_s / rate + 0.0005 + rng.exponential(0.008))
    for device_s in np.arange(0.5, seconds, 1.0) if round_trips else ():
        there_s, back_s = 0.0005 + rng.exponential(0.002, 2)
        host_s = HOST_ZERO_S + device_s / rate
        clock.add_round_trip(host_s - there_s, device_s, device_s + 1e-4, host_s + back_s + 1e-4)
    return clock


@pytest.mark.parametrize("drift_ppm", [-100.0, 0.0, 35.0, 100.0])
def test_drift_is_found_within_ten_ppm_in_a_minute(drift_ppm):
    line = filled_clock(drift_ppm, 60).line

    assert line.drift_ppm == pytest.approx(drift_ppm, abs=10)


def test_time_stamps_lie_a_steady_tenth_of_a_millisecond_from_the_truth_after_the_least_delay():
    lines = [filled_clock(40.0, 60, seed).line for seed in range(10)]
    errors_s = [line.host_s(59.0) - (HOST_ZERO_S + 59.0 / 1.00004) - 0.0005 for line in lines if line is not None]

    assert len(errors_s) == 10
    assert np.max(np.abs(errors_s)) < 2e-4
    assert np.std(errors_s) < 1e-4


def test_round_trips_remove_the_delay_that_arrivals_hide():
    truth_s = HOST_ZERO_S + 59.0
    lines = [filled_clock(0.0, 60, seed, round_trips=True).line for seed in range(10)]
    errors_s = [line.host_s(59.0) - truth_s for line in lines if line is not None]

    assert abs(np.median(errors_s)) < 3e-4
    assert np.max(np.abs(errors_s)) < 8e-4


def test_one_stalled_minute_does_not_bend_the_line():
    clock = filled_clock(0.0, 40)
    for device_s in np.arange(40.0, 50.0, 0.005):
        clock.add_arrival(device_s, HOST_ZERO_S + 50.0)
    for device_s in np.arange(50.0, 60.0, 0.005):
        clock.add_arrival(device_s, HOST_ZERO_S + device_s + 0.0005)

    line = clock.line

    assert line.host_s(60.0) == pytest.approx(HOST_ZERO_S + 60.0005, abs=5e-4)


def test_before_any_arrival_there_is_no_line():
    assert DeviceClock().line is None
    assert DeviceClock().round_trip_s is None


def test_the_first_arrivals_already_give_a_line():
    clock = DeviceClock()
    clock.add_arrival(0.010, HOST_ZERO_S + 0.012)
    clock.add_arrival(0.015, HOST_ZERO_S + 0.016)

    line = clock.line

    assert line.host_s(0.020) == pytest.approx(HOST_ZERO_S + 0.021)
