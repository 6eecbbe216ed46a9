"""One encoder of the paper's size in every way to run it: ours, ONNX Runtime's, torch's; timed in turns, in one run.

    python benchmarks/measure_encoder.py --out benchmarks/results/encoder-paper-size.md

ONNX Runtime gets the module as it trains and our rewritten graph, each in float32 and in both of its int8 ways. Weights
are random, because time does not depend on them; the cosine only says that each way computes the module's function.
What quantisation costs in votes is told by `measure_quantisation.py` and by the ladder of every export.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from cpep_bench.machine import Machine, this_machine
from cpep_bench.onnx_peer import OnnxKind, onnx_program
from cpep_bench.operators import profile_encoder
from cpep_bench.turns import STRETCH_RUNS, take_turns
from cpep_edge.checkout import git_commit, installed_versions
from cpep_edge.files import replacing
from cpep_export.lower import lower
from cpep_export.native import build_native, host_architecture
from cpep_export.quantise import Quantisation, quantise
from cpep_export.shaped import ShapedEncoder
from cpep_export.streaming import StreamingStep
from encoder_variants import (
    BLOCK_PATCHES,
    D_EMBED,
    EAGER,
    N_CHANNELS,
    N_WINDOWS,
    WINDOW_SAMPLES,
    WINDOWS_FILE,
    Variant,
    paper_size_module,
    write_variants,
)

OURS, STREAMING = "XNNPACK int8", "XNNPACK int8, streaming, 100 ms of new signal"
QUANTISATIONS: tuple[Quantisation, ...] = ("int8", "int8-dynamic", "fp32")
ONNX_KINDS: tuple[OnnxKind, ...] = ("int8-static", "int8-dynamic", "fp32")
THREADS = (1, 2)
_SMALLEST_SHARE = 0.01  # of the time, for a row of its own
PACKAGES = ("torch", "torchao", "executorch", "onnxruntime", "numpy")

Times = dict[str, dict[str, float]]  # milliseconds and cosine, by variant


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write.")
    parser.add_argument("--runs", type=int, default=400, help="Inferences of each variant.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine = this_machine()  # with the load of others, not ours
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shaped, variants = _prepare(folder)
        times = [_times(folder, variants, n, options.runs) for n in THREADS]
        peaks = {variant.name: int(_output("peak", folder, variant.name)) for variant in variants}
        profile = _profile(folder / Variant(OURS, ".pte").file)
        limit = _multiply_adds_a_second(folder)
        lines = [*_table(folder, variants, times, peaks), "", *_limit(shaped, times[0], limit), "", *profile, ""]
    lines += _footer(machine, options.runs)
    with replacing(options.out) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def _prepare(folder: Path) -> tuple[ShapedEncoder, list[Variant]]:
    module = paper_size_module()
    shaped = ShapedEncoder(module).eval()
    windows = np.random.default_rng(0).normal(size=(N_WINDOWS, N_CHANNELS, WINDOW_SAMPLES)).astype(np.float32)
    np.save(folder / WINDOWS_FILE, windows)
    build_native(folder / "native", host_architecture())  # type: ignore[arg-type]
    variants = [Variant(EAGER, "")]
    for quantisation in QUANTISATIONS:
        program = lower(quantise(shaped, quantisation, windows), N_CHANNELS, WINDOW_SAMPLES)
        counts = (program.n_delegates, len(program.operators_outside), program.arena_bytes)
        variants.append(Variant(f"XNNPACK {quantisation}", ".pte", *counts))
        (folder / variants[-1].file).write_bytes(program.content)
    variants.append(_streaming(folder, windows))
    for graph, encoder in (("", module), (", our graph", shaped)):
        for kind in ONNX_KINDS:
            variants.append(Variant(f"ONNX Runtime {kind}{graph}", ".onnx"))
            (folder / variants[-1].file).write_bytes(onnx_program(encoder, windows, kind))
    write_variants(folder, variants)
    return shaped, variants


def _streaming(folder: Path, windows: np.ndarray) -> Variant:
    step = StreamingStep(paper_size_module(BLOCK_PATCHES)).eval()
    program = lower(quantise(step, "int8", windows), N_CHANNELS, step.block_samples, step.fresh_state())
    counts = (program.n_delegates, len(program.operators_outside), program.arena_bytes)
    variant = Variant(STREAMING, ".pte", *counts, n_samples=step.block_samples)
    (folder / variant.file).write_bytes(program.content)
    return variant


def _times(folder: Path, variants: list[Variant], n_threads: int, n_runs: int) -> Times:
    """Times of all variants, each in a process of its own, in turns, and their cosines to the eager module."""
    commands = {variant.name: _command("serve", folder, variant.name, n_threads) for variant in variants}
    measured = {}
    for name, turn in take_turns(commands, n_runs).items():
        wall = turn.wall
        percentiles = {"p50": wall.p50_ms, "p95": wall.p95_ms, "p99": wall.p99_ms, "max": wall.max_ms}
        measured[name] = {**percentiles, "cpu": turn.thread.p50_ms}
    expected = np.load(Variant(EAGER, "").embeddings(folder))
    for variant in variants:
        if variant.n_samples == WINDOW_SAMPLES:
            cosines = np.sum(np.load(variant.embeddings(folder)) * expected, axis=1)
            measured[variant.name]["cosine"] = float(cosines.min())
    return measured


def _command(*arguments: object) -> list[str]:
    script = Path(__file__).parent / "encoder_variants.py"
    return [sys.executable, "-W", "ignore", str(script), *map(str, arguments)]


def _output(*arguments: object) -> str:
    return subprocess.run(_command(*arguments), stdout=subprocess.PIPE, text=True, check=True).stdout


def _table(folder: Path, variants: list[Variant], times: list[Times], peaks: dict[str, int]) -> list[str]:
    one, two = times
    best = min((name for name in one if name.startswith("ONNX") and "int8" in name), key=lambda name: one[name]["cpu"])
    lines = [
        "| variant | p50 ms | p95 | p99 | max | CPU ms | CPU / eager | CPU / best ONNX int8 | 2 threads p50 ms | MB "
        "| arena kB | peak RSS MB | delegates / outside | cosine |",
        "| --- " + "| --: " * 13 + "|",
    ]
    for variant in variants:
        row, size = one[variant.name], variant.size_bytes(folder)
        cells = [
            *(f"{row[key]:.2f}" for key in ("p50", "p95", "p99", "max", "cpu")),
            *(f"{row['cpu'] / one[name]['cpu']:.2f}" for name in (EAGER, best)),
            f"{two[variant.name]['p50']:.2f}",
            "-" if size is None else f"{size * 1e-6:.2f}",
            "-" if variant.arena_bytes is None else f"{variant.arena_bytes * 1e-3:.0f}",
            f"{peaks[variant.name] * 1e-6:.0f}",
            "-" if variant.n_delegates is None else f"{variant.n_delegates} / {variant.n_operators_outside}",
            f"{row['cosine']:.5f}" if "cosine" in row else "-",
        ]
        lines.append(f"| {variant.name} | {' | '.join(cells)} |")
    share = one[STREAMING]["cpu"] / one[OURS]["cpu"]
    lines += [
        "",
        "CPU is the median of what the one thread computed, which other work on the machine does not stretch; the rest "
        f"is time that passed. Best int8 of ONNX Runtime: {best}. The arena leaves out XNNPACK's own workspace, peak "
        f"RSS has it. A streaming hop costs {share:.2f} of a window.",
    ]
    return lines


def _multiply_adds_a_second(folder: Path) -> float | None:
    """What one core can do in int8; None where there is no compiler or no AVX512-VNNI."""
    compiler, cpuinfo = shutil.which("gcc"), Path("/proc/cpuinfo")
    if compiler is None or not cpuinfo.is_file() or "avx512_vnni" not in cpuinfo.read_text():
        return None
    source, program = Path(__file__).parent / "x86" / "multiply_adds.c", folder / "multiply_adds"
    subprocess.run([compiler, "-O2", "-mavx512f", "-mavx512vnni", "-o", program, source], check=True)
    return float(subprocess.run([program], capture_output=True, text=True, check=True).stdout)


def _limit(shaped: ShapedEncoder, times: Times, limit: float | None) -> list[str]:
    if limit is None:
        return ["The int8 limit of this machine was not measured: no compiler, or no AVX512-VNNI."]
    rows = _rows_of(shaped)
    products = sum(n * layer.in_features * layer.out_features for layer, n in rows)
    took_ms = times[OURS]["cpu"]
    return [
        f"One core does at most {limit * 1e-9:.0f} G int8 multiply-adds a second (`benchmarks/x86/multiply_adds.c`, "
        f"64 a cycle at {limit / 64e9:.2f} GHz). The {products * 1e-6:.0f} M of the linear layers would take "
        f"{products / limit * 1e3:.2f} ms; {OURS} takes {took_ms:.2f} ms with its float32 attention, normalisation and "
        f"softmax: {products / limit * 1e3 / took_ms:.0%} of the limit."
    ]


def _rows_of(shaped: ShapedEncoder) -> list[tuple[torch.nn.Linear, int]]:
    """Every int8 layer with the number of tokens that it sees."""
    seen: list[tuple[torch.nn.Linear, int]] = []
    layers = [module for module in shaped.modules() if isinstance(module, torch.nn.Linear)]
    hooks = [
        layer.register_forward_hook(lambda layer, given, _: seen.append((layer, given[0].shape[1]))) for layer in layers
    ]
    with torch.no_grad():
        shaped(torch.zeros(1, N_CHANNELS, WINDOW_SAMPLES))
    for hook in hooks:
        hook.remove()
    return seen


def _profile(program: Path) -> list[str]:
    profile = profile_encoder(program)
    if profile is None:
        return []
    kinds = [operator for operator in profile.operators if operator.mean_us >= _SMALLEST_SHARE * profile.total_us]
    rows = [f"| {o.kind} | {o.n_calls} | {o.mean_us:.0f} | {o.mean_us / profile.total_us:.0%} |" for o in kinds]
    rest_us = profile.total_us - sum(operator.mean_us for operator in kinds)
    return [
        f"| operator of {OURS} | calls | us | share |",
        "| --- | --: | --: | --: |",
        *rows,
        f"| all others, and between operators | | {rest_us:.0f} | {rest_us / profile.total_us:.0%} |",
    ]


def _footer(machine: Machine, n_runs: int) -> list[str]:
    versions = ", ".join(f"{name} {value}" for name, value in installed_versions(PACKAGES).items())
    crowded = " Other work took a core: two threads waited for it." if machine.is_crowded(max(THREADS)) else ""
    return [
        f"4 layers, width {D_EMBED}, {N_CHANNELS} channels, windows of {WINDOW_SAMPLES} samples, patches of 50; random "
        f"weights; {n_runs} runs each, every variant in a process of its own, in turns of {STRETCH_RUNS} runs.",
        f"{machine.cpu}, {machine.n_cpus} CPUs, load before {machine.load_1min:.1f}.{crowded} {versions}. "
        f"Commit {git_commit()}.",
        "",
    ]


if __name__ == "__main__":
    main()
