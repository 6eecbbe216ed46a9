"""Find the poses nearest to an embedding, and take a majority vote among them.

Vectors have unit length and are compared by inner product, which is their cosine. An index of at most `EXACT_NUMBERS`
values is searched exactly, by comparing every vector; on real embeddings that is no slower than a graph of the same
recall (benchmarks/results/index-*.md). A larger index is searched with hnswlib's graph. The graph is built in shuffled
order, because poses come gesture by gesture, and a graph built in that order finds a third fewer neighbours. If many
vectors are copies of each other, the search is exact for any size: in a graph, copies would link only to each other, so
that the search could not reach the rest.

Training draws EMG embeddings towards the poses of trained gestures. In an index of all gestures, these would therefore
win most votes on windows of untrained ones. A calibrated-stacking penalty (Chao et al. 2016) corrects this: it is
subtracted from the cosine of every prototype of a trained gesture before the nearest are chosen. The cosine that a vote
reports does not include it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cpep_edge import hnsw_file, index_file
from cpep_edge.errors import ArtifactError, ConfigError
from cpep_edge.hnsw_file import Graph
from cpep_edge.index_file import StoredIndex, StoredVectors

if TYPE_CHECKING:
    from cpep_edge.manifest import GraphSpec, IndexSpec, Search

EXACT_NUMBERS = 1 << 20  # values in all vectors: 16,384 vectors of width 64, 4,096 of width 256
M, EF_CONSTRUCTION, EF = 32, 400, 300  # of a graph: recall@10 of .99 on 10 000 real poses
MOST_COPIES = 8  # of one vector in a graph: with 50 of each, up to 23 % of votes differed from those of an exact search
SPACE = "ip"
_IN_GROUP = 32  # values per group in `_at_most_the_kth`


@dataclass(frozen=True, slots=True)
class Vote:
    """The majority among the nearest prototypes."""

    gesture_index: int
    share: float  # the winner's share of the k votes, 0..1
    similarity: float  # cosine of the winner's nearest prototype
    shares: tuple[float, ...] = field(default=(), compare=False)  # of each gesture; zeros at the end may be left out


def vote(gesture_index: NDArray[np.int64], similarity: NDArray[np.float32]) -> Vote:
    """Majority vote among neighbours; of gestures with equal counts, the one with the nearest neighbour wins.

    gesture_index, similarity: (k,), nearest first
    """
    counts = np.bincount(gesture_index)
    winner = next(int(g) for g in gesture_index if counts[g] == counts.max())
    shares = tuple((counts / len(gesture_index)).tolist())
    return Vote(winner, shares[winner], float(similarity[gesture_index == winner][0]), shares)


class Engine(Protocol):
    """A way to search vectors by their cosine minus their penalty."""

    def nearest(self, embedding: NDArray[np.float32], k: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Numbers and cosines of the k nearest vectors, nearest first, each (k,); k must not exceed their number."""
        ...


def _at_most_the_kth(values: NDArray[np.float32], k: int) -> float:
    """A lower bound of the k-th largest value that few other values reach.

    It is the k-th largest among the maxima of groups of values. At least k values reach it, so the k-th largest of all
    is no smaller. This takes a third of the time of a selection from all values.
    """
    n_grouped = len(values) // _IN_GROUP * _IN_GROUP
    if n_grouped < _IN_GROUP * k:
        return float(values.min())
    greatest = values[:n_grouped].reshape(_IN_GROUP, -1).max(axis=0)
    return float(np.partition(greatest, -k)[-k])


class _Exact:
    """Exact search, which compares every vector."""

    def __init__(self, vectors: NDArray[np.float32], penalty: NDArray[np.float32] | None) -> None:
        self._vectors, self._penalty = vectors, penalty

    def nearest(self, embedding: NDArray[np.float32], k: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        similarity = embedding @ self._vectors.T
        rank = similarity if self._penalty is None else similarity - self._penalty
        found = np.flatnonzero(~(rank < _at_most_the_kth(rank, k)))  # NaN, from a broken encoder, is kept
        found = found[np.argsort(-rank[found], kind="stable")[:k]]
        return found, similarity[found]


class _Hnsw:
    """Approximate search in hnswlib's graph.

    The penalty is one more number of every vector, which the query multiplies by one, so that the search goes by cosine
    minus penalty. Without it, the `ef` candidates in a large index would all be of trained gestures.
    """

    def __init__(
        self, graph: Graph, vectors: NDArray[np.float32], ef: int, penalty: NDArray[np.float32] | None
    ) -> None:
        import hnswlib

        self._penalty = penalty
        ranked = vectors if penalty is None else np.column_stack([vectors, -penalty])
        self._index = hnswlib.Index(space=SPACE, dim=ranked.shape[1])
        with _as_file(hnsw_file.to_hnswlib(graph, ranked)) as path:
            self._index.load_index(path)
        self._index.set_ef(ef)  # the file does not keep it

    def nearest(self, embedding: NDArray[np.float32], k: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        query = embedding if self._penalty is None else np.append(embedding, np.float32(1))
        try:
            (labels,), (distances,) = self._index.knn_query(query[None], k=k, num_threads=1)
        except RuntimeError as error:  # the search found fewer
            raise ArtifactError(f"the pose index is damaged: its graph does not lead to {k} prototypes") from error
        similarity = 1 - distances
        if self._penalty is not None:
            similarity += self._penalty[labels]
        return labels.astype(np.intp), similarity


class PoseIndex:
    """Prototypes of poses, each of which belongs to one gesture."""

    def __init__(self, stored: StoredIndex, ef: int = EF, gesture_penalty: Sequence[float] = ()) -> None:
        """ef: candidates of a search in the graph, if there is one
        gesture_penalty: (n_gestures,), subtracted from the cosines of each gesture; empty: no penalty
        """
        self.stored = stored
        self.vectors = stored.vectors.directions()  # (n_prototypes, d_embed), unit length
        self.gesture_index = stored.gesture_index.astype(np.int64)  # (n_prototypes,)
        penalty = np.array(gesture_penalty, np.float32)[self.gesture_index] if any(gesture_penalty) else None
        self._engine: Engine = (
            _Exact(self.vectors, penalty) if stored.graph is None else _Hnsw(stored.graph, self.vectors, ef, penalty)
        )

    @property
    def n_prototypes(self) -> int:
        """Prototypes in the index."""
        return len(self.vectors)

    def nearest(self, embedding: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The gestures and cosines of the k nearest prototypes, in order of cosine minus penalty.

        embedding: (d_embed,), unit length
        returns: gesture numbers (k,), similarities (k,)
        """
        found, similarity = self._engine.nearest(embedding, min(k, self.n_prototypes))
        return self.gesture_index[found], similarity

    def vote(self, embedding: NDArray[np.float32], k: int) -> Vote:
        """The gesture that most of the k nearest prototypes belong to."""
        return vote(*self.nearest(embedding, k))

    def to_bytes(self) -> bytes:
        """The content of the index file."""
        return index_file.to_bytes(self.stored)


def build_index(
    vectors: NDArray[np.float32] | StoredVectors,
    gesture_index: NDArray[np.int64],
    seed: int = 0,
    gesture_penalty: Sequence[float] = (),
    search: "Search" = "auto",
) -> PoseIndex:
    """Build an index; equal input gives an identical file.

    vectors: (n_prototypes, d_embed), unit length
    gesture_index: (n_prototypes,)
    gesture_penalty: (n_gestures,), as `PoseIndex` takes it; it is not stored in the file
    search: auto builds a graph where that is faster; hnsw always builds one, exact never
    Raises ConfigError when a graph is asked for but the vectors have too many copies.
    """
    coded = vectors if isinstance(vectors, StoredVectors) else index_file.coded(vectors)
    labels = gesture_index.astype(np.uint16)
    copies = search != "exact" and _has_copies(coded)
    if search == "hnsw" and copies:
        raise ConfigError(
            f"a graph loses votes where more than {MOST_COPIES} poses are the same, as they are here; export with "
            "--index exact"
        )
    if search == "exact" or copies or (search == "auto" and coded.codes.size <= EXACT_NUMBERS):
        return PoseIndex(StoredIndex(coded, labels, None), gesture_penalty=gesture_penalty)
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = coded.of(order)
    graph = build_graph(shuffled.directions(), seed)
    return PoseIndex(StoredIndex(shuffled, labels[order], graph), gesture_penalty=gesture_penalty)


def _has_copies(coded: StoredVectors) -> bool:
    """Whether a vector has so many copies that they would fill each other's lists of neighbours in a graph."""
    _, counts = np.unique(coded.codes, axis=0, return_counts=True)
    return int(counts.max()) > MOST_COPIES


def load_index(
    content: bytes, spec: "IndexSpec", *, n_gestures: int, d_embed: int, gesture_penalty: Sequence[float] = ()
) -> PoseIndex:
    """Load an index from bytes whose hash was checked.

    gesture_penalty: (n_gestures,), as `PoseIndex` takes it
    Raises ArtifactError when it is damaged or does not match the manifest.
    """
    stored = index_file.from_bytes(content, d_embed)
    if len(stored.gesture_index) != spec.n_prototypes:
        raise ArtifactError(f"the pose index holds {len(stored.gesture_index)} prototypes, not {spec.n_prototypes}")
    if int(stored.gesture_index.max()) >= n_gestures:
        raise ArtifactError(f"the pose index names a gesture beyond the manifest's {n_gestures}")
    if (stored.graph is None) != (spec.graph is None):
        raise ArtifactError("the pose index has a graph and the manifest knows of none, or the reverse")
    return PoseIndex(stored, EF if spec.graph is None else spec.graph.ef, gesture_penalty)


def graph_spec(index: PoseIndex) -> "GraphSpec | None":
    """The manifest's entry for the graph of a newly built index; None when it has no graph."""
    from cpep_edge.manifest import GraphSpec

    return None if index.stored.graph is None else GraphSpec(m=M, ef_construction=EF_CONSTRUCTION, ef=EF)


def build_graph(vectors: NDArray[np.float32], seed: int) -> Graph:
    """Build hnswlib's graph over vectors, (n, d), which must be in random order."""
    import hnswlib

    graph = hnswlib.Index(space=SPACE, dim=vectors.shape[1])
    graph.init_index(max_elements=len(vectors), M=M, ef_construction=EF_CONSTRUCTION, random_seed=seed)
    graph.set_num_threads(1)  # with several threads the order of insertion would vary
    graph.add_items(vectors, np.arange(len(vectors)))
    with NamedTemporaryFile() as file:
        graph.save_index(file.name)
        return hnsw_file.from_hnswlib(Path(file.name).read_bytes(), vectors.shape[1]).graph


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Yield the path of a file with these bytes, in memory if the system can do that."""
    in_memory = hasattr(os, "memfd_create")
    with os.fdopen(os.memfd_create("pose-index"), "wb") if in_memory else NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}" if in_memory else file.name
