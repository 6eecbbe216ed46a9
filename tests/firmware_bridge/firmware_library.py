"""The firmware as a shared library. Its frames are ctypes structures with the fields of the dataclasses of `frames`."""

import ctypes as ct
import os
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any

from cpep_bridge import frames
from cpep_bridge.firmware import build_firmware
from cpep_bridge.frames import BYTES_PER_VALUE, MAX_WIRE_BYTES, Data, Frame

INTACT, CORRUPT, UNKNOWN = range(3)
LIBRARY_VARIABLE = "CPEP_FIRMWARE_LIBRARY"  # to test another build, such as one with sanitizers
N_EXAMPLES = 30 if LIBRARY_VARIABLE in os.environ else 150  # per property; sanitizers are slow

_Bytes = ct.POINTER(ct.c_uint8)
_C_TYPES = {
    "B": ct.c_uint8, "H": ct.c_uint16, "I": ct.c_uint32, "i": ct.c_int32, "Q": ct.c_uint64, "f": ct.c_float
}  # fmt: skip


class Text(ct.Structure):
    _fields_ = (("bytes", _Bytes), ("n", ct.c_uint8))

    def get(self) -> bytes:
        return ct.string_at(self.bytes, self.n) if self.n else b""


def _structure(kind: type) -> type[ct.Structure]:
    names = [field.name for field in fields(kind)][1:]
    if kind is Data:
        types: list[Any] = [*(_C_TYPES[code] for code in "IQBBBB"), _Bytes]
    else:
        codes = kind.LAYOUT.format.removeprefix("<")
        types = [_C_TYPES[code] for code in codes] + [Text] * (len(names) - len(codes))
    return type(kind.__name__, (ct.Structure,), {"_fields_": list(zip(names, types, strict=True))})


KINDS: dict[int, Any] = {kind.TYPE: kind for kind in (Data, *frames._LAID)}
STRUCTURES = {number: _structure(kind) for number, kind in KINDS.items()}
CPrediction, CTelemetry = STRUCTURES[frames.Prediction.TYPE], STRUCTURES[frames.Telemetry.TYPE]
CBenchResult = STRUCTURES[frames.BenchResult.TYPE]


class _Fields(ct.Union):
    _fields_ = [(kind.__name__, structure) for kind, structure in zip(KINDS.values(), STRUCTURES.values(), strict=True)]


class CFrame(ct.Structure):
    _fields_ = (("type", ct.c_uint8), ("seq", ct.c_uint16), ("fields", _Fields))


class _Counts(ct.Structure):
    _fields_ = [
        (name, ct.c_uint32)
        for name in ("bytes", "frames", "corrupt_frames", "corrupt_bytes", "unknown_frames", "skipped_bytes")
    ]


class CDecoder(ct.Structure):
    _fields_ = (
        ("buffer", _Bytes), ("capacity", ct.c_uint32), ("n", ct.c_uint32),
        ("synced", ct.c_bool), ("overlong", ct.c_bool), ("counts", _Counts),
    )  # fmt: skip


@cache
def library() -> ct.CDLL:
    """The shared library, built on first use."""
    loaded = ct.CDLL(os.environ.get(LIBRARY_VARIABLE) or str(build_firmware("libcpep-band.so")))
    loaded.cpep_decoder_take.restype = loaded.cpep_band_init.restype = ct.c_bool
    for name in (
        "cpep_wire_crc32",
        "cpep_wire_cobs_encode",
        "cpep_wire_cobs_decode",
        "cpep_frame_encode",
        "cpep_band_samples_wanted",
    ):
        getattr(loaded, name).restype = ct.c_uint32
    return loaded


def exactly(data: bytes) -> Any:
    """A buffer of just these bytes, without a terminating zero, so that sanitizers notice reads past its end."""
    return (ct.c_uint8 * len(data)).from_buffer_copy(data)


def text(raw: bytes) -> Text:
    return Text(exactly(raw) if raw else None, len(raw))


def to_c(frame: Frame) -> CFrame:
    """Convert a frame to the firmware's structure."""
    names = [field.name for field in fields(frame)][1:]
    values = [getattr(frame, name) for name in names]
    if isinstance(frame, Data):
        values[-1] = exactly(frame.samples)
    else:
        values = [value.encode() if isinstance(value, str) else value for value in values]
        values = [text(value) if isinstance(value, bytes) else value for value in values]
    result = CFrame(frame.TYPE, frame.seq)
    content = getattr(result.fields, type(frame).__name__)
    for name, value in zip(names, values, strict=True):
        setattr(content, name, ct.cast(value, _Bytes) if name == "samples" else value)
    result.kept = values  # type: ignore[attr-defined] # ctypes holds no reference through a union
    return result


def from_c(frame: CFrame) -> Frame:
    """Convert a frame from the firmware's structure.

    Raises UnicodeDecodeError for texts that are not UTF-8, because the firmware does not check them.
    """
    kind = KINDS[frame.type]
    content = getattr(frame.fields, kind.__name__)
    values = [_value(content, field.name, field.type) for field in fields(kind)[1:]]
    built: Frame = kind(frame.seq, *values)
    return built


def _value(content: Any, name: str, wanted: object) -> object:
    value = getattr(content, name)
    if name == "samples":
        n_bytes = content.n_samples * content.n_channels * BYTES_PER_VALUE[content.sample_format]
        return ct.string_at(value, n_bytes) if n_bytes else b""
    if isinstance(value, Text):
        return value.get().decode() if wanted is str else value.get()
    return value


def c_encode(frame: Frame) -> bytes:
    """The bytes of a frame as the firmware encodes it; empty when it refuses to."""
    wire = (ct.c_uint8 * (MAX_WIRE_BYTES + 1))()
    return bytes(wire[: library().cpep_frame_encode(ct.byref(to_c(frame)), wire)])


def c_decode(piece: bytes) -> tuple[int, Frame | None]:
    """Decode the bytes between two delimiters with the firmware; returns its result code and, if valid, the frame."""
    buffer, frame = exactly(piece), CFrame()
    verdict: int = library().cpep_frame_decode(buffer, len(piece), ct.byref(frame))
    return verdict, from_c(frame) if verdict == INTACT else None


class CFrameDecoder:
    """cpep_decoder.h with the interface of `decoder.FrameDecoder`."""

    def __init__(self, capacity: int = MAX_WIRE_BYTES) -> None:
        self._buffer = (ct.c_uint8 * capacity)()
        self._decoder = CDecoder()
        library().cpep_decoder_init(ct.byref(self._decoder), self._buffer, capacity)

    def feed(self, data: bytes, read: Callable[[CFrame], Frame] = from_c) -> list[Frame]:
        received, frame, take = [], CFrame(), library().cpep_decoder_take
        for byte in data:
            if take(ct.byref(self._decoder), byte, ct.byref(frame)):
                received.append(read(frame))
        return received

    @property
    def counts(self) -> dict[str, int]:
        return {name: getattr(self._decoder.counts, name) for name, _ in _Counts._fields_}
