"""`cpep-edge demo`: the whole loop on this machine, from simulated people to a gesture on a simulated wristband."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cpep_edge.cli.output import print_json, progress, stderr
from cpep_edge.errors import CpepError

if TYPE_CHECKING:
    from cpep_edge.cli.demo_report import Replay
    from cpep_train.corpus import Corpus, Row

RECIPE = "demo"
USERS, SESSIONS_PER_USER, SECONDS, SEED = 24, 1, 6.0, 0
REPLAY_SPEED = 4.0  # times real time


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo-out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Simulate people, train, evaluate, export to int8, run live over a simulated wristband, and report."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads spin otherwise, for ages on a busy machine

    from cpep_edge.cli.demo_report import DemoReport, print_report, write_report
    from cpep_export.native import build_for_target, host_target
    from cpep_export.package import export_bundle
    from cpep_train.checkpoint import load_checkpoint
    from cpep_train.corpus import Corpus
    from cpep_train.evaluate import evaluate
    from cpep_train.recipe import load_recipe
    from cpep_train.simulation import synthesise_corpus
    from cpep_train.training import train

    started_s = time.monotonic()
    corpus, run, bundle = out / "simulated-people", out / "run", out / "demo.cpep"
    _say(1, f"simulating {USERS} people wearing a band of 16 electrodes")
    with progress("simulate") as advance:
        synthesise_corpus(
            corpus, n_users=USERS, sessions_per_user=SESSIONS_PER_USER, seconds=SECONDS, seed=SEED, progress=advance
        )
    _say(2, "training: masked EMG, masked poses, then EMG towards poses")
    train(load_recipe(RECIPE), corpus, run)
    checkpoint = load_checkpoint(run)
    _say(3, "evaluating: zero-shot on people and gestures that training never saw")
    scores = evaluate(checkpoint, corpus)
    _say(4, "exporting: int8 encoder, pose index, golden inputs")
    with progress("export") as advance:
        native = build_for_target(host_target(), out / "native")
        manifest = export_bundle(checkpoint, corpus, bundle, native=native, progress=advance)
    _say(5, f"replaying a new person's session on a simulated wristband, {REPLAY_SPEED:g} times real time")
    replay = _replay(Corpus.open(corpus), bundle, out / "profile.json")
    report = DemoReport(tuple(scores), manifest, replay, time.monotonic() - started_s)
    path = write_report(report, out)
    if as_json:
        print_json(report.figures())
    else:
        print_report(report, path)


def _replay(corpus: "Corpus", bundle: Path, profile: Path) -> "Replay":
    """Calibrate to a held-out person, then play their whole session into `cpep-edge live`, recording by recording."""
    from cpep_edge.bundle import Bundle
    from cpep_edge.cli.demo_report import Replay

    rows = _held_out_session(corpus)
    movements = [row for row in rows if row.stage in Bundle(bundle).manifest.calibration]
    with _band(corpus, movements) as (port, rate_hz, lengths):
        seconds = f"{sum(lengths) / rate_hz - 1:.1f}"
        _run("calibrate", str(bundle), "--port", port, "--out", str(profile), "--seconds", seconds)
    with _band(corpus, rows) as (port, _, lengths):
        lines = _run("live", str(bundle), "--port", port, "--profile", str(profile), "--json")
    played = [(row.stage, n_samples) for row, n_samples in zip(rows, lengths, strict=True)]
    return Replay.from_lines(
        [json.loads(line) for line in lines], played, frozenset(row.stage for row in rows if not row.held_out_stage)
    )


@contextmanager
def _band(corpus: "Corpus", rows: "list[Row]") -> Iterator[tuple[str, float, list[int]]]:
    """A simulated wristband that plays recordings once; yields its port, its rate and the recordings' lengths."""
    from cpep_bridge.simulator import SimulatedBand

    with ExitStack() as stack:
        sessions = [stack.enter_context(corpus.session(row)) for row in rows]
        rate_hz = sessions[0].meta.sample_rate
        band = SimulatedBand(sessions, rate_hz, speed=REPLAY_SPEED, once=True, lossless=True)
        yield stack.enter_context(band).port, rate_hz, [session.n_samples for session in sessions]


def _held_out_session(corpus: "Corpus") -> "list[Row]":
    """The recordings of one session by someone whom training never saw."""
    rows = [row for row in corpus.rows if row.held_out_user]
    return [row for row in rows if (row.user, row.session) == (rows[-1].user, rows[-1].session)]


def _run(*arguments: str) -> list[str]:
    """Run a command of cpep-edge in a process of its own, as a user would; returns the lines of its answer."""
    command = (sys.executable, "-m", "cpep_edge", *arguments)
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, progress(arguments[0]) as advance:
        for line in process.stdout or ():
            lines.append(line)
            advance(len(lines), None)
    if process.returncode != 0:
        raise CpepError(f"cpep-edge {arguments[0]} ended with exit status {process.returncode} during the replay")
    return lines


def _say(step: int, what: str) -> None:
    stderr.print(f"[bold]{step}/5[/bold] {what}")
