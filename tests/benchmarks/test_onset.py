"""The onset detector, tested on bursts with known onsets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpep_bench.onset import EARLIEST_S, energy, onset

RATE_HZ = 200.0


def recording(start_s: float, *, seconds: float = 3.0, gain: float = 6.0, seed: int = 0) -> np.ndarray:
    """Ten seconds of noise in eight channels; three of them are louder during the burst."""
    rng = np.random.default_rng(seed)
    emg = rng.normal(0, 3, (2_000, 8))
    burst = slice(round(start_s * RATE_HZ), round((start_s + seconds) * RATE_HZ))
    emg[burst, :3] *= gain
    return emg.astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.floats(3.2, 7.5), st.integers(0, 1000), st.sampled_from([1.0, 0.2, 25.0]))
def test_a_burst_is_found_where_it_begins_whatever_the_unit_and_before_or_after_its_prompt(start_s, seed, unit):
    found = onset(energy(recording(start_s, seed=seed) * np.float32(unit), RATE_HZ), 1_000, RATE_HZ)
    assert found / RATE_HZ == pytest.approx(start_s, abs=0.06)


def test_a_twitch_before_the_movement_is_none():
    emg = recording(6.0)
    emg[1_050:1_070] *= 8
    found = onset(energy(emg, RATE_HZ), 1_000, RATE_HZ)
    assert found / RATE_HZ == pytest.approx(6.0, abs=0.06)


@pytest.mark.parametrize("emg", [recording(9.0), recording(5 + EARLIEST_S - 0.5)], ids=["never", "all the time"])
def test_where_nothing_begins_nothing_is_said(emg):
    assert onset(energy(emg, RATE_HZ), 1_000, RATE_HZ) is None


def test_without_rest_before_the_prompt_it_cannot_be_told():
    assert onset(energy(recording(5.0), RATE_HZ), 150, RATE_HZ) is None
