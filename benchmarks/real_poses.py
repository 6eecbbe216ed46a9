"""Zero-shot recognition by real poses: the part of `measure_real.py` for sets with a data glove (Ninapro).

Four of the twelve finger movements at a time are held out, so that nobody's EMG of them is trained on. The index holds
the poses of all twelve, of the people trained on. Shapes as in `real_arms`; J joints.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cpep_edge.bundle import Bundle
from cpep_edge.pose_index import PoseIndex, vote
from cpep_edge.recogniser import Recogniser
from real_arms import (
    HEAD_ROWS,
    RUNS,
    Answers,
    Labels,
    People,
    Trained,
    Values,
    accuracy,
    head_answers,
    plain_rows,
    streamed_arms,
)

MOVEMENT_FOLDS = ((2, 5, 7, 12), (1, 4, 8, 10), (3, 6, 9, 11))  # movements held out in each fold: our own choice
SEEN, UNSEEN = "seen, 8 ways", "unseen, 4 ways"
SEEN_AMONG_ALL, UNSEEN_AMONG_ALL, HARMONIC = "seen among all 12", "unseen among all 12", "harmonic mean among all 12"
BOUND = "the glove's own pose (a bound)"
_K = 10  # nearest poses that vote
_RIDGE = 0.05  # regularisation, as a share of the number of windows
_EVERY = 3  # only every so many-th training window's pose can be found

# Labels a recording's windows; arguments: the recording's number, and which gestures are allowed, (K,).
LookUp = Callable[[int, NDArray[np.bool_]], Labels]


def zero_shot_rows(
    people: People, trained: Sequence[int], asked: Sequence[int], held: Sequence[str], bundle: Trained | None
) -> dict[str, Answers]:
    """The answers by question: of plain classifiers on seen movements, of ridge regression to poses, and of the bundle.

    trained, asked: numbers of recordings of all twelve movements, to train on and to test on
    held: movements whose EMG is not trained on
    bundle: None leaves its rows out
    """
    seen = np.array([name not in held for name in people.gestures])
    shown = [n for n in trained if seen[people.takes[n].gesture]]
    known = [n for n in asked if seen[people.takes[n].gesture]]
    poses = _poses(people)
    nearest = partial(_nearest_poses, people, poses, trained)
    ways = {
        "levels and log-covariances, ridge to poses": nearest(_ridge(people, poses, shown)),
        BOUND: nearest(lambda n: np.nan_to_num(poses[n])),  # an upper bound for all methods that read EMG
    }
    first = plain_rows(people, shown, known)
    if bundle is not None:
        recogniser = Recogniser(Bundle.open(bundle.bundle))
        index = recogniser.index_for("a look-up by pose")
        found = streamed_arms(people, recogniser, asked, bundle)
        for reads, said in head_answers(people, bundle, found, asked).items():
            first[HEAD_ROWS[reads]] = accuracy(people, known, [said[n] for n in known])
        names = np.array([people.gestures.index(gesture.name) for gesture in recogniser.manifest.gestures])
        ways["encoder in float32, zero-shot"] = lambda n, allowed: _by_index(index, names, found[n].in_float, allowed)
        ways[RUNS] = lambda n, allowed: (
            found[n].as_live if allowed.all() else _by_index(index, names, found[n].embedding, allowed)
        )
    rows: dict[str, Answers] = {SEEN: first}
    for method, look_up in ways.items():
        for question, of_person in _asked_of(people, seen, asked, look_up).items():
            rows.setdefault(question, {})[method] = of_person
    return rows


def _asked_of(
    people: People, seen: NDArray[np.bool_], asked: Sequence[int], look_up: LookUp
) -> dict[str, dict[str, float]]:
    """The accuracy of each person, by question."""
    rows = {}
    for kind, apart, among_all in ((seen, SEEN, SEEN_AMONG_ALL), (~seen, UNSEEN, UNSEEN_AMONG_ALL)):
        mine = [n for n in asked if kind[people.takes[n].gesture]]
        rows[apart] = accuracy(people, mine, [look_up(n, kind) for n in mine])
        rows[among_all] = accuracy(people, mine, [look_up(n, np.ones_like(kind)) for n in mine])
    rows[HARMONIC] = {
        person: 2 * s * u / max(s + u, 1e-9)
        for person, s in rows[SEEN_AMONG_ALL].items()
        for u in (rows[UNSEEN_AMONG_ALL][person],)
    }
    return rows


def _by_index(index: PoseIndex, names: Labels, embeddings: Values, allowed: NDArray[np.bool_]) -> Labels:
    """The gesture of each embedding by the votes of its nearest poses among the allowed gestures, (n,)."""
    said = []
    for embedding in embeddings:
        gestures, similarity = index.nearest(embedding, index.n_prototypes)
        inside = np.flatnonzero(allowed[names[gestures]])[:_K]
        said.append(names[vote(gestures[inside], similarity[inside]).gesture_index])
    return np.array(said, np.int64)


def _ridge(people: People, poses: dict[int, Values], shown: Sequence[int]) -> Callable[[int], Values]:
    """Fit ridge regression from levels and log-covariances to the glove's angles; predicts a recording's poses."""

    def features(number: int) -> Values:
        plain = people.plain(number)
        parts = [plain[key] / scale[key] for key in scale]
        return np.concatenate([*parts, np.ones((len(parts[0]), 1), np.float32)], axis=1)

    scale = {key: np.concatenate([people.plain(n)[key] for n in shown]).std() for key in ("levels", "logcov")}
    usable = {n: np.isfinite(poses[n]).all(axis=1) for n in shown}
    x = np.concatenate([features(n)[usable[n]] for n in shown])
    y = np.concatenate([poses[n][usable[n]] for n in shown])
    weights = np.linalg.solve(x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1]), x.T @ y)
    return lambda n: features(n) @ weights


def _nearest_poses(
    people: People, poses: dict[int, Values], trained: Sequence[int], query: Callable[[int], Values]
) -> LookUp:
    """The majority gesture of the nearest poses of the people trained on; query: a recording's poses, (n, J)."""
    labels = people.labels()
    references = np.concatenate([poses[n] for n in trained])[::_EVERY]
    label = np.concatenate([labels[n] for n in trained])[::_EVERY]
    known = np.isfinite(references).all(axis=1)
    references, label = _unit(references[known]), label[known]

    def look_up(number: int, allowed: NDArray[np.bool_]) -> Labels:
        inside = allowed[label]
        similarity = _unit(query(number)) @ references[inside].T
        nearest = np.argsort(-similarity, axis=1)[:, :_K]
        return np.array([np.bincount(label[inside][row]).argmax() for row in nearest], np.int64)

    return look_up


def _poses(people: People) -> dict[int, Values]:
    """The mean pose of each window's second half, standardised for each person and joint, (n, J)."""
    half = people.recipe.windows.window_samples // 2
    found: dict[int, Values] = {}
    for person in people.names:
        mine = [n for n, take in enumerate(people.takes) if take.person == person]
        cut = {}
        for n in mine:
            take = people.takes[n]
            windows = np.lib.stride_tricks.sliding_window_view(take.pose_rad, half, axis=0)
            cut[n] = windows[people.ends(take) - half].mean(axis=2)
        every = np.concatenate(list(cut.values()))
        mean, spread = np.nanmean(every, axis=0), np.nanstd(every, axis=0)
        spread = np.maximum(spread, 0.2 * np.median(spread))
        found |= {n: np.clip((values - mean) / spread, -4, 4).astype(np.float32) for n, values in cut.items()}
    return found


def _unit(vectors: Values) -> Values:
    unit: Values = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return unit
