"""Find frames in a stream of bytes. Noise on the wire is normal: it is counted, and skipped to the next delimiter."""

from dataclasses import dataclass
from zlib import crc32

from cobs import cobs

from cpep_bridge.frames import (
    CRC_BYTES,
    DELIMITER,
    MAX_BODY_BYTES,
    MAX_WIRE_BYTES,
    MIN_BODY_BYTES,
    VERSION,
    Frame,
    decode_frame,
)
from cpep_edge.errors import FrameError

_CRC_RESIDUE = 0x2144DF1C  # CRC-32 of anything that ends in its own CRC-32, little-endian


@dataclass(frozen=True, slots=True)
class DecoderCounts:
    """The counts of a decoder."""

    bytes: int = 0
    frames: int = 0
    corrupt_frames: int = 0  # invalid COBS, wrong CRC, too long, or inconsistent lengths
    corrupt_bytes: int = 0
    unknown_frames: int = 0  # intact, of another version or an unknown type
    skipped_bytes: int = 0  # the rest of a frame that began before the port was opened


class FrameDecoder:
    """Takes bytes as they arrive and returns the frames that they complete, in bounded memory."""

    def __init__(self) -> None:
        self.versions: set[int] = set()  # foreign versions seen in intact frames
        self._tail = b""
        self._synced = False  # whether a delimiter was seen
        self._overlong = False  # whether the rest of an overlong frame is being skipped
        self._bytes = self._frames = self._corrupt_frames = self._corrupt_bytes = self._unknown = self._skipped = 0

    @property
    def counts(self) -> DecoderCounts:
        """The counts so far."""
        return DecoderCounts(
            bytes=self._bytes,
            frames=self._frames,
            corrupt_frames=self._corrupt_frames,
            corrupt_bytes=self._corrupt_bytes,
            unknown_frames=self._unknown,
            skipped_bytes=self._skipped,
        )

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes, however they were cut, and return the frames that they complete."""
        self._bytes += len(data)
        pieces = (self._tail + data).split(DELIMITER)
        self._tail = pieces.pop()
        frames = []
        for piece in pieces:
            frame = self._take(piece) if piece or self._overlong else None
            self._synced = True
            if frame is not None:
                frames.append(frame)
        if len(self._tail) > MAX_WIRE_BYTES:
            if not self._overlong:
                self._corrupt_frames += 1
            self._overlong = True
            self._corrupt_bytes += len(self._tail)
            self._tail = b""
        self._frames += len(frames)
        return frames

    def disown(self) -> None:
        """Count an intact frame as corrupt after all, because its values are impossible."""
        self._frames -= 1
        self._corrupt_frames += 1

    def resync(self) -> None:
        """Drop a partly received frame and wait for the next delimiter; called when the line was reopened."""
        self._tail = b""
        self._synced = self._overlong = False

    def _take(self, piece: bytes) -> Frame | None:
        if self._overlong:
            self._overlong = False
            self._corrupt_bytes += len(piece)
            return None
        try:
            whole: bytes = cobs.decode(piece)
            if not MIN_BODY_BYTES <= len(whole) <= MAX_BODY_BYTES:
                raise FrameError(f"a frame of {len(whole)} bytes is too short or too long")
            if crc32(whole) != _CRC_RESIDUE:
                raise FrameError("the CRC is wrong")
            body = whole[:-CRC_BYTES]
            frame = decode_frame(body)
        except (cobs.DecodeError, FrameError):
            if self._synced:
                self._corrupt_frames += 1
                self._corrupt_bytes += len(piece)
            else:
                self._skipped += len(piece)
            return None
        if frame is None:
            self._unknown += 1
            if body[0] != VERSION:
                self.versions.add(body[0])
        return frame
