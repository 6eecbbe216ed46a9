"""OpenBCI Cyton, with or without its Daisy module: 8 channels at 250 Hz, or 16 at 125 Hz.

Documented at docs.openbci.com (Cyton data format, Cyton board SDK). A frame is `A0 | counter u8 | 8 x i24 big-endian |
6 bytes aux | C0..CF`, 33 bytes, over a USB dongle at 115200 baud. Commands are single letters; answers end in `$$$`.
With a Daisy, a frame with an even counter is the Daisy's and the next one is the board's; together they are one sample.
"""

import numpy as np

from cpep_bridge.boards import BoardStream
from cpep_bridge.conversation import Conversation
from cpep_bridge.fixed_frames import FixedFrameDecoder, FrameLayout, Marker, Packets
from cpep_edge.blocks import StreamInfo
from cpep_edge.errors import LinkError
from cpep_edge.outside import printable

BAUD = 115_200
RATE_HZ = 250.0
N_CHANNELS = 8
GAIN = 24  # set by the command DEFAULTS
UV_PER_COUNT = 4.5 / GAIN / (2**23 - 1) * 1e6  # the converter's reference is 4.5 V

LAYOUT = FrameLayout(
    size_bytes=33,
    markers=(Marker(0, 0xFF, 0xA0), Marker(32, 0xF0, 0xC0)),
    samples_offset_bytes=2,
    n_samples=1,
    n_channels=N_CHANNELS,
    sample_type="i24",
    big_endian=True,
    counter_offset_bytes=1,
)

ANSWER_END = b"$$$"
RESET, DEFAULTS, START, STOP, ONLY_BOARD, WITH_DAISY = b"v", b"d", b"b", b"s", b"c", b"C"


class Cyton:
    """The dialect of a Cyton.

    daisy: whether to use the Daisy's 8 additional channels
    """

    def __init__(self, daisy: bool = False) -> None:
        self._daisy = daisy
        self.boot_s = 0.0  # opening the dongle's port does not restart the board

    def meet(self, talk: Conversation) -> BoardStream:
        """Reset the board, set all channels to gain 24, and switch the Daisy's channels on or off."""
        talk.send(STOP)
        talk.drain()
        said = talk.ask(RESET, ANSWER_END).decode("ascii", "replace")
        if said.strip().startswith("Failure"):
            raise LinkError(
                f"the dongle on {talk.line.name} works, but the Cyton does not answer it: switch the board to PC"
            )
        if "OpenBCI" not in said and "ADS1299" not in said:
            raise LinkError(
                f"the device on {talk.line.name} is not an OpenBCI Cyton: it answered {printable(said.strip(), 60)!r}"
            )
        has_daisy = "On Daisy" in said
        if self._daisy and not has_daisy:
            raise LinkError(
                f"the Cyton on {talk.line.name} reports no Daisy module: plug the module in, or use --device cyton"
            )
        if has_daisy:
            talk.ask(WITH_DAISY if self._daisy else ONLY_BOARD, ANSWER_END)
        talk.ask(DEFAULTS, ANSWER_END)
        return self._stream(said)

    def start(self, talk: Conversation) -> None:
        """Begin to stream."""
        talk.send(START)

    def stop(self, talk: Conversation) -> None:
        """Stop streaming."""
        talk.send(STOP)

    def _stream(self, said: str) -> BoardStream:
        n_boards = 2 if self._daisy else 1
        info = StreamInfo(
            name="OpenBCI Cyton + Daisy" if self._daisy else "OpenBCI Cyton",
            n_channels=n_boards * N_CHANNELS,
            sample_rate_hz=RATE_HZ / n_boards,
            firmware=printable(
                next((line.partition(":")[2].strip() for line in said.splitlines() if "Firmware" in line), "")
            ),
        )
        if self._daisy:
            return BoardStream(info, DaisyDecoder(), 128, 1, UV_PER_COUNT)
        return BoardStream(info, FixedFrameDecoder(LAYOUT), 256, 1, UV_PER_COUNT)


class DaisyDecoder:
    """Joins the frames of board and Daisy: each pair becomes one frame of 16 channels, numbered modulo 128.

    When one frame of a pair was lost, the other is dropped, so that the pair counts as lost.
    """

    def __init__(self) -> None:
        self._frames = FixedFrameDecoder(LAYOUT)
        self._counter = -1  # of the last frame; an odd one waits for no partner
        self._values = np.empty((1, N_CHANNELS), np.float32)  # of the last frame

    @property
    def n_corrupt(self) -> int:
        """Frames that were found but could not be read."""
        return self._frames.n_corrupt

    @n_corrupt.setter
    def n_corrupt(self, n_corrupt: int) -> None:
        self._frames.n_corrupt = n_corrupt

    def feed(self, data: bytes) -> Packets:
        """The pairs that are complete now."""
        packets = self._frames.feed(data)
        if packets.counters is None or not len(packets.counters):
            return Packets(np.empty(0, np.int64), np.empty((0, 1, 2 * N_CHANNELS), np.float32))
        counters = np.concatenate([[self._counter], packets.counters])
        values = np.concatenate([self._values[None], packets.values])
        daisy = np.flatnonzero((counters[:-1] % 2 == 0) & (np.diff(counters) % 256 == 1))
        self._counter, self._values = int(counters[-1]), values[-1]
        return Packets(counters[daisy] // 2, np.concatenate([values[daisy + 1], values[daisy]], axis=2))
