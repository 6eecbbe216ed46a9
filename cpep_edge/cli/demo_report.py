"""What the demo found: a short table on the terminal, and a folder with the report, its figures and its pictures."""

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cpep_edge.blocks import LinkCounts
from cpep_edge.bundle import Manifest
from cpep_edge.cli.output import print_table, stdout, to_json
from cpep_edge.cli.view import render
from cpep_edge.decisions import UNKNOWN, Decision
from cpep_edge.files import replacing
from cpep_edge.live_stats import LiveSummary
from cpep_train.evaluate import Score
from cpep_train.plots import save_confusion

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReplayedStage:
    """One recording of the replay and what live took it for."""

    stage: str
    trained: bool  # whether EMG of the gesture was in the training
    answered: str  # the decision that stood longest while it played, or "unknown"
    share: float  # of the recording's decisions


@dataclass(frozen=True, slots=True)
class Replay:
    """A session played through a simulated wristband into `cpep-edge live`."""

    decisions: tuple[Decision, ...]
    summary: LiveSummary
    stages: tuple[ReplayedStage, ...]

    @classmethod
    def from_lines(
        cls, lines: Sequence[dict[str, Any]], played: Sequence[tuple[str, int]], trained: frozenset[str]
    ) -> "Replay":
        """Read the output of `live --json`.

        played: gesture and number of samples of each recording, in the order they were played
        trained: gestures whose EMG was in the training
        """
        by_type = [(line["type"], {key: value for key, value in line.items() if key != "type"}) for line in lines]
        decisions = tuple(Decision(**fields) for kind, fields in by_type if kind == "decision")
        (summary,) = (fields for kind, fields in by_type if kind == "summary")
        stages, start = [], 0
        for stage, n_samples in played:
            within = [d.gesture for d in decisions if start < d.sample_index <= start + n_samples]
            answered, n = Counter(within).most_common(1)[0] if within else (UNKNOWN, 0)
            stages.append(ReplayedStage(stage, stage in trained, answered, n / max(1, len(within))))
            start += n_samples
        link = LinkCounts(**summary.pop("link"))
        return cls(decisions, LiveSummary(**summary, link=link), tuple(stages))

    def recognised(self, trained: bool) -> tuple[int, int]:
        """Recordings of trained, or of never trained, gestures taken for what they are; and how many there were."""
        asked = [stage for stage in self.stages if stage.trained == trained]
        return sum(stage.answered == stage.stage for stage in asked), len(asked)


@dataclass(frozen=True, slots=True)
class DemoReport:
    """All that the demo measured."""

    scores: tuple[Score, ...]
    manifest: Manifest
    replay: Replay
    duration_s: float

    @property
    def verdict(self) -> str:
        """Whether zero-shot works on gestures that training never saw, in one sentence."""
        score = self.score("unseen")
        figures = (
            f"{score.balanced_accuracy:.2f} [{score.low:.2f}, {score.high:.2f}] where chance is {score.chance:.2f}"
        )
        if score.low > score.chance:
            return f"Gestures that training never saw are told apart in people it never saw: {figures}."
        return f"Gestures that training never saw are NOT clearly told apart in people it never saw: {figures}."

    def score(self, gestures: str) -> Score:
        """The score on held-out people of one kind of gestures."""
        return next(score for score in self.scores if (score.users, score.gestures) == ("held-out", gestures))

    def rows(self) -> list[Row]:
        """The table: what, figure, remark."""
        first, last = self.manifest.ladder[0], self.manifest.ladder[-1]
        files = self.manifest.files
        size_bytes = sum(entry.size_bytes for entry in files.values())
        summary, native = self.replay.summary, self.manifest.native
        rows = [self._accuracy(kind) for kind in ("seen", "unseen", "unseen among all")]
        rows += [
            ("fp32 module, seen / unseen", _pair(first.seen, first.unseen), "balanced accuracy"),
            ("int8 bundle, seen / unseen", _pair(last.seen, last.unseen), f"{last.vote_agreement:.1%} of votes kept"),
            ("int8 encoder", _size(files[self.manifest.encoder.file].size_bytes), self._parameters()),
            ("pose index", _size(files[self.manifest.index.file].size_bytes), self._prototypes()),
            ("whole bundle", _size(size_bytes), "with golden inputs" + (", runs without torch" if native else "")),
        ]
        if summary.delay_p50_ms is not None and summary.delay_p99_ms is not None:
            rows.append(
                (
                    "live delay p50 / p99",
                    f"{summary.delay_p50_ms:.1f} / {summary.delay_p99_ms:.1f} ms",
                    "last byte to decision",
                )
            )
        for trained, kind in ((True, "trained"), (False, "never trained")):
            hits, n = self.replay.recognised(trained)
            rows.append((f"replay, {kind} gestures", f"{hits} of {n}", "recordings recognised among all"))
        lost = f"{summary.link.lost_frames} lost, {summary.link.corrupt_frames} corrupt"
        rows.append(("replay, frames", str(summary.link.frames), lost))
        return rows

    def figures(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "verdict": self.verdict,
            "duration_s": self.duration_s,
            "simulated": True,
            "scores": self.scores,
            "ladder": self.manifest.ladder,
            "size_bytes": {name: entry.size_bytes for name, entry in self.manifest.files.items()},
            "replay": {"stages": self.replay.stages, "summary": asdict(self.replay.summary)},
            "provenance": self.manifest.provenance,
        }

    def _accuracy(self, gestures: str) -> Row:
        score = self.score(gestures)
        interval = f"95 % [{score.low:.2f}, {score.high:.2f}], chance {score.chance:.2f}"
        return f"zero-shot, {gestures}", f"{score.balanced_accuracy:.3f}", interval

    def _parameters(self) -> str:
        encoder = self.manifest.encoder
        return f"{encoder.n_delegates} delegate, {encoder.n_operators_outside} operators outside"

    def _prototypes(self) -> str:
        return f"{self.manifest.index.n_prototypes} prototypes of {len(self.manifest.gestures)} gestures"


def print_report(report: DemoReport, path: Path) -> None:
    """The table on the terminal, the verdict, and where the rest is."""
    n_people = report.score("seen").n_users
    print_table(f"on {n_people} simulated people whom training never saw", ("", "", ""), report.rows())
    stdout.print(f"\n{report.verdict}")
    stdout.print(f"Took {report.duration_s / 60:.1f} minutes. Report: {path}")


def write_report(report: DemoReport, out: Path) -> Path:
    """Write report.md, report.json and the pictures; returns the path of the first."""
    pictures = []
    for gestures in ("seen", "unseen"):
        pictures.append(f"confusion-{gestures}.png")
        save_confusion(report.score(gestures), out / pictures[-1])
    _write(out / "live.svg", _screen(report))
    _write(out / "report.json", to_json(report.figures()) + "\n")
    _write(out / "report.md", _markdown(report, pictures))
    return out / "report.md"


def _markdown(report: DemoReport, pictures: Sequence[str]) -> str:
    provenance = report.manifest.provenance
    replay = [(s.stage, "yes" if s.trained else "no", s.answered, f"{s.share:.0%}") for s in report.replay.stages]
    return "\n\n".join(
        (
            "# cpep-edge demo",
            report.verdict,
            "All figures are from **simulated people**; they say that the loop works, not how well real EMG is read. "
            f"Recipe `{provenance.recipe}`, seed {provenance.seed}, commit `{provenance.git_commit or 'unknown'}`, "
            f"{report.duration_s:.0f} s. Accuracy is balanced, of people held out of training, with a 95 % bootstrap "
            "interval over people.",
            _table(("", "figure", ""), report.rows()),
            "## The replay",
            "One session of a held-out person, each recording after the other, through a simulated wristband on a pty "
            "into `cpep-edge live`. All gestures are in the index, also those whose EMG was never trained on.",
            _table(("performed", "trained", "taken for", "share of decisions"), replay),
            "![live](live.svg)",
            "## Confusion",
            *(f"![{picture}]({picture})" for picture in pictures),
        )
    ) + "\n"  # fmt: skip


def _table(header: Row, rows: Sequence[Row]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _screen(report: DemoReport) -> str:
    """The live screen as it stood at the surest right decision, as SVG that loads nothing from elsewhere."""
    replay = report.replay
    right = {stage.stage for stage in replay.stages if stage.answered == stage.stage} or {UNKNOWN}
    candidates = [d for d in replay.decisions if d.gesture in right] or replay.decisions
    shown = max(candidates, key=lambda d: (d.confidence, d.sample_index), default=None)
    changes = [d for d in replay.decisions if d.changed and shown and d.sample_index <= shown.sample_index]
    console = Console(record=True, width=78, file=io.StringIO())
    console.print(
        render(f"{report.manifest.name}  ·  simulated wristband, played fast", shown, changes, replay.summary)
    )
    return re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="cpep-edge live"), flags=re.DOTALL)


def _pair(seen: float | None, unseen: float | None) -> str:
    return " / ".join("-" if value is None else f"{value:.3f}" for value in (seen, unseen))


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1024:,.0f} kB"


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
