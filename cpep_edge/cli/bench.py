"""`cpep-edge bench` and `compare`: measure a bundle on this machine, and compare two reports."""

from pathlib import Path
from typing import Annotated

import typer

from cpep_edge.cli.output import print_json, print_table, progress, stderr, stdout
from cpep_edge.cli.ports import Baud, Boot, Timeout
from cpep_edge.cli.trust import KeyOption, TrustOption


def bench(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json, report.md and report.html.")],
    runs: Annotated[int, typer.Option(help="Timed runs of each part; 200 or more.")] = 200,
    threads: Annotated[int, typer.Option(help="Threads for the encoder.")] = 1,
    power: Annotated[
        str,
        typer.Option(
            help="Power meter: auto, none, rapl, hwmon, battery, pi5, ppk2:PORT@MILLIVOLTS; band with --band."
        ),
    ] = "auto",
    vs: Annotated[
        list[str] | None,
        typer.Option(help="Another library to compare with: onnxruntime, hnswlib, ...; may be repeated."),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Training run that the bundle was exported from; needed by some --vs.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Corpus that the run was trained on; needed by some --vs.")] = None,
    band: Annotated[str | None, typer.Option(help="Port of a wristband; the band times its own inference.")] = None,
    timeout_s: Timeout = None,
    baud: Baud = None,
    boot_s: Boot = None,
    key: KeyOption = None,
    trust: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Measure latency, start-up, memory and energy of a bundle on this machine."""
    from cpep_bench.markdown import markdown
    from cpep_bench.run import Options, run_bench
    from cpep_bridge.devices import LinkOptions
    from cpep_edge.trusted_keys import configured_key

    link = LinkOptions(timeout_s, baud, boot_s)
    options = Options(runs, threads, power, peers=vs or (), run=run, data=data, band=band, link=link)
    with progress("measuring") as advance:
        report = run_bench(bundle, out, options, key=configured_key(key), trust=trust, progress=advance)
    if as_json:
        typer.echo(report.json())
    else:
        typer.echo(markdown(report))  # not through rich, which would wrap lines and so break tables
        stdout.print(f"written to {out}")


def compare(
    before: Annotated[Path, typer.Argument(help="report.json of the earlier run.")],
    after: Annotated[Path, typer.Argument(help="report.json of the later run.")],
    budget: Annotated[Path | None, typer.Option(help="TOML file with the largest allowed ratios.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare two bench reports: what changed by more than noise; exit status 1 if a budget is exceeded."""
    from cpep_bench.compare import caveats, compare_reports, read_budget
    from cpep_bench.report import read_report

    reports = read_report(before), read_report(after)
    changes = compare_reports(*reports, read_budget(budget) if budget else {})
    over = [change for change in changes if change.over_budget]
    if as_json:
        print_json(
            {"changes": changes, "over_budget": [change.figure for change in over], "caveats": caveats(*reports)}
        )
    else:
        print_table("later / earlier", ("figure", "ratio", "99 % interval", ""), [change.row() for change in changes])
        for caveat in caveats(*reports):
            stderr.print(caveat)
    if over:
        raise typer.Exit(1)
