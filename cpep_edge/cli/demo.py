"""`cpep-edge demo`: the whole loop on this machine, from simulated people to a gesture on a simulated wristband."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cpep_edge.cli.output import print_json, progress, stderr
from cpep_edge.errors import CpepError

if TYPE_CHECKING:
    from cpep_train.corpus import Corpus, Row

RECIPE = "demo"
USERS, SESSIONS_PER_USER, SECONDS, SEED = 24, 1, 6.0, 0
REPLAY_SPEED = 4.0  # times real time


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo-out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Simulate people, train, evaluate, export to int8, run live over a simulated wristband, and report.

    Run again, it goes on where it was stopped, and keeps what is simulated and trained.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads spin otherwise, for ages on a busy machine

    from cpep_edge.cli.demo_report import DemoReport, print_report, write_report
    from cpep_edge.cli.replay import calibrate, replay
    from cpep_export.native import build_for_target, host_target
    from cpep_export.package import export_bundle
    from cpep_train.checkpoint import load_checkpoint
    from cpep_train.corpus import Corpus
    from cpep_train.evaluate import evaluate
    from cpep_train.recipe import load_recipe
    from cpep_train.simulation import synthesise_corpus
    from cpep_train.training import Interrupted, train

    started_s = time.monotonic()
    corpus, run, bundle = out / "simulated-people", out / "run", out / "demo.cpep"
    if _is_simulated(corpus):
        _say(1, f"{corpus} holds the {USERS} simulated people already")
    else:
        _say(1, f"simulating {USERS} people wearing a band of 16 electrodes")
        with progress("simulate") as advance:
            synthesise_corpus(
                corpus, n_users=USERS, sessions_per_user=SESSIONS_PER_USER, seconds=SECONDS, seed=SEED, progress=advance
            )
    _say(2, "training: masked EMG, masked poses, then EMG towards poses; what is trained already stays")
    try:
        train(load_recipe(RECIPE), corpus, run, resume=run.is_dir())
    except Interrupted as error:
        raise CpepError(f"the demo was interrupted; run it again, and it goes on in {out}") from error
    checkpoint = load_checkpoint(run)
    _say(3, "evaluating: zero-shot on people and gestures that training never saw")
    scores = evaluate(checkpoint, corpus)
    _say(4, "exporting: int8 encoder, pose index, golden inputs")
    with progress("export") as advance:
        native = build_for_target(host_target(), out / "native")
        manifest = export_bundle(checkpoint, corpus, bundle, native=native, progress=advance)
    _say(5, f"replaying a new person's session on a simulated wristband, {REPLAY_SPEED:g} times real time")
    people = Corpus.open(corpus)
    rows, profile = _held_out_session(people), out / "profile.json"
    calibrate(people, [row for row in rows if row.stage in manifest.calibration], bundle, REPLAY_SPEED, profile)
    replayed = replay(people, rows, bundle, REPLAY_SPEED, profile)
    report = DemoReport(tuple(scores), manifest, replayed, time.monotonic() - started_s)
    path = write_report(report, out)
    if as_json:
        print_json(report.figures())
    else:
        print_report(report, path)


def _is_simulated(corpus: Path) -> bool:
    """Whether the demo's people are in a folder already; a corpus is written whole or not at all."""
    from cpep_train.corpus import METADATA_FILE, Corpus
    from cpep_train.simulation import metadata_row
    from cpep_train.stages import STAGES

    if not (corpus / METADATA_FILE).is_file():
        return False
    expected = [
        metadata_row(user, session, stage, USERS, SESSIONS_PER_USER)
        for user in range(USERS)
        for session in range(SESSIONS_PER_USER)
        for stage in STAGES
    ]
    rows = Corpus.open(corpus).rows
    return list(rows) == expected and all((corpus / f"{row.filename}.hdf5").is_file() for row in rows)


def _held_out_session(corpus: "Corpus") -> "list[Row]":
    """The recordings of one session by someone whom training never saw."""
    rows = [row for row in corpus.rows if row.held_out_user]
    return [row for row in rows if (row.user, row.session) == (rows[-1].user, rows[-1].session)]


def _say(step: int, what: str) -> None:
    stderr.print(f"[bold]{step}/5[/bold] {what}")
