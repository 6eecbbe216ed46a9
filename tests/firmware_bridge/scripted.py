"""A simulated device on a pty whose behaviour is a function: from the bytes received and the time to the bytes sent."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.frames import Frame
from cpep_bridge.pty_port import PtyPort

Say = Callable[[bytes, float], bytes]  # (bytes received, seconds since the first call) -> bytes to send


@contextmanager
def scripted(say: Say, every_s: float = 0.004) -> Iterator[PtyPort]:
    """Run a device that calls `say` repeatedly until the end of the `with` block; yields its port."""
    stopping = threading.Event()

    def run(port: PtyPort) -> None:
        began_s = time.monotonic()
        while not stopping.is_set():
            said = say(port.read(every_s), time.monotonic() - began_s)
            if said:
                port.offer(said)  # without room, bytes are lost, as on a real line

    with closing(PtyPort()) as port:
        thread = threading.Thread(target=run, args=(port,))
        thread.start()
        try:
            yield port
        finally:
            stopping.set()
            thread.join()


def answers(reply: Callable[[Frame], bytes]) -> Say:
    """A device that sends `reply(frame)` for every frame that it receives."""
    decoder = FrameDecoder()
    return lambda heard, now_s: b"".join(map(reply, decoder.feed(heard)))


LINES = """
name = "lines"
source = "made up"
baud = [230400, 115200]
sample_rate_hz = 500.0
n_channels = 2
[lines]
first_column = 1
counter_column = 0
counter_modulus = 65536
"""


def profile_of_lines(folder: Path, more: str = "") -> str:
    """Write the profile of a board that sends lines of text; returns its path."""
    (folder / "lines.toml").write_text(LINES + more)
    return str(folder / "lines.toml")


def line(number: int) -> bytes:
    """A line of such a board: its counter and two channels."""
    return b"%d,%d,7\r\n" % (number % 65_536, number % 100)


class Stream:
    """A stream of frames at a fixed rate; `due(now_s)` returns those that are due since the last call."""

    def __init__(self, rate_hz: float, frame: Callable[[int], bytes], first: int = 0) -> None:
        self._rate_hz, self._frame, self._first = rate_hz, frame, first
        self._began_s: float | None = None
        self.n = 0

    def due(self, now_s: float) -> bytes:
        """The frames that are due since the last call; the first call starts the stream."""
        self._began_s = now_s if self._began_s is None else self._began_s
        stop = int((now_s - self._began_s) * self._rate_hz)
        frames = b"".join(self._frame(self._first + number) for number in range(self.n, stop))
        self.n = max(self.n, stop)
        return frames
