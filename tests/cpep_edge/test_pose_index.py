from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from cpep_edge.errors import ArtifactError
from cpep_edge.pose_index import PoseIndex, build_index, load_index, vote

D = 32


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def poses() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    gesture_index = np.repeat(np.arange(6), 100)
    centres = rng.normal(size=(6, D))
    return unit(centres[gesture_index] + rng.normal(0, 0.8, (600, D))), gesture_index


@pytest.fixture(scope="module")
def index(poses: tuple[np.ndarray, np.ndarray]) -> PoseIndex:
    return build_index(*poses, m=16, ef_construction=200, ef=100, seed=0)


@pytest.fixture(scope="module")
def queries(poses: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Embeddings that lie near poses, as an aligned encoder's do."""
    return unit(poses[0][::3] + np.random.default_rng(2).normal(0, 0.1, (200, D)))


def test_neighbours_are_those_of_brute_force(
    poses: tuple[np.ndarray, np.ndarray], index: PoseIndex, queries: np.ndarray
) -> None:
    vectors, gesture_index = poses
    for query in queries:
        cosines = vectors @ query
        exact = np.argsort(-cosines)[:10]
        gestures, similarity = index.nearest(query, 10)
        assert np.allclose(similarity, cosines[exact], atol=1e-5)
        assert np.array_equal(gestures, gesture_index[exact])


def test_votes_are_those_of_scikit_learn(
    poses: tuple[np.ndarray, np.ndarray], index: PoseIndex, queries: np.ndarray
) -> None:
    peer = KNeighborsClassifier(9, metric="cosine", algorithm="brute").fit(*poses)
    shares = peer.predict_proba(queries)
    for query, share in zip(queries, shares, strict=True):
        ours = index.vote(query, 9)
        assert ours.share == pytest.approx(share.max())
        assert share[ours.gesture_index] == share.max()


def test_between_equal_counts_the_nearest_neighbour_decides() -> None:
    result = vote(np.array([2, 1, 1, 2, 0]), np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32))
    assert (result.gesture_index, result.share) == (2, 0.4)
    assert result.similarity == pytest.approx(0.9)


def test_a_saved_index_answers_alike(index: PoseIndex, queries: np.ndarray, tmp_path: Path) -> None:
    index.save(tmp_path / "index.bin")
    content = (tmp_path / "index.bin").read_bytes()
    loaded = load_index(content, n_prototypes=600, n_gestures=6, d_embed=D, ef=100)
    for query in queries:
        assert np.array_equal(loaded.nearest(query, 10)[1], index.nearest(query, 10)[1])


def test_the_same_prototypes_give_the_same_file(poses: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        build_index(*poses, m=16, ef_construction=200, ef=100, seed=0).save(tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize(("n_prototypes", "n_gestures", "said"), [(601, 6, "holds 600"), (600, 5, "beyond")])
def test_an_index_that_is_not_what_the_manifest_says_is_refused(
    index: PoseIndex, tmp_path: Path, n_prototypes: int, n_gestures: int, said: str
) -> None:
    index.save(tmp_path / "index.bin")
    content = (tmp_path / "index.bin").read_bytes()
    with pytest.raises(ArtifactError, match=said):
        load_index(content, n_prototypes=n_prototypes, n_gestures=n_gestures, d_embed=D, ef=100)


def test_fewer_prototypes_than_neighbours_still_vote() -> None:
    small = build_index(unit(np.eye(3, D)), np.arange(3), m=4, ef_construction=10, ef=10, seed=0)
    assert len(small.nearest(unit(np.eye(1, D))[0], 10)[0]) == 3
