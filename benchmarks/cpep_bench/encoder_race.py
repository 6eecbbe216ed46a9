"""Time encoders in turns, each in its own process: ours on several threads, and ours with other runtimes.

The other runtimes run the module that the bundle was exported from, because an exported program cannot be converted
back. They get as many threads as ours. The processes run this file, too.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpep_bench.interleaving import interleave, serve
from cpep_bench.latency import Latency
from cpep_bench.onnx_peer import OnnxEncoder, OnnxKind, OpenVinoEncoder, onnx_program
from cpep_bench.report import PeerFigure
from cpep_edge.bundle import Bundle
from cpep_edge.errors import ArtifactError, ConfigError
from cpep_edge.golden import COSINE_TOLERANCE
from cpep_edge.manifest import EncoderSpec
from cpep_edge.recogniser import Recogniser

if TYPE_CHECKING:
    from torch import nn

OURS = "cpep-edge"
PART = "encoder"

_WINDOWS_FILE = "windows.npy"
_ONNX: tuple[OnnxKind, ...] = ("fp32", "int8-static", "int8-dynamic")
_OPENVINO: tuple[tuple[str, str, OnnxKind], ...] = (
    ("OpenVINO float", "latency hint, its own choice of precision", "fp32"),
    ("OpenVINO int8", "latency hint, ONNX Runtime's graph", "int8-static"),
)
_CALIBRATED = {"onnxruntime", "openvino"}

Windows = NDArray[np.float32]  # (n_windows, n_channels, window_samples), preprocessed
Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # a window to its embedding


@dataclass(frozen=True, slots=True)
class _Contender:
    """One way to run the encoder."""

    name: str
    setting: str
    opener: str  # a key of _OPENERS
    source: Path  # the file or folder to open
    n_threads: int
    size_bytes: int | None = None
    manifest_sha256: str = ""  # of a bundle that was already checked; the process accepts no other

    def command(self, folder: Path) -> list[str]:
        """The command of the process that runs it."""
        files = (folder / _WINDOWS_FILE, self.embeddings(folder))
        arguments = (self.opener, self.source, self.n_threads, *files, self.manifest_sha256)
        return [sys.executable, "-W", "ignore", "-m", "cpep_bench.encoder_race", *map(str, arguments)]

    def embeddings(self, folder: Path) -> Path:
        """The file into which its process writes the embeddings of all windows."""
        return folder / f"{self.name}.npy"


def race_encoders(
    names: Sequence[str],
    bundle: Bundle,
    windows: Windows,
    run: Path,
    *,
    n_threads: int,
    n_runs: int,
    data: Path | None = None,
) -> Iterator[PeerFigure]:
    """Time these peers in turns with the encoder of a bundle.

    names: onnxruntime, openvino, torch, torch.compile
    run: the training that the bundle came from
    data: its corpus, whose training windows calibrate static int8 as at export; without it, the few `windows` do
    Raises ConfigError when the bundle is not from this run, CpepError when a peer's process fails, DataError when the
    corpus does not fit the run.
    """
    import torch

    module = _module(run, bundle.manifest.encoder_for(PART))
    calibration, source = windows, "the bundle's golden signal"  # fixes the ranges of static int8
    if data is not None and _CALIBRATED & set(names):
        calibration, source = _training_windows(run, data), "training"
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.save(folder / _WINDOWS_FILE, windows)
        contenders = list(_contenders(names, module, bundle, (calibration, source), run, folder, n_threads))
        commands = {contender.name: contender.command(folder) for contender in contenders}
        times = interleave(commands, n_runs)
        with torch.inference_mode():
            expected = module(torch.from_numpy(windows)).numpy()
        for who in contenders:
            cosines = np.sum(np.load(who.embeddings(folder)) * expected, axis=1)
            agreement = f"cosine {cosines.mean():.4f}, least {cosines.min():.4f}"
            yield PeerFigure(PART, who.name, who.setting, times[who.name].wall, who.size_bytes, agreement)


def race_threads(bundle: Bundle, window: NDArray[np.float32], counts: Sequence[int], n_runs: int) -> dict[int, Latency]:
    """Time the encoder of a bundle with each of these numbers of threads.

    window: (n_channels, window_samples), preprocessed
    Raises ArtifactError when the number of threads changes the embedding, CpepError when a process fails.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.save(folder / _WINDOWS_FILE, window[None])
        contenders = [_ours(bundle, str(n), "", n) for n in counts]
        times = interleave({who.name: who.command(folder) for who in contenders}, n_runs)
        embeddings = np.concatenate([np.load(who.embeddings(folder)) for who in contenders])
        cosines = embeddings @ embeddings[0] / np.dot(embeddings[0], embeddings[0])
        for who, cosine in zip(contenders, cosines, strict=True):
            if not cosine >= 1 - COSINE_TOLERANCE:
                raise ArtifactError(
                    f"{bundle.path}: on {who.name} threads it gives another embedding (cosine {cosine:.4f})"
                )
        return {who.n_threads: times[who.name].wall for who in contenders}


def _contenders(
    names: Sequence[str],
    module: "nn.Module",
    bundle: Bundle,
    calibration: tuple[Windows, str],
    run: Path,
    folder: Path,
    n_threads: int,
) -> Iterator[_Contender]:
    calibrating, source = calibration

    def from_onnx(name: str, setting: str, opener: str, kind: OnnxKind) -> _Contender:
        file = folder / f"{kind}.onnx"
        if not file.exists():
            file.write_bytes(onnx_program(module, calibrating, kind))
        if kind == "int8-static":
            setting += f", calibrated on {len(calibrating)} windows of {source}"
        return _Contender(name, setting, opener, file, n_threads, file.stat().st_size)

    yield _ours(bundle, OURS, f"{bundle.manifest.encoder_for(PART).quantisation}, XNNPACK", n_threads)
    if "onnxruntime" in names:
        for kind in _ONNX:
            yield from_onnx(f"ONNX Runtime {kind}", "all optimisations", "onnxruntime", kind)
    if "openvino" in names:
        for name, setting, kind in _OPENVINO:
            yield from_onnx(name, setting, "openvino", kind)
    if "torch" in names:
        yield _Contender("torch eager", "fp32, inference mode", "torch", run, n_threads)
    if "torch.compile" in names:
        yield _Contender("torch.compile", "fp32, Inductor, fixed shape", "torch.compile", run, n_threads)


def _ours(bundle: Bundle, name: str, setting: str, n_threads: int) -> _Contender:
    size_bytes = bundle.manifest.files[bundle.manifest.encoder_for(PART).file].size_bytes
    return _Contender(name, setting, "bundle", bundle.path, n_threads, size_bytes, bundle.manifest_sha256)


def _training_windows(run: Path, data: Path) -> Windows:
    from cpep_export.training_windows import calibration_windows
    from cpep_train.checkpoint import load_checkpoint
    from cpep_train.corpus import Corpus
    from cpep_train.evaluate import evaluation_set

    checkpoint = load_checkpoint(run)
    evaluation = evaluation_set(checkpoint, Corpus.open(data), windows_per_recording=1)
    return calibration_windows(evaluation, checkpoint.recipe.seed)


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


_OPENERS: dict[str, Callable[[Path, int, str], Embed]] = {
    "bundle": lambda path, n_threads, sha256: Recogniser(Bundle(path, manifest_sha256=sha256), n_threads).encoder.embed,
    "onnxruntime": lambda file, n_threads, _: OnnxEncoder(file.read_bytes(), n_threads).embed,
    "openvino": lambda file, n_threads, _: OpenVinoEncoder(file, n_threads).embed,
    "torch": lambda run, n_threads, _: _torch(run, n_threads, compiled=False),
    "torch.compile": lambda run, n_threads, _: _torch(run, n_threads, compiled=True),
}


def _be(opener: str, source: str, n_threads: str, windows: str, embeddings: str, manifest_sha256: str) -> None:
    """Run as a contender's process: embed all windows once, then one window on request."""
    embed, inputs = _OPENERS[opener](Path(source), int(n_threads), manifest_sha256), np.load(windows)
    np.save(embeddings, np.stack([embed(window).copy() for window in inputs]))
    serve(lambda: embed(inputs[0]))


if __name__ == "__main__":
    _be(*sys.argv[1:])
