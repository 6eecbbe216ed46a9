"""The report in Markdown."""

from cpep_bench import report_text
from cpep_bench.report import Report
from cpep_edge.report_table import Table


def markdown(report: Report) -> str:
    """The content of `report.md`."""
    tables = (
        report_text.latency_table(report),
        report_text.cost_table(report),
        report_text.threads_table(report),
        report_text.operators_table(report),
        *report_text.peers_tables(report).values(),
        *report_text.links_tables(report.links).values(),
        report_text.ladder_table(report),
        report_text.chip_table(report),
        report_text.band_table(report),
        report_text.energy_table(report.band.energy, f"on {report.band.device}") if report.band else None,
        report_text.energy_table(report.energy),
        report_text.modelled_table(report),
    )
    blocks = [f"# {report.bundle}", report_text.headline(report), *(f"**{warning}**" for warning in report.warnings)]
    blocks += [table_block(table) for table in tables if table is not None]
    if report.energy is None:
        blocks.append(
            "Energy was not measured here: no meter was asked for, or this machine has none that can be read."
        )
    return "\n\n".join([*blocks, report_text.origin(report)]) + "\n"


def table_block(table: Table) -> str:
    """A table and its note."""
    marks = ["---", *["--:"] * (len(table.head) - 1)]
    lines = ["| " + " | ".join(cells) + " |" for cells in (table.head, marks, *table.rows)]
    return "\n".join(lines) + (f"\n\n{table.note}" if table.note else "")
