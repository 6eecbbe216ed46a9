"""Convert recorded or simulated EMG to the payloads of DATA frames: scale it to counts and cut it to the frame size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.frames import DataFlag, SampleFormat, pack_samples
from cpep_edge.errors import DataError
from cpep_edge.session import Session

Segment = NDArray[np.float32] | Session  # (n_samples, n_channels), microvolts

_CHUNK_SAMPLES = 2_000  # converted at a time; converting a minute at once would make the stream stutter
_LIMIT_COUNTS = {SampleFormat.I16: 2**15 - 1, SampleFormat.I24: 2**23 - 1}


@dataclass(frozen=True, slots=True)
class Packet:
    """The payload of one DATA frame."""

    n_samples: int
    samples: bytes  # [n_samples][n_channels]
    flags: int  # DataFlag


class Playback:
    """Segments of EMG played one after the other, once or repeatedly.

    Raises ValueError without any samples, DataError when a segment's channels or rate do not fit.
    """

    def __init__(self, segments: Sequence[Segment], sample_rate_hz: float) -> None:
        if not segments or sum(_n_samples(segment) for segment in segments) == 0:
            raise ValueError("there is nothing to play: segments hold no samples")
        self._segments = segments
        self.n_channels = _n_channels(segments[0])
        for index, segment in enumerate(segments):
            if _n_channels(segment) != self.n_channels:
                raise DataError(f"segment {index} has {_n_channels(segment)} channels, the first one {self.n_channels}")
            if isinstance(segment, Session) and segment.meta.sample_rate != sample_rate_hz:
                raise DataError(
                    f"{segment.path}: sampled at {segment.meta.sample_rate:g} Hz, but the band runs at "
                    f"{sample_rate_hz:g} Hz"
                )

    def packets(
        self, n_samples: int, sample_format: SampleFormat, uv_per_count: float, repeat: bool
    ) -> Iterator[Packet]:
        """Payloads of `n_samples` samples each; only the very last may be shorter."""
        rest = np.empty((0, self.n_channels), np.int32)
        for emg_uv in self.chunks(repeat):
            counts = np.concatenate([rest, _to_counts(emg_uv, uv_per_count, sample_format)])
            whole = len(counts) // n_samples * n_samples
            yield from _cut(counts[:whole], n_samples, sample_format)
            rest = counts[whole:]
        if len(rest):
            yield from _cut(rest, len(rest), sample_format)

    def chunks(self, repeat: bool) -> Iterator[NDArray[np.float32]]:
        """The signal in short pieces, (n_samples, n_channels), microvolts."""
        while True:
            for index, segment in enumerate(self._segments):
                for start in range(0, _n_samples(segment), _CHUNK_SAMPLES):
                    stop = start + _CHUNK_SAMPLES
                    emg_uv = segment.emg(start, stop) if isinstance(segment, Session) else segment[start:stop]
                    if not np.isfinite(emg_uv).all():
                        raise DataError(f"segment {index} holds NaN or infinity near sample {start}")
                    yield emg_uv
            if not repeat:
                return


def _to_counts(emg_uv: NDArray[np.float32], uv_per_count: float, sample_format: SampleFormat) -> NDArray[np.int32]:
    limit = _LIMIT_COUNTS[sample_format]
    counts: NDArray[np.int32] = np.clip(np.rint(emg_uv / np.float32(uv_per_count)), -limit, limit).astype(np.int32)
    return counts


def _cut(counts: NDArray[np.int32], n_samples: int, sample_format: SampleFormat) -> Iterator[Packet]:
    limit = _LIMIT_COUNTS[sample_format]
    saturated = (np.abs(counts) >= limit).reshape(-1, n_samples * counts.shape[1]).any(axis=1)
    payload = pack_samples(counts, sample_format)
    size_bytes = len(payload) // max(1, len(saturated))
    for index, flag in enumerate(saturated):
        flags = DataFlag.SATURATION.value if flag else 0
        yield Packet(n_samples, payload[index * size_bytes : (index + 1) * size_bytes], flags)


def _n_samples(segment: Segment) -> int:
    return segment.n_samples if isinstance(segment, Session) else len(segment)


def _n_channels(segment: Segment) -> int:
    return segment.meta.num_channels if isinstance(segment, Session) else int(segment.shape[1])
