"""Reopen a line after it broke, by its path, or by its USB device when that comes back at another path.

A port can also be named by its USB device from the start, as `VID:PID` or `VID:PID:SERIAL`, such as
`0403:6015:DM00Q0QN` (VID and PID in hexadecimal). Its path does not matter then.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from serial.tools import list_ports

from cpep_bridge.byte_stream import ByteStream
from cpep_bridge.transports import connected_ports, open_stream
from cpep_edge.errors import LinkError

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0

_BY_DEVICE = re.compile(r"([0-9a-f]{4}):([0-9a-f]{4})(?::(.+))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class UsbIdentity:
    """The numbers that identify a USB device, wherever it is plugged in."""

    vendor_id: int
    product_id: int
    serial_number: str | None  # None matches any

    def __str__(self) -> str:
        serial_number = "" if self.serial_number is None else f":{self.serial_number}"
        return f"{self.vendor_id:04x}:{self.product_id:04x}{serial_number}"


class ConnectedPort(Protocol):
    """A serial port as pyserial lists it."""

    device: str
    vid: int | None
    pid: int | None
    serial_number: str | None


PortLister = Callable[[], Iterable[ConnectedPort]]


class Reopener:
    """Opens a port; later calls open the same device, even when its path has changed.

    port: path, socket://host:port, file:///path, or VID:PID[:SERIAL]
    ports: lists the connected serial ports
    """

    def __init__(self, port: str, baud: int, ports: PortLister = list_ports.comports) -> None:
        self._port = port
        self._baud = baud
        self._ports = ports
        self._identity = named_identity(port)

    def __call__(self) -> ByteStream:
        """Raises LinkError when the device is not connected or its port cannot be opened."""
        path = self._path()
        line = open_stream(path, self._baud)
        self._identity = self._identity or identity_of(path, self._ports())
        return line

    def _path(self) -> str:
        if self._identity is None:
            return self._port
        ports = list(self._ports())
        found = find_device(self._identity, ports)
        if found is not None:
            return found
        other = None if named_identity(self._port) else identity_of(self._port, ports)
        if other is not None:  # another device has taken its path
            raise LinkError(
                f"{self._port} is another device now, {other} instead of {self._identity}: plug in the first one"
            )
        if named_identity(self._port) is None:
            return self._port
        raise LinkError(f"no device {self._identity} is connected; {connected_ports()}")


def named_identity(port: str) -> UsbIdentity | None:
    """The device that a port's name stands for; None for a path or an address."""
    match = _BY_DEVICE.fullmatch(port)
    if match is None:
        return None
    return UsbIdentity(int(match[1], 16), int(match[2], 16), match[3])


def identity_of(path: str, ports: Iterable[ConnectedPort]) -> UsbIdentity | None:
    """The USB device on a path; None when it is not a USB device or has no serial number to identify it."""
    for port in ports:
        if port.device == path and port.vid is not None and port.pid is not None and port.serial_number:
            return UsbIdentity(port.vid, port.pid, port.serial_number)
    return None


def find_device(identity: UsbIdentity, ports: Iterable[ConnectedPort]) -> str | None:
    """The current path of a device; None when it is not connected."""
    for port in sorted(ports, key=lambda port: port.device):
        same = (port.vid, port.pid) == (identity.vendor_id, identity.product_id)
        if same and identity.serial_number in (None, port.serial_number):
            return port.device
    return None


def waits_s() -> Iterator[float]:
    """The waits before the attempts: a tenth of a second, doubled up to two seconds."""
    wait_s = FIRST_WAIT_S
    while True:
        yield wait_s
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
