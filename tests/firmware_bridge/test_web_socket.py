"""Boards that are WebSocket servers, tested with a server of the library that such boards' own software uses."""

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

from cpep_bridge.devices import LinkOptions, open_source
from cpep_bridge.web_socket import WebSocketStream
from cpep_edge.blocks import Block
from cpep_edge.errors import ConfigError, LinkError
from tests.firmware_bridge.blocks_in_memory import take
from tests.websocket_server import websocket_server


def until(source_of: str, device: str, n_samples: int) -> tuple[list[Block], int]:
    """Read `n_samples` samples of a device; returns the blocks and the number of lost samples."""
    with open_source(source_of, device=device) as source:
        return take(source, n_samples), source.counts.lost_samples


@pytest.mark.parametrize("samples_each", [1, 10])
def test_an_npg_lite_over_wifi_sends_its_three_channels_in_records_of_six(samples_each):
    values = np.random.default_rng(3).integers(-4_000, 4_000, (300, 6)).astype(">i2")
    heard: list[str | bytes] = []

    def board(connection: ServerConnection) -> None:
        records = [bytes((n % 256,)) + values[n].tobytes() for n in range(300)]
        for start in range(0, 300, samples_each):
            if start != 100:
                connection.send(b"".join(records[start : start + samples_each]))
        heard.extend(connection)  # until the other end closes

    with websocket_server(board) as address:
        blocks, n_lost = until(address, "npg-lite", 300)

    received = np.concatenate([block.samples_uv for block in blocks])
    np.testing.assert_array_equal(received, np.delete(values[:, :3], slice(100, 100 + samples_each), axis=0))
    assert n_lost == samples_each
    assert heard == []  # nothing was sent to the board


def test_lines_of_a_profile_come_through_messages_of_text_and_of_bytes():
    def board(connection: ServerConnection) -> None:
        for number in range(200):
            line = f"{number},{number},2,3,4"
            connection.send(line if number % 2 else line.encode() + b"\r\n")
        list(connection)

    with websocket_server(board) as address:
        blocks, n_lost = until(address, "csv-lines", 199)

    assert np.concatenate([block.samples_uv for block in blocks])[:190, 0].tolist() == [*range(1, 191)]
    assert n_lost == 0


def test_a_server_that_leaves_is_one_sentence():
    with websocket_server(lambda connection: connection.close()) as address:
        with open_source(address, device="npg-lite") as source, pytest.raises(LinkError, match="or is out of reach"):
            list(source)


def test_a_server_that_sends_nothing_is_given_up():
    def silent(connection: ServerConnection) -> None:
        try:
            list(connection)
        except ConnectionClosed:
            return

    with (
        websocket_server(silent) as address,
        open_source(address, device="npg-lite", link=LinkOptions(timeout_s=0.3)) as source,
    ):
        with pytest.raises(LinkError, match=r"sent nothing in 0\.3 s"):
            list(source)


@pytest.mark.parametrize("address", ["ws://127.0.0.1:1", "ws://127.0.0.1:99999", "ws://"])
def test_nobody_there_is_one_sentence(address):
    with pytest.raises(
        LinkError, match=r"cannot connect to ws://[^\[]*; is a board served there"
    ):  # the message has no error number
        WebSocketStream(address)


def test_a_device_on_bluetooth_alone_is_on_no_web_socket():
    with pytest.raises(ConfigError, match="--port ble:NAME needs --device myo or npg-lite"):
        open_source("ws://127.0.0.1:81", device="myo")
