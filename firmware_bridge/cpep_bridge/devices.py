"""The drivers, by their name in `--device`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cpep_bridge import chords, cyton, myo, transports
from cpep_bridge.band import Band
from cpep_bridge.ble import BLE_PREFIX, BleStream, GattDevice
from cpep_bridge.board_profile import ProfiledBoard, find_profile, shipped_profiles
from cpep_bridge.boards import Board, Dialect
from cpep_bridge.brainflow_feed import BRAINFLOW_PREFIX, BrainFlowFeed
from cpep_bridge.byte_stream import ByteStream
from cpep_bridge.capture import Capture
from cpep_bridge.device_config import FittedSource, load_device_config
from cpep_bridge.fed import FedSource, Feed
from cpep_bridge.lsl_feed import LSL_PREFIX, LslFeed
from cpep_bridge.patience import Patience
from cpep_bridge.reopening import Reopener
from cpep_bridge.web_socket import WEB_SOCKET_PREFIX, WebRecords, WebSocketStream
from cpep_edge.blocks import BlockSource
from cpep_edge.errors import ConfigError

TIMEOUT_S = 2.0

OpenPort = Callable[[], ByteStream]


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """Options of any port; None: the device's default."""

    timeout_s: float | None = None  # longest wait for an answer or a sample; None: 2 s, and the device's time to start
    baud: int | None = None
    boot_s: float | None = None  # time from opening the port until the device listens
    reconnect_s: float = 0.0  # how long to try to resume a broken stream; 0 gives up at once


@dataclass(frozen=True, slots=True)
class Driver:
    """How to reach one kind of device."""

    title: str
    bauds: tuple[int, ...]  # the usual one first
    dialect: Callable[[], Dialect] | None  # None: the protocol of the cpep band
    gatt: GattDevice | None = None  # for a device on Bluetooth
    web: WebRecords | None = None  # for a Bluetooth device that can also be a WebSocket server

    def open_source(self, open_port: OpenPort, options: LinkOptions) -> BlockSource:
        """The source on a line; `with` opens it."""
        timeout_s = TIMEOUT_S if options.timeout_s is None else options.timeout_s
        if self.dialect is None:
            return Band(open_port, timeout_s=timeout_s, reconnect_s=options.reconnect_s, boot_s=options.boot_s or 0.0)
        dialect = self.dialect()
        boot_s = dialect.boot_s if options.timeout_s is None else 0.0
        return Board(
            open_port,
            dialect,
            timeout_s=timeout_s,
            reconnect_s=options.reconnect_s,
            boot_s=boot_s if options.boot_s is None else options.boot_s,
            bauds=self.bauds if options.baud is None else (options.baud,),
        )


DRIVERS = {
    "cpep": Driver("cpep wristband", (transports.BAUD,), None),
    "cyton": Driver("OpenBCI Cyton", (cyton.BAUD,), cyton.Cyton),
    "cyton-daisy": Driver("OpenBCI Cyton with Daisy", (cyton.BAUD,), lambda: cyton.Cyton(daisy=True)),
    "myo": Driver("Thalmic Labs Myo", (), myo.Myo, myo.GATT),
    "npg-lite": Driver("Upside Down Labs NPG-Lite by radio", (), chords.NpgLite, chords.NPG_GATT, chords.NPG_WEB),
    "chords": Driver("Upside Down Labs Chords, NPG-Lite", chords.BAUDS, chords.Chords),
}


def find_driver(device: str) -> Driver:
    """The driver for the value of `--device`: a name in `DRIVERS`, a shipped profile, or the path of a profile.

    Raises ConfigError, listing the choices, when it is none of them.
    """
    if device in DRIVERS:
        return DRIVERS[device]
    profile = find_profile(device)
    if profile is None:
        known = ", ".join([*sorted(DRIVERS), *shipped_profiles()])
        raise ConfigError(
            f"there is no driver for device {device!r}: choose one of {known}, or the path of a board profile (.toml)"
        )
    return Driver(profile.name, profile.bauds, lambda: ProfiledBoard(profile))


def open_source(
    port: str,
    *,
    device: str = "cpep",
    link: LinkOptions = LinkOptions(),
    config: Path | None = None,
    capture: Path | None = None,
) -> BlockSource:
    """The source of blocks on a port; `with` opens it and iterating streams.

    port: path of a serial port or pty, VID:PID[:SERIAL] of a USB device, or an address as README.md lists them
    device: name of a driver or profile, or path of a profile
    config: a device config, which maps the device's channels, rate and unit to those of a model
    capture: a file to write every byte of the line to, for `file:///recording` and Wireshark
    Raises ConfigError for an unknown device or a faulty config, CpepError for a capture that cannot be written;
    entering raises LinkError when the port or the device does not answer.
    """
    source = _fed_source(port, link, device, capture)
    if source is None:
        driver = find_driver(device)
        open_port = _opener(port, device, driver, link.baud)
        source = driver.open_source(open_port if capture is None else Capture(open_port, capture), link)
    return source if config is None else FittedSource(source, load_device_config(config))


def _opener(port: str, device: str, driver: Driver, baud: int | None) -> OpenPort:
    """A function that opens the line to a device. Raises ConfigError when the device cannot be on such a port."""
    gatt = driver.gatt
    if port.startswith(WEB_SOCKET_PREFIX) and (driver.web is not None or gatt is None):
        return lambda: WebSocketStream(port, driver.web)
    if port.startswith(BLE_PREFIX) and gatt is not None:
        return lambda: BleStream(port, gatt)
    if port.startswith(BLE_PREFIX) or gatt is not None:
        on_bluetooth = " or ".join(sorted(name for name, one in DRIVERS.items() if one.gatt is not None))
        raise ConfigError(f"--port ble:NAME needs --device {on_bluetooth}, which need it too: not {port} with {device}")
    return Reopener(port, baud or driver.bauds[0])


def _fed_source(port: str, options: LinkOptions, device: str, capture: Path | None) -> BlockSource | None:
    """The source on a port of other software, LSL or BrainFlow; None for any other port."""
    if not port.startswith((LSL_PREFIX, BRAINFLOW_PREFIX)):
        return None
    if device != "cpep" or capture is not None:
        raise ConfigError(
            f"--port {port} already names the device, and has no bytes to keep: leave out --device and --raw"
        )
    kind, _, rest = port.partition(":")

    def open_feed(patience: Patience, timeout_s: float) -> Feed:
        opens = LslFeed if kind == "lsl" else BrainFlowFeed
        return opens(rest, patience, timeout_s)

    timeout_s = TIMEOUT_S if options.timeout_s is None else options.timeout_s
    return FedSource(port, open_feed, timeout_s=timeout_s, reconnect_s=options.reconnect_s)
