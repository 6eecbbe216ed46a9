"""Send datagrams to a host, at whichever of its addresses a program listens.

A name such as `localhost` has several addresses, and a datagram to one where nobody listens is lost. The system reports
this on the same machine, and often on the same network; then the next address is tried.
"""

import contextlib
import errno
import socket

_LOCALHOST = ("127.0.0.1", "::1")
_MULTICAST_TTL = 1  # stay within the local network


class Datagrams:
    """A sender to one host and port. Multicast and broadcast addresses are possible too."""

    def __init__(self, host: str, port: int) -> None:
        """Raises OSError when the host has no address."""
        self._addresses: list[tuple[socket.AddressFamily, tuple[object, ...]]] = []
        for name in _LOCALHOST if host == "localhost" else (host,):  # the system may know only one of the two
            for family, _, _, _, address in socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM):
                self._addresses.append((family, address))
        self._at = 0  # place of the current address
        self._socket: socket.socket | None = None

    def send(self, data: bytes) -> None:
        """Send one datagram. Raises OSError when it cannot be sent to any of the addresses.

        It is no error that nobody listens: a receiver may start later.
        """
        failure: OSError | None = None
        reached = False  # an address that works, but at which nobody listens
        for _ in self._addresses:
            try:
                line = self._connected()
                line.send(data)
                refused = line.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
            except ConnectionRefusedError:  # for the previous datagram
                refused = True
            except OSError as error:
                failure, refused = error, False
            else:
                if not refused:
                    return
            reached = reached or refused
            self.close()
            self._at = (self._at + 1) % len(self._addresses)
        if failure is not None and not reached:
            raise failure

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        """A connected socket: only for such a one does the system report that nobody listens."""
        if self._socket is None:
            family, address = self._addresses[self._at]
            line = socket.socket(family, socket.SOCK_DGRAM)
            try:
                with contextlib.suppress(OSError):  # only needed for a broadcast address
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                if family == socket.AF_INET6:
                    line.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _MULTICAST_TTL)
                else:
                    line.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _MULTICAST_TTL)
                line.connect(address)
            except BaseException:
                line.close()
                raise
            self._socket = line
        return self._socket
