"""The report's tables and sentences, once: Markdown and HTML both are made of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from cpep_bench.energy import MeasuredEnergy
from cpep_bench.link_readers import LinkFigure
from cpep_bench.report import Report
from cpep_edge.chip import CortexMSpec

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A head, rows as long as it, and a sentence or two on what it shows."""

    head: Row
    rows: tuple[Row, ...]
    note: str = ""


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
    """Every part, and end to end."""
    rows = []
    for name, part in report.latency.items():
        low_ms, high_ms = part.p50_interval_ms
        times = (f"{part.p50_ms:.3f}", f"{low_ms:.3f} to {high_ms:.3f}")
        tail = (f"{part.p95_ms:.3f}", f"{part.p99_ms:.3f}", f"{part.max_ms:.3f}")
        rows.append((name, str(part.n), *times, *tail))
    return Table(
        ("latency, ms", "n", "p50", "95 % interval", "p95", "p99", "max"),
        tuple(rows),
        "Parts take turns; warm-up is excluded; intervals are those of a block bootstrap. End to end is from the last "
        "byte of a window to its debounced decision; the wire and the wait for the next hop are not in it.",
    )


def cost_table(report: Report) -> Table:
    """Start-up, memory and bytes."""
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
    """The encoder on several threads."""
    rows = tuple(
        (str(entry.n_threads), f"{entry.encoder.p50_ms:.3f}", f"{entry.encoder.p99_ms:.3f}") for entry in report.threads
    )
    return Table(("threads", "encoder p50 ms", "p99 ms"), rows, "Each in a process of its own.")


def operators_table(report: Report) -> Table | None:
    """The encoder's operators; None without a profile."""
    profile = report.profile
    if profile is None:
        return None
    rows = [
        (operator.kind, str(operator.n_calls), f"{operator.mean_us:.0f}", f"{operator.mean_us / profile.total_us:.0%}")
        for operator in profile.operators
        if operator.mean_us >= 0.005 * profile.total_us
    ]
    rows.append(("between operators", "", f"{profile.between_us:.0f}", f"{profile.between_us / profile.total_us:.0%}"))
    return Table(
        ("operators of the encoder", "calls", "us", "share"),
        tuple(rows),
        "ETDump read by ExecuTorch's Inspector, inside the delegate, one thread, profiling on; means. XNNPACK counts "
        "whole microseconds and drops the rest, which ends up between operators.",
    )


def peers_table(report: Report) -> Table | None:
    """The peers beside ours; None when none were asked for."""
    if not report.peers:
        return None
    rows = []
    for peer in report.peers:
        ours = next(other for other in report.peers if other.part == peer.part)
        size = "" if peer.size_bytes is None else f"{peer.size_bytes:,}"
        times = (f"{peer.latency.p50_ms:.3f}", f"{peer.latency.p50_ms / ours.latency.p50_ms:.2f}")
        accuracy = "" if peer.accuracy is None else f"balanced accuracy {peer.accuracy:.3f}: "
        rows.append((peer.part, peer.name, *times, size, accuracy + peer.agreement, peer.setting))
    head = ("part", "who", "p50 ms", "of the first's", "bytes", "agreement", "setting")
    note = "Those of one part took turns: encoders each in a process of its own, the others in one."
    return Table(head, tuple(rows), note)


def links_table(links: Sequence[LinkFigure]) -> Table:
    """What reading a device costs."""
    rows = tuple(
        (
            link.device,
            link.reader,
            f"{link.cpu_percent:.2f}",
            f"{link.delay_p50_ms:.2f}",
            "too few reads" if link.delay_p99_ms is None else f"{link.delay_p99_ms:.2f}",
            f"{link.read_every_ms:.1f}",
            link.setting,
        )
        for link in links
    )
    note = (
        "Simulated devices on ptys; each reader a process of its own, in turns. Delay is that of the last sample of a "
        "read, over the least of the run; a read's first sample waits for the others, which is what `read every` says."
    )
    return Table(
        ("device", "reader", "CPU, % of a core", "delay p50 ms", "delay p99 ms", "read every ms", "setting"), rows, note
    )


def ladder_table(report: Report) -> Table | None:
    """What export cost in accuracy; None where it was not measured."""
    rows = tuple(
        (step.step, _share(step.seen), _share(step.unseen), f"{step.vote_agreement:.1%}") for step in report.ladder
    )
    note = f"Balanced zero-shot accuracy at export, as the manifest says; data: {report.data}."
    return Table(("accuracy ladder", "seen", "unseen", "votes kept"), rows, note) if rows else None


def chip_table(report: Report) -> Table | None:
    """What is known of a microcontroller's program; None for a bundle without one."""
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
    """What a wristband said of itself; None where none was asked."""
    band = report.band
    if band is None:
        return None
    energy = "-" if band.energy_uj is None else f"{band.energy_uj:.3g} uJ"
    rows = (
        ("inference p50 / p95", f"{band.p50_us / 1e3:.3f} / {band.p95_us / 1e3:.3f} ms"),
        ("inference p99 / max", f"{band.p99_us / 1e3:.3f} / {band.max_us / 1e3:.3f} ms"),
        ("arena", f"{band.arena_bytes:,} bytes"),
        ("energy of one, as it says itself", energy),
    )
    note = (
        f"{band.n_runs} runs of the band's own program, timed by its own clock, after its golden inputs came out right."
    )
    return Table((f"on {band.device}", "figure"), rows, note)


def energy_table(energy: MeasuredEnergy | None, where: str = "here") -> Table | None:
    """What a meter saw; None where there was none.

    where: the inferences ran
    """
    if energy is None:
        return None
    instrument = energy.instrument
    rate = f"{instrument.rate_hz:g} readings a second" if instrument.rate_hz else "a counter"
    net = f"{energy.net_mj:.3g} ± {energy.net_uncertainty_mj:.2g} mJ"
    if energy.net_mj < energy.net_uncertainty_mj:
        net += ", not distinguishable from idling"
    seconds = energy.active[0].seconds
    return Table(
        (f"energy, measured {where}", ""),
        (
            ("net, one inference", net),
            ("gross, one inference", f"{energy.gross_mj:.3g} mJ"),
            ("power, idle windows", ", ".join(f"{window.power_w:.3g}" for window in energy.idle) + " W"),
            ("power, active windows", ", ".join(f"{window.power_w:.3g}" for window in energy.active) + " W"),
            ("inferences", f"{sum(window.n_inferences for window in energy.active):,}, back to back"),
            ("meter", f"{instrument.name}, {rate}; covers {instrument.covers}"),
        ),
        f"Measured: {len(energy.active)} active windows of {seconds:.3g} s between idle ones. Net is what an active "
        "window took beyond its idle neighbours, with the 95 % interval of the windows' scatter.",
    )


def modelled_table(report: Report) -> Table | None:
    """What models of chips say; None where there are none."""
    if not report.modelled:
        return None
    rows = tuple((model.modelled_chip, f"{model.modelled_uj:.3g} uJ", model.modelled_from) for model in report.modelled)
    note = "Modelled, not measured: published constants times counted work. No such chip was here."
    return Table(("chip", "a window, modelled", "from"), rows, note)


def origin(report: Report) -> str:
    """How the figures came to be, in a few sentences."""
    machine = report.machine
    clock = f" at {machine.clock_mhz:.0f} MHz" if machine.clock_mhz else ""
    versions = ", ".join(f"{name} {value}" for name, value in report.versions.items())
    return (
        f"Measured {report.created_utc} on {machine.cpu}{clock}, {machine.n_cpus} CPUs ({machine.architecture}), load "
        f"{machine.load_1min:.1f}, noise {report.noise:.2f} (p95 to p50 of a fixed piece of arithmetic). {versions}. "
        f"Commit {report.git_commit}, manifest {report.manifest_sha256[:12]}, target {report.target}. The golden "
        f"inputs were run first, by the same code, and hold to a cosine of {report.smallest_golden_cosine:.5f}."
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
