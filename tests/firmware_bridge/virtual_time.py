"""Virtual time, which passes only while code waits, and devices on it, so that minutes of a link take a moment."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from cpep_bridge.patience import Patience
from tests.firmware_bridge.scripted import Say

Play = Callable[[Say], str]

_STEP_S = 0.004
_MODULES = ("band", "boards", "conversation", "dialogue", "pace", "patience", "ports")  # modules that wait for a device


class VirtualTime:
    """Replaces the module `time`."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class ScriptedLine:
    """A ByteStream to a device like that of `scripted`; its function is called every 4 ms of virtual time."""

    name = "scripted"

    def __init__(self, say: Say, clock: VirtualTime) -> None:
        self._say, self._clock, self._began_s, self._at_s = say, clock, clock.now_s, clock.now_s
        self._written = self._waiting = b""

    def read(self, timeout_s: float) -> bytes:
        end_s = self._clock.now_s + (max(timeout_s, 1e-6) if timeout_s > 0 else 0.0)  # a wait always takes some time
        self._catch_up()
        while not self._waiting and self._clock.now_s < end_s:
            self._clock.now_s = min(self._clock.now_s + _STEP_S, end_s)
            self._catch_up()
        read, self._waiting = self._waiting, b""
        return read

    def write(self, data: bytes) -> None:
        self._written += data

    def set_baud(self, baud: int) -> None: ...

    def close(self) -> None: ...

    def _catch_up(self) -> None:
        """Run the device up to the current virtual time."""
        while self._at_s + _STEP_S <= self._clock.now_s:
            self._at_s += _STEP_S
            heard, self._written = self._written, b""
            self._waiting += self._say(heard, self._at_s - self._began_s)


@pytest.fixture
def virtual_time(monkeypatch) -> VirtualTime:
    """Replace the time of the drivers by virtual time."""
    clock = VirtualTime()
    for module in _MODULES:
        monkeypatch.setattr(f"cpep_bridge.{module}.time", clock)
    monkeypatch.setattr(Patience, "rest", lambda patience, seconds: clock.sleep(seconds))
    return clock


@pytest.fixture
def play(virtual_time, monkeypatch) -> Play:
    """A function that puts a scripted device on a port and returns the port's name."""

    def put(say: Say) -> str:
        line = ScriptedLine(say, virtual_time)
        for module in ("reopening", "ports"):
            monkeypatch.setattr(f"cpep_bridge.{module}.open_stream", lambda port, baud: line)
            monkeypatch.setattr(f"cpep_bridge.{module}.list_ports", SimpleNamespace(comports=lambda: []))
        return line.name

    return put
