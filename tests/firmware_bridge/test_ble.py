"""Bluetooth Low Energy through a fake adapter that behaves like `bleak`: a Myo, an NPG-Lite, and failures."""

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cpep_bridge import chords, myo
from cpep_bridge.ble import BleStream, GattDevice
from cpep_bridge.boards import Board, Dialect
from cpep_bridge.devices import open_source
from cpep_edge.blocks import Block
from cpep_edge.errors import ConfigError, LinkError
from tests.firmware_bridge.blocks_in_memory import take

SERIAL = bytes.fromhex("a1b2c3d4e5f6") + bytes(14)
FIRMWARE = bytes((1, 0, 5, 0, 0xB2, 0x07, 2, 0))  # 1.5.1970


class FakeClient:
    """A device in range: it keeps what is written to it, and sends notifications once it was told to stream."""

    def __init__(self, left: Callable[[], None], notify: Callable[["FakeClient"], None]) -> None:
        self.left, self._notify = left, notify
        self.written: list[bytes] = []
        self.callbacks: dict[str, Callable[[Any, bytearray], None]] = {}
        self.connected = False

    async def connect(self) -> None:
        self.connected = True

    async def disconnect(self) -> None:
        self.connected = False

    async def read_gatt_char(self, char_specifier: str) -> bytearray:
        return bytearray({myo.INFO: SERIAL, myo.FIRMWARE: FIRMWARE}[char_specifier])

    async def write_gatt_char(self, char_specifier: str, data: bytes, response: bool) -> None:
        assert char_specifier in (myo.COMMAND, chords.NPG_GATT.command)
        self.written.append(data)
        if data in (myo.SEND_EMG, b"START"):
            threading.Thread(target=self._notify, args=(self,)).start()

    async def start_notify(self, char_specifier: str, callback: Callable[[Any, bytearray], None]) -> None:
        self.callbacks[char_specifier] = callback


def played(
    dialect: Dialect, gatt: GattDevice, notify: Callable[[FakeClient], None], n_samples: int
) -> tuple[list[Block], Board, FakeClient]:
    """Read `n_samples` samples of a device, including lost ones, and stop it."""
    clients: list[FakeClient] = []

    async def find(name: str, device: GattDevice, timeout_s: float, left: Callable[[], None]) -> FakeClient:
        assert (name, device) == ("mine", gatt)
        clients.append(FakeClient(left, notify))
        return clients[-1]

    with Board(lambda: BleStream("ble:mine", gatt, find), dialect, timeout_s=2.0) as source:
        blocks = take(source, n_samples)
    return blocks, source, clients[0]


def test_a_device_that_leaves_is_one_sentence():
    async def find(name: str, device: GattDevice, timeout_s: float, left: Callable[[], None]) -> FakeClient:
        return FakeClient(left, lambda client: client.left())

    with Board(lambda: BleStream("ble:mine", myo.GATT, find), myo.Myo(), timeout_s=2.0) as source:
        with pytest.raises(LinkError, match="out of reach, or switched off"):
            list(source)


def test_a_myo_is_woken_read_and_let_sleep_again():
    samples = np.random.default_rng(1).integers(-128, 128, (400, 8)).astype(np.int8)

    def notify(client: FakeClient) -> None:
        for number in range(200):
            pair = samples[2 * number : 2 * number + 2]
            client.callbacks[myo.EMG[number % 4]](None, bytearray(pair.tobytes()))

    blocks, source, client = played(myo.Myo(), myo.GATT, notify, 400)

    np.testing.assert_array_equal(np.concatenate([block.samples_uv for block in blocks]), samples)
    assert (source.info.serial_number, source.info.firmware, source.info.unit) == ("a1b2c3d4e5f6", "1.5.1970", "count")
    assert client.written == [myo.NEVER_SLEEP, myo.SEND_EMG, myo.SEND_NOTHING, myo.SLEEP_AS_USUAL]
    assert source.counts.lost_samples == 0
    assert not client.connected


def test_notifications_of_a_myo_that_are_missing_show_by_whose_turn_it_is():
    def notify(client: FakeClient) -> None:
        for number in range(100):
            if number not in (10, 30, 31):
                client.callbacks[myo.EMG[number % 4]](None, bytearray([number]) * 16)

    blocks, source, _ = played(myo.Myo(), myo.GATT, notify, 200)
    numbers = [int(value) for block in blocks for value in block.samples_uv[::2, 0]]

    assert numbers == [number for number in range(100) if number not in (10, 30, 31)]
    assert source.counts.lost_samples == 6
    assert blocks[-1].sample_index + len(blocks[-1].samples_uv) == 200


@pytest.mark.parametrize("samples_each", [1, 10])
def test_an_npg_lite_sends_several_numbered_samples_a_notification(samples_each):
    values = np.random.default_rng(2).integers(-4_000, 4_000, (300, 3)).astype(">i2")

    def notify(client: FakeClient) -> None:
        records = [bytes((n % 256,)) + values[n].tobytes() for n in range(300)]
        for start in range(0, 300, samples_each):
            if start != 100:
                client.callbacks[chords.NPG_GATT.data[0]](
                    None, bytearray(b"".join(records[start : start + samples_each]))
                )

    blocks, source, client = played(chords.NpgLite(), chords.NPG_GATT, notify, 300)
    received = np.concatenate([block.samples_uv for block in blocks])

    np.testing.assert_array_equal(received, np.delete(values, slice(100, 100 + samples_each), axis=0))
    assert source.counts.lost_samples == samples_each
    assert client.written == [b"START", b"STOP"]


def test_a_device_that_is_not_there_or_refuses_is_one_sentence():
    async def nobody(name: str, device: GattDevice, timeout_s: float, left: Callable[[], None]) -> FakeClient:
        raise LinkError("there is no Bluetooth device 'mine' in reach")

    async def broken(name: str, device: GattDevice, timeout_s: float, left: Callable[[], None]) -> FakeClient:
        raise OSError("org.bluez.Error.NotReady\n\x1b[31m")

    with pytest.raises(LinkError, match="there is no Bluetooth device"):
        BleStream("ble:mine", myo.GATT, nobody)
    with pytest.raises(LinkError, match="cannot be reached: org.bluez.Error.NotReady[^\n\x1b]*$"):
        BleStream("ble:mine", myo.GATT, broken)
    with pytest.raises(ConfigError, match="needs --device myo or npg-lite"):
        open_source("ble:mine")
    with pytest.raises(ConfigError, match="needs --device myo or npg-lite"):
        open_source("/dev/ttyUSB0", device="myo")


def test_the_fake_adapter_has_the_methods_of_bleak():
    bleak = pytest.importorskip("bleak")
    for name in ("connect", "disconnect", "read_gatt_char", "write_gatt_char", "start_notify"):
        real, fake = inspect.signature(getattr(bleak.BleakClient, name)), inspect.signature(getattr(FakeClient, name))
        assert set(fake.parameters) <= set(real.parameters)
        assert asyncio.iscoroutinefunction(getattr(bleak.BleakClient, name))
    assert "disconnected_callback" in inspect.signature(bleak.BleakClient.__init__).parameters
    assert {"filterfunc", "timeout"} <= set(inspect.signature(bleak.BleakScanner.find_device_by_filter).parameters)
