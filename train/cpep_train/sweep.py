"""Train and evaluate a list of recipes over some seeds, and write one table of the results.

Each run has a folder, OUT/RECIPE/seed-N, with its result beside it, so running the command again resumes the sweep. A
stage with identical settings in two recipes is trained once and copied.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from cpep_edge.errors import ArtifactError, ConfigError, TrainingError
from cpep_edge.files import write_file
from cpep_edge.folders import check_report, write_reports
from cpep_edge.report_page import to_pdf, to_svg
from cpep_edge.report_table import Table, to_csv, to_latex
from cpep_edge.versions import git_commit
from cpep_train.checkpoint import load_run_recipe
from cpep_train.evaluate import USERS, Score
from cpep_train.launching import Cluster, run_all
from cpep_train.plots import interval_figure
from cpep_train.protocols import evaluate
from cpep_train.provenance import load_provenance
from cpep_train.recipe import Recipe, load_recipe
from cpep_train.training import WEIGHTS_FILE, StageName, train

RESULT_FILE = "result.json"
SWEEP_FILE = "sweep.json"
TABLE_FILE = "sweep.md"
CSV_FILE = "sweep.csv"
LATEX_FILE = "sweep.tex"
FIGURE_FILE = "sweep"  # .svg and .pdf
_ALL_SIGNS = 14  # most people for which every sign pattern is tried
_DRAWN_SIGNS = 20_000  # sign patterns drawn for more people
_DRAWS = 4_000  # bootstrap draws of people, for an interval


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Figure(_Record):
    """One score of one run."""

    users: str
    gestures: str
    balanced_accuracy: float
    low: float  # 95 % bootstrap interval over users
    high: float
    chance: float
    n_users: int
    by_user: dict[str, float] = {}  # balanced accuracy of each person


class Result(_Record):
    """The result of one run."""

    recipe: str
    seed: int
    stopped: str = ""  # why training was stopped; empty where it was not
    figures: tuple[Figure, ...] = ()
    losses: dict[str, float] = {}
    seconds: float  # training time, without copied stages
    git_commit: str


class Sweep(_Record):
    """All results of a sweep, and what is needed to repeat it."""

    command: str
    machine: str
    git_commit: str
    data: str
    data_sha256: str
    results: tuple[Result, ...]


class Line(_Record):
    """One recipe's figures for one kind of query, over its seeds."""

    recipe: str
    users: str
    gestures: str
    mean: float
    low: float  # mean of the lower ends of the runs' intervals
    high: float
    spread: float | None  # standard deviation over seeds; None with one
    chance: float
    n_seeds: int


class Comparison(_Record):
    """A recipe against another on the same people, each person's accuracies averaged over seeds."""

    recipe: str
    against: str
    users: str
    gestures: str
    difference: float  # mean over people
    low: float  # 95 % interval, by drawing people with replacement
    high: float
    p: float  # two-sided sign-flip test over people, with Holm's correction within a kind of query
    n_users: int


def sweep(
    recipes: Sequence[str],
    data: Path,
    out: Path,
    *,
    seeds: Sequence[int],
    settings: Sequence[str] = (),
    command: str = "",
    machine: str = "",
    say: Callable[[str], None] = lambda text: None,
    cluster: Cluster | None = None,
    cluster_options: Mapping[str, str | int] | None = None,
) -> Sweep:
    """Train and judge every recipe with every seed on the corpus in `data`, below `out`; write the table there.

    recipes: names or paths, with variants, as in `load_recipe`
    settings: "key.sub=value", applied to all of them
    say: called with a line about each step
    cluster: where to run all of them at once (`cpep_train.launching`); None: one after the other, on this machine
    Raises ConfigError before anything is trained when a recipe is wrong or two have the same name.
    """
    check_report(out, SWEEP_FILE)
    asked = [load_recipe(name, (*settings, f"seed={seed}"), data) for name in recipes for seed in seeds]
    if len({(recipe.name, recipe.seed) for recipe in asked}) < len(asked):
        raise ConfigError("two recipes of the sweep have the same name and seed; give each its own name")
    runs = [_folder(out, recipe) for recipe in asked]
    results: list[Result | None] = [_load_result(run, recipe) for run, recipe in zip(runs, asked, strict=True)]
    missing = [number for number, result in enumerate(results) if result is None]
    if cluster is not None and missing:
        jobs = [partial(_run, asked[n], data.resolve(), runs[n].resolve(), runs) for n in missing]
        for number, result in zip(missing, run_all(jobs, cluster, out / "jobs", cluster_options, say), strict=True):
            results[number] = result
    for number in missing if cluster is None else ():
        say(f"{number + 1}/{len(asked)}  {asked[number].name}, seed {asked[number].seed}")
        results[number] = _run(asked[number], data, runs[number], runs)
    provenance = load_provenance(_folder(out, asked[0]))
    found = Sweep(
        command=command,
        machine=machine,
        git_commit=git_commit(),
        data=provenance.data,
        data_sha256=provenance.data_sha256,
        results=tuple(result for result in results if result is not None),
    )
    figures, table = f"{found.model_dump_json(indent=1)}\n", f"{markdown(found).rstrip()}\n"
    contents = {
        SWEEP_FILE: figures,
        TABLE_FILE: table,
        CSV_FILE: to_csv(tables(found)),
        LATEX_FILE: to_latex(tables(found)),
    }
    write_reports(out, {name: content.encode() for name, content in contents.items()} | _pictures(found))
    return found


def lines(found: Sweep) -> list[Line]:
    """The figures of a sweep, each recipe's over its seeds, without runs that were stopped."""
    kinds: dict[tuple[str, str, str], list[Figure]] = {}
    for result in found.results:
        for figure in result.figures:
            kinds.setdefault((result.recipe, figure.users, figure.gestures), []).append(figure)
    return [_line(*kind, figures) for kind, figures in kinds.items()]


def comparisons(found: Sweep) -> list[Comparison]:
    """Every recipe against the first, for every kind of query that both were tested on with the same people."""
    by_user: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for result in found.results:
        for figure in result.figures:
            people = by_user.setdefault((figure.users, figure.gestures, result.recipe), {})
            for person, accuracy in figure.by_user.items():
                people.setdefault(person, []).append(accuracy)
    recipes = list(dict.fromkeys(result.recipe for result in found.results))
    compared = []
    for users, gestures in dict.fromkeys((users, gestures) for users, gestures, _ in by_user):
        base = by_user.get((users, gestures, recipes[0]), {})
        kind = []
        for recipe in recipes[1:]:
            other = by_user.get((users, gestures, recipe), {})
            both = sorted(base.keys() & other.keys())
            if both:
                apart = np.array([fmean(other[person]) - fmean(base[person]) for person in both])
                kind.append((recipe, apart, exchange_p(apart)))
        for (recipe, apart, _), p in zip(kind, holm([p for _, _, p in kind]), strict=True):
            low, high = _interval(apart)
            compared.append(
                Comparison(
                    recipe=recipe,
                    against=recipes[0],
                    users=users,
                    gestures=gestures,
                    difference=float(apart.mean()),
                    low=low,
                    high=high,
                    p=p,
                    n_users=len(apart),
                )
            )
    return compared


def exchange_p(differences: NDArray[np.float64]) -> float:
    """Two-sided p of paired differences by a sign-flip test: how often random signs give a mean as far from zero.

    All sign patterns are tried if there are few, else they are drawn. With n people the smallest possible p is 2 / 2^n.
    """
    n = len(differences)
    if n <= _ALL_SIGNS:
        signs = 1 - 2 * ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(0).choice((-1, 1), size=(_DRAWN_SIGNS, n))
    sums = np.abs(signs @ differences)
    reached = sums >= abs(differences.sum()) - 1e-12
    return float(reached.mean()) if n <= _ALL_SIGNS else float((reached.sum() + 1) / (len(reached) + 1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction (1979) of several p values, in the given order."""
    corrected, least = [0.0] * len(p), 0.0
    for rank, number in enumerate(sorted(range(len(p)), key=lambda n: p[n])):
        least = max(least, min(1.0, (len(p) - rank) * p[number]))
        corrected[number] = least
    return corrected


def _interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    drawn = np.random.default_rng(0).choice(differences, size=(_DRAWS, len(differences))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def tables(found: Sweep) -> list[Table]:
    """Every figure of a sweep, and every comparison, for a spreadsheet or a paper."""
    head = ("recipe", "people", "gestures", "mean", "SD over seeds", "low", "high", "chance", "seeds")
    rows = tuple(
        (
            line.recipe,
            line.users,
            line.gestures,
            f"{line.mean:.3f}",
            "" if line.spread is None else f"{line.spread:.3f}",
            *(f"{value:.3f}" for value in (line.low, line.high, line.chance)),
            str(line.n_seeds),
        )
        for line in lines(found)
    )
    shown = [Table(head, rows, "low and high: 95 % over people", name=f"{found.data}: balanced accuracy, zero-shot")]
    compared = comparisons(found)
    if compared:
        differences = tuple(
            (
                *(c.recipe, c.users, c.gestures),
                *(f"{x:+.3f}" for x in (c.difference, c.low, c.high)),
                f"{c.p:.3f}",
                str(c.n_users),
            )
            for c in compared
        )
        note, name = "p: Holm's correction over the recipes of a kind", f"against {compared[0].against}"
        columns = ("recipe", "people", "gestures", "difference", "low", "high", "p", "n")
        shown.append(Table(columns, differences, note, name))
    return shown


def _pictures(found: Sweep) -> dict[str, bytes]:
    """The sweep's picture in each file format; empty when every run was stopped."""
    if not lines(found):
        return {}
    shown = [line for line in lines(found) if line.users == lines(found)[0].users]
    drawn = interval_figure(
        {
            kind: [
                (line.recipe, line.mean, line.low, line.high, line.chance) for line in shown if line.gestures == kind
            ]
            for kind in dict.fromkeys(line.gestures for line in shown)
        },
        f"{found.data}: balanced accuracy, {shown[0].users} people",
    )
    return {f"{FIGURE_FILE}.svg": to_svg(drawn), f"{FIGURE_FILE}.pdf": to_pdf(drawn)}


def markdown(found: Sweep) -> str:
    """The table of a sweep, held-out people first."""
    gestures = list(dict.fromkeys(line.gestures for line in lines(found)))
    text = [
        f"# {found.data}: balanced accuracy, zero-shot",
        "",
        f"`{found.command}`, commit `{found.git_commit[:12]}`, {found.machine}. Mean over seeds "
        f"{', '.join(str(seed) for seed in dict.fromkeys(result.seed for result in found.results))}; ± is the standard "
        "deviation over seeds, brackets the 95 % bootstrap interval over people (mean of the seeds').",
    ]
    for users in USERS:
        rows = [line for line in lines(found) if line.users == users]
        if rows:
            text += ["", f"## {users.capitalize()} people", "", f"| recipe | {' | '.join(gestures)} |"]
            text += [f"| --- |{' --- |' * len(gestures)}"]
            text += [f"| chance | {' | '.join(_cell(rows, '', kind) for kind in gestures)} |"]
            for recipe in dict.fromkeys(line.recipe for line in rows):
                text += [f"| {recipe} | {' | '.join(_cell(rows, recipe, kind) for kind in gestures)} |"]
    compared = comparisons(found)
    if compared:
        text += ["", f"## Against {compared[0].against}, person by person", ""]
        text += ["| recipe | people | gestures | difference | 95 % | p | n |"]
        text += ["| --- | --- | --- | --: | --: | --: | --: |"]
        for c in compared:
            by = f"{c.difference:+.3f} | {c.low:+.3f} to {c.high:+.3f} | {c.p:.3f}"
            text.append(f"| {c.recipe} | {c.users} | {c.gestures} | {by} | {c.n_users} |")
        text += ["", "p: two-sided, recipes exchanged person by person, Holm's correction over the recipes of a kind."]
    stopped = [result for result in found.results if result.stopped]
    if stopped:
        text += ["", "## Stopped", ""]
        text += [f"- {result.recipe}, seed {result.seed}: {result.stopped}" for result in stopped]
    return "\n".join([*text, ""])


def shared_stage(recipe: Recipe, other: Recipe, stage: StageName) -> bool:
    """Whether two recipes agree in everything that influences an auto-encoding stage."""
    parts = {"seed", "precision", "compile", "signal", "windows", "recordings", "calibration", "emg", "pose"}
    parts.add(stage.replace("-", "_"))
    return stage != "align" and recipe.model_dump(include=parts) == other.model_dump(include=parts)


def _run(recipe: Recipe, data: Path, run: Path, others: Sequence[Path]) -> Result:
    started_s = time.monotonic()
    stopped, losses, figures = "", dict[str, float](), list[Figure]()
    try:
        checkpoint = train(recipe, data, run, resume=True, lend=lambda stage: _lent(recipe, stage, run, others))
        seconds = time.monotonic() - started_s
        if checkpoint is not None:
            losses, figures = checkpoint.metrics, [_figure(score) for score in evaluate(checkpoint, data)]
    except TrainingError as error:
        seconds, stopped = time.monotonic() - started_s, str(error)
    result = Result(
        recipe=recipe.name,
        seed=recipe.seed,
        stopped=stopped,
        figures=tuple(figures),
        losses=losses,
        seconds=round(seconds, 1),
        git_commit=git_commit(),
    )
    write_file(run / RESULT_FILE, result.model_dump_json(indent=1).rstrip() + "\n")
    return result


def _lent(recipe: Recipe, stage: StageName, run: Path, others: Iterable[Path]) -> Path | None:
    """The folder of the same stage, finished, in another run of the sweep; None if there is none."""
    for other in others:
        if other != run and (other / stage / WEIGHTS_FILE).is_file():
            if shared_stage(recipe, load_run_recipe(other), stage):
                return other / stage
    return None


def _load_result(run: Path, recipe: Recipe) -> Result | None:
    file = run / RESULT_FILE
    if not file.is_file():
        return None
    if not load_run_recipe(run).trains_as(recipe):
        raise ConfigError(f"{run} was made with another recipe of that name; choose another folder, or that recipe")
    try:
        return Result.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ArtifactError(f"{file} is malformed; delete it, and the run is evaluated again") from error


def _figure(score: Score) -> Figure:
    return Figure(
        users=score.users,
        gestures=score.gestures,
        balanced_accuracy=score.balanced_accuracy,
        low=score.low,
        high=score.high,
        chance=score.chance,
        n_users=score.n_users,
        by_user=score.by_user,
    )


def _line(recipe: str, users: str, gestures: str, figures: Sequence[Figure]) -> Line:
    accuracy = [figure.balanced_accuracy for figure in figures]
    return Line(
        recipe=recipe,
        users=users,
        gestures=gestures,
        mean=fmean(accuracy),
        low=fmean(figure.low for figure in figures),
        high=fmean(figure.high for figure in figures),
        spread=stdev(accuracy) if len(accuracy) > 1 else None,
        chance=figures[0].chance,
        n_seeds=len(accuracy),
    )


def _cell(rows: Iterable[Line], recipe: str, gestures: str) -> str:
    """One recipe's figure, or chance when no recipe is named."""
    line = next((row for row in rows if row.gestures == gestures and row.recipe in (recipe or row.recipe,)), None)
    if line is None:
        return ""
    if not recipe:
        return f"{line.chance:.3f}"
    spread = "" if line.spread is None else f" ± {line.spread:.3f}"
    return f"{line.mean:.3f}{spread} [{line.low:.2f}, {line.high:.2f}]"


def _folder(out: Path, recipe: Recipe) -> Path:
    return out / recipe.name / f"seed-{recipe.seed}"
