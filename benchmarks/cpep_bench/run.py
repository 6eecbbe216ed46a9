"""Measure a bundle on this machine and write the report as JSON, Markdown and one HTML page.

The golden inputs are checked first: a bundle that gives wrong answers on this machine is not measured.
"""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cpep_bench.band_figures import BandFigures, ask_band
from cpep_bench.encoder_race import race_threads
from cpep_bench.energy import BAND, WINDOW_S, MeasuredEnergy, measure_energy, open_meter
from cpep_bench.latency import MIN_RUNS, Latency, measure_interleaved
from cpep_bench.link_readers import LINK_PEERS, SECONDS, LinkFigure, measure_readers
from cpep_bench.machine import this_machine
from cpep_bench.markdown import markdown
from cpep_bench.modelled_energy import modelled_energy
from cpep_bench.operators import profile_encoder
from cpep_bench.peers import check_peers, measure_peers
from cpep_bench.pipeline import END_TO_END, Signal, end_to_end_calls, part_calls
from cpep_bench.power import Meter
from cpep_bench.report import SCHEMA_VERSION, PeerFigure, Report, Threads
from cpep_bench.startup import run_fresh
from cpep_bridge.devices import LinkOptions
from cpep_edge.bundle import Bundle
from cpep_edge.errors import ConfigError
from cpep_edge.folders import check_report, write_reports
from cpep_edge.golden import Golden, check_golden
from cpep_edge.native_encoder import carried_library
from cpep_edge.recogniser import Recogniser
from cpep_edge.trust import Key
from cpep_edge.versions import code_version, installed_versions

JSON_FILE = "report.json"
MARKDOWN_FILE = "report.md"
HTML_FILE = "report.html"
MAX_THREADS = 8

_ARITHMETIC = "fixed arithmetic"
_ARITHMETIC_STEPS = 20_000  # about a millisecond
_log = logging.getLogger(__name__)
_PACKAGES = ("cpep-edge", "numpy", "scipy", "hnswlib", "torch", "executorch")
_CODE = ("cpep_edge", "benchmarks/cpep_bench", "firmware_bridge/cpep_bridge")


Given = TypeVar("Given")


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure, and how."""

    n_runs: int = MIN_RUNS
    n_threads: int = 1
    power: str = "auto"
    window_s: float = WINDOW_S  # length of a window of a power measurement
    peers: Sequence[str] = ()
    run: Path | None = None  # the training that the bundle came from, for the peers that need it
    data: Path | None = None  # labelled recordings, for the peers that need them
    band: str | None = None  # port of a wristband that measures itself
    link: LinkOptions = LinkOptions()  # of that port
    n_starts: int = 5  # fresh processes for the start-up time
    link_s: float = SECONDS  # length of each reading of a simulated device

    def check(self) -> None:
        """Raises ConfigError for options with which nothing can be measured."""
        if self.n_runs < MIN_RUNS:
            raise ConfigError(f"--runs {self.n_runs} is too few for a 99th percentile, ask for at least {MIN_RUNS}")
        if self.n_threads < 1:
            raise ConfigError(f"--threads {self.n_threads}: at least one thread is needed")
        if self.power == BAND and self.band is None:
            raise ConfigError("--power band is the gauge of a wristband: say which with --band PORT")
        check_peers(self.peers, self.run, self.data)


def run_bench(
    bundle: Path,
    out: Path,
    options: Options | None = None,
    *,
    key: Key | None = None,
    trust: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Measure a bundle and write `report.json`, `report.md` and `report.html` into the folder `out`.

    key: the key that must have signed the bundle
    trust: the user trusts the bundle's code to run here
    progress: called with the steps done and their number
    Raises ArtifactError when the bundle cannot be trusted or does not give its golden answers here, ConfigError for
    invalid options, PowerError when the meter fails.
    """
    options = options or Options()
    options.check()
    check_report(out, JSON_FILE)
    machine = this_machine()  # before measuring, so that the load is other work's
    with open_meter(options.power) or nullcontext() as meter:  # first, to report a missing meter at once
        opened = Bundle(bundle, key, trust=trust)
        encoder = opened.manifest.encoder_for("the benchmark")
        opened.check_files()
        recogniser = Recogniser(opened, options.n_threads)
        smallest_cosine = check_golden(opened, recogniser)
        signal_uv = _signal(opened)
        step = _Steps(progress, 8)
        latency, arithmetic = step(_latencies(recogniser, signal_uv, options.n_runs))
        starts = step(
            tuple(run_fresh(bundle, opened.manifest_sha256, options.n_threads) for _ in range(options.n_starts))
        )
        threads = step(_threads(opened, recogniser.last_window(signal_uv), options.n_runs))
        profile = step(profile_encoder(opened.read(encoder.file)))
        peers = step(_peers(opened, recogniser, options))
        links = step(_links(options))
        band = step(_band(options))
        energy = step(_energy(meter, recogniser, signal_uv, options.window_s))
    manifest, index = opened.manifest, opened.manifest.index_for("the benchmark")
    report = Report(
        schema_version=SCHEMA_VERSION,
        bundle=manifest.name,
        manifest_sha256=opened.manifest_sha256,
        target=manifest.target,
        recipe=manifest.provenance.recipe,
        data=manifest.provenance.data,
        quantisation=encoder.quantisation,
        n_parameters=encoder.n_parameters,
        n_delegates=encoder.n_delegates,
        n_operators_outside=encoder.n_operators_outside,
        n_prototypes=index.n_prototypes,
        window_ms=manifest.window_samples / manifest.preprocessing.sample_rate_hz * 1e3,
        hop_ms=manifest.decision.hop_ms,
        smallest_golden_cosine=smallest_cosine,
        runtime="ExecuTorch's Python bindings" if carried_library(opened) is None else "the bundle's C library",
        n_threads=options.n_threads,
        latency=latency,
        arithmetic=arithmetic,
        threads=threads,
        starts=starts,
        profile=profile,
        chip=manifest.chip,
        energy=energy,
        band=band,
        links=links,
        modelled=modelled_energy(manifest.chip),
        peers=peers,
        ladder=manifest.ladder,
        files={name: entry.size_bytes for name, entry in manifest.files.items()},
        encoder_file=encoder.file,
        index_file=index.file,
        machine=replace(machine, clock_mhz=this_machine().clock_mhz),
        versions=installed_versions(_PACKAGES),
        git_commit=code_version(*_CODE),
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_report(report, out)
    return report


def write_report(report: Report, out: Path) -> None:
    """Write the report in all formats into a folder; without the extra `[report]`, no HTML page."""
    forms = {JSON_FILE: report.json(), MARKDOWN_FILE: markdown(report)}
    try:
        from cpep_bench.report_html import html_report

        forms[HTML_FILE] = html_report(report)
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "markupsafe"):
            raise
        _log.warning("no %s: for the page, run pip install 'cpep-edge[report]'", HTML_FILE)
    write_reports(out, {name: content.encode() for name, content in forms.items()})


def _signal(bundle: Bundle) -> Signal:
    golden = Golden.from_bytes(bundle.read(bundle.manifest.golden_file))
    return np.ascontiguousarray(golden.signal_uv.reshape(-1, golden.signal_uv.shape[2]))


class _Steps:
    """Reports the progress after each step, and passes on the step's result."""

    def __init__(self, progress: Callable[[int, int], None], n_steps: int) -> None:
        self._progress, self._n_steps, self._n_done = progress, n_steps, 0

    def __call__(self, given: Given) -> Given:
        self._n_done += 1
        self._progress(self._n_done, self._n_steps)
        return given


def _peers(bundle: Bundle, recogniser: Recogniser, options: Options) -> tuple[PeerFigure, ...]:
    return measure_peers(
        options.peers,
        bundle,
        recogniser,
        n_runs=options.n_runs,
        n_threads=options.n_threads,
        run=options.run,
        data=options.data,
    )


def _links(options: Options) -> tuple[LinkFigure, ...]:
    names = [reader for peer, readers in LINK_PEERS.items() if peer in options.peers for reader in readers]
    return measure_readers(names, options.link_s) if names else ()


def _band(options: Options) -> BandFigures | None:
    if options.band is None:
        return None
    window_s = options.window_s if options.power == BAND else None
    return ask_band(options.band, options.n_runs, window_s=window_s, link=options.link)


def _energy(meter: Meter | None, recogniser: Recogniser, signal_uv: Signal, window_s: float) -> MeasuredEnergy | None:
    if meter is None:
        return None
    window = recogniser.last_window(signal_uv)
    return measure_energy(meter, lambda: recogniser.recognise(window), window_s=window_s)


def _latencies(recogniser: Recogniser, signal_uv: Signal, n_runs: int) -> tuple[dict[str, Latency], Latency]:
    arrive, decide = end_to_end_calls(recogniser, signal_uv)
    calls: dict[str, Callable[..., object]] = {
        **part_calls(recogniser, signal_uv),
        END_TO_END: decide,
        _ARITHMETIC: lambda: sum(range(_ARITHMETIC_STEPS)),
    }
    latency = measure_interleaved(calls, n_runs, prepare={END_TO_END: arrive})
    arithmetic = latency.pop(_ARITHMETIC)
    return latency, arithmetic


def _threads(bundle: Bundle, window: NDArray[np.float32], n_runs: int) -> tuple[Threads, ...]:
    """The times of the encoder on one, two, four, ... threads, up to the number of processors."""
    most = min(os.cpu_count() or 1, MAX_THREADS)
    counts = [2**power for power in range(most.bit_length()) if 2**power <= most]
    return tuple(Threads(n, latency) for n, latency in race_threads(bundle, window, counts, n_runs).items())
