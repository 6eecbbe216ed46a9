"""Few-shot enrolment: a person's first repetitions become index entries, and their later ones are the queries.

If a person has eight or more recordings of a gesture, each is a repetition; fewer are cut into equal pieces, eight or
more in all. The first half of a person's repetitions of a gesture may be enrolled. The second half are the queries,
however many are enrolled, except what was trained on. All gestures are in the index. There are two readings: the
entries are added to the poses; or a linear discriminant is fitted to the entries alone, which an index can hold as a
matrix and one point per gesture.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from cpep_train.embedded_windows import EmbeddedWindows, ProtocolScores
from cpep_train.evaluate import (
    USERS,
    EvaluationSet,
    Examples,
    Gestures,
    Score,
    Users,
    by_neighbours,
    choose,
    embed_emg,
    of_users,
    score,
    torch_embedding,
)

N_ENROLLED = (0, 1, 2, 4)
N_REPETITIONS = 8  # at least, of each gesture
_MOST_WINDOWS = 400  # of a recording
SHRINKAGE = 0.1  # of the covariance towards a sphere: the windows of one repetition are few and alike


@dataclass(frozen=True, slots=True)
class Repetitions:
    """All windows of the people who are tested, numbered by repetition."""

    examples: Examples
    embedding: NDArray[np.float32]  # (n, D)
    number: NDArray[np.int64]  # (n,), of the person's repetitions of the gesture, from 0
    n_first: NDArray[np.int64]  # (n,), how many repetitions of the gesture may be enrolled
    trained: NDArray[np.bool_]  # (n,), whether training saw the recording

    @property
    def asked(self) -> NDArray[np.bool_]:
        """Windows of later repetitions that training did not see, (n,)."""
        return (self.number >= self.n_first) & ~self.trained


def enrolment_readings(embedded: EmbeddedWindows) -> list[ProtocolScores]:
    """Accuracy by the number of enrolled repetitions."""
    repetitions = find_repetitions(embedded)
    readings = []
    for n in N_ENROLLED:
        name = f"{n} {'repetition' if n == 1 else 'repetitions'} enrolled"
        readings.append(_reading(embedded, repetitions, n, f"{name}, beside the poses", "neighbours"))
        if n > 0:
            readings.append(_reading(embedded, repetitions, n, f"{name}, linear map", "map"))
    return [reading for reading in readings if reading.scores]


def find_repetitions(embedded: EmbeddedWindows) -> Repetitions:
    """Cut the recordings of everybody who is tested into repetitions, and embed them."""
    examples, store = embedded.examples, embedded.store
    rows, asked_users = store.corpus.rows, set(examples.queries.user_index.tolist())
    numbers = [
        n
        for n, row in enumerate(rows)
        if row.stage in examples.gestures and examples.users.index(row.user) in asked_users
    ]
    numbers.sort(key=lambda n: (rows[n].user, rows[n].stage, rows[n].session, rows[n].filename))
    windows = choose(store, numbers, examples.gestures, _MOST_WINDOWS, with_pose=False)
    number, n_first, inside = _numbered(windows)
    kept = windows.only(inside)
    return Repetitions(
        examples=kept,
        embedding=embed_emg(torch_embedding(embedded.checkpoint.emg), kept),
        number=number[inside],
        n_first=n_first[inside],
        trained=np.array([rows[session].split == "train" for session, _ in kept.places], bool),
    )


def _numbered(windows: Examples) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Each window's repetition, how many of its gesture may be enrolled, and whether the window lies in one piece."""
    length, store = windows.dataset.window_samples, windows.dataset.store
    number, n_first = np.zeros(len(windows), np.int64), np.zeros(len(windows), np.int64)
    inside = np.zeros(len(windows), bool)
    group = np.stack([windows.user_index, windows.gesture_index], axis=1)
    for key in np.unique(group, axis=0):
        of_gesture = np.flatnonzero((group == key).all(axis=1))
        recordings = list(dict.fromkeys(windows.places[of_gesture, 0].tolist()))
        n_pieces = max(1, -(-N_REPETITIONS // len(recordings)))
        for place, recording in enumerate(recordings):
            mine = of_gesture[windows.places[of_gesture, 0] == recording]
            piece_samples = store.layout(recording).n_samples / n_pieces
            start = windows.places[mine, 1]
            piece = np.minimum(start // piece_samples, n_pieces - 1).astype(np.int64)
            number[mine] = place * n_pieces + piece
            inside[mine] = start + length <= (piece + 1) * piece_samples + 1
        n_first[of_gesture] = len(recordings) * n_pieces // 2
    return number, n_first, inside


def _reading(embedded: EmbeddedWindows, repetitions: Repetitions, n: int, name: str, how: str) -> ProtocolScores:
    scores = []
    for users in USERS:
        for gestures in ("seen among all", "unseen among all"):
            found = _score(embedded, repetitions, n, how, users, gestures)
            if found is not None:
                scores.append(found)
    return ProtocolScores("enrolment", name, tuple(scores))


def _score(
    embedded: EmbeddedWindows, repetitions: Repetitions, n: int, how: str, users: Users, gestures: Gestures
) -> Score | None:
    examples, windows = embedded.examples, repetitions.examples
    kind = of_users(windows, users) & (examples.seen[windows.gesture_index] == gestures.startswith("seen"))
    asked = kind & repetitions.asked
    enrolled = (repetitions.number < n) & (repetitions.number < repetitions.n_first)
    if not asked.any() or (n > 0 and repetitions.n_first[asked].max() < n):
        return None
    answered = np.empty(len(windows), np.int64)
    for person in np.unique(windows.user_index[asked]):
        mine, entries = asked & (windows.user_index == person), enrolled & (windows.user_index == person)
        label, embedding = windows.gesture_index[entries], repetitions.embedding[entries]
        if how == "map" and 1 < len(np.unique(label)) < len(label):  # else there is nothing to fit
            answered[mine] = discriminant(embedding, label).predict(repetitions.embedding[mine])
        else:
            references, labels = _usable_poses(examples, embedded.references, person)
            answered[mine] = by_neighbours()(
                repetitions.embedding[mine],
                np.concatenate([embedding, references]),
                np.concatenate([label, labels]),
            )
    user, true = windows.user_index[asked], windows.gesture_index[asked]
    return score(users, gestures, examples.gestures, true, answered[asked], user, examples.users)


def discriminant(embedding: NDArray[np.float32], label: NDArray[np.int64]) -> LinearDiscriminantAnalysis:
    """The linear discriminant of enrolled embeddings: a linear map and one point per gesture.

    embedding: (n, D); label: (n,)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # warns of fewer windows than dimensions, which shrinkage handles
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE).fit(embedding, label)


def _usable_poses(
    examples: EvaluationSet, references: NDArray[np.float32], person: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The poses that may answer for a person: not their own recorded ones, unless nobody else has the gesture."""
    owner, label = examples.references.user_index, examples.references.gesture_index
    if not examples.own_references:
        return references, label
    rows = examples.references.dataset.store.corpus.rows
    trained = np.array([rows[number].split == "train" for number, _ in examples.references.places], bool)
    usable = owner != person
    # For gestures that nobody else has, the person's own poses answer, from recordings that are never queries.
    usable |= trained & ~np.isin(label, label[usable])
    return references[usable], label[usable]
