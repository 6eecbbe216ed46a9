"""The device's end of a pty: what a simulated device writes here, a host reads from `path` as from a serial port.

A pty holds 12 to 19 KB and then blocks the writer, so nothing here blocks: what the pty does not take waits in a small
buffer, and `offer` says when the line is full. POSIX only.
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
_PENDING_BYTES = 1 << 16  # answers to a host that asks and never reads; more are dropped


class PtyPort:
    """An open pty, and optionally a symbolic link to it, until `close`.

    Raises LinkError when `link` names something that is not such a link, or cannot be made.
    """

    def __init__(self, link: Path | None = None) -> None:
        self._fd, self._far_fd = pty.openpty()  # the far end stays open, so that hosts may come and go
        tty.setraw(self._far_fd)
        os.set_blocking(self._fd, False)
        self.path = os.ttyname(self._far_fd)
        self._pending = bytearray()
        self._link: Path | None = None
        if link is not None:
            self.link_to(link)

    def link_to(self, link: Path) -> None:
        """Make a symbolic link to the pty; closes the port when that cannot be done."""
        try:
            _make_link(link, self.path)
        except LinkError:
            self.close()
            raise
        self._link = link

    def close(self) -> None:
        """Hang up, and remove the link if it is still ours."""
        for fd in (self._fd, self._far_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._far_fd = -1
        if self._link is not None and self._link.is_symlink() and os.readlink(self._link) == self.path:
            self._link.unlink()

    def read(self, timeout_s: float) -> bytes:
        """What the host sent, as soon as it sends; empty after `timeout_s`, or when a full line has room again."""
        awaited = select.poll()  # which takes file numbers beyond 1024
        awaited.register(self._fd, select.POLLIN | (select.POLLOUT if self._pending else 0))
        events = dict(awaited.poll(timeout_s * 1e3)).get(self._fd, 0)
        if events & select.POLLOUT:
            self._flush()
        return os.read(self._fd, _READ_BYTES) if events & select.POLLIN else b""

    def ready(self) -> bool:
        """Whether everything written so far was taken by the pty."""
        self._flush()
        return not self._pending

    def offer(self, data: bytes) -> bool:
        """Send all of `data`, or nothing of it when the line is full."""
        if not self.ready():
            return False
        self._pending += data
        self._flush()
        return True

    def put(self, data: bytes) -> None:
        """Send `data` now or when there is room."""
        if len(self._pending) + len(data) <= _PENDING_BYTES:
            self._pending += data
        self._flush()

    def unread_bytes(self) -> int:
        """Bytes that were sent and that the host has not read yet."""
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
