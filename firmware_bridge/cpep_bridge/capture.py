"""Record every byte of a line in a file, in both directions, and play it back in place of the line.

The file is a pcap of link type RTAC_SERIAL (tcpdump.org/linktypes), which Wireshark opens: one record per read or
write, with its time. A playback returns the same reads at the same pace.
"""

import errno
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cpep_bridge.byte_stream import ByteStream, RecordingOver
from cpep_edge.errors import CpepError, LinkError

FILE_PREFIX = "file://"
GATE_S = 1.2  # how long a playback waits for the host to repeat a recorded write; longer than the period of PING, 1 s

_FILE_HEADER = struct.Struct("<IHHiIII")  # magic, version 2.4, time zone, accuracy, longest record, link type
_MAGIC, _LINK_TYPE, _LONGEST_BYTES = 0xA1B2C3D4, 250, 1 << 18
_RECORD = struct.Struct("<IIII")  # seconds, microseconds, recorded bytes, original bytes
_RTAC = struct.Struct(">IIBBH")  # seconds, microseconds, event, control lines, unused
_TO_DEVICE, _FROM_DEVICE = 1, 2  # events: DATA_TX_START, DATA_RX_START
_RAW_READ_BYTES = 4096  # size of a read from a file without times; about what a pty returns


@dataclass(frozen=True, slots=True)
class Chunk:
    """The bytes of one read or write."""

    time_s: float  # since 1970
    from_device: bool
    data: bytes


class Capture:
    """Opens lines with `open_port` and records the bytes of all of them in one file."""

    def __init__(self, open_port: Callable[[], ByteStream], path: Path) -> None:
        """path: of the file; an existing one is overwritten, so callers use `cpep_edge.files.check_free` first

        Raises CpepError when it cannot be written.
        """
        self._open_port = open_port
        self._path = path
        try:
            path.write_bytes(_FILE_HEADER.pack(_MAGIC, 2, 4, 0, 0, _LONGEST_BYTES, _LINK_TYPE))
        except OSError as error:
            raise _unwritten(path, error) from error

    def __call__(self) -> ByteStream:
        """Open the line. Raises what `open_port` raises."""
        return _CapturedStream(self._open_port(), self._path)


class _CapturedStream:
    """A line whose bytes are recorded."""

    def __init__(self, line: ByteStream, path: Path) -> None:
        self.name = line.name
        self._line = line
        self._path = path
        self._file = path.open("ab", buffering=0)  # unbuffered, so that a killed process loses nothing

    def read(self, timeout_s: float) -> bytes:
        """See ByteStream. Raises CpepError when the file cannot be written."""
        data = self._line.read(timeout_s)
        if data:
            self._keep(_FROM_DEVICE, data)
        return data

    def write(self, data: bytes) -> None:
        """See ByteStream. Raises CpepError when the file cannot be written."""
        self._line.write(data)
        self._keep(_TO_DEVICE, data)

    def set_baud(self, baud: int) -> None:
        """See ByteStream; speeds are not recorded."""
        self._line.set_baud(baud)

    def close(self) -> None:
        """See ByteStream."""
        self._line.close()
        self._file.close()

    def _keep(self, event: int, data: bytes) -> None:
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        at = (seconds, nanoseconds // 1_000)
        size_bytes = _RTAC.size + len(data)
        record = _RECORD.pack(*at, size_bytes, size_bytes) + _RTAC.pack(*at, event, 0, 0) + data
        try:
            if self._file.write(record) != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise _unwritten(self._path, error) from error


class RecordedStream:
    """A file read as a line: a capture at its own pace, any other file as raw bytes without delay.

    Writes are discarded, but recorded answers of the device are returned only after the host has written again.
    """

    def __init__(self, port: str) -> None:
        """port: `file:///path`. Raises LinkError when the file cannot be read."""
        self.name = port
        path = Path(port.removeprefix(FILE_PREFIX))
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise LinkError(f"cannot read the recording {path}: {error.strerror or error}") from error
        self._chunks = read_capture(self._file) if is_capture(self._file) else None
        self._next: Chunk | None = None
        self._n_asked = 0  # the host's writes that are not yet matched with a recorded write
        self._lag_s: float | None = None  # the playback's clock minus the times of the capture
        self._gate_s: float | None = None  # when the playback began to wait for a write of the host

    def read(self, timeout_s: float) -> bytes:
        """See ByteStream. Raises RecordingOver at the end of the file."""
        if self._file.closed:
            raise RecordingOver(f"the recording {self.name} was closed")
        if self._chunks is None:
            return self._ended_unless(self._file.read(_RAW_READ_BYTES))
        deadline_s = time.monotonic() + timeout_s
        while True:
            self._next = self._next or next(self._chunks, None)
            if self._next is None:
                return self._ended_unless(b"")
            due_s = self._due_s(self._next)
            if due_s > deadline_s:
                time.sleep(max(0.0, deadline_s - time.monotonic()))
                return b""
            time.sleep(max(0.0, due_s - time.monotonic()))
            chunk, self._next = self._next, None
            self._pass(chunk, due_s)
            if chunk.from_device:
                return chunk.data

    def write(self, data: bytes) -> None:
        """See ByteStream."""
        self._n_asked += 1

    def set_baud(self, baud: int) -> None:
        """See ByteStream. Does nothing, because a recording has its own pace."""

    def close(self) -> None:
        """See ByteStream."""
        self._file.close()

    def _due_s(self, chunk: Chunk) -> float:
        """When to play a chunk: in the pace of the capture; a recorded write waits for the host, up to `GATE_S`."""
        now_s = time.monotonic()
        self._lag_s = now_s - chunk.time_s if self._lag_s is None else self._lag_s
        if chunk.from_device:
            return chunk.time_s + self._lag_s
        if self._n_asked > 0:
            return now_s
        self._gate_s = now_s if self._gate_s is None else self._gate_s
        return max(self._gate_s, chunk.time_s + self._lag_s) + GATE_S

    def _pass(self, chunk: Chunk, due_s: float) -> None:
        """Go to the next chunk; after a recorded write, the clock is set by when the host wrote."""
        if chunk.from_device:
            return
        self._n_asked = max(0, self._n_asked - 1)
        self._lag_s, self._gate_s = due_s - chunk.time_s, None

    def _ended_unless(self, data: bytes) -> bytes:
        if not data:
            raise RecordingOver(f"the recording {self.name} ends here")
        return data


def is_capture(file: BinaryIO) -> bool:
    """Whether a file is a capture. Afterwards a capture is at its first record, another file at its beginning."""
    header = file.read(_FILE_HEADER.size)
    if len(header) == _FILE_HEADER.size:
        magic, *_, link_type = _FILE_HEADER.unpack(header)
        if (magic, link_type) == (_MAGIC, _LINK_TYPE):
            return True
    file.seek(0)
    return False


def read_capture(file: BinaryIO) -> Iterator[Chunk]:
    """The records of a capture after its header; an incomplete last one is left out."""
    while len(header := file.read(_RECORD.size)) == _RECORD.size:
        seconds, microseconds, size_bytes, _ = _RECORD.unpack(header)
        record = file.read(min(size_bytes, _LONGEST_BYTES))
        if len(record) < size_bytes or size_bytes < _RTAC.size:
            return
        event = _RTAC.unpack_from(record)[2]
        if event in (_TO_DEVICE, _FROM_DEVICE):
            yield Chunk(seconds + microseconds * 1e-6, event == _FROM_DEVICE, record[_RTAC.size :])


def _unwritten(path: Path, error: OSError) -> CpepError:
    return CpepError(f"cannot write the capture {path}: {error.strerror or error}")
