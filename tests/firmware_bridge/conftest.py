"""Signals to stream, and the parts of a link that tests need at either end."""

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import numpy as np
import pytest
import serial
from numpy.typing import NDArray

from cpep_bridge.pty_port import PtyPort
from tests.firmware_bridge.virtual_time import play, virtual_time

__all__ = ["play", "virtual_time"]


@pytest.fixture
def emg_uv() -> NDArray[np.float32]:
    """Slightly more than half a second of 16 channels at 2 kHz, so the last frame is a short one."""
    rng = np.random.default_rng(20)
    return rng.normal(0, 100, (1_003, 16)).astype(np.float32)


@pytest.fixture
def pty_port() -> Iterator[PtyPort]:
    """The device's end of a pty with no device behind it."""
    with closing(PtyPort()) as port:
        yield port


@pytest.fixture
def relay() -> Iterator[Callable[[str], str]]:
    """A function that serves a serial port over TCP on the loopback, like a serial server; returns a socket:// URL."""
    stopping, threads = threading.Event(), []

    def serve(port: str) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        threads.append(threading.Thread(target=_pump, args=(server, port, stopping)))
        threads[-1].start()
        return f"socket://127.0.0.1:{server.getsockname()[1]}"

    yield serve
    stopping.set()
    for thread in threads:
        thread.join()


def _pump(server: socket.socket, port: str, stopping: threading.Event) -> None:
    with server, serial.Serial(port, timeout=0) as line, server.accept()[0] as client:
        while not stopping.is_set():
            readable, _, _ = select.select([client, line], [], [], 0.05)
            with suppress(OSError):  # either end may close first
                if client in readable:
                    line.write(client.recv(4096))
                if line in readable:
                    client.sendall(line.read(4096))
