import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group

from cpep_train.embedding_quality import (
    alignment,
    effective_rank,
    embedding_quality,
    linear_cka,
    neighbour_consistency,
    recall_at,
    uniformity,
)

RNG_SEED = 5


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(RNG_SEED)


def _unit(rng: np.random.Generator, n: int, d: int = 6) -> np.ndarray:
    rows = rng.standard_normal((n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_cka_is_the_normalised_hsic_of_linear_kernels(rng):
    a, b = _unit(rng, 40), _unit(rng, 40, 9)
    b[:, :6] += a
    centre = np.eye(40) - 1 / 40
    k, m = centre @ a @ a.T @ centre, centre @ b @ b.T @ centre
    assert linear_cka(a, b) == pytest.approx(np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m)), rel=1e-4)


def test_cka_does_not_see_rotation_scale_or_shift_and_sees_shuffling(rng):
    a = _unit(rng, 500)
    moved = (3 * a @ ortho_group.rvs(6, random_state=0) + 1).astype(np.float32)
    assert linear_cka(a, moved) == pytest.approx(1, abs=1e-4)
    assert linear_cka(a, moved[rng.permutation(500)]) < 0.1
    assert np.isnan(linear_cka(a, np.ones_like(a)))


def test_alignment_and_uniformity_are_their_definitions(rng):
    a, b = _unit(rng, 60), _unit(rng, 60)
    assert alignment(a, a) == 0
    assert alignment(a, b) == pytest.approx(np.mean(2 - 2 * np.sum(a * b, axis=1)), rel=1e-5)
    assert uniformity(a) == pytest.approx(np.log(np.mean(np.exp(-2 * pdist(a, "sqeuclidean")))), rel=1e-5)


def test_neighbours_of_the_same_recording_do_not_count(rng):
    place = np.repeat(_unit(rng, 4, 32), 10, axis=0) + 1e-3 * rng.standard_normal((40, 32)).astype(np.float32)
    recording = np.repeat(np.arange(4), 10)
    alone = neighbour_consistency(place, np.repeat(np.arange(4), 10), recording, k=3)
    assert alone == 0  # each gesture has one recording, so the others are of other gestures
    assert neighbour_consistency(place, np.zeros(40, np.int64), recording, k=3) == 1


def test_effective_rank_counts_equally_used_dimensions():
    corners = np.concatenate([np.eye(8, dtype=np.float32)[:5], -np.eye(8, dtype=np.float32)[:5]])
    assert effective_rank(corners) == pytest.approx(5, rel=1e-5)


def test_recall_is_that_of_a_full_sort(rng):
    queries, references = _unit(rng, 30), _unit(rng, 50)
    right = rng.random((30, 50)) < 0.1
    order = np.argsort(-(queries @ references.T), axis=1)
    for k in (1, 5, 99):
        expected = np.take_along_axis(right, order[:, :k], axis=1).any(axis=1)
        np.testing.assert_array_equal(recall_at(queries, references, right, k), expected)


def test_many_windows_are_thinned_evenly(rng):
    a = _unit(rng, 5_000)
    quality = embedding_quality(a, a, np.zeros(5_000, np.int64), np.arange(5_000))
    assert (quality.n_windows, quality.linear_cka, quality.modality_gap) == (2_000, pytest.approx(1), 0)
