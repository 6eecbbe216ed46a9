import numpy as np
import pytest
from scipy import signal

from cpep_train.disturbances import (
    Circumstances,
    add_noise,
    drift_gains,
    jitter_clock,
    kill_electrodes,
    lose_frames,
    turn,
)

RATE_HZ = 1_000.0


@pytest.fixture
def given() -> Circumstances:
    return Circumstances(RATE_HZ, 20.0, np.random.default_rng(0))


@pytest.fixture
def emg() -> np.ndarray:
    return (20 * np.random.default_rng(1).standard_normal((4_000, 5))).astype(np.float32)


def test_a_whole_turn_moves_channels_and_a_full_circle_changes_nothing(emg, given):
    np.testing.assert_array_equal(turn(emg, 2, given).emg_uv, np.roll(emg, 2, axis=1))
    np.testing.assert_array_equal(turn(emg, -5, given).emg_uv, emg)


def test_two_half_turns_are_a_whole_one_and_keep_the_power(emg, given):
    half = turn(emg, 0.5, given).emg_uv
    np.testing.assert_allclose(turn(half, 0.5, given).emg_uv, np.roll(emg, 1, axis=1), atol=1e-4)
    assert np.sum(half**2) == pytest.approx(np.sum(emg**2), rel=1e-4)  # holds for an odd number of electrodes


def test_a_half_turn_lies_between_its_neighbours(given):
    bump = signal.windows.gaussian(16, 2.0)[None, :].astype(np.float32)
    moved = turn(bump, 0.5, given).emg_uv[0]
    centre = np.sum(moved * np.arange(16)) / moved.sum() - np.sum(bump * np.arange(16)) / bump.sum()
    assert centre == pytest.approx(0.5, abs=0.02)


def test_as_many_electrodes_die_as_were_asked_for(emg, given):
    out = kill_electrodes(emg, 3, given).emg_uv
    dead = ~out.any(axis=0)
    assert dead.sum() == 3
    np.testing.assert_array_equal(out[:, ~dead], emg[:, ~dead])


def test_gains_drift_by_a_constant_factor_an_electrode(emg, given):
    ratio = drift_gains(emg, 6.0, given).emg_uv / emg
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0], ratio.shape), rtol=1e-5)
    many = Circumstances(RATE_HZ, 20.0, np.random.default_rng(3))
    ones = np.ones((1, 4_000), np.float32)
    assert np.std(20 * np.log10(drift_gains(ones, 6.0, many).emg_uv)) == pytest.approx(6.0, rel=0.05)


@pytest.mark.parametrize("decibels", [20.0, 0.0])
def test_noise_lies_so_many_decibels_below_the_level(emg, given, decibels):
    noise = add_noise(emg, decibels, given).emg_uv - emg
    assert 20 * np.log10(given.level_uv / noise.std()) == pytest.approx(decibels, abs=0.2)


def test_lost_frames_are_bridged_by_a_line_and_the_rest_is_untouched(emg, given):
    found = lose_frames(emg, 0.2, given)
    changed = np.flatnonzero((found.emg_uv != emg).any(axis=1))
    frames = np.unique(changed // 10)
    assert len(frames) / 400 == pytest.approx(0.2, abs=0.06)
    assert frames.min() > 0  # the first frame cannot be lost
    bend = np.abs(np.diff(found.emg_uv, n=2, axis=0)).max(axis=1)
    inside = [n for n in changed if n - 1 in changed and n + 1 in changed]
    assert bend[np.array(inside) - 1].max() < 1e-3


def test_live_does_not_decide_on_losses_longer_than_it_fills(emg):
    fast = Circumstances(1_000.0, 20.0, np.random.default_rng(4))  # a frame has 10 ms: one is interpolated, two are not
    found = lose_frames(emg, 0.2, fast)
    runs = np.flatnonzero(np.diff(np.concatenate(([0], found.undecided.astype(int), [0])))).reshape(-1, 2)
    assert len(runs) > 0
    assert np.all(np.diff(runs, axis=1) >= 20)


def test_a_jittering_clock_bends_a_sine_by_its_slope(given):
    time_s = np.arange(20_000) / RATE_HZ
    sine = np.sin(2 * np.pi * 10 * time_s)[:, None].astype(np.float32)
    error = jitter_clock(sine, 0.25, given).emg_uv - sine
    slope_rms = 2 * np.pi * 10 / RATE_HZ / np.sqrt(2)
    assert np.sqrt(np.mean(error**2)) == pytest.approx(0.25 * slope_rms, rel=0.05)


def test_no_strength_is_no_disturbance(emg, given):
    for disturb in (turn, kill_electrodes, drift_gains, lose_frames, jitter_clock):
        np.testing.assert_allclose(disturb(emg, 0, given).emg_uv, emg, rtol=1e-6)
