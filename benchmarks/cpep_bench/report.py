"""Measure a bundle on this machine and write the report: JSON for machines, Markdown for people.

Golden inputs come first: a bundle that does not give the right answers here has no figures.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_bench.latency import (
    MIN_RUNS,
    Latency,
    encoder_latency,
    end_to_end_latency,
    filter_latency,
    index_latency,
)
from cpep_bench.machine import Machine, this_machine
from cpep_bench.startup import Startup, measure_startup
from cpep_edge.bundle import DIGEST_FILE, Bundle
from cpep_edge.checkout import git_commit, installed_versions
from cpep_edge.files import replacing
from cpep_edge.golden import Golden, check_golden
from cpep_edge.recogniser import Recogniser
from cpep_edge.trust import PublicKey

SCHEMA_VERSION = 1
JSON_FILE = "report.json"
MARKDOWN_FILE = "report.md"

_PACKAGES = ("cpep-edge", "numpy", "scipy", "hnswlib", "torch", "executorch")
_PARTS: dict[str, Callable[[Recogniser, NDArray[np.float32], int], Latency]] = {
    "filter, 100 ms of signal": filter_latency,
    "encoder, one window": encoder_latency,
    "index, one vote": index_latency,
    "end to end, last byte to decision": end_to_end_latency,
}


@dataclass(frozen=True, slots=True)
class Report:
    """What a bundle costs on one machine, with all that is needed to judge and repeat it."""

    schema_version: int
    bundle: str
    manifest_sha256: str  # stands for every file of the bundle
    quantisation: str
    n_parameters: int
    n_delegates: int
    n_operators_outside: int
    window_ms: float  # signal that one window spans
    smallest_golden_cosine: float
    n_threads: int
    latency: dict[str, Latency]
    startup: Startup
    size_bytes: dict[str, int]  # by file
    machine: Machine
    versions: dict[str, str]
    git_commit: str
    created_utc: str

    def json(self) -> str:
        """The content of `report.json`."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    def markdown(self) -> str:
        """The content of `report.md`."""
        return "\n".join([*self._headline(), "", *self._latency_table(), "", *self._cost_table(), "", *self._origin()])

    def _headline(self) -> list[str]:
        return [
            f"# {self.bundle}",
            "",
            f"{self.quantisation} encoder of {self.n_parameters:,} parameters, windows of {self.window_ms:g} ms, "
            f"{self.n_threads} thread{'s' * (self.n_threads > 1)}; "
            f"{self.n_delegates} delegate{'s' * (self.n_delegates != 1)}, "
            f"{self.n_operators_outside} operators outside.",
        ]

    def _latency_table(self) -> list[str]:
        rows = [
            f"| {name} | {part.n} | {part.p50_ms:.3f} | {part.p95_ms:.3f} | {part.p99_ms:.3f} | {part.max_ms:.3f} |"
            for name, part in self.latency.items()
        ]
        return ["| latency, ms | n | p50 | p95 | p99 | max |", "| --- | --: | --: | --: | --: | --: |", *rows]

    def _cost_table(self) -> list[str]:
        start = self.startup
        rows = {
            "start: process": f"{start.process_ms:.0f} ms",
            "start: import": f"{start.import_ms:.0f} ms",
            "start: load": f"{start.load_ms:.0f} ms",
            "start: first inference": f"{start.first_inference_ms:.1f} ms",
            "start to first vote": f"{start.total_ms:.0f} ms",
            "peak memory of that process": f"{start.peak_rss_mb:.0f} MB",
            **{name: f"{size:,} bytes" for name, size in self.size_bytes.items()},
        }
        return ["| cost | |", "| --- | --: |", *(f"| {name} | {value} |" for name, value in rows.items())]

    def _origin(self) -> list[str]:
        machine = self.machine
        clock = f" at {machine.clock_mhz:.0f} MHz" if machine.clock_mhz else ""
        versions = ", ".join(f"{name} {value}" for name, value in self.versions.items())
        return [
            f"Measured {self.created_utc} on {machine.cpu}{clock}, {machine.n_cpus} CPUs ({machine.architecture}), "
            f"load {machine.load_1min:.1f}. {versions}. Commit {self.git_commit[:12] or 'unknown'}, "
            f"manifest {self.manifest_sha256[:12]}. Golden inputs hold to a cosine of "
            f"{self.smallest_golden_cosine:.5f}. Warm-up is excluded.",
            "",
        ]


def run_bench(
    bundle: Path,
    out: Path,
    *,
    n_runs: int = MIN_RUNS,
    n_threads: int = 1,
    key: PublicKey | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure a bundle and write `report.json` and `report.md` into the folder `out`.

    key: what must have signed the bundle
    progress: called with the measurements done and their number
    Raises ArtifactError when the bundle cannot be trusted or does not give its golden answers here.
    """
    opened = Bundle(bundle, key)
    opened.check_files()
    recogniser = Recogniser(opened, n_threads)
    smallest_cosine = check_golden(opened, recogniser)
    golden = Golden.from_bytes(opened.read(opened.manifest.golden_file))
    signal_uv = golden.signal_uv.reshape(-1, golden.signal_uv.shape[2])
    latency: dict[str, Latency] = {}
    for name, part in _PARTS.items():
        latency[name] = part(recogniser, signal_uv, n_runs)
        if progress is not None:
            progress(len(latency), len(_PARTS) + 1)
    report = _report(opened, smallest_cosine, n_threads, latency, measure_startup(bundle, n_threads))
    if progress is not None:
        progress(len(_PARTS) + 1, len(_PARTS) + 1)
    for name, content in ((JSON_FILE, report.json()), (MARKDOWN_FILE, report.markdown())):
        with replacing(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return report


def _report(
    bundle: Bundle, smallest_cosine: float, n_threads: int, latency: dict[str, Latency], startup: Startup
) -> Report:
    manifest = bundle.manifest
    encoder = manifest.encoder
    return Report(
        schema_version=SCHEMA_VERSION,
        bundle=manifest.name,
        manifest_sha256=(bundle.path / DIGEST_FILE).read_text().split()[0],
        quantisation=encoder.quantisation,
        n_parameters=encoder.n_parameters,
        n_delegates=encoder.n_delegates,
        n_operators_outside=encoder.n_operators_outside,
        window_ms=encoder.window_samples / manifest.preprocessing.sample_rate_hz * 1e3,
        smallest_golden_cosine=smallest_cosine,
        n_threads=n_threads,
        latency=latency,
        startup=startup,
        size_bytes={name: entry.size_bytes for name, entry in manifest.files.items()},
        machine=this_machine(),
        versions=installed_versions(_PACKAGES),
        git_commit=git_commit(),
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )
