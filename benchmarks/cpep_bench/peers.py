"""Other people's ways to do a part of the work, timed in turns with ours: what `--vs` names.

Each peer runs at the best setting that its documentation offers for one window or one query at a time on one thread.
Those of the encoder need the training run that a bundle was made from, because a program cannot be converted back.
Readers of the link are measured by `cpep_bench.link_readers`, which needs processes of its own.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpep_bench.latency import measure_interleaved
from cpep_bench.pipeline import Signal
from cpep_bench.report import PeerFigure
from cpep_edge.bundle import Bundle
from cpep_edge.errors import ConfigError
from cpep_edge.recogniser import Recogniser

if TYPE_CHECKING:
    from torch import nn

ENCODER_PEERS = ("onnxruntime", "torch", "torch.compile")
INDEX_PEERS = ("numpy", "hnswlib", "usearch", "faiss")
WHOLE_PEERS = ("libemg",)
PEERS = (*ENCODER_PEERS, *INDEX_PEERS, *WHOLE_PEERS)
N_WINDOWS = 64  # of signal, that answers are compared on
OURS = "cpep-edge"

Windows = NDArray[np.float32]  # (n_windows, n_channels, window_samples), preprocessed
Vectors = NDArray[np.float32]  # (n, d_embed), unit length


@dataclass(frozen=True, slots=True)
class _Contender:
    """One way to do a part."""

    name: str
    setting: str
    call: Callable[[NDArray[np.float32]], object]  # on one window, or one embedding
    size_bytes: int | None = None


def check_peers(names: Sequence[str], run: Path | None) -> None:
    """Raises ConfigError for a name that is no peer's, or for a peer of the encoder without a run."""
    for name in names:
        if name not in PEERS:
            raise ConfigError(f"--vs {name} is no peer: choose from {', '.join(PEERS)}")
        if name in ENCODER_PEERS and run is None:
            raise ConfigError(f"--vs {name} needs the training that the bundle came from: say --run RUN")


def measure_peers(
    names: Sequence[str], bundle: Bundle, recogniser: Recogniser, signal_uv: Signal, n_runs: int, run: Path | None
) -> tuple[PeerFigure, ...]:
    """Time the peers of these names, and ours beside them, part by part.

    names: of `PEERS`, checked
    run: the training that the bundle came from; the encoder's peers need it
    Raises ConfigError when a peer is not installed, or the run is another's.
    """
    windows = _windows(recogniser, signal_uv)
    figures: list[PeerFigure] = []
    try:
        if chosen := [name for name in ENCODER_PEERS if name in names]:
            figures += _encoders(chosen, bundle, recogniser, windows, n_runs, run or Path())
        if chosen := [name for name in INDEX_PEERS if name in names]:
            figures += _indexes(chosen, bundle, recogniser, windows, n_runs)
        if chosen := [name for name in WHOLE_PEERS if name in names]:
            figures += _whole(recogniser, windows, n_runs)
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'cpep-edge[peers,train]'") from error
    return tuple(figures)


def _encoders(
    names: list[str], bundle: Bundle, recogniser: Recogniser, windows: Windows, n_runs: int, run: Path
) -> Iterator[PeerFigure]:
    import torch

    module = _module(run, recogniser)
    torch.set_num_threads(1)

    def eager(window: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            embedding: NDArray[np.float32] = module(torch.from_numpy(window[None])).numpy()[0]
        return embedding

    spec = recogniser.manifest.encoder
    size_bytes = len(bundle.read(spec.file))
    contenders = [_Contender(OURS, f"{spec.quantisation}, XNNPACK", recogniser.encoder.embed, size_bytes)]
    if "onnxruntime" in names:
        contenders += _onnx(module, windows)
    if "torch" in names:
        contenders.append(_Contender("torch eager", "fp32, inference mode", eager))
    if "torch.compile" in names:
        contenders.append(_compiled(module))
    reference = np.stack([eager(window) for window in windows])

    def agreement(answers: list[object]) -> str:
        return f"cosine {float(np.sum(np.array(answers) * reference, axis=1).min()):.4f}"

    return _raced("encoder", contenders, windows, n_runs, agreement)


def _onnx(module: "nn.Module", windows: Windows) -> Iterator[_Contender]:
    from cpep_bench.onnx_peer import OnnxEncoder, OnnxKind, onnx_program

    kinds: tuple[OnnxKind, ...] = ("fp32", "int8-static", "int8-dynamic")
    for kind in kinds:
        program = onnx_program(module, windows, kind)
        setting = f"{kind}, all optimisations"
        yield _Contender(f"ONNX Runtime {kind}", setting, OnnxEncoder(program).embed, len(program))


def _compiled(module: "nn.Module") -> _Contender:
    import torch

    compiled = torch.compile(module, fullgraph=True, dynamic=False)

    def embed(window: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            embedding: NDArray[np.float32] = compiled(torch.from_numpy(window[None])).numpy()[0]
        return embedding

    return _Contender("torch.compile", "fp32, Inductor, fixed shape", embed)


def _indexes(
    names: list[str], bundle: Bundle, recogniser: Recogniser, windows: Windows, n_runs: int
) -> Iterator[PeerFigure]:
    from cpep_bench.index_engines import ENGINES, exact

    index, k = recogniser.index, recogniser.manifest.decision.k
    queries = np.stack([recogniser.encoder.embed(window) for window in windows])
    own_bytes = len(bundle.read(recogniser.manifest.index.file))
    contenders = [_Contender(OURS, "as in the bundle", lambda query: index.nearest(query, k)[0], own_bytes)]
    with TemporaryDirectory() as scratch:
        truth = exact(index.vectors, index.gesture_index, Path(scratch) / "exact")[0]
        for engine, build in ENGINES.items():
            if engine.split(",")[0] in names:
                search, size_bytes = build(index.vectors, index.gesture_index, Path(scratch) / "index")
                found = _labelled(search, index.gesture_index)
                contenders.append(_Contender(engine, "its defaults, where its name says no more", found, size_bytes))
        expected = [_vote(index.gesture_index[truth(query)]) for query in queries]

        def agreement(answers: list[object]) -> str:
            same = sum(_vote(answer) == vote for answer, vote in zip(answers, expected, strict=True))
            return f"{same / len(expected):.0%} of votes"

        yield from _raced("index", contenders, queries, n_runs, agreement)


def _labelled(
    search: Callable[[Vectors], NDArray[np.int64]], labels: NDArray[np.int64]
) -> Callable[[Vectors], NDArray[np.int64]]:
    return lambda query: labels[search(query)]


def _vote(gestures: object) -> int:
    counts: Counter[int] = Counter(np.asarray(gestures).tolist())
    return counts.most_common(1)[0][0]


def _whole(recogniser: Recogniser, windows: Windows, n_runs: int) -> Iterator[PeerFigure]:
    """Hudgins' features and LDA, as in LibEMG; taught our own votes, because only its time is asked for here."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    from cpep_train.realism import features

    described = features(np.swapaxes(windows, 1, 2).astype(np.float64))
    discriminant = LinearDiscriminantAnalysis().fit(described, np.arange(len(described)) % 4)

    def classify(window: NDArray[np.float32]) -> object:
        return discriminant.predict(features(window.T[None].astype(np.float64)))

    contenders = [
        _Contender(OURS, "encoder, index, vote", recogniser.recognise),
        _Contender("LibEMG's features, LDA", "Hudgins' four, numpy; scikit-learn", classify),
    ]
    return _raced("window to class", contenders, windows, n_runs, lambda answers: "time only")


def _raced(
    part: str,
    contenders: Sequence[_Contender],
    items: NDArray[np.float32],
    n_runs: int,
    agreement: Callable[[list[object]], str],
) -> Iterator[PeerFigure]:
    calls = {contender.name: _turning(contender.call, items) for contender in contenders}
    agreements = {contender.name: agreement([contender.call(item) for item in items]) for contender in contenders}
    times = measure_interleaved(calls, n_runs)
    for who in contenders:
        yield PeerFigure(part, who.name, who.setting, times[who.name], who.size_bytes, agreements[who.name])


def _turning(call: Callable[[NDArray[np.float32]], object], items: NDArray[np.float32]) -> Callable[[], object]:
    turns = cycle(items)
    return lambda: call(next(turns))


def _windows(recogniser: Recogniser, signal_uv: Signal) -> Windows:
    n_samples = recogniser.manifest.encoder.window_samples
    filtered = recogniser.preprocessor()(signal_uv)
    starts = np.linspace(0, len(filtered) - n_samples, N_WINDOWS).astype(int)
    return np.stack([np.ascontiguousarray(filtered[start : start + n_samples].T) for start in starts])


def _module(run: Path, recogniser: Recogniser) -> "nn.Module":
    from cpep_train.checkpoint import load_checkpoint

    module = load_checkpoint(run).emg.eval()
    n_parameters = sum(parameter.numel() for parameter in module.parameters())
    if n_parameters != recogniser.manifest.encoder.n_parameters:
        raise ConfigError(
            f"--run {run}: its encoder has {n_parameters:,} parameters, the bundle's has "
            f"{recogniser.manifest.encoder.n_parameters:,}: name the training that the bundle was exported from"
        )
    return module
