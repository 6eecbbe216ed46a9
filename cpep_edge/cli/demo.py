"""`cpep-edge demo`: the whole loop on this machine, from simulated people to a gesture on a simulated wristband."""

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cpep_edge.cli.output import print_json, progress, stderr
from cpep_edge.errors import CpepError

if TYPE_CHECKING:
    from cpep_edge.cli.demo_report import Replay
    from cpep_train.corpus import Corpus, Row

RECIPE = "demo"
USERS, SESSIONS_PER_USER, SECONDS, SEED = 16, 2, 10.0, 0
REPLAY_SPEED = 4.0  # times real time


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo-out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Simulate people, train, evaluate, export to int8, run live over a simulated wristband, and report."""
    from cpep_edge.cli.demo_report import DemoReport, print_report, write_report
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
        manifest = export_bundle(checkpoint, corpus, bundle, progress=advance)
    _say(5, f"replaying a new person's session on a simulated wristband, {REPLAY_SPEED:g} times real time")
    replay = _replay(Corpus.open(corpus), bundle)
    report = DemoReport(tuple(scores), manifest, replay, time.monotonic() - started_s)
    path = write_report(report, out)
    if as_json:
        print_json(report.figures())
    else:
        print_report(report, path)


def _replay(corpus: "Corpus", bundle: Path) -> "Replay":
    """Play a held-out person's last session into `cpep-edge live`, each recording after the other."""
    from cpep_bridge.simulator import SimulatedBand
    from cpep_edge.cli.demo_report import Replay

    rows = _held_out_session(corpus)
    with ExitStack() as stack:
        sessions = [stack.enter_context(corpus.session(row)) for row in rows]
        lengths = [session.n_samples for session in sessions]
        rate_hz = sessions[0].meta.sample_rate
        band = stack.enter_context(SimulatedBand(sessions, rate_hz, speed=REPLAY_SPEED, once=True))
        command = [sys.executable, "-m", "cpep_edge", "live", str(bundle), "--port", band.port, "--json"]
        lines = _run_live(command, seconds=sum(lengths) / rate_hz)
    played = [(row.stage, n_samples) for row, n_samples in zip(rows, lengths, strict=True)]
    return Replay.from_lines(lines, played, frozenset(row.stage for row in rows if not row.held_out_stage))


def _held_out_session(corpus: "Corpus") -> "list[Row]":
    """The recordings of one session by someone whom training never saw."""
    rows = [row for row in corpus.rows if row.held_out_user]
    return [row for row in rows if (row.user, row.session) == (rows[-1].user, rows[-1].session)]


def _run_live(command: list[str], seconds: float) -> list[dict[str, object]]:
    """Run `cpep-edge live --json` to its end; returns its lines."""
    lines: list[dict[str, object]] = []
    hop_s = 0.1
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, progress("replay") as advance:
        for line in process.stdout or ():
            lines.append(json.loads(line))
            advance(len(lines), round(seconds / hop_s))
    if process.returncode != 0:
        raise CpepError(f"cpep-edge live ended with exit status {process.returncode} during the replay")
    return lines


def _say(step: int, what: str) -> None:
    stderr.print(f"[bold]{step}/5[/bold] {what}")
