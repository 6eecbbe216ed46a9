"""Other people's runtimes for the encoder, and ours, each in a process of its own and timed in turns.

They run the module that a bundle was exported from, because a program cannot be converted back. All get the same number
of threads. This file is also what those processes run.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpep_bench.onnx_peer import OnnxEncoder, OnnxKind, onnx_program
from cpep_bench.openvino_peer import OpenVinoEncoder
from cpep_bench.report import PeerFigure
from cpep_bench.turns import serve, take_turns
from cpep_edge.bundle import Bundle, EncoderSpec
from cpep_edge.errors import ConfigError
from cpep_edge.recogniser import Recogniser

if TYPE_CHECKING:
    from torch import nn

OURS = "cpep-edge"
PART = "encoder"

_WINDOWS_FILE = "windows.npy"
_OPENVINO: tuple[tuple[OnnxKind, str, str], ...] = (
    ("fp32", "OpenVINO float", "latency hint, its own choice of precision"),
    ("int8-static", "OpenVINO int8", "latency hint, ONNX Runtime's calibration"),
)

Windows = NDArray[np.float32]  # (n_windows, n_channels, window_samples), preprocessed
Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # a window to its embedding


@dataclass(frozen=True, slots=True)
class _Contender:
    """One way to run the encoder."""

    name: str
    setting: str
    opener: str  # of _OPENERS
    source: Path  # what it opens
    size_bytes: int | None = None

    def command(self, folder: Path, n_threads: int) -> list[str]:
        """Of the process that runs it."""
        arguments = (self.opener, self.source, n_threads, folder / _WINDOWS_FILE, self.embeddings(folder))
        return [sys.executable, "-W", "ignore", "-m", "cpep_bench.encoder_peers", *map(str, arguments)]

    def embeddings(self, folder: Path) -> Path:
        """Where its process writes the embeddings of all windows."""
        return folder / f"{self.name}.npy"


def race_encoders(
    names: Sequence[str], bundle: Path, spec: EncoderSpec, windows: Windows, run: Path, *, n_threads: int, n_runs: int
) -> Iterator[PeerFigure]:
    """Time these peers beside the encoder of a bundle.

    names: onnxruntime, openvino, torch, torch.compile
    run: the training that the bundle came from
    Raises ConfigError when it is another's, CpepError when a peer's process fails.
    """
    import torch

    module = _module(run, spec)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.save(folder / _WINDOWS_FILE, windows)
        contenders = list(_contenders(names, module, bundle, spec, windows, run, folder))
        commands = {contender.name: contender.command(folder, n_threads) for contender in contenders}
        times = take_turns(commands, n_runs)
        with torch.inference_mode():
            expected = module(torch.from_numpy(windows)).numpy()
        for who in contenders:
            cosine = np.sum(np.load(who.embeddings(folder)) * expected, axis=1).min()
            agreement = f"cosine {cosine:.4f}"
            yield PeerFigure(PART, who.name, who.setting, times[who.name].wall, who.size_bytes, agreement)


def _contenders(
    names: Sequence[str],
    module: "nn.Module",
    bundle: Path,
    spec: EncoderSpec,
    windows: Windows,
    run: Path,
    folder: Path,
) -> Iterator[_Contender]:
    size_bytes = (bundle / spec.file).stat().st_size
    yield _Contender(OURS, f"{spec.quantisation}, XNNPACK", "bundle", bundle, size_bytes)
    if "onnxruntime" in names:
        for kind in ("fp32", "int8-static", "int8-dynamic"):
            file = _onnx_file(module, windows, kind, folder)
            yield _Contender(f"ONNX Runtime {kind}", "all optimisations", "onnxruntime", file, file.stat().st_size)
    if "openvino" in names:
        for kind, name, setting in _OPENVINO:
            file = _onnx_file(module, windows, kind, folder)
            yield _Contender(name, setting, "openvino", file, file.stat().st_size)
    if "torch" in names:
        yield _Contender("torch eager", "fp32, inference mode", "torch", run)
    if "torch.compile" in names:
        yield _Contender("torch.compile", "fp32, Inductor, fixed shape", "torch.compile", run)


def _onnx_file(module: "nn.Module", windows: Windows, kind: OnnxKind, folder: Path) -> Path:
    file = folder / f"{kind}.onnx"
    if not file.exists():
        file.write_bytes(onnx_program(module, windows, kind))
    return file


def _module(run: Path, spec: EncoderSpec | None = None) -> "nn.Module":
    from cpep_train.checkpoint import load_checkpoint

    module = load_checkpoint(run).emg.eval()
    n_parameters = sum(parameter.numel() for parameter in module.parameters())
    if spec is not None and n_parameters != spec.n_parameters:
        raise ConfigError(
            f"--run {run}: its encoder has {n_parameters:,} parameters, the bundle's has {spec.n_parameters:,}: name "
            "the training that the bundle was exported from"
        )
    return module


def _torch(run: Path, n_threads: int, *, compiled: bool) -> Embed:
    import torch

    torch.set_num_threads(n_threads)
    module: Callable[[torch.Tensor], torch.Tensor] = _module(run)
    if compiled:
        module = torch.compile(module, fullgraph=True, dynamic=False)

    def embed(window: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            embedding: NDArray[np.float32] = module(torch.from_numpy(window[None])).numpy()[0]
        return embedding

    return embed


_OPENERS: dict[str, Callable[[Path, int], Embed]] = {
    "bundle": lambda bundle, n_threads: Recogniser(Bundle(bundle), n_threads).encoder.embed,
    "onnxruntime": lambda file, n_threads: OnnxEncoder(file.read_bytes(), n_threads).embed,
    "openvino": lambda file, n_threads: OpenVinoEncoder(file, n_threads).embed,
    "torch": lambda run, n_threads: _torch(run, n_threads, compiled=False),
    "torch.compile": lambda run, n_threads: _torch(run, n_threads, compiled=True),
}


def _be(opener: str, source: str, n_threads: str, windows: str, embeddings: str) -> None:
    """A contender's process: embed all windows once, then a window when told to."""
    embed, inputs = _OPENERS[opener](Path(source), int(n_threads)), np.load(windows)
    np.save(embeddings, np.stack([embed(window).copy() for window in inputs]))
    serve(lambda: embed(inputs[0]))


if __name__ == "__main__":
    _be(*sys.argv[1:])
