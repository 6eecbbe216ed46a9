"""A report as one HTML page: no script, no other file, readable on a phone, in the dark and on paper.

`cpep-edge eval` and `cpep-edge bench` both fill `templates/report.html`. A figure of matplotlib stands in it as SVG
whose colours are the page's own, so that it turns dark with the page: draw it in `INK`, `PAPER`, `FAINT`, `LINE`,
`TRACK` and `SERIES`.
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

# The light page's colours; `templates/report.html` has the dark ones under the same names.
INK, PAPER, FAINT, LINE, TRACK = "#16202c", "#ffffff", "#56647a", "#c9d2dd", "#edf1f6"
SERIES = ("#3b6fd4", "#c2410c", "#1d7a6f", "#8e5bb5", "#8a6508", "#66758a")
_NAMES = {INK: "ink", PAPER: "paper", FAINT: "faint", LINE: "line", TRACK: "track"} | {
    colour: f"c{number}" for number, colour in enumerate(SERIES)
}
_numbers = itertools.count()  # of figures, so that no two on a page share the names of their parts


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page, in HTML that the functions here have made."""

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

    kicker: what made it; opening: a sentence or two, in words
    cards: the figures that matter most, each with what it is
    style: of what only this kind of report shows
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
    """figures: columns of numbers; otherwise of words too, which a phone shows under each other."""
    return _part("table", table=shown, figures=figures)


def folded(title: str, body: "Markup") -> "Markup":
    """What not everybody needs, behind its title until it is asked for; printed open."""
    return _part("folded", title=title, body=body)


def paragraph(text: str, *, note: bool = False) -> "Markup":
    """Some words; a note is smaller."""
    return _part("paragraph", text=text, note=note)


def figure(drawn: "Figure", what: str) -> "Markup":
    """A figure as part of the page.

    what: it shows, for those who do not see it
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
    """A figure for a page or a paper: its words stay words."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cpep-edge"}):
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def to_pdf(drawn: "Figure") -> bytes:
    """A figure for a paper."""
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
