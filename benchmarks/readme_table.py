"""Write the table of costs in docs/measured.md, between its markers, from the reports in `results/`.

    python benchmarks/readme_table.py

`--check` writes nothing and exits 1 when the page does not hold what the reports say.
"""

import argparse
import sys
from pathlib import Path

from cpep_bench.markdown import table_block
from cpep_bench.pipeline import ENCODER, END_TO_END, INDEX
from cpep_bench.report import Report, read_report
from cpep_edge.files import write_file
from cpep_edge.report_table import Table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "measured.md"
REPORTS = {"demo": "demo", "paper size": "paper-size"}
BEGIN = "<!-- written by benchmarks/readme_table.py from the reports in benchmarks/results -->"
END = "<!-- end -->"


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="Only say whether the page is up to date.")
    check: bool = parser.parse_args().check
    old = PAGE.read_text(encoding="utf-8")
    new = with_table(old, {name: read_report(_file(folder)) for name, folder in REPORTS.items()})
    if check:
        sys.exit(0 if new == old else f"{PAGE.name} is not what the reports say: run {Path(__file__).name}")
    write_file(PAGE, new)


def with_table(page: str, reports: dict[str, Report]) -> str:
    """The page with its table replaced by one of these reports. Raises ValueError when it lacks the markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or END not in rest:
        raise ValueError(f"the page lacks the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{_table(reports)}\n\n{END}{after}"


def _table(reports: dict[str, Report]) -> str:
    columns = {name: _figures(report) for name, report in reports.items()}
    names = dict.fromkeys(row for column in columns.values() for row in column)  # peers differ from report to report
    links = (f"[{name}](../benchmarks/results/{REPORTS[name]}/report.md)" for name in reports)
    rows = tuple((row, *(columns[name].get(row, "-") for name in reports)) for row in names)
    machines = {f"{report.machine.cpu}, {report.machine.n_cpus} CPUs shared" for report in reports.values()}
    commits = {report.git_commit for report in reports.values()}
    note = f"`cpep-edge bench`, commit {', '.join(sorted(commits))}; {'; '.join(sorted(machines))}."
    return table_block(Table(("", *links), rows, note))


def _figures(report: Report) -> dict[str, str]:
    latency, start = report.latency, report.typical_start
    peers = {peer.name: peer for peer in report.peers if peer.part == "encoder"}
    ours = peers.get("cpep-edge")
    size = f"{report.n_parameters / 1e6:.2f} M parameters"
    return {
        "encoder": f"{report.quantisation}, {size}, windows of {report.window_ms:g} ms",
        "encoder p50 / p99": _pair(latency[ENCODER].p50_ms, latency[ENCODER].p99_ms),
        "index p50 / p99": _pair(latency[INDEX].p50_ms, latency[INDEX].p99_ms),
        "last byte to decision p50 / p99": _pair(latency[END_TO_END].p50_ms, latency[END_TO_END].p99_ms),
        "start to first vote": f"{start.total_ms:.0f} ms",
        "peak memory": f"{start.peak_rss_mb:.0f} MB",
        "size of encoder / index": f"{report.files[report.encoder_file]:,} / {report.files[report.index_file]:,} bytes",
        "noise of the machine": f"{report.noise:.2f}",
        **{
            f"encoder's time relative to {name}": f"{ours.latency.p50_ms / peer.latency.p50_ms:.2f}"
            for name, peer in peers.items()
            if ours and peer != ours
        },
    }


def _pair(first_ms: float, second_ms: float) -> str:
    return f"{first_ms:.3g} / {second_ms:.3g} ms"


def _file(folder: str) -> Path:
    return ROOT / "benchmarks" / "results" / folder / "report.json"


if __name__ == "__main__":
    main()
