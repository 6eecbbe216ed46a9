"""The report as one HTML page: no script, no other file, readable on a phone and on paper."""

from collections.abc import Iterator
from html import escape

from markupsafe import Markup

from cpep_bench import report_text
from cpep_bench.charts import STYLE, Bar, Strip, bars, columns, lines, stack, strips
from cpep_bench.energy import MeasuredEnergy
from cpep_bench.pipeline import END_TO_END, PARTS
from cpep_bench.report import Report
from cpep_edge.report_page import Section, paragraph
from cpep_edge.report_page import page as fill_page
from cpep_edge.report_page import table as html_table
from cpep_edge.report_table import Table

_OPERATORS_SHOWN = 8


def html_report(report: Report) -> str:
    """The content of `report.html`."""
    sections = [Section(title, Markup(body)) for title, body in _sections(report)]
    sections.append(Section("How it was measured", paragraph(report_text.origin(report), note=True)))
    opening, cards = report_text.headline(report), _cards(report)
    return fill_page(
        "cpep-edge bench", report.bundle, opening, sections, cards=cards, warnings=report.warnings, style=STYLE
    )


def _cards(report: Report) -> list[tuple[str, str]]:
    whole, start = report.latency[END_TO_END], report.typical_start
    cards = [
        (f"{whole.p50_ms:.2f} ms", "last byte to decision, p50"),
        (f"{whole.p99_ms:.2f} ms", "last byte to decision, p99"),
        (f"{start.total_ms:.0f} ms", "start to first vote"),
        (f"{start.peak_rss_mb:.0f} MB", "peak memory"),
        (_size(report.files[report.encoder_file]), "encoder"),
        (_size(report.files[report.index_file]), "pose index"),
    ]
    if report.energy is not None:
        cards.append(
            (report_text.joules(report.energy.net_mj), f"net an inference, measured: {report.energy.instrument.name}")
        )
    return cards


def _sections(report: Report) -> Iterator[tuple[str, str]]:
    yield "Latency", _distributions(report) + _table(report_text.latency_table(report))
    yield "Where the time goes", _where_time_goes(report)
    operators = report_text.operators_table(report)
    if operators is not None:
        yield "Inside the encoder", _operators(report) + _note(operators.note)
    yield "Threads", _threads(report)
    if report.peers:
        yield "Beside its peers", _peers(report)
    if report.links:
        yield "Reading a device", _links(report)
    yield "Starting, memory, bytes", _starting(report) + _table(report_text.cost_table(report))
    if ladder := report_text.ladder_table(report):
        yield "Accuracy and bytes", _bytes_against_accuracy(report) + _table(ladder)
    if chip := report_text.chip_table(report):
        yield "On the chip", _table(chip, figures=False)
    if band := report_text.band_table(report):
        yield "On the wristband", _table(band, figures=False) + _band_energy(report)
    yield "Energy", _energy(report)


def _distributions(report: Report) -> str:
    rows = [
        Strip(name, part.times_ms, part.p50_ms, part.p99_ms, _time(part.p50_ms))
        for name, part in report.latency.items()
    ]
    legend = (
        "Each line is one run; the dot is the median, the upright mark the 99th percentile. The axis is logarithmic."
    )
    return strips(rows, "ms") + _note(legend)


def _where_time_goes(report: Report) -> str:
    whole_ms = report.latency[END_TO_END].p50_ms
    parts = [(name, report.latency[name].p50_ms) for name in PARTS]
    rest_ms = whole_ms - sum(value for _, value in parts)
    shown = [(name, value, _time(value)) for name, value in [*parts, ("the rest", max(0.0, rest_ms))]]
    note = (
        f"Medians of the parts beside the median of {_time(whole_ms)} from the last byte to the decision; the rest is "
        "what lies between them: ring, thread-safe hand-over, Python. The window itself spans "
        f"{report.window_ms:g} ms of signal, and a decision is due every {report.hop_ms:g} ms, however fast it runs."
    )
    return stack(shown) + _note(note)


def _operators(report: Report) -> str:
    profile = report.profile
    if profile is None:
        return ""
    rows = [
        Bar(f"{operator.kind} x {operator.n_calls}", operator.mean_us, _share_of(operator.mean_us, profile.total_us))
        for operator in profile.operators[:_OPERATORS_SHOWN]
    ]
    others_us = sum(operator.mean_us for operator in profile.operators[_OPERATORS_SHOWN:])
    rows.append(Bar("other operators", others_us, _share_of(others_us, profile.total_us), colour=5))
    between_us = max(0.0, profile.between_us)
    rows.append(Bar("between operators", between_us, _share_of(between_us, profile.total_us), colour=5))
    return bars(rows)


def _threads(report: Report) -> str:
    rows = [
        Bar(f"{entry.n_threads} thread{'s' * (entry.n_threads > 1)}", entry.encoder.p50_ms,
            _time(entry.encoder.p50_ms), *entry.encoder.p50_interval_ms)
        for entry in report.threads
    ]  # fmt: skip
    return bars(rows) + _note("Encoder, median with its 95 % interval. " + report_text.threads_table(report).note)


def _peers(report: Report) -> str:
    charts = []
    for part, table in report_text.peers_tables(report).items():
        rows = [
            Bar(peer.name, peer.latency.p50_ms, _time(peer.latency.p50_ms), *peer.latency.p50_interval_ms,
                colour=0 if number == 0 else 5)
            for number, peer in enumerate(peer for peer in report.peers if peer.part == part)
        ]  # fmt: skip
        charts.append(f"<h3>{_capital(part)}</h3>{bars(rows)}{_table(table, figures=False)}")
    return "".join(charts)


def _links(report: Report) -> str:
    charts = []
    for device, table in report_text.links_tables(report.links).items():
        rows = [
            Bar(link.reader, link.cpu_percent, f"{link.cpu_percent:.2g} %", colour=0 if number == 0 else 5)
            for number, link in enumerate(link for link in report.links if link.device == device)
        ]
        charts.append(f"<h3>{_capital(device)}: share of a core</h3>{bars(rows)}{_table(table, figures=False)}")
    return "".join(charts)


def _starting(report: Report) -> str:
    start = report.typical_start
    steps = (
        ("interpreter", start.process_ms),
        ("import", start.import_ms),
        ("load", start.load_ms),
        ("first inference", start.first_inference_ms),
    )
    return stack([(name, value, f"{value:.0f} ms") for name, value in steps])


def _bytes_against_accuracy(report: Report) -> str:
    """A chart of the ladder's ends: weights in float32, and the encoder as deployed."""
    first, last = report.ladder[0], report.ladder[-1]
    sizes_mb = (4e-6 * report.n_parameters, 1e-6 * report.files[report.encoder_file])
    kinds = {"seen gestures": (first.seen, last.seen), "unseen gestures": (first.unseen, last.unseen)}
    curves = {
        name: [
            (round(size, 3), accuracy) for size, accuracy in zip(sizes_mb, ends, strict=True) if accuracy is not None
        ]
        for name, ends in kinds.items()
    }
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1}
    if not curves:
        return ""
    note = "Right: the trained module, float32 weights. Left: the encoder and index of this bundle."
    return lines(curves, "MB of the encoder", "balanced accuracy") + _note(note)


def _band_energy(report: Report) -> str:
    table = None if report.band is None else report_text.energy_table(report.band.energy, f"on {report.band.device}")
    return "" if report.band is None or table is None else _windows(report.band.energy) + _table(table, figures=False)


def _energy(report: Report) -> str:
    table = report_text.energy_table(report.energy)
    if table is None:
        parts = ["<p>Not measured here: no meter was asked for, or this machine has none that can be read.</p>"]
    else:
        parts = [_windows(report.energy) + _table(table, figures=False)]
    modelled = report_text.modelled_table(report)
    if modelled is not None:
        parts.append("<h3>Modelled, not measured</h3>" + _table(modelled, figures=False))
    return "".join(parts)


def _windows(energy: MeasuredEnergy | None) -> str:
    """A chart of the mean power of each window, in order."""
    if energy is None:
        return ""
    unit, scale = ("W", 1.0) if max(window.power_w for window in energy.windows) >= 1 else ("mW", 1e3)
    rows = [
        Bar("", window.power_w, f"{window.power_w * scale:.3g}", colour=1 if window.n_inferences else 5)
        for window in energy.windows
    ]
    legend = '<div class="legend"><span><i class="colour5"></i>idle</span><span><i class="colour1"></i>inferences'
    return columns(rows) + f"{legend}</span><span>mean power of each window, {unit}</span></div>"


def _table(table: Table, *, figures: bool = True) -> str:
    return str(html_table(table, figures=figures))


def _note(text: str) -> str:
    return str(paragraph(text, note=True)) if text else ""


def _capital(text: str) -> str:
    return escape(text[:1].upper() + text[1:])


def _share_of(part: float, whole: float) -> str:
    return f"{part / whole:.0%}"


def _time(ms: float) -> str:
    return f"{ms:.3g} ms" if ms >= 0.1 else f"{ms * 1e3:.3g} µs"


def _size(n_bytes: int) -> str:
    return f"{n_bytes * 1e-6:.2f} MB" if n_bytes >= 1_000_000 else f"{n_bytes * 1e-3:.0f} kB"
