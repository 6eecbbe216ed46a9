"""Forget each gesture of a bundle, teach it again in every way there is, and see what is recognised.

    python benchmarks/measure_enrolment.py BUNDLE RUN --data CORPUS --out benchmarks/results/enrolment.md

The bundle must come from that run and corpus. A gesture is taught by the poses of one training person, or by the first
half of a recording of the person who is tested. Tests use the second half of the recordings of people held out of
training. Recall is that of the taught gesture; the accuracy of the others shows what it took from them.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from cpep_bench.machine import this_machine
from cpep_edge.bundle import Bundle
from cpep_edge.enrolment import OpenBundle, prototypes_from_pose, prototypes_from_session
from cpep_edge.files import write_file
from cpep_edge.session import JOINT_NAMES, Session
from cpep_edge.versions import git_commit
from cpep_export.ladder import one_by_one
from cpep_train.checkpoint import load_checkpoint
from cpep_train.corpus import Corpus, Row
from cpep_train.evaluate import N_NEIGHBOURS as K
from cpep_train.evaluate import EvaluationSet, evaluation_set, majority

Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bench:
    """A bundle and the windows that it is tested on."""

    opened: OpenBundle
    corpus: Corpus
    evaluation: EvaluationSet
    queries: Vectors  # (Q, D), second halves of held-out people's recordings, embedded by the bundle's program
    true: Labels  # (Q,)
    person: Labels  # (Q,)
    first_half: dict[tuple[int, int], Vectors]  # embedded EMG by person and gesture

    def asked(self, gesture: int, vectors: Vectors, person: int | None, taught: bool) -> tuple[float, float]:
        """Recall of a gesture by these vectors, and accuracy of all others, of all people or of one.

        taught: the gesture is taught by the user, so the penalty of trained gestures does not apply to it
        """
        index, manifest = self.opened.recogniser.index, self.opened.bundle.manifest
        penalty = np.array(manifest.index.penalties(manifest.gestures), np.float32)
        if taught:
            penalty[gesture] = 0
        kept = index.gesture_index != gesture
        poses = np.concatenate([index.vectors[kept], vectors])
        labels = np.concatenate([index.gesture_index[kept], np.full(len(vectors), gesture)])
        chosen = np.ones(len(self.true), bool) if person is None else self.person == person
        nearest = labels[np.argsort(penalty[labels] - self.queries[chosen] @ poses.T, axis=1)[:, :K]]
        right = majority(nearest) == self.true[chosen]
        own = self.true[chosen] == gesture
        return float(right[own].mean()), float(right[~own].mean())


Teach = Callable[[Bench, int], Iterator[tuple[Vectors, int | None]]]


def corpus_poses(bench: Bench, gesture: int) -> Iterator[tuple[Vectors, int | None]]:
    """The gesture as exported: poses of all training people."""
    index = bench.opened.recogniser.index
    yield index.vectors[index.gesture_index == gesture], None


def nothing(bench: Bench, gesture: int) -> Iterator[tuple[Vectors, int | None]]:
    """No vectors: the gesture stays forgotten."""
    yield np.empty((0, bench.queries.shape[1]), np.float32), None


def held_pose(bench: Bench, gesture: int) -> Iterator[tuple[Vectors, int | None]]:
    """One pose: the mean of a training person's recording, as a row of a CSV file."""
    with TemporaryDirectory() as folder, Session(_path(bench, _training_row(bench, gesture))) as session:
        pose = session.joint_angles()[session.pose_valid()].mean(axis=0)
        file = Path(folder) / "pose.csv"
        file.write_text(",".join(JOINT_NAMES) + "\n" + ",".join(map(str, pose.tolist())) + "\n", encoding="utf-8")
        yield prototypes_from_pose(bench.opened, file), None


def movement(bench: Bench, gesture: int) -> Iterator[tuple[Vectors, int | None]]:
    """A movement: the tracked poses of a training person's recording."""
    yield prototypes_from_pose(bench.opened, _path(bench, _training_row(bench, gesture))), None


def session_emg(bench: Bench, gesture: int) -> Iterator[tuple[Vectors, int | None]]:
    """EMG: the poses nearest to the first half of the person's own recording."""
    donnings = bench.evaluation.queries.dataset.store.donnings
    for person in np.unique(bench.person):
        row = next(row for row in bench.corpus.rows if _is(bench, row, int(person), gesture))
        with TemporaryDirectory() as folder:
            file = _first_half(_path(bench, row), Path(folder) / "half.hdf5")
            yield prototypes_from_session(bench.opened, file, donnings.of(row)), int(person)


def raw_emg(bench: Bench, gesture: int) -> Iterator[tuple[Vectors, int | None]]:
    """The embeddings of the same EMG, for comparison: they attract the votes of every gesture."""
    for person in np.unique(bench.person):
        yield bench.first_half[int(person), gesture], int(person)


WAYS: dict[str, Teach] = {
    "as exported: poses of all training people": corpus_poses,
    "not at all": nothing,
    "--from-pose, one held pose": held_pose,
    "--from-pose, one movement": movement,
    "--from-session, half a recording": session_emg,
    "embedded EMG itself (not offered)": raw_emg,
}


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = _gather(options.bundle, options.run, options.data)
    write_file(options.out, "\n".join(_report(bench)))


def _gather(bundle: Path, run: Path, data: Path) -> Bench:
    opened, corpus = OpenBundle.check(Bundle(bundle)), Corpus.open(data)
    evaluation = evaluation_set(load_checkpoint(run), corpus)
    queries = evaluation.queries
    asked = np.flatnonzero(queries.held_out_user)
    embed = one_by_one(opened.recogniser.encoder)
    emg = [queries.dataset.fetch(queries.places[asked[at : at + 256]]).emg.numpy() for at in range(0, len(asked), 256)]
    embedded = np.concatenate([embed(batch) for batch in emg])
    person, gesture = queries.user_index[asked], queries.gesture_index[asked]
    late, first_half = np.zeros(len(asked), bool), {}
    window = queries.dataset.window_samples
    for one in np.unique(person):
        for which in np.unique(gesture[person == one]):
            own = np.flatnonzero((person == one) & (gesture == which))
            start = queries.places[asked[own], 1]
            middle = int(start.max() + window) // 2
            late[own[start >= middle]] = True
            first_half[int(one), int(which)] = embedded[own[start + window <= middle]]
    return Bench(opened, corpus, evaluation, embedded[late], gesture[late], person[late], first_half)


def _report(bench: Bench) -> Iterator[str]:
    gestures, seen = bench.evaluation.gestures, bench.evaluation.seen
    n_people = len(np.unique(bench.person))
    yield "# Gestures taught without training\n"
    yield (
        f"{len(gestures)} gestures, each forgotten and taught again; {len(bench.true):,} windows of {n_people} people "
        f"({bench.corpus.folder.resolve().name}) whom training never saw, all gestures in the index, trained ones "
        "with the bundle's penalty. Recall is of the gesture taught; the others' accuracy is the mean over the same "
        "cases.\n"
    )
    yield "| taught | recall, EMG trained on | recall, EMG never trained on | others' accuracy |"
    yield "| --- | --: | --: | --: |"
    for name, teach in WAYS.items():
        figures = np.array([_mean(bench, teach, gesture) for gesture in range(len(gestures))])
        recall = [f"{figures[kind, 0].mean():.3f}" if kind.any() else "-" for kind in (seen, ~seen)]
        yield f"| {name} | {recall[0]} | {recall[1]} | {figures[:, 1].mean():.3f} |"
    machine = this_machine()
    yield (
        f"\n`python benchmarks/measure_enrolment.py`, commit `{git_commit()[:12] or 'unknown'}`, "
        f"{bench.opened.bundle.manifest.provenance.recipe} recipe, seed "
        f"{bench.opened.bundle.manifest.provenance.seed}; {machine.cpu}.\n"
    )


def _mean(bench: Bench, teach: Teach, gesture: int) -> tuple[float, float]:
    taught = teach is not corpus_poses
    figures = [bench.asked(gesture, vectors, person, taught) for vectors, person in teach(bench, gesture)]
    recall, others = np.mean(figures, axis=0)
    return float(recall), float(others)


def _training_row(bench: Bench, gesture: int) -> Row:
    stage = bench.evaluation.gestures[gesture]
    return next(row for row in bench.corpus.rows if row.stage == stage and not row.held_out_user)


def _is(bench: Bench, row: Row, person: int, gesture: int) -> bool:
    return (row.user, row.stage) == (bench.evaluation.users[person], bench.evaluation.gestures[gesture])


def _path(bench: Bench, row: Row) -> Path:
    return bench.corpus.folder / f"{row.filename}.hdf5"


def _first_half(file: Path, out: Path) -> Path:
    from cpep_edge.session import write_session

    with Session(file) as session:
        middle = session.n_samples // 2
        write_session(out, session.meta, session.time_s(0, middle), session.emg(0, middle))
    return out


if __name__ == "__main__":
    main()
