"""The interface between a source of samples and the runtime: blocks of samples, and a description of their stream.

A source is a wristband, a simulator or a recording. It knows nothing of models; the runtime knows nothing of ports.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

MAX_RATE_HZ = 1e6  # a higher sample rate is refused
MAX_UV_PER_COUNT = 1e6  # one volt per count
MIN_UV_PER_COUNT = 1e-9  # a few microvolts divided into 32 bits, far finer than any noise
RATE_TOLERANCE = 1e-3  # relative: clocks drift by tens of ppm, so a larger difference is another rate
INTERPOLATED_GAP_S = 0.010  # windows with a loss up to this are decided on and flagged; with a longer one they are not
FRAME_SAMPLES = 10  # samples per DATA frame, the wristband's default
LARGEST_SAMPLE = 1e10  # microvolts or counts; 32-bit converters stay below, so a larger value is damage


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """Description of a stream, known before its first block."""

    name: str  # device model or file name
    n_channels: int
    sample_rate_hz: float
    unit: str = "uV"  # "uV", or "count" when the conversion to microvolts is unknown
    serial_number: str = ""
    firmware: str = ""
    has_clock: bool = False  # the device has its own time stamps; otherwise `device_t_s` counts samples
    missing: tuple[int, ...] = ()  # channels without an electrode of their own, from 0


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive samples.

    If `sample_index` jumps past the end of the previous block, exactly that many samples were lost.
    """

    samples_uv: NDArray[np.float32]  # (n_samples, n_channels), microvolts
    sample_index: int  # of the first sample, counted since the device started streaming; never wraps
    device_t_s: float  # first sample, device clock, seconds
    host_t_s: float  # arrival of the block's last byte, time.monotonic()
    boot_id: int = 0  # changes when the device restarts
    flags: int = 0  # as in the DATA frame: overrun, saturation, lead-off, trigger, test signal


@dataclass(frozen=True, slots=True)
class LinkCounts:
    """Counts of the link so far. Every sample the device sent is either in a block or in `lost_samples`."""

    frames: int = 0
    bytes: int = 0
    lost_frames: int = 0
    lost_samples: int = 0
    corrupt_frames: int = 0
    duplicate_frames: int = 0
    late_frames: int = 0  # arrived after a later one; dropped
    reconnects: int = 0
    heard_hz: float = 0.0  # samples per second of the host's clock, lost ones included; 0 until known within 1 %


class BlockSource(Protocol):
    """A source of blocks: `with` opens and closes it; iteration ends when the stream ends."""

    @property
    def info(self) -> StreamInfo: ...

    @property
    def counts(self) -> LinkCounts: ...

    def __enter__(self) -> "BlockSource": ...

    def __exit__(self, *exc: object) -> None: ...

    def __iter__(self) -> Iterator[Block]: ...

    def stop(self) -> None:
        """End the iteration within a second, even while nothing arrives; may be called from any thread."""
        ...


class Relayed:
    """A source that wraps another; a subclass changes part of it. `with` opens and closes the wrapped source."""

    def __init__(self, source: BlockSource) -> None:
        self._source = source

    @property
    def info(self) -> StreamInfo:
        """Description of the stream that this source gives."""
        return self._source.info

    @property
    def counts(self) -> LinkCounts:
        """The counts of the link so far."""
        return self._source.counts

    def __enter__(self) -> Self:
        self._source.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._source.__exit__(*exc)

    def __iter__(self) -> Iterator[Block]:
        return iter(self._source)

    def stop(self) -> None:
        """End the iteration soon; may be called from any thread."""
        self._source.stop()
