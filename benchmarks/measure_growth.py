"""How the time of a window grows with its length, its tokens and its channels, and that of a search with prototypes.

    python benchmarks/measure_growth.py --out benchmarks/results/growth

One quantity at a time is varied from the paper's size. All encoders of a curve take turns in one process, on one
thread. Weights are random, because time does not depend on them. Writes OUT.md and OUT.html.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from markupsafe import Markup

from cpep_bench.charts import STYLE, lines
from cpep_bench.latency import MIN_RUNS, Latency, measure_interleaved
from cpep_bench.machine import this_machine
from cpep_bench.markdown import table_block
from cpep_edge.encoder import EmgEncoder, open_encoder
from cpep_edge.files import write_file
from cpep_edge.pose_index import build_index
from cpep_edge.report_page import Section, page, paragraph
from cpep_edge.report_table import Table
from cpep_edge.versions import code_version, installed_versions
from cpep_export.fused import FusedEncoder
from cpep_export.lower import encoder_spec, lower
from cpep_export.quantise import quantise
from cpep_train.model import Embedder, EncoderConfig

PAPER_SIZE = EncoderConfig(n_channels=16, window_samples=4000, patch_samples=50, width=256, n_layers=4, n_heads=4)
D_EMBED = 256
RATE_HZ = 2_000.0
N_CALIBRATION = 16
SEED = 0
K = 10
PACKAGES = ("torch", "executorch", "numpy", "hnswlib")

# The curves by name: the unit of the varied quantity, and an encoder for each of its values.
ENCODER_CURVES: dict[str, tuple[str, dict[float, EncoderConfig]]] = {
    "window length, patches of 25 ms": (
        "s of signal",
        {samples / RATE_HZ: replace(PAPER_SIZE, window_samples=samples) for samples in (1000, 2000, 4000)},
    ),
    "tokens of a 2 s window": (
        "tokens",
        {4000 // patch: replace(PAPER_SIZE, patch_samples=patch) for patch in (100, 50, 25)},
    ),
    "channels": ("channels", {n: replace(PAPER_SIZE, n_channels=n) for n in (8, 16, 32)}),
}
PROTOTYPES = (250, 1_000, 4_000, 16_000)


@dataclass(frozen=True, slots=True)
class Curve:
    """The times for each value of the varied quantity."""

    name: str
    unit: str
    points: dict[float, Latency]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="Files to write, without .md and .html.")
    parser.add_argument("--runs", type=int, default=MIN_RUNS, help="Windows and searches of each point.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    encoders: dict[EncoderConfig, EmgEncoder] = {}
    curves = [_encoder_curve(name, *curve, encoders, options.runs) for name, curve in ENCODER_CURVES.items()]
    curves.append(_index_curve(options.runs))
    out: Path = options.out
    for suffix, content in ((".md", _markdown(curves)), (".html", _html(curves))):
        write_file(out.with_suffix(suffix), content)


def _encoder_curve(
    name: str,
    unit: str,
    configs: dict[float, EncoderConfig],
    made: dict[EncoderConfig, EmgEncoder],
    n_runs: int,
) -> Curve:
    rng = np.random.default_rng(SEED)
    calls: dict[str, Callable[[], object]] = {}
    for at, config in configs.items():
        if config not in made:
            made[config] = _encoder(config)
        window = rng.normal(size=(config.n_channels, config.window_samples)).astype(np.float32)
        calls[str(at)] = lambda encoder=made[config], window=window: encoder.embed(window)  # type: ignore[misc]
    times = measure_interleaved(calls, n_runs)
    return Curve(name, unit, {at: times[str(at)] for at in configs})


def _encoder(config: EncoderConfig) -> EmgEncoder:
    """An int8 encoder with this configuration, lowered and opened."""
    torch.manual_seed(SEED)
    module = FusedEncoder(Embedder(config, D_EMBED).eval()).eval()
    shape = (N_CALIBRATION, config.n_channels, config.window_samples)
    windows = np.random.default_rng(SEED).normal(size=shape).astype(np.float32)
    program = lower(quantise(module, "int8", windows), config.n_channels, config.window_samples)
    spec = encoder_spec(program, module, "int8", sum(one.numel() for one in module.parameters()))
    return open_encoder(program.content, spec)


def _index_curve(n_runs: int) -> Curve:
    rng = np.random.default_rng(SEED)
    query = _directions(rng, 1)[0]
    calls: dict[str, Callable[[], object]] = {}
    for n in PROTOTYPES:
        index = build_index(_directions(rng, n), rng.integers(0, 16, n), SEED)
        calls[str(n)] = lambda index=index: index.vote(query, K)  # type: ignore[misc]
    times = measure_interleaved(calls, n_runs)
    return Curve("prototypes of 256 numbers", "prototypes", {n: times[str(n)] for n in PROTOTYPES})


def _directions(rng: np.random.Generator, n: int) -> np.ndarray:
    vectors = rng.normal(size=(n, D_EMBED)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _tables(curves: Sequence[Curve]) -> list[Table]:
    tables = []
    for curve in curves:
        rows = []
        for at, latency in curve.points.items():
            low_ms, high_ms = latency.p50_interval_ms
            rows.append((f"{at:g}", f"{latency.p50_ms:.3f}", f"{low_ms:.3f} to {high_ms:.3f}", f"{latency.p99_ms:.3f}"))
        tables.append(Table((curve.name, "p50 ms", "95 % interval", "p99 ms"), tuple(rows)))
    return tables


def _origin(curves: Sequence[Curve]) -> str:
    machine = this_machine()
    versions = ", ".join(f"{name} {value}" for name, value in installed_versions(PACKAGES).items())
    n_runs = next(iter(curves[0].points.values())).n
    return (
        "From the paper's size (4 layers, width 256, 16 channels, 2 s at 2 kHz, patches of 50 samples), int8, one "
        f"thread; {n_runs} runs of each point, those of a curve in turns; weights and prototypes random, seed {SEED}. "
        f"`python benchmarks/measure_growth.py`, commit {code_version('export', 'cpep_edge', 'benchmarks')}; "
        f"{machine.cpu}, {machine.n_cpus} CPUs, load {machine.load_1min:.1f}. {versions}."
    )


def _markdown(curves: Sequence[Curve]) -> str:
    return "\n\n".join(["# How time grows", *map(table_block, _tables(curves)), _origin(curves)]) + "\n"


def _html(curves: Sequence[Curve]) -> str:
    sections = []
    for curve in curves:
        points = [(at, round(latency.p50_ms, 4)) for at, latency in curve.points.items()]
        sections.append(Section(curve.name.capitalize(), Markup(lines({"p50": points}, curve.unit, "ms"))))
    sections.append(Section("How it was measured", paragraph(_origin(curves))))
    return page("cpep-edge bench", "How time grows", "", sections, style=STYLE)


if __name__ == "__main__":
    main()
