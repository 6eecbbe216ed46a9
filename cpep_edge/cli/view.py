"""The screen of `cpep-edge live`: the gesture, its confidence, the signal, the link and the address of the page.

It adapts to the size of the terminal: if there are fewer lines than channels, neighbouring channels share a line, and a
terminal of only a few lines gets a single line.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rich.align import Align
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cpep_edge.decisions import Decision
from cpep_edge.live_stats import Change, LiveSummary
from cpep_edge.live_view import SILENT_S, STRIP_S, LiveView
from cpep_edge.names import UNKNOWN, shown_name
from cpep_edge.outside import printable
from cpep_edge.sinks import SinkCounts

WIDTH = 78
_LEAST_LINES = 14  # of the screen without the signal
_LEAST_WIDTH = 50
_BAR_CELLS = 28
_CHANGES_SHOWN = 4
_CELL_STROKES = 10  # strokes of the signal per character: a tenth of a second
_STRIP_CELLS = 64
_LEVELS = " ▁▂▃▄▅▆▇█"
_FULL = 3.0  # peak-to-peak value of the scaled signal that fills a cell

Shown = Callable[[str], str]


class PageAddress(Protocol):
    """The address that the run's page is served at."""

    @property
    def url(self) -> str: ...

    @property
    def code(self) -> str:
        """The address as a QR code, in lines of block characters; empty when only this machine can connect."""
        ...

    @property
    def n_viewers(self) -> int: ...


class ScreenView:
    """Draws a live run repeatedly; keeps the last seconds of its signal as cells."""

    def __init__(self, view: LiveView, page: PageAddress | None = None) -> None:
        self._view, self._page = view, page
        self._next = 0  # number of the next stroke
        self._cells: deque[NDArray[np.float32]] = deque(maxlen=_STRIP_CELLS)  # (n_channels,) each, peak to peak

    def render(self) -> RenderableType:
        """The screen as it is now."""
        self._pull()
        return _Page(self._view, self._page, list(self._cells))

    def _pull(self) -> None:
        first, strokes = self._view.strips(self._next, 4 * _CELL_STROKES)
        if not len(strokes) and self._next > first:
            self._next = 0  # the stream restarted
        whole = len(strokes) // _CELL_STROKES * _CELL_STROKES
        if whole:
            self._next = first + whole
            peaks = (strokes[:whole, :, 1] - strokes[:whole, :, 0]).reshape(-1, _CELL_STROKES, strokes.shape[1])
            self._cells.extend(peaks.mean(axis=1))


class _Page:
    """One picture of the screen, laid out when rich knows the terminal's size."""

    def __init__(self, view: LiveView, page: PageAddress | None, cells: list[NDArray[np.float32]]) -> None:
        self._view, self._page, self._cells = view, page, cells

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        last, summary, page = self._view.stats.last, self._view.summary(), self._page
        if options.size.width < _LEAST_WIDTH or options.size.height < _LEAST_LINES:
            line = _gesture(last, self._view.shown)
            if last is not None and last.gesture != UNKNOWN and not last.at_rest:
                line.append(f" {last.confidence:.0%}", style="not bold default on default")
            yield line.append(f"  {summary.link.lost_frames} lost", style="not bold dim default on default")
            return
        _, changes = self._view.changes_after(0)
        yield render(
            self._view.title,
            last,
            changes,
            summary,
            cells=self._cells,
            silent_s=self._view.silent_s,
            sinks=self._view.sink_counts,
            url="" if page is None else page.url,
            code="" if page is None or page.n_viewers else page.code,
            width=min(options.size.width, WIDTH),
            height=options.size.height,
            shown=self._view.shown,
        )


def render(
    title: str,
    last: Decision | None,
    changes: Sequence[Change],
    summary: LiveSummary,
    *,
    cells: Sequence[NDArray[np.float32]] = (),
    silent_s: float = 0.0,
    sinks: Sequence[SinkCounts] = (),
    url: str = "",
    code: str = "",
    width: int = WIDTH,
    height: int = 24,
    shown: Shown = shown_name,
) -> RenderableType:
    """The whole screen at one moment.

    last: the newest decision; changes: those that changed the gesture, oldest first
    cells: the signal's peak-to-peak values, (n_channels,) each, oldest first; empty: the signal is not shown
    silent_s: seconds since the last samples
    url: of the page; code: the same as a QR code, shown in place of the signal
    shown: turns a gesture's label into the name to show
    """
    foot: list[RenderableType] = [_figures(summary)]
    if sinks:
        foot.append(_sinks(sinks))
    if url:
        foot.append(Text.assemble(("page  ", "dim"), (url, "bold"), no_wrap=True, overflow="fold"))
    n_foot = 2 + len(foot) - 1 + (len(url) + 6) // (width - 4)
    room = height - 2 - 4 - n_foot - 1  # borders, gesture and confidence with blank lines, a blank line
    middle: list[RenderableType] = []
    if code and room > code.count("\n") + 2:
        middle = [Align.center(Text(code.rstrip("\n"), no_wrap=True)), Text()]
        room -= code.count("\n") + 2
    elif cells and room >= 2 + 2 + _CHANGES_SHOWN // 2:
        together = -(-len(cells[0]) // (room - 2 - 1 - _CHANGES_SHOWN // 2))  # channels per line
        middle = [_strips(cells, width, together), Text()]
        room -= -(-len(cells[0]) // together) + 2
    n_changes = max(0, min(_CHANGES_SHOWN, room - 1))
    history: list[RenderableType] = [Align.center(_history(changes, n_changes, shown)), Text()] if n_changes else []
    lost = silent_s > SILENT_S
    away = Text(f"no signal for {silent_s:.0f} s, looking for the band", style="bold red")
    return Panel(
        Group(
            Align.center(_gesture(last, shown)),
            Text(),
            Align.center(_confidence(last, shown)),
            Text(),
            *middle,
            *history,
            *foot,
        ),
        title=Text(printable(title)),
        title_align="left",
        subtitle=away if lost else "Ctrl-C ends",
        subtitle_align="right",
        width=width,
        border_style="red" if lost else "none",
    )


def _gesture(last: Decision | None, shown: Shown) -> Text:
    if last is None:
        return Text("waiting for a full window", style="dim")
    name = printable(shown(last.gesture))
    if last.gesture == UNKNOWN or (last.at_rest and last.gesture == last.window_gesture):
        return Text(f"·  {name}  ·", style="dim")
    return Text(f"  {name}  ", style="bold white on " + ("dark_orange3" if last.interpolated else "dark_green"))


def _confidence(last: Decision | None, shown: Shown) -> Text:
    """The confidence of the newest window, or why it has none: it is at rest or rejected."""
    if last is None:
        return Text()
    if last.at_rest:
        return Text("muscles at rest, encoder asleep", style="dim")
    if last.window_gesture == UNKNOWN:
        return Text("this window: too unsure to say", style="dim")
    filled = round(last.confidence * _BAR_CELLS)
    bar = Text(f"{printable(shown(last.window_gesture))} ", style="dim")
    bar.append("━" * filled, style="green")
    bar.append("━" * (_BAR_CELLS - filled), style="grey30")
    return bar.append(f" {last.confidence:4.0%}")


def _strips(cells: Sequence[NDArray[np.float32]], width: int, together: int) -> Table:
    """The strength of the signal in each tenth of a second, newest at the right.

    together: number of neighbouring channels that share a line, which shows their mean
    """
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", width=5, style="dim")
    table.add_column(no_wrap=True)
    n_shown = min(_STRIP_CELLS, width - 12)
    shown = np.array(cells[-n_shown:])  # (n_cells, n_channels)
    for first in range(0, shown.shape[1], together):
        strength = shown[:, first : first + together].mean(axis=1)
        levels = np.clip(np.rint(strength / _FULL * (len(_LEVELS) - 1)), 0, len(_LEVELS) - 1).astype(int)
        last = min(first + together, shown.shape[1])
        line = "".join(_LEVELS[level] for level in levels)
        table.add_row(str(last) if together == 1 else f"{first + 1}-{last}", Text(line.rjust(n_shown), style="cyan"))
    table.add_row("", Text(f"{len(shown) * _CELL_STROKES * STRIP_S:.0f} s of EMG", style="dim"))
    return table


def _history(changes: Sequence[Change], n_lines: int, shown: Shown) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", width=9, style="dim")
    table.add_column(width=42)
    recent = list(changes)[::-1]
    for row in range(n_lines):
        change = recent[row] if row < len(recent) else None
        table.add_row(
            f"{change.run_s:.1f} s" if change else "", Text(printable(shown(change.gesture)) if change else "")
        )
    return table


def _sinks(sinks: Sequence[SinkCounts]) -> Text:
    line = Text("sinks ", style="dim", no_wrap=True, overflow="ellipsis")
    for sink in sinks:
        line.append(f" {printable(sink.address)} ", style="not dim")
        bad = sink.failures > 0 or sink.dropped > 0
        line.append(
            f"{sink.failures} failed, {sink.dropped} dropped" if bad else f"{sink.sent} sent",
            "bold red" if bad else "dim",
        )
    return line


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
