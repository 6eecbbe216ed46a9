"""Other software for a part of the work, timed in turns with ours; chosen with `--vs`.

Each peer runs with the best setting in its documentation for one window or one query at a time. Some need more than the
bundle: the encoder's peers need the training run, LibEMG's pipeline also labelled recordings.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from cpep_bench.latency import measure_interleaved
from cpep_bench.report import PeerFigure
from cpep_edge.bundle import Bundle
from cpep_edge.errors import ConfigError
from cpep_edge.golden import Golden
from cpep_edge.recogniser import Recogniser

PEERS: Mapping[str, tuple[str, ...]] = {  # the packages that each peer needs
    "onnxruntime": ("onnx", "onnxruntime", "torch"),
    "openvino": ("onnx", "onnxruntime", "openvino", "torch"),
    "torch": ("torch",),
    "torch.compile": ("torch",),
    "numpy": (),
    "hnswlib": (),
    "usearch": ("usearch",),
    "faiss": ("faiss",),
    "libemg": ("sklearn", "torch"),
    "pyserial": (),
    "brainflow": ("brainflow",),
}
ENCODER_PEERS = ("onnxruntime", "openvino", "torch", "torch.compile")
INDEX_PEERS = ("numpy", "hnswlib", "usearch", "faiss")
WINDOWS_A_STRETCH = 4  # windows of each golden stretch on which answers are compared
OURS = "cpep-edge"

Windows = NDArray[np.float32]  # (n_windows, n_channels, window_samples), preprocessed
Vectors = NDArray[np.float32]  # (n, d_embed), unit length
Labels = NDArray[np.int64]  # (n,), gestures


@dataclass(frozen=True, slots=True)
class _Contender:
    """One way to search the index."""

    name: str  # with its setting
    call: Callable[[Vectors], Labels]  # from an embedding to the gestures of the nearest poses
    size_bytes: int


def check_peers(names: Sequence[str], run: Path | None, data: Path | None) -> None:
    """Raises ConfigError for an unknown peer, or one without the packages, run or data that it needs."""
    for name in names:
        if name not in PEERS:
            raise ConfigError(f"--vs {name} is not a peer: choose from {', '.join(PEERS)}")
        if name in (*ENCODER_PEERS, "libemg") and run is None:
            raise ConfigError(f"--vs {name} needs the training that the bundle came from: add --run RUN")
        if name == "libemg" and data is None:
            raise ConfigError("--vs libemg needs labelled recordings to teach it and to judge both by: add --data DIR")
        for package in PEERS[name]:
            if find_spec(package) is None:
                raise ConfigError(f"--vs {name}: {package} is not installed: pip install 'cpep-edge[peers,train]'")


def measure_peers(
    names: Sequence[str],
    bundle: Bundle,
    recogniser: Recogniser,
    *,
    n_runs: int,
    n_threads: int = 1,
    run: Path | None = None,
    data: Path | None = None,
) -> tuple[PeerFigure, ...]:
    """Time these peers in turns with ours, part by part.

    names: checked by `check_peers`
    n_threads: of every encoder
    run: the training that the bundle came from
    data: labelled recordings, in the emg2pose format, which also calibrate static int8
    Raises ConfigError when the bundle is not from this run, CpepError when a peer's process fails, DataError when the
    recordings cannot be used for a test.
    """
    windows = golden_windows(bundle, recogniser)
    figures: list[PeerFigure] = []
    if run is not None and (chosen := [name for name in ENCODER_PEERS if name in names]):
        from cpep_bench.encoder_race import race_encoders

        figures += race_encoders(chosen, bundle, windows, run, n_threads=n_threads, n_runs=n_runs, data=data)
    if chosen := [name for name in INDEX_PEERS if name in names]:
        figures += _indexes(chosen, bundle, recogniser, windows, n_runs)
    if run is not None and data is not None and "libemg" in names:
        from cpep_bench.libemg_peer import race_libemg

        figures += race_libemg(recogniser, run, data, n_runs)
    return tuple(figures)


def _indexes(
    names: list[str], bundle: Bundle, recogniser: Recogniser, windows: Windows, n_runs: int
) -> Iterator[PeerFigure]:
    from cpep_bench.index_engines import ENGINES, exact

    index, k = recogniser.index_for("the comparison"), recogniser.manifest.decision.k
    queries = np.stack([recogniser.encoder.embed(window) for window in windows])
    own_bytes = len(index.to_bytes())
    contenders = [_Contender(OURS, lambda query: index.nearest(query, k)[0], own_bytes)]
    with TemporaryDirectory() as scratch:
        truth = exact(index.vectors, index.gesture_index, Path(scratch) / "exact")[0]
        for engine, build in ENGINES.items():
            if engine.split(",")[0] in names:
                search, size_bytes = build(index.vectors, index.gesture_index, Path(scratch) / "index")
                found = _labelled(search, index.gesture_index)
                contenders.append(_Contender(engine, found, size_bytes))
        expected = [_vote(index.gesture_index[truth(query)]) for query in queries]
        times = measure_interleaved({who.name: _turning(who.call, queries) for who in contenders}, n_runs)
        for who in contenders:
            same = sum(_vote(who.call(query)) == vote for query, vote in zip(queries, expected, strict=True))
            agreement = f"{same / len(expected):.0%} of exact votes"
            yield PeerFigure("index", who.name, "", times[who.name], who.size_bytes, agreement)


def _labelled(search: Callable[[Vectors], Labels], labels: Labels) -> Callable[[Vectors], Labels]:
    return lambda query: labels[search(query)]


def _vote(gestures: Labels) -> int:
    counts: Counter[int] = Counter(gestures.tolist())
    return counts.most_common(1)[0][0]


def _turning(call: Callable[[Vectors], object], items: Vectors) -> Callable[[], object]:
    turns = cycle(items)
    return lambda: call(next(turns))


def golden_windows(bundle: Bundle, recogniser: Recogniser) -> Windows:
    """Windows of each golden stretch, from where the filter has settled to its end; none spans two stretches."""
    n_samples = recogniser.manifest.window_samples
    golden = Golden.from_bytes(bundle.read(bundle.manifest.golden_file))
    n_lead = golden.signal_uv.shape[1] - n_samples
    starts = np.linspace(n_lead // 2, n_lead, WINDOWS_A_STRETCH).astype(int)
    return np.stack([recogniser.last_window(signal[: at + n_samples]) for signal in golden.signal_uv for at in starts])
