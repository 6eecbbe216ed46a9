"""Look up the poses nearest to an embedding, and let them vote.

The engine is hnswlib over unit vectors with inner product, so that distance is one minus the cosine. A prototype's
label carries its gesture: `label = gesture_index * LABEL_STRIDE + number`, so the index file alone is enough to vote.
hnswlib's own loader trusts its file, and a malformed one makes it write out of bounds: only bytes whose hash was
checked may come here.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import hnswlib
import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import ArtifactError

LABEL_STRIDE = 1 << 20
SPACE = "ip"


@dataclass(frozen=True, slots=True)
class Vote:
    """The majority among the nearest prototypes."""

    gesture_index: int
    share: float  # of the k votes, 0..1
    similarity: float  # cosine of the winner's nearest prototype


def vote(gesture_index: NDArray[np.int64], similarity: NDArray[np.float32]) -> Vote:
    """Majority vote among neighbours; between equal counts the one with the nearest neighbour wins.

    gesture_index, similarity: (k,), nearest first
    """
    counts = np.bincount(gesture_index)
    winner = next(int(g) for g in gesture_index if counts[g] == counts.max())
    return Vote(winner, float(counts[winner]) / len(gesture_index), float(similarity[gesture_index == winner][0]))


class PoseIndex:
    """Prototypes of poses, each of one gesture."""

    def __init__(self, graph: hnswlib.Index) -> None:
        self._graph = graph

    @property
    def n_prototypes(self) -> int:
        """Prototypes in the index."""
        return int(self._graph.get_current_count())

    def nearest(self, embedding: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The gestures and cosines of the k nearest prototypes, nearest first.

        embedding: (d_embed,), unit length
        returns: gesture numbers (k,), similarities (k,)
        """
        labels, distances = self._graph.knn_query(embedding[None], k=min(k, self.n_prototypes), num_threads=1)
        return (labels[0] // LABEL_STRIDE).astype(np.int64), 1 - distances[0]

    def vote(self, embedding: NDArray[np.float32], k: int) -> Vote:
        """The gesture that most of the k nearest prototypes belong to."""
        return vote(*self.nearest(embedding, k))

    def save(self, path: Path) -> None:
        """Write the index as hnswlib does."""
        self._graph.save_index(str(path))


def build_index(
    prototypes: NDArray[np.float32],
    gesture_index: NDArray[np.int64],
    *,
    m: int,
    ef_construction: int,
    ef: int,
    seed: int,
) -> PoseIndex:
    """Build an index; the same input gives the same file.

    prototypes: (n_prototypes, d_embed), unit length
    gesture_index: (n_prototypes,)
    """
    graph = hnswlib.Index(space=SPACE, dim=prototypes.shape[1])
    graph.init_index(max_elements=len(prototypes), M=m, ef_construction=ef_construction, random_seed=seed)
    graph.set_num_threads(1)  # several threads insert in an order of their own
    graph.add_items(prototypes, gesture_index * LABEL_STRIDE + np.arange(len(prototypes)))
    graph.set_ef(ef)
    return PoseIndex(graph)


def load_index(content: bytes, *, n_prototypes: int, n_gestures: int, d_embed: int, ef: int) -> PoseIndex:
    """Load an index from bytes whose hash was checked.

    Raises ArtifactError when it holds another number of prototypes than the manifest says.
    """
    graph = hnswlib.Index(space=SPACE, dim=d_embed)
    try:
        with _as_file(content) as path:
            graph.load_index(path)
    except RuntimeError as error:
        raise ArtifactError(f"the pose index cannot be read: {error}") from error
    if graph.get_current_count() != n_prototypes:
        raise ArtifactError(f"the pose index holds {graph.get_current_count()} prototypes, not {n_prototypes}")
    if max(graph.get_ids_list()) // LABEL_STRIDE >= n_gestures:
        raise ArtifactError(f"the pose index names a gesture beyond the manifest's {n_gestures}")
    graph.set_ef(ef)  # hnswlib forgets it with the file
    return PoseIndex(graph)


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path to exactly these bytes, in memory where the system can, so that nobody swaps the file after its check."""
    in_memory = hasattr(os, "memfd_create")
    with os.fdopen(os.memfd_create("pose-index"), "wb") if in_memory else NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}" if in_memory else file.name
