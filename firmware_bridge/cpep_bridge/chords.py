"""Boards with the Chords firmware of Upside Down Labs, NPG-Lite among them: 3 to 16 channels at 250 or 500 Hz.

The makers document it in Chords-Python. Most boards run at 230400 baud, some at 115200. Boards with an Arduino
bootloader restart when their port is opened, so a board is asked repeatedly, at both speeds. A frame is `C7 7C |
counter u8 | n x u16 big-endian | 01`. The board answers `WHORU` with its name; `START` and `STOP` control the stream;
lines end in a line feed. Samples are raw counts of the converter, 10 to 14 bits and not centred; how many microvolts at
the skin a count is depends on the amplifier before it.
"""

from dataclasses import dataclass

from cpep_bridge.ble import HEADER_BYTES, SYNC, GattDevice
from cpep_bridge.boards import BoardStream
from cpep_bridge.conversation import Conversation
from cpep_bridge.fixed_frames import FixedFrameDecoder, FrameLayout, fixed_bytes
from cpep_bridge.web_socket import WebRecords
from cpep_edge.blocks import StreamInfo
from cpep_edge.errors import LinkError, LinkTimeout
from cpep_edge.outside import printable

BAUDS = (230_400, 115_200)
BOOT_S = 4.0  # of the slowest bootloader
WHO, START, STOP = b"WHORU\n", b"START\n", b"STOP\n"
LINE_END = b"\n"

_HEADER_BYTES = 3  # C7 7C and the counter


@dataclass(frozen=True, slots=True)
class ChordsBoard:
    """The stream of a board with this firmware."""

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


_NPG = BOARDS["NPG-LITE"]
NPG_RECORD_BYTES = 1 + 2 * _NPG.n_channels
NPG_GATT = GattDevice(
    "NPG",
    data=("beb5483e-36e1-4688-b7f5-ea07361b26a8",),
    command="0000ff01-0000-1000-8000-00805f9b34fb",
    record_bytes=NPG_RECORD_BYTES,
)
NPG_WEB = WebRecords(record_bytes=13, kept_bytes=NPG_RECORD_BYTES)  # a record has six channels, the board three
NPG_LAYOUT = FrameLayout(
    size_bytes=HEADER_BYTES + NPG_RECORD_BYTES,
    markers=fixed_bytes(0, (SYNC, 0)),
    samples_offset_bytes=HEADER_BYTES + 1,
    n_samples=1,
    n_channels=_NPG.n_channels,
    sample_type="i16",
    big_endian=True,
    counter_offset_bytes=HEADER_BYTES,
)


class NpgLite:
    """The dialect of an NPG-Lite by radio: a counter and three i16 per sample, ten samples per notification.

    Over WiFi it is a WebSocket server at `ws://multi-emg.local:81`. It streams to any client and takes no commands.
    """

    boot_s = 0.0

    def meet(self, talk: Conversation) -> BoardStream:
        """Describe the stream; the board gives no information about itself."""
        talk.ask(b"", LINE_END)
        info = StreamInfo("NPG-Lite", _NPG.n_channels, _NPG.sample_rate_hz, unit="count")
        return BoardStream(info, FixedFrameDecoder(NPG_LAYOUT), 256, 1, None)

    def start(self, talk: Conversation) -> None:
        """Begin to stream."""
        talk.send(START.strip())

    def stop(self, talk: Conversation) -> None:
        """Stop streaming."""
        talk.send(STOP.strip())


class Chords:
    """The dialect of the Chords firmware."""

    boot_s = BOOT_S

    def meet(self, talk: Conversation) -> BoardStream:
        """Ask the board for its name, which says how many channels it has."""
        talk.send(STOP)
        talk.drain()
        said = list[str]()

        def find(heard: bytes) -> tuple[bytes, bytes] | None:
            """Find the first line that ends in a board's name; other lines are banners or the rest of a stream."""
            *lines, rest = heard.split(LINE_END)
            said[:] = [line.decode("ascii", "replace").strip() for line in lines if line.strip()]
            for index, line in enumerate(lines):
                name = next((name for name in BOARDS if line.strip().endswith(name.encode())), None)
                if name is not None:
                    return name.encode(), LINE_END.join([*lines[index + 1 :], rest])
            return None

        try:
            name = talk.ask_for(WHO, find).decode()
        except LinkTimeout as error:
            if not said or not said[-1].isprintable():
                raise
            raise LinkError(
                f"the board on {talk.line.name} calls itself {printable(said[-1])!r}, which is not a known Chords "
                f"board; known are {', '.join(sorted(BOARDS))}"
            ) from error
        board = BOARDS[name]
        info = StreamInfo(f"Chords {name}", board.n_channels, board.sample_rate_hz, unit="count")
        return BoardStream(info, FixedFrameDecoder(chords_layout(board.n_channels)), 256, 1, None)

    def start(self, talk: Conversation) -> None:
        """Begin to stream; the decoder skips the board's text answer because it is not a frame."""
        talk.send(START)

    def stop(self, talk: Conversation) -> None:
        """Stop streaming."""
        talk.send(STOP)


def chords_layout(n_channels: int) -> FrameLayout:
    """The layout of a frame with so many channels."""
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
