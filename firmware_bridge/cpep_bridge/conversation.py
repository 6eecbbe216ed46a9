"""Talking to a board that takes plain commands and answers in text, before its stream begins."""

import time

from cpep_bridge.byte_stream import ByteStream
from cpep_edge.errors import LinkTimeout

_QUIET_S = 0.15  # without a byte, a board that was told to stop has stopped
_LONGEST_NOISE_S = 3.0
_SHOWN_BYTES = 24


class Conversation:
    """Commands out, answers in, over an open line."""

    def __init__(self, line: ByteStream, timeout_s: float) -> None:
        self.line = line
        self.timeout_s = timeout_s
        self.rest = b""  # came behind the last answer

    def send(self, command: bytes) -> None:
        """Send a command that has no answer."""
        self.line.write(command)

    def drain(self) -> bytes:
        """Read until the board is quiet; what it said."""
        heard = self.rest
        self.rest = b""
        deadline_s = time.monotonic() + _LONGEST_NOISE_S
        while time.monotonic() < deadline_s and (data := self.line.read(_QUIET_S)):
            heard += data
        return heard

    def ask(self, command: bytes, until: bytes) -> bytes:
        """Send a command and read up to the end of its answer, which is left off.

        Raises LinkTimeout, quoting what came instead, when the answer does not come.
        """
        self.line.write(command)
        heard, deadline_s = self.rest, time.monotonic() + self.timeout_s
        while until not in heard:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                self.rest = b""
                raise LinkTimeout(self._unanswered(command, heard))
            heard += self.line.read(left_s)
        answer, _, self.rest = heard.partition(until)
        return answer

    def _unanswered(self, command: bytes, heard: bytes) -> str:
        asked = f"{command.decode('ascii', 'replace').strip()!r} within {self.timeout_s:g} s"
        if not heard:
            return f"nothing on {self.line.name} answered {asked}: is the board switched on, and is this its port?"
        return f"what is on {self.line.name} did not answer {asked} as it should: it sent {_quoted(heard)}"


def _quoted(heard: bytes) -> str:
    shown = heard[:_SHOWN_BYTES]
    text = shown.decode("ascii", "replace")
    return repr(text) if text.isprintable() else f"the bytes {shown.hex(' ')}"
