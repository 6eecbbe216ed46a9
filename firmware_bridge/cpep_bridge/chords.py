"""Boards with the Chords firmware of Upside Down Labs, NPG-Lite among them: 3 to 16 channels at 250 or 500 Hz.

Documented by its makers in Chords-Python. A frame is `C7 7C | counter u8 | n x u16 big-endian | 01`. `WHORU` is
answered by the board's name, `START` and `STOP` do what they say; lines end in a line feed. Samples are what the
converter counts, 10 to 14 bits and not centred; how much a count is at the skin depends on the amplifier before it.
"""

from dataclasses import dataclass

from cpep_bridge.boards import BoardStream
from cpep_bridge.conversation import Conversation
from cpep_bridge.fixed_frames import FixedFrameDecoder, FrameLayout, fixed_bytes
from cpep_edge.blocks import StreamInfo
from cpep_edge.errors import LinkError

BAUD = 230_400
WHO, START, STOP = b"WHORU\n", b"START\n", b"STOP\n"
LINE_END = b"\n"

_HEADER_BYTES = 3  # C7 7C and the counter


@dataclass(frozen=True, slots=True)
class ChordsBoard:
    """What a board with this firmware sends."""

    n_channels: int
    sample_rate_hz: float


BOARDS = {
    "UNO-R3": ChordsBoard(6, 250.0),
    "UNO-CLONE": ChordsBoard(6, 250.0),
    "GENUINO-UNO": ChordsBoard(6, 250.0),
    "UNO-R4": ChordsBoard(6, 500.0),
    "RPI-PICO-RP2040": ChordsBoard(3, 500.0),
    "NANO-CLONE": ChordsBoard(8, 250.0),
    "NANO-CLASSIC": ChordsBoard(8, 250.0),
    "STM32F4-BLACK-PILL": ChordsBoard(8, 500.0),
    "STM32G4-CORE-BOARD": ChordsBoard(16, 500.0),
    "MEGA-2560-R3": ChordsBoard(16, 250.0),
    "MEGA-2560-CLONE": ChordsBoard(16, 250.0),
    "GIGA-R1": ChordsBoard(6, 500.0),
    "NPG-LITE": ChordsBoard(3, 500.0),
}


class Chords:
    """The dialect of the Chords firmware."""

    def meet(self, talk: Conversation) -> BoardStream:
        """Ask the board for its name, which says how many channels it has."""
        talk.send(STOP)
        talk.drain()
        name = talk.ask(WHO, LINE_END).decode("ascii", "replace").strip()
        board = BOARDS.get(name)
        if board is None:
            raise LinkError(
                f"the board on {talk.line.name} calls itself {name!r}, which is no Chords board known here: "
                f"known are {', '.join(sorted(BOARDS))}"
            )
        info = StreamInfo(f"Chords {name}", board.n_channels, board.sample_rate_hz, unit="count")
        return BoardStream(info, FixedFrameDecoder(chords_layout(board.n_channels)), 256, 1, None)

    def start(self, talk: Conversation) -> None:
        """Begin to stream; what the board says to that is skipped as no frame."""
        talk.send(START)

    def stop(self, talk: Conversation) -> None:
        """Stop streaming."""
        talk.send(STOP)


def chords_layout(n_channels: int) -> FrameLayout:
    """A frame of so many channels."""
    end = _HEADER_BYTES + 2 * n_channels
    return FrameLayout(
        size_bytes=end + 1,
        markers=(*fixed_bytes(0, (0xC7, 0x7C)), *fixed_bytes(end, (0x01,))),
        samples_offset_bytes=_HEADER_BYTES,
        n_samples=1,
        n_channels=n_channels,
        sample_type="u16",
        big_endian=True,
        counter_offset_bytes=2,
    )
