"""hnswlib's graph as checked arrays, and conversion from and to hnswlib's file format.

hnswlib's loader trusts its file: a link, a size or a level out of range makes it read and write out of bounds (hnswlib
issue #673). So it is never given a file from elsewhere. Such a file is read here into a `Graph`, which is checked with
numpy, and the loader gets a new file that is written from that graph.

The layout is that of hnswlib 0.8.0 (`hnswalg.h`, `saveIndex`), little-endian with 64-bit sizes: a header; one record
per node, with its links in the bottom layer, its vector and its label; then each node's links in the layers above.

Shapes: n nodes, d numbers per vector, at most m links per node in the layers above the bottom and 2 m at the bottom.
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import ArtifactError

MAX_M = 127  # a byte must be able to count 2 m links
MAX_PROTOTYPES = 1 << 20
MAX_NUMBERS = 1 << 24  # in all vectors together, and separately of links in the bottom layer
MAX_LEVEL = 31  # hnswlib's levels grow only with log(n) / log(m) and stay far below
_HEADER = struct.Struct("<QQQQQQiIQQQdQ")
_EF_CONSTRUCTION = 200  # only used when nodes are added later, which never happens


@dataclass(frozen=True, slots=True)
class Graph:
    """The links of an index, in lists: node by node, and for each node from the bottom layer up."""

    m: int
    entry: int  # the node where a search starts
    levels: NDArray[np.uint8]  # (n,), the highest layer of each node
    counts: NDArray[np.uint8]  # (n_lists,), number of links in each list
    targets: NDArray[np.uint32]  # (n_links,), the linked nodes, list after list

    @property
    def n_nodes(self) -> int:
        """Number of nodes in the graph."""
        return len(self.levels)

    def check(self) -> None:
        """Raise ArtifactError unless every link leads to a node that exists in its layer and no list is too long."""
        _require(2 <= self.m <= MAX_M and 0 < self.n_nodes <= 2**32, "its sizes")
        _require(int(self.levels.max()) <= MAX_LEVEL, "a level")
        _require(len(self.counts) == int(self.levels.sum(dtype=np.int64)) + self.n_nodes, "its number of lists")
        _require(len(self.targets) == int(self.counts.sum(dtype=np.int64)), "its number of links")
        layer = _layers(self.levels).astype(np.uint8)
        _require(bool(np.all(self.counts <= np.where(layer == 0, 2 * self.m, self.m))), "the length of a list")
        _require(bool(np.all(self.targets < self.n_nodes)), "a link")
        _require(bool(np.all(self.levels[self.targets] >= np.repeat(layer, self.counts))), "the layer of a link")
        _require(0 <= self.entry < self.n_nodes and self.levels[self.entry] == self.levels.max(), "its entry")

    def padded_lists(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """The lists, each with its count first and padded with zeros: bottom, (n, 1 + 2 m), and above, (..., 1 + m)."""
        layer = _layers(self.levels)
        return self._padded(layer == 0, 2 * self.m), self._padded(layer > 0, self.m)

    def _padded(self, chosen: NDArray[np.bool_], width: int) -> NDArray[np.uint32]:
        counts = self.counts[chosen]
        lists = np.zeros((len(counts), 1 + width), np.uint32)
        lists[:, 0] = counts
        lists[:, 1:][np.arange(width) < counts[:, None]] = self.targets[np.repeat(chosen, self.counts)]
        return lists


def check_sizes(n: int, d: int, m: int, n_lists: int) -> None:
    """Raise ArtifactError for an index larger than any export writes, before memory for it is allocated.

    m: links per node, 0 without a graph
    n_lists: one for each layer of each node; few nodes have more than one layer
    """
    sizes = {"prototypes": (n, MAX_PROTOTYPES), "numbers": (n * d, MAX_NUMBERS), "links": (n * 2 * m, MAX_NUMBERS)}
    for what, (size, limit) in sizes.items():
        if size > limit:
            raise ArtifactError(f"the pose index is too large: {size:,} {what}, {limit:,} at the most")
    _require(n_lists <= 3 * n, "its number of lists")


def to_hnswlib(graph: Graph, vectors: NDArray[np.float32]) -> bytes:
    """The file that hnswlib loads; a node's label is its number.

    vectors: (n, d)
    Raises ArtifactError when `Graph.check` does.
    """
    graph.check()
    if len(vectors) != graph.n_nodes or not np.all(np.isfinite(vectors)):
        raise ValueError(f"{len(vectors)} vectors for {graph.n_nodes} nodes, or one that is not a number")
    bottom, above = graph.padded_lists()
    records = np.zeros(graph.n_nodes, _record(graph.m, vectors.shape[1]))
    records["links"], records["vector"], records["label"] = bottom, vectors, np.arange(graph.n_nodes)
    return _header(graph, vectors.shape[1]) + records.tobytes() + _tail(graph.levels, above)


class Parsed(NamedTuple):
    """The content of a hnswlib file, read and checked."""

    graph: Graph
    vectors: NDArray[np.float32]  # (n, d)
    labels: NDArray[np.uint64]  # (n,)


def from_hnswlib(content: bytes, d: int) -> Parsed:
    """Read a hnswlib file whose vectors have d numbers.

    Raises ArtifactError, naming the faulty part, when the file is not as hnswlib writes it.
    """
    _require(len(content) >= _HEADER.size, "its length")
    offset, capacity, n, size, label_at, vector_at, top, entry, max_m, max_m0, m, *_ = _HEADER.unpack_from(content)
    _require(2 <= m <= MAX_M and max_m == m and max_m0 == 2 * m, "its number of links")
    check_sizes(n, d, m, 0)
    record = _record(m, d)
    sizes = (record.itemsize, record.fields["label"][1], record.fields["vector"][1])  # type: ignore[index]
    _require((offset, size, label_at, vector_at) == (0, *sizes), f"the size of its vectors, which is not {d} numbers,")
    _require(0 < n <= capacity and _HEADER.size + n * (size + 4) <= len(content), "its number of nodes")
    records = np.frombuffer(content, record, n, _HEADER.size)
    levels, above = _read_tail(content, _HEADER.size + n * size, n, m)
    graph = _graph(m, entry, levels, records["links"], above)
    _require(top == int(levels.max()), "its highest level")
    _require(bool(np.all(np.isfinite(records["vector"]))), "a vector")
    graph.check()
    return Parsed(graph, records["vector"].copy(), records["label"].copy())


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ArtifactError(f"the pose index is damaged: {what} cannot be right")


def _record(m: int, d: int) -> np.dtype[np.void]:
    """The record of one node, packed: count and links of its bottom list, vector, label."""
    return np.dtype([("links", "<u4", (1 + 2 * m,)), ("vector", "<f4", (d,)), ("label", "<u8")])


def _header(graph: Graph, d: int) -> bytes:
    record, n, m = _record(graph.m, d), graph.n_nodes, graph.m
    label_at, vector_at = record.fields["label"][1], record.fields["vector"][1]  # type: ignore[index]
    top = int(graph.levels.max())
    return _HEADER.pack(
        0, n, n, record.itemsize, label_at, vector_at, top, graph.entry, m, 2 * m, m, 1 / np.log(m), _EF_CONSTRUCTION
    )


def _tail(levels: NDArray[np.uint8], above: NDArray[np.uint32]) -> bytes:
    """For each node, the size of its upper lists in bytes, and the lists."""
    parts, at = [], 0
    for level in levels.tolist():
        lists = above[at : at + level].tobytes()
        parts += [struct.pack("<I", len(lists)), lists]
        at += level
    return b"".join(parts)


def _read_tail(content: bytes, start: int, n: int, m: int) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """The level of each node, (n,), and the upper lists of all nodes, (n_lists - n, 1 + m)."""
    levels, lists, at = np.zeros(n, np.uint8), [], start
    for node in range(n):
        _require(at + 4 <= len(content), "its length")
        (size,) = struct.unpack_from("<I", content, at)
        level, rest = divmod(size, 4 + 4 * m)
        _require(rest == 0 and level <= MAX_LEVEL and at + 4 + size <= len(content), "the size of a list")
        levels[node] = level
        lists.append(content[at + 4 : at + 4 + size])
        at += 4 + size
    _require(at == len(content), "its length")
    return levels, np.frombuffer(b"".join(lists), "<u4").reshape(-1, 1 + m)


def _graph(
    m: int, entry: int, levels: NDArray[np.uint8], bottom: NDArray[np.uint32], above: NDArray[np.uint32]
) -> Graph:
    """Make a graph from the lists of the bottom, (n, 1 + 2 m), and those above, (..., 1 + m)."""
    _require(bool(np.all(bottom[:, 0] <= 2 * m) and np.all(above[:, 0] <= m)), "the length of a list")
    layer = _layers(levels)
    lists = np.zeros((len(layer), 1 + 2 * m), np.uint32)
    lists[layer == 0] = bottom
    lists[layer > 0, : 1 + m] = above
    counts = lists[:, 0].astype(np.uint8)
    return Graph(m, entry, levels, counts, lists[:, 1:][np.arange(2 * m) < counts[:, None]])


def _layers(levels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The layer of each list, (n_lists,)."""
    lists = levels.astype(np.int64) + 1
    first = np.cumsum(lists) - lists
    layers: NDArray[np.int64] = np.arange(lists.sum()) - np.repeat(first, lists)
    return layers
