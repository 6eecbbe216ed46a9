"""Choose the poses that a device keeps: those that are near EMG embeddings.

EMG is embedded into a small part of the pose cloud: on the simulated corpus of the demo, the ten neighbours of all
training windows together are less than a third of all poses. The rest never votes. So a pose is kept if it is among the
neighbours of training windows, the most frequent ones first when space is limited. Every gesture also keeps some poses
of its own, the most frequent neighbours when it is the only one in the index, because EMG of a gesture that was never
trained on must find it too. benchmarks/results/index-*.md compares this with k-means, medoids, condensing and
subsampling.

Shapes: R poses, W windows, D width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

INDEX_BYTES = 4_000_000  # largest size of the vectors of an index
CHIP_INDEX_BYTES = 1_000_000  # and on a microcontroller
LEAST_PER_GESTURE = 50  # poses that every gesture keeps, if it has so many
_COSINES_AT_ONCE = 1 << 25  # bounds memory


@dataclass(frozen=True, slots=True)
class Prototypes:
    """Points on the unit sphere, each of one gesture, gesture by gesture."""

    embedding: NDArray[np.float32]  # (n_prototypes, d_embed), unit length
    gesture_index: NDArray[np.int64]  # (n_prototypes,)
    gesture_penalty: tuple[float, ...] = ()  # (n_gestures,), subtracted from the cosines of each; empty: none

    @property
    def penalty(self) -> NDArray[np.float32]:
        """The penalty subtracted from the cosine of each prototype, (n_prototypes,)."""
        if not self.gesture_penalty:
            return np.zeros(len(self.gesture_index), np.float32)
        return np.array(self.gesture_penalty, np.float32)[self.gesture_index]

    def of_gestures(self, allowed: NDArray[np.bool_]) -> "Prototypes":
        """Those of some gestures; allowed: (n_gestures,)."""
        chosen = allowed[self.gesture_index]
        return Prototypes(self.embedding[chosen], self.gesture_index[chosen], self.gesture_penalty)


def find_prototypes(
    poses: NDArray[np.float32],
    gesture_index: NDArray[np.int64],
    windows: NDArray[np.float32],
    *,
    k: int,
    n_most: int | None = None,
    most_bytes: int = INDEX_BYTES,
    least_per_gesture: int = LEAST_PER_GESTURE,
    gesture_penalty: tuple[float, ...] = (),
) -> Prototypes:
    """Choose prototypes among poses; the same input gives the same prototypes.

    poses: (R, D), unit length
    gesture_index: (R,)
    windows: (W, D), embedded EMG of training windows; of several queries (W, M D)
    k: neighbours that vote
    gesture_penalty: of the index, which influences the neighbours
    n_most: number of prototypes in all, unless the gestures' own are more; None: as many as fit `most_bytes`
    """
    n_most = most_bytes // (poses.shape[1] + 2) if n_most is None else n_most
    kept = np.zeros(len(poses), bool)
    for gesture in np.unique(gesture_index):
        own = np.flatnonzero(gesture_index == gesture)
        most_asked = np.argsort(-times_asked(poses[own], windows, k), kind="stable")
        kept[own[most_asked[:least_per_gesture]]] = True
    penalty = Prototypes(poses, gesture_index, gesture_penalty).penalty
    asked = times_asked(poses, windows, k, penalty)
    ranked = np.argsort(-asked, kind="stable")
    wanted = ranked[asked[ranked] > 0]
    kept[wanted[~kept[wanted]][: max(0, n_most - int(kept.sum()))]] = True
    chosen = np.flatnonzero(kept)[np.argsort(gesture_index[kept], kind="stable")]
    return Prototypes(poses[chosen], gesture_index[chosen], gesture_penalty)


def times_asked(
    poses: NDArray[np.float32], windows: NDArray[np.float32], k: int, penalty: NDArray[np.float32] | float = 0.0
) -> NDArray[np.int64]:
    """The number of windows that have each pose among their k nearest, (R,).

    penalty: (R,), subtracted from the cosines
    """
    n = len(poses)
    k, asked = min(k, n), np.zeros(n, np.int64)
    in_group = max(1, min(64, n // (8 * k)))
    grouped, step = n // in_group * in_group, max(1, _COSINES_AT_ONCE // n)
    for start in range(0, len(windows), step):
        similarity = windows[start : start + step] @ poses.T
        similarity -= penalty
        # the k-th greatest of the groups' greatest is at most the k-th greatest of all, and few reach it: six times as
        # fast as a selection from all, with a million poses
        greatest = similarity[:, :grouped].reshape(len(similarity), in_group, -1).max(axis=1)
        window, pose = np.nonzero(similarity >= np.partition(greatest, -k, axis=1)[:, -k, None])
        order = np.lexsort((-similarity[window, pose], window))
        first = np.searchsorted(window, np.arange(len(similarity)))
        nearest = order[(first[:, None] + np.arange(k)).ravel()]
        asked += np.bincount(pose[nearest], minlength=n)
    return asked
