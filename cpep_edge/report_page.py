"""A report as a single HTML page without scripts, readable on a phone, in dark mode and on paper.

`cpep-edge eval` and `cpep-edge bench` both fill `templates/report.html`. A matplotlib figure becomes SVG whose colours
are variables of the page, so that it follows dark mode: draw it in `INK`, `PAPER`, `FAINT`, `LINE`, `TRACK` and
`SERIES`.
"""

import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from cpep_edge.report_table import Table

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from matplotlib.figure import Figure

# Colours in light mode; `templates/report.html` has those of dark mode under the same names.
INK, PAPER, FAINT, LINE, TRACK = "#16202c", "#ffffff", "#56647a", "#c9d2dd", "#edf1f6"
SERIES = ("#3b6fd4", "#c2410c", "#1d7a6f", "#8e5bb5", "#8a6508", "#66758a")
_NAMES = {INK: "ink", PAPER: "paper", FAINT: "faint", LINE: "line", TRACK: "track"} | {
    colour: f"c{number}" for number, colour in enumerate(SERIES)
}
_numbers = itertools.count()  # of figures, so that the ids in two figures of a page differ


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page; its body is HTML made by the functions below."""

    title: str
    body: "Markup"


def page(
    kicker: str,
    title: str,
    opening: str,
    sections: Sequence[Section],
    *,
    cards: Sequence[tuple[str, str]] = (),
    warnings: Sequence[str] = (),
    style: str = "",
) -> str:
    """The whole page.

    kicker: what made the report; opening: one or two sentences
    cards: the most important values, each with its caption
    style: CSS for elements that only this kind of report has
    """
    template = _environment().get_template("report.html")
    colours = {name: colour for colour, name in _NAMES.items()}
    return template.render(
        kicker=kicker,
        title=title,
        opening=opening,
        sections=sections,
        cards=cards,
        warnings=warnings,
        style=style,
        colours=colours,
    )


def table(shown: Table, *, figures: bool = True) -> "Markup":
    """A table as part of the page.

    figures: the columns hold numbers; otherwise also words, and a phone then shows the cells below each other
    """
    return _part("table", table=shown, figures=figures)


def folded(title: str, body: "Markup") -> "Markup":
    """Details that are hidden behind their title until opened; on paper they are open."""
    return _part("folded", title=title, body=body)


def paragraph(text: str, *, note: bool = False) -> "Markup":
    """A paragraph of text; a note is smaller."""
    return _part("paragraph", text=text, note=note)


def figure(drawn: "Figure", what: str) -> "Markup":
    """A figure as part of the page.

    what: a text alternative, for readers who cannot see it
    """
    from markupsafe import Markup

    number = next(_numbers)
    svg = to_svg(drawn).decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>f{number}-", svg)
    for colour, name in _NAMES.items():
        svg = re.sub(rf"(fill|stroke): {colour}\b", rf"\1: var(--{name})", svg)
    width_px = float(drawn.get_figwidth()) * 96
    return _part("figure", svg=Markup(svg), what=what, width_px=round(width_px))


def to_svg(drawn: "Figure") -> bytes:
    """A figure as SVG for a page or a paper; its text stays text."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cpep-edge"}):
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def to_pdf(drawn: "Figure") -> bytes:
    """A figure as PDF for a paper."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="pdf", transparent=True, metadata={"CreationDate": None})
    return buffer.getvalue()


def _part(name: str, **values: object) -> "Markup":
    from markupsafe import Markup

    macro = getattr(_environment().get_template("parts.html").module, name)
    return Markup(macro(**values))


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("cpep_edge")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
