"""The encoder of the paper's size in every way to run it, as files, so that fresh processes can time and weigh them.

    python benchmarks/encoder_variants.py serve FOLDER NAME THREADS     runs one when told to, see cpep_bench.turns
    python benchmarks/encoder_variants.py peak FOLDER NAME              peak memory of a process for one, bytes

`measure_encoder.py` prepares the folder and calls this. Weights are random, because time does not depend on them.
"""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_bench.turns import serve

N_CHANNELS, WINDOW_SAMPLES, D_EMBED = 16, 4000, 256
N_WINDOWS = 16
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

    def embeddings(self, folder: Path) -> Path:
        """Where its embeddings of all windows are, (n_windows, d_embed), once it served."""
        return folder / f"{self.file}.npy"

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


def _serve(folder: Path, name: str, n_threads: int) -> None:
    """Write the embeddings of all windows beside the variant's file, then run when told to."""
    windows, variant = np.load(folder / WINDOWS_FILE), _named(folder, name)
    run = open_variant(folder, variant, n_threads)
    if variant.n_samples == WINDOW_SAMPLES:
        np.save(variant.embeddings(folder), np.stack([run(window) for window in windows]))
    window = np.ascontiguousarray(windows[0, :, : variant.n_samples])
    serve(lambda: run(window))


def _peak(folder: Path, name: str) -> None:
    variant = _named(folder, name)
    run = open_variant(folder, variant, 1)
    window = np.array(np.load(folder / WINDOWS_FILE, mmap_mode="r")[0, :, : variant.n_samples])
    for _ in range(3):
        run(window)
    status = Path("/proc/self/status").read_text()
    sys.stdout.write(str(int(status.partition("VmHWM:")[2].split()[0]) * 1024))


def _named(folder: Path, name: str) -> Variant:
    return next(variant for variant in read_variants(folder) if variant.name == name)


if __name__ == "__main__":
    what, place, name, *rest = sys.argv[1:]
    if what == "serve":
        _serve(Path(place), name, int(*rest))
    else:
        _peak(Path(place), name)
