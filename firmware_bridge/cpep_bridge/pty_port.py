"""The device's end of a pty: a host reads from `path`, as from a serial port, what a simulated device writes here.

A pty holds 12 to 19 KB and then blocks the writer. Here writes never block: bytes that do not fit wait in a small
buffer, and `offer` tells when the line is full. POSIX only.
"""

import fcntl
import os
import pty
import select
import struct
import termios
import tty
from pathlib import Path

from cpep_edge.errors import LinkError

_READ_BYTES = 1 << 16
_PENDING_BYTES = 1 << 16  # size of that buffer; further answers to a host that never reads are dropped


class PtyPort:
    """A pty, with an optional symbolic link to it, which is open until `close`.

    Raises LinkError when `link` exists and is not a link to a pty, or cannot be made.
    """

    def __init__(self, link: Path | None = None) -> None:
        self._fd, self._far_fd = pty.openpty()  # the far end stays open, so that a host can close and reopen it
        tty.setraw(self._far_fd)
        os.set_blocking(self._fd, False)
        self.path = os.ttyname(self._far_fd)
        self._pending = bytearray()
        self._link: Path | None = None
        if link is not None:
            self.link_to(link)

    def link_to(self, link: Path) -> None:
        """Make a symbolic link to the pty. Raises LinkError, and closes the port, when that fails."""
        try:
            _make_link(link, self.path)
        except LinkError:
            self.close()
            raise
        self._link = link

    def close(self) -> None:
        """Hang up, and remove the link if it still points to this pty."""
        for fd in (self._fd, self._far_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._far_fd = -1
        if self._link is not None and self._link.is_symlink() and os.readlink(self._link) == self.path:
            self._link.unlink()

    def read(self, timeout_s: float) -> bytes:
        """Wait for bytes from the host; empty after `timeout_s`, or when a full line has room again."""
        awaited = select.poll()  # unlike select(), it supports file descriptors beyond 1024
        awaited.register(self._fd, select.POLLIN | (select.POLLOUT if self._pending else 0))
        events = dict(awaited.poll(timeout_s * 1e3)).get(self._fd, 0)
        if events & select.POLLOUT:
            self._flush()
        return os.read(self._fd, _READ_BYTES) if events & select.POLLIN else b""

    def ready(self) -> bool:
        """Whether the pty has taken everything written so far."""
        self._flush()
        return not self._pending

    def offer(self, data: bytes) -> bool:
        """Send all of `data`, or none of it when the line is full; returns whether it was sent."""
        if not self.ready():
            return False
        self._pending += data
        self._flush()
        return True

    def put(self, data: bytes) -> None:
        """Send `data` now, or later when there is room."""
        if len(self._pending) + len(data) <= _PENDING_BYTES:
            self._pending += data
        self._flush()

    def unread_bytes(self) -> int:
        """How many sent bytes the host has not read yet."""
        queued = fcntl.ioctl(self._far_fd, termios.FIONREAD, struct.pack("i", 0))
        return len(self._pending) + int(struct.unpack("i", queued)[0])

    def _flush(self) -> None:
        while self._pending:
            try:
                n_taken = os.write(self._fd, self._pending)
            except BlockingIOError:
                return
            del self._pending[:n_taken]


def _make_link(link: Path, target: str) -> None:
    if os.path.lexists(link) and not (link.is_symlink() and os.readlink(link).startswith("/dev/pts/")):
        raise LinkError(f"{link} exists and is not a link to a simulated port: choose another name")
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    except OSError as error:
        raise LinkError(f"cannot make the link {link}: {error.strerror or error}") from error
