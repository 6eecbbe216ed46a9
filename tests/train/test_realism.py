"""The features and protocols that measure realism, compared with LibEMG's."""

from pathlib import Path

import numpy as np
import pytest

from cpep_edge.errors import DataError
from cpep_train.realism import Trial, features, measure, real_trials

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_features_of_a_triangle_wave_are_those_counted_by_hand():
    wave = np.array([1.0, 2.0, 1.0, -1.0, -2.0, -1.0, 1.0, 2.0])
    mean, zero_crossings, slope_changes, length = features(wave[None, :, None])[0]
    assert (mean, zero_crossings, slope_changes, length) == (11 / 8, 2, 2, 9)


def _people(rng: np.random.Generator, own_pattern: bool) -> list[Trial]:
    shared = rng.lognormal(0, 0.7, (11, 4))
    trials = []
    for person in "abc":
        pattern = rng.lognormal(0, 0.7, (11, 4)) if own_pattern else shared
        for gesture in range(11):
            noise = rng.standard_normal((8_000, 4)) * pattern[gesture]
            trials += [Trial(person, gesture, late, noise[4_000 * late :][:4_000], 1_000.0) for late in (False, True)]
    return trials


def test_people_with_the_same_patterns_can_be_left_out_and_others_cannot(rng):
    alike, unlike = measure(_people(rng, own_pattern=False)), measure(_people(rng, own_pattern=True))
    assert min(alike.same_person_2s, unlike.same_person_2s, alike.left_out_2s) > 0.9
    assert unlike.left_out_2s < 0.4


def test_white_noise_has_its_median_frequency_in_the_middle_of_the_band(rng):
    figures = measure(_people(rng, own_pattern=False))
    assert figures.median_frequency_hz == pytest.approx(255, abs=8)  # halfway between the high-pass and half the rate
    assert figures.power_share_20_450hz == pytest.approx(430 / 500, abs=0.02)


def test_a_folder_without_real_people_says_so(tmp_path):
    with pytest.raises(DataError, match="fewer than two people of the 3DC set are here"):
        real_trials(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "3dc").is_dir(), reason="the 3DC recordings are not here")
def test_real_people_read_as_another_toolkit_reads_them():
    figures = measure(real_trials(SHARED / "3dc"))
    # LibEMG 2.0.3 on the same files: .843, .905, .296, .334
    found = [figures.same_person_250ms, figures.same_person_2s, figures.left_out_250ms, figures.left_out_2s]
    np.testing.assert_allclose(found, [0.843, 0.905, 0.296, 0.334], atol=0.03)
