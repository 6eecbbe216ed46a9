import numpy as np
import pytest

from cpep_export.prototypes import Prototypes, find_prototypes, times_asked

D, N_GESTURES, N_EACH, K = 24, 5, 200, 10


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def poses() -> tuple[np.ndarray, np.ndarray]:
    """Clusters of poses, one per gesture, shuffled."""
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(N_GESTURES, 1, D)))
    embedding = unit(centres + rng.normal(0, 0.15, (N_GESTURES, N_EACH, D))).reshape(-1, D)
    order = rng.permutation(len(embedding))
    return embedding[order], np.repeat(np.arange(N_GESTURES), N_EACH)[order]


def windows_of(poses: tuple[np.ndarray, np.ndarray], seed: int) -> np.ndarray:
    """EMG embeddings on one side of the first three clusters; real encoders also use only a part of the sphere."""
    rng = np.random.default_rng(seed)
    near = poses[0][(poses[1] < 3) & (poses[0][:, 0] > np.median(poses[0][:, 0]))]
    return unit(near[rng.integers(len(near), size=400)] + rng.normal(0, 0.1, (400, D)))


def votes(vectors: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    nearest = labels[np.argsort(-(queries @ vectors.T), axis=1)[:, :K]]
    return np.array([np.bincount(row, minlength=N_GESTURES).argmax() for row in nearest])


def test_poses_are_counted_by_the_windows_that_ask_for_them(poses):
    windows = windows_of(poses, 1)
    expected = np.zeros(len(poses[0]), int)
    for window in windows:
        expected[np.argsort(-(poses[0] @ window))[:K]] += 1

    assert np.array_equal(times_asked(poses[0], windows, K), expected)


@pytest.mark.parametrize("n", [4, 45, 85, 700, 5_213])
def test_the_nearest_after_the_penalty_are_counted_whatever_the_number_of_poses(n):
    rng = np.random.default_rng(n)
    poses, windows = unit(rng.normal(size=(n, D))), unit(rng.normal(size=(60, D)))
    penalty = rng.choice([0.0, 0.2], n).astype(np.float32)
    expected = np.zeros(n, int)
    for window in windows:
        expected[np.argsort(penalty - poses @ window)[:K]] += 1

    assert np.array_equal(times_asked(poses, windows, K, penalty), expected)


def test_fresh_windows_vote_as_with_all_poses(poses):
    found = find_prototypes(*poses, windows_of(poses, 1), k=K, least_per_gesture=10)
    fresh = windows_of(poses, 2)

    assert len(found.embedding) < 0.7 * len(poses[0])
    assert np.mean(votes(found.embedding, found.gesture_index, fresh) == votes(*poses, fresh)) > 0.99


def test_room_goes_to_the_poses_asked_for_most(poses):
    windows = windows_of(poses, 1)

    found = find_prototypes(*poses, windows, k=K, n_most=60, least_per_gesture=0)

    counts = times_asked(poses[0], windows, K)
    of_found = [counts[np.flatnonzero((poses[0] == row).all(axis=1))[0]] for row in found.embedding]
    assert len(found.embedding) == 60
    assert min(of_found) >= np.sort(counts)[-60]


def test_a_gesture_that_nobody_asks_for_keeps_the_poses_that_windows_would_ask_for(poses):
    windows = windows_of(poses, 1)

    found = find_prototypes(*poses, windows, k=K, n_most=0, least_per_gesture=7)

    assert np.bincount(found.gesture_index).tolist() == [7] * N_GESTURES
    own = poses[0][poses[1] == 4]
    ranked = own[np.argsort(-times_asked(own, windows, K), kind="stable")[:7]]
    assert {row.tobytes() for row in found.embedding[found.gesture_index == 4]} == {row.tobytes() for row in ranked}


def test_prototypes_are_poses_gesture_by_gesture(poses):
    found = find_prototypes(*poses, windows_of(poses, 1), k=K)

    assert np.all(np.diff(found.gesture_index) >= 0)
    known = {(row.tobytes(), int(label)) for row, label in zip(*poses, strict=True)}
    assert {(r.tobytes(), int(g)) for r, g in zip(found.embedding, found.gesture_index, strict=True)} <= known


def test_fewer_poses_than_are_asked_for_are_all_kept():
    few = unit(np.eye(3, D))

    found = find_prototypes(few, np.array([0, 0, 1]), few, k=K)

    assert len(found.embedding) == 3


def test_some_gestures_keep_their_numbers(poses):
    allowed = np.array([False, True, False, True, False])

    assert set(Prototypes(*poses).of_gestures(allowed).gesture_index) == {1, 3}
