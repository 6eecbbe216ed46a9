"""Judge by real arms: every method on the same windows of real recordings, the exported bundle among them.

    python benchmarks/measure_real.py --data FOLDER --out FOLDER [--only 3dc,myo-wrist] [--judge OTHER]

FOLDER of the data: `3dc`, `ninapro-db5`, `ninapro-db1`, `myo-wrist`, `myo-longterm` in their published layouts. OTHER
has the same layout: bundles are trained on everyone in FOLDER and tested on the people of OTHER. Without it, people are
left out in turn.
Writes `real.md` (tables), a picture per set, `real.json` (every person's figures), and the trained bundles in `folds/`,
which a later run uses again.

Balanced accuracy; the mean over people with the 95 % bootstrap interval over them. The wearer of a band calibrates
without labels, by the first repetition of every gesture, which is not tested on.

- left out: the person was not trained on.
- zero-shot (Ninapro, `real_poses`): in addition, nobody's EMG of four held-out movements was trained on, in three
  folds; the index has poses of the data glove. The published ablations are tested on the first of these folds.
- same wearing: the first repetitions of a wearer teach, later ones are tested on.
- next wearing: two wearings teach, the third is calibrated and tested on (myo-wrist).
- other days: day 1 teaches, days 2 to 10 are tested on, with and without a calibration of the day (myo-longterm).
"""

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from cpep_edge.bundle import Bundle
from cpep_edge.errors import DataError
from cpep_edge.files import replacing, write_file
from cpep_edge.versions import git_commit
from cpep_export.head_choice import HeadChoice
from cpep_train.corpus import Corpus
from cpep_train.import_3dc import import_3dc
from cpep_train.import_myo import import_myo_longterm, import_myo_wrist
from cpep_train.import_ninapro import Database, import_ninapro
from cpep_train.importing import Choices, Writing
from cpep_train.ninapro_movements import movement_name
from cpep_train.recipe import Recipe, load_recipe
from real_arms import (
    PLAIN,
    RUNS,
    Answers,
    People,
    Trained,
    accuracy,
    fold_corpus,
    left_out_rows,
    placed_row,
    plain_rows,
    takes_of,
    taught_answers,
    trained_bundle,
)
from real_poses import BOUND, MOVEMENT_FOLDS, zero_shot_rows

_N_BOOTSTRAPS = 2_000
_RECALIBRATION_S = 25.0
TAUGHT = "the taught bundle"


@dataclass(frozen=True, slots=True)
class Set:
    """One set of recordings, and the tests on it."""

    name: str
    recipe: str
    bring: Callable[[Path, Path], object]  # imports its folder as a corpus
    rest: str
    stride_s: float
    n_folds: int  # folds of people who are left out in turn; 0: none
    head: HeadChoice = "tokens"  # of the bundles; auto: chosen on validation people, if there are enough
    placed: bool = False
    settings: tuple[str, ...] = ()
    movement_folds: tuple[tuple[int, ...], ...] = ()  # movements that are held out in turn, of twelve with poses
    variants: tuple[str, ...] = ()  # variants or settings of the recipe to test in addition; only with --variants
    teaching: tuple[int, ...] = ()  # numbers of teaching repetitions to test; 0: the first half
    asked_from: int = 0  # first repetition of a taught wearing to test on; 0: the second half
    next_wearing: bool = False
    other_days: bool = False

    @property
    def folder_of_folds(self) -> str:
        """The folder of trained folds, shared by sets with the same recipe."""
        same = self.variants and not self.settings
        return self.name.split(",")[0] if same else self.name.replace(", ", "-").replace(" ", "")

    def trained_by(self, variant: str = "") -> Recipe:
        """The set's recipe, or a variant of it: the name of a published ablation, or a setting as KEY=VALUE."""
        if "=" in variant:
            return load_recipe(self.recipe, [*self.settings, variant])
        return load_recipe("+".join(filter(None, (self.recipe, variant))), list(self.settings))


def _bring_3dc(source: Path, out: Path) -> object:
    numbers = sorted(int(folder.name.removeprefix("Participant")) for folder in source.glob("Participant*"))
    return import_3dc(source, out, numbers)


def _bring_ninapro(database: Database) -> Callable[[Path, Path], object]:
    return lambda source, out: import_ninapro(source, out, database, undo_lag=True)


def _bring_wrist(source: Path, out: Path) -> object:
    choices = Choices(skip_start_s=1.0)  # people move up to 1 s after the prompt
    return import_myo_wrist(source, out, rest_between=False, writing=Writing(choices))


SETS = (
    Set("3dc", "3dc", _bring_3dc, "NoMotion", 0.05, 8, placed=True, teaching=(1, 2, 3, 4), asked_from=5),
    Set(
        "3dc, 2 s windows", "3dc", _bring_3dc, "NoMotion", 0.25, 8, placed=True, teaching=(4,), asked_from=5,
        settings=("windows.window_samples=2000", "windows.stride_samples=250", "windows.jitter_samples=125",
                  "emg.patch_samples=125", "emg.span_samples=250"),
    ),
    Set("ninapro-db5", "ninapro-db5", _bring_ninapro("db5"), "Rest", 0.1, 5, movement_folds=MOVEMENT_FOLDS),
    Set(
        "ninapro-db5, ablations", "ninapro-db5", _bring_ninapro("db5"), "Rest", 0.1, 5,
        settings=("align.train_pose=false",), movement_folds=MOVEMENT_FOLDS[:1],  # as in the published ablations
        variants=("random-init", "mean-pooling", "frozen-emg", "align.train_pose=true"),
    ),
    Set(
        "ninapro-db5, sizes", "ninapro-db5", _bring_ninapro("db5"), "Rest", 0.1, 5,
        movement_folds=MOVEMENT_FOLDS[:1], variants=("emg.width=16", "emg.width=48", "emg.width=192"),
    ),
    Set("ninapro-db1", "ninapro-db1", _bring_ninapro("db1"), "Rest", 0.1, 4, movement_folds=MOVEMENT_FOLDS),
    Set("myo-wrist", "myo-wrist", _bring_wrist, "Rest", 0.1, 4, head="auto", teaching=(0,), next_wearing=True),
    Set("myo-longterm", "myo-wrist", import_myo_longterm, "Rest", 0.1, 0, other_days=True),
)  # fmt: skip


@dataclass
class Tables:
    """The results on one set: each person's accuracy, by question and method."""

    name: str
    window_s: float
    commit: str = field(default_factory=lambda: git_commit() or "unknown")
    questions: dict[str, Answers] = field(default_factory=dict)

    def add(self, question: str, rows: Answers) -> None:
        """Add the accuracies of more people."""
        for method, people in rows.items():
            self.questions.setdefault(question, {}).setdefault(method, {}).update(people)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen sets and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets in their published layouts")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--only", default="", help="sets by commas; all that are there without it")
    parser.add_argument("--judge", type=Path, help="folder of people who are only judged")
    parser.add_argument("--variants", action="store_true", help="train the published ablations and other widths too")
    parser.add_argument("--no-encoder", action="store_true", help="train nothing; what was trained before is asked")
    options = parser.parse_args(arguments)
    wanted = [name for name in options.only.split(",") if name]
    known = {one.name.split(",")[0] for one in SETS}
    if set(wanted) - known:
        parser.error(f"there is no set {', '.join(sorted(set(wanted) - known))}; there are {', '.join(sorted(known))}")
    folders = {one: options.data / one.name.split(",")[0] for one in SETS}
    chosen = [one for one in SETS if folders[one].is_dir() and (not wanted or folders[one].name in wanted)]
    chosen = [one for one in chosen if options.variants or not one.variants]
    if not chosen:
        parser.error(f"{options.data} holds none of the sets asked for")
    options.out.mkdir(parents=True, exist_ok=True)
    measured = []
    for one in chosen:
        judge = None if options.judge is None else options.judge / folders[one].name
        with TemporaryDirectory() as scratch:
            measured.append(measure(one, folders[one], judge, Path(scratch), options.out / "folds", options.no_encoder))
        write(options.out, measured, judged=options.judge is not None)
    print(options.out / "real.md")


def measure(one: Set, data: Path, judge: Path | None, scratch: Path, kept: Path, no_encoder: bool) -> Tables:
    """Measure all questions of one set; folds that were trained before are taken from `kept`."""
    recipe = one.trained_by()
    corpus = corpus_of(one, data, scratch / "corpus")
    own = _people(corpus, recipe, one)
    tables = Tables(one.name, recipe.windows.window_samples / recipe.signal.sample_rate_hz)
    if judge is None:
        folds = [own.names[number :: one.n_folds] for number in range(min(one.n_folds, len(own.names)))]
        asked_people = own
    else:
        asked_people = _people(corpus_of(one, judge, scratch / "judge"), recipe, one, prefix="judged ")
        folds = [[]] if one.n_folds else []
    everyone = People((*own.takes, *asked_people.takes), own.gestures, recipe, one.stride_s) if judge else own
    asked = set(asked_people.names)
    for number, left_out in enumerate(folds):
        judged = asked if judge else set(left_out)
        trained = [n for n, take in enumerate(everyone.takes) if take.person not in judged]
        questions = [n for n, take in enumerate(everyone.takes) if take.person in judged and take.repetition > 1]
        name = f"{one.folder_of_folds}-{'all' if judge else number}"
        fold = _Fold(corpus, kept, name, tuple(left_out), not no_encoder)
        if one.movement_folds:
            _zero_shot(one, everyone, fold, trained, questions, tables)
            continue
        rows = plain_rows(everyone, trained, questions)
        if one.placed:
            rows |= placed_row(everyone, trained, questions)
        bundle = fold.bundle(recipe, one.head)
        if bundle is not None:
            rows |= left_out_rows(everyone, bundle, questions)
        tables.add("person left out", rows)
        print(one.name, "fold", number, {name: round(float(np.mean(list(v.values()))), 3) for name, v in rows.items()})
    if one.movement_folds:
        return tables
    for person in sorted(asked):
        _taught(one, everyone, person, tables, scratch)
        print(one.name, person)
    return tables


def corpus_of(one: Set, source: Path, folder: Path) -> Corpus:
    """A set's corpus; with held-out movements, without the rest between them, which has no pose of its own."""
    one.bring(source, folder)
    corpus = Corpus.open(folder)
    if one.movement_folds:
        corpus = replace(corpus, rows=tuple(row for row in corpus.rows if row.stage != one.rest))
    return corpus


@dataclass(frozen=True, slots=True)
class _Fold:
    """A fold of people who are left out, with the folder of the bundles trained on the others."""

    corpus: Corpus
    kept: Path
    name: str
    left_out: tuple[str, ...]
    may_train: bool

    def bundle(self, recipe: Recipe, head: HeadChoice, held: Sequence[str] = (), suffix: str = "") -> Trained | None:
        """The bundle of the others, trained unless it exists; None when it does not exist and may not be trained."""
        work = self.kept / f"{self.name}{suffix}"
        if not (work / "fold.cpep").is_dir():
            if not self.may_train:
                return None
            if not (work / "run" / "checkpoint.json").is_file():
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir(parents=True)
                fold_corpus(self.corpus, work / "corpus", self.left_out, held)
        return trained_bundle(work / "corpus", recipe, work, head)


def _zero_shot(
    one: Set, everyone: People, fold: _Fold, trained: list[int], questions: list[int], tables: Tables
) -> None:
    """Test every fold of movements; a person's figure is the mean over them."""
    database = one.recipe.removeprefix("ninapro-")
    found: dict[tuple[str, str, str], list[float]] = {}
    for number, movements in enumerate(one.movement_folds):
        held = [movement_name(database, 1, movement) for movement in movements]
        bundle = fold.bundle(everyone.recipe, "index", held, f"-{number}")
        rows = zero_shot_rows(everyone, trained, questions, held, bundle)
        for variant in one.variants:
            other = fold.bundle(one.trained_by(variant), "index", held, f"-{number}-{variant}")
            for question, answers in zero_shot_rows(everyone, trained, questions, held, other).items():
                if RUNS in answers:
                    rows[question][_named(variant, other)] = answers[RUNS]
        for question, answers in rows.items():
            for method, people in answers.items():
                for person, value in people.items():
                    found.setdefault((question, method, person), []).append(value)
        print(one.name, fold.name, number, {q: {m: round(float(np.mean(list(p.values()))), 3) for m, p in a.items()}
                                            for q, a in rows.items()})  # fmt: skip
    for (question, method, person), values in found.items():
        tables.add(question, {method: {person: float(np.mean(values))}})


def _named(variant: str, trained: Trained | None) -> str:
    """The name of a variant's row, with the size of its encoder if its width was changed."""
    if trained is None or not variant.startswith("emg.width"):
        return variant
    n_bytes = (trained.bundle / Bundle(trained.bundle).manifest.encoder.file).stat().st_size
    return f"{variant}, {n_bytes / 1e3:.0f} kB"


def _people(corpus: Corpus, recipe: Recipe, one: Set, prefix: str = "") -> People:
    gestures = tuple(sorted({row.stage for row in corpus.rows}))
    takes = takes_of(corpus, recipe, gestures, prefix)
    if not takes:
        raise DataError(f"{corpus.folder}: no recording holds a window of {recipe.windows.window_samples} samples")
    return People(takes, gestures, recipe, one.stride_s)


def _taught(one: Set, people: People, person: str, tables: Tables, scratch: Path) -> None:
    """Test what a wearer's own repetitions teach; every method gets the same ones."""
    takes, path = people.takes, scratch / "taught.cpep"
    mine = [number for number, take in enumerate(takes) if take.person == person]
    wearings = sorted({takes[number].donning for number in mine}, key=_in_time)

    def ask(question: str, shown: list[int], asked: list[int], calibration: Sequence[NDArray[np.float32]] = ()) -> None:
        rows = plain_rows(people, shown, asked, "" if calibration else wearings[0])
        found = taught_answers(people, shown, asked, one.rest, path, calibration)
        rows[TAUGHT] = accuracy(people, asked, [found[number] for number in asked])
        shutil.rmtree(path)
        tables.add(question, rows)

    def of(wearing: str) -> list[int]:
        return [number for number in mine if takes[number].donning == wearing]

    if one.other_days:
        first = of(wearings[0])
        half = [n for n in first if takes[n].repetition <= 2]
        ask("day 1, trials 1-2 -> 3-4", half, [n for n in first if n not in half])
        for day, wearing in enumerate(wearings[1:], start=2):
            calibration, seconds = _share_of(people, of(wearing))
            asked = [number for number in of(wearing) if takes[number].repetition > 1]
            ask(f"day 1 -> day {day}, as it is", first, asked)
            ask(f"day 1 -> day {day}, {seconds:.0f} s unlabelled", first, asked, calibration)
        return
    for n_shown in one.teaching:
        answers: list[tuple[list[int], list[int]]] = []
        for wearing in wearings:
            last = {g: max(takes[n].repetition for n in of(wearing) if takes[n].gesture == g) for g in
                    {takes[n].gesture for n in of(wearing)}}  # fmt: skip
            until = {g: n_shown or (count + 1) // 2 for g, count in last.items()}
            shown = [n for n in of(wearing) if takes[n].repetition <= until[takes[n].gesture]]
            asked = [n for n in of(wearing) if takes[n].repetition >= max(one.asked_from, until[takes[n].gesture] + 1)]
            answers.append((shown, asked))
        name = f"{n_shown} repetition{'s' * (n_shown > 1)} taught" if n_shown else "half of a wearing taught"
        _ask_each(one, people, person, tables, name, answers, path)
    if one.next_wearing and len(wearings) > 2:
        shown = [number for wearing in wearings[:2] for number in of(wearing)]
        known = [number for number in of(wearings[2]) if takes[number].repetition == 1]
        asked = [number for number in of(wearings[2]) if takes[number].repetition > 1]
        ask("next wearing, calibrated", shown, asked, [takes[number].emg_uv for number in known])


def _ask_each(
    one: Set,
    people: People,
    person: str,
    tables: Tables,
    question: str,
    wearings: Sequence[tuple[list[int], list[int]]],
    path: Path,
) -> None:
    """Teach and test each wearing separately; a person's figure is the mean over them."""
    found: dict[str, list[float]] = {}
    for shown, asked in wearings:
        rows = plain_rows(people, shown, asked)
        said = taught_answers(people, shown, asked, one.rest, path)
        rows[TAUGHT] = accuracy(people, asked, [said[number] for number in asked])
        shutil.rmtree(path)
        for method, of_person in rows.items():
            found.setdefault(method, []).append(of_person[person])
    tables.add(question, {method: {person: float(np.mean(values))} for method, values in found.items()})


def _share_of(people: People, numbers: list[int]) -> tuple[list[NDArray[np.float32]], float]:
    """Equal parts of each gesture's first recording, together about half a minute; also returns the exact seconds."""
    first = [people.takes[number].emg_uv for number in numbers if people.takes[number].repetition == 1]
    n = round(_RECALIBRATION_S / len(first) * people.recipe.signal.sample_rate_hz)
    cut = [one[:n] for one in first]
    return cut, sum(map(len, cut)) / people.recipe.signal.sample_rate_hz


def _in_time(donning: str) -> tuple[int, str]:
    digits = "".join(c for c in donning.rsplit("-", 1)[-1] if c.isdigit())
    return int(digits or 0), donning


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over people."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (_N_BOOTSTRAPS, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def write(out: Path, measured: Sequence[Tables], judged: bool) -> None:
    """Write the report, its pictures and its figures; sets measured into the same folder before are kept."""
    file = out / "real.json"
    before = json.loads(file.read_text()) if file.is_file() else {"judged": judged, "sets": {}}
    tables = {name: Tables(**one) for name, one in before["sets"].items()} if before["judged"] == judged else {}
    tables |= {one.name: one for one in measured}
    everything = [tables[one.name] for one in SETS if one.name in tables]
    with replacing(file) as written:
        content = {"judged": judged, "sets": {one.name: asdict(one) for one in everything}}
        written.write_text(json.dumps(content, indent=1) + "\n")
    lines = [
        "# Accuracy on real EMG",
        "",
        f"`python benchmarks/measure_real.py --data FOLDER --out FOLDER{' --judge OTHER' if judged else ''}`. Balanced "
        "accuracy, mean over people [95 % interval over them]. Bundles have an int8 encoder or a head, and get the "
        "recordings as a live stream. "
        + ("The people come from a folder that nothing was trained or tuned on. " if judged else
           "The constants of front end and head were chosen on these same data sets; only figures of other people "
           "(`--judge`) are free of that choice. ")
        + "Poses of 3DC are templates.",
    ]  # fmt: skip
    for one in everything:
        lines += ["", f"## {one.name}, windows of {1000 * one.window_s:.0f} ms, commit `{one.commit[:12]}`", ""]
        questions = _gathered(one.questions)
        methods = list(dict.fromkeys(method for rows in questions.values() for method in rows))
        people = [max(len(rows[m]) for m in rows) for rows in questions.values()]
        lines += ["| | " + " | ".join(f"{q} ({n} people)" for q, n in zip(questions, people, strict=True)) + " |"]
        lines += ["| --- |" + " ---: |" * len(questions)]
        for method in methods:
            cells = [_cell(rows, method) for rows in questions.values()]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines += ["", f"![{one.name}]({_picture_name(one)})"]
        _picture(out / _picture_name(one), one, questions, methods)
    write_file(out / "real.md", "\n".join(lines) + "\n")


def _gathered(questions: dict[str, Answers]) -> dict[str, Answers]:
    """The questions with a set's days replaced by their mean and the last day."""
    found: dict[str, Answers] = {}
    for question, rows in questions.items():
        if " -> day " not in question:
            found[question] = rows
            continue
        how = question.split(", ", 1)[1]
        for method, people in rows.items():
            for person, value in people.items():
                sums = found.setdefault(f"day 1 -> days 2-10, {how}", {}).setdefault(method, {})
                sums[person] = sums.get(person, 0.0) + value / sum(
                    " -> day " in q and q.endswith(how) and person in questions[q].get(method, {}) for q in questions
                )
    last = [question for question in questions if " -> day " in question][-2:]
    return found | {question: questions[question] for question in last}


def _cell(rows: Answers, method: str) -> str:
    if method not in rows:
        return "-"
    values, most = np.array(list(rows[method].values())), max(map(len, rows.values()))
    low, high = interval(values)
    text = f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"
    rivals = [people for name, people in rows.items() if len(people) == most and name != BOUND]
    best = method != BOUND and values.mean() >= max(np.mean(list(people.values())) for people in rivals)
    return (f"**{text}**" if best else text) + (f" of {len(values)}" if len(values) < most else "")


def _picture_name(one: Tables) -> str:
    return one.name.replace(", ", "-").replace(" ", "") + ".svg"


def _picture(path: Path, one: Tables, questions: dict[str, Answers], methods: Sequence[str]) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "cpep-edge"
    figure = Figure(figsize=(9, 0.7 + 0.24 * sum(len(rows) for rows in questions.values())), layout="constrained")
    axes, at, ticks = figure.subplots(), 0.0, []
    for question, rows in questions.items():
        axes.text(0, at - 0.7, question, fontsize=9, weight="bold", va="center")
        for method in (m for m in methods if m in rows):
            values = np.array(list(rows[method].values()))
            low, high = interval(values)
            ours = method not in PLAIN and "LDA" not in method
            axes.barh(at, values.mean(), color="#1f6fb2" if ours else "#b8bec6", height=0.75)
            axes.plot([low, high], [at, at], color="#222222", linewidth=1)
            axes.plot(values, np.full(len(values), at), "o", color="#222222", markersize=2, alpha=0.5)
            ticks.append((at, method))
            at += 1
        at += 1.4
    axes.set_yticks([y for y, _ in ticks], [name for _, name in ticks], fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(at - 1, -1.4)
    axes.set_xlabel("balanced accuracy; dots are people, lines the 95 % interval of the mean", fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with replacing(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
