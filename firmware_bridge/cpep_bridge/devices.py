"""Drivers by the name that `--device` takes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cpep_bridge import chords, cyton, transports
from cpep_bridge.band import Band
from cpep_bridge.boards import Board
from cpep_bridge.byte_stream import ByteStream
from cpep_bridge.capture import Capture
from cpep_bridge.device_config import FittedSource, load_device_config
from cpep_bridge.profile import ProfiledBoard, find_profile, shipped_profiles
from cpep_bridge.reopening import Reopener
from cpep_edge.blocks import BlockSource
from cpep_edge.errors import ConfigError

OpenPort = Callable[[], ByteStream]


@dataclass(frozen=True, slots=True)
class Driver:
    """How to reach one kind of device."""

    title: str
    baud: int
    open_source: Callable[[OpenPort, float, float], BlockSource]  # the line's opener, timeout_s, reconnect_s


def _band(open_port: OpenPort, timeout_s: float, reconnect_s: float) -> BlockSource:
    return Band(open_port, timeout_s=timeout_s, reconnect_s=reconnect_s)


def _cyton(open_port: OpenPort, timeout_s: float, reconnect_s: float) -> BlockSource:
    return Board(open_port, cyton.Cyton(), timeout_s=timeout_s, reconnect_s=reconnect_s)


def _cyton_daisy(open_port: OpenPort, timeout_s: float, reconnect_s: float) -> BlockSource:
    return Board(open_port, cyton.Cyton(daisy=True), timeout_s=timeout_s, reconnect_s=reconnect_s)


def _chords(open_port: OpenPort, timeout_s: float, reconnect_s: float) -> BlockSource:
    return Board(open_port, chords.Chords(), timeout_s=timeout_s, reconnect_s=reconnect_s)


DRIVERS = {
    "cpep": Driver("cpep wristband", transports.BAUD, _band),
    "cyton": Driver("OpenBCI Cyton", cyton.BAUD, _cyton),
    "cyton-daisy": Driver("OpenBCI Cyton with Daisy", cyton.BAUD, _cyton_daisy),
    "chords": Driver("Upside Down Labs Chords, NPG-Lite", chords.BAUD, _chords),
}


def find_driver(device: str) -> Driver:
    """The driver that `--device` names: one from here, a shipped profile, or the path of a profile.

    Raises ConfigError, listing what there is, when it names none of them.
    """
    if device in DRIVERS:
        return DRIVERS[device]
    profile = find_profile(device)
    if profile is None:
        known = ", ".join([*sorted(DRIVERS), *shipped_profiles()])
        raise ConfigError(
            f"there is no driver for device {device!r}: choose one of {known}, or the path of a profile (.toml)"
        )

    def open_board(open_port: OpenPort, timeout_s: float, reconnect_s: float) -> BlockSource:
        return Board(open_port, ProfiledBoard(profile), timeout_s=timeout_s, reconnect_s=reconnect_s)

    return Driver(profile.name, profile.baud, open_board)


def open_source(
    port: str,
    *,
    device: str = "cpep",
    timeout_s: float = 2.0,
    baud: int | None = None,
    reconnect_s: float = 0.0,
    config: Path | None = None,
    capture: Path | None = None,
) -> BlockSource:
    """The source of blocks on a port; `with` opens it and iterating streams.

    port: path of a serial port or pty, VID:PID[:SERIAL] of a USB device, socket://host:port, or file:///recording
    device: name of a driver or profile, or path of a profile
    baud: where it differs from the device's usual one
    reconnect_s: how long to look for a device that was unplugged in mid-stream, 0 gives up at once
    config: a device config, which says how the device's channels and rate are made to fit
    capture: a file to keep every byte of the line in, for `file:///recording` and Wireshark
    Raises ConfigError for an unknown device or a faulty config, CpepError for a capture that cannot be written;
    entering raises LinkError when the port or the device does not answer.
    """
    driver = find_driver(device)
    reopener = Reopener(port, baud or driver.baud)
    open_port = reopener if capture is None else Capture(reopener, capture)
    source = driver.open_source(open_port, timeout_s, reconnect_s)
    return source if config is None else FittedSource(source, load_device_config(config))
