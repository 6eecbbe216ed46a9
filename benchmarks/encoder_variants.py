"""The encoder of the paper's size in every way to run it, as files, so that fresh processes can time and weigh them.

    python benchmarks/encoder_variants.py time FOLDER THREADS RUNS      latencies of all, interleaved, as JSON
    python benchmarks/encoder_variants.py peak FOLDER NAME              peak memory of a process for one, bytes

`measure_encoder.py` prepares the folder and calls this. Weights are random, because time does not depend on them.
"""

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

N_CHANNELS, WINDOW_SAMPLES, D_EMBED = 16, 4000, 256
N_WINDOWS = 16
N_WARM_UP = 20
BLOCK_PATCHES = 4  # of the streaming encoder: a block of 100 ms, which is the hop of live use
EAGER = "torch eager fp32"
WINDOWS_FILE = "windows.npy"

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the encoder; its file lies in the folder under its name."""

    name: str
    suffix: str  # .pte, .onnx, or none for the module, which is made anew from its seed
    n_delegates: int | None = None
    n_operators_outside: int | None = None
    arena_bytes: int | None = None
    n_samples: int = WINDOW_SAMPLES  # of one run

    @property
    def file(self) -> str:
        return re.sub(r"\W+", "-", self.name) + self.suffix

    def size_bytes(self, folder: Path) -> int | None:
        """Of the file; None for the module."""
        return (folder / self.file).stat().st_size if self.suffix else None


def paper_size_module(block_patches: int = 0):  # type: ignore[no-untyped-def]  # torch is imported only where it runs
    """The module at the paper's size with weights from a fixed seed, in evaluation mode; streaming with blocks."""
    import torch

    from cpep_train.model import Embedder, EncoderConfig

    torch.manual_seed(0)
    size = EncoderConfig(N_CHANNELS, WINDOW_SAMPLES, 50, width=256, n_layers=4, n_heads=4, block_patches=block_patches)
    return Embedder(size, D_EMBED).eval()


def read_variants(folder: Path) -> list[Variant]:
    """What `write_variants` left in the folder."""
    return [Variant(**fields) for fields in json.loads((folder / "variants.json").read_text())]


def write_variants(folder: Path, variants: list[Variant]) -> None:
    """Say in the folder what lies in it."""
    (folder / "variants.json").write_text(json.dumps([asdict(variant) for variant in variants]))


def open_variant(folder: Path, variant: Variant, n_threads: int) -> Run:
    """Ready to run, on so many threads."""
    if variant.suffix == ".pte":
        return _xnnpack(folder, variant, n_threads)
    if variant.suffix == ".onnx":
        from cpep_bench.onnx_peer import OnnxEncoder

        return OnnxEncoder((folder / variant.file).read_bytes(), n_threads).embed
    return _eager(n_threads)


def _xnnpack(folder: Path, variant: Variant, n_threads: int) -> Run:
    import platform

    from cpep_edge.bundle import EncoderSpec, StreamSpec
    from cpep_edge.native_encoder import NativeEncoder, NativeLibrary
    from cpep_export.native import LIBRARY, SDK_LIBRARIES

    files = tuple((name, (folder / "native" / name).read_bytes()) for name in (*SDK_LIBRARIES, LIBRARY))
    spec = EncoderSpec(
        file="encoder.pte",
        runtime="executorch-xnnpack",
        quantisation="int8",
        n_channels=N_CHANNELS,
        window_samples=WINDOW_SAMPLES,
        d_embed=D_EMBED,
        n_parameters=1,
        n_delegates=1,
        n_operators_outside=0,
        stream=None if variant.n_samples == WINDOW_SAMPLES else StreamSpec(block_samples=variant.n_samples, n_blocks=1),
    )
    program = (folder / variant.file).read_bytes()
    return NativeEncoder(NativeLibrary(platform.machine(), files), program, spec, n_threads).embed


def _eager(n_threads: int) -> Run:
    import torch

    torch.set_num_threads(n_threads)
    module = paper_size_module()

    def run(window: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            embedding: NDArray[np.float32] = module(torch.from_numpy(window[None]))[0].numpy()
        return embedding

    return run


def _time(folder: Path, n_threads: int, n_runs: int) -> dict[str, dict[str, float]]:
    """Times and cosine by variant. A processor's time leaves out what else the machine did; only one thread has it."""
    windows, variants = np.load(folder / WINDOWS_FILE), read_variants(folder)
    runs = {variant.name: open_variant(folder, variant, n_threads) for variant in variants}
    inputs = {variant.name: np.ascontiguousarray(windows[0, :, : variant.n_samples]) for variant in variants}
    times_ms = np.empty((N_WARM_UP + n_runs, len(runs), 2))
    for row in times_ms:
        for name, cell in zip(runs, row, strict=True):
            start_ns, start_cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
            runs[name](inputs[name])
            cell[:] = (time.perf_counter_ns() - start_ns) * 1e-6, (time.thread_time_ns() - start_cpu_ns) * 1e-6
    measured = {}
    for name, (wall_ms, cpu_ms) in zip(runs, times_ms[N_WARM_UP:].transpose(1, 2, 0), strict=True):
        percentiles = dict(zip(("p50", "p95", "p99", "max"), np.percentile(wall_ms, (50, 95, 99, 100)), strict=True))
        measured[name] = {**percentiles, "cpu": float(np.median(cpu_ms))}
    expected = np.stack([runs[EAGER](window) for window in windows])
    for variant in variants:
        if variant.n_samples == WINDOW_SAMPLES:
            embedding = np.stack([runs[variant.name](window) for window in windows])
            measured[variant.name]["cosine"] = float(np.sum(embedding * expected, axis=1).min())
    return measured


def _peak(folder: Path, name: str) -> str:
    variant = next(variant for variant in read_variants(folder) if variant.name == name)
    run = open_variant(folder, variant, 1)
    window = np.array(np.load(folder / WINDOWS_FILE, mmap_mode="r")[0, :, : variant.n_samples])
    for _ in range(3):
        run(window)
    status = Path("/proc/self/status").read_text()
    return str(int(status.partition("VmHWM:")[2].split()[0]) * 1024)


if __name__ == "__main__":
    what, place, *rest = sys.argv[1:]
    print(json.dumps(_time(Path(place), int(rest[0]), int(rest[1]))) if what == "time" else _peak(Path(place), rest[0]))
