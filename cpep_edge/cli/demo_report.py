"""The report of the demo: a short table on the terminal, and a folder with the report, its values and its pictures."""

import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from cpep_edge.cli.output import print_table, stdout
from cpep_edge.cli.replay import Replay
from cpep_edge.cli.view import render
from cpep_edge.folders import write_reports
from cpep_edge.json_text import to_json
from cpep_edge.live_stats import Change
from cpep_edge.manifest import LadderStep, Manifest
from cpep_edge.names import UNKNOWN, shown_name
from cpep_train.evaluate import Gestures, Score
from cpep_train.plots import confusion_figure, png

Row = tuple[str, ...]

FIGURES_FILE = "report.json"


@dataclass(frozen=True, slots=True)
class DemoReport:
    """Everything that the demo measured."""

    scores: tuple[Score, ...]  # of the encoder that the demo trained
    plain: tuple[Score, ...]  # of a baseline, ridge regression to joint angles
    boxed: tuple[Score, ...]  # of the encoder that ships with the project, on the same people
    manifest: Manifest
    replay: Replay
    duration_s: float

    @property
    def verdict(self) -> str:
        """One sentence on whether zero-shot recognition works for gestures that were not in training."""
        score = self.score("unseen")
        figures = (
            f"{score.balanced_accuracy:.2f} [{score.low:.2f}, {score.high:.2f}] where chance is {score.chance:.2f}"
        )
        if score.low > score.chance:
            return f"Gestures that training never saw are told apart in people it never saw: {figures}."
        return f"Gestures that training never saw are NOT clearly told apart in people it never saw: {figures}."

    def score(self, gestures: str) -> Score:
        """The score of held-out people on one kind of gestures."""
        return next(score for score in self.scores if (score.users, score.gestures) == ("held-out", gestures))

    def rows(self) -> list[Row]:
        """The rows of the table: quantity, value, remark."""
        first, last = self.manifest.ladder[0], self.manifest.ladder[-1]
        files, encoder = self.manifest.files, self.manifest.encoder_for("the report")
        index = self.manifest.index_for("the report")
        size_bytes = sum(entry.size_bytes for entry in files.values())
        summary, native = self.replay.summary, self.manifest.native
        kinds: tuple[Gestures, ...] = get_args(Gestures)
        rows = [self._accuracy(kind) for kind in kinds]
        for name, scores in (("without an encoder", self.plain), ("the encoder in the box", self.boxed)):
            found = {score.gestures: f"{score.balanced_accuracy:.3f}" for score in scores if score.users == "held-out"}
            rows.append((name, " / ".join(found[kind] for kind in kinds), "the same five"))
        rows += [
            ("fp32 module, seen / unseen / harmonic mean", _ends(first), "balanced accuracy"),
            ("bundle, seen / unseen / harmonic mean", _ends(last), f"{last.vote_agreement:.1%} of votes kept"),
            (
                f"{encoder.quantisation} encoder",
                _size(files[encoder.file].size_bytes),
                self._parameters(),
            ),
            (
                "pose index",
                _size(files[index.file].size_bytes),
                f"{index.n_prototypes} prototypes of {len(self.manifest.gestures)} gestures",
            ),
            ("whole bundle", _size(size_bytes), "runs without torch" if native else "needs torch"),
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
            rows.append((f"replay, {kind}", f"{hits} of {n}", "gestures, among all"))
        lost = f"{summary.link.lost_frames} lost, {summary.link.corrupt_frames} corrupt"
        rows.append(("replay, frames", str(summary.link.frames), lost))
        return rows

    def figures(self) -> dict[str, Any]:
        """The values of the report, for JSON."""
        return {
            "verdict": self.verdict,
            "duration_s": self.duration_s,
            "simulated": True,
            "scores": self.scores,
            "plain": self.plain,
            "boxed": self.boxed,
            "ladder": self.manifest.ladder,
            "size_bytes": {name: entry.size_bytes for name, entry in self.manifest.files.items()},
            "replay": {"recordings": self.replay.recordings, "summary": asdict(self.replay.summary)},
            "provenance": self.manifest.provenance,
        }

    def _accuracy(self, gestures: str) -> Row:
        score = self.score(gestures)
        interval = f"[{score.low:.2f}, {score.high:.2f}], chance {score.chance:.2f}"
        return f"zero-shot, {gestures}", f"{score.balanced_accuracy:.3f}", interval

    def _parameters(self) -> str:
        encoder = self.manifest.encoder_for("the report")
        plural = "" if encoder.n_delegates == 1 else "s"
        return f"{encoder.n_delegates} delegate{plural}, {encoder.n_operators_outside} outside"


def print_report(report: DemoReport, path: Path) -> None:
    """Print the table, the verdict, and where the full report is."""
    n_people = report.score("seen").n_users
    print_table(
        f"{n_people} simulated people whom training never saw, [95 % interval over people]", ("", "", ""), report.rows()
    )
    stdout.print(f"\n{report.verdict}")
    stdout.print(f"Took {report.duration_s / 60:.1f} minutes. Report: {path}")


def write_report(report: DemoReport, out: Path) -> Path:
    """Write report.md, report.json and the pictures; returns the path of report.md."""
    pictures = {f"confusion-{seen}.png": png(confusion_figure(report.score(seen))) for seen in ("seen", "unseen")}
    contents = {
        FIGURES_FILE: f"{to_json(report.figures())}\n".encode(),
        "report.md": _markdown(report, list(pictures)).encode(),
        "live.svg": _screen(report).encode(),
    }
    write_reports(out, {**contents, **pictures})
    return out / "report.md"


def _markdown(report: DemoReport, pictures: Sequence[str]) -> str:
    provenance = report.manifest.provenance
    replay = [
        (shown_name(s.stage), "yes" if s.trained else "no", shown_name(s.answered), f"{s.share:.0%}")
        for s in report.replay.recordings
    ]
    return "\n\n".join(
        (
            "# cpep-edge demo",
            report.verdict,
            "All figures are from **simulated people**; they show that the loop works, not its accuracy on real EMG. "
            f"Recipe `{provenance.recipe}`, seed {provenance.seed}, commit `{provenance.git_commit or 'unknown'}`, "
            f"{report.duration_s:.0f} s. Balanced accuracy on people held out of training, with a 95 % bootstrap "
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
    """The live screen at the most confident correct decision, as SVG without external resources."""
    replay = report.replay
    right = {stage.stage for stage in replay.recordings if stage.answered == stage.stage} or {UNKNOWN}
    candidates = [d for d in replay.decisions if d.gesture in right] or replay.decisions
    shown = max(candidates, key=lambda d: (d.confidence, d.sample_index), default=None)
    first_s = replay.decisions[0].device_t_s if replay.decisions else 0.0
    changes = [
        Change(d.gesture, d.device_t_s - first_s)
        for d in replay.decisions
        if d.changed and shown and d.sample_index <= shown.sample_index
    ]
    console = Console(record=True, width=78, file=io.StringIO())
    console.print(
        render(f"{report.manifest.name}  ·  simulated wristband, played fast", shown, changes, replay.summary)
    )
    return re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="cpep-edge live"), flags=re.DOTALL)


def _ends(step: LadderStep) -> str:
    values = (step.seen, step.unseen, step.harmonic_mean)
    return " / ".join("-" if value is None else f"{value:.3f}" for value in values)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1000:,.0f} kB"
