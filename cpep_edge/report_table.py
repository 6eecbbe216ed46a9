"""A table of a report: made once, then written as a web page, Markdown, CSV or LaTeX has it."""

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
    """A head, rows as long as it, and a sentence or two on what it shows."""

    head: Row
    rows: tuple[Row, ...]
    note: str = ""
    name: str = ""


def to_csv(tables: Sequence[Table]) -> str:
    """Tables under one another, each row led by its table's name; heads are rows where they differ from the last."""
    file = io.StringIO()
    writer, last = csv.writer(file, lineterminator="\n"), None
    for table in tables:
        if table.head != last:
            writer.writerow(("table", *table.head))
            last = table.head
        writer.writerows((table.name, *row) for row in table.rows)
    return file.getvalue()


def to_latex(tables: Sequence[Table]) -> str:
    r"""Tables for a paper, with the rules of booktabs: `\usepackage{booktabs}`."""
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
