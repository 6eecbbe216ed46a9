"""Real EMG, the 3DC armband set: CPEP against pose templates, beside LibEMG's features and discriminant.

    python -m cpep_train.measure_3dc --real DIR [--out DIR] [--work DIR]

Two questions, on the same windows for every method, 250 ms every 50 ms and 2 s every 250 ms, over 11 gestures:
- enrolment: repetitions 1-4 of a person are known, 5-8 are asked about;
- person left out: nothing labelled of the person is known, all eight repetitions are asked about.

The peer is Hudgins' time-domain features with a linear discriminant, as LibEMG defines them (`cpep_train.realism`).
Ours is recipe `3dc-levels` on calibrated recordings (`cpep_train.levels_3dc`); a 2 s window is answered by the mean
embedding of its 36 quarter-second windows. Poses are templates, not recordings.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score

from cpep_edge.checkout import git_commit
from cpep_edge.errors import CpepError
from cpep_edge.files import replacing
from cpep_train.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from cpep_train.corpus import Corpus
from cpep_train.evaluate import Rule, by_neighbours, by_prototypes, torch_embedding
from cpep_train.import_3dc import GESTURES, import_3dc
from cpep_train.levels_3dc import (
    N_ENROLLED,
    STRIDE,
    WINDOW,
    Wearer,
    find_wearers,
    place_together,
    place_unlabelled,
    repetition_of,
    write_corpus,
)
from cpep_train.model import front_end
from cpep_train.realism import FeatureWindows, real_trials
from cpep_train.recipe import Recipe, load_recipe
from cpep_train.training import train
from cpep_train.windows import SessionStore, Statistics, WindowDataset

PEOPLE = tuple(range(1, 9))
TUNED_ON = tuple(f"3dc-{number:02d}" for number in range(1, 7))
SETTINGS = ((0.25, 0.05), (2.0, 0.25))  # window and stride, s
_LONG_WINDOWS, _LONG_STRIDE = (2_000 - WINDOW) // STRIDE + 1, 250 // STRIDE  # quarter-second windows in a 2 s window
_POSE_STRIDE = 500
_SHRINKAGE = (0.001, 0.01)  # of the discriminant, 250 ms and 2 s; chosen on people 1-6
_BATCH = 512
_LEFT_OUT = 2  # people at once, so that people 7-8 are read by an encoder of people 1-6
_THINNED = {"stride_samples": 125, "jitter_samples": 50}  # of the trainings without them, for time's sake

MACHINE = f"{os.cpu_count()} shared cores, {platform.machine()}, one thread"

ByPerson = dict[str, float]
Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Line:
    """One method's balanced accuracy, person by person."""

    question: str
    method: str
    quarter_second: ByPerson
    two_seconds: ByPerson


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of some recordings, embedded or as features."""

    rows: NDArray[np.float32]  # (n, D)
    gesture: NDArray[np.int64]  # (n,)
    repetition: NDArray[np.int64]  # (n,)
    recording: NDArray[np.int64]  # (n,)
    user: NDArray[np.str_]  # (n,)

    def only(self, kept: NDArray[np.bool_]) -> "Windows":
        """Some of them."""
        parts = (self.rows, self.gesture, self.repetition, self.recording, self.user)
        return Windows(*(part[kept] for part in parts))  # type: ignore[arg-type]  # each keeps its type

    def long(self) -> "Windows":
        """Two-second windows: the mean of the quarter-second windows in each."""
        firsts, rows = [], []
        for recording in np.unique(self.recording):
            mine = np.flatnonzero(self.recording == recording)
            for start in range(0, len(mine) - _LONG_WINDOWS + 1, _LONG_STRIDE):
                firsts.append(mine[start])
                rows.append(self.rows[mine[start : start + _LONG_WINDOWS]].mean(axis=0))
        first, mean = np.array(firsts), np.stack(rows)
        return Windows(mean, self.gesture[first], self.repetition[first], self.recording[first], self.user[first])


Answer = Callable[[Windows, Windows, bool], NDArray[np.int64]]
"""Enrolled windows and those asked about, of one person, and whether they are long ones, to gestures."""


def measure(real: Path, work: Path, recipe: Recipe, people: Sequence[int] = PEOPLE) -> list[Line]:
    """Every line of the table; runs that lie finished in `work` are taken as they are."""
    if not (work / "imported").exists():
        import_3dc(real, work / "imported", people)
    corpus = Corpus.open(work / "imported")
    wearers = find_wearers(corpus)
    return [*peer(real), *enrolment(corpus, wearers, work, recipe), *left_out(corpus, wearers, work, recipe)]


def peer(real: Path) -> list[Line]:
    """LibEMG's features and discriminant."""
    short, long = (FeatureWindows.cut(real_trials(real), *setting) for setting in SETTINGS)
    name = "peer: Hudgins features, LDA"
    return [
        Line("enrolment", name, _named(short.same_person()), _named(long.same_person())),
        Line("person left out", name, _named(short.left_out()), _named(long.left_out())),
    ]


def enrolment(corpus: Corpus, wearers: dict[str, Wearer], work: Path, recipe: Recipe) -> list[Line]:
    """One encoder for everybody, trained on the enrolled repetitions; then three ways to use those of a person."""
    data, users = work / "together", sorted(wearers)
    if not data.exists():
        placements = place_together(wearers, users, N_ENROLLED)
        write_corpus(corpus, wearers, placements, data, work / "recordings")
    checkpoint = _trained(recipe, data, work / "run-together")
    windows, poses, labels = _embedded(checkpoint, Corpus.open(data))
    question = "enrolment"
    return [
        _line(question, "ours: 10 nearest pose templates", windows, _by_poses(by_neighbours(), poses, labels)),
        _line(question, "ours: 10 nearest, enrolled windows in the index", windows, _by_entries),
        _line(question, "ours: linear map of the embedding, fitted on what was enrolled", windows, _by_map),
        _line(question, "no encoder: the same log levels, LDA", _levels(checkpoint, Corpus.open(data)), _by_map),
    ]


def left_out(corpus: Corpus, wearers: dict[str, Wearer], work: Path, recipe: Recipe) -> list[Line]:
    """An encoder for each two people, trained on all others; their first repetitions calibrate, unlabelled."""
    recipe = recipe.model_copy(update={"windows": recipe.windows.model_copy(update=_THINNED)})
    lines: dict[tuple[str, str], Line] = {}
    users = sorted(wearers)
    for pair in (users[place : place + _LEFT_OUT] for place in range(0, len(users), _LEFT_OUT)):
        data = work / f"without-{'-'.join(pair)}"
        if not data.exists():
            placed = place_together(wearers, [user for user in users if user not in pair], 2 * N_ENROLLED)
            found = {user: place_unlabelled(wearers, placed, user) for user in pair}
            write_corpus(corpus, wearers, placed | found, data, work / "recordings", held_out=pair)
        for line in _left_out(_trained(recipe, data, work / f"run-{data.name}"), Corpus.open(data), pair):
            so_far = lines.setdefault((line.question, line.method), Line(line.question, line.method, {}, {}))
            so_far.quarter_second.update(line.quarter_second)
            so_far.two_seconds.update(line.two_seconds)
    return list(lines.values())


def _left_out(checkpoint: Checkpoint, corpus: Corpus, users: Sequence[str]) -> list[Line]:
    everybody, poses, labels = _embedded(checkpoint, corpus)
    windows, levels = everybody.only(np.isin(everybody.user, users)), _levels(checkpoint, corpus)
    question = "person left out"
    return [
        _line(question, "ours: 10 nearest pose templates", windows, _by_poses(by_neighbours(), poses, labels)),
        _line(question, "ours: nearest mean pose template", windows, _by_poses(by_prototypes, poses, labels)),
        _level_line(levels, users),
        _line("enrolment", "ours: linear map, encoder never trained on the person", windows, _by_map),
    ]


def _trained(recipe: Recipe, data: Path, run: Path) -> Checkpoint:
    if not (run / CHECKPOINT_FILE).is_file():
        train(recipe, data, run, resume=run.exists())
        sys.stderr.write(f"trained {run.name}\n")
    return load_checkpoint(run)


def _embedded(checkpoint: Checkpoint, corpus: Corpus) -> tuple[Windows, NDArray[np.float32], NDArray[np.int64]]:
    """Everybody's windows, embedded; embedded pose templates of the training, and their gestures."""
    store, embed = _store(checkpoint, corpus), torch_embedding(checkpoint.emg)
    windows = _windows(store, embed)
    trained = WindowDataset(store, corpus.numbers("train"), with_pose=True, stride_samples=_POSE_STRIDE)
    pose = torch_embedding(checkpoint.pose)
    poses = np.concatenate([pose(trained.fetch(part).pose.numpy()) for part in _parts(trained.index)])
    labels = np.array([GESTURES.index(corpus.rows[number].stage) for number in trained.index[:, 0]])
    return windows, poses, labels


def _levels(checkpoint: Checkpoint, corpus: Corpus) -> Windows:
    """Everybody's windows as what the encoder's front end sees, averaged: log levels of signal and difference."""
    config = checkpoint.emg.encoder.config
    return _windows(
        _store(checkpoint, corpus), lambda emg: front_end(torch.from_numpy(emg), config).mean(dim=-1).numpy()
    )


def _store(checkpoint: Checkpoint, corpus: Corpus) -> SessionStore:
    scales = Statistics(checkpoint.preprocessing.scale_uv, checkpoint.pose_mean_rad, checkpoint.pose_std_rad)
    return SessionStore(corpus, checkpoint.recipe, scales)


def _windows(store: SessionStore, embed: Embed) -> Windows:
    corpus = store.corpus
    cut = WindowDataset(store, range(len(corpus.rows)), with_pose=False, stride_samples=STRIDE)
    of_row = cut.index[:, 0]
    return Windows(
        np.concatenate([embed(cut.fetch(part).emg.numpy()) for part in _parts(cut.index)]),
        np.array([GESTURES.index(row.stage) for row in corpus.rows])[of_row],
        np.array([repetition_of(row) for row in corpus.rows])[of_row],
        of_row,
        np.array([row.user for row in corpus.rows])[of_row],
    )


def _parts(places: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(places), _BATCH):
        yield places[start : start + _BATCH]


def _line(question: str, method: str, windows: Windows, answer: Answer) -> Line:
    """Ask every person; `enrolment` asks about the later repetitions, `person left out` about all."""
    found: list[ByPerson] = []
    for long, cut in enumerate((windows, windows.long())):
        accuracy = {}
        for user in np.unique(cut.user).tolist():
            mine = cut.only(cut.user == user)
            known = mine.repetition <= N_ENROLLED
            asked = mine.only(~known) if question == "enrolment" else mine
            answered = answer(mine.only(known), asked, bool(long))
            accuracy[user] = float(balanced_accuracy_score(asked.gesture, answered))
        found.append(accuracy)
    return Line(question, method, *found)


def _by_poses(rule: Rule, poses: NDArray[np.float32], labels: NDArray[np.int64]) -> Answer:
    return lambda enrolled, asked, long: rule(_unit(asked.rows), poses, labels)


def _by_entries(enrolled: Windows, asked: Windows, long: bool) -> NDArray[np.int64]:
    return by_neighbours()(_unit(asked.rows), _unit(enrolled.rows), enrolled.gesture)


def _by_map(enrolled: Windows, asked: Windows, long: bool) -> NDArray[np.int64]:
    answered: NDArray[np.int64] = _discriminant(long).fit(enrolled.rows, enrolled.gesture).predict(asked.rows)
    return answered


def _level_line(levels: Windows, users: Sequence[str]) -> Line:
    """What the encoder adds: a discriminant on the log levels of all others, as calibrated and placed."""
    found: list[ByPerson] = []
    for long, cut in enumerate((levels, levels.long())):
        trained = ~np.isin(cut.user, users)
        lda = _discriminant(bool(long)).fit(cut.rows[trained], cut.gesture[trained])
        asked = {user: cut.only(cut.user == user) for user in users}
        answered = {user: lda.predict(windows.rows) for user, windows in asked.items()}
        found.append({u: float(balanced_accuracy_score(asked[u].gesture, answered[u])) for u in users})
    return Line("person left out", "no encoder: the same log levels, LDA", *found)


def _discriminant(long: bool) -> LinearDiscriminantAnalysis:
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=_SHRINKAGE[long])


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _named(by_person: ByPerson) -> ByPerson:
    """The participants' folders by the importer's names."""
    return {f"3dc-{int(person.removeprefix('Participant')):02d}": value for person, value in by_person.items()}


def report(lines: list[Line], recipe: Recipe) -> str:
    """The tables as Markdown."""
    parts = [
        "# Real EMG: the 3DC armband set",
        "",
        f"`python -m cpep_train.measure_3dc --real 3DC`, recipe `{recipe.name}`, seed {recipe.seed}, commit "
        f"`{git_commit()[:10]}`, {MACHINE}. Data: Cote-Allard et al. 2019, eight participants, eleven gestures.",
        "",
        "Balanced accuracy, averaged over people, the same windows for every method. **Poses are templates**, written",
        "by hand: no pose was recorded, and nothing here says that one was estimated. What is done, in",
        "`cpep_train.measure_3dc` and `cpep_train.levels_3dc`, was chosen on people 1-6, with one exception: that a",
        "band may be worn turned or mirrored was seen in the gesture means of all eight. People 7-8 were read once.",
        "Ours calibrates with each person's first repetition, 55 s, without its labels; the peer does not.",
    ]
    for question in dict.fromkeys(line.question for line in lines):
        parts += ["", f"## {question.capitalize()}", "", _EXPLAINED[question], "", *_table(lines, question)]
    return "\n".join(parts) + "\n"


_EXPLAINED = {
    "enrolment": "Repetitions 1-4 of a person are known, 5-8 are asked about. Ours is one encoder, trained on "
    "everybody's repetitions 1-4 against templates, or, where it says so, on six other people alone.",
    "person left out": "Nothing labelled of the person is known; all eight repetitions are asked about. The peer is "
    "trained on the seven others, ours on six: two people are left out at a time.",
}


def _table(lines: list[Line], question: str) -> list[str]:
    header = ["| | 250 ms | people 1-6 | people 7-8 | 2 s | people 1-6 | people 7-8 |", "| --- |" + " --- |" * 6]
    return header + [f"| {line.method} | {_cells(line)} |" for line in lines if line.question == question]


def _cells(line: Line) -> str:
    cells = []
    for by_person in (line.quarter_second, line.two_seconds):
        tuned = [value for user, value in by_person.items() if user in TUNED_ON]
        read_once = [value for user, value in by_person.items() if user not in TUNED_ON]
        cells += [f"{np.mean(values):.3f}" if values else "-" for values in ([*tuned, *read_once], tuned, read_once)]
    return " | ".join(cells)


def main() -> int:
    """Measure and write 3dc.md and 3dc.json."""
    parser = argparse.ArgumentParser(prog="python -m cpep_train.measure_3dc", description=__doc__)
    parser.add_argument("--real", type=Path, required=True, help="the 3DC recordings: Participant1, ...")
    parser.add_argument("--out", type=Path, default=Path("train/results"), help="where the table goes")
    parser.add_argument(
        "--work", type=Path, help="folder for corpora and runs, to go on in; a temporary one without it"
    )
    options = parser.parse_args()
    recipe = load_recipe("3dc-levels")
    with tempfile.TemporaryDirectory() as temporary:
        lines = measure(options.real, options.work or Path(temporary), recipe)
    figures = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "commit": git_commit(),
        "machine": MACHINE,
        "poses": "templates",
        "lines": [asdict(line) for line in lines],
    }
    for name, text in (("3dc.md", report(lines, recipe)), ("3dc.json", json.dumps(figures, indent=1) + "\n")):
        with replacing(options.out / name) as path:
            path.write_text(text, encoding="utf-8")
    sys.stdout.write(report(lines, recipe))
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except CpepError as error:
        raise SystemExit(f"error: {error}") from None
