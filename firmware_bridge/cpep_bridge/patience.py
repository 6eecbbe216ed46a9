"""How long a source waits, and how it is stopped while it waits.

All limits run from the last sample, across any number of reconnects. A line that opens, a device that answers or bytes
without a sample do not make a source wait longer.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from cpep_bridge.byte_stream import ByteStream, Stopped, WrongDevice
from cpep_bridge.reopening import waits_s
from cpep_edge.errors import LinkError

_BACK_AFTER_S = 0.2  # a broken stream is back once samples have come for so long, not just a repeated frame on opening
_MOST_RESTARTS, _RESTARTS_S = 10, 5.0
HEARD_S = 0.1  # a waiting source notices stop() within this time

_log = logging.getLogger(__name__)


class Patience:
    """The limits of one source, and the request to stop it.

    timeout_s: longest time without a sample
    reconnect_s: how long to try to resume a broken stream; 0 gives up at once
    boot_s: additional time for the first sample after the line was opened
    """

    def __init__(self, timeout_s: float, reconnect_s: float, boot_s: float = 0.0) -> None:
        self.timeout_s, self.boot_s = timeout_s, boot_s
        self.silent_s = 0.0  # time spent waiting for a sample, without the time of a slow consumer
        self._reconnect_s = reconnect_s
        self.is_booting = True  # whether no sample has arrived since the line was opened
        self._alive = False  # whether any sample has arrived
        self._broken: tuple[float, LinkError] | None = None  # when the stream broke, and why
        self._back_s: float | None = None  # when samples arrived again
        self._stopping = threading.Event()
        self._leaving = False

    def opened(self) -> None:
        """Note that the line was opened: the silence starts again, but the limit for reconnecting goes on."""
        self.silent_s, self.is_booting, self._back_s = 0.0, True, None

    def sampled(self) -> None:
        """Note that samples arrived."""
        self.silent_s, self.is_booting, self._alive = 0.0, False, True
        if self._broken is not None:
            now_s = time.monotonic()
            self._back_s = self._back_s or now_s
            if now_s - self._back_s > _BACK_AFTER_S:
                self._broken = None

    @property
    def left_s(self) -> float:
        """How long the next sample may still take."""
        left_s = self.timeout_s + (self.boot_s if self.is_booting else 0.0) - self.silent_s
        if self._broken is not None and self._back_s is None:
            left_s = min(left_s, self._broken[0] + self._reconnect_s - time.monotonic())
        return max(0.0, left_s)

    def broke(self, error: LinkError) -> float:
        """Note that the stream broke; returns how much longer to try to resume it.

        Raises `error` when no sample ever arrived or reconnecting is off, LinkError when the time is up.
        """
        if not self._alive or not self._reconnect_s:
            raise error
        now_s = time.monotonic()
        if self._broken is None:
            self._broken = now_s, error
            _log.warning("%s; looking for it for %g s", error, self._reconnect_s)
        since_s, first = self._broken
        left_s = since_s + self._reconnect_s - now_s
        if left_s <= 0:
            raise LinkError(f"{first}; it did not come back within {self._reconnect_s:g} s") from error
        return left_s

    def reopen(self, error: LinkError, attempt: Callable[[float], None]) -> None:
        """Try to resume a broken stream, first after a tenth of a second, then less and less often.

        attempt: opens the line and greets the device within so many seconds; raises LinkError to try again, or
            WrongDevice to give up
        Raises what `broke` raises, WrongDevice, or Stopped.
        """
        for wait_s in waits_s():
            self.rest(min(wait_s, self.broke(error)))
            try:
                attempt(self.broke(error))
                return
            except (Stopped, WrongDevice):
                raise
            except LinkError as again:
                error = again

    def stop(self) -> None:
        """End every wait of this source, now and later; may be called from any thread."""
        self._stopping.set()

    def leave(self) -> None:
        """Let open lines be used again after `stop`, to stop the device's stream."""
        self._leaving = True

    def rest(self, seconds: float) -> None:
        """Sleep. Raises Stopped when asked to stop during that time."""
        if self._stopping.wait(seconds):
            raise Stopped("stopped")

    def check(self) -> None:
        """Raises Stopped when asked to stop."""
        if self._stopping.is_set() and not self._leaving:
            raise Stopped("stopped")

    def opener(self, open_port: Callable[[], ByteStream]) -> Callable[[], ByteStream]:
        """A function like `open_port` whose lines raise Stopped on read when asked to stop."""

        def open_stoppable() -> ByteStream:
            self.check()
            line = open_port()
            if self._stopping.is_set():  # stop() may have been called while the line was opened
                line.close()
                raise Stopped("stopped")
            return _StoppableStream(line, self)

        return open_stoppable


class Restarts:
    """Restarts of a device's counter. When they are too frequent, the counter is wrong."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=_MOST_RESTARTS)

    def too_many(self, now_s: float) -> bool:
        """Note a restart; returns whether there were too many in a short time."""
        self._last.append(now_s)
        return len(self._last) == _MOST_RESTARTS and now_s - self._last[0] < _RESTARTS_S

    @property
    def is_first(self) -> bool:
        """Whether no other restart came shortly before the last one."""
        return len(self._last) == 1 or self._last[-1] - self._last[-2] > _RESTARTS_S


class _StoppableStream:
    """A line whose reads end when the source is stopped."""

    def __init__(self, line: ByteStream, patience: Patience) -> None:
        self.name = line.name
        self._line, self._patience = line, patience

    def read(self, timeout_s: float) -> bytes:
        """See ByteStream."""
        while True:
            self._patience.check()
            data = self._line.read(min(timeout_s, HEARD_S))
            timeout_s -= HEARD_S
            if data or timeout_s <= 0:
                return data

    def write(self, data: bytes) -> None:
        """See ByteStream."""
        self._line.write(data)

    def set_baud(self, baud: int) -> None:
        """See ByteStream."""
        self._line.set_baud(baud)

    def close(self) -> None:
        """See ByteStream."""
        self._line.close()
