"""The tables and sentences of the report, used for both Markdown and HTML."""

from collections.abc import Sequence

from cpep_bench.energy import MeasuredEnergy
from cpep_bench.link_readers import LinkFigure
from cpep_bench.report import Report
from cpep_edge.chip import CortexMSpec
from cpep_edge.report_table import Table

_PEER_NOTES = {  # by part
    "encoder": "In turns, each in a process of its own and on as many threads as ours. Cosines are to the "
    "trained module in float32, on windows of the golden signal.",
    "index": "In turns, in one process, on one thread; defaults where a name says no more. Votes are held against "
    "those of all prototypes compared exactly.",
    "window to class": "In turns, in one process, on one thread.",
}


def headline(report: Report) -> str:
    """What was measured, in one sentence."""
    threads = f"{report.n_threads} thread{'s' * (report.n_threads > 1)}"
    delegates = f"{report.n_delegates} delegate{'s' * (report.n_delegates != 1)}"
    return (
        f"{report.quantisation} encoder of {report.n_parameters:,} parameters, windows of {report.window_ms:g} ms, "
        f"{report.n_prototypes:,} prototypes; {threads}, {delegates}, {report.n_operators_outside} operators outside; "
        f"run by {report.runtime}."
    )


def latency_table(report: Report) -> Table:
    """The times of every part, and end to end."""
    rows = []
    for name, part in report.latency.items():
        low_ms, high_ms = part.p50_interval_ms
        times = (f"{part.p50_ms:.3f}", f"{low_ms:.3f} to {high_ms:.3f}")
        tail = (f"{part.p95_ms:.3f}", f"{part.p99_ms:.3f}", f"{part.max_ms:.3f}")
        rows.append((name, *times, *tail))
    n_runs = min(part.n for part in report.latency.values())
    return Table(
        ("latency, ms", "p50", "95 % interval", "p95", "p99", "max"),
        tuple(rows),
        f"{n_runs} runs of each; parts take turns; warm-up is excluded; intervals are those of a block bootstrap. End "
        "to end is from the last byte of a window to its decision; the wire and the wait for the next hop "
        "are not in it.",
    )


def cost_table(report: Report) -> Table:
    """The start-up time, memory and bytes."""
    start = report.typical_start
    rows = [
        ("start: interpreter", f"{start.process_ms:.0f} ms", f"{start.process_rss_mb:.0f} MB"),
        ("start: import", f"{start.import_ms:.0f} ms", f"{start.import_rss_mb:.0f} MB"),
        ("start: load", f"{start.load_ms:.0f} ms", f"{start.load_rss_mb:.0f} MB"),
        ("start: first inference", f"{start.first_inference_ms:.1f} ms", f"{start.peak_rss_mb:.0f} MB"),
        ("start to first vote", f"{start.total_ms:.0f} ms", f"peak {start.peak_rss_mb:.0f} MB"),
    ]
    if report.profile is not None:
        rows.append(("planned arena, outside the delegate", "", f"{report.profile.arena_bytes:,} bytes"))
    rows += [(name, "", f"{size:,} bytes") for name, size in report.files.items()]
    rows.append(("whole bundle", "", f"{sum(report.files.values()):,} bytes"))
    note = f"Fresh processes, the median of {len(report.starts)}; memory is resident, reached by the end of each step."
    return Table(("cost", "time", "memory"), tuple(rows), note)


def threads_table(report: Report) -> Table:
    """The times of the encoder on several threads."""
    rows = tuple(
        (str(entry.n_threads), f"{entry.encoder.p50_ms:.3f}", f"{entry.encoder.p99_ms:.3f}") for entry in report.threads
    )
    crowded = [entry.n_threads for entry in report.threads if report.machine.is_crowded(entry.n_threads)]
    note = "Each in a process of its own, in turns."
    if crowded:
        note += (
            f" The load was {report.machine.load_1min:.1f} before this run, on {report.machine.n_cpus} CPUs: rows from "
            f"{crowded[0]} on shared processors with other work, and say little."
        )
    return Table(("threads", "encoder p50 ms", "p99 ms"), rows, note)


def operators_table(report: Report) -> Table | None:
    """The encoder's operators; None without a profile."""
    profile = report.profile
    if profile is None:
        return None
    digits = 0 if profile.total_us >= 1_000 or profile.step_us >= 1 else 1
    rows = [
        (
            operator.kind,
            str(operator.n_calls),
            f"{operator.mean_us:.{digits}f}",
            f"{operator.mean_us / profile.total_us:.0%}",
        )
        for operator in profile.operators
        if operator.mean_us >= 0.005 * profile.total_us
    ]
    between = f"{profile.between_us / profile.total_us:.0%}"
    rows.append(("between operators", "", f"{profile.between_us:.{digits}f}", between))
    dropped = "" if profile.step_us < 1 else " XNNPACK drops parts of microseconds, which end up between operators."
    return Table(
        ("operators of the encoder", "calls", "us", "share"),
        tuple(rows),
        "ETDump read by ExecuTorch's Inspector, inside the delegate, one thread, profiling on; means of the faster "
        f"half of the runs.{dropped}",
    )


def peers_tables(report: Report) -> dict[str, Table]:
    """Tables of the peers and ours, by part."""
    parts = dict.fromkeys(peer.part for peer in report.peers)
    return {part: _peers_table(report, part) for part in parts}


def _peers_table(report: Report, part: str) -> Table:
    peers = [peer for peer in report.peers if peer.part == part]
    judged = any(peer.accuracy is not None for peer in peers)
    columns: dict[str, list[str]] = {
        part: [peer.name for peer in peers],
        "p50 ms": [f"{peer.latency.p50_ms:.3f}" for peer in peers],
        "of ours": [f"{peer.latency.p50_ms / peers[0].latency.p50_ms:.2f}" for peer in peers],
        "bytes": ["" if peer.size_bytes is None else f"{peer.size_bytes:,}" for peer in peers],
        "balanced accuracy": ["" if peer.accuracy is None else f"{peer.accuracy:.3f}" for peer in peers],
        "agreement": ["" if judged else peer.agreement for peer in peers],
        "setting": [peer.setting for peer in peers],
    }
    shown = {head: cells for head, cells in columns.items() if any(cells)}
    asked = f"Both answer for {peers[0].agreement}. " if judged else ""
    return Table(tuple(shown), tuple(zip(*shown.values(), strict=True)), asked + _PEER_NOTES.get(part, ""))


def links_tables(links: Sequence[LinkFigure]) -> dict[str, Table]:
    """The cost of reading, a table for each device."""
    return {device: _links_table(links, device) for device in dict.fromkeys(link.device for link in links)}


def _links_table(links: Sequence[LinkFigure], device: str) -> Table:
    rows = tuple(
        (
            link.reader,
            f"{link.cpu_percent:.2f}",
            f"{link.delay_p50_ms:.2f}",
            "too few reads" if link.delay_p99_ms is None else f"{link.delay_p99_ms:.2f}",
            f"{link.read_every_ms:.1f}",
            link.setting,
        )
        for link in links
        if link.device == device
    )
    head = (device, "CPU, % of a core", "delay p50 ms", "delay p99 ms", "read to read ms", "setting")
    note = (
        "A simulated device on a pty; each reader a process of its own, in turns. Delay is that of the last sample of "
        "a read, over the least of the run; a read's first sample waits for the others, for the time from read to read."
    )
    return Table(head, rows, note)


def ladder_table(report: Report) -> Table | None:
    """The accuracy at each step of the export; None if it was not measured."""
    rows = tuple(step.cells() for step in report.ladder)
    note = (
        "Balanced zero-shot accuracy at export, as the manifest says; the harmonic mean is that of seen and unseen "
        f"gestures among all; data: {report.data}."
    )
    head = ("accuracy ladder", "seen", "unseen", "seen among all", "unseen among all", "harmonic mean", "votes kept")
    return Table(head, rows, note) if rows else None


def chip_table(report: Report) -> Table | None:
    """The figures of a microcontroller's program; None for a bundle without one."""
    chip = report.chip
    if chip is None:
        return None
    agreement = (f"{chip.min_cosine:.4f} or more over {chip.n_windows} windows", f"{chip.votes_kept:.1%}")
    rows = [("cosine to float32", agreement[0], "executed"), ("votes kept", agreement[1], "executed")]
    if isinstance(chip, CortexMSpec):
        for run in chip.runs:
            rows += [
                (f"{run.processor}: instructions a window", f"{run.instructions_a_window:,}", "QEMU, not cycles"),
                (f"{run.processor}: RAM", f"{run.ram_bytes:,} bytes", "linked"),
            ]
        rows.append(("weights", f"{chip.weight_bytes:,} bytes", "linked"))
    else:
        vela = chip.vela
        rows += [
            (f"{vela.accelerator} at {vela.clock_mhz:g} MHz: cycles", f"{vela.cycles:,}", vela.how),
            ("time a window", f"{vela.inference_ms:.3g} ms", vela.how),
            ("SRAM", f"{vela.sram_bytes:,} bytes", vela.how),
            ("flash", f"{vela.flash_bytes:,} bytes", vela.how),
        ]
    note = "From the bundle's manifest, made at export; no such chip was here."
    return Table((f"program for {report.target}", "figure", "how it was got"), tuple(rows), note)


def band_table(report: Report) -> Table | None:
    """The figures that a wristband reported; None without one."""
    band = report.band
    if band is None:
        return None
    rows = [
        ("inference p50 / p95", f"{band.p50_us / 1e3:.3f} / {band.p95_us / 1e3:.3f} ms"),
        ("inference p99 / max", f"{band.p99_us / 1e3:.3f} / {band.max_us / 1e3:.3f} ms"),
        ("arena", f"{band.arena_bytes:,} bytes"),
    ]
    if band.energy_uj is not None:
        rows.append(("energy of one, as it says itself", f"{band.energy_uj:.3g} uJ"))
    note = (
        f"{band.n_runs} runs of the band's own program, timed by its own clock, after its golden inputs came out right."
    )
    return Table((f"on {band.device}", "figure"), tuple(rows), note)


def energy_table(energy: MeasuredEnergy | None, where: str = "here") -> Table | None:
    """The energy that a meter measured; None without a meter.

    where: where the inferences ran
    """
    if energy is None:
        return None
    instrument = energy.instrument
    rate = f"{instrument.rate_hz:g} a second" if instrument.rate_hz else "a counter"
    net = f"{joules(energy.net_mj)} ± {joules(energy.net_uncertainty_mj)}"
    if energy.net_mj < energy.net_uncertainty_mj:
        net += ", not distinguishable from idling"
    seconds = energy.active[0].seconds
    return Table(
        (f"energy, measured {where}", ""),
        (
            ("net, one inference", net),
            ("gross, one inference", joules(energy.gross_mj)),
            ("power, idle windows", ", ".join(f"{window.power_w:.3g}" for window in energy.idle) + " W"),
            ("power, active windows", ", ".join(f"{window.power_w:.3g}" for window in energy.active) + " W"),
            ("inferences", f"{sum(window.n_inferences for window in energy.active):,}, back to back"),
            ("meter", f"{instrument.name}, readings: {rate}; covers {instrument.covers}"),
        ),
        f"Measured: {len(energy.active)} active windows of {seconds:.3g} s between idle ones. Net is what an active "
        "window took beyond its idle neighbours, with the 95 % interval of the windows' scatter.",
    )


def joules(energy_mj: float) -> str:
    """An energy as text, in mJ or uJ by its size."""
    return f"{energy_mj:.3g} mJ" if abs(energy_mj) >= 0.1 else f"{energy_mj * 1e3:.3g} uJ"


def modelled_table(report: Report) -> Table | None:
    """The modelled energy of chips; None without any."""
    if not report.modelled:
        return None
    rows = tuple((model.modelled_chip, f"{model.modelled_uj:.3g} uJ", model.modelled_from) for model in report.modelled)
    note = "Modelled, not measured: published constants times counted work. No such chip was here."
    return Table(("chip", "a window, modelled", "from"), rows, note)


def origin(report: Report) -> str:
    """How the figures were measured, in a few sentences."""
    machine = report.machine
    clock = f" at {machine.clock_mhz:.0f} MHz" if machine.clock_mhz else ""
    versions = ", ".join(f"{name} {value}" for name, value in report.versions.items())
    return (
        f"Measured {report.created_utc} on {machine.cpu}{clock}, {machine.n_cpus} CPUs ({machine.architecture}), load "
        f"before {machine.load_1min:.1f}, noise {report.noise:.2f} (p95 to p50 of a fixed piece of arithmetic). "
        f"{versions}. "
        f"Commit {report.git_commit}, manifest {report.manifest_sha256[:12]}, target {report.target}. The golden "
        f"inputs were run first, by the same code, and hold to a cosine of {report.smallest_golden_cosine:.5f}."
    )
