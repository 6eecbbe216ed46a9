"""Zero-shot evaluation: which gesture do the poses nearest to an EMG window belong to?

The queries are windows of test and validation recordings. The references are pose windows of training people, of all
gestures. The index holds the poses of held-out gestures, but neither their EMG nor their poses were used in training.
Everything here works on embeddings, so the same code evaluates the trained module, a quantised graph and a bundle. The
other protocols are in `cpep_train.protocols`.

Shapes: Q queries, R references, D width, K gestures.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cpep_edge.errors import DataError
from cpep_edge.spread import evenly_spread
from cpep_train.checkpoint import Checkpoint
from cpep_train.corpus import FREE_STAGE, Corpus, Row
from cpep_train.windows import SessionStore, WindowDataset

logger = logging.getLogger(__name__)

N_NEIGHBOURS = 10
_BOOTSTRAPS = 2_000
_CONFIDENCE = 0.95

Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # (B, C, T) preprocessed windows to (B, D), unit length
Users = Literal["held-out", "validation", "known"]
USERS: tuple[Users, ...] = get_args(Users)  # validation: people who are in neither training nor test
Gestures = Literal["seen", "unseen", "seen among all", "unseen among all", "harmonic mean"]
"""Which gestures are asked about, and whether all others may answer too. The harmonic mean is that of the two among all
(generalised zero-shot learning: Xian et al. 2019); it is low where either is."""
Accuracy = Callable[[NDArray[np.int64]], NDArray[np.float64]]  # of confusion matrices, (..., K, K) to (...,)
Rule = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]], NDArray[np.int64]]
"""How references answer: queries (q, D), references (r, D) and their labels (r,) to one label a query, (q,)."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Some windows with what is known about them."""

    dataset: WindowDataset
    places: NDArray[np.int64]  # (n, 2), session and start
    gesture_index: NDArray[np.int64]  # (n,), in the set's `gestures`
    user_index: NDArray[np.int64]  # (n,)
    held_out_user: NDArray[np.bool_]  # (n,), person of the test only

    def __len__(self) -> int:
        return len(self.places)

    def only(self, kept: NDArray[np.bool_] | NDArray[np.intp]) -> "Examples":
        """A selection of the examples, by mask or by index."""
        return Examples(
            self.dataset,
            self.places[kept],
            self.gesture_index[kept],
            self.user_index[kept],
            self.held_out_user[kept],
        )

    def emg(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Preprocessed EMG of some of the windows, (B, C, T)."""
        emg: NDArray[np.float32] = self.dataset.fetch(self.places[start:stop]).emg.numpy()
        return emg

    def poses(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Standardised poses of some of the windows, (B, J, T')."""
        poses: NDArray[np.float32] = self.dataset.poses(self.places[start:stop]).numpy()
        return poses


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """The windows to classify, and the poses in the index."""

    gestures: tuple[str, ...]
    seen: NDArray[np.bool_]  # (K,), whether EMG of the gesture was trained on
    users: tuple[str, ...]  # the people that `user_index` refers to
    queries: Examples  # EMG windows
    references: Examples  # pose windows
    own_references: bool  # whether people's own recorded poses are among the references, and must be left out for them


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one kind of query."""

    users: Users
    gestures: Gestures
    balanced_accuracy: float  # for "harmonic mean": the harmonic mean of those of seen and unseen gestures
    low: float  # 95 % bootstrap interval over users
    high: float
    chance: float
    n_windows: int
    n_users: int
    gesture_names: tuple[str, ...]  # gestures that could be answered
    confusion: NDArray[np.int64]  # (K', K'), true gesture by answered gesture
    by_user: dict[str, float]  # balanced accuracy of each person
    by_gesture: dict[str, float]  # recall of each gesture


def evaluation_set(
    checkpoint: Checkpoint, corpus: Corpus, *, windows_per_recording: int = 40, cache_bytes: int = 1 << 30
) -> EvaluationSet:
    """Choose the windows of an evaluation, evenly spread over each recording.

    Validation recordings of people who were not trained on serve to tune, not to test, so they are a kind of their own.
    Those of held-out gestures are left out.
    Raises DataError when the corpus does not fit the checkpoint, or has no recordings to test or no poses to look up.
    """
    corpus = corpus.usable(checkpoint.recipe, checkpoint.provenance.skipped)
    corpus.check(checkpoint.recipe)
    store = SessionStore(corpus, checkpoint.recipe, checkpoint.statistics, cache_bytes=cache_bytes)
    gestures = (*checkpoint.seen_stages, *checkpoint.unseen_stages)
    for name in sorted({row.stage for row in corpus.rows if row.split in ("train", "test")} - {*gestures, FREE_STAGE}):
        logger.warning("gesture %s is in %s and not in the run, so it is not asked about", name, corpus.folder)
    known = [number for number, row in enumerate(corpus.rows) if row.stage in gestures]
    asked = [number for number in known if _is_query(corpus.rows[number])]
    looked_up = [number for number in known if is_reference(corpus.rows[number])]
    queries = choose(store, asked, gestures, windows_per_recording, with_pose=False)
    references = choose(store, looked_up, gestures, windows_per_recording, with_pose=True)
    for examples, what in ((queries, "recordings to test"), (references, "poses to look up")):
        if len(examples) == 0:
            raise DataError(f"{corpus.folder}: there are no {what}")
    return EvaluationSet(
        gestures=gestures,
        seen=np.arange(len(gestures)) < len(checkpoint.seen_stages),
        users=corpus_users(corpus),
        queries=queries,
        references=references,
        own_references=checkpoint.recipe.pose.source == "recorded",
    )


def torch_embedding(embedder: nn.Module) -> Embed:
    """Wrap a torch embedder as a function of numpy arrays."""

    @torch.no_grad()
    def embed(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        embedding: NDArray[np.float32] = embedder(torch.from_numpy(windows)).float().numpy()
        return embedding

    return embed


def embed_emg(embed: Embed, examples: Examples, batch_size: int = 256) -> NDArray[np.float32]:
    """Embed the EMG of all examples, (Q, D)."""
    examples.dataset.store.prepare(np.unique(examples.places[:, 0]).tolist())
    starts = range(0, len(examples), batch_size)
    return np.concatenate([embed(examples.emg(start, start + batch_size)) for start in starts])


def embed_poses(pose: nn.Module, examples: Examples, batch_size: int = 256) -> NDArray[np.float32]:
    """Embed the poses of all examples, (R, D)."""
    embed = torch_embedding(pose)
    starts = range(0, len(examples), batch_size)
    return np.concatenate([embed(examples.poses(start, start + batch_size)) for start in starts])


def zero_shot(
    examples: EvaluationSet, queries: NDArray[np.float32], references: NDArray[np.float32], rule: Rule | None = None
) -> list[Score]:
    """Score every kind of query that the set has.

    queries: (Q, D), embedded EMG
    references: (R, D), embedded poses
    rule: how references answer; None: the majority of the 10 nearest
    """
    scores = []
    for users in USERS:
        for gestures in ("seen", "unseen"):
            chosen, allowed = select(examples, users, gestures)
            if chosen.any() and allowed.any():
                answered = answers(examples, queries, references, chosen, allowed, rule=rule)
                scores.append(score_of(examples, users, gestures, chosen, allowed, answered))
        scores += _among_all(examples, queries, references, rule, users)
    return scores


def _among_all(
    examples: EvaluationSet,
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    rule: Rule | None,
    users: Users,
) -> list[Score]:
    """The scores of one kind of people with the poses of all gestures in the index: seen, unseen, harmonic mean."""
    chosen, everything = select(examples, users, "harmonic mean")
    if not chosen.any() or examples.seen.all():
        return []  # no unseen gestures: "among all" would equal "among the seen"
    answered = answers(examples, queries, references, chosen, everything, rule=rule)
    scores = []
    for gestures in ("seen among all", "unseen among all", "harmonic mean"):
        asked = select(examples, users, gestures)[0]
        if asked.any():
            scores.append(score_of(examples, users, gestures, asked, everything, answered[asked[chosen]]))
    return scores if len(scores) == 3 else [score for score in scores if score.gestures != "harmonic mean"]


def answers(
    examples: EvaluationSet,
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    chosen: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
    k: int = N_NEIGHBOURS,
    rule: Rule | None = None,
) -> NDArray[np.int64]:
    """The answered gesture of each chosen query; by default the majority of the k nearest references.

    chosen: (Q,), which queries to answer
    allowed: (K,), gestures in the index
        A person's own poses count only for gestures of which nobody else has poses, and then only poses of other
        recordings than the query's.
    rule: another way for references to answer
    returns: (number chosen,)
    """
    rule = rule or by_neighbours(k)
    inside = allowed[examples.references.gesture_index]
    label, owner = examples.references.gesture_index[inside], examples.references.user_index[inside]
    out = np.empty(int(chosen.sum()), np.int64)
    user, asked, answering = examples.queries.user_index[chosen], queries[chosen], references[inside]
    recording, referred = examples.queries.places[chosen, 0], examples.references.places[inside, 0]
    for one in np.unique(user):  # person by person, because a person's own poses must not answer
        mine = user == one
        others = owner != one if examples.own_references else np.ones(len(owner), bool)
        lonely = ~others & ~np.isin(label, label[others])  # gestures of which nobody else has poses
        for number in np.unique(recording[mine]) if lonely.any() else [None]:
            now = mine if number is None else mine & (recording == number)
            usable = others | (lonely & (referred != number))
            if not usable.any():
                raise DataError(
                    f"there is no pose that could answer for {examples.users[one]}: nobody else recorded these "
                    "gestures, and they themselves only once; record another repetition"
                )
            out[now] = rule(asked[now], answering[usable], label[usable])
    return out


def by_neighbours(k: int = N_NEIGHBOURS) -> Rule:
    """The majority of the k nearest references."""
    return lambda queries, references, labels: majority(nearest_labels(queries, references, labels, k))


def by_prototypes(
    queries: NDArray[np.float32], references: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The gesture whose references' mean direction is nearest (Snell et al. 2017, with cosines)."""
    present = np.unique(labels)
    means = np.stack([references[labels == label].mean(axis=0) for label in present])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    nearest: NDArray[np.int64] = present[np.argmax(queries @ means.T, axis=1)]
    return nearest


def nearest_labels(
    queries: NDArray[np.float32], references: NDArray[np.float32], labels: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """Labels of the k references with the largest cosine, nearest first, (Q, k)."""
    similarity = torch.from_numpy(queries @ references.T)
    order = similarity.topk(min(k, len(references)), dim=1).indices.numpy()
    nearest: NDArray[np.int64] = labels[order]
    return nearest


def majority(nearest: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most frequent label of each row; ties go to the label that occurs first.

    nearest: (Q, k), nearest first
    """
    counts = (nearest[:, :, None] == nearest[:, None, :]).sum(axis=2)  # (Q, k): votes for the label at each place
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


def harmonic_mean(confusion: NDArray[np.int64], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Harmonic mean of the balanced accuracies of the seen and of the unseen gestures that occur.

    confusion: (..., K, K), true by answered; seen: (K,); returns (...,)
    """
    of_seen, of_unseen = (balanced_accuracy(confusion * kind[:, None]) for kind in (seen, ~seen))
    total = of_seen + of_unseen
    mean: NDArray[np.float64] = np.divide(2 * of_seen * of_unseen, total, out=np.zeros_like(total), where=total > 0)
    return mean


def bootstrap_interval(
    per_user: NDArray[np.int64],
    accuracy: Accuracy = balanced_accuracy,
    n_draws: int = _BOOTSTRAPS,
) -> tuple[float, float]:
    """95 % interval of an accuracy when users are drawn with replacement.

    per_user: (n_users, K, K) confusion matrices
    accuracy: of confusion matrices, (..., K, K)
    """
    n_users = len(per_user)
    draws = np.random.default_rng(0).multinomial(n_users, np.full(n_users, 1 / n_users), size=n_draws)
    drawn = accuracy(np.einsum("bu,uij->bij", draws, per_user))
    low, high = np.quantile(drawn, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


def score(
    users: Users,
    gestures: Gestures,
    gesture_names: tuple[str, ...],
    true: NDArray[np.int64],
    answered: NDArray[np.int64],
    user_index: NDArray[np.int64],
    user_names: tuple[str, ...] | None = None,
    accuracy: Accuracy = balanced_accuracy,
) -> Score:
    """Score answers from any source.

    gesture_names: the gestures that could be answered
    true, answered: (Q,), places in `gesture_names`
    user_index: (Q,), places in `user_names`, or the users' own numbers
    accuracy: the figure computed from confusion matrices
    """
    n = len(gesture_names)
    people, person = np.unique(user_index, return_inverse=True)
    per_user = np.zeros((len(people), n, n), np.int64)
    np.add.at(per_user, (person, true, answered), 1)
    confusion = per_user.sum(axis=0)
    low, high = bootstrap_interval(per_user, accuracy)
    names = [str(number) if user_names is None else user_names[number] for number in people]
    asked = np.flatnonzero(confusion.sum(axis=1))
    return Score(
        users=users,
        gestures=gestures,
        balanced_accuracy=float(accuracy(confusion)),
        low=low,
        high=high,
        chance=1 / n,
        n_windows=len(true),
        n_users=len(people),
        gesture_names=gesture_names,
        confusion=confusion,
        by_user=dict(zip(names, accuracy(per_user).tolist(), strict=True)),
        by_gesture={gesture_names[g]: float(confusion[g, g] / confusion[g].sum()) for g in asked},
    )


def score_of(
    examples: EvaluationSet,
    users: Users,
    gestures: Gestures,
    chosen: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
    answered: NDArray[np.int64],
) -> Score:
    """Score the answers to some queries of a set.

    chosen: (Q,), which queries were answered
    allowed: (K,), gestures that could be answered
    answered: (number chosen,), places in the set's `gestures`
    """
    place = np.cumsum(allowed) - 1  # of a gesture among those allowed
    harmonic = partial(harmonic_mean, seen=examples.seen[allowed])
    return score(
        users,
        gestures,
        tuple(name for name, is_allowed in zip(examples.gestures, allowed, strict=True) if is_allowed),
        place[examples.queries.gesture_index[chosen]],
        place[answered],
        examples.queries.user_index[chosen],
        examples.users,
        harmonic if gestures == "harmonic mean" else balanced_accuracy,
    )


def select(examples: EvaluationSet, users: Users, gestures: Gestures) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which queries are of one kind, (Q,), and which gestures may answer them, (K,)."""
    queries, asks_seen = examples.queries, gestures.startswith("seen")
    by_user = of_users(queries, users)
    everything = np.ones(len(examples.gestures), bool)
    if gestures == "harmonic mean":
        return by_user, everything
    by_gesture = examples.seen[queries.gesture_index] == asks_seen
    return by_user & by_gesture, everything if gestures.endswith("all") else examples.seen == asks_seen


def of_users(examples: Examples, users: Users) -> NDArray[np.bool_]:
    """Which examples are of one kind of people, (n,)."""
    corpus = examples.dataset.store.corpus
    trained, watched = corpus.trained_users, {row.user for row in corpus.rows if row.split == "val"}
    of_row: list[Users] = [
        "validation"
        if row.user not in trained and (row.split == "val" if row.held_out_user else row.user in watched)
        else "held-out"
        if row.held_out_user
        else "known"
        for row in corpus.rows
    ]
    return np.array([of_row[number] == users for number, _ in examples.places], bool)


def corpus_users(corpus: Corpus) -> tuple[str, ...]:
    """The people of a corpus, in the order of `user_index`."""
    return tuple(sorted({row.user for row in corpus.rows}))


def _is_query(row: Row) -> bool:
    return row.split == "test" or (row.split == "val" and not row.held_out_stage)


def is_reference(row: Row) -> bool:
    """Whether a row gives reference poses: training people's training recordings, and gestures training never saw."""
    return not row.held_out_user and (row.split == "train" or (row.held_out_stage and row.split != ""))


def choose(
    store: SessionStore, numbers: list[int], gestures: tuple[str, ...], per_recording: int, *, with_pose: bool
) -> Examples:
    """Windows of some rows of the store's corpus, at most `per_recording` of each, evenly spread."""
    dataset = WindowDataset(store, numbers, with_pose=with_pose)
    session = dataset.index[:, 0]
    of_each = [np.flatnonzero(session == number) for number in numbers]
    kept = [own[evenly_spread(len(own), per_recording)] for own in of_each]
    places = dataset.index[np.concatenate([np.empty(0, np.intp), *kept])]
    rows = store.corpus.rows
    users = corpus_users(store.corpus)
    return Examples(
        dataset=dataset,
        places=places,
        gesture_index=np.array([gestures.index(rows[number].stage) for number, _ in places], np.int64),
        user_index=np.array([users.index(rows[number].user) for number, _ in places], np.int64),
        held_out_user=np.array([rows[n].held_out_user and rows[n].split != "val" for n, _ in places], bool),
    )
