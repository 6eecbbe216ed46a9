"""Ways to choose the poses that an index keeps: the default, and the alternatives that it was compared with.

Each takes poses (R, D), their labels (R,), the embedded EMG of training windows (W, D), how many to keep, and a seed.
It returns vectors (n, D) of unit length with their labels (n,).
"""

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from cpep_export.prototypes import find_prototypes
from cpep_train.evaluate import N_NEIGHBOURS

Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]
Choose = Callable[[Vectors, Labels, Vectors, int, int], tuple[Vectors, Labels]]


def asked(poses: Vectors, labels: Labels, windows: Vectors, size: int, seed: int) -> tuple[Vectors, Labels]:
    """The default, with a limit: the poses that are most often among the nearest to training windows."""
    least = min(50, size // (2 * len(np.unique(labels))))
    kept = find_prototypes(poses, labels, windows, k=N_NEIGHBOURS, n_most=size, least_per_gesture=least)
    return kept.embedding, kept.gesture_index


def subsample(poses: Vectors, labels: Labels, windows: Vectors, size: int, seed: int) -> tuple[Vectors, Labels]:
    """A random choice of the same number of poses of each gesture."""
    rng = np.random.default_rng(seed)
    each = size // len(np.unique(labels))
    chosen = np.concatenate([rng.permutation(np.flatnonzero(labels == g))[:each] for g in np.unique(labels)])
    return poses[chosen], labels[chosen]


def k_means(poses: Vectors, labels: Labels, windows: Vectors, size: int, seed: int) -> tuple[Vectors, Labels]:
    """The centres of the same number of k-means clusters in each gesture, scaled to unit length."""
    found = [_centres(poses[labels == g], size // len(np.unique(labels)), seed) for g in np.unique(labels)]
    return np.concatenate(found), np.repeat(np.unique(labels), [len(centres) for centres in found])


def medoids(poses: Vectors, labels: Labels, windows: Vectors, size: int, seed: int) -> tuple[Vectors, Labels]:
    """The pose nearest to each centre of k-means."""
    vectors, kept_labels = [], []
    for gesture in np.unique(labels):
        own = poses[labels == gesture]
        centres = _centres(own, size // len(np.unique(labels)), seed)
        chosen = np.unique(np.argmax(centres @ own.T, axis=1))
        vectors.append(own[chosen])
        kept_labels.append(np.full(len(chosen), gesture))
    return np.concatenate(vectors), np.concatenate(kept_labels)


def condensed(poses: Vectors, labels: Labels, windows: Vectors, size: int, seed: int) -> tuple[Vectors, Labels]:
    """Hart's condensed nearest neighbours (1968), in random order, up to the size.

    A pose is kept when the nearest of those kept so far is of another gesture.
    """
    order = np.random.default_rng(seed).permutation(len(poses))
    first = [int(order[labels[order] == gesture][0]) for gesture in np.unique(labels)]
    kept, is_kept = list(first), np.isin(np.arange(len(poses)), first)
    best = poses @ poses[kept].T
    nearest, similarity = labels[kept][best.argmax(axis=1)], best.max(axis=1)
    for place in order:
        if len(kept) >= size:
            break
        if is_kept[place] or nearest[place] == labels[place]:
            continue
        kept.append(int(place))
        is_kept[place] = True
        to_new = poses @ poses[place]
        closer = to_new > similarity
        similarity[closer], nearest[closer] = to_new[closer], labels[place]
    return poses[kept], labels[kept]


def _centres(poses: Vectors, n: int, seed: int) -> Vectors:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        centres = KMeans(min(n, len(poses)), n_init=1, max_iter=50, random_state=seed).fit(poses).cluster_centers_
    unit: Vectors = (centres / np.linalg.norm(centres, axis=1, keepdims=True)).astype(np.float32)
    return unit


CHOICES: dict[str, Choose] = {
    "asked for by EMG": asked,
    "subsample": subsample,
    "k-means": k_means,
    "medoids": medoids,
    "condensed": condensed,
}
