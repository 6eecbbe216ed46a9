"""The comparison of simulated and real people: its distance, its tests, and its loaders of real data sets."""

import numpy as np
import pytest
from scipy import linalg

pytest.importorskip("myo_sim")

from cpep_edge.errors import DataError
from measure_realism import (
    FAST,
    Hold,
    accuracies,
    cut,
    group_mean,
    log_covariance,
    markdown,
    measure,
    real_myo,
    structure,
)


def test_distances_of_log_covariances_are_log_euclidean():
    rng = np.random.default_rng(0)
    one, other = (a @ a.T for a in rng.standard_normal((2, 5, 9)))
    got = np.linalg.norm(np.subtract(*log_covariance(np.stack([one, other]), 0.0)))
    assert got == pytest.approx(np.linalg.norm(linalg.logm(one) - linalg.logm(other)), rel=1e-4)


def _holds(mixing: np.ndarray, people: str = "abc") -> list[Hold]:
    """White sources of equal level, mixed by one matrix per person and gesture: (person, gesture, 4, 4)."""
    rng = np.random.default_rng(1)
    return [
        Hold(person, 0, repetition, gesture, rng.standard_normal((1_500, 4)) @ mixing[number, gesture])
        for number, person in enumerate(people)
        for gesture in range(3)
        for repetition in (1, 2, 3, 4)
    ]


def test_gestures_that_differ_in_correlations_alone_are_read_from_covariances_and_not_from_levels():
    mixing = np.tile(np.eye(4), (3, 3, 1, 1))
    turned = np.array([[0.8, 0.6], [0.6, 0.8]])  # rows and columns of unit length, so levels are unchanged
    for gesture in (0, 1):
        mixing[:, gesture + 1, 2 * gesture : 2 * gesture + 2, 2 * gesture : 2 * gesture + 2] = turned
    found = accuracies(cut(_holds(mixing), FAST), with_levels=False)
    for question in ("within", "left out"):
        assert found["covariances"][question] > 0.9
        assert found["levels"][question] < 0.6


def test_people_with_patterns_of_their_own_are_read_within_and_not_when_left_out():
    mixing = np.stack([np.diag(level) for level in np.random.default_rng(2).lognormal(0, 1, (9, 4))]).reshape(
        3, 3, 4, 4
    )
    found = accuracies(cut(_holds(mixing), FAST), with_levels=False)
    assert found["levels"]["within"] > 0.95
    assert found["levels"]["left out"] < 0.8
    spread = structure(cut(_holds(mixing), FAST))
    common = spread["log covariance: of that, common to people"]
    assert common < 0.8 * spread["log covariance: gestures about their donning"]


@pytest.mark.parametrize("turn", [0.0, 1.0, 1.5])
def test_a_band_turned_by_so_many_electrodes_is_found_turned_by_as_many(turn):
    rng, around = np.random.default_rng(4), 2 * np.pi * np.arange(8) / 8
    holds = []
    for donning in (0, 1):
        for gesture in range(4):  # a peak of activity at another place around the arm for each gesture
            level = np.exp(2 * np.cos(around + (turn * donning - 2 * gesture) * 2 * np.pi / 8))
            holds.append(Hold("a", donning, 1, gesture, rng.standard_normal((4_000, 8)) * level))
    found = structure(cut(holds, FAST))["turn from donning to donning, RMS, degrees"]
    assert found == pytest.approx(45 * turn, abs=5)


def test_prompts_of_myo_wrist_are_cut_at_their_labels(tmp_path):
    rng = np.random.default_rng(3)
    label = np.repeat([0, 2, 0, 2], 400)
    for gesture in range(8):
        rows = np.column_stack([rng.integers(-9, 9, (1_600, 8)), np.where(label, gesture, 0)])
        path = tmp_path / "7-1" / f"{gesture}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n1,2,3\n")
    holds = list(real_myo(tmp_path))
    active = [(hold.gesture, hold.repetition, len(hold.emg)) for hold in holds if hold.gesture]
    assert active == [(gesture, repetition, 300) for gesture in range(1, 8) for repetition in (2, 4)]


def test_an_empty_set_is_said(tmp_path):
    with pytest.raises(DataError, match="one of the sets is empty"):
        measure(real_myo(tmp_path), FAST)


def test_the_table_has_a_row_a_figure_and_a_gap_where_a_set_has_none():
    simulated = group_mean([{"a": 1.0, "levels, within": 0.5}, {"a": 3.0, "levels, within": 0.7}])
    table = markdown({"real": {"a": 1.0}, "simulated": simulated})
    assert "| a | 1 | 2 |" in table
    assert "| levels, within |  | 0.6 ± 0.10 |" in table
    assert "sd of groups" not in table
