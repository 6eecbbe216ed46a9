"""Files of the index: hnswlib's own format, which the project reads and writes, and the compact one."""

from dataclasses import replace
from pathlib import Path

import hnswlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpep_edge import index_file
from cpep_edge.errors import ArtifactError
from cpep_edge.hnsw_file import Graph, Parsed, from_hnswlib, to_hnswlib
from cpep_edge.index_file import StoredIndex, coded
from cpep_edge.pose_index import build_index

N, D, M = 400, 12, 4  # few links, so that there are several layers


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def written(vectors, tmp_path_factory) -> bytes:
    """The content of a file that hnswlib wrote."""
    index = hnswlib.Index(space="ip", dim=D)
    index.init_index(max_elements=N, M=M, ef_construction=50, random_seed=1)
    index.add_items(vectors, np.arange(N), num_threads=1)
    file = tmp_path_factory.mktemp("hnsw") / "index.bin"
    index.save_index(str(file))
    return file.read_bytes()


@pytest.fixture(scope="module")
def parsed(written) -> Parsed:
    return from_hnswlib(written, D)


def nearest(content: bytes, file: Path, queries: np.ndarray) -> np.ndarray:
    """The nearest vectors that hnswlib finds in a file."""
    file.write_bytes(content)
    index = hnswlib.Index(space="ip", dim=D)
    index.load_index(str(file))
    index.set_ef(20)
    labels: np.ndarray = index.knn_query(queries, k=10, num_threads=1)[0]
    return labels


def test_what_hnswlib_wrote_is_read_as_it_was_put_in(parsed, vectors):
    assert np.array_equal(parsed.vectors, vectors)
    assert np.array_equal(parsed.labels, np.arange(N))
    assert parsed.graph.levels.max() >= 2


def test_hnswlib_finds_the_same_in_a_file_written_here(written, parsed, vectors, tmp_path):
    ours = to_hnswlib(parsed.graph, parsed.vectors)
    queries = vectors[::7] + np.float32(0.05)

    assert len(ours) == len(written)
    assert np.array_equal(nearest(ours, tmp_path / "a", queries), nearest(written, tmp_path / "b", queries))


def test_reading_what_was_written_here_changes_nothing(parsed):
    content = to_hnswlib(parsed.graph, parsed.vectors)
    again = from_hnswlib(content, D)

    assert to_hnswlib(again.graph, again.vectors) == content


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_of_hnswlibs_file_is_refused_or_harmless(written, place, flip, tmp_path_factory):
    """Harmless means that the graph passes its check and hnswlib can search the file that is written from it."""
    at = int(place * len(written))
    spoilt = written[:at] + bytes([written[at] ^ flip]) + written[at + 1 :]
    try:
        graph, vectors, _ = from_hnswlib(spoilt, D)
    except ArtifactError:
        return
    graph.check()
    found = nearest(to_hnswlib(graph, vectors), tmp_path_factory.mktemp("spoilt") / "index.bin", vectors[:3])
    assert np.all(found < N)


@pytest.mark.parametrize("size", [0, 1, 95, 96, 1000, -1])
def test_a_file_of_hnswlib_cut_short_is_refused(written, size):
    with pytest.raises(ArtifactError, match="damaged"):
        from_hnswlib(written[:size], D)


def test_a_file_of_hnswlib_that_goes_on_is_refused(written):
    with pytest.raises(ArtifactError, match="its length"):
        from_hnswlib(written + b"\0\0\0\0", D)


def test_vectors_of_another_width_are_refused(written):
    with pytest.raises(ArtifactError, match="12 numbers|13 numbers"):
        from_hnswlib(written, D + 1)


def changed(array: np.ndarray, at: int, value: int) -> np.ndarray:
    copy = array.copy()
    copy[at] = value
    return copy


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda g: replace(g, targets=changed(g.targets, 5, N)), "a link"),
        (lambda g: replace(g, targets=changed(g.targets, 5, 2**32 - 1)), "a link"),
        (lambda g: replace(g, counts=changed(g.counts, 0, int(g.counts[0]) + 1)), "number of links"),
        (lambda g: replace(g, levels=changed(g.levels, 0, int(g.levels[0]) + 1)), "number of lists"),
        (lambda g: replace(g, entry=N), "entry"),
        (lambda g: replace(g, entry=int(np.argmin(g.levels))), "entry"),
        (lambda g: replace(g, m=1), "sizes"),
        (lambda g: replace(g, m=2), "length of a list"),
    ],
)
def test_a_graph_that_leads_out_of_itself_is_refused(parsed, spoil, said):
    with pytest.raises(ArtifactError, match=said):
        spoil(parsed.graph).check()


def test_a_link_to_a_node_that_is_not_in_its_layer_is_refused(parsed):
    """Otherwise hnswlib would dereference a null pointer."""
    graph = parsed.graph
    lists = np.cumsum(graph.levels.astype(int) + 1)
    node = next(n for n in range(N) if graph.levels[n] == 1 and graph.counts[lists[n] - 1])
    first = int(graph.counts[: lists[node] - 1].sum())
    flat = int(np.flatnonzero(graph.levels == 0)[0])

    with pytest.raises(ArtifactError, match="layer of a link"):
        replace(graph, targets=changed(graph.targets, first, flat)).check()


@pytest.fixture(params=["whole", "graph"])
def stored(request, vectors, parsed) -> StoredIndex:
    graph: Graph | None = parsed.graph if request.param == "graph" else None
    return StoredIndex(coded(vectors), (np.arange(N) % 5).astype(np.uint16), graph)


def test_a_stored_index_is_read_as_it_was_written(stored):
    content = index_file.to_bytes(stored)

    assert index_file.to_bytes(index_file.from_bytes(content, D)) == content


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c + b"\0", lambda c: c[:20], lambda c: b""])
def test_a_stored_index_of_another_length_is_refused(stored, change):
    with pytest.raises(ArtifactError, match="pose index"):
        index_file.from_bytes(change(index_file.to_bytes(stored)), D)


@pytest.mark.parametrize("at", range(8, 32, 4))
def test_a_size_that_is_not_true_is_refused_before_anything_is_allocated(stored, at):
    content = index_file.to_bytes(stored)
    with pytest.raises(ArtifactError, match="pose index"):
        index_file.from_bytes(content[:at] + b"\xff\xff\xff\x7f" + content[at + 4 :], D)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -1.0, 3e38])
def test_a_step_that_gives_no_unit_vectors_is_refused(stored, value):
    odd = replace(stored.vectors, step=changed(stored.vectors.step, 3, value))
    with pytest.raises(ArtifactError, match="range"):
        index_file.from_bytes(index_file.to_bytes(replace(stored, vectors=odd)), D)


def test_a_stored_vector_takes_a_byte_a_number(vectors):
    content = build_index(vectors, np.zeros(N, np.int64)).to_bytes()

    assert len(content) == 32 + 8 * D + N * (D + 2)


def test_vectors_within_range_are_added_without_touching_the_others(vectors):
    before = coded(vectors)

    after = before.with_added(vectors[10:20])

    assert np.array_equal(after.codes[:N], before.codes)
    assert np.array_equal(after.codes[N:], before.codes[10:20])


def test_vectors_out_of_range_widen_it(vectors):
    new = np.eye(1, D, dtype=np.float32)

    after = coded(vectors).with_added(new).directions()

    assert (after[-1] @ new[0]) > 0.9999
    assert np.sum(after[:N] * vectors, axis=1).min() > 0.999
