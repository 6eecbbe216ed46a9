"""Zero-shot evaluation: which gesture do the poses nearest to an EMG window belong to?

The windows asked about are those of test and validation recordings; the answers come from pose windows of training
people, of all gestures. The poses of held-out gestures are in the index, their EMG and their poses never were in
training. Everything here works on embeddings, so the same code judges the trained module, a quantised graph and a
bundle.

Shapes: Q queries, R references, D width, K gestures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cpep_edge.errors import DataError
from cpep_train.checkpoint import Checkpoint
from cpep_train.corpus import Corpus, Row
from cpep_train.windows import SessionStore, Statistics, WindowBatch, WindowDataset

N_NEIGHBOURS = 10
_BOOTSTRAPS = 2_000
_CONFIDENCE = 0.95

Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # (B, C, T) preprocessed windows to (B, D), unit length
Users = Literal["held-out", "known"]
Gestures = Literal["seen", "unseen", "unseen among all"]


@dataclass(frozen=True, slots=True)
class Examples:
    """Some windows with what is known about them."""

    dataset: WindowDataset
    places: NDArray[np.int64]  # (n, 2), session and start
    gesture_index: NDArray[np.int64]  # (n,), in the set's `gestures`
    user_index: NDArray[np.int64]  # (n,)
    held_out_user: NDArray[np.bool_]  # (n,)

    def __len__(self) -> int:
        return len(self.places)

    def emg(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Preprocessed EMG of some of the windows, (B, C, T)."""
        emg: NDArray[np.float32] = self.dataset.fetch(self.places[start:stop]).emg.numpy()
        return emg


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """What is asked and what is looked up."""

    gestures: tuple[str, ...]
    seen: NDArray[np.bool_]  # (K,), whether EMG of the gesture was trained on
    queries: Examples  # EMG windows
    references: Examples  # pose windows
    own_references: bool  # whether references are recorded poses of the queries' people, and so left out for them


@dataclass(frozen=True, slots=True)
class Score:
    """How well one kind of query is answered."""

    users: Users
    gestures: Gestures
    balanced_accuracy: float
    low: float  # 95 % bootstrap interval over users
    high: float
    chance: float
    n_windows: int
    n_users: int
    gesture_names: tuple[str, ...]  # those that could be answered
    confusion: NDArray[np.int64]  # (K', K'), true gesture by answered gesture


def evaluate(checkpoint: Checkpoint, data: Path) -> list[Score]:
    """Zero-shot scores of a trained pair of encoders on the recordings of `data` that training did not see."""
    examples = evaluation_set(checkpoint, Corpus.open(data))
    queries = embed_emg(torch_embedding(checkpoint.emg), examples.queries)
    return zero_shot(examples, queries, embed_poses(checkpoint.pose, examples.references))


def evaluation_set(
    checkpoint: Checkpoint, corpus: Corpus, *, windows_per_recording: int = 40, cache_bytes: int = 1 << 30
) -> EvaluationSet:
    """Choose the windows of an evaluation, evenly spread over each recording.

    Raises DataError when the corpus does not fit the checkpoint, or has no recordings to test or no poses to look up.
    """
    corpus.check(checkpoint.recipe)
    statistics = Statistics(checkpoint.preprocessing.scale_uv, checkpoint.pose_mean_rad, checkpoint.pose_std_rad)
    store = SessionStore(corpus, checkpoint.recipe, statistics, cache_bytes=cache_bytes)
    gestures = (*checkpoint.seen_stages, *checkpoint.unseen_stages)
    known = [number for number, row in enumerate(corpus.rows) if row.stage in gestures]
    asked = [number for number in known if corpus.rows[number].split != "train"]
    looked_up = [number for number in known if _is_reference(corpus.rows[number])]
    queries = _examples(store, asked, gestures, windows_per_recording, with_pose=False)
    references = _examples(store, looked_up, gestures, windows_per_recording, with_pose=True)
    for examples, what in ((queries, "recordings to test"), (references, "poses to look up")):
        if len(examples) == 0:
            raise DataError(f"{corpus.folder}: there are no {what}")
    return EvaluationSet(
        gestures=gestures,
        seen=np.arange(len(gestures)) < len(checkpoint.seen_stages),
        queries=queries,
        references=references,
        own_references=checkpoint.recipe.pose.source == "recorded",
    )


def torch_embedding(embedder: nn.Module) -> Embed:
    """An embedder of the training as a function of arrays."""

    @torch.no_grad()
    def embed(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        embedding: NDArray[np.float32] = embedder(torch.from_numpy(windows)).float().numpy()
        return embedding

    return embed


def embed_emg(embed: Embed, examples: Examples, batch_size: int = 256) -> NDArray[np.float32]:
    """Embed the EMG of all examples, (Q, D)."""
    return _embed(lambda batch: embed(batch.emg.numpy()), examples, batch_size)


def embed_poses(pose: nn.Module, examples: Examples, batch_size: int = 256) -> NDArray[np.float32]:
    """Embed the poses of all examples, (R, D)."""
    embed = torch_embedding(pose)
    return _embed(lambda batch: embed(batch.pose.numpy()), examples, batch_size)


def zero_shot(
    examples: EvaluationSet, queries: NDArray[np.float32], references: NDArray[np.float32], k: int = N_NEIGHBOURS
) -> list[Score]:
    """Score every kind of query that the set has.

    queries: (Q, D), embedded EMG
    references: (R, D), embedded poses
    """
    scores = []
    for users in ("held-out", "known"):
        for gestures in ("seen", "unseen", "unseen among all"):
            score = _score_kind(examples, queries, references, k, users, gestures)
            if score is not None:
                scores.append(score)
    return scores


def answers(
    examples: EvaluationSet,
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    chosen: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
    k: int = N_NEIGHBOURS,
) -> NDArray[np.int64]:
    """The gesture that most of the k nearest references have, for each chosen query.

    chosen: (Q,), which queries to answer
    allowed: (K,), gestures in the index
    returns: (number chosen,)
    """
    inside = allowed[examples.references.gesture_index]
    label, owner = examples.references.gesture_index[inside], examples.references.user_index[inside]
    out = np.empty(int(chosen.sum()), np.int64)
    user = examples.queries.user_index[chosen]
    for one in np.unique(user):  # people apart: their own poses may not answer
        usable = owner != one if examples.own_references else np.ones(len(owner), bool)
        nearest = nearest_labels(queries[chosen][user == one], references[inside][usable], label[usable], k)
        out[user == one] = majority(nearest)
    return out


def nearest_labels(
    queries: NDArray[np.float32], references: NDArray[np.float32], labels: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """Labels of the k references with the largest cosine, nearest first, (Q, k)."""
    similarity = torch.from_numpy(queries) @ torch.from_numpy(references).T
    order = similarity.topk(min(k, len(references)), dim=1).indices.numpy()
    nearest: NDArray[np.int64] = labels[order]
    return nearest


def majority(nearest: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most frequent label of each row; among equals the one whose first place is nearest.

    nearest: (Q, k), nearest first
    """
    counts = (nearest[:, :, None] == nearest[:, None, :]).sum(axis=2)  # (Q, k): votes of the label at each place
    winner: NDArray[np.int64] = nearest[np.arange(len(nearest)), counts.argmax(axis=1)]
    return winner


def balanced_accuracy(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean recall over the gestures that occur.

    confusion: (..., K, K), true by answered; returns (...,)
    """
    true = confusion.sum(axis=-1)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    recall = np.divide(hits, true, out=np.zeros(true.shape), where=true > 0)
    accuracy: NDArray[np.float64] = recall.sum(axis=-1) / np.maximum(1, (true > 0).sum(axis=-1))
    return accuracy


def bootstrap_interval(per_user: NDArray[np.int64], seed: int = 0, n_draws: int = _BOOTSTRAPS) -> tuple[float, float]:
    """95 % interval of the balanced accuracy when users are drawn with replacement.

    per_user: (n_users, K, K) confusion matrices
    """
    n_users = len(per_user)
    draws = np.random.default_rng(seed).multinomial(n_users, np.full(n_users, 1 / n_users), size=n_draws)
    accuracy = balanced_accuracy(np.einsum("bu,uij->bij", draws, per_user))
    low, high = np.quantile(accuracy, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


def score(
    users: Users,
    gestures: Gestures,
    gesture_names: tuple[str, ...],
    true: NDArray[np.int64],
    answered: NDArray[np.int64],
    user_index: NDArray[np.int64],
) -> Score:
    """Judge answers, wherever they come from.

    gesture_names: the gestures that could be answered
    true, answered: (Q,), places in `gesture_names`
    user_index: (Q,)
    """
    n = len(gesture_names)
    people, person = np.unique(user_index, return_inverse=True)
    per_user = np.zeros((len(people), n, n), np.int64)
    np.add.at(per_user, (person, true, answered), 1)
    confusion = per_user.sum(axis=0)
    low, high = bootstrap_interval(per_user)
    return Score(
        users=users,
        gestures=gestures,
        balanced_accuracy=float(balanced_accuracy(confusion)),
        low=low,
        high=high,
        chance=1 / n,
        n_windows=len(true),
        n_users=len(people),
        gesture_names=gesture_names,
        confusion=confusion,
    )


def _score_kind(
    examples: EvaluationSet,
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    k: int,
    users: Users,
    gestures: Gestures,
) -> Score | None:
    """The score of one kind of query; None where there are none."""
    chosen = select(examples, users, gestures)
    allowed = (
        np.ones(len(examples.gestures), bool)
        if gestures == "unseen among all"
        else examples.seen ^ (gestures == "unseen")
    )
    if not chosen.any() or not allowed.any():
        return None
    place = np.cumsum(allowed) - 1  # of a gesture among those allowed
    return score(
        users,
        gestures,
        tuple(name for name, is_allowed in zip(examples.gestures, allowed, strict=True) if is_allowed),
        place[examples.queries.gesture_index[chosen]],
        place[answers(examples, queries, references, chosen, allowed, k)],
        examples.queries.user_index[chosen],
    )


def select(examples: EvaluationSet, users: Users, gestures: Gestures) -> NDArray[np.bool_]:
    """Which queries are of one kind, (Q,)."""
    queries = examples.queries
    by_user = queries.held_out_user == (users == "held-out")
    by_gesture = examples.seen[queries.gesture_index] == (gestures == "seen")
    chosen: NDArray[np.bool_] = by_user & by_gesture
    return chosen


def _is_reference(row: Row) -> bool:
    """Poses of training people: of their training recordings, and of the gestures that training never saw."""
    return not row.held_out_user and (row.split == "train" or row.held_out_stage)


def _examples(
    store: SessionStore, numbers: list[int], gestures: tuple[str, ...], per_recording: int, *, with_pose: bool
) -> Examples:
    dataset = WindowDataset(store, numbers, with_pose=with_pose)
    session = dataset.index[:, 0]
    kept = [_spread(np.flatnonzero(session == number), per_recording) for number in numbers]
    places = dataset.index[np.concatenate([np.empty(0, np.intp), *kept])]
    rows = store.corpus.rows
    users = sorted({row.user for row in rows})
    return Examples(
        dataset=dataset,
        places=places,
        gesture_index=np.array([gestures.index(rows[number].stage) for number, _ in places], np.int64),
        user_index=np.array([users.index(rows[number].user) for number, _ in places], np.int64),
        held_out_user=np.array([rows[number].held_out_user for number, _ in places], bool),
    )


def _spread(places: NDArray[np.intp], n_most: int) -> NDArray[np.intp]:
    if len(places) <= n_most:
        return places
    kept: NDArray[np.intp] = places[np.linspace(0, len(places) - 1, n_most).astype(np.intp)]
    return kept


def _embed(
    embed: Callable[[WindowBatch], NDArray[np.float32]], examples: Examples, batch_size: int
) -> NDArray[np.float32]:
    starts = range(0, len(examples), batch_size)
    batches = (examples.dataset.fetch(examples.places[start : start + batch_size]) for start in starts)
    return np.concatenate([embed(batch) for batch in batches])
