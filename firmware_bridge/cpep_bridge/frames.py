"""The frames of the wristband link, as dataclasses, and their encoding as bytes.

On the wire a frame is COBS(body + CRC-32 of body, little-endian) followed by the delimiter 0x00. All numbers are
little-endian. Every body starts with `ver u8 | type u8 | seq u16`, followed by the fields of its type (text and bytes
are a length u8 and that many bytes, text in UTF-8):

    0x01 INFO        boot_id u32, uv_per_count f32, sample_rate_hz f32, baud u32, capabilities u32, n_samples u8,
                     n_channels u8, sample_format u8, state u8, channel_order bytes, model text, serial_number text,
                     firmware text
    0x10 DATA        sample_index u32, t_us u64, n_samples u8, n_channels u8, sample_format u8, flags u8, samples
    0x11 END         t_us u64, sample_index u32
    0x20 TELEMETRY   t_us u64, battery_mv u16, battery_current_ua i32, charge_percent u8, temperature_c f32,
                     adc_overruns u32, tx_overruns u32
    0x30 PONG        t_rx_us u64, t_tx_us u64
    0x40 ACK         command u8
    0x41 NAK         command u8, code u8, text
    0x50 LOG         t_us u64, level u8, text
    0x60 PREDICTION  t_us u64, sample_index u32, gesture_id u16, confidence f32, encoder_us u32, total_us u32
    0x61 BENCH       n_runs u32, p50_us u32, p95_us u32, p99_us u32, max_us u32, arena_bytes u32, energy_uj f32
    0x81 IDENTIFY    -        0x83 START  -        0x84 STOP  -        0x85 PING  -
    0x82 CONFIG      sample_rate_hz f32, n_samples u8, sample_format u8
    0x86 BENCH       n_runs u16
    0x87 CALIBRATE   turn u8, gains bytes

`seq` counts the DATA frames of a stream. In a host's frame it numbers the command, and the answer repeats the number.
PROTOCOL.md specifies the protocol in full, with examples. A frame of another version or type is counted and skipped.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag
from typing import ClassVar
from zlib import crc32

import numpy as np
from cobs import cobs
from numpy.typing import NDArray

from cpep_edge.errors import FrameError

VERSION = 1
DELIMITER = b"\0"
CRC_BYTES = 4
MIN_BODY_BYTES = 8  # ver, type, seq and the CRC
MAX_BODY_BYTES = 1024  # decoded, with the CRC
MAX_WIRE_BYTES = MAX_BODY_BYTES + MAX_BODY_BYTES // 254 + 1  # encoded, without the delimiter

_HEADER = struct.Struct("<BBH")  # ver, type, seq
_DATA_HEADER = struct.Struct("<BBHIQBBBB")
_DATA_TYPE = 0x10
_I16 = 0
_INT16, _INT32 = np.dtype("<i2"), np.dtype("<i4")
_NOTHING = struct.Struct("<")


class SampleFormat(IntEnum):
    """The encoding of one channel's value in a sample."""

    I16 = _I16
    I24 = 1


BYTES_PER_VALUE = (2, 3)  # by SampleFormat
UNCHANGED_FORMAT = 255  # in CONFIG


class DataFlag(IntFlag):
    """Conditions that held somewhere in a DATA frame."""

    OVERRUN = 1  # frames were dropped right before this one because the line was full
    SATURATION = 2
    LEAD_OFF = 4
    TRIGGER = 8
    TEST_SIGNAL = 16


class Capability(IntFlag):
    """What a device can do beyond streaming."""

    TELEMETRY = 1
    CONFIG = 2
    PREDICTION = 4
    BENCH = 8
    CALIBRATION = 16


class NakCode(IntEnum):
    """Why a device refused a command."""

    UNSUPPORTED = 1
    BAD_VALUE = 2
    NOT_NOW = 3


@dataclass(frozen=True, slots=True)
class Data:
    """Consecutive samples as they came from the converter."""

    TYPE: ClassVar[int] = _DATA_TYPE
    seq: int
    sample_index: int  # of the first sample, from START, modulo 2^32; includes samples that the converter missed
    t_us: int  # time of the first sample, device clock
    n_samples: int
    n_channels: int
    sample_format: int  # SampleFormat
    flags: int  # DataFlag
    samples: bytes  # [n_samples][n_channels]

    def counts(self) -> NDArray[np.int32]:
        """The samples, (n_samples, n_channels), in converter counts."""
        return unpack_samples(self.samples, self.n_channels, self.sample_format)


@dataclass(frozen=True, slots=True)
class Info:
    """The device's description of itself: the answer to IDENTIFY, and its first frame after a start."""

    TYPE: ClassVar[int] = 0x01
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IffIIBBBB")
    seq: int
    boot_id: int  # random, new at every start of the device
    uv_per_count: float
    sample_rate_hz: float
    baud: int  # of the line; 0 for one without a baud rate (USB, network, pty)
    capabilities: int  # Capability
    n_samples: int  # per DATA frame; the last one of a stream may be shorter
    n_channels: int
    sample_format: int  # SampleFormat
    state: int  # 0 idle, 1 streaming
    channel_order: bytes  # electrode position of each channel, counted round the wrist
    model: str
    serial_number: str
    firmware: str


@dataclass(frozen=True, slots=True)
class End:
    """The end of a stream: its last DATA frame was `seq - 1`, its last sample `sample_index - 1`."""

    TYPE: ClassVar[int] = 0x11
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QI")
    seq: int
    t_us: int
    sample_index: int


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The device's state, sent once a second."""

    TYPE: ClassVar[int] = 0x20
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QHiBfII")
    seq: int
    t_us: int
    battery_mv: int
    battery_current_ua: int  # negative while discharging
    charge_percent: int
    temperature_c: float
    adc_overruns: int  # samples that the converter missed since boot
    tx_overruns: int  # DATA frames dropped since boot because the line was full


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to PING: when the PING arrived and when this was sent, device clock."""

    TYPE: ClassVar[int] = 0x30
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QQ")
    seq: int
    t_rx_us: int
    t_tx_us: int


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to a command that was executed."""

    TYPE: ClassVar[int] = 0x40
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<B")
    seq: int
    command: int  # type of the command


@dataclass(frozen=True, slots=True)
class Nak:
    """The answer to a command that was refused."""

    TYPE: ClassVar[int] = 0x41
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<BB")
    seq: int
    command: int
    code: int  # NakCode
    text: str


@dataclass(frozen=True, slots=True)
class Log:
    """A line of the device's log."""

    TYPE: ClassVar[int] = 0x50
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QB")
    seq: int
    t_us: int
    level: int  # as in Python's logging: 10 debug, 20 info, 30 warning, 40 error
    text: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """A gesture that the device itself recognised."""

    TYPE: ClassVar[int] = 0x60
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QIHfII")
    seq: int
    t_us: int  # of the decision
    sample_index: int  # one past the window's last sample
    gesture_id: int
    confidence: float  # 0 to 1
    encoder_us: int
    total_us: int  # from the window's last sample to the decision


@dataclass(frozen=True, slots=True)
class BenchResult:
    """How long inference takes on the device."""

    TYPE: ClassVar[int] = 0x61
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIIIIIf")
    seq: int
    n_runs: int
    p50_us: int
    p95_us: int
    p99_us: int
    max_us: int
    arena_bytes: int
    energy_uj: float  # of one run; 0: not measured


@dataclass(frozen=True, slots=True)
class Identify:
    """Asks for INFO."""

    TYPE: ClassVar[int] = 0x81
    LAYOUT: ClassVar[struct.Struct] = _NOTHING
    seq: int


@dataclass(frozen=True, slots=True)
class Config:
    """Changes the settings of the next stream; rate 0, size 0 and format 255 leave a setting unchanged."""

    TYPE: ClassVar[int] = 0x82
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<fBB")
    seq: int
    sample_rate_hz: float
    n_samples: int  # per DATA frame
    sample_format: int  # SampleFormat


@dataclass(frozen=True, slots=True)
class Start:
    """Begins a new stream. Its first DATA frame follows the ACK and has `seq` 0 and `sample_index` 0."""

    TYPE: ClassVar[int] = 0x83
    LAYOUT: ClassVar[struct.Struct] = _NOTHING
    seq: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Ends the stream, if there is one."""

    TYPE: ClassVar[int] = 0x84
    LAYOUT: ClassVar[struct.Struct] = _NOTHING
    seq: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for PONG."""

    TYPE: ClassVar[int] = 0x85
    LAYOUT: ClassVar[struct.Struct] = _NOTHING
    seq: int


@dataclass(frozen=True, slots=True)
class BenchCommand:
    """Asks for BENCH after so many runs."""

    TYPE: ClassVar[int] = 0x86
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<H")
    seq: int
    n_runs: int


@dataclass(frozen=True, slots=True)
class Calibrate:
    """Sets the wearer's calibration of the device's own engine, until the next CALIBRATE or a restart."""

    TYPE: ClassVar[int] = 0x87
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<B")
    seq: int
    turn: int  # channel c of the model is channel c + turn of the band
    gains: bytes  # f32 for each of the model's channels: the factor of its filtered signal


DeviceFrame = Data | Info | End | Telemetry | Pong | Ack | Nak | Log | Prediction | BenchResult
Command = Identify | Config | Start | Stop | Ping | BenchCommand | Calibrate
Frame = DeviceFrame | Command
# All but DATA are encoded alike: the numbers by LAYOUT, in the order of the fields, then the texts and bytes.
_Laid = (
    Info | End | Telemetry | Pong | Ack | Nak | Log | Prediction | BenchResult
    | Identify | Config | Start | Stop | Ping | BenchCommand | Calibrate
)  # fmt: skip

_LAID: tuple[type[_Laid], ...] = (
    *(Info, End, Telemetry, Pong, Ack, Nak, Log, Prediction, BenchResult),
    *(Identify, Config, Start, Stop, Ping, BenchCommand, Calibrate),
)
_BY_TYPE: dict[int, type[_Laid]] = {kind.TYPE: kind for kind in _LAID}
_TAIL_TYPES: dict[type[_Laid], tuple[type, ...]] = {
    kind: tuple(field.type for field in fields(kind) if field.type is str or field.type is bytes) for kind in _LAID
}


def frame_bytes(n_samples: int, n_channels: int, sample_format: SampleFormat) -> int:
    """The size of a DATA frame before COBS, CRC included."""
    return _DATA_HEADER.size + n_samples * n_channels * BYTES_PER_VALUE[sample_format] + CRC_BYTES


def encode_frame(frame: Frame) -> bytes:
    """The encoded bytes of one frame, delimiter included.

    Raises ValueError when a value does not fit its field or the frame exceeds 1024 bytes.
    """
    body = _data_body(frame) if isinstance(frame, Data) else _laid_body(frame)
    if len(body) + CRC_BYTES > MAX_BODY_BYTES:
        raise ValueError(f"a frame of {len(body) + CRC_BYTES} bytes exceeds {MAX_BODY_BYTES}")
    encoded: bytes = cobs.encode(body + crc32(body).to_bytes(CRC_BYTES, "little"))
    return encoded + DELIMITER


def decode_frame(body: bytes) -> Frame | None:
    """Decode a body without its CRC, which was checked; None for another version or an unknown type.

    Raises FrameError when its lengths are inconsistent or a text is not UTF-8.
    """
    if body[0] != VERSION:
        return None
    if body[1] == _DATA_TYPE:
        return _decode_data(body)
    laid = _BY_TYPE.get(body[1])
    return None if laid is None else _decode_laid(laid, body)


def unpack_samples(samples: bytes, n_channels: int, sample_format: int) -> NDArray[np.int32]:
    """The payload of one or several DATA frames, end to end, as (n_samples, n_channels) counts."""
    if sample_format == _I16:
        return np.frombuffer(samples, _INT16).astype(np.int32).reshape(-1, n_channels)
    parts = np.frombuffer(samples, np.uint8).reshape(-1, 3)
    words = np.zeros((len(parts), 4), np.uint8)
    words[:, 1:] = parts  # in the upper three bytes, so that the shift right extends the sign
    return (words.view(_INT32) >> 8).astype(np.int32, copy=False).reshape(-1, n_channels)


def samples_to_uv(samples: bytes, n_channels: int, sample_format: int, uv_per_count: np.float32) -> NDArray[np.float32]:
    """The payload of one or several DATA frames, end to end, as (n_samples, n_channels) microvolts."""
    if sample_format == _I16:  # a fast path, because this runs for every frame of a stream
        scaled: NDArray[np.float32] = np.frombuffer(samples, _INT16) * uv_per_count
        return scaled.reshape(-1, n_channels)
    return unpack_samples(samples, n_channels, sample_format).astype(np.float32) * uv_per_count


def pack_samples(counts: NDArray[np.int32], sample_format: int) -> bytes:
    """Encode counts as the payload of a DATA frame; they must be within the format's range."""
    if sample_format == SampleFormat.I16:
        return counts.astype(_INT16).tobytes()
    words = np.ascontiguousarray(counts, _INT32).view(np.uint8).reshape(-1, 4)
    return words[:, :3].tobytes()


def _data_body(frame: Data) -> bytes:
    size_bytes = frame.n_samples * frame.n_channels * BYTES_PER_VALUE[SampleFormat(frame.sample_format)]
    if len(frame.samples) != size_bytes:
        raise ValueError(f"DATA holds {len(frame.samples)} bytes of samples where its header says {size_bytes}")
    numbers = (frame.seq, frame.sample_index, frame.t_us, frame.n_samples, frame.n_channels, frame.sample_format)
    return _packed(_DATA_HEADER, VERSION, Data.TYPE, *numbers, frame.flags) + frame.samples


def _decode_data(body: bytes) -> Data:
    if len(body) < _DATA_HEADER.size:
        raise FrameError(f"DATA is {len(body)} bytes long, too short for its header")
    _, _, seq, sample_index, t_us, n_samples, n_channels, sample_format, flags = _DATA_HEADER.unpack_from(body)
    samples = body[_DATA_HEADER.size :]
    if sample_format >= len(BYTES_PER_VALUE) or len(samples) != n_samples * n_channels * BYTES_PER_VALUE[sample_format]:
        raise FrameError(f"DATA holds {len(samples)} bytes of samples, not {n_samples} x {n_channels}")
    return Data(seq, sample_index, t_us, n_samples, n_channels, sample_format, flags, samples)


def _laid_body(frame: _Laid) -> bytes:
    names = [field.name for field in fields(frame)][1:]
    values = [getattr(frame, name) for name in names]
    n_tail = len(_TAIL_TYPES[type(frame)])
    fixed, tail = values[: len(values) - n_tail], values[len(values) - n_tail :]
    head = _packed(_HEADER, VERSION, frame.TYPE, frame.seq)
    return head + _packed(frame.LAYOUT, *fixed) + b"".join(_prefixed(value) for value in tail)


def _decode_laid(kind: type[_Laid], body: bytes) -> Frame:
    offset = _HEADER.size + kind.LAYOUT.size
    if len(body) < offset:
        raise FrameError(f"{kind.__name__} is {len(body)} bytes long, not at least {offset}")
    _, _, seq = _HEADER.unpack_from(body)
    values: list[object] = [seq, *kind.LAYOUT.unpack_from(body, _HEADER.size)]
    for tail_type in _TAIL_TYPES[kind]:
        stop = offset + 1 + body[offset] if offset < len(body) else len(body) + 1
        if stop > len(body):
            raise FrameError("a length inside the frame points past its end")
        piece, offset = body[offset + 1 : stop], stop
        values.append(_text(piece) if tail_type is str else piece)
    if offset != len(body):
        raise FrameError(f"{kind.__name__} is {len(body)} bytes long, not {offset}")
    build: Callable[..., Frame] = kind
    return build(*values)


def _packed(layout: struct.Struct, *values: object) -> bytes:
    try:
        return layout.pack(*values)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"a value of {values} does not fit its field: {error}") from error


def _prefixed(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    if len(raw) > 255:
        raise ValueError(f"a text of {len(raw)} bytes exceeds 255")
    return bytes([len(raw)]) + raw


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise FrameError("a text inside the frame is not UTF-8") from error
