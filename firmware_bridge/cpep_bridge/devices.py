"""Drivers by the name that `--device` takes."""

from collections.abc import Callable
from dataclasses import dataclass

from cpep_bridge import transports
from cpep_bridge.band import Band
from cpep_edge.blocks import BlockSource
from cpep_edge.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Driver:
    """How to reach one kind of device."""

    title: str
    baud: int
    open_source: Callable[[Callable[[], transports.ByteStream], float], BlockSource]  # the line's opener, timeout_s


def _band(open_port: Callable[[], transports.ByteStream], timeout_s: float) -> BlockSource:
    return Band(open_port, timeout_s=timeout_s)


DRIVERS = {
    "cpep": Driver("cpep wristband", transports.BAUD, _band),
}


def open_source(port: str, *, device: str = "cpep", timeout_s: float = 2.0, baud: int | None = None) -> BlockSource:
    """The source of blocks on a port; `with` opens it and iterating streams.

    port: path of a serial port or pty, or socket://host:port
    baud: where it differs from the device's usual one
    Raises ConfigError for an unknown device; entering raises LinkError when the port or the device does not answer.
    """
    driver = DRIVERS.get(device)
    if driver is None:
        raise ConfigError(f"there is no driver for device {device!r}: choose one of {', '.join(sorted(DRIVERS))}")
    rate = baud or driver.baud
    return driver.open_source(lambda: transports.open_stream(port, rate), timeout_s)
