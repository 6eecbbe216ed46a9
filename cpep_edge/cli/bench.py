"""`cpep-edge bench`: what a bundle costs on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from cpep_edge.cli.output import print_json, progress, stdout
from cpep_edge.cli.trust import KeyOption


def bench(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json and report.md.")],
    key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Measure latency, start-up and memory of a bundle here; its golden inputs must hold first."""
    from cpep_bench.report import run_bench
    from cpep_edge.trust import configured_key

    with progress("measuring") as advance:
        report = run_bench(bundle, out, key=configured_key(key), progress=advance)
    if as_json:
        print_json(report)
    else:
        stdout.print(report.markdown())
        stdout.print(f"written to {out}")
