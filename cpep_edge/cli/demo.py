"""`cpep-edge demo`: the whole loop on this machine, from simulated people to a gesture on a simulated wristband."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cpep_edge.cli.output import print_json, progress, stderr
from cpep_edge.errors import ConfigError
from cpep_edge.names import FREE_MOVEMENT

if TYPE_CHECKING:
    from cpep_train.corpus import Corpus, Row

RECIPE = "box"
N_USERS, N_DONNINGS, SECONDS, FREE_SECONDS, SEED = 72, 1, 3.0, 40.0, 0
REPLAY_SPEED = 4.0  # times real time


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo-out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Run everything once: simulate people, train, evaluate, export, run live on a simulated band, report.

    A second run continues where the first was interrupted.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else torch's threads spin: very slow on a busy machine

    from cpep_edge.cli.demo_report import FIGURES_FILE, DemoReport, print_report, write_report
    from cpep_edge.cli.replay import calibrate_and_replay
    from cpep_edge.cli.try_out import tell_what_next
    from cpep_edge.folders import check_report, made_by
    from cpep_export.native import build_for_target, host_target
    from cpep_export.package import export_bundle
    from cpep_train.boxed import box_folder
    from cpep_train.checkpoint import load_checkpoint
    from cpep_train.corpus import Corpus
    from cpep_train.protocols import evaluate, evaluate_beside_plain
    from cpep_train.recipe import load_recipe
    from cpep_train.simulation import simulated_by, synthesise_corpus
    from cpep_train.training import train

    check_report(out, FIGURES_FILE)
    started_s = time.monotonic()
    corpus, run, bundle = out / "simulated-people", out / "run", out / "demo.cpep"
    _say(1, f"simulating {N_USERS} people wearing a band of 16 electrodes")
    wanted = simulated_by(
        n_users=N_USERS, sessions_per_user=N_DONNINGS, seconds=SECONDS, seed=SEED, free_seconds=FREE_SECONDS
    )
    there = made_by(corpus)
    if there == wanted:
        stderr.print(f"    they are in {corpus} already")
    elif there is None and corpus.is_dir() and any(corpus.iterdir()):
        raise ConfigError(f"{corpus} is not as the demo made it; move it away, or choose another folder with --out")
    else:
        with progress("simulate") as advance:
            synthesise_corpus(
                corpus,
                n_users=N_USERS,
                sessions_per_user=N_DONNINGS,
                seconds=SECONDS,
                seed=SEED,
                free_seconds=FREE_SECONDS,
                progress=advance,
            )
    _say(2, "training: masked poses, then EMG towards poses")
    train(load_recipe(RECIPE), corpus, run, resume=True, go_on="cpep-edge demo")  # finished stages are kept
    checkpoint = load_checkpoint(run)
    _say(3, "evaluating: zero-shot on people and gestures that training never saw")
    scores, plain = evaluate_beside_plain(checkpoint, corpus)
    boxed = evaluate(load_checkpoint(box_folder()), corpus)
    _say(4, "exporting: int8 encoder, pose index, golden inputs")
    with progress("export") as advance:
        native = build_for_target(host_target(), out / "native")
        manifest = export_bundle(checkpoint, corpus, bundle, native=native, progress=advance)
    _say(5, f"replaying a new person's session on a simulated wristband, {REPLAY_SPEED:g} times real time")
    people = Corpus.open(corpus)
    rows = _held_out_session(people)
    moves = [row for row in rows if row.stage in manifest.calibration]
    asked = [row for row in rows if row.stage != FREE_MOVEMENT]
    replayed = calibrate_and_replay(people, moves, asked, bundle, REPLAY_SPEED)
    report = DemoReport(tuple(scores), tuple(plain), tuple(boxed), manifest, replayed, time.monotonic() - started_s)
    path = write_report(report, out)
    if as_json:
        print_json(report.figures())
    else:
        print_report(report, path)
        tell_what_next("go on with your own arm")


def _held_out_session(corpus: "Corpus") -> "list[Row]":
    """The recordings of one session of a held-out person."""
    rows = [row for row in corpus.rows if row.held_out_user]
    return [row for row in rows if (row.user, row.session) == (rows[-1].user, rows[-1].session)]


def _say(step: int, what: str) -> None:
    stderr.print(Text.assemble((f"{step}/5", "bold"), f" {what}"))
