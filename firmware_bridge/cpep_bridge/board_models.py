"""Models of other makers' boards: their answers, and the bytes of their frames. `simulated_boards` runs them."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cpep_bridge import chords, cyton
from cpep_bridge.board_profile import BoardProfile
from cpep_bridge.fixed_frames import FrameLayout, pack_frame, value_limits
from cpep_bridge.text_lines import LineLayout, pack_line

_MIDDLE_COUNTS = 2048  # the middle of an unsigned 12-bit converter's range


class BoardModel(Protocol):
    """The behaviour of one kind of board."""

    n_channels: int
    sample_rate_hz: float
    n_samples: int  # per frame

    def answer(self, heard: bytes) -> tuple[bytes, bool | None]:
        """The reply to what the host sent, and whether the board streams from now on; None: no change."""
        ...

    def counts(self, emg_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert microvolts to whole counts of the converter."""
        ...

    def frame(self, number: int, counts: NDArray[np.float32]) -> bytes:
        """The bytes of frame `number` since START; counts: (n_samples, n_channels)."""
        ...


class SimulatedCyton:
    """A Cyton with or without a Daisy. With a Daisy, one sample of 16 channels is two frames on the wire."""

    def __init__(self, daisy: bool = False) -> None:
        self._has_daisy = daisy
        self.n_channels = cyton.N_CHANNELS * (2 if daisy else 1)
        self.sample_rate_hz = cyton.RATE_HZ / (2 if daisy else 1)
        self.n_samples = 1

    def answer(self, heard: bytes) -> tuple[bytes, bool | None]:
        """See BoardModel."""
        reply, streams = b"", None
        for letter in (heard[index : index + 1] for index in range(len(heard))):
            said, change = self._answer(letter)
            reply += said
            streams = streams if change is None else change
        return reply, streams

    def counts(self, emg_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """See BoardModel."""
        limit = 2**23 - 1
        counts: NDArray[np.float32] = np.clip(np.rint(emg_uv / np.float32(cyton.UV_PER_COUNT)), -limit, limit)
        return counts

    def frame(self, number: int, counts: NDArray[np.float32]) -> bytes:
        """See BoardModel. The counter starts at 0; the Daisy's frame comes before the board's."""
        if not self._has_daisy:
            return pack_frame(cyton.LAYOUT, number, counts)
        board, daisy = counts[:, : cyton.N_CHANNELS], counts[:, cyton.N_CHANNELS :]
        return pack_frame(cyton.LAYOUT, 2 * number, daisy) + pack_frame(cyton.LAYOUT, 2 * number + 1, board)

    def _answer(self, letter: bytes) -> tuple[bytes, bool | None]:
        match letter:
            case cyton.RESET:
                on_daisy = "On Daisy ADS1299 Device ID: 0x3E\n" if self._has_daisy else ""
                said = f"OpenBCI V3 8-16 channel\nOn Board ADS1299 Device ID: 0x3E\n{on_daisy}Firmware: v3.1.2\n"
                return said.encode() + cyton.ANSWER_END, False
            case cyton.DEFAULTS:
                return b"updating channel settings to default" + cyton.ANSWER_END, None
            case cyton.WITH_DAISY:
                return (b"16" if self._has_daisy else b"no daisy to attach!8") + cyton.ANSWER_END, None
            case cyton.ONLY_BOARD:
                return b"daisy removed" + cyton.ANSWER_END, None
            case cyton.START:
                return b"", True
            case cyton.STOP:
                return b"", False
        return b"", None


class SimulatedChords:
    """A board with the Chords firmware."""

    def __init__(self, name: str = "NPG-LITE") -> None:
        board = chords.BOARDS[name]
        self._name = name
        self._layout = chords.chords_layout(board.n_channels)
        self._heard = b""
        self.n_channels = board.n_channels
        self.sample_rate_hz = board.sample_rate_hz
        self.n_samples = 1

    def answer(self, heard: bytes) -> tuple[bytes, bool | None]:
        """See BoardModel."""
        *lines, self._heard = (self._heard + heard).split(chords.LINE_END)
        reply, streams = b"", None
        for line in (line + chords.LINE_END for line in lines):
            if line == chords.WHO:
                reply += self._name.encode() + b"\r\n"
            elif line in (chords.START, chords.STOP):
                streams = line == chords.START
        return reply, streams

    def counts(self, emg_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """See BoardModel; a count is a microvolt here."""
        counts: NDArray[np.float32] = np.clip(np.rint(emg_uv) + _MIDDLE_COUNTS, 0, 2 * _MIDDLE_COUNTS - 1)
        return counts

    def frame(self, number: int, counts: NDArray[np.float32]) -> bytes:
        """See BoardModel."""
        return pack_frame(self._layout, number, counts)


class SimulatedProfile:
    """A board described by a profile. One without a start command streams from the beginning."""

    def __init__(self, profile: BoardProfile) -> None:
        self._profile = profile
        self._layout = profile.layout
        self.n_channels = profile.n_channels
        self.sample_rate_hz = profile.sample_rate_hz
        self.n_samples = 1 if profile.frame is None else profile.frame.n_samples

    def answer(self, heard: bytes) -> tuple[bytes, bool | None]:
        """See BoardModel."""
        commands = self._profile.commands
        reply = commands.answer.encode() if commands.greeting and commands.greeting.encode() in heard else b""
        if not commands.start:
            return reply, True
        starts, stops = heard.rfind(commands.start.encode()), heard.rfind(commands.stop.encode() or b"\0")
        return reply, None if starts == stops else starts > stops

    def counts(self, emg_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """See BoardModel; without a scale in the profile, a count is a microvolt."""
        counts: NDArray[np.float32] = np.rint(emg_uv / np.float32(self._profile.uv_per_count or 1))
        if isinstance(self._layout, LineLayout):
            return counts
        least, greatest = value_limits(self._layout.sample_type)
        if least == 0:
            counts += _MIDDLE_COUNTS
        clipped: NDArray[np.float32] = np.clip(counts, np.float32(least), np.float32(greatest))
        return clipped

    def frame(self, number: int, counts: NDArray[np.float32]) -> bytes:
        """See BoardModel."""
        layout = self._layout
        return (
            pack_frame(layout, number, counts) if isinstance(layout, FrameLayout) else pack_line(layout, number, counts)
        )


BOARD_MODELS: dict[str, Callable[[], BoardModel]] = {
    "cyton": SimulatedCyton,
    "cyton-daisy": lambda: SimulatedCyton(daisy=True),
    "chords": SimulatedChords,
}
