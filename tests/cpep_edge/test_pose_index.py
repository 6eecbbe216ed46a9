import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from cpep_edge import pose_index
from cpep_edge.errors import ArtifactError, ConfigError
from cpep_edge.index_file import StoredIndex, coded
from cpep_edge.manifest import Gesture, IndexSpec
from cpep_edge.pose_index import EXACT_NUMBERS, PoseIndex, build_graph, build_index, graph_spec, load_index, vote

D = 32


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def poses() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    gesture_index = np.repeat(np.arange(6), 100)
    centres = rng.normal(size=(6, D))
    return unit(centres[gesture_index] + rng.normal(0, 0.8, (600, D))), gesture_index


@pytest.fixture(scope="module", params=["whole", "graph"])
def index(request, poses) -> PoseIndex:
    """The same poses, searched exhaustively and through hnswlib's graph."""
    vectors, gesture_index = poses
    stored = coded(vectors)
    graph = build_graph(stored.directions(), 0) if request.param == "graph" else None
    return PoseIndex(StoredIndex(stored, gesture_index.astype(np.uint16), graph))


def spec_of(index: PoseIndex, n_prototypes: int = 600) -> IndexSpec:
    return IndexSpec(file="index.bin", n_prototypes=n_prototypes, graph=graph_spec(index))


@pytest.fixture(scope="module")
def queries(poses) -> np.ndarray:
    """Embeddings near poses, like those of an aligned encoder."""
    return unit(poses[0][::3] + np.random.default_rng(2).normal(0, 0.1, (200, D)))


def test_neighbours_are_those_of_brute_force(poses, index, queries):
    gesture_index = poses[1]
    for query in queries:
        cosines = index.vectors @ query
        exact = np.argsort(-cosines)[:10]
        gestures, similarity = index.nearest(query, 10)
        assert np.allclose(similarity, cosines[exact], atol=1e-5)
        assert np.array_equal(gestures, gesture_index[exact])


def test_a_penalty_is_taken_off_before_the_nearest_are_chosen_and_not_off_what_a_vote_tells(index, queries):
    penalty = (0.4, 0.0, 0.4, 0.0, 0.1, 0.0)
    less = np.array(penalty, np.float32)[index.gesture_index]
    penalised = PoseIndex(index.stored, 100, penalty)
    moved = 0
    for query in queries:
        cosines = index.vectors @ query
        exact = np.argsort(less - cosines, kind="stable")[:10]
        gestures, similarity = penalised.nearest(query, 10)
        np.testing.assert_allclose(similarity, cosines[exact], atol=1e-5)
        np.testing.assert_array_equal(gestures, index.gesture_index[exact])
        expected = vote(index.gesture_index[exact], cosines[exact])
        assert penalised.vote(query, 10).gesture_index == expected.gesture_index
        moved += expected.gesture_index != index.vote(query, 10).gesture_index
    assert moved > 0


def test_a_graph_finds_the_nearest_after_the_penalty_where_all_candidates_before_it_have_one():
    """As many poses of a trained gesture lie a little nearer than those of an untrained one: a large index."""
    rng = np.random.default_rng(3)
    centre = np.eye(2, D)
    near, far = unit(centre[0] + rng.normal(0, 0.05, (2_000, D))), unit(centre.sum(0) + rng.normal(0, 0.05, (2_000, D)))
    labels = np.repeat([0, 1], 2_000)
    graph = build_index(np.concatenate([near, far]), labels, gesture_penalty=(0.6, 0.0), search="hnsw")
    exact = build_index(np.concatenate([near, far]), labels, gesture_penalty=(0.6, 0.0), search="exact")
    for query in unit(centre[0] + 0.3 * centre[1] + rng.normal(0, 0.05, (50, D))):
        assert graph.vote(query, 10).gesture_index == exact.vote(query, 10).gesture_index == 1


def test_who_asks_for_a_graph_or_for_none_gets_it_and_the_same_neighbours(poses, queries):
    auto, hnsw, exact = (build_index(*poses, search=search) for search in ("auto", "hnsw", "exact"))
    assert [index.stored.graph is None for index in (auto, hnsw, exact)] == [True, False, True]
    for query in queries:
        np.testing.assert_allclose(hnsw.nearest(query, 10)[1], exact.nearest(query, 10)[1], atol=1e-5)


def test_no_graph_is_made_of_copies_though_it_is_asked_for(poses):
    copies = np.repeat(poses[0][:20], 30, axis=0)
    with pytest.raises(ConfigError, match="--index exact"):
        build_index(copies, poses[1], search="hnsw")
    assert build_index(copies, poses[1], search="exact").stored.graph is None


def test_a_gesture_that_was_not_trained_has_no_penalty():
    gestures = [Gesture(name=name, n_prototypes=1, trained=name != "mine") for name in ("fist", "mine", "point")]
    spec = IndexSpec(file="index.bin", n_prototypes=3, seen_penalty=0.25)
    assert spec.penalties(gestures) == (0.25, 0.0, 0.25)


def test_a_byte_a_number_moves_no_vector_far(poses, index):
    assert np.sum(index.vectors * poses[0], axis=1).min() > 0.9995
    np.testing.assert_allclose(np.linalg.norm(index.vectors, axis=1), 1, atol=1e-6)


def test_votes_are_those_of_scikit_learn(poses, index, queries):
    peer = KNeighborsClassifier(9, metric="cosine", algorithm="brute").fit(index.vectors, poses[1])
    shares = peer.predict_proba(queries)
    for query, share in zip(queries, shares, strict=True):
        ours = index.vote(query, 9)
        assert ours.share == pytest.approx(share.max())
        assert share[ours.gesture_index] == share.max()


def test_between_equal_counts_the_nearest_neighbour_decides():
    result = vote(np.array([2, 1, 1, 2, 0]), np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32))
    assert (result.gesture_index, result.share) == (2, 0.4)
    assert result.similarity == pytest.approx(0.9)


def test_a_stored_index_answers_alike(index, queries):
    loaded = load_index(index.to_bytes(), spec_of(index), n_gestures=6, d_embed=D)
    for query in queries:
        assert np.array_equal(loaded.nearest(query, 10)[1], index.nearest(query, 10)[1])


def test_the_same_prototypes_give_the_same_file(poses, monkeypatch):
    for limit in (pose_index.EXACT_NUMBERS, 0):
        monkeypatch.setattr(pose_index, "EXACT_NUMBERS", limit)
        built = build_index(*poses)
        assert (built.stored.graph is None) == (limit > 0)
        assert built.to_bytes() == build_index(*poses).to_bytes()


def test_a_graph_votes_as_a_search_of_everything_does(poses, queries, monkeypatch):
    """Prototypes are shuffled for the graph, and their gestures must be shuffled with them."""
    whole = build_index(*poses)
    monkeypatch.setattr(pose_index, "EXACT_NUMBERS", 0)
    graph = build_index(*poses)

    assert not np.array_equal(graph.gesture_index, poses[1])
    for query in queries:
        ours, right = graph.vote(query, 9), whole.vote(query, 9)
        assert (ours.gesture_index, ours.share) == (right.gesture_index, right.share)


@pytest.mark.parametrize(("n_prototypes", "n_gestures", "said"), [(601, 6, "holds 600"), (600, 5, "beyond")])
def test_an_index_that_is_not_what_the_manifest_says_is_refused(index, n_prototypes, n_gestures, said):
    with pytest.raises(ArtifactError, match=said):
        load_index(index.to_bytes(), spec_of(index, n_prototypes), n_gestures=n_gestures, d_embed=D)


def test_a_graph_that_the_manifest_does_not_know_is_refused(index):
    other = (
        None
        if graph_spec(index)
        else spec_of(index)
        .model_validate({"file": "index.bin", "n_prototypes": 600, "graph": {"m": 8, "ef_construction": 10, "ef": 10}})
        .graph
    )
    with pytest.raises(ArtifactError, match="graph"):
        load_index(index.to_bytes(), spec_of(index).model_copy(update={"graph": other}), n_gestures=6, d_embed=D)


def test_fewer_prototypes_than_neighbours_still_vote():
    small = build_index(unit(np.eye(3, D)), np.arange(3))
    assert len(small.nearest(unit(np.eye(1, D))[0], 10)[0]) == 3


@pytest.mark.parametrize("n", [9, 40, 319, 320, 351, 3000])
def test_an_exact_search_misses_nothing_whatever_the_number_and_however_many_are_alike(n):
    rng = np.random.default_rng(n)
    vectors = unit(rng.normal(size=(n, 8)))
    vectors[::3] = vectors[0]
    found = build_index(vectors, np.zeros(n, np.int64))
    for embedding in unit(rng.normal(size=(20, 8))):
        _, similarity = found.nearest(embedding, 10)
        best = np.sort(found.vectors @ embedding)[::-1][:10]
        np.testing.assert_allclose(similarity, best, atol=1e-6)


def test_copies_do_not_change_votes():
    """60 copies of each of 300 poses. So many would be searched in a graph, which gets a tenth of copies wrong."""
    rng = np.random.default_rng(0)
    poses = unit(rng.standard_normal((300, 64)))
    copied, labels = np.repeat(poses, 60, axis=0), np.repeat(np.arange(300) % 16, 60)
    assert copied.size > EXACT_NUMBERS
    index = build_index(copied, labels)
    queries = unit(poses[rng.integers(0, 300, 200)] + 0.3 * rng.standard_normal((200, 64)))
    for query, row in zip(queries, queries @ index.vectors.T, strict=True):
        nearest = np.argsort(-row, kind="stable")[:10]
        expected = vote(index.gesture_index[nearest], row[nearest])
        assert index.vote(query, 10).gesture_index == expected.gesture_index
