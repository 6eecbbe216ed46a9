"""The interface of every line to a device, and the errors of a line."""

from typing import Protocol

from cpep_edge.errors import LinkError


class LineLost(LinkError):  # noqa: N818 - the name says what happened
    """The line broke while it was open; the device may come back."""


class RecordingOver(LineLost):
    """The line was a recording, and all of it has been read."""


class Stopped(LinkError):  # noqa: N818 - the name says what happened
    """The reader was asked to stop; never shown to a user."""


class WrongDevice(LinkError):  # noqa: N818 - the name says what happened
    """The device on the line is not the one expected, so its samples must not be mixed with the earlier ones."""


class ByteStream(Protocol):
    """An open line to a device."""

    @property
    def name(self) -> str:
        """The port as the user wrote it."""
        ...

    def read(self, timeout_s: float) -> bytes:
        """Wait for bytes and return those that arrived; empty after `timeout_s`. Raises LinkError when it is gone."""
        ...

    def write(self, data: bytes) -> None:
        """Send all of `data`. Raises LinkError when the device is gone or takes nothing for a second."""
        ...

    def set_baud(self, baud: int) -> None:
        """Change the line's speed, if it has one. The line stays open, because reopening it restarts many boards."""
        ...

    def close(self) -> None:
        """Close the line; closing it twice is allowed."""
        ...
