"""The geometry of EMG and pose embeddings, without any vote: figures that help to explain a score.

All take embeddings of unit length. "Paired" means that row i of both is the same window.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_edge.spread import evenly_spread

N_NEIGHBOURS = 10
_MOST_PAIRS = 2_000  # pairwise figures are estimated on this many windows, evenly chosen


@dataclass(frozen=True, slots=True)
class EmbeddingQuality:
    """The figures for one kind of window."""

    linear_cka: float  # 1: EMG and pose embeddings differ by a rotation and a scale
    alignment: float  # mean squared distance of pairs; 0 is best, 2 is unrelated
    uniformity_emg: float  # log of the mean Gaussian potential; lower is more evenly spread
    uniformity_pose: float
    neighbour_consistency: float  # share of a window's nearest windows, of other recordings, with its gesture
    modality_gap: float  # distance of the two mean embeddings
    effective_rank_emg: float  # dimensions in use: exponential of the entropy of the spectrum
    effective_rank_pose: float
    n_windows: int


def embedding_quality(
    emg: NDArray[np.float32],
    pose: NDArray[np.float32],
    gesture: NDArray[np.int64],
    recording: NDArray[np.int64],
) -> EmbeddingQuality:
    """Every figure for some paired windows.

    emg, pose: (n, D)
    gesture, recording: (n,)
    """
    kept = evenly_spread(len(emg), _MOST_PAIRS)
    emg, pose, gesture, recording = emg[kept], pose[kept], gesture[kept], recording[kept]
    return EmbeddingQuality(
        linear_cka=linear_cka(emg, pose),
        alignment=alignment(emg, pose),
        uniformity_emg=uniformity(emg),
        uniformity_pose=uniformity(pose),
        neighbour_consistency=neighbour_consistency(emg, gesture, recording),
        modality_gap=float(np.linalg.norm(emg.mean(axis=0) - pose.mean(axis=0))),
        effective_rank_emg=effective_rank(emg),
        effective_rank_pose=effective_rank(pose),
        n_windows=len(emg),
    )


def linear_cka(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Linear centred kernel alignment of paired rows (Kornblith et al. 2019); nan where a side is constant."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    together = np.linalg.norm(a.T @ b) ** 2
    alone = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return float(together / alone) if alone > 0 else float("nan")


def alignment(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Mean squared distance of paired rows (Wang & Isola 2020, alpha = 2)."""
    return float(np.mean(np.sum((a - b) ** 2, axis=1)))


def uniformity(rows: NDArray[np.float32]) -> float:
    """Log of the mean of exp(-2 d^2) over all pairs of different rows (Wang & Isola 2020, t = 2)."""
    squared = np.maximum(0, 2 - 2 * (rows @ rows.T))[np.triu_indices(len(rows), k=1)]
    return float(np.log(np.mean(np.exp(-2 * squared))))


def neighbour_consistency(
    rows: NDArray[np.float32], gesture: NDArray[np.int64], recording: NDArray[np.int64], k: int = N_NEIGHBOURS
) -> float:
    """Mean share of the k nearest rows of other recordings that have the row's gesture."""
    similarity = rows @ rows.T
    similarity[recording[:, None] == recording[None, :]] = -np.inf
    k = min(k, int(np.isfinite(similarity).sum(axis=1).min()))
    if k == 0:
        return float("nan")
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    return float(np.mean(gesture[nearest] == gesture[:, None]))


def effective_rank(rows: NDArray[np.float32]) -> float:
    """Exponential of the entropy of the normalised singular values of the centred rows (Roy & Vetterli 2007)."""
    values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    share = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(share * np.log(share))))


def recall_at(
    queries: NDArray[np.float32], references: NDArray[np.float32], right: NDArray[np.bool_], k: int
) -> NDArray[np.bool_]:
    """Whether any of the k nearest references is correct, (Q,).

    right: (Q, R), which references are correct for each query
    """
    similarity = queries @ references.T
    k = min(k, len(references))
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    hit: NDArray[np.bool_] = np.take_along_axis(right, nearest, axis=1).any(axis=1)
    return hit
