"""`cpep-edge train` and `cpep-edge eval`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cpep_edge.cli.output import print_json, print_table, stderr, stdout

if TYPE_CHECKING:
    from cpep_train.evaluate import Score


StageName = Literal["emg-mae", "pose-mae", "align"]


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe by path, or by name among those shipped: demo, cpep, 3dc.")],
    data: Annotated[Path, typer.Option(help="Corpus folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    stage: Annotated[StageName | None, typer.Option(help="Only this stage, anew.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key.sub=value over the recipe.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run was interrupted.")] = False,
) -> None:
    """Train CPEP: masked auto-encoding of EMG and of pose, then contrastive alignment."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads spin otherwise, for ages on a busy machine

    from cpep_train.recipe import load_recipe
    from cpep_train.training import train as run_training

    run_training(load_recipe(recipe, settings or []), data, out, stage=stage, resume=resume)
    stdout.print(out)


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training run.")],
    data: Annotated[Path, typer.Option(help="Corpus: test recordings are asked, training people's poses answer.")],
    confusion: Annotated[Path | None, typer.Option(help="Folder for the confusion matrices as PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Zero-shot: which gesture do the ten poses nearest to each EMG window belong to?"""
    from cpep_train import evaluate as evaluation
    from cpep_train.checkpoint import load_checkpoint
    from cpep_train.plots import save_confusion

    scores = evaluation.evaluate(load_checkpoint(run), data)
    if confusion is not None:
        for score in scores:
            name = f"{score.users} people, {score.gestures}".replace(" ", "-").replace(",", "")
            save_confusion(score, confusion / f"confusion-{name}.png")
        stderr.print(f"confusion matrices in {confusion}")
    if as_json:
        print_json({"protocol": "zero-shot", "scores": scores})
    else:
        print_scores(scores)


def print_scores(scores: "list[Score]") -> None:
    """Balanced accuracy with its interval, beside chance."""
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
    print_table("zero-shot", header, rows)
