"""Every way to run a trained encoder, as a file, so that fresh processes can measure its time and memory.

    python benchmarks/encoder_variants.py serve FOLDER NAME THREADS     run it on request, see cpep_bench.interleaving
    python benchmarks/encoder_variants.py cold FOLDER NAME              the same, with caches filled by other work
    python benchmarks/encoder_variants.py peak FOLDER NAME              print the peak memory of its process in bytes

`measure_encoder.py` prepares the folder and calls this.
"""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_bench.interleaving import serve

EAGER = "torch eager fp32"
WINDOWS_FILE = "windows.npy"  # (n, n_channels, window_samples) float32, preprocessed
RUN_LINK = "run"  # link to the folder of the training
_OTHER_WORK = 8_000_000  # numbers of 8 bytes that other work uses: twice a large cache

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the encoder; its file in the folder has its name."""

    name: str
    suffix: str  # .pte, .onnx, or none for the module
    d_embed: int
    n_delegates: int | None = None
    n_operators_outside: int | None = None
    arena_bytes: int | None = None
    block_samples: int | None = None  # per run of a streaming encoder
    n_blocks: int = 1  # blocks of a window

    @property
    def file(self) -> str:
        return re.sub(r"\W+", "-", self.name) + self.suffix

    def embeddings(self, folder: Path) -> Path:
        """The file with its embeddings of all windows, (n_windows, d_embed), which `serve` writes."""
        return folder / f"{self.file}.npy"

    def size_bytes(self, folder: Path) -> int | None:
        """The size of the file; None for the module."""
        return (folder / self.file).stat().st_size if self.suffix else None


def read_variants(folder: Path) -> list[Variant]:
    """The variants that `write_variants` listed in the folder."""
    return [Variant(**fields) for fields in json.loads((folder / "variants.json").read_text())]


def write_variants(folder: Path, variants: list[Variant]) -> None:
    """Write the list of variants into the folder."""
    (folder / "variants.json").write_text(json.dumps([asdict(variant) for variant in variants]))


def open_variant(folder: Path, variant: Variant, n_threads: int) -> tuple[Run, Run]:
    """Load a variant; returns a function for whole windows, and one for the input of one run: a window or a block."""
    if variant.suffix == ".pte":
        return _xnnpack(folder, variant, n_threads)
    if variant.suffix == ".onnx":
        from cpep_bench.onnx_peer import OnnxEncoder

        embed = OnnxEncoder((folder / variant.file).read_bytes(), n_threads).embed
    else:
        embed = _eager(folder, n_threads)
    return embed, embed


def _xnnpack(folder: Path, variant: Variant, n_threads: int) -> tuple[Run, Run]:
    import platform

    from cpep_edge.manifest import EncoderSpec, StreamSpec
    from cpep_edge.native_encoder import NativeEncoder, NativeLibrary
    from cpep_edge.streaming import StreamingRunner
    from cpep_export.native import LIBRARY, SDK_LIBRARIES

    files = tuple((name, (folder / "native" / name).read_bytes()) for name in (*SDK_LIBRARIES, LIBRARY))
    stream = None
    if variant.block_samples is not None:
        stream = StreamSpec(block_samples=variant.block_samples, n_blocks=variant.n_blocks)
    _, n_channels, window_samples = _windows(folder).shape
    spec = EncoderSpec(
        file="encoder.pte",
        runtime="executorch-xnnpack",
        quantisation="int8",
        n_channels=n_channels,
        window_samples=window_samples,
        d_embed=variant.d_embed,
        n_parameters=1,
        n_delegates=1,
        n_operators_outside=0,
        stream=stream,
    )
    library = NativeLibrary(platform.machine(), files)
    encoder = NativeEncoder(library, (folder / variant.file).read_bytes(), spec, n_threads)
    return (encoder if stream is None else StreamingRunner(encoder, spec)).embed, encoder.embed


def _eager(folder: Path, n_threads: int) -> Run:
    import torch

    from cpep_train.checkpoint import load_checkpoint

    torch.set_num_threads(n_threads)
    module = load_checkpoint(folder / RUN_LINK).emg.eval()

    def run(window: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            embedding: NDArray[np.float32] = module(torch.from_numpy(window[None]))[0].numpy()
        return embedding

    return run


def _serve(folder: Path, name: str, n_threads: int) -> None:
    """Write the embeddings of all windows to the variant's folder, then run on request."""
    variant = _named(folder, name)
    embed, run = open_variant(folder, variant, n_threads)
    if not variant.embeddings(folder).exists():
        np.save(variant.embeddings(folder), np.stack([embed(np.array(window)) for window in _windows(folder)]))
    given = _of_one_run(folder, variant)
    serve(lambda: run(given))


def _serve_cold(folder: Path, name: str) -> None:
    variant, others = _named(folder, name), np.zeros(_OTHER_WORK)
    _, run = open_variant(folder, variant, 1)
    given = _of_one_run(folder, variant)
    serve(lambda: run(given), before=lambda: np.add(others, 1, out=others))


def _peak(folder: Path, name: str) -> None:
    variant = _named(folder, name)
    _, run = open_variant(folder, variant, 1)
    given = _of_one_run(folder, variant)
    for _ in range(3):
        run(given)
    status = Path("/proc/self/status").read_text()
    sys.stdout.write(str(int(status.partition("VmHWM:")[2].split()[0]) * 1024))


def _windows(folder: Path) -> NDArray[np.float32]:
    windows: NDArray[np.float32] = np.load(folder / WINDOWS_FILE, mmap_mode="r")
    return windows


def _of_one_run(folder: Path, variant: Variant) -> NDArray[np.float32]:
    return np.array(_windows(folder)[0, :, : variant.block_samples])


def _named(folder: Path, name: str) -> Variant:
    return next(variant for variant in read_variants(folder) if variant.name == name)


if __name__ == "__main__":
    what, place, name, *rest = sys.argv[1:]
    if what == "serve":
        _serve(Path(place), name, int(*rest))
    elif what == "cold":
        _serve_cold(Path(place), name)
    else:
        _peak(Path(place), name)
