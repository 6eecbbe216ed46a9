"""The comparison of simulated and real people: its features, its protocols, its figures."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("myo_sim")

from cpep_edge.errors import DataError
from cpep_train.realism import Trial, features, halves, measure, narrowed, real_trials, report, simulated_trials

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_features_of_a_triangle_wave_are_those_counted_by_hand() -> None:
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
            trials += halves(person, gesture, noise, 1_000.0)
    return trials


def test_people_with_the_same_patterns_can_be_left_out_and_others_cannot(rng: np.random.Generator) -> None:
    alike, unlike = measure(_people(rng, own_pattern=False)), measure(_people(rng, own_pattern=True))
    assert min(alike.same_person_2s, unlike.same_person_2s, alike.left_out_2s) > 0.9
    assert unlike.left_out_2s < 0.4


def test_white_noise_has_its_median_frequency_in_the_middle_of_the_band(rng: np.random.Generator) -> None:
    figures = measure(_people(rng, own_pattern=False))
    assert figures.median_frequency_hz == pytest.approx(255, abs=8)  # between the high-pass and half the rate
    assert figures.power_share_20_450hz == pytest.approx(430 / 500, abs=0.02)


def test_a_narrowed_band_has_fewer_electrodes_and_half_the_rate(rng: np.random.Generator) -> None:
    trial = Trial("a", 1, False, rng.standard_normal((4_000, 16)), 2_000.0)
    (narrow,) = narrowed([trial])
    assert (narrow.emg.shape, narrow.sample_rate_hz) == ((2_000, 10), 1_000.0)


def test_the_table_has_a_column_a_set_of_people(rng: np.random.Generator) -> None:
    figures = measure(_people(rng, own_pattern=False))
    assert "| | real | simulated |" in report({"real": figures, "simulated": figures})


def test_a_folder_without_simulated_people_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data synth"):
        simulated_trials(tmp_path)


def test_a_folder_without_real_people_ends_the_command_with_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cpep_train.realism", "--data", str(tmp_path), "--real", str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == f"error: {tmp_path}: fewer than two people of the 3DC set are here, as Participant1, ...\n"


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "3dc").is_dir(), reason="the 3DC recordings are not here")
def test_real_people_read_as_another_toolkit_reads_them() -> None:
    figures = measure(real_trials(SHARED / "3dc"))
    # LibEMG 2.0.3 on the same files: .843, .905, .296, .334
    found = [figures.same_person_250ms, figures.same_person_2s, figures.left_out_250ms, figures.left_out_2s]
    np.testing.assert_allclose(found, [0.843, 0.905, 0.296, 0.334], atol=0.03)
