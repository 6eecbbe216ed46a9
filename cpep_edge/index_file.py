"""The pose index on disk: prototypes quantised to one byte per number, and hnswlib's graph if there is one.

Each of the d dimensions has its own range, from the least to the largest value in the index, divided into 255 steps.
Vectors are normalised to unit length when they are read. A small index is searched exhaustively and ends after its
vectors. A large one also has the links of hnswlib's graph, two bytes each up to 65 536 prototypes.

All sizes follow from the header. The file must have exactly their sum, and the graph is checked before use.

Shapes: n prototypes of d numbers.
"""

import struct
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import ArtifactError
from cpep_edge.hnsw_file import Graph, check_sizes

_Number = TypeVar("_Number", bound=np.generic)

_MAGIC = b"CPEPIDX\x02"
_HEADER = struct.Struct("<8sIIIIII")  # magic; n, d, m (0: no graph), entry, n_lists, n_links
_STEPS = 255
_LARGEST = 2.0  # numbers of a unit vector are far below
_SHORTEST = 1e-3  # a stored unit vector differs in length from 1 only by rounding


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """Vectors quantised to bytes: number j of a vector is `low[j] + step[j] * code`."""

    low: NDArray[np.float32]  # (d,)
    step: NDArray[np.float32]  # (d,)
    codes: NDArray[np.uint8]  # (n, d)

    def directions(self) -> NDArray[np.float32]:
        """The vectors, normalised to unit length, (n, d)."""
        vectors = self.low + self.step * self.codes
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def of(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "StoredVectors":
        """A selection of the vectors."""
        return StoredVectors(self.low, self.step, self.codes[chosen])

    def with_added(self, vectors: NDArray[np.float32]) -> "StoredVectors":
        """Append vectors, (n', d); the present codes are kept if the new vectors are within their range."""
        codes = np.rint((vectors - self.low) / self.step)
        if codes.min() < 0 or codes.max() > _STEPS:
            return coded(np.concatenate([self.low + self.step * self.codes, vectors]))
        return StoredVectors(self.low, self.step, np.concatenate([self.codes, codes.astype(np.uint8)]))


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """The content of an index file."""

    vectors: StoredVectors
    gesture_index: NDArray[np.uint16]  # (n,)
    graph: Graph | None  # None: a small index, which is searched exhaustively


def coded(vectors: NDArray[np.float32]) -> StoredVectors:
    """Quantise vectors, (n, d), to bytes."""
    low = vectors.min(axis=0)
    step = np.maximum((vectors.max(axis=0) - low) / _STEPS, np.float32(1e-9))
    return StoredVectors(low, step, np.rint((vectors - low) / step).astype(np.uint8))


def to_bytes(index: StoredIndex) -> bytes:
    """The content of an index file. Raises ArtifactError when it is too large to be read again."""
    vectors, graph = index.vectors, index.graph
    n, d = vectors.codes.shape
    check_sizes(n, d, 0 if graph is None else graph.m, 0)
    sizes = (0, 0, 0, 0) if graph is None else (graph.m, graph.entry, len(graph.counts), len(graph.targets))
    arrays: list[NDArray[np.generic]] = [vectors.low, vectors.step, index.gesture_index, vectors.codes]
    if graph is not None:
        arrays += [graph.levels, graph.counts, graph.targets.astype(_link_type(n))]
    return b"".join([_HEADER.pack(_MAGIC, n, d, *sizes), *(array.tobytes() for array in arrays)])


def from_bytes(content: bytes, d_embed: int) -> StoredIndex:
    """Read an index file; raises ArtifactError when it is not one, is damaged, or its vectors are not (d_embed,)."""
    if len(content) < _HEADER.size or not content.startswith(_MAGIC):
        raise ArtifactError("the pose index is not in a format that this cpep-edge reads; export the bundle again")
    _, n, d, m, entry, n_lists, n_links = _HEADER.unpack_from(content)
    if d != d_embed or n == 0:
        raise ArtifactError(f"the pose index holds {n} vectors of {d} numbers, the encoder gives {d_embed}")
    check_sizes(n, d, m, n_lists)
    link_type = _link_type(n)
    graph_bytes = n + n_lists + n_links * np.dtype(link_type).itemsize if m else 0
    of_no_graph = not m and (entry or n_lists or n_links)
    if of_no_graph or len(content) != _HEADER.size + 2 * 4 * d + 2 * n + n * d + graph_bytes:
        raise ArtifactError("the pose index is damaged: its length does not follow from its header")
    read = _Reader(content, _HEADER.size)
    low, step, gesture_index = read.array(np.float32, d), read.array(np.float32, d), read.array(np.uint16, n)
    vectors = StoredVectors(low, step, read.array(np.uint8, n * d).reshape(n, d))
    _check(vectors)
    if not m:
        return StoredIndex(vectors, gesture_index, None)
    levels, counts = read.array(np.uint8, n), read.array(np.uint8, n_lists)
    graph = Graph(m, entry, levels, counts, read.array(link_type, n_links).astype(np.uint32))
    graph.check()
    return StoredIndex(vectors, gesture_index, graph)


def _check(vectors: StoredVectors) -> None:
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow is not below the limit, and is refused
        high = vectors.low + _STEPS * vectors.step
    inside = np.all(np.abs(vectors.low) < _LARGEST) and np.all(np.abs(high) < _LARGEST)
    if not (inside and np.all(vectors.step > 0)):
        raise ArtifactError("the pose index is damaged: the range of a number is not that of a unit vector")
    if not np.all(np.linalg.norm(vectors.low + vectors.step * vectors.codes, axis=1) > _SHORTEST):
        raise ArtifactError("the pose index is damaged: a vector has no direction")


def _link_type(n: int) -> type[np.uint16] | type[np.uint32]:
    return np.uint16 if n <= 1 << 16 else np.uint32


class _Reader:
    """Reads successive arrays from bytes, whose length was checked."""

    def __init__(self, content: bytes, at: int) -> None:
        self._content, self._at = content, at

    def array(self, kind: type[_Number], n: int) -> NDArray[_Number]:
        array = np.frombuffer(self._content, kind, n, self._at)
        self._at += array.nbytes
        return array
