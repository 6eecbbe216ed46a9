"""Sending datagrams to a host by whichever of its addresses somebody listens at.

A name such as `localhost` stands for several addresses, and a datagram to one where nobody listens vanishes. The system
tells of that on the same machine and often on the same network; then the next address is tried.
"""

import contextlib
import errno
import socket

_LOCALHOST = ("127.0.0.1", "::1")
_MULTICAST_TTL = 1  # not beyond the local network


class Datagrams:
    """Datagrams to one host and port. Multicast and broadcast addresses may be given too."""

    def __init__(self, host: str, port: int) -> None:
        """Raises OSError when the host has no address."""
        self._addresses: list[tuple[socket.AddressFamily, tuple[object, ...]]] = []
        for name in _LOCALHOST if host == "localhost" else (host,):  # whichever of the two the system's files know
            for family, _, _, _, address in socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM):
                self._addresses.append((family, address))
        self._at = 0  # of the addresses
        self._socket: socket.socket | None = None

    def send(self, data: bytes) -> None:
        """Send one datagram. Raises OSError when it can go to none of the addresses.

        That nobody listens is no failure: somebody may begin to.
        """
        failure: OSError | None = None
        reached = False  # one of the addresses, at which nobody listened
        for _ in self._addresses:
            try:
                line = self._connected()
                line.send(data)
                refused = line.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
            except ConnectionRefusedError:  # of the datagram before
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
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        """A socket that is connected, so that the system says when nobody listens."""
        if self._socket is None:
            family, address = self._addresses[self._at]
            line = socket.socket(family, socket.SOCK_DGRAM)
            try:
                with contextlib.suppress(OSError):  # asked for by the address alone
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
