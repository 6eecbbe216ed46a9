"""What a decision costs with the front end "mpf", hop by hop: filters, tokens, encoder, head or index.

    OMP_NUM_THREADS=1 python benchmarks/measure_chain.py --out benchmarks/results/chain.md

On this machine, on one thread, in turns: the C library and numpy, scipy and LAPACK, and the encoder and ONNX Runtime's
int8. Under QEMU: instructions of the C library on Arm's Cortex-A, and of the microcontroller's engine. Weights are
random and signals are noise, because the cost does not depend on them.
"""

import argparse
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from cpep_bench.latency import MIN_RUNS, Latency, measure_interleaved
from cpep_bench.machine import this_machine
from cpep_bench.onnx_peer import OnnxEncoder, onnx_program
from cpep_edge.files import write_file
from cpep_edge.head import Head, fit_head
from cpep_edge.input_stream import InputStream, Kernels
from cpep_edge.manifest import EncoderSpec, HeadSpec
from cpep_edge.mpf import MpfSpec, band_edges_hz, design_bands
from cpep_edge.native_encoder import NativeEncoder, NativeLibrary, native_kernels
from cpep_edge.pose_index import PoseIndex, build_index
from cpep_edge.preprocess import Preprocessing, design_filter
from cpep_edge.recogniser import answer
from cpep_edge.versions import code_version, installed_versions
from cpep_export.arm_toolchain import Processor, missing_tool
from cpep_export.cortex_m import DeviceHead, TargetRun, export_cortex_m
from cpep_export.fused import FusedEncoder
from cpep_export.lower import encoder_spec, lower
from cpep_export.native import NativeBuild, build_native, host_architecture
from cpep_export.prototypes import Prototypes
from cpep_export.quantise import quantise
from cpep_train.model import Embedder, EncoderConfig
from measure_runtimes import ARM_CPUS, counted_instructions

N_GESTURES = 11
N_PROTOTYPES = 550
D_EMBED = 96
DECISION_HOP_S = 0.1  # the default of a bundle
PROCESSORS: tuple[Processor, ...] = ("m55", "m7")
PACKAGES = ("executorch", "onnxruntime", "numpy", "scipy")
OURS, PEER = "C library", "numpy, scipy, LAPACK"
ENCODER, ONNX = "encoder, int8", "encoder, ONNX Runtime's static int8"
HEAD, INDEX = "head, of mean tokens", "index of poses"
TOKEN, TOKEN_PEER = f"one token's hop, {OURS}", f"one token's hop, {PEER}"
SIGNAL, SIGNAL_PEER = f"filters and tokens, {OURS}", f"filters and tokens, {PEER}"
CHAIN_HEAD, CHAIN_ALL = "whole chain, the head alone", "whole chain, encoder and index"


@dataclass(frozen=True, slots=True)
class Setup:
    """A band and its recogniser: an encoder of the recipe 3dc on tokens of 25 ms."""

    name: str
    rate_hz: float
    n_channels: int
    window_s: float
    span_s: float
    hop_s: float = 0.025

    @property
    def preprocessing(self) -> Preprocessing:
        notch_hz = 50.0 if self.rate_hz > 250 else None
        return Preprocessing(self.rate_hz, design_filter(self.rate_hz, 20.0, notch_hz), 20.0, 20.0)

    @property
    def front_end(self) -> MpfSpec:
        return MpfSpec(
            n_electrodes=self.n_channels,
            bands=design_bands(self.rate_hz, band_edges_hz(self.rate_hz, 20.0)),
            hop_samples=round(self.hop_s * self.rate_hz),
            span_samples=round(self.span_s * self.rate_hz),
            shrinkage=0.01,
        )

    @property
    def window_samples(self) -> int:
        return round(self.window_s * self.rate_hz)

    @property
    def n_tokens(self) -> int:
        return self.front_end.n_tokens(self.window_samples)

    def encoder(self) -> FusedEncoder:
        torch.manual_seed(0)
        config = EncoderConfig(self.front_end.n_features, self.n_tokens, 1, width=96, n_layers=2, mlp_ratio=2)
        return FusedEncoder(Embedder(config, D_EMBED).eval()).eval()


SETUPS = (
    Setup("16 electrodes, 2 kHz", 2000.0, 16, window_s=0.5, span_s=0.225),
    Setup("10 electrodes, 1 kHz (3DC)", 1000.0, 10, window_s=0.25, span_s=0.225),
    Setup("8 electrodes, 200 Hz (Myo)", 200.0, 8, window_s=0.5, span_s=0.225),
)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a setup."""

    setup: Setup
    windows: NDArray[np.float32]  # (n, F, N)
    encoder: FusedEncoder
    program: bytes
    spec: EncoderSpec
    head: Head
    head_spec: HeadSpec
    prototypes: Prototypes
    index: PoseIndex


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write.")
    parser.add_argument("--runs", type=int, default=1000, help=f"Calls of each part, at least {MIN_RUNS}.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        native = build_native(folder / "native", host_architecture())  # type: ignore[arg-type]
        made = [parts_of(setup) for setup in SETUPS]
        timed = [times_of(parts, native, options.runs) for parts in made]
        on_arm = instructions_on_arm(made, folder)
        on_chips = [chip_runs(parts, folder / str(number)) for number, parts in enumerate(made)]
        text = report(timed, on_arm, on_chips, options.runs)
    write_file(options.out, text)


def parts_of(setup: Setup) -> Parts:
    """Make the parts with random weights, and noise whose electrodes share sources, as in a gesture."""
    rng = np.random.default_rng(0)
    stream, encoder = InputStream(setup.preprocessing, setup.front_end, setup.n_channels), setup.encoder()
    label = np.repeat(np.arange(N_GESTURES), 8).astype(np.int64)
    mixing = rng.normal(size=(N_GESTURES, setup.n_channels, setup.n_channels))
    windows = np.stack([stream.last_window(noise_uv(setup, rng, mixing[k]), setup.n_tokens) for k in label])
    windows -= windows.mean(axis=(0, 2))[:, None]
    module = quantise(encoder, "int8", windows)
    program = lower(module, encoder.n_channels, encoder.window_samples)
    spec = encoder_spec(program, encoder, "int8", sum(one.numel() for one in encoder.parameters()))
    unit = rng.normal(size=(N_PROTOTYPES, D_EMBED))
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    prototypes = Prototypes(unit, np.arange(N_PROTOTYPES, dtype=np.int64) % N_GESTURES)
    head = fit_head(windows.mean(axis=2), label)
    head_spec = HeadSpec(file="head.npz", reads="tokens", gestures=tuple(range(N_GESTURES)))
    index = build_index(prototypes.embedding, prototypes.gesture_index, 0)
    return Parts(setup, windows, encoder, program.content, spec, head, head_spec, prototypes, index)


def noise_uv(setup: Setup, rng: np.random.Generator, mixing: NDArray[np.float64]) -> NDArray[np.float32]:
    """Raw noise as long as a window and a quarter of a second."""
    n_samples = setup.window_samples + round(0.25 * setup.rate_hz)
    signal: NDArray[np.float32] = (rng.normal(0, 20, (n_samples, setup.n_channels)) @ mixing).astype(np.float32)
    return signal


def times_of(parts: Parts, native: NativeBuild, n_runs: int) -> dict[str, Latency]:
    """Time every part and the whole chain in turns; a call takes the samples of one decision's hop or one token's."""
    setup = parts.setup
    files = tuple((file.name, file.read_bytes()) for file in native.libraries)
    library = NativeLibrary(native.architecture, files)
    encoder, peer = NativeEncoder(library, parts.program, parts.spec), onnx_encoder(parts)
    kernels = native_kernels(library)
    a_token = parts.setup.front_end.hop_samples
    a_decision = max(1, round(DECISION_HOP_S / setup.hop_s)) * a_token
    samples_uv = noise_uv(setup, np.random.default_rng(1), np.eye(setup.n_channels))
    window, embedding = parts.windows[0], encoder.embed(parts.windows[0])

    def stream(given: Kernels, n_samples: int) -> Callable[[], NDArray[np.float32]]:
        made = InputStream(setup.preprocessing, setup.front_end, setup.n_channels, kernels=given)
        made(samples_uv)  # so that every later span is complete
        hop_uv = samples_uv[:n_samples]
        return lambda: made(hop_uv)

    def ask_head(window: NDArray[np.float32]) -> object:
        return answer(window, embedding, parts.index, 10, parts.head_spec, parts.head, N_GESTURES)

    tokens = stream(kernels, a_decision)
    ring = np.ascontiguousarray(window)

    def next_window() -> NDArray[np.float32]:
        new = tokens().T
        ring[:, :-1] = ring[:, 1:]
        ring[:, -min(new.shape[1], ring.shape[1]) :] = new[:, -ring.shape[1] :]
        return ring

    calls: dict[str, Callable[[], object]] = {
        TOKEN: stream(kernels, a_token),
        TOKEN_PEER: stream(Kernels(), a_token),
        SIGNAL: stream(kernels, a_decision),
        SIGNAL_PEER: stream(Kernels(), a_decision),
        ENCODER: lambda: encoder.embed(window),
        ONNX: lambda: peer.embed(window),
        HEAD: lambda: ask_head(window),
        INDEX: lambda: parts.index.vote(embedding, 10),
        CHAIN_HEAD: lambda: ask_head(next_window()),
        CHAIN_ALL: lambda: parts.index.vote(encoder.embed(next_window()), 10),
    }
    return measure_interleaved(calls, n_runs, clock_ns=time.thread_time_ns)


def onnx_encoder(parts: Parts) -> OnnxEncoder:
    """The same encoder in ONNX Runtime, calibrated with the same windows."""
    return OnnxEncoder(onnx_program(parts.encoder, parts.windows, "int8-static"))


def instructions_on_arm(made: list[Parts], folder: Path) -> list[dict[str, tuple[int, int]]]:
    """Instructions of a token's hop after the filter and of an encoder's window, by Cortex-A; empty without tools."""
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if compiler is None or shutil.which("qemu-aarch64") is None or shutil.which("gcc") is None:
        return []
    here, plugin, program = Path(__file__).parent, folder / "count_instructions.so", folder / "front_end"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", plugin, here / "qemu" / "count_instructions.c"], check=True)
    arm = build_native(folder / "arm", "aarch64")
    library, include = arm.libraries[-1], here.parent / "export" / "native"
    link = ["-Wl,--allow-shlib-undefined", f"-Wl,-rpath,{library.parent}"]
    source = here / "qemu" / "front_end.c"
    subprocess.run([compiler, "-std=c99", "-O2", f"-I{include}", source, library, *link, "-o", program], check=True)
    counted = []
    for parts in made:
        spec, rows = parts.setup.front_end, {}
        sizes = (spec.n_electrodes, len(spec.bands), spec.hop_samples, spec.span_samples)
        (folder / "encoder.pte").write_bytes(parts.program)
        for cpu in ARM_CPUS:
            emulated = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-plugin", str(plugin), "-cpu", cpu]
            few, many = (
                counted_instructions([*emulated, str(program), *map(str, sizes), str(20 + n)]) for n in (0, 10)
            )
            runner = [*emulated, str(arm.runner), str(folder / "encoder.pte"), "-", "--raw"]
            one, three = (counted_instructions(runner, parts.windows[:n].tobytes()) for n in (1, 3))
            rows[cpu] = ((many - few) // 10, (three - one) // 2)
        counted.append(rows)
    return counted


def chip_runs(parts: Parts, folder: Path) -> dict[str, tuple[TargetRun, ...]]:
    """Run the golden stretches on both processors: with the head alone, and with the encoder and the index."""
    run_on = [processor for processor in PROCESSORS if missing_tool(processor) is None]
    setup, rng = parts.setup, np.random.default_rng(2)
    centred = setup.front_end.model_copy(update={"centre": (0.0,) * setup.front_end.n_features})
    ways = {
        "head alone": DeviceHead(centred, parts.head_spec, parts.head),
        "encoder and index": DeviceHead(centred),
    }
    runs = {}
    for name, behind in ways.items():
        written = export_cortex_m(
            parts.encoder,
            setup.preprocessing,
            parts.prototypes,
            [f"gesture {number}" for number in range(N_GESTURES)],
            folder / name,
            calibration=parts.windows[:24],
            golden_uv=noise_uv(setup, rng, np.eye(setup.n_channels))[None],
            behind=behind,
            run_on=run_on,
        )
        runs[name] = written.report.runs
    return runs


def report(
    timed: list[dict[str, Latency]],
    on_arm: list[dict[str, tuple[int, int]]],
    on_chips: list[dict[str, tuple[TargetRun, ...]]],
    n_runs: int,
) -> str:
    """The report: three tables, and how they were measured."""
    machine, names = this_machine(), [setup.name for setup in SETUPS]
    versions = ", ".join(f"{name} {value}" for name, value in installed_versions(PACKAGES).items())
    lines = [
        '# What a decision costs with the front end "mpf"',
        "",
        f"Microseconds that one thread computes, median and 95th percentile; a hop is {DECISION_HOP_S * 1e3:.0f} ms "
        "of signal, four tokens, unless one token's is said.",
        "",
        f"| part | {' | '.join(names)} |",
        "| --- |" + " --: |" * len(names),
        *(
            f"| {part} | {' | '.join(f'{t[part].p50_ms * 1e3:.0f}, {t[part].p95_ms * 1e3:.0f}' for t in timed)} |"
            for part in timed[0]
        ),
        "",
        *_arm_table(on_arm, names),
        *_chip_table(on_chips),
        f"Encoder: width 96, 2 layers, {D_EMBED} numbers out, on tokens of 25 ms over spans of 225 ms; "
        + "; ".join(f"{s.name}: {s.front_end.n_features} numbers a token, {s.n_tokens} a window" for s in SETUPS)
        + f". Head and index: {N_GESTURES} gestures, {N_PROTOTYPES} prototypes. {n_runs} calls of each part, in turns.",
        "",
        f"`OMP_NUM_THREADS=1 python benchmarks/measure_chain.py --out benchmarks/results/chain.md`, commit "
        f"{code_version('cpep_edge', 'export', 'benchmarks/*.py')}. {machine.cpu}, {machine.n_cpus} CPUs, load "
        f"{machine.load_1min:.1f}. {versions}. Instructions are no cycles.",
        "",
    ]
    return "\n".join(lines)


def _arm_table(on_arm: list[dict[str, tuple[int, int]]], names: list[str]) -> list[str]:
    if not on_arm:
        return ["Instructions on Cortex-A were not counted: qemu-user or the cross-compiler is missing.", ""]
    rows = [
        f"| {what}, {cpu} | {' | '.join(f'{one[cpu][place]:,}' for one in on_arm)} |"
        for place, what in enumerate(("a token: bands, covariances, logarithms", "a window of the encoder"))
        for cpu in ARM_CPUS
    ]
    return [
        f"| instructions of the C library, QEMU | {' | '.join(names)} |",
        "| --- |" + " --: |" * len(names),
        *rows,
        "",
    ]


def _chip_table(on_chips: list[dict[str, tuple[TargetRun, ...]]]) -> list[str]:
    if not any(runs for one in on_chips for runs in one.values()):
        return ["Instructions on Cortex-M were not counted: the compiler or qemu-system-arm is missing.", ""]
    lines = [
        "| the chip's engine, QEMU | processor | a sample: filters, covariances | a token: logarithms | a window: "
        "mean, encoder, answer | a second, M | code kB | constants kB | RAM kB |",
        "| --- | --- |" + " --: |" * 7,
    ]
    for setup, ways in zip(SETUPS, on_chips, strict=True):
        for way, runs in ways.items():
            for run in runs:
                check = run.check
                a_second = (
                    setup.rate_hz * check.sample_instructions
                    + check.token_instructions / setup.hop_s
                    + check.window_instructions / DECISION_HOP_S
                )
                lines.append(
                    f"| {setup.name}, {way} | {run.processor} | {check.sample_instructions:,} "
                    f"| {check.token_instructions:,} | {check.window_instructions:,} | {a_second * 1e-6:.1f} "
                    f"| {run.sizes.code_bytes * 1e-3:.1f} | {run.sizes.constant_bytes * 1e-3:.0f} "
                    f"| {run.ram_bytes * 1e-3:.0f} |"
                )
    return [*lines, ""]


if __name__ == "__main__":
    main()
