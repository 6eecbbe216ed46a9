"""Frames of a fixed layout, as most boards send them: some bits that never change, a counter, samples; no CRC.

Such a frame can only be recognised by its fixed bits, so a damaged sample goes unnoticed unless the board adds a
checksum. To find as much damage as possible, every fixed bit and the checksum are checked, NaN and infinite samples
count as damage, and after any damage a frame is accepted only when another one follows directly.

Finding frames takes linear time in the number of bytes, however damaged they are.
"""

from binascii import crc_hqx
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from cpep_edge.blocks import LARGEST_SAMPLE

SAMPLE_BYTES = {"u8": 1, "i8": 1, "u16": 2, "i16": 2, "u24": 3, "i24": 3, "u32": 4, "i32": 4, "f32": 4}
_NUMPY_KIND = {"u8": "u1", "i8": "i1", "u16": "u2", "i16": "i2", "u32": "u4", "i32": "i4", "f32": "f4"}
CHECKSUMS = ("sum8", "xor8", "crc8", "crc16-ccitt", "crc16-modbus", "crc32")

_FIRST_RUN = 64  # frames checked together after damage; doubled as long as all are good


@dataclass(frozen=True, slots=True)
class Marker:
    """Bits of one byte of a frame that never change."""

    offset_bytes: int
    mask: int  # which bits of that byte
    value: int  # their value


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum over some bytes of a frame, stored in the frame."""

    kind: str  # one of CHECKSUMS
    start_bytes: int  # first byte that it covers
    stop_bytes: int  # one past the last byte that it covers
    offset_bytes: int  # position of the checksum
    big_endian: bool

    @property
    def size_bytes(self) -> int:
        """The length of the checksum."""
        return {"crc16-ccitt": 2, "crc16-modbus": 2, "crc32": 4}.get(self.kind, 1)

    def of(self, frames: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """The checksum computed for each frame, (n_frames,); frames: (n_frames, size_bytes)."""
        covered = frames[:, self.start_bytes : self.stop_bytes]
        match self.kind:
            case "sum8":
                return np.array(covered.sum(axis=1, dtype=np.uint64) & np.uint64(0xFF), np.uint64)
            case "xor8":
                return np.array(np.bitwise_xor.reduce(covered, axis=1), np.uint64)
            case "crc32":
                return np.array([crc32(row.tobytes()) for row in covered], np.uint64)
            case "crc16-ccitt":
                return np.array([crc_hqx(row.tobytes(), 0xFFFF) for row in covered], np.uint64)
            case "crc8":
                return _crc(covered, table=_crc_table(0x07, 8), initial=0)
        return _crc(covered, table=_crc_table(0xA001, 16, reflected=True), initial=0xFFFF)

    def given(self, frames: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """The checksum stored in each frame, (n_frames,)."""
        return _whole_numbers(frames, self.offset_bytes, self.size_bytes, self.big_endian)


@dataclass(frozen=True, slots=True)
class FrameLayout:
    """The layout of a frame."""

    size_bytes: int
    markers: tuple[Marker, ...]
    samples_offset_bytes: int
    n_samples: int
    n_channels: int
    sample_type: str  # a key of SAMPLE_BYTES
    big_endian: bool
    counter_offset_bytes: int | None = None  # None: frames are not numbered
    counter_bytes: int = 1  # 1 to 4, in the byte order of the samples
    checksum: Checksum | None = None

    @property
    def samples_bytes(self) -> int:
        """Size of all samples of a frame."""
        return self.n_samples * self.n_channels * SAMPLE_BYTES[self.sample_type]

    @property
    def counter_modulus(self) -> int | None:
        """The number at which the counter wraps; None without a counter."""
        return None if self.counter_offset_bytes is None else 1 << (8 * self.counter_bytes)


@dataclass(frozen=True, slots=True)
class Packets:
    """The decoded frames of one read."""

    counters: NDArray[np.int64] | None  # (n_frames,); None: frames are not numbered
    values: NDArray[np.float32]  # (n_frames, n_samples, n_channels), raw values of the converter
    stamps_s: NDArray[np.float64] | None = None  # (n_frames,), time by the board's clock; None: it sends no time


class PacketDecoder(Protocol):
    """Takes bytes as they arrive and returns the frames that they complete."""

    n_corrupt: int  # frames that were found but could not be read

    def feed(self, data: bytes) -> Packets: ...


class FixedFrameDecoder:
    """Finds frames of one layout in a stream of bytes, in bounded memory."""

    def __init__(self, layout: FrameLayout) -> None:
        self.layout = layout
        self.n_corrupt = 0
        self.n_skipped_bytes = 0  # bytes that belonged to no frame
        self._tail = b""
        self._locked = False  # whether the next frame is expected directly behind the previous one
        self._offsets = np.array([marker.offset_bytes for marker in layout.markers])
        self._masks = np.array([marker.mask for marker in layout.markers], np.uint8)
        self._wanted = np.array([marker.value for marker in layout.markers], np.uint8)

    def feed(self, data: bytes) -> Packets:
        """The frames that are complete now."""
        buffer = np.frombuffer(self._tail + data, np.uint8)
        n_frames = len(buffer) // self.layout.size_bytes
        frames = buffer[: n_frames * self.layout.size_bytes].reshape(n_frames, self.layout.size_bytes)
        if self._locked and self._n_good(frames) == n_frames:  # no damage: the fast path
            self._tail = buffer[frames.size :].tobytes()
        else:
            frames = self._salvage(buffer)
        packets = unpack_packets(self.layout, frames)
        if self.layout.sample_type != "f32":
            return packets
        good = (np.abs(packets.values) <= LARGEST_SAMPLE).all(axis=(1, 2))  # False for NaN too
        if good.all():
            return packets
        self.n_corrupt += int(np.count_nonzero(~good))
        return Packets(None if packets.counters is None else packets.counters[good], packets.values[good])

    def _n_good(self, frames: NDArray[np.uint8]) -> int:
        """How many intact frames come before the first damaged one."""
        good = ((frames[:, self._offsets] & self._masks) == self._wanted).all(axis=1)
        if self.layout.checksum is not None:
            good &= self.layout.checksum.of(frames) == self.layout.checksum.given(frames)
        return len(good) if good.all() else int(np.argmin(good))

    def _salvage(self, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The intact frames of a damaged buffer, (n_frames, size_bytes); the bytes behind them are kept for later."""
        size, start = self.layout.size_bytes, 0
        found: list[NDArray[np.uint8]] = [buffer[:0].reshape(0, size)]
        places = self._places(buffer)  # possible starts of a frame that another one follows
        while len(buffer) - start >= size:
            if not self._locked:
                at = int(np.searchsorted(places, start))
                if at == len(places):
                    skipped = max(0, len(buffer) - 2 * size + 1 - start)  # after these, a frame may still begin
                    self.n_skipped_bytes += skipped
                    start += skipped
                    break
                self.n_skipped_bytes += int(places[at]) - start
                start, self._locked = int(places[at]), True
            run = _FIRST_RUN
            while self._locked and len(buffer) - start >= size:
                n_frames = min(run, (len(buffer) - start) // size)
                frames = buffer[start : start + n_frames * size].reshape(n_frames, size)
                n_good = self._n_good(frames)
                found.append(frames[:n_good])
                start += n_good * size
                run *= 2
                if n_good < n_frames:
                    self._locked = False
                    self.n_corrupt += 1
                    if not n_good:  # it only looked like a frame; perhaps just its checksum is wrong
                        start, self.n_skipped_bytes = start + 1, self.n_skipped_bytes + 1
        self._tail = buffer[start:].tobytes()
        return np.concatenate(found)

    def _places(self, buffer: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Where the fixed bits of two successive frames match."""
        size = self.layout.size_bytes
        n_places = len(buffer) - size + 1
        if n_places <= size:
            return np.empty(0, np.intp)
        fits = np.ones(n_places, bool)
        for offset, mask, value in zip(self._offsets, self._masks, self._wanted, strict=True):
            fits &= (buffer[offset : offset + n_places] & mask) == value
        return np.flatnonzero(fits[:-size] & fits[size:])


def unpack_packets(layout: FrameLayout, frames: NDArray[np.uint8]) -> Packets:
    """The counters and samples of complete frames, (n_frames, size_bytes)."""
    start = layout.samples_offset_bytes
    samples = frames[:, start : start + layout.samples_bytes]
    values = _values(samples, layout.sample_type, layout.big_endian)
    return Packets(_counters(layout, frames), values.reshape(len(frames), layout.n_samples, layout.n_channels))


def pack_frame(layout: FrameLayout, counter: int, values: NDArray[np.float32]) -> bytes:
    """One frame as its board would send it; bytes that the layout does not mention are zero.

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
    if layout.checksum is not None:
        size, start = layout.checksum.size_bytes, layout.checksum.offset_bytes
        order: Literal["big", "little"] = "big" if layout.checksum.big_endian else "little"
        frame[start : start + size] = list(int(layout.checksum.of(frame[None])[0]).to_bytes(size, order))
    return frame.tobytes()


def fixed_bytes(offset_bytes: int, values: Sequence[int]) -> tuple[Marker, ...]:
    """Markers for successive bytes that are fixed as a whole."""
    return tuple(Marker(offset_bytes + index, 0xFF, value) for index, value in enumerate(values))


def value_limits(sample_type: str) -> tuple[float, float]:
    """The smallest and the largest value of a sample type."""
    if sample_type == "f32":
        return -float(np.finfo(np.float32).max), float(np.finfo(np.float32).max)
    n_bits = 8 * SAMPLE_BYTES[sample_type]
    return (-(2.0 ** (n_bits - 1)), 2.0 ** (n_bits - 1) - 1) if sample_type[0] == "i" else (0.0, 2.0**n_bits - 1)


def _counters(layout: FrameLayout, frames: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    if layout.counter_offset_bytes is None:
        return None
    counters = _whole_numbers(frames, layout.counter_offset_bytes, layout.counter_bytes, layout.big_endian)
    return counters.astype(np.int64)


def _whole_numbers(frames: NDArray[np.uint8], start: int, size_bytes: int, big_endian: bool) -> NDArray[np.uint64]:
    """An unsigned integer from each frame, (n_frames,)."""
    parts = frames[:, start : start + size_bytes].astype(np.uint64)
    if size_bytes == 1:
        return parts[:, 0]
    places = np.arange(size_bytes, dtype=np.uint64)
    return parts @ (np.uint64(1) << np.uint64(8) * (places[::-1] if big_endian else places))


def _crc_table(polynomial: int, n_bits: int, reflected: bool = False) -> list[int]:
    table = []
    for byte in range(256):
        value = byte if reflected else byte << (n_bits - 8)
        for _ in range(8):
            if reflected:
                value = value >> 1 ^ (polynomial if value & 1 else 0)
            else:
                value = (value << 1 ^ (polynomial if value >> (n_bits - 1) else 0)) & ((1 << n_bits) - 1)
        table.append(value)
    return table


def _crc(covered: NDArray[np.uint8], table: list[int], initial: int) -> NDArray[np.uint64]:
    """A table-driven CRC of each row, (n_frames,). The CRC has eight bits, or is reflected (lowest bit first)."""
    steps = np.array(table, np.uint64)
    values = np.full(len(covered), initial, np.uint64)
    for column in covered.T.astype(np.uint64):
        values = values >> np.uint64(8) ^ steps[(values ^ column) & np.uint64(0xFF)]
    return values


def _values(samples: NDArray[np.uint8], sample_type: str, big_endian: bool) -> NDArray[np.float32]:
    if SAMPLE_BYTES[sample_type] != 3:
        order = ">" if big_endian else "<"
        return np.ascontiguousarray(samples).view(order + _NUMPY_KIND[sample_type]).astype(np.float32)
    parts = samples.reshape(-1, 3)
    words = np.zeros((len(parts), 4), np.uint8)
    words[:, 1:] = parts[:, ::-1] if big_endian else parts  # upper three bytes, so that the shift keeps the sign
    whole = words.view("<i4") if sample_type[0] == "i" else words.view("<u4")
    return (whole >> 8).astype(np.float32)


def _value_bytes(values: NDArray[np.float32], sample_type: str, big_endian: bool) -> NDArray[np.uint8]:
    order = ">" if big_endian else "<"
    if SAMPLE_BYTES[sample_type] != 3:
        return np.ascontiguousarray(values).astype(order + _NUMPY_KIND[sample_type]).reshape(-1).view(np.uint8)
    words = np.ascontiguousarray(values).astype(order + "i4").reshape(-1).view(np.uint8).reshape(-1, 4)
    return np.ascontiguousarray(words[:, 1:] if big_endian else words[:, :3]).reshape(-1)
