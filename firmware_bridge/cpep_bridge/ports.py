"""List the serial ports and the device on each: a cpep band, or any board with a driver or a profile.

A port is opened only once and each driver is tried on the open line, because opening a port restarts many boards. All
ports are probed at the same time.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from serial.tools import list_ports

from cpep_bridge.board_profile import ProfiledBoard, find_profile, shipped_profiles
from cpep_bridge.byte_stream import ByteStream
from cpep_bridge.chords import BOOT_S
from cpep_bridge.conversation import is_text, quoted
from cpep_bridge.devices import DRIVERS, Driver, LinkOptions, find_driver
from cpep_bridge.reopening import find_device, identity_of, named_identity
from cpep_bridge.transports import open_stream
from cpep_edge.blocks import StreamInfo
from cpep_edge.errors import LinkError
from cpep_edge.outside import printable

PROBE_TIMEOUT_S = 0.6

_LISTEN_S = 0.3  # how long to listen to a board that streams by itself
_LEAST_FRAMES = 8  # successive frames that must fit a profile to recognise its board
_KEPT_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class FoundPort:
    """A port, and the device on it if there is one."""

    port: str
    description: str  # the system's description of the USB device
    usb: str  # VID:PID:SERIAL, which --port accepts too; empty when it is not a USB device
    band: str  # name of the device that answers or streams; empty without one
    device: str  # its name for --device
    serial_number: str
    firmware: str
    n_channels: int
    sample_rate_hz: float
    problem: str  # why no device was found, in one sentence


def find_ports(
    further: Sequence[str] = (),
    *,
    timeout_s: float | None = None,
    baud: int | None = None,
    boot_s: float | None = None,
) -> list[FoundPort]:
    """Probe every serial port of this machine, and `further` ones (a pty, an address).

    timeout_s: for each driver
    baud: the only speed to try
    boot_s: time from opening a port until its board listens
    """
    listed = {port.device: port.description or "" for port in list_ports.comports()}
    descriptions = {**dict.fromkeys(further, ""), **listed}
    found: dict[str, FoundPort] = {}
    options = LinkOptions(timeout_s or PROBE_TIMEOUT_S, baud, boot_s)

    def probe(port: str, text: str) -> None:
        found[port] = _probe(port, "" if text == "n/a" else printable(text), options)

    threads = [threading.Thread(target=probe, args=pair, daemon=True) for pair in descriptions.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[port] for port in sorted(found)]


class _SharedLine:
    """An open line that several drivers use in turn, with the bytes received on it."""

    def __init__(self, line: ByteStream) -> None:
        self.name, self.heard = line.name, b""
        self._line = line

    def read(self, timeout_s: float) -> bytes:
        data = self._line.read(timeout_s)
        self.heard = (self.heard + data)[-_KEPT_BYTES:]
        return data

    def write(self, data: bytes) -> None:
        self._line.write(data)

    def set_baud(self, baud: int) -> None:
        self._line.set_baud(baud)

    def close(self) -> None:
        """Does nothing, because the next driver uses the line."""


def _probe(port: str, description: str, options: LinkOptions) -> FoundPort:
    ports = list(list_ports.comports())
    identity = named_identity(port) or identity_of(port, ports)
    usb = "" if identity is None else printable(str(identity))
    path = (find_device(identity, ports) if named_identity(port) and identity else None) or port
    try:
        with closing(open_stream(path, options.baud or DRIVERS["cpep"].bauds[0])) as line:
            device, info = _ask_everyone(_SharedLine(line), options)
    except LinkError as error:
        return FoundPort(port, description, usb, "", "", "", "", 0, 0.0, str(error))
    return FoundPort(
        port,
        description,
        usb,
        info.name,
        device,
        info.serial_number,
        info.firmware,
        info.n_channels,
        info.sample_rate_hz,
        "",
    )


def _ask_everyone(line: _SharedLine, options: LinkOptions) -> tuple[str, StreamInfo]:
    """The device on a line, by its name for `--device`. Raises LinkError, quoting what was received, without one."""
    greeted = [name for name in shipped_profiles() if (profile := find_profile(name)) and profile.commands.greeting]
    began_s, first_error = time.monotonic(), LinkError("")
    for name in ("cpep", "cyton", *greeted, "chords"):
        patience_s = options.timeout_s or PROBE_TIMEOUT_S
        if name == "chords":  # tried last, so that its bootloader can finish while the others are tried
            boot_s = BOOT_S if options.boot_s is None else options.boot_s
            patience_s = (
                max(2 * patience_s, boot_s - (time.monotonic() - began_s)) if not line.heard else 2 * patience_s
            )
        try:
            return name, _ask(line, find_driver(name), LinkOptions(patience_s, options.baud))
        except LinkError as error:
            first_error = first_error if str(first_error) else error
    for name in shipped_profiles() if line.heard else ():
        info = _recognised(line, name, options)
        if info is not None:
            return name, info
    if is_text(line.heard):
        raise LinkError(f"the device on {line.name} is not a known device; it sent {quoted(line.heard)}")
    raise first_error


def _ask(line: _SharedLine, driver: Driver, options: LinkOptions) -> StreamInfo:
    line.set_baud(options.baud or driver.bauds[0])
    with driver.open_source(lambda: line, options) as source:
        return source.info


def _recognised(line: _SharedLine, name: str, options: LinkOptions) -> StreamInfo | None:
    """The stream of a profile, if the board sends its frames unasked, numbered in sequence; else None."""
    profile = find_profile(name)
    if profile is None or profile.commands.greeting or profile.commands.start or profile.layout.counter_modulus is None:
        return None
    line.set_baud(options.baud or profile.bauds[0])
    decoder = ProfiledBoard(profile).decoder()
    n_in_step, last, end_s = 0, None, time.monotonic() + _LISTEN_S
    while (left_s := end_s - time.monotonic()) > 0:
        counters = decoder.feed(line.read(left_s)).counters
        for counter in () if counters is None else counters.tolist():
            in_step = last is not None and counter == (last + 1) % profile.layout.counter_modulus
            n_in_step, last = n_in_step + 1 if in_step else 0, counter
            if n_in_step >= _LEAST_FRAMES:
                return StreamInfo(f"{profile.name}, by its frames", profile.n_channels, profile.sample_rate_hz)
    return None
