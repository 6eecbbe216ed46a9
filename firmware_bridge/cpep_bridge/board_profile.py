"""Boards described in a TOML file: the commands they take, and the layout of a frame or a line of text.

A profile that ships with the project is chosen by its file's name (`--device umyo`), any other by its path (`--device
mine.toml`). README.md shows one with all keys.
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from cpep_bridge.boards import BoardStream
from cpep_bridge.conversation import Conversation
from cpep_bridge.fixed_frames import (
    CHECKSUMS,
    SAMPLE_BYTES,
    Checksum,
    FixedFrameDecoder,
    FrameLayout,
    Marker,
    PacketDecoder,
)
from cpep_bridge.text_lines import LineDecoder, LineLayout
from cpep_bridge.toml_config import Section, read_toml
from cpep_edge.blocks import MAX_RATE_HZ, MAX_UV_PER_COUNT, MIN_UV_PER_COUNT, StreamInfo
from cpep_edge.errors import ConfigError

BITS_PER_BYTE = 10  # on a serial line, with a start and a stop bit

_LARGEST_FRAME_BYTES = 4_096
_MOST_FAULTS = 5  # most faults of one kind in a message
_FOLDER = Path(__file__).parent / "profiles"


class Fixed(Section):
    """A byte of a frame with bits that never change; with `repeat`, several bytes at equal distances."""

    offset_bytes: int = Field(ge=0, le=_LARGEST_FRAME_BYTES)
    value: int = Field(ge=0, le=255)
    mask: int = Field(default=255, ge=1, le=255)
    repeat: int = Field(default=1, ge=1, le=_LARGEST_FRAME_BYTES)
    every_bytes: int = Field(default=1, ge=1, le=_LARGEST_FRAME_BYTES)

    def markers(self) -> list[Marker]:
        """One marker per byte."""
        places = range(self.offset_bytes, self.offset_bytes + self.repeat * self.every_bytes, self.every_bytes)
        return [Marker(place, self.mask, self.value & self.mask) for place in places]


class CheckedBy(Section):
    """A checksum over some bytes of a frame."""

    kind: Literal[CHECKSUMS]  # type: ignore[valid-type]
    offset_bytes: int = Field(ge=0)
    from_bytes: int = Field(default=0, ge=0)  # first byte that it covers
    to_bytes: int | None = Field(default=None, ge=1)  # one past the last byte that it covers; None: offset_bytes


class Frame(Section):
    """A binary frame."""

    size_bytes: int = Field(ge=2, le=_LARGEST_FRAME_BYTES)
    fixed: list[Fixed] = Field(min_length=1)
    samples_offset_bytes: int = Field(ge=0)
    n_samples: int = Field(default=1, ge=1)
    sample_type: str
    byte_order: Literal["big", "little"]
    counter_offset_bytes: int | None = Field(default=None, ge=0)
    counter_bytes: Literal[1, 2, 3, 4] = 1
    checksum: CheckedBy | None = None

    @field_validator("sample_type")
    @classmethod
    def _known_type(cls, name: str) -> str:
        if name not in SAMPLE_BYTES:
            raise ValueError(f"must be one of {', '.join(SAMPLE_BYTES)}, not {name}")
        return name


class Lines(Section):
    """Lines of text, one per sample."""

    separator: str = Field(default=",", pattern=r"^[\x00-\x7f]+$")  # the lines are read as ASCII
    first_column: int = Field(default=0, ge=0, le=255)
    columns: list[Annotated[int, Field(ge=0, le=255)]] | None = None  # one per channel; None: from first_column on
    counter_column: int | None = Field(default=None, ge=0, le=255)
    counter_modulus: int | None = Field(default=None, ge=16, le=2**53)
    time_column: int | None = Field(default=None, ge=0, le=255)
    time_unit: Literal["s", "ms", "us"] = "ms"
    time_modulus: int | None = Field(default=2**32, ge=1000)  # where millis() and micros() wrap

    def channel_columns(self, n_channels: int) -> tuple[int, ...]:
        """The column of each channel."""
        return tuple(self.columns or range(self.first_column, self.first_column + n_channels))


class Commands(Section):
    """The commands to send to the board; none when it streams by itself."""

    greeting: str = ""
    answer: str = ""  # the last characters of the answer to the greeting
    boot_s: float = Field(default=0.0, ge=0, le=60)  # from opening the port, when many boards restart, until it listens
    start: str = ""
    stop: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.greeting) != bool(self.answer):
            raise ValueError("greeting and answer go together: one is of no use without the other")
        return self


class BoardProfile(Section):
    """The description of one kind of board."""

    name: str = Field(min_length=1)
    source: str  # the documentation that the profile was written from, and what was tested
    baud: int | list[int] = Field(default=115_200)  # several are tried in turn
    sample_rate_hz: float = Field(gt=0, le=MAX_RATE_HZ)
    n_channels: int = Field(ge=1, le=256)
    uv_per_count: float | None = Field(
        default=None, ge=MIN_UV_PER_COUNT, le=MAX_UV_PER_COUNT
    )  # None: samples stay counts
    frame: Frame | None = None
    lines: Lines | None = None
    commands: Commands = Commands()

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if (self.frame is None) == (self.lines is None):
            raise ValueError("give either [frame] or [lines]")
        faults = [] if self.frame is None else _length_faults(self.frame, self.n_channels)
        faults += [] if self.lines is None else _line_faults(self.lines, self.n_channels)
        if not self.bauds or min(self.bauds) <= 0:
            faults.append("baud must be a positive number, or a list of such")
            raise ValueError("; ".join(faults))
        needed_baud = self.bytes_per_s * BITS_PER_BYTE
        if needed_baud > max(self.bauds):
            faults.append(
                f"{self.bytes_per_s:.0f} B/s of frames are {needed_baud:.0f} bits a second with start and stop bits, "
                f"but baud is {max(self.bauds)}"
            )
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def bauds(self) -> tuple[int, ...]:
        """The speeds to try, the usual one first."""
        return (self.baud,) if isinstance(self.baud, int) else tuple(self.baud)

    @cached_property
    def layout(self) -> FrameLayout | LineLayout:
        """The layout of a frame or line."""
        if self.frame is None:
            lines = self.lines or Lines()
            return LineLayout(
                separator=lines.separator,
                columns=lines.channel_columns(self.n_channels),
                counter_column=lines.counter_column,
                counter_modulus=lines.counter_modulus,
                time_column=lines.time_column,
                time_tick_s={"s": 1.0, "ms": 1e-3, "us": 1e-6}[lines.time_unit],
                time_modulus=lines.time_modulus,
            )
        return FrameLayout(
            size_bytes=self.frame.size_bytes,
            markers=tuple(marker for fixed in self.frame.fixed for marker in fixed.markers()),
            samples_offset_bytes=self.frame.samples_offset_bytes,
            n_samples=self.frame.n_samples,
            n_channels=self.n_channels,
            sample_type=self.frame.sample_type,
            big_endian=self.frame.byte_order == "big",
            counter_offset_bytes=self.frame.counter_offset_bytes,
            counter_bytes=self.frame.counter_bytes,
            checksum=self._checksum,
        )

    @property
    def _checksum(self) -> Checksum | None:
        if self.frame is None or self.frame.checksum is None:
            return None
        said = self.frame.checksum
        stop = said.offset_bytes if said.to_bytes is None else said.to_bytes
        return Checksum(said.kind, said.from_bytes, stop, said.offset_bytes, self.frame.byte_order == "big")

    @property
    def bytes_per_s(self) -> float:
        """Bytes that the stream sends per second; for text, a lower limit."""
        if self.frame is None:
            return self.sample_rate_hz * 2 * self.n_channels
        return self.sample_rate_hz / self.frame.n_samples * self.frame.size_bytes


class ProfiledBoard:
    """The dialect of a board that a profile describes."""

    def __init__(self, profile: BoardProfile) -> None:
        self._profile = profile
        self.boot_s = profile.commands.boot_s

    def meet(self, talk: Conversation) -> BoardStream:
        """Greet the board if its profile has a greeting, and describe the stream by the profile."""
        profile, commands = self._profile, self._profile.commands
        if commands.stop:
            talk.send(commands.stop.encode())
        if commands.greeting:
            talk.drain()
            talk.ask(commands.greeting.encode(), commands.answer.encode(), again=True)
        unit = "count" if profile.uv_per_count is None else "uV"
        has_clock = profile.lines is not None and profile.lines.time_column is not None
        info = StreamInfo(profile.name, profile.n_channels, profile.sample_rate_hz, unit, has_clock=has_clock)
        n_samples = 1 if profile.frame is None else profile.frame.n_samples
        return BoardStream(info, self.decoder(), profile.layout.counter_modulus, n_samples, profile.uv_per_count)

    def decoder(self) -> PacketDecoder:
        """A decoder for the board's frames or lines."""
        layout = self._profile.layout
        return LineDecoder(layout) if isinstance(layout, LineLayout) else FixedFrameDecoder(layout)

    def start(self, talk: Conversation) -> None:
        """Begin to stream."""
        if self._profile.commands.start:
            talk.send(self._profile.commands.start.encode())

    def stop(self, talk: Conversation) -> None:
        """Stop streaming."""
        if self._profile.commands.stop:
            talk.send(self._profile.commands.stop.encode())


def load_profile(path: Path) -> BoardProfile:
    """Read a profile. Raises ConfigError with everything that is wrong in it."""
    return read_toml(path, BoardProfile, "profile")


def find_profile(device: str) -> BoardProfile | None:
    """The profile for the value of `--device`: a shipped one or a path; None when it is neither."""
    shipped = _FOLDER / f"{device}.toml"
    if device in shipped_profiles():
        return load_profile(shipped)
    if device.endswith(".toml"):
        if not Path(device).is_file():
            raise ConfigError(f"there is no board profile {device}; choose one of {', '.join(shipped_profiles())}")
        return load_profile(Path(device))
    return None


def shipped_profiles() -> list[str]:
    """The names of the profiles that ship with the project."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def _length_faults(frame: Frame, n_channels: int) -> list[str]:
    """Faults in the layout of a frame."""
    faults = []
    sample_bytes = SAMPLE_BYTES[frame.sample_type]
    end = frame.samples_offset_bytes + frame.n_samples * n_channels * sample_bytes
    if end > frame.size_bytes:
        faults.append(
            f"{frame.n_samples} x {n_channels} samples of {sample_bytes} bytes from byte {frame.samples_offset_bytes} "
            f"end at byte {end}, but frame.size_bytes is {frame.size_bytes}"
        )
    for marker in (marker for fixed in frame.fixed for marker in fixed.markers()):
        if marker.offset_bytes >= frame.size_bytes:
            faults.append(f"fixed byte {marker.offset_bytes} lies behind the frame's {frame.size_bytes} bytes")
        elif marker.mask == 0xFF and frame.samples_offset_bytes <= marker.offset_bytes < end:
            faults.append(f"fixed byte {marker.offset_bytes} lies among the samples")
    del faults[_MOST_FAULTS:]
    if frame.checksum is not None:
        said = frame.checksum
        covered = range(said.from_bytes, said.offset_bytes if said.to_bytes is None else said.to_bytes)
        size = Checksum(said.kind, 0, 0, 0, True).size_bytes
        if not covered or covered.stop > frame.size_bytes or said.offset_bytes + size > frame.size_bytes:
            faults.append(
                f"the checksum at byte {said.offset_bytes} over bytes {said.from_bytes} to {covered.stop} does not fit "
                f"the frame's {frame.size_bytes} bytes"
            )
        elif said.offset_bytes < covered.stop and said.offset_bytes + size > covered.start:
            faults.append("the checksum covers itself: say to_bytes")
    if frame.counter_offset_bytes is not None:
        place = frame.counter_offset_bytes
        if place + frame.counter_bytes > frame.size_bytes:
            faults.append(f"the counter at byte {place} lies behind the frame's {frame.size_bytes} bytes")
        elif place < end and place + frame.counter_bytes > frame.samples_offset_bytes:
            faults.append(f"the counter at byte {place} lies among the samples")
    return faults


def _line_faults(lines: Lines, n_channels: int) -> list[str]:
    """Faults in the layout of a line."""
    faults = []
    if (lines.counter_column is None) != (lines.counter_modulus is None):
        faults.append("lines.counter_column and lines.counter_modulus go together")
    columns = lines.channel_columns(n_channels)
    if len(columns) != n_channels:
        faults.append(f"lines.columns names {len(columns)} columns, but n_channels is {n_channels}")
    taken = [column for column in (lines.counter_column, lines.time_column) if column is not None]
    for column in sorted(set(taken) & set(columns)):
        faults.append(f"column {column} cannot be a channel as well as the number or the time of a line")
    return faults
