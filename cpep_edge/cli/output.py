"""The output of commands: answers on stdout; progress on stderr, only if that is a terminal."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cpep_edge.json_text import to_json
from cpep_edge.outside import printable
from cpep_edge.report_table import Table as ReportTable
from cpep_edge.report_table import to_csv

LONGEST_SENTENCE = 2_000  # characters of a line of an error; a path in Linux has up to 4,096


class _Console(Console):
    """A console that prints texts literally.

    Texts contain names of devices, channels, gestures and files, which must not act as markup or escape codes. For
    colour, print rich's Text.
    """

    def print(self, *objects: Any, **how: Any) -> None:
        """Print; control characters in texts are replaced, except line breaks and tabs."""
        super().print(*(_seen(one) if isinstance(one, str) else one for one in objects), **how)


def _seen(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(part if part in ("\n", "\t") else printable(part, len(part)) for part in re.split(r"([\n\t])", text))


stdout = _Console(highlight=False, markup=False, emoji=False)
stderr = _Console(stderr=True, highlight=False, markup=False, emoji=False)

_LONGEST_CELL = 1000  # characters; a cell can be a path


def print_json(answer: Any) -> None:
    """Print one object as JSON on one line of stdout."""
    typer.echo(to_json(answer))


def print_table(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a small table on stdout; the first column is aligned left, numbers right."""
    table = Table(
        title=Text(printable(title)), title_justify="left", title_style="bold", box=SIMPLE, show_header=any(header)
    )
    for number, name in enumerate(header):
        table.add_column(printable(name), justify="right" if number else "left")
    for row in rows:
        table.add_row(*(printable(cell, _LONGEST_CELL) for cell in row))
    stdout.print(table)


@contextmanager
def progress(task: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar on stderr, if that is a terminal. Yields the function that updates it: done, total."""
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr, disable=not sys.stderr.isatty()) as bar:
        number = bar.add_task(task, total=None)
        yield lambda done, total: bar.update(number, completed=done, total=total)


def print_csv(tables: Sequence[ReportTable]) -> None:
    """Print tables as CSV on stdout."""
    typer.echo(to_csv(tables), nl=False)
