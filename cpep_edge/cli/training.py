"""`cpep-edge train` and `cpep-edge sweep`."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from cpep_edge.cli.output import print_csv, print_json, stderr, stdout

Launch = Literal["slurm", "local"]
StageName = Literal["emg-mae", "pose-mae", "align"]
_RECIPE = "Recipe by path or name: cpep, demo, micro, 3dc, own-band; add variants with +: cpep+mean-pooling+augmented."


def train(
    recipe: Annotated[str, typer.Argument(help=_RECIPE)],
    data: Annotated[Path, typer.Option(help="Corpus folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    stage: Annotated[StageName | None, typer.Option(help="Run only this stage again.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a recipe setting: section.key=value.")
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Finished run to distil from; the micro recipe needs one.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip recordings that cannot be used; the run lists them.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    workers: Annotated[int | None, typer.Option(min=0, max=256, help="Data-loader processes.")] = None,
    cache_gib: Annotated[
        float,
        typer.Option(
            min=0,
            max=65_536,
            help="Memory for filtered recordings, in GiB; if they need more, each epoch filters them anew.",
        ),
    ] = 4,
) -> None:
    """Train CPEP: masked auto-encoding of EMG and of pose, then contrastive alignment.

    Several processes, on one machine or many: torchrun --nproc-per-node 4 -m cpep_edge train ...
    """
    _quiet_threads()

    from cpep_train.corpus import Corpus
    from cpep_train.recipe import load_recipe

    for package in ("torch", "lightning"):  # check now, as they are loaded only after the corpus was checked
        if find_spec(package) is None:
            raise ModuleNotFoundError(name=package)
    asked = load_recipe(recipe, settings or [], data)
    if not skip_bad:
        Corpus.open(data).check_device(asked)  # before torch is loaded, so that an error comes at once

    from cpep_train.processes import rank
    from cpep_train.training import train as run_training

    run_training(
        asked,
        data,
        out,
        stage=stage,
        resume=resume,
        n_workers=workers,
        cache_bytes=round(cache_gib * 2**30),
        teacher=teacher,
        skip_bad=skip_bad,
        progress=None if sys.stderr.isatty() else "lines",
    )
    if rank() == 0:
        stdout.print(out)


def sweep(
    recipes: Annotated[list[str], typer.Argument(help="Recipes as `train` takes them.")],
    data: Annotated[Path, typer.Option(help="Corpus folder.")],
    out: Annotated[Path, typer.Option(help="Folder for all runs; finished runs in it are kept.")],
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting of every recipe: section.key=value.")
    ] = None,
    launch: Annotated[
        Launch | None, typer.Option(help="Submit all runs at once with submitit, and wait.", show_default="run here")
    ] = None,
    launch_set: Annotated[
        list[str] | None,
        typer.Option(help="Submitit parameter: slurm_partition=gpu, gpus_per_node=1, timeout_min=600."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train and evaluate several recipes, and compare them in a table: sweep.md, .json, .csv, .tex, .svg and .pdf."""
    _quiet_threads()

    from cpep_bench.machine import this_machine
    from cpep_train import sweep as sweeps

    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{seeds!r} is not a list of whole numbers", param_hint="--seeds") from None
    if len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise typer.BadParameter(f"{seeds!r} names a seed twice, or one below zero", param_hint="--seeds")
    machine = this_machine()
    found = sweeps.sweep(
        recipes,
        data,
        out,
        seeds=numbers,
        settings=settings or [],
        command=" ".join(("cpep-edge", *sys.argv[1:])),
        machine=f"{machine.n_cpus} cores, {machine.cpu}",
        say=stderr.print,
        cluster=launch,
        cluster_options=dict(_option(text) for text in launch_set or ()),
    )
    if as_json:
        print_json(found)
    elif as_csv:
        print_csv(sweeps.tables(found))
    else:
        typer.echo(sweeps.markdown(found))


def _option(text: str) -> tuple[str, str | int]:
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--launch-set")
    return key.strip(), int(value) if value.strip().lstrip("-").isdigit() else value.strip()


def _quiet_threads() -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else torch's threads spin: very slow on a busy machine
