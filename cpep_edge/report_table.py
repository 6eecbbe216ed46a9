"""A table of a report, which can be written as HTML, Markdown, CSV or LaTeX."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

Row = tuple[str, ...]

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "µ": r"$\mu$", "→": r"$\to$",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """A header, rows of the same length, and a note of one or two sentences on what the table shows."""

    head: Row
    rows: tuple[Row, ...]
    note: str = ""
    name: str = ""


def to_csv(tables: Sequence[Table]) -> str:
    """All tables in one CSV file. Rows begin with their table's name; a header is left out if it repeats the last."""
    file = io.StringIO()
    writer, last = csv.writer(file, lineterminator="\n"), None
    for table in tables:
        if table.head != last:
            writer.writerow(("table", *table.head))
            last = table.head
        writer.writerows((table.name, *row) for row in table.rows)
    return file.getvalue()


def to_latex(tables: Sequence[Table]) -> str:
    r"""Tables for a paper, which needs `\usepackage{booktabs}`."""
    parts = []
    for table in tables:
        columns = "l" + "r" * (len(table.head) - 1)
        lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
        lines += [_latex_row(table.head), r"\midrule", *map(_latex_row, table.rows), r"\bottomrule", r"\end{tabular}"]
        caption = ". ".join(part.rstrip(".") for part in (table.name, table.note) if part)
        lines += [rf"\caption{{{_escaped(caption)}.}}"] if caption else []
        parts.append("\n".join([*lines, r"\end{table}", ""]))
    return "\n".join(parts)


def _latex_row(row: Row) -> str:
    return " & ".join(map(_escaped, row)) + r" \\"


def _escaped(text: str) -> str:
    return re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found[0]], text)
