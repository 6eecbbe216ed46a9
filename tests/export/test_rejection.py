"""The coverage-risk curve, checked on the windows that it was made from."""

import itertools

import numpy as np
import pytest

from cpep_export.rejection import coverage_risk


@pytest.fixture
def windows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares, cosines, and whether the vote was right; both correlate weakly with it."""
    rng = np.random.default_rng(0)
    right = rng.random(800) < 0.5
    share = np.clip(np.round(rng.normal(0.6 + 0.2 * right, 0.15, 800), 1), 0.1, 1)
    return share, rng.normal(0.3 + 0.1 * right, 0.1, 800), right


def test_every_point_is_what_its_thresholds_do(windows):
    share, similarity, right = windows
    for point in coverage_risk(share, similarity, right):
        kept = (share >= point.min_vote_share) & (similarity >= point.min_similarity)
        assert point.coverage == pytest.approx(kept.mean(), abs=0.01)
        assert point.risk == pytest.approx(1 - right[kept].mean(), abs=0.01)


def test_who_accepts_less_errs_less(windows):
    curve = coverage_risk(*windows)
    assert len(curve) > 5
    assert curve[0].coverage == 1
    for more, less in itertools.pairwise(curve):
        assert less.coverage < more.coverage
        assert less.risk < more.risk


def test_no_pair_of_thresholds_beats_the_curve(windows):
    share, similarity, right = windows
    curve = coverage_risk(share, similarity, right)
    for least_share, least_similarity in itertools.product((0.3, 0.6, 0.9), (0.0, 0.2, 0.35)):
        kept = (share >= least_share) & (similarity >= least_similarity)
        as_wide = [point.risk for point in curve if point.coverage >= kept.mean() - 0.05]
        assert min(as_wide) <= 1 - right[kept].mean() + 0.03


def test_votes_that_tell_nothing_give_one_honest_point():
    (point,) = coverage_risk(np.ones(100), np.ones(100), np.arange(100) % 4 == 0)
    assert (point.coverage, point.risk) == (1.0, 0.75)
