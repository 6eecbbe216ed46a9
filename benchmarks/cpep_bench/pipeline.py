"""The parts of recognition as calls to be timed: each part alone, and from the last byte of a window to its decision.

The calls use the same classes as live recognition.
"""

import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.frames import Data, SampleFormat, encode_frame, pack_samples
from cpep_edge.blocks import FRAME_SAMPLES, Block, StreamInfo
from cpep_edge.decisions import Decider
from cpep_edge.live_loop import LiveEngine
from cpep_edge.manifest import Manifest
from cpep_edge.recogniser import Recogniser

UV_PER_COUNT = 0.5
LINK, FILTER, ENCODER, INDEX, DECISION = "link, one frame", "filter, one frame", "encoder", "index", "decision"
END_TO_END = "end to end"
PARTS = (LINK, FILTER, ENCODER, INDEX, DECISION)  # in the order of processing

Signal = NDArray[np.float32]  # (n_samples, n_channels), microvolts; at least a window


def part_calls(recogniser: Recogniser, signal_uv: Signal) -> dict[str, Callable[[], object]]:
    """One call for each of `PARTS`.

    They decode a frame's bytes to samples, filter samples, embed a window, look up the vote of an embedding, and make a
    decision from a vote.
    """
    manifest = recogniser.manifest
    frame = next(_hops(signal_uv, FRAME_SAMPLES, manifest.preprocessing.sample_rate_hz))[0]
    decoder, stream = FrameDecoder(), recogniser.stream()
    samples_uv = signal_uv[:FRAME_SAMPLES]
    window = recogniser.last_window(signal_uv)
    embedding, index = recogniser.encoder.embed(window), recogniser.index_for("the benchmark")
    vote = index.vote(embedding, manifest.decision.k)
    decider = Decider(manifest.decision, manifest.gesture_names)

    def decode() -> list[Block]:
        rate_hz = manifest.preprocessing.sample_rate_hz
        return [_block(data, rate_hz) for data in decoder.feed(frame) if isinstance(data, Data)]

    return {
        LINK: decode,
        FILTER: lambda: stream(samples_uv),
        ENCODER: lambda: recogniser.encoder.embed(window),
        INDEX: lambda: index.vote(embedding, manifest.decision.k),
        DECISION: lambda: decider.update(vote),
    }


def end_to_end_calls(recogniser: Recogniser, signal_uv: Signal) -> tuple[Callable[[], bytes], Callable[[bytes], None]]:
    """Two calls to time a decision from the last byte of its window: one to prepare and one to time.

    The first takes in a hop of the stream except its last frame, which it returns. The second gets this frame and does
    the rest: frame, filter, ring, encoder, index, vote, decision. The encoder runs at every hop, also at rest.
    """
    manifest = recogniser.manifest
    rate_hz = manifest.preprocessing.sample_rate_hz
    info = StreamInfo("bench", manifest.n_channels, rate_hz)
    engine = LiveEngine(recogniser, info, spec=manifest.decision.model_copy(update={"rest_level": 0.0}))
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

    for _ in range(1 + -(-manifest.window_samples // _hop_samples(manifest))):
        take(arrive())
    engine.step()
    return arrive, decide


def _hop_samples(manifest: Manifest) -> int:
    return int(round(manifest.decision.hop_ms * 1e-3 * manifest.preprocessing.sample_rate_hz))


def _hops(signal_uv: NDArray[np.float32], hop_samples: int, rate_hz: float) -> Iterator[list[bytes]]:
    """The signal as DATA frames, hop by hop, repeated forever; a hop ends with its last frame."""
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
