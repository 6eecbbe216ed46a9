"""Play recordings through a simulated wristband into commands of cpep-edge, each in its own process."""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpep_bridge.simulator import SimulatedBand
from cpep_edge.blocks import LinkCounts
from cpep_edge.cli.output import progress
from cpep_edge.decisions import Decision
from cpep_edge.errors import CpepError
from cpep_edge.live_stats import LiveSummary
from cpep_edge.names import UNKNOWN

if TYPE_CHECKING:
    from cpep_train.corpus import Corpus, Row


@dataclass(frozen=True, slots=True)
class ReplayedRecording:
    """One recording of a replay, and the gesture that live recognised in it."""

    stage: str
    trained: bool  # whether EMG of the gesture was in the training
    answered: str  # the most frequent decision while it played, or "unknown"
    share: float  # of the recording's decisions that are this one


@dataclass(frozen=True, slots=True)
class Replay:
    """Recordings played one after the other into `cpep-edge live`."""

    decisions: tuple[Decision, ...]
    summary: LiveSummary
    recordings: tuple[ReplayedRecording, ...]

    def recognised(self, trained: bool) -> tuple[int, int]:
        """How many recordings of trained or of untrained gestures were recognised, and how many there were."""
        asked = [recording for recording in self.recordings if recording.trained == trained]
        return sum(recording.answered == recording.stage for recording in asked), len(asked)


def calibrate_and_replay(
    corpus: "Corpus", moves: "Sequence[Row]", rows: "Sequence[Row]", bundle: Path, speed: float
) -> Replay:
    """Run `cpep-edge live` on recordings, after `cpep-edge calibrate` on others of the same session.

    The profile is in a temporary folder, because the command refuses to overwrite one that an earlier run left.
    """
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "profile.json"
        calibrate(corpus, moves, bundle, speed, profile)
        return replay(corpus, rows, bundle, speed, profile)


def calibrate(corpus: "Corpus", rows: "Sequence[Row]", bundle: Path, speed: float, profile: Path) -> None:
    """Write the profile of a session from recordings of its wearer's movements.

    speed: of the replay, times real time
    """
    with _band(corpus, rows, speed) as (port, rate_hz, lengths):
        seconds = f"{sum(lengths) / rate_hz - 1:.1f}"
        listening = ("--rest-seconds", "0", "--seconds", seconds)
        _run("calibrate", str(bundle), "--port", port, "--out", str(profile), *listening)


def replay(corpus: "Corpus", rows: "Sequence[Row]", bundle: Path, speed: float, profile: Path | None = None) -> Replay:
    """Run `cpep-edge live` on recordings that are played back to back, without gaps.

    speed: times real time
    Raises CpepError when live fails.
    """
    calibrated = () if profile is None else ("--profile", str(profile))
    with _band(corpus, rows, speed) as (port, _, lengths):
        lines = [json.loads(line) for line in _run("live", str(bundle), "--port", port, *calibrated, "--json")]
    decisions = tuple(Decision(**_fields(line)) for line in lines if line["type"] == "decision")
    (summary,) = (_fields(line) for line in lines if line["type"] == "summary")
    link = LinkCounts(**summary.pop("link"))
    del summary["sinks"]  # there were none
    return Replay(decisions, LiveSummary(**summary, link=link), _answered(rows, lengths, decisions))


def _answered(
    rows: "Sequence[Row]", lengths: Sequence[int], decisions: Sequence[Decision]
) -> tuple[ReplayedRecording, ...]:
    recordings, start = [], 0
    for row, n_samples in zip(rows, lengths, strict=True):
        within = [d.gesture for d in decisions if start < d.sample_index <= start + n_samples]
        answered, n = Counter(within).most_common(1)[0] if within else (UNKNOWN, 0)
        recordings.append(ReplayedRecording(row.stage, not row.held_out_stage, answered, n / max(1, len(within))))
        start += n_samples
    return tuple(recordings)


def _fields(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "type"}


@contextmanager
def _band(corpus: "Corpus", rows: "Sequence[Row]", speed: float) -> Iterator[tuple[str, float, list[int]]]:
    """Run a simulated band that plays recordings once; yields its port, sample rate and the recordings' lengths."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(corpus.session(row)) for row in rows]
        rate_hz = sessions[0].meta.sample_rate
        band = SimulatedBand(sessions, rate_hz, speed=speed, once=True, lossless=True)
        yield stack.enter_context(band).port, rate_hz, [session.n_samples for session in sessions]


def _run(*arguments: str) -> list[str]:
    """Run a command of cpep-edge; returns the lines that it prints."""
    command = (sys.executable, "-m", "cpep_edge", *arguments)
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, progress(arguments[0]) as advance:
        for line in process.stdout or ():
            lines.append(line)
            advance(len(lines), None)
    if process.returncode != 0:
        raise CpepError(f"cpep-edge {arguments[0]} ended with exit status {process.returncode} during the replay")
    return lines
