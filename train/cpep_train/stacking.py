"""Calibrated stacking: a handicap for trained gestures, so that held-out ones get a hearing.

EMG lands near the poses that it was trained to land near. With all gestures in one index, most votes of a gesture that
training never saw therefore go to trained ones (Chao et al. 2016, who named it and take a constant from the seen
classes' scores). How large the constant may be is chosen without any unseen gesture: the largest that costs people of
the validation split a fixed share of their accuracy on trained gestures. Discounting hubs instead (cross-domain
similarity local scaling, Conneau et al. 2018) was tried and did not help: the poses are not nearer to everything, the
EMG is.
"""

import numpy as np
from numpy.typing import NDArray

from cpep_train.evaluate import EvaluationSet, answers, balanced_accuracy, select

GIVEN_UP = 0.2  # share of the validation people's accuracy on trained gestures: our choice
_STEPS = 12  # of the bisection, to a quarter of a thousandth
_LARGEST = 1.0  # of a handicap; cosines of one window seldom differ by more


def choose_handicap(
    examples: EvaluationSet, queries: NDArray[np.float32], references: NDArray[np.float32]
) -> float | None:
    """The largest handicap that validation people can bear; None where the set has none of them.

    queries: (Q, D), embedded EMG; of it, validation recordings of trained gestures are used
    references: (R, D), embedded poses
    """
    asked = _validation(examples)
    if not asked.any():
        return None
    kept = (1 - GIVEN_UP) * _accuracy(examples, queries, references, asked, 0.0)
    low, high = 0.0, _LARGEST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        bearable = _accuracy(examples, queries, references, asked, middle) >= kept
        low, high = (middle, high) if bearable else (low, middle)
    return low


def with_handicap(
    examples: EvaluationSet, queries: NDArray[np.float32], references: NDArray[np.float32], handicap: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Queries and references whose inner products are the cosines, less the handicap for poses of trained gestures.

    One column more carries it, so any index of inner products can hold it.
    returns: (Q, D + 1), or of M queries (Q, M (D + 1)), and (R, D + 1)
    """
    of_trained = examples.seen[examples.references.gesture_index][:, None]
    vectors = queries.reshape(len(queries), -1, references.shape[1])
    with_one = np.pad(vectors, ((0, 0), (0, 0), (0, 1)), constant_values=1).reshape(len(queries), -1)
    return with_one, np.hstack((references, -handicap * of_trained.astype(np.float32)))


def _validation(examples: EvaluationSet) -> NDArray[np.bool_]:
    """Queries of validation recordings: of known people and trained gestures, (Q,)."""
    rows = examples.queries.dataset.store.corpus.rows
    of_validation = np.array([rows[number].split == "val" for number, _ in examples.queries.places], bool)
    return of_validation & (select(examples, "validation", "seen")[0] | select(examples, "known", "seen")[0])


def _accuracy(
    examples: EvaluationSet,
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    asked: NDArray[np.bool_],
    handicap: float,
) -> float:
    """Balanced accuracy of some queries with all gestures in the index."""
    n_gestures = len(examples.gestures)
    everything = np.ones(n_gestures, bool)
    given = answers(examples, *with_handicap(examples, queries, references, handicap), asked, everything)
    confusion = np.zeros((n_gestures, n_gestures), np.int64)
    np.add.at(confusion, (examples.queries.gesture_index[asked], given), 1)
    return float(balanced_accuracy(confusion))
