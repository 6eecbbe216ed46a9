"""The content of `report.json`: the cost of a bundle on one machine, with what is needed to assess and repeat it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from cpep_bench.band_figures import BandFigures
from cpep_bench.energy import MeasuredEnergy, ModelledEnergy
from cpep_bench.latency import Latency
from cpep_bench.link_readers import LinkFigure
from cpep_bench.machine import Machine
from cpep_bench.operators import OperatorProfile
from cpep_bench.startup import Startup
from cpep_edge.chip import CortexMSpec, EthosUSpec
from cpep_edge.errors import DataError
from cpep_edge.files import read_plain
from cpep_edge.manifest import LadderStep
from cpep_edge.outside import unreadable

SCHEMA_VERSION: Literal[2] = 2
_MAX_BYTES = 1 << 24
_ARCHITECTURES = {"linux": "x86_64", "linux-aarch64": "aarch64"}  # of targets that run this benchmark
NOISY = 1.3  # with a larger ratio of p95 to p50 of the fixed arithmetic, a machine was too busy for reliable figures


@dataclass(frozen=True, slots=True)
class Threads:
    """The time of the encoder in a fresh process with so many threads."""

    n_threads: int
    encoder: Latency


@dataclass(frozen=True, slots=True)
class PeerFigure:
    """A peer's figures for one part of the work, or ours, timed in turns with the others."""

    part: str  # encoder, index, or window to class
    name: str
    setting: str  # the peer's best setting, in words
    latency: Latency
    size_bytes: int | None  # of its file; None: it has none
    agreement: str  # how far its answers agree with the reference, in words
    accuracy: float | None = None  # balanced, on labelled windows that `agreement` then describes


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of one bundle on one machine."""

    schema_version: Literal[2]
    bundle: str
    manifest_sha256: str  # identifies every file of the bundle
    target: str
    recipe: str  # of the training
    data: str  # the training data, by the bundle's provenance
    quantisation: str
    n_parameters: int
    n_delegates: int
    n_operators_outside: int
    n_prototypes: int
    window_ms: float  # length of a window
    hop_ms: float
    smallest_golden_cosine: float
    runtime: str  # of the encoder
    n_threads: int
    latency: dict[str, Latency]  # by part, and end to end
    arithmetic: Latency  # fixed Python arithmetic, timed in turns with the parts: shows the machine's speed and noise
    threads: tuple[Threads, ...]
    starts: tuple[Startup, ...]  # fresh processes
    profile: OperatorProfile | None  # None: torch or executorch is not installed
    chip: CortexMSpec | EthosUSpec | None  # figures of a microcontroller's program, from the manifest
    energy: MeasuredEnergy | None  # None: no meter
    modelled: tuple[ModelledEnergy, ...]
    peers: tuple[PeerFigure, ...]
    ladder: tuple[LadderStep, ...]  # accuracy from the trained module to the bundle, from its manifest
    files: dict[str, int]  # bytes of each file of the bundle
    encoder_file: str
    index_file: str
    machine: Machine
    versions: dict[str, str]
    git_commit: str
    created_utc: str
    band: BandFigures | None = None  # a wristband's own figures; None: not asked for
    links: tuple[LinkFigure, ...] = ()  # readers of simulated devices; empty: not asked for

    @property
    def typical_start(self) -> Startup:
        """The start with the median total time."""
        return sorted(self.starts, key=lambda start: start.total_ms)[len(self.starts) // 2]

    @property
    def noise(self) -> float:
        """The ratio of p95 to p50 of the fixed arithmetic; 1 for a machine without noise."""
        return self.arithmetic.p95_ms / self.arithmetic.p50_ms

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings that a reader needs to judge the figures."""
        found = []
        if self.noise > NOISY:
            found.append(
                f"The machine was noisy: the same arithmetic took {self.noise:.1f} times its median or more in one run "
                f"of twenty (load before {self.machine.load_1min:.1f} on {self.machine.n_cpus} CPUs). "
                "Trust ratios, not times."
            )
        if self.machine.architecture != _ARCHITECTURES.get(self.target):
            found.append(
                f"This bundle is for {self.target}; what was timed here is its program for Linux, on "
                f"{self.machine.architecture}."
            )
        if "untrained" in self.recipe:
            found.append("The weights are untrained: costs are right, accuracies mean nothing.")
        return tuple(found)

    def json(self) -> str:
        """The content of `report.json`: all fields, and a summary of the main figures."""
        fields = asdict(self)
        fields["ladder"] = [step.model_dump() for step in self.ladder]
        fields["chip"] = None if self.chip is None else self.chip.model_dump()
        summary = {name: latency_summary(latency) for name, latency in self.latency.items()}
        return json.dumps({"summary": summary, **fields}, indent=1, allow_nan=False) + "\n"


def latency_summary(latency: Latency) -> dict[str, float]:
    """The percentiles of a distribution, and the interval of its median."""
    low_ms, high_ms = latency.p50_interval_ms
    return {
        "n": latency.n,
        "p50_ms": latency.p50_ms,
        "p50_low_ms": low_ms,
        "p50_high_ms": high_ms,
        "p95_ms": latency.p95_ms,
        "p99_ms": latency.p99_ms,
        "max_ms": latency.max_ms,
    }


def read_report(file: Path) -> Report:
    """Read `report.json`. Raises DataError when it is not a report, or has another schema."""
    try:
        content = json.loads(read_plain(file, _MAX_BYTES, follow=True))
        version = content.get("schema_version")
    except RecursionError as error:
        raise DataError(f"{file} is not a report of cpep-edge bench: it is nested too deeply") from error
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{file} is not a report of cpep-edge bench: {unreadable(error)}") from error
    if version != SCHEMA_VERSION:
        raise DataError(f"{file} has schema {version}, this cpep-edge reads {SCHEMA_VERSION}: run the benchmark again")
    try:
        return TypeAdapter(Report).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{file}: {place}: {first['msg']}") from error
