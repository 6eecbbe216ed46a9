"""A board that is a WebSocket server: `--port ws://HOST:PORT/PATH`. Needs websockets, from the extra `[sinks]`.

For any driver or profile, binary messages are joined into one stream of bytes, and a text message is passed on as a
line. Some boards, such as the NPG-Lite, send records without a marker. From each of these, `kept_bytes` are passed on
as from a Bluetooth device: first a line of facts, then each record behind a sync byte and a number (see `ble`). Nothing
is sent to such boards.
"""

from contextlib import ExitStack
from dataclasses import dataclass

from cpep_bridge.ble import SYNC
from cpep_bridge.byte_stream import LineLost
from cpep_edge.errors import ConfigError, LinkError
from cpep_edge.outside import printable

WEB_SOCKET_PREFIX = "ws://"

_OPEN_S, _CLOSE_S = 3.0, 0.5
_LONGEST_MESSAGE = 1 << 20


@dataclass(frozen=True, slots=True)
class WebRecords:
    """The layout of one kind of board's messages."""

    record_bytes: int
    kept_bytes: int  # passed on from the start of each record


class WebSocketStream:
    """A connection to a board's WebSocket server, as a ByteStream."""

    def __init__(self, port: str, records: WebRecords | None = None) -> None:
        """Raises ConfigError without websockets, LinkError when no server answers."""
        try:
            from websockets.exceptions import WebSocketException
            from websockets.sync.client import connect
        except ImportError as error:
            raise ConfigError(f"ws:// needs another package: run pip install 'cpep-edge[sinks]' ({error})") from error
        self.name, self._records = port, records
        self._broken = (WebSocketException, OSError, EOFError)
        self._until_closed = ExitStack()
        self._first = b"facts\n" if records is not None else b""
        try:
            connection = connect(  # no proxy: a band is in the local network
                port, open_timeout=_OPEN_S, close_timeout=_CLOSE_S, max_size=_LONGEST_MESSAGE, proxy=None
            )
        except (ValueError, *self._broken) as error:
            why = getattr(error, "strerror", None) or printable(str(error))
            raise LinkError(f"cannot connect to {port}: {why}; is a board served there?") from error
        self._connection = self._until_closed.enter_context(connection)

    def read(self, timeout_s: float) -> bytes:
        """See ByteStream."""
        if self._first:
            first, self._first = self._first, b""
            return first
        try:
            message = self._connection.recv(timeout=max(0.0, timeout_s))
        except TimeoutError:
            return b""
        except self._broken as error:
            raise LineLost(f"the device on {self.name} is gone: it was switched off, or is out of reach") from error
        if isinstance(message, str):
            return message.encode() + b"\n" if self._records is None else b""
        records = self._records
        if records is None:
            return message
        starts = range(0, len(message), records.record_bytes)  # the decoder counts an incomplete last one as corrupt
        return b"".join(bytes((SYNC, 0)) + message[start : start + records.kept_bytes] for start in starts)

    def write(self, data: bytes) -> None:
        """See ByteStream."""
        if self._records is not None:
            return
        try:
            self._connection.send(data)
        except self._broken as error:
            raise LineLost(f"the device on {self.name} is gone: it was switched off, or is out of reach") from error

    def set_baud(self, baud: int) -> None:
        """See ByteStream. A network has no baud rate, so this does nothing."""

    def close(self) -> None:
        """See ByteStream."""
        self._until_closed.close()
