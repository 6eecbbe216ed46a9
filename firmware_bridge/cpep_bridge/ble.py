"""Bluetooth Low Energy: `--port ble:NAME` or `ble:ADDRESS`, read as a stream of bytes.

GATT delivers packets, but the decoders expect a stream of bytes. So each record of a notification is passed on behind a
sync byte and the number of its characteristic. Writes go to the characteristic for commands. The characteristics that
describe the device are read once and passed on as the first line: `facts`, then each value in hexadecimal. Needs the
extra `[ble]`.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from cpep_bridge.byte_stream import LineLost
from cpep_edge.errors import ConfigError, LinkError, LinkTimeout
from cpep_edge.outside import printable

BLE_PREFIX = "ble:"
SYNC = 0xA5
HEADER_BYTES = 2  # the sync byte and the characteristic's number

_FIND_S = 10.0
_WRITE_S = 2.0
_CLOSE_S = 0.5
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GattDevice:
    """The characteristics of one kind of device."""

    name: str  # prefix of such devices' names, to find one when the port is just `ble:`
    data: tuple[str, ...]  # characteristics that notify, in the order of their numbers
    command: str
    record_bytes: int  # size of a record; a notification holds one or several
    facts: tuple[str, ...] = ()  # characteristics that describe the device; read once


class Client(Protocol):
    """The methods of `bleak.BleakClient` that are used here."""

    async def connect(self) -> object: ...
    async def disconnect(self) -> object: ...
    async def read_gatt_char(self, char_specifier: str) -> bytearray: ...
    async def write_gatt_char(self, char_specifier: str, data: bytes, response: bool) -> None: ...
    async def start_notify(self, char_specifier: str, callback: Callable[[Any, bytearray], None]) -> None: ...


# Finds the device with a name or address and returns its client. Arguments: the name or address, the kind of device,
# the timeout in seconds, and a function to call when the device disconnects.
FindClient = Callable[[str, GattDevice, float, Callable[[], None]], Awaitable[Client]]


class BleStream:
    """A connection to a device, as a ByteStream."""

    def __init__(self, port: str, device: GattDevice, find: FindClient | None = None) -> None:
        """port: `ble:NAME` or `ble:ADDRESS`; find: replaces the search with bleak

        Raises ConfigError without bleak, LinkError when the device is not found or refuses.
        """
        self.name = port
        self._device = device
        self._waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._gone = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=port, daemon=True)
        self._thread.start()
        self._client: Client | None = None
        try:
            self._do(self._open(find or _find_by_bleak), 2 * _FIND_S)
        except BaseException:
            self.close()
            raise

    def read(self, timeout_s: float) -> bytes:
        """See ByteStream."""
        try:
            data = self._waiting.get(timeout=timeout_s) if timeout_s > 0 else self._waiting.get_nowait()
        except queue.Empty:
            if self._gone.is_set():
                raise LineLost(f"the device on {self.name} is gone: out of reach, or switched off") from None
            return b""
        with suppress(queue.Empty):
            while True:
                data += self._waiting.get_nowait()
        return data

    def write(self, data: bytes) -> None:
        """See ByteStream."""
        if data and self._client is not None:
            self._do(self._client.write_gatt_char(self._device.command, data, response=True), _WRITE_S)

    def set_baud(self, baud: int) -> None:
        """See ByteStream. Bluetooth has no baud rate, so this does nothing."""

    def close(self) -> None:
        """See ByteStream."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(LinkError):
                self._do(client.disconnect(), _CLOSE_S)
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CLOSE_S)
        if not self._thread.is_alive() and not self._loop.is_closed():
            self._loop.close()

    async def _open(self, find: FindClient) -> None:
        client = await find(self.name.removeprefix(BLE_PREFIX), self._device, _FIND_S, self._gone.set)
        await client.connect()
        self._client = client
        facts = [bytes(await client.read_gatt_char(fact)) for fact in self._device.facts]
        self._waiting.put(b"facts" + b"".join(b" " + fact.hex().encode() for fact in facts) + b"\n")
        for number, characteristic in enumerate(self._device.data):
            await client.start_notify(characteristic, partial(self._pass_on, number))

    def _pass_on(self, number: int, characteristic: object, notified: bytearray) -> None:
        """Pass on the records of a notification; the decoder counts an incomplete last one as corrupt."""
        data, size = bytes(notified), self._device.record_bytes
        starts = range(0, len(data), size)
        self._waiting.put(b"".join(bytes((SYNC, number)) + data[start : start + size] for start in starts))

    def _do(self, what: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run a coroutine in the loop's thread. Raises LinkError for any error of the radio."""
        future = asyncio.run_coroutine_threadsafe(what, self._loop)
        deadline_s = time.monotonic() + timeout_s
        try:
            return future.result(max(0.0, deadline_s - time.monotonic()))
        except (LinkError, ConfigError):
            raise
        except TimeoutError as error:
            future.cancel()
            raise LinkTimeout(f"the device on {self.name} did not answer within {timeout_s:g} s") from error
        except Exception as error:  # from bleak, the operating system or D-Bus
            raise LinkError(f"the device on {self.name} cannot be reached: {printable(str(error))}") from error
        except BaseException:
            future.cancel()
            raise


async def _find_by_bleak(name: str, device: GattDevice, timeout_s: float, left: Callable[[], None]) -> Client:
    try:
        import bleak
    except ImportError as error:
        raise ConfigError(f"Bluetooth needs another package: run pip install 'cpep-edge[ble]' ({error})") from error

    def is_it(found: Any, advertised: Any) -> bool:
        said = advertised.local_name or found.name or ""
        return found.address.lower() == name.lower() or (said == name if name else said.startswith(device.name))

    found = await bleak.BleakScanner.find_device_by_filter(is_it, timeout=timeout_s)
    if found is None:
        wanted = repr(printable(name)) if name else f"whose name begins with {device.name}"
        raise LinkError(
            f"there is no Bluetooth device {wanted} in reach within {timeout_s:g} s: is it on, and unpaired?"
        )
    client: Client = bleak.BleakClient(found, disconnected_callback=lambda _: left())
    return client
