"""The protocols of an evaluation, all on the same embeddings.

- zero-shot: poses answer, nothing is fitted. Three readings: the majority of the 10 nearest, as published; class
  prototypes; and, for held-out people, the majority with a penalty on trained gestures that was chosen on people of
  the validation split (`cpep_train.seen_penalty`), which bundles use. As a baseline, the same without an encoder, by
  ridge regression to joint angles (`cpep_train.plain_poses`).
- probe: a linear classifier on frozen EMG embeddings of training people (`cpep_train.probe`).
- enrolment: a person's first repetitions become index entries (`cpep_train.few_shot`).
- retrieval: recall at 1, 5 and 10, and the geometry of EMG and pose embeddings.

"Seen" and "unseen" describe gestures, by whether training saw them; "held out" and "known" describe people. "Among all"
means that the index holds the poses of all gestures, not only those of the tested kind.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_train.checkpoint import Checkpoint
from cpep_train.corpus import Corpus
from cpep_train.embedded_windows import EmbeddedWindows, Protocol, ProtocolScores, embed
from cpep_train.embedding_quality import EmbeddingQuality, embedding_quality, recall_at
from cpep_train.evaluate import (
    USERS,
    EvaluationSet,
    Gestures,
    Score,
    Users,
    by_prototypes,
    embed_emg,
    embed_poses,
    evaluation_set,
    select,
    torch_embedding,
    zero_shot,
)
from cpep_train.few_shot import enrolment_readings
from cpep_train.leakage import audit, audit_against, load_splits
from cpep_train.plain_poses import fit_plain_pair
from cpep_train.probe import probe
from cpep_train.seen_penalty import Pair, choose_seen_penalty, with_seen_penalty

PROTOCOLS: dict[str, tuple[Protocol, ...]] = {  # by their names on the command line
    "zero-shot": ("zero-shot",),
    "probe": ("probe",),
    "enrolment": ("enrolment",),
    "retrieval": ("retrieval",),
    "all": ("zero-shot", "probe", "enrolment", "retrieval"),
}
RECALL_AT = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Poses found for one kind of EMG windows."""

    users: Users
    gestures: Gestures
    recall: dict[str, float]  # "1", "5", "10": share of windows with a pose of their gesture among the nearest
    chance: dict[str, float]  # recall with poses in random order
    own_pose_recall: dict[str, float] | None  # share of windows whose own pose is among the nearest
    quality: EmbeddingQuality | None  # None, like the field above, when too few windows have a pose
    n_windows: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of an evaluation of a run."""

    readings: tuple[ProtocolScores, ...]
    retrieval: tuple[Retrieval, ...]


def evaluate(checkpoint: Checkpoint, data: Path) -> list[Score]:
    """Zero-shot scores of a trained pair of encoders on the recordings of `data` that training did not see.

    Among all gestures, trained ones get the penalty that bundles use (`cpep_train.seen_penalty`).
    Raises DataError when anything tested is in training too (`cpep_train.leakage`).
    """
    return _penalised(checkpoint, _examples(checkpoint, data))


def evaluate_beside_plain(checkpoint: Checkpoint, data: Path) -> tuple[list[Score], list[Score]]:
    """The scores of `evaluate`, and those of ridge regression without an encoder (`cpep_train.plain_poses`)."""
    examples = _examples(checkpoint, data)
    plain = fit_plain_pair(checkpoint, examples.queries.dataset.store)
    return _penalised(checkpoint, examples), _penalised(plain, examples)


def _examples(checkpoint: Checkpoint, data: Path) -> EvaluationSet:
    corpus = Corpus.open(data)
    audit(corpus.usable(checkpoint.recipe, checkpoint.provenance.skipped))
    return evaluation_set(checkpoint, corpus)


def _penalised(pair: Pair, examples: EvaluationSet) -> list[Score]:
    queries = embed_emg(torch_embedding(pair.emg), examples.queries)
    references = embed_poses(pair.pose, examples.references)
    chosen = choose_seen_penalty(pair, examples, queries, references)
    return zero_shot(examples, *with_seen_penalty(examples, queries, references, chosen.penalty))


def evaluate_run(
    run: Path, checkpoint: Checkpoint, data: Path, protocols: tuple[Protocol, ...] = PROTOCOLS["all"]
) -> tuple[Evaluation, EmbeddedWindows]:
    """Evaluate a finished run on the recordings of `data` that its training did not see.

    Raises DataError when anything tested was trained on (`cpep_train.leakage`), or there is nothing to test.
    """
    corpus = Corpus.open(data)
    audit_against(load_splits(run), corpus.usable(checkpoint.recipe, checkpoint.provenance.skipped))
    embedded = embed(checkpoint, corpus)
    return evaluate_material(embedded, protocols), embedded


def evaluate_material(embedded: EmbeddedWindows, protocols: tuple[Protocol, ...] = PROTOCOLS["all"]) -> Evaluation:
    """Run protocols on embedded windows."""
    readings: list[ProtocolScores] = []
    if "zero-shot" in protocols:
        readings += zero_shot_readings(embedded)
    if "probe" in protocols:
        readings.append(ProtocolScores("probe", "logistic regression", tuple(probe(embedded))))
    if "enrolment" in protocols:
        readings += enrolment_readings(embedded)
    return Evaluation(tuple(readings), tuple(retrieval(embedded)) if "retrieval" in protocols else ())


def zero_shot_readings(embedded: EmbeddedWindows) -> list[ProtocolScores]:
    """Three readings of the encoders, the published one first, and ridge regression to joint angles."""
    examples, queries, references = embedded.examples, embedded.queries, embedded.references
    prototypes = tuple(zero_shot(examples, queries, references, by_prototypes))
    first, *penalised = _nearest_poses(embedded.checkpoint, examples, queries, references, "10 nearest poses")
    plain = fit_plain_pair(embedded.checkpoint, embedded.store)
    predicted = embed_emg(torch_embedding(plain.emg), examples.queries)
    poses = embed_poses(plain.pose, examples.references)
    name = "without an encoder: ridge regression to joint angles, 10 nearest poses"
    return [
        first,
        ProtocolScores("zero-shot", "class prototypes", prototypes),
        *penalised,
        *_nearest_poses(plain, examples, predicted, poses, name),
    ]


def _nearest_poses(
    pair: Pair, examples: EvaluationSet, queries: NDArray[np.float32], references: NDArray[np.float32], name: str
) -> list[ProtocolScores]:
    """The majority of the nearest poses, without a penalty and, if one was chosen, with it."""
    readings = [ProtocolScores("zero-shot", name, tuple(zero_shot(examples, queries, references)))]
    chosen = choose_seen_penalty(pair, examples, queries, references)
    if chosen.penalty:
        scores = zero_shot(examples, *with_seen_penalty(examples, queries, references, chosen.penalty))
        among_all = tuple(s for s in scores if s.users == "held-out" and s.gestures not in ("seen", "unseen"))
        name += f", a penalty of {chosen.penalty:g} on trained gestures, chosen on validation people"
        readings.append(ProtocolScores("zero-shot", name, among_all, chosen.penalty))
    return readings


def retrieval(embedded: EmbeddedWindows) -> list[Retrieval]:
    """Recall of poses, and the geometry of the two sides, for every kind of query with all gestures in the index."""
    found = []
    for users in USERS:
        for gestures in ("seen among all", "unseen among all"):
            chosen, _ = select(embedded.examples, users, gestures)
            if chosen.any():
                found.append(_retrieval(embedded, users, gestures, chosen))
    return found


def _retrieval(embedded: EmbeddedWindows, users: Users, gestures: Gestures, chosen: NDArray[np.bool_]) -> Retrieval:
    examples = embedded.examples
    right = examples.queries.gesture_index[chosen][:, None] == examples.references.gesture_index[None, :]
    if examples.own_references:
        right &= examples.queries.user_index[chosen][:, None] != examples.references.user_index[None, :]
    share = right.mean(axis=1)
    own, quality = _paired(embedded, chosen)
    return Retrieval(
        users=users,
        gestures=gestures,
        recall={str(k): _mean_recall(embedded.queries[chosen], embedded.references, right, k) for k in RECALL_AT},
        chance={str(k): float(np.mean(1 - (1 - share) ** k)) for k in RECALL_AT},
        own_pose_recall=own,
        quality=quality,
        n_windows=int(chosen.sum()),
    )


def _paired(
    embedded: EmbeddedWindows, chosen: NDArray[np.bool_]
) -> tuple[dict[str, float] | None, EmbeddingQuality | None]:
    """The figures that need the window's own pose; windows whose pose fit failed are left out."""
    queries, with_pose = embedded.examples.queries, embedded.examples.references.dataset
    usable = np.flatnonzero(chosen)
    usable = usable[with_pose.admissible(queries.places[usable])]
    if len(usable) < 2 * max(RECALL_AT):
        return None, None
    own = replace(queries.only(usable), dataset=with_pose)
    pose, emg = embed_poses(embedded.checkpoint.pose, own), embedded.queries[usable]
    itself = np.eye(len(usable), dtype=bool)
    recall = {str(k): _mean_recall(emg, pose, itself, k) for k in RECALL_AT}
    return recall, embedding_quality(emg, pose, own.gesture_index, own.places[:, 0])


def _mean_recall(
    queries: NDArray[np.float32], references: NDArray[np.float32], right: NDArray[np.bool_], k: int
) -> float:
    return float(np.mean(recall_at(queries, references, right, k)))
