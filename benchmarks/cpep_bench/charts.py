"""A few kinds of charts as HTML that needs no script and no other file.

Marks are placed in percent of their axis and texts are HTML, so that a chart fits a phone and paper, with text of
constant size. A page needs `STYLE` once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_N_COLOURS = 6

STYLE = """
.chart{margin:.8rem 0 .3rem}
.row{display:grid;grid-template-columns:minmax(6.5rem,11rem) 1fr 5.2rem;gap:.7rem;align-items:center;padding:.16rem 0}
.row>.name{overflow-wrap:anywhere;line-height:1.2}.row>.value{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.track{position:relative;height:1.15rem;background:var(--track);border-radius:3px}
.track svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.fill{position:absolute;top:0;bottom:0;border-radius:3px}
.whisker{position:absolute;top:50%;height:2px;background:var(--ink);transform:translateY(-50%)}
.dot{position:absolute;width:.6rem;height:.6rem;border-radius:50%;transform:translate(-50%,-50%);
  border:2px solid var(--paper)}
.mark{position:absolute;top:-2px;bottom:-2px;width:2px;background:var(--ink)}
.axis{position:relative;height:1.2rem;color:var(--faint);font-size:.78rem}
.axis span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.stack{display:flex;height:2rem;border-radius:4px;overflow:hidden;gap:1px;background:var(--track)}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;margin:.5rem 0;font-size:.88rem}
.legend i{display:inline-block;width:.7rem;height:.7rem;border-radius:2px;margin-right:.4rem}
.plot{position:relative;height:13rem;margin:.6rem 1.2rem 1.6rem 2.6rem;border-left:1px solid var(--line);
  border-bottom:1px solid var(--line)}
.plot svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.plot .y,.plot .x{position:absolute;color:var(--faint);font-size:.78rem;white-space:nowrap}
.plot .y{right:100%;margin-right:.4rem;transform:translateY(-50%)}.plot .x{top:100%;margin-top:.2rem}
.plot .x{transform:translateX(-50%)}
.plot .grid{position:absolute;left:0;right:0;height:1px;background:var(--track)}
.columns{display:flex;align-items:flex-end;gap:.35rem;height:8rem;margin-top:1.4rem;border-bottom:1px solid var(--line)}
.columns div{flex:1;border-radius:3px 3px 0 0;min-height:1px;position:relative}
.columns span{position:absolute;bottom:100%;left:50%;transform:translateX(-50%);font-size:.75rem;
  font-variant-numeric:tabular-nums}
.colour0{background:var(--c0)}.colour1{background:var(--c1)}.colour2{background:var(--c2)}
.colour3{background:var(--c3)}.colour4{background:var(--c4)}.colour5{background:var(--c5)}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a bar chart."""

    name: str
    value: float
    shown: str
    low: float | None = None  # of an interval
    high: float | None = None
    colour: int = 0


@dataclass(frozen=True, slots=True)
class Strip:
    """One row of a chart of distributions."""

    name: str
    values: Sequence[float]
    middle: float
    tail: float
    shown: str


def bars(rows: Sequence[Bar]) -> str:
    """Horizontal bars from zero; an interval is drawn as a line across the end of its bar."""
    most = max(row.high or row.value for row in rows) or 1.0
    lines = []
    for row in rows:
        whisker = ""
        if row.low is not None and row.high is not None:
            left, right = 100 * row.low / most, 100 * row.high / most
            whisker = f'<span class="whisker" style="left:{left:.2f}%;width:{max(right - left, 0.1):.2f}%"></span>'
        fill = f'<span class="fill colour{row.colour}" style="width:{100 * row.value / most:.2f}%"></span>'
        lines.append(_row(row.name, fill + whisker, row.shown))
    return f'<div class="chart">{"".join(lines)}</div>'


def strips(rows: Sequence[Strip], unit: str) -> str:
    """Distributions on one logarithmic axis: a line per run, a dot at the median, a mark at the 99th percentile."""
    low = math.floor(math.log10(min(min(row.values) for row in rows)) * 2) / 2
    high = math.ceil(math.log10(max(max(row.values) for row in rows)) * 2) / 2

    def place(value: float) -> float:
        return 100 * (math.log10(value) - low) / (high - low)

    lines = []
    for row in rows:
        runs = "".join(f"M{10 * place(value):.0f} 3V17" for value in row.values)
        marks = (
            f'<svg viewBox="0 0 1000 20" preserveAspectRatio="none"><path d="{runs}" stroke="var(--c0)" '
            'stroke-opacity=".22" stroke-width="1.5" vector-effect="non-scaling-stroke"/></svg>'
            f'<span class="mark" style="left:{place(row.tail):.2f}%"></span>'
            f'<span class="dot" style="left:{place(row.middle):.2f}%;top:50%;background:var(--c1)"></span>'
        )
        lines.append(_row(row.name, marks, row.shown))
    decades = [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]
    ticks = "".join(f'<span style="left:{place(at):.2f}%">{at:g}</span>' for at in decades)
    lines.append(_row(unit, f'<div class="axis">{ticks}</div>', "", track=False))
    return f'<div class="chart">{"".join(lines)}</div>'


def stack(parts: Sequence[tuple[str, float, str]]) -> str:
    """One stacked bar; each part is a name, a share in any unit, and the legend's text."""
    total = sum(value for _, value, _ in parts) or 1.0
    pieces, legend = [], []
    for number, (name, value, shown) in enumerate(parts):
        colour = number % _N_COLOURS
        pieces.append(f'<span class="colour{colour}" style="width:{100 * value / total:.2f}%"></span>')
        legend.append(f'<span><i class="colour{colour}"></i>{escape(name)} {escape(shown)}</span>')
    bar = f'<div class="stack">{"".join(pieces)}</div>'
    return f'<div class="chart">{bar}<div class="legend">{"".join(legend)}</div></div>'


def columns(rows: Sequence[Bar]) -> str:
    """Vertical bars from zero, in the order of time."""
    most = max(row.value for row in rows) or 1.0
    pieces = "".join(
        f'<div class="colour{row.colour}" style="height:{100 * row.value / most:.1f}%">'
        f"<span>{escape(row.shown)}</span></div>"
        for row in rows
    )
    return f'<div class="chart"><div class="columns">{pieces}</div></div>'


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x_unit: str, y_unit: str) -> str:
    """Curves through points (x, y), y from zero."""
    points = [point for curve in series.values() for point in curve]
    xs = [x for x, _ in points]
    left, right, most = min(xs), max(xs), max(y for _, y in points) * 1.08 or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return 100 * (x - left) / ((right - left) or 1.0), 100 * (1 - y / most)

    marks = []
    for number, curve in enumerate(series.values()):
        colour = number % _N_COLOURS
        placed = [place(x, y) for x, y in curve]
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in placed)
        marks.append(
            f'<svg viewBox="0 0 100 100" preserveAspectRatio="none"><polyline points="{path}" fill="none" '
            f'stroke="var(--c{colour})" stroke-width="2" vector-effect="non-scaling-stroke"/></svg>'
        )
        marks += [
            f'<span class="dot colour{colour}" style="left:{x:.2f}%;top:{y:.2f}%" '
            f'title="{a:g} {x_unit}: {b:g} {y_unit}"></span>'
            for (x, y), (a, b) in zip(placed, curve, strict=True)
        ]
    for y in _ticks(most):
        at = place(points[0][0], y)[1]
        marks.append(
            f'<span class="grid" style="top:{at:.2f}%"></span><span class="y" style="top:{at:.2f}%">{y:.3g}</span>'
        )
    for x in sorted({x for x, _ in points}):
        marks.append(f'<span class="x" style="left:{place(x, 0)[0]:.2f}%">{x:g}</span>')
    legend = "".join(
        f'<span><i class="colour{number % _N_COLOURS}"></i>{escape(name)}</span>' for number, name in enumerate(series)
    )
    axes = f"<span>{escape(y_unit)} over {escape(x_unit)}</span>"
    return f'<div class="chart"><div class="legend">{legend}{axes}</div><div class="plot">{"".join(marks)}</div></div>'


def _ticks(most: float) -> list[float]:
    """Three to six round numbers from zero to `most`."""
    rough = most / 5
    decade = 10 ** math.floor(math.log10(rough))
    step = next(decade * times for times in (1, 2, 5, 10) if decade * times >= rough)
    return [step * number for number in range(int(most / step) + 1)]


def _row(name: str, marks: str, shown: str, *, track: bool = True) -> str:
    body = f'<div class="track">{marks}</div>' if track else marks
    value = f'<span class="value">{escape(shown)}</span>'
    return f'<div class="row"><span class="name">{escape(name)}</span>{body}{value}</div>'
