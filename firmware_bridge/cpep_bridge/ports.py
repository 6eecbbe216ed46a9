"""Which serial ports there are, and what answers on them."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from serial.tools import list_ports

from cpep_bridge.band import Band
from cpep_bridge.reopening import Reopener, identity_of
from cpep_bridge.transports import BAUD
from cpep_edge.errors import LinkError

PROBE_TIMEOUT_S = 0.6


@dataclass(frozen=True, slots=True)
class FoundPort:
    """A port, and the band on it if there is one."""

    port: str
    description: str  # of the USB device, as the system knows it
    usb: str  # VID:PID:SERIAL, which --port takes too; empty for anything else
    band: str  # what answered IDENTIFY; empty when nothing did
    serial_number: str
    firmware: str
    n_channels: int
    sample_rate_hz: float
    problem: str  # why no band answered, in one sentence


def find_ports(further: Sequence[str] = (), timeout_s: float = PROBE_TIMEOUT_S) -> list[FoundPort]:
    """Every serial port of this machine, and `further` ones (a pty, an address), each asked who is there."""
    listed = {port.device: port.description or "" for port in list_ports.comports()}
    descriptions = {**dict.fromkeys(further, ""), **listed}
    return [_probe(port, "" if text == "n/a" else text, timeout_s) for port, text in sorted(descriptions.items())]


def _probe(port: str, description: str, timeout_s: float) -> FoundPort:
    identity = identity_of(port, list_ports.comports())
    usb = "" if identity is None else str(identity)
    band = Band(Reopener(port, BAUD), timeout_s=timeout_s)
    try:
        with contextlib.ExitStack() as stack:
            info = stack.enter_context(band).info
    except LinkError as error:
        return FoundPort(port, description, usb, "", "", "", 0, 0.0, str(error))
    return FoundPort(
        port, description, usb, info.name, info.serial_number, info.firmware, info.n_channels, info.sample_rate_hz, ""
    )
