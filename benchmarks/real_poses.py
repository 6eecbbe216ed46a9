"""Zero-shot by real poses: what `measure_real.py` asks of the sets that were recorded with a data glove (Ninapro).

Four of the twelve movements of the fingers are held out in turn: nobody's EMG of them is trained on. The poses of all
twelve, of the people trained on, are in the index. Shapes as in `real_arms`; J joints.
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

MOVEMENT_FOLDS = ((2, 5, 7, 12), (1, 4, 8, 10), (3, 6, 9, 11))  # which twelve are held out: our choice
SEEN, UNSEEN = "seen, 8 ways", "unseen, 4 ways"
SEEN_AMONG_ALL, UNSEEN_AMONG_ALL, HARMONIC = "seen among all 12", "unseen among all 12", "harmonic mean among all 12"
BOUND = "the glove's own pose (a bound)"
_K = 10  # nearest poses that vote
_RIDGE = 0.05  # of the number of windows
_EVERY = 3  # training window whose pose is looked up by the ridge

LookUp = Callable[[int, NDArray[np.bool_]], Labels]  # of a recording's windows, among the gestures allowed, (K,)


def zero_shot_rows(
    people: People, trained: Sequence[int], asked: Sequence[int], held: Sequence[str], bundle: Trained | None
) -> dict[str, Answers]:
    """By question: plain classifiers where EMG was shown, ridge to the glove's poses, and our rows.

    trained, asked: recordings of all twelve movements
    held: movements whose EMG is not trained on
    bundle: None leaves our rows out
    """
    seen = np.array([name not in held for name in people.gestures])
    shown = [n for n in trained if seen[people.takes[n].gesture]]
    known = [n for n in asked if seen[people.takes[n].gesture]]
    poses = _poses(people)
    nearest = partial(_nearest_poses, people, poses, trained)
    ways = {
        "levels and log-covariances, ridge to poses": nearest(_ridge(people, poses, shown)),
        BOUND: nearest(lambda n: np.nan_to_num(poses[n])),  # no reading of EMG can be better
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
    """Each person's figure by question."""
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
    """What the nearest poses of the gestures that are allowed say."""
    said = []
    for embedding in embeddings:
        gestures, similarity = index.nearest(embedding, index.n_prototypes)
        inside = np.flatnonzero(allowed[names[gestures]])[:_K]
        said.append(names[vote(gestures[inside], similarity[inside]).gesture_index])
    return np.array(said, np.int64)


def _ridge(people: People, poses: dict[int, Values], shown: Sequence[int]) -> Callable[[int], Values]:
    """Ridge regression from levels and log-covariances to the glove's angles: the poses of a recording's windows."""

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
    """The gesture of most of the nearest poses of the people trained on."""
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
    """The mean pose of each window's second half, less the person's own mean, in spreads of each joint, (n, J)."""
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
