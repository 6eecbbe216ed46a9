"""The report as one HTML page: no script, no other file, readable on a phone and on paper."""

from collections.abc import Iterable, Iterator
from html import escape

from cpep_bench import words
from cpep_bench.charts import STYLE, Bar, Strip, bars, columns, lines, stack, strips
from cpep_bench.energy import MeasuredEnergy
from cpep_bench.pipeline import END_TO_END, PARTS
from cpep_bench.report import Report
from cpep_bench.words import Table

_STYLE = """
:root{--paper:#fff;--ink:#16202c;--faint:#66758a;--line:#c9d2dd;--track:#edf1f6;--warn:#fff4d6;--warnline:#e0a800;
--c0:#3b6fd4;--c1:#e4572e;--c2:#2a9d8f;--c3:#8e5bb5;--c4:#d9a21b;--c5:#9aa8b8}
@media (prefers-color-scheme:dark){:root{--paper:#12171e;--ink:#e4e9f0;--faint:#93a1b3;--line:#3a4655;--track:#1f2833;
--warn:#3a2f10;--warnline:#c79a1e;--c0:#6d9bf5;--c1:#ff7d57;--c2:#4cc3b3;--c3:#b48adb;--c4:#f0c14b;--c5:#6d7b8c}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:54rem;padding:1.6rem 1.1rem 3rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.9rem;line-height:1.15;margin:.2rem 0 .4rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.2rem 0 .2rem;padding-top:.9rem;border-top:1px solid var(--line)}
p{margin:.4rem 0}.note{color:var(--faint);font-size:.88rem}
.kicker{color:var(--faint);font-size:.85rem;letter-spacing:.06em;text-transform:uppercase}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(7.6rem,1fr));gap:.6rem;margin:1.1rem 0}
.card{background:var(--track);border-radius:8px;padding:.7rem .8rem}
.card b{display:block;font-size:1.45rem;line-height:1.2;font-variant-numeric:tabular-nums}
.card span{color:var(--faint);font-size:.85rem;display:block;line-height:1.3}
.warn{background:var(--warn);border-left:4px solid var(--warnline);padding:.55rem .8rem;border-radius:4px;
margin:.8rem 0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.88rem;margin:.5rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.28rem .6rem .28rem 0;text-align:left;border-bottom:1px solid var(--track);vertical-align:top}
th{font-weight:600;color:var(--faint)}td:first-child{white-space:normal}
.figures td+td,.figures th+th{text-align:right;white-space:nowrap;padding:.28rem 0 .28rem .6rem}
@media (max-width:34rem){body{font-size:15px}.row{grid-template-columns:6rem 1fr 4.4rem;gap:.45rem;font-size:.86rem}}
@media print{:root{--paper:#fff;--ink:#000;--faint:#444;--line:#999;--track:#eee;--warn:#fff;--c0:#3b6fd4;--c1:#e4572e;
--c2:#2a9d8f;--c3:#8e5bb5;--c4:#d9a21b;--c5:#9aa8b8}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
body{max-width:none;padding:0;font-size:10.5pt}.card,.row,.chart,tr{break-inside:avoid}h2{break-after:avoid}
.scroll{overflow:visible}.card b{font-size:1.15rem}}
"""
_OPERATORS_SHOWN = 8


def page(report: Report) -> str:
    """The content of `report.html`."""
    warnings = "".join(f'<p class="warn">{escape(warning)}</p>' for warning in report.warnings)
    opening = f"<p>{escape(words.headline(report))}</p>{_cards(report)}{warnings}"
    return bare_page(report.bundle, opening, [*_sections(report), ("How it was measured", _note(words.origin(report)))])


def bare_page(title: str, opening: str, sections: Iterable[tuple[str, str]]) -> str:
    """A page of sections in the report's style.

    title: in words
    opening: HTML before the first section
    sections: heads in words, bodies in HTML
    """
    body = "".join(f"<section><h2>{escape(head)}</h2>{content}</section>" for head, content in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{_STYLE}</style></head><body>"
        f'<div class="kicker">cpep-edge bench</div><h1>{escape(title)}</h1>{opening}{body}</body></html>\n'
    )


def _cards(report: Report) -> str:
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
        cards.append((f"{report.energy.net_mj:.2g} mJ", f"net an inference, measured: {report.energy.instrument.name}"))
    body = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in cards
    )
    return f'<div class="cards">{body}</div>'


def _sections(report: Report) -> Iterator[tuple[str, str]]:
    yield "Latency", _distributions(report) + _table(words.latency_table(report))
    yield "Where the time goes", _where_time_goes(report)
    operators = words.operators_table(report)
    if operators is not None:
        yield "Inside the encoder", _operators(report) + _note(operators.note)
    yield "Threads", _threads(report)
    if peers := words.peers_table(report):
        yield "Beside its peers", _peers(report) + _table(peers, figures=False)
    if report.links:
        yield "Reading a device", _links(report) + _table(words.links_table(report.links), figures=False)
    yield "Starting, memory, bytes", _starting(report) + _table(words.cost_table(report))
    if ladder := words.ladder_table(report):
        yield "Accuracy and bytes", _bytes_against_accuracy(report) + _table(ladder)
    if chip := words.chip_table(report):
        yield "On the chip", _table(chip, figures=False)
    if band := words.band_table(report):
        yield "On the wristband", _table(band, figures=False) + _band_energy(report)
    yield "Energy", _energy(report)


def _distributions(report: Report) -> str:
    rows = [
        Strip(name, part.times_ms, part.p50_ms, part.p99_ms, _time(part.p50_ms))
        for name, part in report.latency.items()
    ]
    legend = "Each line is one run; the dot is the median, the dark mark the 99th percentile. The axis is logarithmic."
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
    return bars(rows) + _note("Encoder, median with its 95 % interval. " + words.threads_table(report).note)


def _peers(report: Report) -> str:
    charts = []
    for part in dict.fromkeys(peer.part for peer in report.peers):
        rows = [
            Bar(peer.name, peer.latency.p50_ms, _time(peer.latency.p50_ms), *peer.latency.p50_interval_ms,
                colour=0 if number == 0 else 5)
            for number, peer in enumerate(peer for peer in report.peers if peer.part == part)
        ]  # fmt: skip
        charts.append(f"<p>{escape(part.capitalize())}</p>{bars(rows)}")
    return "".join(charts)


def _links(report: Report) -> str:
    charts = []
    for device in dict.fromkeys(link.device for link in report.links):
        rows = [
            Bar(link.reader, link.cpu_percent, f"{link.cpu_percent:.2g} %", colour=0 if number == 0 else 5)
            for number, link in enumerate(link for link in report.links if link.device == device)
        ]
        charts.append(f"<p>{escape(device.capitalize())}: processor, share of a core</p>{bars(rows)}")
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
    """The ladder's ends: weights in float32, and the encoder as deployed."""
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
    table = None if report.band is None else words.energy_table(report.band.energy, "on the band")
    return "" if report.band is None or table is None else _windows(report.band.energy) + _table(table, figures=False)


def _energy(report: Report) -> str:
    table = words.energy_table(report.energy)
    if table is None:
        parts = ["<p>Not measured here: no meter was asked for, or this machine has none that can be read.</p>"]
    else:
        parts = [_windows(report.energy) + _table(table, figures=False)]
    modelled = words.modelled_table(report)
    if modelled is not None:
        parts.append("<h3>Modelled, not measured</h3>" + _table(modelled, figures=False))
    return "".join(parts)


def _windows(energy: MeasuredEnergy | None) -> str:
    """The mean power of each window, in their order."""
    if energy is None:
        return ""
    rows = [
        Bar("", window.power_w, f"{window.power_w:.3g} W", colour=1 if window.n_inferences else 5)
        for window in energy.windows
    ]
    legend = '<div class="legend"><span><i class="colour5"></i>idle</span><span><i class="colour1"></i>inferences'
    return columns(rows) + legend + "</span><span>mean power of each window</span></div>"


def _table(table: Table, *, figures: bool = True) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    kind = ' class="figures"' if figures else ""
    return f'<div class="scroll"><table{kind}><tr>{head}</tr>{rows}</table></div>{_note(table.note)}'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""


def _share_of(part: float, whole: float) -> str:
    return f"{part / whole:.0%}"


def _time(ms: float) -> str:
    return f"{ms:.3g} ms" if ms >= 0.1 else f"{ms * 1e3:.3g} µs"


def _size(n_bytes: int) -> str:
    return f"{n_bytes * 1e-6:.2f} MB" if n_bytes >= 1_000_000 else f"{n_bytes * 1e-3:.0f} kB"
