"""Export one encoder in every quantisation and time them against torch eager, interleaved, in one run.

    python benchmarks/measure_encoder.py --out benchmarks/results/encoder-paper-size.md

Weights are random, because time does not depend on them; agreement does, and is told by the ladder of a real export.
The cosine given here only says that each program computes the module's function.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cpep_bench.latency import Latency, measure_interleaved
from cpep_bench.machine import this_machine
from cpep_edge.bundle import EncoderSpec
from cpep_edge.checkout import installed_versions
from cpep_edge.encoder import open_encoder
from cpep_edge.files import replacing
from cpep_export.lower import Program, lower
from cpep_export.quantise import Quantisation, quantise
from cpep_export.shaped import ShapedEncoder
from cpep_train.model import Embedder, EncoderConfig

PAPER_SIZE = EncoderConfig(n_channels=16, window_samples=4000, patch_samples=50, width=256, n_layers=4, n_heads=4)
D_EMBED = 256
QUANTISATIONS: tuple[Quantisation, ...] = ("int8", "int8-dynamic", "fp32")
N_WINDOWS = 32
PACKAGES = ("torch", "torchao", "executorch", "numpy")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the encoder."""

    name: str
    run: Callable[[], object]
    program: Program | None = None
    export_s: float = 0.0
    smallest_cosine: float = 1.0


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write.")
    parser.add_argument("--runs", type=int, default=400, help="Inferences of each variant.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Embedder(PAPER_SIZE, D_EMBED).eval()
    windows = np.random.default_rng(0).normal(size=(N_WINDOWS, 16, 4000)).astype(np.float32)
    eager = Variant("torch eager fp32", lambda: _eager(module, windows[:1]))
    variants = [eager, *(_variant(module, windows, quantisation) for quantisation in QUANTISATIONS)]
    latencies = measure_interleaved({variant.name: variant.run for variant in variants}, options.runs)
    with replacing(options.out) as temporary:
        temporary.write_text(_table(variants, latencies), encoding="utf-8")


def _variant(module: Embedder, windows: np.ndarray, quantisation: Quantisation) -> Variant:
    start_s = time.monotonic()
    shaped = ShapedEncoder(module).eval()
    program = lower(quantise(shaped, quantisation, windows), shaped.n_channels, shaped.window_samples)
    export_s = time.monotonic() - start_s
    spec = EncoderSpec(
        file="encoder.pte",
        runtime="executorch-xnnpack",
        quantisation=quantisation,
        n_channels=shaped.n_channels,
        window_samples=shaped.window_samples,
        d_embed=D_EMBED,
        n_parameters=sum(parameter.numel() for parameter in module.parameters()),
        n_delegates=program.n_delegates,
        n_operators_outside=len(program.operators_outside),
    )
    encoder = open_encoder(program.content, spec)
    embedding = np.stack([encoder.embed(window) for window in windows])
    cosine = float(np.sum(embedding * _eager(module, windows), axis=1).min())
    return Variant(f"XNNPACK {quantisation}", lambda: encoder.embed(windows[0]), program, export_s, cosine)


@torch.no_grad()
def _eager(module: Embedder, windows: np.ndarray) -> np.ndarray:
    embedding: np.ndarray = module(torch.from_numpy(windows)).numpy()
    return embedding


def _table(variants: list[Variant], latencies: dict[str, Latency]) -> str:
    eager = latencies[variants[0].name].p50_ms
    machine = this_machine()
    versions = ", ".join(f"{name} {value}" for name, value in installed_versions(PACKAGES).items())
    lines = [
        "| variant | p50 ms | p95 ms | p99 ms | max ms | p50 / eager | MB | delegates / outside | cosine | export s |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for variant in variants:
        time_ms = latencies[variant.name]
        figures = f"{time_ms.p50_ms:.2f} | {time_ms.p95_ms:.2f} | {time_ms.p99_ms:.2f} | {time_ms.max_ms:.2f}"
        lines.append(f"| {variant.name} | {figures} | {time_ms.p50_ms / eager:.2f} | {_export_columns(variant)} |")
    n_runs = latencies[variants[0].name].n
    lines += [
        "",
        "4 layers, width 256, 16 channels, windows of 4000 samples, patches of 50; one thread; "
        f"{n_runs} runs each, interleaved.",
        f"{machine.cpu}, {os.cpu_count()} CPUs, load {machine.load_1min:.1f}. {versions}.",
        "",
    ]
    return "\n".join(lines)


def _export_columns(variant: Variant) -> str:
    program = variant.program
    if program is None:
        return "- | - | 1 | -"
    counts = f"{program.n_delegates} / {len(program.operators_outside)}"
    size_mb = len(program.content) * 1e-6
    return f"{size_mb:.2f} | {counts} | {variant.smallest_cosine:.5f} | {variant.export_s:.0f}"


if __name__ == "__main__":
    main()
