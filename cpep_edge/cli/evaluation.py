"""`cpep-edge eval` and `cpep-edge robustness`."""

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cpep_edge.cli.output import print_csv, print_json, print_table, progress, stderr, stdout
from cpep_edge.cli.trust import KeyOption, TrustOption

if TYPE_CHECKING:
    from cpep_train.evaluate import Score
    from cpep_train.protocols import Evaluation, Retrieval


class Asked(StrEnum):
    """The values of `--protocol`."""

    zero_shot = "zero-shot"
    probe = "probe"
    enrolment = "enrolment"
    retrieval = "retrieval"
    live = "live"
    all = "all"


Data = Annotated[
    Path, typer.Option(help="Corpus folder; its test split is evaluated against the poses of the training split.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training run; bundle folder for --protocol live.")],
    data: Data,
    protocol: Annotated[Asked, typer.Option(help="What to evaluate.")] = Asked.zero_shot,
    report: Annotated[
        Path | None,
        typer.Option(help="Also write a report to this folder: HTML, JSON, CSV, LaTeX, and figures as SVG and PDF."),
    ] = None,
    key: KeyOption = None,
    trust: TrustOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV; not for --protocol live.")] = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run on people and gestures that it was not trained on, after a check for leakage."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if as_csv and (as_json or protocol is Asked.live):
        raise typer.BadParameter("it cannot be used with --json or --protocol live", param_hint="--csv")
    if protocol is Asked.live:
        from cpep_edge.cli.live_evaluation import evaluate_bundle

        evaluate_bundle(run, data, report, as_json, key, trust)
        return

    from cpep_edge.folders import check_report
    from cpep_train.checkpoint import load_checkpoint
    from cpep_train.eval_report import FIGURES_FILE, write_report
    from cpep_train.protocols import PROTOCOLS, evaluate_run

    if report is not None:
        check_report(report, FIGURES_FILE)
    found, material = evaluate_run(run, load_checkpoint(run), data, PROTOCOLS[protocol.value])
    if report is not None:
        stderr.print(f"report: {write_report(found, material, report)}")
    if as_csv:
        from cpep_train.eval_report import tables

        print_csv(tables(found))
    elif as_json:
        print_json({"protocol": protocol.value, "readings": found.readings, "retrieval": found.retrieval})
    else:
        print_evaluation(found)


def robustness(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training run.")],
    data: Data,
    out: Annotated[Path | None, typer.Option(help="Folder for robustness.json, .md and .png.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random faults.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure accuracy under faults: turned band, dead electrodes, gain drift, noise, lost frames, clock jitter."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from cpep_edge.folders import check_report
    from cpep_train.checkpoint import load_checkpoint
    from cpep_train.robustness import FIGURES_FILE, measure_robustness, write_robustness

    if out is not None:
        check_report(out, FIGURES_FILE)
    with progress("robustness") as advance:
        found = measure_robustness(run, load_checkpoint(run), data, seed=seed, progress=advance)
    if out is not None:
        stderr.print(f"table and plot in {write_robustness(found, out)}")
    if as_json:
        print_json(found)
        return
    rows = [
        (p.disturbance, p.strength, *(f"{s.balanced_accuracy:.3f}" for s in p.scores), f"{p.kept_votes:.0%}")
        for p in found.points
    ]
    header = ("disturbance", "strength", *(f"{s.users}, {s.gestures}" for s in found.points[0].scores), "same votes")
    print_table("balanced accuracy, zero-shot", header, rows)


def print_evaluation(found: "Evaluation") -> None:
    """Print one table per reading, and one of retrieval."""
    for reading in found.readings:
        print_scores(f"{reading.protocol}: {reading.name}", reading.scores)
    if found.retrieval:
        _print_retrieval(found.retrieval)


def print_scores(title: str, scores: "Sequence[Score]") -> None:
    """Print balanced accuracy with its confidence interval, and chance level."""
    header = ("people", "gestures", "balanced accuracy", "95 % interval", "chance", "windows", "people asked")
    rows = [
        (
            score.users,
            score.gestures,
            f"{score.balanced_accuracy:.3f}",
            f"{score.low:.3f} to {score.high:.3f}",
            f"{score.chance:.3f}",
            str(score.n_windows),
            str(score.n_users),
        )
        for score in scores
    ]
    print_table(title, header, rows)


def _print_retrieval(found: "Sequence[Retrieval]") -> None:
    rows = [
        (
            kind.users,
            kind.gestures,
            *(f"{value:.2f} ({kind.chance[k]:.2f})" for k, value in kind.recall.items()),
            "-" if kind.own_pose_recall is None else f"{kind.own_pose_recall['10']:.2f}",
            "-" if kind.quality is None else f"{kind.quality.linear_cka:.2f}",
        )
        for kind in found
    ]
    header = ("people", "gestures", "at 1", "at 5", "at 10", "own at 10", "CKA")
    print_table("retrieval: recall of a pose of the gesture (chance)", header, rows)
    stdout.print(
        "own: recall of the pose of the window itself among all poses; CKA: linear, between EMG and pose embeddings"
    )
