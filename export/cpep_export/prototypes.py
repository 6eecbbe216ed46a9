"""Shrink the poses of training to a few prototypes a gesture, and index them.

All training windows of a gesture make a cloud on the unit sphere; its prototypes are the centres that k-means finds in
it, put back on the sphere. Few are enough for the vote, and they are what a device can hold.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_edge.pose_index import PoseIndex, build_index


@dataclass(frozen=True, slots=True)
class Prototypes:
    """Points on the unit sphere, each of one gesture, gesture by gesture."""

    embedding: NDArray[np.float32]  # (n_prototypes, d_embed), unit length
    gesture_index: NDArray[np.int64]  # (n_prototypes,)

    def of_gestures(self, allowed: NDArray[np.bool_]) -> "Prototypes":
        """Those of some gestures; allowed: (n_gestures,)."""
        chosen = allowed[self.gesture_index]
        return Prototypes(self.embedding[chosen], self.gesture_index[chosen])


def find_prototypes(
    embedding: NDArray[np.float32], gesture_index: NDArray[np.int64], n_per_gesture: int, seed: int
) -> Prototypes:
    """Choose prototypes for every gesture; the same input gives the same prototypes.

    embedding: (n_poses, d_embed), unit length
    gesture_index: (n_poses,)
    n_per_gesture: fewer where a gesture has fewer distinct poses
    """
    gestures = np.unique(gesture_index)
    centres = [_centres(embedding[gesture_index == gesture], n_per_gesture, seed) for gesture in gestures]
    return Prototypes(np.concatenate(centres), np.repeat(gestures, [len(c) for c in centres]))


def index_prototypes(prototypes: Prototypes, *, m: int, ef_construction: int, ef: int, seed: int) -> PoseIndex:
    """The search index over prototypes."""
    return build_index(
        prototypes.embedding, prototypes.gesture_index, m=m, ef_construction=ef_construction, ef=ef, seed=seed
    )


def _centres(embedding: NDArray[np.float32], n: int, seed: int) -> NDArray[np.float32]:
    """Centres of one gesture, (<= n, d_embed)."""
    distinct = np.unique(embedding, axis=0)
    if len(distinct) <= n:
        return distinct
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly equal poses: fewer centres would do as well
        centres = KMeans(n, n_init=1, random_state=seed).fit(embedding).cluster_centers_
    unit: NDArray[np.float32] = (centres / np.linalg.norm(centres, axis=1, keepdims=True)).astype(np.float32)
    return unit
