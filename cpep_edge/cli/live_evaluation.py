"""`cpep-edge eval --protocol live`: the accuracy of a bundle per event, and the delay of the transport."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cpep_edge.cli.output import print_json, progress, stderr, stdout
from cpep_edge.events import Delay
from cpep_edge.folders import check_report, write_reports
from cpep_edge.json_text import to_json

if TYPE_CHECKING:
    from cpep_edge.manifest import Manifest, OperatingPoint
    from cpep_train.live_evaluation import LiveScore

FIGURES_FILE = "live.json"
TURNS = (0, 1, 2)  # electrodes by which the band is turned
TRANSPORT_S = 6.0  # of signal over a pseudo-terminal, to measure the delay


@dataclass(frozen=True, slots=True)
class ConditionScore:
    """The score of the test people's sessions under one condition."""

    turn: int  # additional turn of the band, in electrodes
    turn_undone: bool  # whether the calibration searched for the turn
    score: "LiveScore"


def evaluate_bundle(
    bundle: Path, data: Path, report: Path | None, as_json: bool, key: Path | None, trust: bool
) -> None:
    """Play a corpus' prompted sessions of held-out people through a bundle, with the band as recorded and turned."""
    from cpep_edge.bundle import Bundle
    from cpep_edge.recogniser import Recogniser
    from cpep_train.live_evaluation import evaluate_live

    if report is not None:
        check_report(report, FIGURES_FILE)
    recogniser = Recogniser(Bundle.open(bundle, key, trust=trust))
    transport = transport_delay(recogniser.manifest)
    readings = []
    for turn in TURNS:
        for undone in (True, False):
            with progress(f"turned by {turn}, {'found' if undone else 'unnoticed'}") as advance:
                score = evaluate_live(recogniser, data, turn=turn, undo_turn=undone, progress=advance)
            readings.append(ConditionScore(turn, undone, score))
    if report is not None:
        _write(report, recogniser.manifest, readings, transport)
        stderr.print(f"report: {report / 'live.md'}")
    if as_json:
        print_json({"protocol": "live", "readings": readings, "transport": transport})
    else:
        stdout.print(_markdown(recogniser.manifest, readings, transport), markup=False)


def transport_delay(manifest: "Manifest") -> Delay:
    """The delay from the time when a sample is due in a simulated band to its arrival over a pty, without a baud rate.

    As in a live run, the band's clock is converted to host time by measuring round trips.
    """
    from cpep_bridge.devices import open_source
    from cpep_bridge.simulator import SimulatedBand

    rate_hz, n_channels = manifest.preprocessing.sample_rate_hz, manifest.n_channels
    noise_uv = np.random.default_rng(0).normal(0, 20, (round(TRANSPORT_S * rate_hz), n_channels)).astype(np.float32)
    arrivals = []
    with SimulatedBand([noise_uv], rate_hz, once=True) as band, open_source(band.port) as source:
        for block in source:
            arrivals.append((block.device_t_s + len(block.samples_uv) / rate_hz, block.host_t_s))
        line = source.clock.line  # type: ignore[attr-defined]  # our own band has a clock
    delays_ms = [(host_t_s - line.host_s(device_t_s)) * 1e3 for device_t_s, host_t_s in arrivals]
    p50_ms, p90_ms = np.percentile(delays_ms, (50, 90))
    return Delay(float(p50_ms), float(p90_ms))


def _write(folder: Path, manifest: "Manifest", readings: Sequence[ConditionScore], transport: Delay) -> None:
    from cpep_bench.machine import this_machine
    from cpep_edge.versions import git_commit

    machine = this_machine()
    facts = {"commit": git_commit(), "machine": f"{machine.n_cpus} shared cores, {machine.cpu}"}
    figures = {
        "bundle": manifest.name,
        **facts,
        "seed": manifest.provenance.seed,
        "data": manifest.provenance.data,
        "decision": manifest.decision.model_dump(mode="json"),
        "readings": [asdict(reading) for reading in readings],
        "transport": asdict(transport),
    }
    text = _markdown(manifest, readings, transport) + "\n" + ", ".join(f"{key} {facts[key]}" for key in facts) + "\n"
    write_reports(folder, {FIGURES_FILE: f"{to_json(figures)}\n".encode(), "live.md": text.encode()})


def _markdown(manifest: "Manifest", readings: Sequence[ConditionScore], transport: Delay) -> str:
    best = readings[0].score
    events, spec = best.events, manifest.decision
    window_ms = 1e3 * manifest.window_samples / manifest.preprocessing.sample_rate_hz
    return f"""# Decisions of {manifest.name}, event by event

`cpep-edge eval BUNDLE --protocol live --data PROMPTED`: {events.n_events} gestures made as asked, with rest in between,
by {best.n_people} **simulated** people whom training never saw, {60 * events.hours:.0f} minutes, each calibrated on a
donning of its own. All {len(manifest.gestures)} gestures are in the index. Window {window_ms:.0f} ms, hop
{spec.hop_ms:g} ms, {spec.evidence_ms:g} ms a look, belief {spec.min_belief:g}, release {spec.release_ms:g} ms.

| the band | right | another | missed | extra | extra an hour | CLER | CLER within 250 ms |
| --- | --: | --: | --: | --: | --: | --: | --: |
{chr(10).join(_row(reading) for reading in readings)}

Extra activations are false: they match no event. {events.n_extra_outside} of the {events.n_extra} in the first row fell
while no gesture was being made. CLER counts misses as errors and is a mean over gestures (`cpep_edge.events`).

| delay from the start of a movement | p50 ms | p90 ms |
| --- | --: | --: |
{_delay_row("algorithm: until the deciding window ends", events.algorithm)}
{_delay_row("transport, over a pseudo-terminal", transport)}
{_delay_row("compute: last byte to decision", events.compute)}

The movements themselves take 250 to 500 ms. The encoder was not asked in {best.rest_share:.0%} of the windows, at rest;
{best.unknown_share:.0%} were rejected.

| at most wrong, of validation windows | accepted | share of votes | cosine |
| --: | --: | --: | --: |
{chr(10).join(_point(point) for point in spec.rejection)}
"""


def _row(reading: ConditionScore) -> str:
    events = reading.score.events
    turned = f"turned by {reading.turn}" if reading.turn else "as put on"
    how = "found" if reading.turn_undone else "not looked for"
    figures = (events.n_right, events.n_confused, events.n_missed, events.n_extra)
    counts = " | ".join(map(str, figures))
    rate = f"{events.false_activations_per_hour:.0f} | {events.cler:.3f} | {events.cler_published:.3f}"
    return f"| {turned}, {how} | {counts} | {rate} |"


def _point(point: "OperatingPoint") -> str:
    figures = f"{point.risk:.0%} | {point.coverage:.0%} | {point.min_vote_share:.2f} | {point.min_similarity:.3f}"
    return f"| {figures} |"


def _delay_row(what: str, delay: Delay | None) -> str:
    return f"| {what} | - | - |" if delay is None else f"| {what} | {delay.p50_ms:.1f} | {delay.p90_ms:.1f} |"
