"""What each way to run the encoder costs: the C++ runner, Python over the C library, ExecuTorch's Python bindings.

    python benchmarks/measure_runtimes.py --out benchmarks/results/runtimes-paper-size.md

Start-up is the time of a fresh process until its first embedding; memory is the peak of that process. Times per window
are measured in turns. Weights are random, because time does not depend on them. Instructions on Arm are counted under
QEMU, in every quantisation, if qemu-user and the cross-compiler are installed.
"""

import argparse
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from cpep_bench.latency import MIN_RUNS, measure_interleaved
from cpep_bench.machine import this_machine
from cpep_edge.encoder import open_encoder
from cpep_edge.errors import CpepError
from cpep_edge.files import write_file
from cpep_edge.manifest import EncoderSpec
from cpep_edge.native_encoder import NativeEncoder, NativeLibrary
from cpep_edge.versions import code_version, installed_versions
from cpep_export.fused import FusedEncoder
from cpep_export.lower import Program, encoder_spec, lower
from cpep_export.native import NativeBuild, build_native, host_architecture
from cpep_export.quantise import Quantisation, quantise
from cpep_train.model import Embedder, EncoderConfig

PAPER_SIZE = EncoderConfig(n_channels=16, window_samples=4000, patch_samples=50, width=256, n_layers=4, n_heads=4)
D_EMBED = 256
N_CALIBRATION = 32
TIMED: Quantisation = "int8"
QUANTISATIONS = get_args(Quantisation)
N_STARTS = 11
ARM_CPUS = ("cortex-a72", "cortex-a76")  # Raspberry Pi 4 and 5
PACKAGES = ("executorch", "torch", "numpy")

# The code of the two Python ways in a fresh process; arguments: program, spec, window, folder of libraries.
_FRESH = """
import sys
from pathlib import Path
program, spec, window = (Path(argument).read_bytes() for argument in sys.argv[1:4])
import numpy as np
from cpep_edge.manifest import EncoderSpec
{imports}
spec = EncoderSpec.model_validate_json(spec)
encoder = {encoder}
embedding = encoder.embed(np.frombuffer(window, np.float32).reshape(spec.n_channels, spec.window_samples))
sys.stdout.buffer.write(embedding.tobytes())
sys.stdout.flush()
"""
_SAY_PEAK = """
sys.stderr.write(Path("/proc/self/status").read_text())
"""
BINDINGS = _FRESH.format(imports="from cpep_edge.encoder import open_encoder", encoder="open_encoder(program, spec)")
NATIVE = _FRESH.format(
    imports="from cpep_edge.native_encoder import NativeEncoder, NativeLibrary",
    encoder=(
        "NativeEncoder(NativeLibrary(sys.argv[4], "
        "tuple((Path(file).name, Path(file).read_bytes()) for file in sys.argv[5:])), program, spec)"
    ),
)


@dataclass(frozen=True, slots=True)
class Start:
    """The start-up of one way, over several fresh processes."""

    first_ms: float  # median, from the start of the process to its end, right after the first embedding
    cpu_ms: float  # median CPU time of all its threads, which depends less on other load
    peak_rss_mb: float  # 1 MB = 10^6 bytes


@dataclass(frozen=True, slots=True)
class Subject:
    """The files of one encoder and one window."""

    program: Path
    others: dict[Quantisation, Path]  # programs in other quantisations, only to count instructions
    spec: Path
    window: Path
    native: NativeBuild


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write.")
    parser.add_argument("--runs", type=int, default=MIN_RUNS, help="Inferences of each way, at least 200.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as scratch:
        subject = _prepare(Path(scratch))
        starts = _starts(subject)
        p50_ms = _p50_ms(subject, options.runs)
        instructions = _instructions(subject, Path(scratch))
        report = _report(subject, starts, p50_ms, instructions, options.runs)
    write_file(options.out, report)


def _prepare(folder: Path) -> Subject:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    module = FusedEncoder(Embedder(PAPER_SIZE, D_EMBED).eval()).eval()
    calibration = rng.normal(size=(N_CALIBRATION, module.n_channels, module.window_samples)).astype(np.float32)
    native = build_native(folder / "native", host_architecture())  # type: ignore[arg-type]
    program = _program(module, TIMED, calibration)
    spec = encoder_spec(program, module, TIMED, sum(one.numel() for one in module.parameters()))
    others: dict[Quantisation, Path] = {name: folder / f"{name}.pte" for name in QUANTISATIONS if name != TIMED}
    for name, file in others.items():
        file.write_bytes(_program(module, name, calibration).content)
    subject = Subject(folder / "encoder.pte", others, folder / "spec.json", folder / "window.f32", native)
    subject.program.write_bytes(program.content)
    subject.spec.write_text(spec.model_dump_json())
    calibration[0].tofile(subject.window)
    return subject


def _program(module: FusedEncoder, name: Quantisation, calibration: NDArray[np.float32]) -> Program:
    return lower(quantise(module, name, calibration), module.n_channels, module.window_samples)


def _starts(subject: Subject) -> dict[str, Start]:
    """Start fresh processes of every way in turns; their embeddings must be equal byte for byte."""
    files = [str(subject.program), str(subject.spec), str(subject.window)]
    libraries = [subject.native.architecture, *map(str, subject.native.libraries)]
    runner = [str(subject.native.runner), str(subject.program), str(subject.window)]
    commands = {
        "C++ runner": ([*runner, "--raw"], [*runner, "--bench", "1"]),
        "Python, C library": _python(NATIVE, [*files, *libraries]),
        "Python, bindings and torch": _python(BINDINGS, files),
    }
    times_ms: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    answers = set()
    for _ in range(N_STARTS):
        for name, (timed, _peak) in commands.items():
            before_s, start_ns = _cpu_of_children_s(), time.perf_counter_ns()
            answers.add(subprocess.run(timed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout)
            wall_ms, cpu_ms = (time.perf_counter_ns() - start_ns) * 1e-6, (_cpu_of_children_s() - before_s) * 1e3
            times_ms[name].append((wall_ms, cpu_ms))
    if len(answers) != 1:
        raise CpepError("the ways to run the encoder do not give the same bytes")
    return {name: _start(times_ms[name], peak) for name, (_, peak) in commands.items()}


def _start(times_ms: list[tuple[float, float]], peak: list[str]) -> Start:
    first_ms, cpu_ms = (statistics.median(column) for column in zip(*times_ms, strict=True))
    return Start(first_ms, cpu_ms, _peak_rss_mb(peak))


def _cpu_of_children_s() -> float:
    """The CPU time of all ended child processes so far, user and system."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _python(code: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """The command to be timed, and the one that also prints its peak memory."""
    return [sys.executable, "-c", code, *arguments], [sys.executable, "-c", code + _SAY_PEAK, *arguments]


def _peak_rss_mb(command: list[str]) -> float:
    done = subprocess.run(command, capture_output=True, check=True)
    kilobytes = re.search(rb"VmHWM:\s*(\d+) kB", done.stderr)
    if kilobytes is not None:
        return int(kilobytes[1]) * 1024e-6
    said = re.search(rb'"peak_rss_bytes": (\d+)', done.stdout)
    if said is None:
        raise CpepError(f"{command[0]} did not say its peak of memory")
    return int(said[1]) * 1e-6


def _p50_ms(subject: Subject, n_runs: int) -> dict[str, float]:
    """Median times of a window. The runner, which times itself, runs between two halves of the others' runs."""
    program, spec = subject.program.read_bytes(), EncoderSpec.model_validate_json(subject.spec.read_text())
    window = np.fromfile(subject.window, np.float32).reshape(spec.n_channels, spec.window_samples)
    files = tuple((file.name, file.read_bytes()) for file in subject.native.libraries)
    native = NativeEncoder(NativeLibrary(subject.native.architecture, files), program, spec)
    bindings = open_encoder(program, spec)
    calls: dict[str, Callable[[], object]] = {
        "Python, C library": lambda: native.embed(window),
        "Python, bindings and torch": lambda: bindings.embed(window),
    }
    runner = [str(subject.native.runner), str(subject.program), str(subject.window), "--bench", str(n_runs)]
    first = measure_interleaved(calls, n_runs)
    said = re.search(rb'"p50_ms": ([\d.]+)', subprocess.run(runner, capture_output=True, check=True).stdout)
    second = measure_interleaved(calls, n_runs)
    halves = {name: (first[name].p50_ms + second[name].p50_ms) / 2 for name in calls}
    return {"C++ runner": float(said[1]) if said else float("nan"), **halves}


def _instructions(subject: Subject, folder: Path) -> dict[Quantisation, dict[str, int]]:
    """Instructions of one window on Arm, by quantisation and processor; empty without the tools."""
    qemu, compiler = shutil.which("qemu-aarch64"), shutil.which("gcc")
    if qemu is None or compiler is None or shutil.which("aarch64-linux-gnu-g++") is None:
        return {}
    plugin = folder / "count_instructions.so"
    source = Path(__file__).parent / "qemu" / "count_instructions.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", plugin, source], check=True)
    arm = build_native(folder / "arm", "aarch64")
    emulated = (qemu, "-L", "/usr/aarch64-linux-gnu", "-plugin", str(plugin))
    windows = subject.window.read_bytes()
    counts: dict[Quantisation, dict[str, int]] = {}
    for name, program in ({TIMED: subject.program} | subject.others).items():
        counts[name] = {}
        for cpu in ARM_CPUS:
            command = [*emulated, "-cpu", cpu, str(arm.runner), str(program), "-", "--raw"]
            one, three = (counted_instructions(command, windows * n_windows) for n_windows in (1, 3))
            counts[name][cpu] = (three - one) // 2  # the difference removes the cost of loading
    return counts


def counted_instructions(command: list[str], given: bytes = b"") -> int:
    """The number of instructions of a process under QEMU with the counting plugin; given: its standard input."""
    done = subprocess.run(command, input=given, capture_output=True, check=True)
    return int(done.stderr.split()[-1])


def _report(
    subject: Subject,
    starts: dict[str, Start],
    p50_ms: dict[str, float],
    instructions: dict[Quantisation, dict[str, int]],
    n_runs: int,
) -> str:
    machine = this_machine()
    versions = ", ".join(f"{name} {value}" for name, value in installed_versions(PACKAGES).items())
    lines = [
        "| way | start to first embedding ms | of it computing ms | peak RSS MB | p50 a window ms |",
        "| --- | --: | --: | --: | --: |",
        *(
            f"| {name} | {start.first_ms:.0f} | {start.cpu_ms:.0f} | {start.peak_rss_mb:.1f} | {p50_ms[name]:.2f} |"
            for name, start in starts.items()
        ),
        "",
        f"Same bytes from all. Median of {N_STARTS} fresh processes each, in turn; {n_runs} windows each or more.",
        "",
        *_instruction_table(instructions),
        "",
        f"4 layers, width 256, 16 channels, windows of 4000 samples, patches of 50; {TIMED}, one thread. Library and "
        f"runner: {subject.native.size_bytes:,} bytes.",
        f"`python benchmarks/measure_runtimes.py`, commit {code_version('cpep_edge', 'export', 'benchmarks/*.py')}. "
        f"{machine.cpu}, {machine.n_cpus} CPUs, load {machine.load_1min:.1f}. {versions}.",
        "",
    ]
    return "\n".join(lines)


def _instruction_table(instructions: dict[Quantisation, dict[str, int]]) -> list[str]:
    if not instructions:
        return ["Instructions on Arm were not counted: qemu-user or the cross-compiler is missing."]
    return [
        f"| instructions a window, under QEMU | {' | '.join(ARM_CPUS)} |",
        f"| --- |{' --: |' * len(ARM_CPUS)}",
        *(
            f"| {name} | {' | '.join(f'{counts[cpu]:,}' for cpu in ARM_CPUS)} |"
            for name, counts in instructions.items()
        ),
    ]


if __name__ == "__main__":
    main()
