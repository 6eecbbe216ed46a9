"""How long a source waits, and how it is stopped while it waits.

Life is a sample. A line that opens, a device that answers and bytes that mean nothing keep no source waiting longer:
all limits run from the last sample, through as many reconnects as it takes.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from cpep_bridge.byte_stream import ByteStream, Stopped, WrongDevice
from cpep_bridge.reopening import waits_s
from cpep_edge.errors import LinkError

_BACK_AFTER_S = 0.2  # of samples a stream that broke is back; a frame that is only repeated brings one at each opening
_MOST_RESTARTS, _RESTARTS_S = 10, 5.0
HEARD_S = 0.1  # within which a source that waits hears that it should stop

_log = logging.getLogger(__name__)


class Patience:
    """The limits of one source, and the request to stop it.

    timeout_s: how long no sample may come
    reconnect_s: how long to look for a stream that broke, 0 gives up at once
    boot_s: how much longer the first sample may take after the line was opened
    """

    def __init__(self, timeout_s: float, reconnect_s: float, boot_s: float = 0.0) -> None:
        self.timeout_s, self.boot_s = timeout_s, boot_s
        self.silent_s = 0.0  # spent waiting for a sample; a slow consumer's time is not the device's
        self._reconnect_s = reconnect_s
        self.is_booting = True  # no sample came since the line was opened
        self._alive = False  # a sample came since the start
        self._broken: tuple[float, LinkError] | None = None  # when the stream broke, and why
        self._back_s: float | None = None  # when its samples came again
        self._stopping = threading.Event()
        self._leaving = False

    def opened(self) -> None:
        """The line was opened: silence counts from here, what it may take in all does not."""
        self.silent_s, self.is_booting, self._back_s = 0.0, True, None

    def sampled(self) -> None:
        """Samples came."""
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
        """The stream broke; how much longer it may be looked for.

        Raises `error`, or the one that broke the stream first, when nothing came before it or the time is up.
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
        """Try to get a stream that broke going again, first after a tenth of a second, then less and less often.

        attempt: opens and greets, within so many seconds; raises LinkError, or WrongDevice when there is no use in more
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
        """Let lines that are open be used once more after `stop`, to take leave of the device."""
        self._leaving = True

    def rest(self, seconds: float) -> None:
        """Sleep. Raises Stopped when asked to stop meanwhile."""
        if self._stopping.wait(seconds):
            raise Stopped("stopped")

    def check(self) -> None:
        """Raises Stopped when asked to stop."""
        if self._stopping.is_set() and not self._leaving:
            raise Stopped("stopped")

    def opener(self, open_port: Callable[[], ByteStream]) -> Callable[[], ByteStream]:
        """Opens what `open_port` does; a read from it raises Stopped when asked to stop."""

        def open_stoppable() -> ByteStream:
            self.check()
            line = open_port()
            if self._stopping.is_set():  # opening may have taken its time
                line.close()
                raise Stopped("stopped")
            return _StoppableStream(line, self)

        return open_stoppable


class Restarts:
    """How often a device begins to count anew: one that does so all the time has no counter."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=_MOST_RESTARTS)

    def too_many(self, now_s: float) -> bool:
        """Note one more; whether there were too many in a short time."""
        self._last.append(now_s)
        return len(self._last) == _MOST_RESTARTS and now_s - self._last[0] < _RESTARTS_S

    @property
    def is_first(self) -> bool:
        """Whether the last one stands alone."""
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
