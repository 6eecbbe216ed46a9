"""Choose what classifies gestures whose EMG was trained on: the poses nearest to the embedding, or a head.

A head reads the front end's tokens, the encoder's embedding, or both. Each is fitted on training people, adapted to
each wearer by the unlabelled calibration, as in live use, and scored on people of the validation split. The best one
goes into the bundle, and the scores of the others are recorded. A head on tokens alone is the baseline for an encoder.

Shapes: Q queries, F numbers per token, D of the embedding, K gestures.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cpep_edge.calibration import ADAPTING_HOP_S
from cpep_edge.head import Head, calibrate_temperature, fit_head
from cpep_edge.manifest import HeadSpec
from cpep_export.rejection import watched
from cpep_export.training_windows import drawn_windows
from cpep_train.checkpoint import Checkpoint
from cpep_train.corpus import FREE_STAGE
from cpep_train.donnings import DonningKey
from cpep_train.evaluate import EvaluationSet, Examples, balanced_accuracy, torch_embedding
from cpep_train.plain_head import mean_tokens
from cpep_train.windows import WindowDataset

HEAD_FILE = "head.npz"
FITTING_WINDOWS = 20_000
TYPICAL_KEPT = 0.95  # share of right answers above the typicality limit; below it the index may answer
_AT_ONCE = 256

Reads = Literal["tokens", "embedding", "both"]
READS: tuple[Reads, ...] = ("tokens", "embedding", "both")
HeadChoice = Literal["auto", "index", "tokens", "embedding", "both"]  # index: poses answer, the head finds placements


@dataclass(frozen=True, slots=True)
class ChosenHead:
    """The head of a bundle, and the alternatives."""

    spec: HeadSpec
    head: Head
    means: dict[DonningKey, NDArray[np.float32]]  # in each donning, adapted by the calibration

    def of_donning(self, key: DonningKey) -> Head:
        """The head after the calibration of that session."""
        return replace(self.head, means=self.means[key]) if key in self.means else self.head


def choose_head(
    checkpoint: Checkpoint,
    evaluation: EvaluationSet,
    index_answers: NDArray[np.int64],
    seed: int,
    choice: HeadChoice = "auto",
) -> ChosenHead | None:
    """The head for a bundle; None when the encoder reads the signal itself.

    index_answers: (Q,), answers of the poses of trained gestures to each query
    choice: what is to answer; "auto": the most accurate on the validation windows. That favours the embedding if these
        are of people who were trained on too, because the encoder knows them but not the next wearer.
    """
    if checkpoint.front_end is None or checkpoint.head is None:
        return None
    gestures = tuple(evaluation.gestures.index(name) for name in checkpoint.head_gestures)
    place = {gesture: number for number, gesture in enumerate(gestures)}
    heads = fitted_heads(checkpoint, evaluation, seed)
    queries = evaluation.queries
    asked = watched(queries) & np.isin(queries.gesture_index, gestures)
    asking = _inputs(checkpoint, queries.dataset, queries.places[asked])
    true = np.array([place[gesture] for gesture in queries.gesture_index[asked]], np.int64)
    rows, donnings = queries.dataset.store.corpus.rows, queries.dataset.store.donnings
    keys = [donnings.key(rows[number]) for number, _ in queries.places[asked]]
    calibrations = _calibrations(checkpoint, queries, sorted({donnings.key(row) for row in rows}))
    known = np.isin(index_answers[asked], gestures)
    found = np.array([place.get(int(answer), 0) for answer in index_answers[asked]], np.int64)
    scores = {"index": _accuracy(true[known], found[known], len(gestures))}
    candidates: dict[Reads, _Candidate] = {}
    for reads, head in heads.items():
        means = {key: head.adapted(one.of(reads)).means for key, one in calibrations.items()}
        candidates[reads] = _judged(head, means, asking.of(reads), keys)
        scores[reads] = _accuracy(true, candidates[reads].likelihood.argmax(axis=1), len(gestures))
    best = max(READS, key=lambda reads: scores[reads]) if choice == "auto" or choice == "index" else choice
    chosen = candidates[best]
    answered = chosen.likelihood.argmax(axis=1)
    typical = chosen.typicality[answered == true, true[answered == true]]
    spec = HeadSpec(
        file=HEAD_FILE,
        reads=best,
        gestures=gestures,
        min_typicality=round(float(np.quantile(typical, 1 - TYPICAL_KEPT)), 4) if len(typical) else 0.0,
        answers=choice != "index" if choice != "auto" else scores[best] >= scores["index"],
        validation={name: round(score, 4) for name, score in scores.items()},
    )
    head = replace(chosen.head, temperature=calibrate_temperature(chosen.likelihood, true))
    return ChosenHead(spec, head, chosen.means)


def fitted_heads(checkpoint: Checkpoint, evaluation: EvaluationSet, seed: int) -> dict[Reads, Head]:
    """The candidates, fitted on training windows; the one on tokens is part of the checkpoint."""
    if checkpoint.head is None:
        return {}
    windows, places = drawn_windows(evaluation, FITTING_WINDOWS, seed)
    rows = windows.store.corpus.rows
    places = places[[rows[number].stage != FREE_STAGE for number, _ in places]]
    fitting = _inputs(checkpoint, windows, places)
    label = np.array([checkpoint.head_gestures.index(rows[number].stage) for number, _ in places], np.int64)
    fitted: dict[Reads, Head] = {
        "embedding": fit_head(fitting.embedding, label),
        "both": fit_head(fitting.of("both"), label),
    }
    return {"tokens": checkpoint.head, **fitted}


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A head, and its output on the validation windows."""

    head: Head
    means: dict[DonningKey, NDArray[np.float32]]
    likelihood: NDArray[np.float32]  # (n, K)
    typicality: NDArray[np.float32]  # (n, K)


def _judged(
    head: Head, means: dict[DonningKey, NDArray[np.float32]], inputs: NDArray[np.float32], keys: list[DonningKey]
) -> _Candidate:
    """inputs: (n, d), of windows of the sessions `keys`, one each"""
    likelihood = np.empty((len(inputs), head.n_gestures), np.float32)
    typicality = np.empty_like(likelihood)
    for key in set(keys):
        mine = np.array([other == key for other in keys])
        own = replace(head, means=means[key]) if key in means else head
        projected = own.project(inputs[mine])
        likelihood[mine], typicality[mine] = own.log_likelihood(projected), own.typicality(projected)
    return _Candidate(head, means, likelihood, typicality)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The inputs of heads for some windows."""

    tokens: NDArray[np.float32]  # (n, F)
    embedding: NDArray[np.float32]  # (n, D)

    def of(self, reads: Reads) -> NDArray[np.float32]:
        """(n, d)"""
        if reads == "both":
            return np.concatenate([self.tokens, self.embedding], axis=1)
        return self.tokens if reads == "tokens" else self.embedding


def _inputs(checkpoint: Checkpoint, windows: WindowDataset, places: NDArray[np.int64]) -> _Inputs:
    embed = torch_embedding(checkpoint.emg)
    starts = range(0, len(places), _AT_ONCE)
    embedded = [embed(windows.fetch(places[at : at + _AT_ONCE]).emg.numpy()) for at in starts]
    return _Inputs(mean_tokens(windows, places), np.concatenate(embedded))


def _calibrations(checkpoint: Checkpoint, queries: Examples, keys: list[DonningKey]) -> dict[DonningKey, _Inputs]:
    """The heads' inputs from each session's calibration, a tenth of a second apart."""
    store = queries.dataset.store
    if not store.recipe.calibration.asked:
        return {}
    asked = {store.donnings.key(store.corpus.rows[number]) for number, _ in queries.places}
    hop = ADAPTING_HOP_S * store.preprocessing.sample_rate_hz
    found = {}
    for key in keys:
        if key not in asked:
            continue
        row = next(row for row in store.corpus.rows if store.donnings.key(row) == key)
        calibration = store.donnings.calibration_rows(row)
        numbers = [number for number, other in enumerate(store.corpus.rows) if other in calibration]
        grid = queries.dataset.grid
        stride = max(grid, round(hop / grid) * grid)
        windows = WindowDataset(store, numbers, with_pose=False, stride_samples=stride)
        if len(windows):
            found[key] = _inputs(checkpoint, windows, windows.index)
    return found


def _accuracy(true: NDArray[np.int64], answered: NDArray[np.int64], n_gestures: int) -> float:
    confusion = np.zeros((n_gestures, n_gestures), np.int64)
    np.add.at(confusion, (true, answered), 1)
    return float(balanced_accuracy(confusion))
