"""The screen of `cpep-edge live`: one calm page with the gesture, how sure it is, and how the link is doing."""

from collections.abc import Sequence

from rich.align import Align
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cpep_edge.decisions import UNKNOWN, Decision
from cpep_edge.live_stats import LiveSummary

_BAR_CELLS = 28
_CHANGES_SHOWN = 4


def render(title: str, last: Decision | None, changes: Sequence[Decision], summary: LiveSummary) -> RenderableType:
    """The whole screen at one moment.

    last: the newest decision; changes: those that changed the gesture, oldest first
    """
    body = Group(
        Text(),
        Align.center(_gesture(last)),
        Text(),
        Align.center(_confidence(last)),
        Text(),
        Align.center(_history(changes)),
        Text(),
        _figures(summary),
    )
    return Panel(body, title=title, title_align="left", subtitle="Ctrl-C ends", subtitle_align="right", width=78)


def _gesture(last: Decision | None) -> Text:
    if last is None:
        return Text("waiting for a full window", style="dim")
    if last.gesture == UNKNOWN:
        return Text("·  no gesture  ·", style="dim")
    return Text(f"  {last.gesture}  ", style="bold white on " + ("dark_orange3" if last.interpolated else "dark_green"))


def _confidence(last: Decision | None) -> Text:
    share = 0.0 if last is None else last.confidence
    filled = round(share * _BAR_CELLS)
    bar = Text("confidence ", style="dim")
    bar.append("━" * filled, style="green")
    bar.append("━" * (_BAR_CELLS - filled), style="grey30")
    return bar.append(f" {share:4.0%}")


def _history(changes: Sequence[Decision]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", width=9, style="dim")
    table.add_column(width=42)
    recent = list(changes)[::-1]
    for row in range(_CHANGES_SHOWN):
        decision = recent[row] if row < len(recent) else None
        table.add_row(f"{decision.device_t_s:.1f} s" if decision else "", decision.gesture if decision else "")
    return table


def _figures(summary: LiveSummary) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in range(4):
        table.add_column(ratio=1)
    link = summary.link
    table.add_row(*(Text(name, style="dim") for name in ("rate", "delay p50 / p99", "lost frames", "skipped hops")))
    table.add_row(
        "-" if summary.sample_rate_hz is None else f"{summary.sample_rate_hz:.0f} Hz",
        "-" if summary.delay_p50_ms is None else f"{summary.delay_p50_ms:.1f} / {summary.delay_p99_ms:.1f} ms",
        _count(link.lost_frames, f"of {link.frames + link.lost_frames}"),
        _count(summary.skipped_hops, f"of {summary.n_decisions + summary.skipped_hops}"),
    )
    return table


def _count(count: int, rest: str) -> Text:
    return Text(f"{count} ", style="bold red" if count else "").append(rest, style="dim")
