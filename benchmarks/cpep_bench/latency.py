"""How long the parts of recognition take, one by one and from the last byte of a window to the decision.

Everything runs through the classes that run live. Warm-up is excluded, times are `perf_counter_ns`, and a distribution
is told by its percentiles and its worst case, never by a mean.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.frames import Data, SampleFormat, encode_frame, pack_samples
from cpep_edge.blocks import Block, StreamInfo
from cpep_edge.bundle import Manifest
from cpep_edge.live_loop import LiveEngine
from cpep_edge.recogniser import Recogniser

MIN_RUNS = 200  # below, a 99th percentile is one outlier
WARM_UP_RUNS = 20
FRAME_SAMPLES = 10  # of a DATA frame, the wristband's default
UV_PER_COUNT = 0.5


@dataclass(frozen=True, slots=True)
class Latency:
    """A distribution of times."""

    n: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def measure(
    call: Callable[..., object],
    n_runs: int = MIN_RUNS,
    *,
    prepare: Callable[[], object] | None = None,
    n_warm_up: int = WARM_UP_RUNS,
) -> Latency:
    """Time `call` again and again; with `prepare`, of each run's argument, made outside the timing.

    Raises ValueError for fewer than 200 runs.
    """
    _check_runs(n_runs)
    times_ns = np.empty(n_warm_up + n_runs)
    for number in range(len(times_ns)):
        arguments = () if prepare is None else (prepare(),)
        times_ns[number] = _time_ns(call, *arguments)
    return _summary(times_ns[n_warm_up:])


def measure_interleaved(calls: dict[str, Callable[[], object]], n_runs: int = MIN_RUNS) -> dict[str, Latency]:
    """Time several calls in turn, so that what disturbs the machine disturbs all of them.

    Raises ValueError for fewer than 200 runs.
    """
    _check_runs(n_runs)
    times_ns = np.empty((WARM_UP_RUNS + n_runs, len(calls)))
    for row in times_ns:
        row[:] = [_time_ns(call) for call in calls.values()]
    return {name: _summary(column) for name, column in zip(calls, times_ns[WARM_UP_RUNS:].T, strict=True)}


def encoder_latency(recogniser: Recogniser, signal_uv: NDArray[np.float32], n_runs: int = MIN_RUNS) -> Latency:
    """One window to its embedding.

    signal_uv: (n_samples, n_channels), at least a window long
    """
    window = _window(recogniser, signal_uv)
    return measure(lambda: recogniser.encoder.embed(window), n_runs)


def index_latency(recogniser: Recogniser, signal_uv: NDArray[np.float32], n_runs: int = MIN_RUNS) -> Latency:
    """One embedding to its vote."""
    embedding = recogniser.encoder.embed(_window(recogniser, signal_uv))
    return measure(lambda: recogniser.index.vote(embedding, recogniser.manifest.decision.k), n_runs)


def filter_latency(recogniser: Recogniser, signal_uv: NDArray[np.float32], n_runs: int = MIN_RUNS) -> Latency:
    """Filtering the samples of one hop, as one block."""
    preprocessor = recogniser.preprocessor()
    hop = signal_uv[: _hop_samples(recogniser.manifest)]
    return measure(lambda: preprocessor(hop), n_runs)


def end_to_end_latency(recogniser: Recogniser, signal_uv: NDArray[np.float32], n_runs: int = MIN_RUNS) -> Latency:
    """The last byte of a window to its decision: frame, filter, ring, encoder, index, vote, debounce.

    The stream runs hop by hop as fast as it can, and only what comes after the last frame of each hop arrived is timed.
    """
    manifest = recogniser.manifest
    rate_hz = manifest.preprocessing.sample_rate_hz
    engine = LiveEngine(recogniser, StreamInfo("bench", manifest.encoder.n_channels, rate_hz))
    hops, decoder = _hops(signal_uv, _hop_samples(manifest), rate_hz), FrameDecoder()

    def take(data: bytes) -> None:
        for frame in decoder.feed(data):
            if isinstance(frame, Data):
                engine.ingest(_block(frame, rate_hz))

    def arrive() -> bytes:
        *early, last = next(hops)
        take(b"".join(early))
        return last

    def decide(last: bytes) -> None:
        take(last)
        if engine.step() is None:
            raise RuntimeError("a hop ended without a decision")

    for _ in range(-(-manifest.encoder.window_samples // _hop_samples(manifest))):
        take(arrive())
    engine.step()
    return measure(decide, n_runs, prepare=arrive)


def _time_ns(call: Callable[..., object], *arguments: object) -> int:
    start_ns = time.perf_counter_ns()
    call(*arguments)
    return time.perf_counter_ns() - start_ns


def _summary(times_ns: NDArray[np.float64]) -> Latency:
    p50_ms, p95_ms, p99_ms, max_ms = (float(value) * 1e-6 for value in np.percentile(times_ns, (50, 95, 99, 100)))
    return Latency(len(times_ns), p50_ms, p95_ms, p99_ms, max_ms)


def _check_runs(n_runs: int) -> None:
    if n_runs < MIN_RUNS:
        raise ValueError(f"{n_runs} runs are too few for percentiles, ask for at least {MIN_RUNS}")


def _window(recogniser: Recogniser, signal_uv: NDArray[np.float32]) -> NDArray[np.float32]:
    filtered = recogniser.preprocessor()(signal_uv)[-recogniser.manifest.encoder.window_samples :]
    return np.ascontiguousarray(filtered.T)


def _hop_samples(manifest: Manifest) -> int:
    return int(round(manifest.decision.hop_ms * 1e-3 * manifest.preprocessing.sample_rate_hz))


def _hops(signal_uv: NDArray[np.float32], hop_samples: int, rate_hz: float) -> Iterator[list[bytes]]:
    """The signal over and over as DATA frames, hop by hop; the last frame of a hop ends it."""
    counts = np.clip(np.round(signal_uv / UV_PER_COUNT), -32768, 32767).astype(np.int32)
    n_channels, seq = counts.shape[1], itertools.count()
    for start in itertools.count(0, hop_samples):
        frames = []
        for at in range(start, start + hop_samples, FRAME_SAMPLES):
            n_samples = min(FRAME_SAMPLES, start + hop_samples - at)
            samples = pack_samples(counts.take(range(at, at + n_samples), axis=0, mode="wrap"), SampleFormat.I16)
            place = (next(seq) & 0xFFFF, at, round(at / rate_hz * 1e6), n_samples, n_channels)
            frames.append(encode_frame(Data(*place, SampleFormat.I16, flags=0, samples=samples)))
        yield frames


def _block(frame: Data, rate_hz: float) -> Block:
    samples_uv = frame.counts().astype(np.float32) * np.float32(UV_PER_COUNT)
    return Block(samples_uv, frame.sample_index, frame.sample_index / rate_hz, host_t_s=time.monotonic())
