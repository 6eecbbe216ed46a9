"""Byte streams to and from a device: a serial port or pty by path, `socket://host:port`, a port behind a serial server
by `rfc2217://host:port`, datagrams by `udp://host:port`, or the recording of a line by `file:///path`.

A stream does not interpret the bytes. On POSIX a port is read with `poll` and `os.read`: 0.1 ms from byte to reader for
1 % of a core, where `Serial.read(1)` takes 40 %. `select` would only support the first 1024 files of a process.
Opening a serial port discards the bytes that were waiting in it.
"""

import contextlib
import errno
import getpass
import os
import select
import selectors
import socket
import time
from pathlib import Path

import serial
from serial.tools import list_ports

from cpep_bridge.byte_stream import ByteStream, LineLost
from cpep_bridge.capture import FILE_PREFIX, RecordedStream
from cpep_edge.errors import LinkError, LinkTimeout

BAUD = 921_600
READ_BYTES = 1 << 16
WRITE_TIMEOUT_S = 1.0
CONNECT_TIMEOUT_S = 3.0
_LOOK_EVERY_S = 0.005

SOCKET_PREFIX, RFC2217_PREFIX, UDP_PREFIX = "socket://", "rfc2217://", "udp://"


def open_stream(port: str, baud: int = BAUD) -> ByteStream:
    """Open a port by a path or one of the addresses that the module's docstring lists.

    Raises LinkError when there is no such port, another program uses it, or the user has no permission.
    """
    if port.startswith(SOCKET_PREFIX):
        return SocketStream(port)
    if port.startswith(UDP_PREFIX):
        return DatagramStream(port)
    if port.startswith(RFC2217_PREFIX):
        return Rfc2217Stream(port, baud)
    if port.startswith(FILE_PREFIX):
        return RecordedStream(port)
    return PosixSerialStream(port, baud) if os.name == "posix" else PortableSerialStream(port, baud)


class PortableSerialStream:
    """A serial port through pyserial alone, for systems where ports cannot be polled."""

    def __init__(self, port: str, baud: int = BAUD) -> None:
        self.name = port
        self._serial = _open_serial(port, baud)

    def read(self, timeout_s: float) -> bytes:
        """See ByteStream."""
        try:
            self._serial.timeout = timeout_s
            data: bytes = self._serial.read(self._serial.in_waiting or 1)
        except OSError as error:
            raise _gone(self.name) from error
        return data

    def write(self, data: bytes) -> None:
        """See ByteStream."""
        try:
            self._serial.write(data)
        except serial.SerialTimeoutException as error:
            raise _stuck(self.name) from error
        except OSError as error:
            raise _gone(self.name) from error

    def set_baud(self, baud: int) -> None:
        """See ByteStream."""
        try:
            self._serial.baudrate = baud
        except (OSError, ValueError) as error:
            raise LinkError(f"{self.name} does not run at {baud} baud: {error}") from error

    def close(self) -> None:
        """See ByteStream."""
        self._serial.close()


class Rfc2217Stream(PortableSerialStream):
    """A serial port behind a server, which also sets its speed.

    The timeout is not set for each read, because pyserial then sends the settings to the server again.
    """

    def read(self, timeout_s: float) -> bytes:
        """See ByteStream."""
        deadline_s = time.monotonic() + timeout_s
        try:
            while not (n_bytes := self._serial.in_waiting) and time.monotonic() < deadline_s:
                time.sleep(_LOOK_EVERY_S)
            data: bytes = self._serial.read(n_bytes) if n_bytes else b""
        except OSError as error:
            raise _gone(self.name) from error
        return data


class PosixSerialStream(PortableSerialStream):
    """A serial port or pty, read by file descriptor."""

    def __init__(self, port: str, baud: int = BAUD) -> None:
        super().__init__(port, baud)
        self._fd: int = self._serial.fileno()
        # Without this an FTDI adapter holds bytes back for 16 ms. A pty and most other ports do not support it.
        with contextlib.suppress(ValueError, OSError, NotImplementedError):
            self._serial.set_low_latency_mode(True)
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(self._fd, select.POLLIN)
        self._writable.register(self._fd, select.POLLOUT)

    def read(self, timeout_s: float) -> bytes:
        """See ByteStream."""
        try:
            data = self._waiting()  # usually bytes are waiting, and this saves a call of poll
            if data:
                return data
            ready = self._readable.poll(timeout_s * 1e3)
            data = self._waiting()
        except OSError as error:
            raise _gone(self.name) from error
        if ready and not data:  # readable without data: the other end hung up
            raise _gone(self.name)
        return data

    def write(self, data: bytes) -> None:
        """See ByteStream."""
        deadline_s = time.monotonic() + WRITE_TIMEOUT_S
        while data:
            try:
                ready = self._writable.poll(max(0.0, deadline_s - time.monotonic()) * 1e3)
                with contextlib.suppress(BlockingIOError):
                    data = data[os.write(self._fd, data) if ready else 0 :]
            except OSError as error:
                raise _gone(self.name) from error
            if not ready:
                raise _stuck(self.name)

    def close(self) -> None:
        """See ByteStream."""
        super().close()
        self._fd = -1  # the number may be reused for another file

    def _waiting(self) -> bytes:
        """The bytes that have arrived; the descriptor is non-blocking."""
        try:
            return os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return b""


class _SocketLine:
    """The common part of TCP connections and datagrams: an open socket to wait on."""

    def __init__(self, name: str, line: socket.socket) -> None:
        self.name, self._socket = name, line
        self._readable = selectors.DefaultSelector()
        self._readable.register(line, selectors.EVENT_READ)

    def set_baud(self, baud: int) -> None:
        """See ByteStream. Does nothing: the network has no baud rate, and a board behind it has its own."""

    def close(self) -> None:
        """See ByteStream."""
        self._readable.close()
        self._socket.close()


class SocketStream(_SocketLine):
    """A TCP connection: a board on the network, or one behind a serial server."""

    def __init__(self, port: str) -> None:
        try:
            line = socket.create_connection(_host_and_number(port), timeout=CONNECT_TIMEOUT_S)
        except OSError as error:
            raise LinkError(f"cannot connect to {port}: {error.strerror or error}; is a band served there?") from error
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.settimeout(WRITE_TIMEOUT_S)
        super().__init__(port, line)

    def read(self, timeout_s: float) -> bytes:
        """See ByteStream."""
        try:
            if not self._readable.select(timeout_s):
                return b""
            data = self._socket.recv(READ_BYTES)
        except (OSError, ValueError) as error:  # a closed selector raises ValueError
            raise _gone(self.name) from error
        if not data:
            raise _gone(self.name)
        return data

    def write(self, data: bytes) -> None:
        """See ByteStream."""
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            raise _stuck(self.name) from error
        except OSError as error:
            raise _gone(self.name) from error


class DatagramStream(_SocketLine):
    """Datagrams that arrive at `udp://host:port`, an address of this machine, joined into one stream of bytes.

    `udp://:port` listens at all addresses. Commands go to the sender of the last datagram; before the first one they
    are dropped, which is no error because many boards only send.
    """

    def __init__(self, port: str) -> None:
        host, number = _host_and_number(port, least_host="0.0.0.0")
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_DGRAM)[0]
            line = socket.socket(family, kind)
        except OSError as error:
            raise LinkError(f"cannot listen at {port}: {error.strerror or error}") from error
        try:
            line.bind(address)
        except OSError as error:
            line.close()
            raise LinkError(
                f"cannot listen at {port}: {error.strerror or error}; give an address of this machine and a free port"
            ) from error
        super().__init__(port, line)
        self._peer: tuple[object, ...] | None = None

    def read(self, timeout_s: float) -> bytes:
        """See ByteStream."""
        try:
            if not self._readable.select(timeout_s):
                return b""
            data, self._peer = self._socket.recvfrom(READ_BYTES)
        except (OSError, ValueError) as error:
            raise _gone(self.name) from error
        return data

    def write(self, data: bytes) -> None:
        """See ByteStream."""
        if self._peer is None:
            return
        try:
            self._socket.sendto(data, self._peer)
        except OSError as error:
            raise _gone(self.name) from error


def _gone(name: str) -> LineLost:
    return LineLost(f"the device on {name} is gone: it was unplugged or switched off, or the other end was closed")


def _stuck(name: str) -> LinkTimeout:
    return LinkTimeout(f"the device on {name} took no bytes for {WRITE_TIMEOUT_S:g} s: switch it off and on again")


def _host_and_number(port: str, least_host: str = "") -> tuple[str, int]:
    """The host and port number of an address; `least_host` if it has no host. Raises LinkError for a bad address."""
    scheme, _, rest = port.partition("://")
    host, _, number = rest.rpartition(":")
    host = host or least_host
    if not host or "@" in host or not number.isascii() or not number.isdecimal() or not 0 < int(number) < 65_536:
        shown = f"{scheme}://{rest.rpartition('@')[2]}"  # without the part that may be a password
        raise LinkError(
            f"{shown} is not an address: write {scheme}://host:port, for example {scheme}://192.168.1.20:7000"
        )
    return host.strip("[]"), int(number)


def _open_serial(port: str, baud: int) -> serial.Serial:
    try:
        if port.startswith(RFC2217_PREFIX):
            _host_and_number(port.partition("?")[0])
            return serial.serial_for_url(port, baud, timeout=0)  # no support for write_timeout
        # dtr and rts are not set, because a pty refuses them.
        return serial.Serial(port, baud, timeout=0, write_timeout=WRITE_TIMEOUT_S, exclusive=True)
    except serial.SerialException as error:
        raise LinkError(_refusal(port, error)) from error
    except (ValueError, OverflowError) as error:
        raise LinkError(f"cannot open {port} at {baud} baud: {error}") from error


def _refusal(port: str, error: serial.SerialException) -> str:
    number = error.errno or _first_number(error.__context__)
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return f"there is no port {port}; {connected_ports()}"
    if number == errno.EACCES:
        return no_permission(port)
    if number in (errno.EAGAIN, errno.EBUSY):
        return f"{port} is in use{in_use_by(port)}: close that first, or choose another port"
    if number in (errno.ENOTTY, errno.EINVAL, errno.EISDIR):
        return f"{port} is not a serial port; {connected_ports()}"
    return f"cannot open {port}: {error if number is None else os.strerror(number)}"


def _first_number(error: BaseException | None) -> int | None:
    number = error.args[0] if error is not None and error.args else None  # termios.error has no errno attribute
    return number if isinstance(number, int) else None


def connected_ports() -> str:
    """The connected serial ports, as the end of a sentence."""
    found = sorted(port.device for port in list_ports.comports())
    return f"connected: {', '.join(found)}" if found else "no serial device is connected"


def no_permission(port: str) -> str:
    """How to get permission to use a port, as a sentence."""
    import grp  # exists on POSIX only, as does this advice

    number = os.stat(port).st_gid
    if not number:  # the group root, which no user should join
        return f"you may not use {port}, only root may: have a udev rule give it to the group dialout, and join that"
    try:
        group = grp.getgrgid(number).gr_name
    except KeyError:  # in a container, the host's groups may have no names
        return f"you may not use {port}: it belongs to the group of number {number}, start this program in that group"
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user has no name, as may be in a container
        user = "$USER"
    cure = f"run 'sudo usermod -aG {group} {user}' and log in again"
    return f"you may not use {port}, it belongs to the group {group}: {cure}"


def in_use_by(port: str) -> str:
    """Which process uses a port, as the end of a sentence; empty when none is found."""
    for process in (_locking_process(port), *_processes_with(port)):
        if process is not None:
            return f" by {_name(process)} (process {process})"
    return ""


def _locking_process(port: str) -> int | None:
    """The process that holds the lock of a port opened exclusively, from lines of /proc/locks such as
    `1: FLOCK  ADVISORY  WRITE 4711 00:17:5 0 EOF`."""
    try:
        status = os.stat(port)
        locks = Path("/proc/locks").read_text()
    except OSError:
        return None
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in locks.splitlines():
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == place:
            return int(words[4]) if int(words[4]) > 0 else None
    return None


def _processes_with(port: str) -> list[int]:
    """The processes that have a port open, as far as this user may see their files in /proc."""
    target = os.path.realpath(port)
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == target:
                found.append(int(link.parts[2]))
        except OSError:
            continue  # the process has ended, or belongs to another user
    return found


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return "a program"
