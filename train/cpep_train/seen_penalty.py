"""Calibrated stacking: a penalty on trained gestures, so that unseen gestures can win a vote.

EMG is embedded near the poses it was trained on. With all gestures in one index, most votes for a gesture that
training never saw therefore go to trained ones. Calibrated stacking (Chao et al. 2016) subtracts a constant from the
scores of trained gestures. The gestures of the test must not be used to choose it. So a corpus may set other gestures
apart for this: they are held out of training, and their recordings are in the validation split. On people whom
training never saw, the penalty with the highest harmonic mean of the accuracies on trained and set-apart gestures,
among all gestures, is chosen. If no gesture was set apart, it is the largest penalty that costs validation people a
fixed share of their accuracy on trained gestures.

Discounting hubs instead (cross-domain similarity local scaling, Conneau et al. 2018) was tried and did not help,
because it is the EMG and not the poses that is near to everything.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cpep_edge.manifest import PenaltyPoint
from cpep_train.corpus import Corpus
from cpep_train.evaluate import (
    EvaluationSet,
    answers,
    balanced_accuracy,
    choose,
    corpus_users,
    embed_emg,
    embed_poses,
    is_reference,
    select,
    torch_embedding,
)

PENALTIES = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3)
GIVEN_UP = 0.2  # share of validation people's accuracy on trained gestures that may be lost; our choice
_STEPS = 12  # of the bisection, for a resolution of a quarter of a thousandth
_LARGEST = 1.0  # largest penalty; cosines of one window seldom differ by more
_PER_RECORDING = 40  # windows


class Pair(Protocol):
    """Two encoders into one space: a checkpoint, or a baseline that is compared with it."""

    @property
    def emg(self) -> nn.Module: ...
    @property
    def pose(self) -> nn.Module: ...
    @property
    def seen_stages(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class SeenPenalty:
    """A penalty, and how it was chosen."""

    penalty: float
    curve: tuple[PenaltyPoint, ...] = ()  # empty: chosen by its cost on trained gestures


def choose_seen_penalty(
    pair: Pair, examples: EvaluationSet, queries: NDArray[np.float32], references: NDArray[np.float32]
) -> SeenPenalty:
    """The penalty of a model; none when all gestures are trained, or there are no validation people.

    examples: the evaluation set of the model; only its validation recordings of trained gestures are used
    queries: (Q, D), its embedded EMG
    references: (R, D), its embedded poses
    """
    if examples.seen.all():
        return SeenPenalty(0.0)
    apart = set_apart(pair, examples)
    if apart is not None:
        asked = embed_emg(torch_embedding(pair.emg), apart.queries)
        curve = penalty_curve(apart, asked, embed_poses(pair.pose, apart.references))
        best = max(curve, key=lambda point: (point.harmonic_mean, -point.seen_penalty))
        return SeenPenalty(best.seen_penalty, curve)
    bearable = largest_bearable(examples, queries, references)
    return SeenPenalty(0.0 if bearable is None else round(bearable, 4))


def set_apart(pair: Pair, examples: EvaluationSet) -> EvaluationSet | None:
    """Validation people's windows of trained gestures and of those set apart; None when either kind is missing.

    examples: of the same corpus
    """
    store = examples.queries.dataset.store
    corpus: Corpus = store.corpus
    gestures = (*pair.seen_stages, *corpus.validation_stages)
    rows = [(number, row) for number, row in enumerate(corpus.rows) if row.stage in gestures]
    asked = [number for number, row in rows if row.split == "val" and row.user not in corpus.trained_users]
    looked_up = [number for number, row in rows if is_reference(row)]
    if not corpus.validation_stages or not asked:
        return None
    queries = choose(store, asked, gestures, _PER_RECORDING, with_pose=False)
    seen = np.arange(len(gestures)) < len(pair.seen_stages)
    if len(np.unique(seen[queries.gesture_index])) < 2:
        return None
    references = choose(store, looked_up, gestures, _PER_RECORDING, with_pose=True)
    return EvaluationSet(gestures, seen, corpus_users(corpus), queries, references, examples.own_references)


def penalty_curve(
    examples: EvaluationSet, queries: NDArray[np.float32], references: NDArray[np.float32]
) -> tuple[PenaltyPoint, ...]:
    """The accuracies among all gestures for each of some penalties; arguments as in `answers`, with all queries."""
    everyone, everything = np.ones(len(queries), bool), np.ones(len(examples.gestures), bool)
    true, n = examples.queries.gesture_index, len(examples.gestures)
    points = []
    for penalty in PENALTIES:
        given = answers(examples, *with_seen_penalty(examples, queries, references, penalty), everyone, everything)
        confusion = np.zeros((n, n), np.int64)
        np.add.at(confusion, (true, given), 1)
        seen, unseen = (float(balanced_accuracy(confusion * kind[:, None])) for kind in (examples.seen, ~examples.seen))
        points.append(PenaltyPoint(seen_penalty=penalty, seen=round(seen, 4), unseen=round(unseen, 4)))
    return tuple(points)


def largest_bearable(
    examples: EvaluationSet, queries: NDArray[np.float32], references: NDArray[np.float32]
) -> float | None:
    """The largest penalty within the loss allowed on validation people; None when the set has none of them.

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


def with_seen_penalty(
    examples: EvaluationSet, queries: NDArray[np.float32], references: NDArray[np.float32], penalty: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Queries and references whose inner products are the cosines, minus the penalty for poses of trained gestures.

    An extra column holds the penalty, so it works with any inner-product index.
    returns: (Q, D + 1) and (R, D + 1)
    """
    of_trained = examples.seen[examples.references.gesture_index][:, None]
    with_one = np.pad(queries, ((0, 0), (0, 1)), constant_values=1)
    return with_one, np.hstack((references, -penalty * of_trained.astype(np.float32)))


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
    penalty: float,
) -> float:
    """Balanced accuracy of some queries with all gestures in the index."""
    n_gestures = len(examples.gestures)
    everything = np.ones(n_gestures, bool)
    given = answers(examples, *with_seen_penalty(examples, queries, references, penalty), asked, everything)
    confusion = np.zeros((n_gestures, n_gestures), np.int64)
    np.add.at(confusion, (examples.queries.gesture_index[asked], given), 1)
    return float(balanced_accuracy(confusion))
