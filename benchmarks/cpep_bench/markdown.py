"""The report in Markdown."""

from cpep_bench import words
from cpep_bench.report import Report
from cpep_edge.report_table import Table


def markdown(report: Report) -> str:
    """The content of `report.md`."""
    tables = (
        words.latency_table(report),
        words.cost_table(report),
        words.threads_table(report),
        words.operators_table(report),
        *words.peers_tables(report).values(),
        *words.links_tables(report.links).values(),
        words.ladder_table(report),
        words.chip_table(report),
        words.band_table(report),
        words.energy_table(report.band.energy, f"on {report.band.device}") if report.band else None,
        words.energy_table(report.energy),
        words.modelled_table(report),
    )
    blocks = [f"# {report.bundle}", words.headline(report), *(f"**{warning}**" for warning in report.warnings)]
    blocks += [table_block(table) for table in tables if table is not None]
    if report.energy is None:
        blocks.append(
            "Energy was not measured here: no meter was asked for, or this machine has none that can be read."
        )
    return "\n\n".join([*blocks, words.origin(report)]) + "\n"


def table_block(table: Table) -> str:
    """A table and its note."""
    marks = ["---", *["--:"] * (len(table.head) - 1)]
    lines = ["| " + " | ".join(cells) + " |" for cells in (table.head, marks, *table.rows)]
    return "\n".join(lines) + (f"\n\n{table.note}" if table.note else "")
