"""The screen of `cpep-edge live`: one calm page with the gesture, how sure it is, the signal and the link.

It makes do with what the terminal has: without room for the signal it leaves that out, and a terminal of a few lines
gets one line.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.align import Align
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cpep_edge.decisions import UNKNOWN, Decision
from cpep_edge.live_stats import LiveSummary
from cpep_edge.live_view import SILENT_S, STRIP_S, LiveView
from cpep_edge.outside import printable

WIDTH = 78
_PLAIN_LINES = 16  # of the page without the signal
_LEAST_WIDTH = 50
_BAR_CELLS = 28
_CHANGES_SHOWN = 4
_CELL_STROKES = 10  # of the signal in one character: a tenth of a second
_STRIP_CELLS = 64
_LEVELS = " ▁▂▃▄▅▆▇█"
_FULL = 3.0  # of the scaled signal, from peak to peak, that fills a cell


class ScreenView:
    """Draws a live run again and again; keeps the last seconds of its signal as cells."""

    def __init__(self, view: LiveView) -> None:
        self._view = view
        self._next = 0  # stroke
        self._cells: deque[NDArray[np.float32]] = deque(maxlen=_STRIP_CELLS)  # (n_channels,) each, peak to peak

    def render(self) -> RenderableType:
        """The page as it is now."""
        self._pull()
        return _Page(self._view, list(self._cells))

    def _pull(self) -> None:
        first, strokes = self._view.strips(self._next, 4 * _CELL_STROKES)
        if not len(strokes) and self._next > first:
            self._next = 0  # the stream began anew
        whole = len(strokes) // _CELL_STROKES * _CELL_STROKES
        if whole:
            self._next = first + whole
            peaks = (strokes[:whole, :, 1] - strokes[:whole, :, 0]).reshape(-1, _CELL_STROKES, strokes.shape[1])
            self._cells.extend(peaks.mean(axis=1))


class _Page:
    """One picture, made to fit when the terminal's size is known."""

    def __init__(self, view: LiveView, cells: list[NDArray[np.float32]]) -> None:
        self._view, self._cells = view, cells

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        last, summary = self._view.stats.last, self._view.summary()
        if options.size.width < _LEAST_WIDTH or options.size.height < _PLAIN_LINES:
            yield _one_line(last, summary)
            return
        _, changes = self._view.changes_after(0)
        room = options.size.height - _PLAIN_LINES
        yield render(
            self._view.title,
            last,
            changes,
            summary,
            cells=self._cells if self._cells and room > len(self._cells[0]) else (),
            silent_s=self._view.silent_s,
            width=min(options.size.width, WIDTH),
        )


def render(
    title: str,
    last: Decision | None,
    changes: Sequence[Decision],
    summary: LiveSummary,
    *,
    cells: Sequence[NDArray[np.float32]] = (),
    silent_s: float = 0.0,
    width: int = WIDTH,
) -> RenderableType:
    """The whole screen at one moment.

    last: the newest decision; changes: those that changed the gesture, oldest first
    cells: the signal's strength, (n_channels,) each, oldest first; none leaves it out
    silent_s: how long no samples have come
    """
    parts: list[RenderableType] = [
        Text(),
        Align.center(_gesture(last)),
        Text(),
        Align.center(_confidence(last)),
        Text(),
    ]
    if cells:
        parts += [_strips(cells, width), Text()]
    parts += [Align.center(_history(changes)), Text(), _figures(summary)]
    lost = silent_s > SILENT_S
    away = Text(f"no signal for {silent_s:.0f} s, looking for the band", style="bold red")
    return Panel(
        Group(*parts),
        title=Text(printable(title)),
        title_align="left",
        subtitle=away if lost else "Ctrl-C ends",
        subtitle_align="right",
        width=width,
        border_style="red" if lost else "none",
    )


def _one_line(last: Decision | None, summary: LiveSummary) -> Text:
    line = _gesture(last)
    if last is not None:
        line.append(f" {last.confidence:.0%}", style="not bold default on default")
    return line.append(f"  {summary.link.lost_frames} lost", style="not bold dim default on default")


def _gesture(last: Decision | None) -> Text:
    if last is None:
        return Text("waiting for a full window", style="dim")
    if last.gesture == UNKNOWN:
        return Text("·  no gesture  ·", style="dim")
    if last.at_rest and last.gesture == last.window_gesture:
        return Text(f"·  {printable(last.gesture)}  ·", style="dim")
    return Text(
        f"  {printable(last.gesture)}  ",
        style="bold white on " + ("dark_orange3" if last.interpolated else "dark_green"),
    )


def _confidence(last: Decision | None) -> Text:
    if last is not None and last.at_rest:
        return Text("muscles at rest, encoder asleep", style="dim")
    share = 0.0 if last is None else last.confidence
    filled = round(share * _BAR_CELLS)
    bar = Text("confidence ", style="dim")
    bar.append("━" * filled, style="green")
    bar.append("━" * (_BAR_CELLS - filled), style="grey30")
    return bar.append(f" {share:4.0%}")


def _strips(cells: Sequence[NDArray[np.float32]], width: int) -> Table:
    """One line a channel, newest at the right: how strong the signal was in each tenth of a second."""
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", width=2, style="dim")
    table.add_column(no_wrap=True)
    shown = np.array(cells[-min(_STRIP_CELLS, width - 10) :])  # (n_cells, n_channels)
    levels = np.clip(np.rint(shown / _FULL * (len(_LEVELS) - 1)), 0, len(_LEVELS) - 1).astype(int)
    for channel in range(shown.shape[1]):
        line = "".join(_LEVELS[level] for level in levels[:, channel])
        table.add_row(str(channel + 1), Text(line.rjust(min(_STRIP_CELLS, width - 10)), style="cyan"))
    table.add_row("", Text(f"{len(shown) * _CELL_STROKES * STRIP_S:.0f} s of EMG", style="dim"))
    return table


def _history(changes: Sequence[Decision]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", width=9, style="dim")
    table.add_column(width=42)
    recent = list(changes)[::-1]
    for row in range(_CHANGES_SHOWN):
        decision = recent[row] if row < len(recent) else None
        table.add_row(
            f"{decision.device_t_s:.1f} s" if decision else "", Text(printable(decision.gesture) if decision else "")
        )
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
