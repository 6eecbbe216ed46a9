"""A device on a pty that does what a function says: what it heard and for how long it is open in, what it sends out."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.frames import Frame
from cpep_bridge.pty_port import PtyPort

Say = Callable[[bytes, float], bytes]  # heard, seconds since the first call; what to send


@contextmanager
def scripted(say: Say, every_s: float = 0.004) -> Iterator[PtyPort]:
    """Run `say` again and again, until the end of the block."""
    stopping = threading.Event()

    def run(port: PtyPort) -> None:
        began_s = time.monotonic()
        while not stopping.is_set():
            said = say(port.read(every_s), time.monotonic() - began_s)
            if said:
                port.offer(said)  # what finds no room is gone, as on a real line

    with closing(PtyPort()) as port:
        thread = threading.Thread(target=run, args=(port,))
        thread.start()
        try:
            yield port
        finally:
            stopping.set()
            thread.join()


def answers(reply: Callable[[Frame], bytes]) -> Say:
    """A thing on the port that answers every frame in its own way."""
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
    """A profile of a board that sends lines of text, by its path."""
    (folder / "lines.toml").write_text(LINES + more)
    return str(folder / "lines.toml")


def line(number: int) -> bytes:
    """A line of such a board: the counter, and two channels."""
    return b"%d,%d,7\r\n" % (number % 65_536, number % 100)


class Stream:
    """Frames that fall due at a rate; `due(now_s)` gives those that fell due since the last call."""

    def __init__(self, rate_hz: float, frame: Callable[[int], bytes], first: int = 0) -> None:
        self._rate_hz, self._frame, self._first = rate_hz, frame, first
        self._began_s: float | None = None
        self.n = 0

    def due(self, now_s: float) -> bytes:
        """The frames since the last call; the first call begins the stream."""
        self._began_s = now_s if self._began_s is None else self._began_s
        stop = int((now_s - self._began_s) * self._rate_hz)
        frames = b"".join(self._frame(self._first + number) for number in range(self.n, stop))
        self.n = max(self.n, stop)
        return frames
