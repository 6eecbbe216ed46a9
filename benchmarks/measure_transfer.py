"""Does an encoder that was trained on simulated people help on real arms?

    python benchmarks/measure_transfer.py --data FOLDER --out FOLDER [--only 3dc,ninapro-db5] [--people 24,96,384]

FOLDER of the data: `3dc`, `ninapro-db5`, `myo-wrist` in their published layouts. For each set, people are simulated who
wear its band and make its gestures by name, as for `measure_realism.py`; for Ninapro, which has recorded poses, they
also move freely. The set's recipe is trained on them. How the real bands of Ninapro DB5 and myo-wrist sit on the arm is
not published; the turn is the one at which a discriminant of simulated people classifies the real ones best. Then one,
two or four real people are trained on, with one, two or four repetitions of each gesture, in three ways:

- from nothing: the set's recipe as it is;
- tuned: the same, but the EMG encoder begins as the one that was trained on simulated people;
- head only: the encoder of the simulated people stays as it is, and only a head is fitted on the real people.

Encoders are judged by a linear discriminant on the embedding, with and without the front end's mean token, and by the
nearest poses; they are compared with a linear discriminant on the front end's mean token, without an encoder. All get
the same windows of people who were not trained on. Those calibrate by the first repetition of every gesture, without
labels, which is not tested on. Encoders are in float32. Training takes as many steps for one person and one repetition
as for four people and four repetitions.

Why it helps or does not is in the last table of a set: how alike two people make a gesture, two real ones, two
simulated ones, or one of each. It is the correlation over the channels of the logarithms of levels, less the mean over
gestures and the mean over channels. Where the recipe looks for the turn of the band, it is the one at which all
gestures together are most alike.

Writes `transfer.md` and `transfer.json` after every cell of the tables. A second run with the same `--out` computes
only the cells that are missing, and uses the simulated people and what was trained on them again.
"""

import argparse
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.metrics import balanced_accuracy_score

from cpep_edge.donning import placements, unscaled
from cpep_edge.files import write_file
from cpep_edge.head import Head
from cpep_edge.preprocess import Preprocessor
from cpep_edge.session import SessionMeta, write_session
from cpep_edge.versions import git_commit
from cpep_export.head_choice import Reads, fitted_heads
from cpep_train.checkpoint import Checkpoint, load_checkpoint
from cpep_train.corpus import FREE_STAGE, Corpus, Row, write_metadata
from cpep_train.donnings import DonningKey
from cpep_train.evaluate import answers, embed_emg, embed_poses, evaluation_set, torch_embedding
from cpep_train.hand_model import load_hand
from cpep_train.plain_head import mean_tokens
from cpep_train.recipe import Recipe, load_recipe
from cpep_train.simulation import POSE_RATE_HZ, record, simulate_free
from cpep_train.stages import FINGER_MOVEMENTS, WRIST_AND_GRIPS, Stage, hold
from cpep_train.training import WEIGHTS_FILE, train
from cpep_train.wearers import RingBand, draw_donning, draw_wearer, stream
from measure_real import SETS, Set, corpus_of, interval
from measure_realism import DOUBLE_MYO, MYO, THREE_DC

SEED = 31
COUNTS = (1, 2, 4)  # of real people who are trained on, and of their repetitions
PLAIN = "log-covariances + head, no encoder"
_HELD_S, _FREE_S = 3.0, 20.0  # of a simulated person: each gesture once, and free movement
_SETTINGS = {"3dc": ["windows.stride_samples=100"]}  # a tenth of a second, as in the other sets; half as many steps
_VALIDATES = 8  # every so many-th simulated person is for validation
_FINGERS = ("index", "middle", "ring", "little")
_THUMB = ("adduction", "abduction", "flexion", "extension")

Accuracies = dict[str, dict[str, float]]  # by method and person
Likeness = dict[str, dict[str, float]]  # by kind of pair and gesture


@dataclass
class Results:
    """The results on one set, as `transfer.json` has them."""

    commits: list[str] = field(default_factory=list)  # that computed the cells
    cells: dict[str, Accuracies] = field(default_factory=dict)
    alike: Likeness = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Simulated:
    """How people are simulated for a set."""

    band: RingBand
    names: dict[str, str]  # a gesture's name in the set, by that of its stage
    n_folds: int  # of the real people, who are tested in turn
    order: tuple[int, ...] = ()  # the simulated electrode of each channel of the set; empty: found by the recipe

    @property
    def stages(self) -> list[Stage]:
        """The stages with a name in the set."""
        return [stage for stage in (*WRIST_AND_GRIPS, *FINGER_MOVEMENTS) if stage.name in self.names]


SIMULATED = {
    "3dc": Simulated(THREE_DC, {stage.name: stage.name for stage in WRIST_AND_GRIPS}, 4),
    "ninapro-db5": Simulated(
        DOUBLE_MYO,
        {
            f"{finger.capitalize()}{'Finger' * (finger == 'little')}{way.capitalize()}": f"{finger} {way}"
            for finger in _FINGERS
            for way in ("flexion", "extension")
        }
        | {f"Thumb{way.capitalize()}": f"thumb {way}" for way in _THUMB},
        5,
        tuple((electrode + 10) % 16 for electrode in (*range(0, 16, 2), *range(1, 16, 2))),  # two rings
    ),
    "myo-wrist": Simulated(
        MYO,
        {
            stage.name: stage.name
            for stage in WRIST_AND_GRIPS
            if stage.name not in ("OpenHand", "ChuckGrip", "PinchGrip")
        }
        | {"NoMotion": "Rest", "PowerGrip": "Fist"},
        4,
        tuple((electrode + 5) % 8 for electrode in range(8)),
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen sets and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets in their published layouts")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--only", default=",".join(SIMULATED), help="sets by commas")
    parser.add_argument("--people", default="24,96,384", help="numbers of simulated people; the last begins the tuning")
    options = parser.parse_args(arguments)
    wanted = options.only.split(",")
    if set(wanted) - set(SIMULATED):
        parser.error(
            f"there is no set {', '.join(sorted(set(wanted) - set(SIMULATED)))}; there are {', '.join(SIMULATED)}"
        )
    if missing := [name for name in wanted if not (options.data / name).is_dir()]:
        parser.error(f"{options.data} holds no {', '.join(missing)}")
    try:
        numbers = sorted(map(int, options.people.split(",")))
    except ValueError:
        parser.error(f"--people takes numbers by commas, got {options.people}")
    file = options.out / "transfer.json"
    results = {name: Results(**one) for name, one in (json.loads(file.read_text()) if file.is_file() else {}).items()}

    def save() -> None:
        write_file(file, json.dumps({name: asdict(one) for name, one in results.items()}, indent=1) + "\n")
        write_file(options.out / "transfer.md", markdown(results))

    for one in (one for one in SETS if one.name in wanted):
        work = options.out / "work" / one.name
        work.mkdir(parents=True, exist_ok=True)
        measure(one, options.data / one.name, work, numbers, results.setdefault(one.name, Results()), save)
    print(options.out / "transfer.md")


def measure(
    one: Set, data: Path, work: Path, numbers: Sequence[int], results: Results, save: Callable[[], None]
) -> None:
    """Add the missing results on a set, and save after each; numbers: of simulated people."""
    shutil.rmtree(work / "real", ignore_errors=True)
    real, how = corpus_of(one, data, work / "real"), SIMULATED[one.name]
    recipe = load_recipe(one.recipe, _SETTINGS.get(one.name, []))
    people = sorted({row.user for row in real.rows})
    simulated = simulate(how, recipe, work / "simulated", numbers[-1])
    results.commits = list(dict.fromkeys((*results.commits, git_commit() or "unknown")))
    stages = tuple(how.names.values())  # free movement does not calibrate, as real people have none
    of_simulated = recipe.model_copy(update={"calibration": recipe.calibration.model_copy(update={"stages": stages})})

    def add(cell: str, found: Accuracies) -> None:
        results.cells[cell] = found
        means = {method: round(float(np.mean(list(people.values()))), 3) for method, people in found.items()}
        print(one.name, cell, means, flush=True)
        save()

    for number in numbers:
        run, cell = work / f"run-{number}", f"{number} simulated"
        names = sorted({row.user for row in simulated.rows})[:number]
        rows = [row for row in simulated.rows if row.user in names]
        if cell not in results.cells or not (run / "checkpoint.json").is_file():
            corpus = link(work / "corpus", (simulated, rows), (real, rows_of(real, people, "test")))
            if not (run / "checkpoint.json").is_file():
                shutil.rmtree(run, ignore_errors=True)
                train(of_simulated, corpus, run)
            add(cell, judged(corpus, {"simulated": load_checkpoint(run)}))
    first = load_checkpoint(work / f"run-{numbers[-1]}")
    for n_people, n_repetitions in itertools.product(COUNTS, COUNTS):
        cell, found = f"{n_people} x {n_repetitions}", Accuracies()
        if cell in results.cells:
            continue
        for fold in range(how.n_folds):
            tested = people[fold :: how.n_folds]
            after = (people * 2)[fold + 1 :]
            shown = [name for name in after if name not in tested][:n_people]
            taught = rows_of(real, shown, "train", n_repetitions, recipe.calibration.donning == "session")
            corpus = link(work / "corpus", (real, taught), (real, rows_of(real, tested, "test")))
            for method, of_person in both_ways(recipe, corpus, work, first, 16 / (n_people * n_repetitions)).items():
                found.setdefault(method, {}).update(of_person)
        add(cell, found)
    results.alike = alike(recipe, real, simulated)
    save()


def both_ways(recipe: Recipe, corpus: Path, work: Path, first: Checkpoint, longer: float) -> Accuracies:
    """Train from nothing and from the encoder `first`, and judge both; longer: factor on the epochs."""
    begin, runs = work / "begin", {name: work / f"trained-{name}" for name in ("nothing", "tuned")}
    for folder in (begin, *runs.values()):
        shutil.rmtree(folder, ignore_errors=True)
    begin.mkdir()
    save_file(first.emg.encoder.state_dict(), begin / WEIGHTS_FILE)
    lent = {"emg-mae": begin, "pose-mae": runs["nothing"] / "pose-mae"}
    parts = {name: getattr(recipe, name) for name in ("emg_mae", "pose_mae", "align")}
    longer_parts = {n: part.model_copy(update={"epochs": round(longer * part.epochs)}) for n, part in parts.items()}
    recipe = recipe.model_copy(update=longer_parts)
    nothing = train(recipe, corpus, runs["nothing"], skip_bad=True)
    tuned = train(recipe, corpus, runs["tuned"], lend=lent.get, skip_bad=True)
    if nothing is None or tuned is None:
        raise RuntimeError("a stage is missing")
    return judged(corpus, {"from nothing": nothing, "tuned": tuned, "head only": replace(tuned, emg=first.emg)})


def judged(corpus: Path, encoders: dict[str, Checkpoint]) -> Accuracies:
    """The accuracies on the people of a corpus who are for testing, of each encoder and of the first one's head."""
    found: Accuracies = {}
    for name, checkpoint in encoders.items():
        judge = _Judge(checkpoint, corpus)
        found.setdefault(PLAIN, judge.by_head("tokens"))
        found[f"{name}, encoder + head"] = judge.by_head("embedding")
        found[f"{name}, log-covariances and encoder + head"] = judge.by_head("both")
        found[f"{name}, nearest poses"] = judge.by_poses()
    return found


class _Judge:
    """Test a checkpoint on the people of a corpus who are for testing."""

    def __init__(self, checkpoint: Checkpoint, corpus: Path) -> None:
        self.checkpoint = checkpoint
        self.evaluation = evaluation_set(checkpoint, Corpus.open(corpus))
        self.queries = queries = self.evaluation.queries
        store = queries.dataset.store
        rows = store.corpus.rows
        self.keys: list[DonningKey] = [store.donnings.key(rows[number]) for number, _ in queries.places]
        first = {key: store.donnings.calibration_rows(rows[queries.places[self.keys.index(key), 0]]) for key in
                 set(self.keys)}  # fmt: skip
        calibrates = np.array([rows[n] in first[key] for (n, _), key in zip(queries.places, self.keys, strict=True)])
        self.asked = queries.held_out_user & ~calibrates
        self.calibrates = queries.held_out_user & calibrates
        self.heads: dict[Reads, Head] = fitted_heads(checkpoint, self.evaluation, SEED)
        self.embedding = embed_emg(torch_embedding(checkpoint.emg), queries)
        self.tokens = mean_tokens(queries.dataset, queries.places)

    def by_head(self, reads: Reads) -> dict[str, float]:
        """The accuracy of a head, adapted by each donning's calibration; by person."""
        inputs = {"tokens": [self.tokens], "embedding": [self.embedding], "both": [self.tokens, self.embedding]}
        joined = np.concatenate(inputs[reads], axis=1)
        names = np.array([self.evaluation.gestures.index(name) for name in self.checkpoint.head_gestures])
        said = np.zeros(len(joined), np.int64)
        for key in set(self.keys):
            mine = np.array([other == key for other in self.keys])
            own = self.heads[reads].adapted(joined[mine & self.calibrates])
            said[mine] = names[own.log_likelihood(own.project(joined[mine])).argmax(axis=1)]
        return self._by_person(said[self.asked])

    def by_poses(self) -> dict[str, float]:
        """The accuracy of the nearest poses, by person."""
        references = embed_poses(self.checkpoint.pose, self.evaluation.references)
        everything = np.ones(len(self.evaluation.gestures), bool)
        return self._by_person(answers(self.evaluation, self.embedding, references, self.asked, everything))

    def _by_person(self, said: NDArray[np.int64]) -> dict[str, float]:
        true, person = self.queries.gesture_index[self.asked], self.queries.user_index[self.asked]
        return {
            self.evaluation.users[one]: float(balanced_accuracy_score(true[person == one], said[person == one]))
            for one in np.unique(person)
        }


def alike(recipe: Recipe, real: Corpus, simulated: Corpus) -> Likeness:
    """How alike people make each gesture, by kind of pair and gesture; "all" of all gestures together."""
    gestures = tuple(sorted({row.stage for row in real.rows}))
    calibration, n = recipe.calibration, recipe.signal.n_channels
    orders = placements(n, calibration.max_turn, calibration.mirrored) if calibration.placed else [tuple(range(n))]
    kinds = {"real": _patterns(recipe, real, gestures), "simulated": _patterns(recipe, simulated, gestures)}
    found: Likeness = {}
    for one, other in (("real", "real"), ("simulated", "simulated"), ("real", "simulated")):
        each = []
        for number, pattern in enumerate(kinds[one]):
            for rival in kinds[other][number + 1 :] if one == other else kinds[other]:
                turned = max(
                    (rival[:, list(order)] for order in orders), key=lambda turned: _correlation(pattern, turned)
                )
                by_gesture = (_correlation(*pair) for pair in zip(pattern, turned, strict=True))
                each.append([*by_gesture, _correlation(pattern, turned)])
        found[f"{one} and {other}"] = dict(zip((*gestures, "all"), np.mean(each, axis=0).tolist(), strict=True))
    return found


def _patterns(recipe: Recipe, corpus: Corpus, gestures: tuple[str, ...]) -> NDArray[np.float64]:
    """The pattern of levels of each person's gestures, (people, gestures, channels); of the first two dozen people."""
    people = sorted({row.user for row in corpus.rows})[:24]
    levels: dict[tuple[int, int], list[NDArray[np.float64]]] = {}
    for row in (row for row in corpus.rows if row.user in people and row.stage in gestures):
        with corpus.session(row) as session:
            emg_uv = session.emg()
        settled = Preprocessor(unscaled(recipe.preprocessing(1.0)), emg_uv.shape[1])(emg_uv)[len(emg_uv) // 4 :]
        level = np.log(settled.std(axis=0).astype(np.float64) + 1e-3)
        levels.setdefault((people.index(row.user), gestures.index(row.stage)), []).append(level)
    pattern = np.array([[np.mean(levels[p, g], axis=0) for g in range(len(gestures))] for p in range(len(people))])
    pattern -= pattern.mean(axis=1, keepdims=True)
    centred: NDArray[np.float64] = pattern - pattern.mean(axis=2, keepdims=True)
    return centred


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def simulate(how: Simulated, recipe: Recipe, folder: Path, n_people: int) -> Corpus:
    """Simulate people for a set, unless they are there; training people, and some for validation."""
    if folder.is_dir() and len({row.user for row in Corpus.open(folder).rows}) >= n_people:
        return Corpus.open(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    work = partial(_simulate_person, how, folder, recipe.pose.source == "recorded")
    with get_context("spawn").Pool(os.cpu_count()) as pool:
        rows = [row for rows in pool.imap(work, range(n_people)) for row in rows]
    write_metadata(folder, rows)
    return Corpus.open(folder)


def _simulate_person(how: Simulated, folder: Path, moves_freely: bool, person: int) -> list[Row]:
    band, rows = how.band, []
    donning = draw_donning(draw_wearer(SEED, person, band.electrodes), SEED, person, 0, band)
    user, split = f"sim{person:03d}", "val" if person % _VALIDATES == _VALIDATES - 1 else "train"
    recordings = []
    for number, stage in enumerate(how.stages):
        rng = stream(SEED, person, 0, 1_000 + number)
        n_poses = math.ceil(_HELD_S * POSE_RATE_HZ) + 1
        motion = hold(stage, donning.wearer.style, load_hand(), n_poses, POSE_RATE_HZ, rng)
        recordings.append((how.names[stage.name], record(donning, motion, _HELD_S, rng)))
    if moves_freely:
        recordings.append((FREE_STAGE, simulate_free(person, 0, _FREE_S, SEED, band)))
    order = how.order or tuple(range(band.n_channels))
    for name, recording in recordings:
        file = f"{user}-{name.replace(' ', '_')}"
        row = Row(user, f"{user}-d0", name, "right", "right", False, False, split, "", file)
        time_s = np.arange(len(recording.emg_uv)) / band.sample_rate_hz
        meta = SessionMeta(row.session, user, name, "right", 0.0, float(time_s[-1]), band.n_channels,
                           band.sample_rate_hz, row.filename)  # fmt: skip
        write_session(
            folder / f"{row.filename}.hdf5", meta, time_s, recording.emg_uv[:, order], recording.joint_angles_rad
        )
        rows.append(row)
    return rows


def rows_of(
    corpus: Corpus, people: Iterable[str], split: str, n_repetitions: int = 0, first_only: bool = False
) -> list[Row]:
    """The rows of some people, put into a split; n_repetitions: of each person and gesture, 0: all.

    first_only: only those of a person's first session
    """
    rows, counts = [], dict[tuple[str, str], int]()
    sessions = {name: min(row.session for row in corpus.rows if row.user == name) for name in people}
    for row in corpus.rows:
        if row.user not in sessions or (first_only and row.session != sessions[row.user]):
            continue
        counts[row.user, row.stage] = counts.get((row.user, row.stage), 0) + 1
        if not n_repetitions or counts[row.user, row.stage] <= n_repetitions:
            tested = split == "test"
            rows.append(replace(row, split=split, held_out_user=tested, generalization="user" if tested else ""))
    return rows


def link(folder: Path, *parts: tuple[Corpus, list[Row]]) -> Path:
    """A corpus of rows of others, anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for corpus, rows in parts:
        for row in rows:
            os.link(corpus.file(row), folder / corpus.file(row).name)
    write_metadata(folder, [row for _, rows in parts for row in rows])
    return folder


def markdown(results: dict[str, Results]) -> str:
    """The report: for each set the accuracies, and how alike people make gestures."""
    lines = [
        "# Training on simulated people first",
        "",
        "`python benchmarks/measure_transfer.py --data FOLDER --out FOLDER`; its head explains the methods. Balanced",
        "accuracy on people who were not trained on, mean over people. Encoders in float32, windows as in the set's",
        "recipe. In brackets: 95 % interval of the mean difference over people.",
    ]
    for name in (name for name in SIMULATED if name in results):
        cells, n_people = results[name].cells, len(next(iter(next(iter(results[name].cells.values())).values())))
        commits = ", ".join(f"`{commit[:12]}`" for commit in results[name].commits)
        lines += ["", f"## {name}, {n_people} people, commit {commits}"]
        for what, end in (("so many simulated people only", " simulated"), ("so many real people x repetitions", "")):
            columns = {cell.removesuffix(" simulated"): rows for cell, rows in sorted(cells.items(), key=_by_number)
                       if cell.endswith(" simulated") == bool(end)}  # fmt: skip
            lines += _table(f"trained on {what}", columns) if columns else []
        if kinds := results[name].alike:
            lines += ["", "| how alike two people make a gesture | " + " | ".join(kinds) + " |"]
            lines += ["| --- |" + " --: |" * len(kinds)]
            for gesture in next(iter(kinds.values())):
                lines.append(f"| {gesture} | " + " | ".join(f"{kind[gesture]:+.2f}" for kind in kinds.values()) + " |")
    return "\n".join(lines) + "\n"


def _by_number(cell: tuple[str, Accuracies]) -> list[int]:
    return [int(word) for word in cell[0].split() if word.isdigit()]


def _table(what: str, columns: dict[str, Accuracies]) -> list[str]:
    lines = ["", f"| {what} | " + " | ".join(columns) + " |", "| --- |" + " --: |" * len(columns)]
    best = {c: max(np.mean(list(people.values())) for people in rows.values()) for c, rows in columns.items()}
    methods = list(next(iter(columns.values())))
    for method in methods:
        means = {column: np.mean(list(rows[method].values())) for column, rows in columns.items()}
        texts = (f"**{mean:.3f}**" if mean == best[column] else f"{mean:.3f}" for column, mean in means.items())
        lines.append(f"| {method} | " + " | ".join(texts) + " |")
    return lines + [_difference(columns, method) for method in methods if method.startswith("tuned")]


def _difference(columns: dict[str, Accuracies], method: str) -> str:
    cells = []
    for rows in columns.values():
        each = np.array([rows[method][person] - rows[PLAIN][person] for person in rows[PLAIN]])
        low, high = interval(each)
        cells.append(f"{each.mean():+.3f} [{low:+.3f}, {high:+.3f}]")
    return f"| {method}, minus no encoder | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
