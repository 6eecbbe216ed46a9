"""Talk to a board that takes plain commands and answers in text, before its stream begins.

A board that does not answer may be starting up, run at another speed, or send other text first. So a command can be
repeated every half second, at each speed in turn, and everything but the answer is skipped.
"""

import time
from collections.abc import Callable, Sequence

from cpep_bridge.byte_stream import ByteStream
from cpep_edge.errors import LinkTimeout
from cpep_edge.outside import printable

ASK_AGAIN_S = 0.5

_QUIET_S = 0.15  # after so long without a byte, a board that was told to stop has stopped
_LONGEST_NOISE_S = 3.0
_KEPT_BYTES = 1 << 14  # most bytes kept while waiting for an answer
_SHOWN_BYTES = 60


class Conversation:
    """Sends commands and reads answers over an open line.

    timeout_s: longest wait for an answer
    bauds: speeds to try; the line was opened at the first
    """

    def __init__(self, line: ByteStream, timeout_s: float, bauds: Sequence[int] = ()) -> None:
        self.line = line
        self.timeout_s = timeout_s
        self.rest = b""  # bytes received after the last answer
        self._bauds, self._n_asked = bauds, 0

    def send(self, command: bytes) -> None:
        """Send a command that has no answer."""
        self.line.write(command)

    def drain(self) -> bytes:
        """Read until the board is quiet; returns the last `_KEPT_BYTES` that it sent."""
        heard = self.rest
        self.rest = b""
        deadline_s = time.monotonic() + min(_LONGEST_NOISE_S, self.timeout_s)
        while time.monotonic() < deadline_s and (data := self.line.read(_QUIET_S)):
            heard = (heard + data)[-_KEPT_BYTES:]
        return heard

    def ask(self, command: bytes, until: bytes, *, again: bool = False) -> bytes:
        """Send a command and return its answer up to `until`.

        again: repeat the command until it is answered, at each speed in turn
        Raises LinkTimeout, quoting what was received instead, when there is no answer.
        """

        def answer(heard: bytes) -> tuple[bytes, bytes] | None:
            said, end, rest = heard.partition(until)
            return (said, rest) if end else None

        return self.ask_for(command, answer, again=again)

    def ask_for(
        self, command: bytes, find: Callable[[bytes], tuple[bytes, bytes] | None], *, again: bool = True
    ) -> bytes:
        """Send a command, repeatedly with `again`, until its answer arrives. Raises LinkTimeout as `ask` does.

        find: splits the received bytes into the answer and the rest; None while there is no answer
        """
        heard, deadline_s, ask_s = self.rest, time.monotonic() + self.timeout_s, 0.0
        self.rest = b""
        while (now_s := time.monotonic()) < deadline_s:
            if now_s >= ask_s:
                if ask_s and self.next_speed():
                    self.line.write(b"\n")  # ends the command that the board may have read at the wrong speed
                self.line.write(command)
                ask_s = now_s + ASK_AGAIN_S if again else deadline_s
            heard = (heard + self.line.read(min(ask_s, deadline_s) - now_s))[-_KEPT_BYTES:]
            found = find(heard)
            if found is not None:
                self._bauds = ()  # the speed is right: keep it
                answer, self.rest = found
                return answer
        raise LinkTimeout(self._unanswered(command, heard))

    def next_speed(self) -> bool:
        """Set the line to the next of the speeds; returns False when there is only one."""
        if len(self._bauds) < 2:
            return False
        self._n_asked += 1
        self.line.set_baud(self._bauds[self._n_asked % len(self._bauds)])
        return True

    def _unanswered(self, command: bytes, heard: bytes) -> str:
        asked = f"{printable(command.decode('ascii', 'replace').strip())!r} within {self.timeout_s:g} s"
        if not heard:
            return f"nothing on {self.line.name} answered {asked}: is the board switched on, and is this its port?"
        return f"what is on {self.line.name} did not answer {asked} as it should: it sent {quoted(heard)}"


def is_text(heard: bytes) -> bool:
    """Whether the received bytes are mostly text."""
    text = heard.decode("utf-8", "replace")
    n_odd = sum(
        letter == "\N{REPLACEMENT CHARACTER}" or not (letter.isprintable() or letter.isspace()) for letter in text
    )
    return bool(text.strip()) and n_odd * 10 <= len(text)


def quoted(heard: bytes) -> str:
    """The first of the received bytes, for a message: as text if they are mostly text, else in hexadecimal."""
    shown = heard.strip()[:_SHOWN_BYTES]
    if is_text(shown):
        return repr(printable(" ".join(shown.decode("utf-8", "replace").split())))
    return f"the bytes {shown[:24].hex(' ')}"
