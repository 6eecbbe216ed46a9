"""The interface of every line to a device: bytes in, bytes out, and how the line is closed."""

from typing import Protocol

from cpep_edge.errors import LinkError


class LineLost(LinkError):  # noqa: N818 - the name says what happened
    """The line broke while it was open; the device may come back."""


class RecordingOver(LineLost):
    """The line was a recording, and all of it has been read."""


class Stopped(LinkError):  # noqa: N818 - the name says what happened
    """The reader was asked to stop; never shown to a user."""


class WrongDevice(LinkError):  # noqa: N818 - the name says what happened
    """What came back on the line is not the device that left it: its samples belong to no one known."""


class ByteStream(Protocol):
    """An open line to a device."""

    @property
    def name(self) -> str:
        """The port as the user wrote it."""
        ...

    def read(self, timeout_s: float) -> bytes:
        """What has arrived, as soon as anything has; empty after `timeout_s`. Raises LinkError when the device left."""
        ...

    def write(self, data: bytes) -> None:
        """Send all of `data`. Raises LinkError when the device is gone or takes nothing for a second."""
        ...

    def set_baud(self, baud: int) -> None:
        """Change the line's speed, where it has one, without opening it anew: that would restart many boards."""
        ...

    def close(self) -> None:
        """Give the port back; closing twice does no harm."""
        ...
