import numpy as np
import pytest

from cpep_export.prototypes import Prototypes, find_prototypes, index_prototypes

D, N_GESTURES, N_CLUSTERS = 24, 5, 4


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def centres() -> np.ndarray:
    return unit(np.random.default_rng(0).normal(size=(N_GESTURES, N_CLUSTERS, D)))


@pytest.fixture(scope="module")
def poses(centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    embedding = unit(centres[:, :, None] + rng.normal(0, 0.05, (N_GESTURES, N_CLUSTERS, 50, D))).reshape(-1, D)
    order = rng.permutation(len(embedding))
    return embedding[order], np.repeat(np.arange(N_GESTURES), N_CLUSTERS * 50)[order]


@pytest.fixture(scope="module")
def prototypes(poses: tuple[np.ndarray, np.ndarray]) -> Prototypes:
    return find_prototypes(*poses, n_per_gesture=12, seed=0)


def test_prototypes_find_planted_clusters(poses: tuple[np.ndarray, np.ndarray], centres: np.ndarray) -> None:
    found = find_prototypes(*poses, n_per_gesture=N_CLUSTERS * 2, seed=0)

    for gesture in range(N_GESTURES):
        similarity = centres[gesture] @ found.embedding[found.gesture_index == gesture].T
        assert similarity.max(axis=1).min() > 0.98


def test_prototypes_are_of_unit_length_and_of_every_gesture(prototypes: Prototypes) -> None:
    np.testing.assert_allclose(np.linalg.norm(prototypes.embedding, axis=1), 1, atol=1e-6)
    assert np.bincount(prototypes.gesture_index).tolist() == [12] * N_GESTURES


def test_prototypes_are_the_same_every_time(poses: tuple[np.ndarray, np.ndarray], prototypes: Prototypes) -> None:
    again = find_prototypes(*poses, n_per_gesture=12, seed=0)

    assert np.array_equal(again.embedding, prototypes.embedding)


def test_few_distinct_poses_are_their_own_prototypes() -> None:
    pose = unit(np.eye(3, D))

    found = find_prototypes(np.repeat(pose, 20, axis=0), np.zeros(60, np.int64), n_per_gesture=12, seed=0)

    assert sorted(found.embedding.tolist()) == sorted(pose.tolist())


def test_the_index_finds_what_brute_force_finds(poses: tuple[np.ndarray, np.ndarray], prototypes: Prototypes) -> None:
    index = index_prototypes(prototypes, m=16, ef_construction=200, ef=100, seed=0)
    queries = unit(poses[0][::5] + np.random.default_rng(2).normal(0, 0.1, (len(poses[0][::5]), D)))
    similarity = queries @ prototypes.embedding.T

    for query, row in zip(queries, similarity, strict=True):
        gestures, found = index.nearest(query, 10)
        nearest = np.argsort(-row)[:10]
        np.testing.assert_allclose(found, row[nearest], atol=1e-5)
        assert np.array_equal(gestures, prototypes.gesture_index[nearest])


def test_some_gestures_keep_their_numbers(prototypes: Prototypes) -> None:
    allowed = np.array([False, True, False, True, False])

    assert set(prototypes.of_gestures(allowed).gesture_index) == {1, 3}
