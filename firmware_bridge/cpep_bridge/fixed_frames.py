"""Frames of a fixed layout, as most boards send them: some bits that never change, a counter, samples; no CRC.

Such a frame can only be told by its fixed bits, so a damaged sample goes unnoticed. What can be done is done: every
fixed bit is checked, and after anything odd a frame counts only when another one follows right behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SAMPLE_BYTES = {"u8": 1, "i8": 1, "u16": 2, "i16": 2, "u24": 3, "i24": 3, "u32": 4, "i32": 4, "f32": 4}
_NUMPY_KIND = {"u8": "u1", "i8": "i1", "u16": "u2", "i16": "i2", "u32": "u4", "i32": "i4", "f32": "f4"}


@dataclass(frozen=True, slots=True)
class Marker:
    """Bits of a frame that never change."""

    offset_bytes: int
    mask: int  # of the byte there
    value: int  # of the bits under the mask


@dataclass(frozen=True, slots=True)
class FrameLayout:
    """Where things are in a frame."""

    size_bytes: int
    markers: tuple[Marker, ...]
    samples_offset_bytes: int
    n_samples: int
    n_channels: int
    sample_type: str  # a key of SAMPLE_BYTES
    big_endian: bool
    counter_offset_bytes: int | None = None  # None: frames are not numbered
    counter_bytes: int = 1  # 1 or 2, in the order of bytes of the samples

    @property
    def samples_bytes(self) -> int:
        """Size of all samples of a frame."""
        return self.n_samples * self.n_channels * SAMPLE_BYTES[self.sample_type]

    @property
    def counter_modulus(self) -> int | None:
        """Where the counter wraps; None where there is none."""
        return None if self.counter_offset_bytes is None else 1 << (8 * self.counter_bytes)


@dataclass(frozen=True, slots=True)
class Packets:
    """Frames of one read, decoded."""

    counters: NDArray[np.int64] | None  # (n_frames,); None where frames are not numbered
    values: NDArray[np.float32]  # (n_frames, n_samples, n_channels), as the converter gave them


class PacketDecoder(Protocol):
    """Takes bytes as they come and gives the frames that they complete."""

    n_corrupt: int  # frames that were there and could not be read

    def feed(self, data: bytes) -> Packets: ...


class FixedFrameDecoder:
    """Finds frames of one layout in a stream of bytes. Memory is bounded whatever comes."""

    def __init__(self, layout: FrameLayout) -> None:
        self.layout = layout
        self.n_corrupt = 0
        self.n_skipped_bytes = 0  # that belonged to no frame
        self._tail = b""
        self._locked = False  # whether frames are where they are expected
        self._seen = False  # whether there was ever a frame: noise before it is no damage
        self._offsets = np.array([marker.offset_bytes for marker in layout.markers])
        self._masks = np.array([marker.mask for marker in layout.markers], np.uint8)
        self._wanted = np.array([marker.value for marker in layout.markers], np.uint8)

    def feed(self, data: bytes) -> Packets:
        """The frames that are complete now."""
        buffer = np.frombuffer(self._tail + data, np.uint8)
        size, start = self.layout.size_bytes, 0
        found: list[NDArray[np.uint8]] = []
        while len(buffer) - start >= size:
            if not self._locked:
                place = self._search(buffer[start:])
                self.n_skipped_bytes += place
                start += place
                if not self._locked:
                    break
            n_frames = (len(buffer) - start) // size
            frames = buffer[start : start + n_frames * size].reshape(n_frames, size)
            n_good = self._n_good(frames)
            found.append(frames[:n_good])
            start += n_good * size
            if n_good < n_frames:
                self._locked = False
                self.n_corrupt += 1
        self._tail = buffer[start:].tobytes()
        return unpack_packets(self.layout, np.concatenate(found) if found else buffer[:0].reshape(0, size))

    def _n_good(self, frames: NDArray[np.uint8]) -> int:
        good = ((frames[:, self._offsets] & self._masks) == self._wanted).all(axis=1)
        return len(good) if good.all() else int(np.argmin(good))

    def _search(self, buffer: NDArray[np.uint8]) -> int:
        """Bytes to skip to the first of two frames in a row, or to where they may still begin."""
        size = self.layout.size_bytes
        n_places = len(buffer) - 2 * size + 1
        if n_places <= 0:
            return 0
        places = np.arange(n_places)
        for offset, mask, value in zip(self._offsets, self._masks, self._wanted, strict=True):
            first = (buffer[places + offset] & mask) == value
            second = (buffer[places + size + offset] & mask) == value
            places = places[first & second]
        self._locked = places.size > 0
        return int(places[0]) if self._locked else n_places


def unpack_packets(layout: FrameLayout, frames: NDArray[np.uint8]) -> Packets:
    """Counters and samples of whole frames, (n_frames, size_bytes)."""
    start = layout.samples_offset_bytes
    samples = frames[:, start : start + layout.samples_bytes]
    values = _values(samples, layout.sample_type, layout.big_endian)
    return Packets(_counters(layout, frames), values.reshape(len(frames), layout.n_samples, layout.n_channels))


def pack_frame(layout: FrameLayout, counter: int, values: NDArray[np.float32]) -> bytes:
    """One frame as its board would send it; bytes that the layout does not speak of are zero.

    values: (n_samples, n_channels), within the range of the sample type
    """
    frame = np.zeros(layout.size_bytes, np.uint8)
    start = layout.samples_offset_bytes
    frame[start : start + layout.samples_bytes] = _value_bytes(values, layout.sample_type, layout.big_endian)
    if layout.counter_offset_bytes is not None and layout.counter_modulus is not None:
        counted = (counter % layout.counter_modulus).to_bytes(
            layout.counter_bytes, "big" if layout.big_endian else "little"
        )
        frame[layout.counter_offset_bytes : layout.counter_offset_bytes + layout.counter_bytes] = list(counted)
    for marker in layout.markers:
        frame[marker.offset_bytes] = frame[marker.offset_bytes] & ~np.uint8(marker.mask) | marker.value
    return frame.tobytes()


def fixed_bytes(offset_bytes: int, values: Sequence[int]) -> tuple[Marker, ...]:
    """Markers of whole bytes in a row."""
    return tuple(Marker(offset_bytes + index, 0xFF, value) for index, value in enumerate(values))


def value_limits(sample_type: str) -> tuple[float, float]:
    """The least and the greatest number that a sample type holds."""
    if sample_type == "f32":
        return -float(np.finfo(np.float32).max), float(np.finfo(np.float32).max)
    n_bits = 8 * SAMPLE_BYTES[sample_type]
    return (-(2.0 ** (n_bits - 1)), 2.0 ** (n_bits - 1) - 1) if sample_type[0] == "i" else (0.0, 2.0**n_bits - 1)


def _counters(layout: FrameLayout, frames: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    place = layout.counter_offset_bytes
    if place is None:
        return None
    if layout.counter_bytes == 1:
        return frames[:, place].astype(np.int64)
    order = ">" if layout.big_endian else "<"
    return np.ascontiguousarray(frames[:, place : place + 2]).view(f"{order}u2")[:, 0].astype(np.int64)


def _values(samples: NDArray[np.uint8], sample_type: str, big_endian: bool) -> NDArray[np.float32]:
    if SAMPLE_BYTES[sample_type] != 3:
        order = ">" if big_endian else "<"
        return np.ascontiguousarray(samples).view(order + _NUMPY_KIND[sample_type]).astype(np.float32)
    parts = samples.reshape(-1, 3)
    words = np.zeros((len(parts), 4), np.uint8)
    words[:, 1:] = parts[:, ::-1] if big_endian else parts  # in the upper three bytes: the shift back carries the sign
    whole = words.view("<i4") if sample_type[0] == "i" else words.view("<u4")
    return (whole >> 8).astype(np.float32)


def _value_bytes(values: NDArray[np.float32], sample_type: str, big_endian: bool) -> NDArray[np.uint8]:
    order = ">" if big_endian else "<"
    if SAMPLE_BYTES[sample_type] != 3:
        return np.ascontiguousarray(values).astype(order + _NUMPY_KIND[sample_type]).reshape(-1).view(np.uint8)
    words = np.ascontiguousarray(values).astype(order + "i4").reshape(-1).view(np.uint8).reshape(-1, 4)
    return np.ascontiguousarray(words[:, 1:] if big_endian else words[:, :3]).reshape(-1)
