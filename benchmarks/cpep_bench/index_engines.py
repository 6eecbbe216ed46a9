"""Search engines for the pose index, ours and its peers, with one interface: a query (D,) to places of the ten nearest.

Each is built from vectors (n, D) and labels (n,), written to a file, and reports the size of that file in bytes.
"""

from collections.abc import Callable
from pathlib import Path

import hnswlib
import numpy as np
from numpy.typing import NDArray

from cpep_edge import pose_index
from cpep_edge.hnsw_file import check_sizes
from cpep_edge.index_file import StoredIndex, coded, to_bytes
from cpep_edge.pose_index import PoseIndex

Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]
Search = Callable[[Vectors], NDArray[np.int64]]
Build = Callable[[Vectors, Labels, Path], tuple[Search, int]]

_K = 10
_SEED = 0


def exact(vectors: Vectors, labels: Labels, file: Path) -> tuple[Search, int]:
    """Exact search in float32 with numpy."""

    def search(query: Vectors) -> NDArray[np.int64]:
        similarity = vectors @ query
        found = np.argpartition(similarity, -_K)[-_K:]
        return found[np.argsort(-similarity[found])]

    return search, vectors.nbytes + 2 * len(vectors)


def ours_whole(vectors: Vectors, labels: Labels, file: Path) -> tuple[Search, int]:
    """cpep-edge with exact search; vectors are stored as bytes."""
    return _ours(StoredIndex(coded(vectors), labels.astype(np.uint16), None))


def ours_graph(vectors: Vectors, labels: Labels, file: Path) -> tuple[Search, int]:
    """cpep-edge with hnswlib's graph, which an index larger than `EXACT_NUMBERS` has."""
    stored = coded(vectors)
    n, d = vectors.shape
    check_sizes(n, d, pose_index.M, 0)
    graph = pose_index.build_graph(stored.directions(), _SEED)
    return _ours(StoredIndex(stored, labels.astype(np.uint16), graph))


def _ours(stored: StoredIndex) -> tuple[Search, int]:
    engine = PoseIndex(stored)._engine
    return lambda query: engine.nearest(query, _K)[0].astype(np.int64), len(to_bytes(stored))


def hnswlib_of(ef: int) -> Build:
    """hnswlib with its defaults of M 16 and ef_construction 200; its default of ef is 10."""

    def build(vectors: Vectors, labels: Labels, file: Path) -> tuple[Search, int]:
        index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        index.init_index(max_elements=len(vectors), random_seed=_SEED)
        index.add_items(vectors, np.arange(len(vectors)), num_threads=1)
        index.set_ef(ef)
        index.save_index(str(file))
        return (
            lambda query: index.knn_query(query[None], k=_K, num_threads=1)[0][0].astype(np.int64)
        ), file.stat().st_size

    return build


def usearch_of(dtype: str) -> Build:
    """usearch with its defaults; vectors are stored as float16 or int8."""

    def build(vectors: Vectors, labels: Labels, file: Path) -> tuple[Search, int]:
        from usearch.index import Index as UsearchIndex

        index = UsearchIndex(ndim=vectors.shape[1], metric="cos", dtype=dtype)
        index.add(np.arange(len(vectors)), vectors, threads=1)
        index.save(str(file))
        return lambda query: index.search(query, _K, threads=1).keys.astype(np.int64), file.stat().st_size

    return build


def faiss_of(description: str) -> Build:
    """faiss with an index by its factory's description; a graph has ef 64."""

    def build(vectors: Vectors, labels: Labels, file: Path) -> tuple[Search, int]:
        import faiss

        faiss.omp_set_num_threads(1)
        index = faiss.index_factory(vectors.shape[1], description, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        if hasattr(index, "hnsw"):
            index.hnsw.efSearch = 64
        faiss.write_index(index, str(file))
        return lambda query: index.search(query[None], _K)[1][0], file.stat().st_size

    return build


ENGINES: dict[str, Build] = {
    "numpy, float32, exact": exact,
    "cpep-edge, whole": ours_whole,
    f"cpep-edge, graph, M {pose_index.M}, ef {pose_index.EF}": ours_graph,
    "hnswlib, defaults, ef 10": hnswlib_of(10),
    "hnswlib, ef 64": hnswlib_of(64),
    "hnswlib, ef 300": hnswlib_of(300),
    "usearch, f16, defaults": usearch_of("f16"),
    "usearch, i8, defaults": usearch_of("i8"),
    "faiss, flat": faiss_of("Flat"),
    "faiss, SQ8": faiss_of("SQ8"),
    "faiss, HNSW32": faiss_of("HNSW32"),
    "faiss, HNSW32 SQ8": faiss_of("HNSW32_SQ8"),
}
GROWN = {  # one engine of each kind, for indices with more poses than a corpus has
    name: build
    for name, build in ENGINES.items()
    if name in ("numpy, float32, exact", "hnswlib, ef 64", "usearch, i8, defaults", "faiss, SQ8", "faiss, HNSW32 SQ8")
    or name.startswith("cpep-edge")
}
