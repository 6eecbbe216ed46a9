"""A meter on a serial port: a simulated PPK2 that `ppk2-api` talks to."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from cpep_bench.energy import open_meter
from cpep_bench.power_ports import PPK2_RATE_HZ, Ppk2
from cpep_bridge.pty_port import PtyPort
from cpep_bridge.simulated import SimulatedThread
from cpep_edge.errors import PowerError

pytest.importorskip("ppk2_api", reason="ppk2-api is not installed: pip install 'cpep-edge[power]'")

SUPPLY_MV = 3_700
RANGE, VALUE = 3, 1_000  # of every reading: the range (its shunt), and the converter's value
OHM = 0.94  # of that shunt
CURRENT_A = VALUE * 4 * (1.8 / 163_840) / OHM  # Nordic's formula, without gains and offsets
N_READINGS = 20_000
N_ON_THEIR_WAY = 800  # readings that reach the host after it has told the PPK2 to stop

# The answer of a PPK2 to GET_META_DATA, without gains and offsets.
SHUNTS_OHM = (1031.64, 101.65, 10.15, OHM, 0.043)
METADATA = "".join(f"R{at}: {ohm}\nGS{at}: 0\nGI{at}: 1\nO{at}: 0\n" for at, ohm in enumerate(SHUNTS_OHM))


class SimulatedPpk2(SimulatedThread):
    """Answers like a PPK2. After every AVERAGE_START it sends `n_readings`, the last ones late, and then nothing."""

    def __init__(self, n_readings: int = N_READINGS, metadata: str = METADATA + "END") -> None:
        super().__init__(None)
        self.commands: list[bytes] = []
        self.powered = threading.Event()  # the device under test has its supply
        self.spent = threading.Event()  # the host has read all readings of a window but the late ones
        self._n_readings, self._metadata = n_readings, metadata
        self._rest, self._late, self._measuring = b"", b"", False

    def _run(self, port: PtyPort) -> None:
        lengths = {0x11: 2, 0x0D: 3, 0x0C: 2}  # length of commands with arguments
        received = b""
        while not self._stopping.is_set():
            received += port.read(0.005)
            while received and len(received) >= (length := lengths.get(received[0], 1)):
                self._obey(port, received[:length])
                received = received[length:]
            if self._rest and port.offer(self._rest[:4_000]):
                self._rest = self._rest[4_000:]
            elif self._measuring and not self._rest and not port.unread_bytes():
                self.spent.set()

    def _obey(self, port: PtyPort, message: bytes) -> None:
        self.commands.append(message)
        command = message[0]
        if command == 0x19:
            port.put(self._metadata.encode())
        elif command == 0x06:
            counter = np.arange(self._n_readings) & 0x3F
            readings = (VALUE | RANGE << 14 | counter << 18).astype("<u4").tobytes()
            self._rest, self._late = readings[: -4 * N_ON_THEIR_WAY], readings[-4 * N_ON_THEIR_WAY :]
            self._measuring = True
        elif command == 0x07:
            self._rest, self._late, self._measuring = self._late, b"", False
        elif command == 0x0C:
            self.powered.set()


@pytest.fixture
def ppk2() -> Iterator[SimulatedPpk2]:
    with SimulatedPpk2() as device:
        yield device


def test_the_energy_is_that_of_the_current_in_the_stated_supply(ppk2):
    clock = iter([0.0, N_READINGS / PPK2_RATE_HZ])

    with Ppk2(ppk2.port, SUPPLY_MV, lambda: next(clock)) as meter:
        meter.begin()
        assert ppk2.spent.wait(60)
        reading = meter.end()

    assert reading.power_w == pytest.approx(CURRENT_A * SUPPLY_MV * 1e-3, rel=1e-3)
    assert reading.seconds == pytest.approx(0.2)
    assert reading.n_readings == N_READINGS


def test_it_measures_as_an_ampere_meter_and_never_as_a_source(ppk2):
    with open_meter(f"ppk2:{ppk2.port}@{SUPPLY_MV}") as meter:
        assert isinstance(meter, Ppk2)

    assert ppk2.powered.wait(60)
    assert bytes([0x11, 1]) in ppk2.commands
    assert bytes([0x11, 2]) not in ppk2.commands


def test_a_ppk2_that_falls_silent_has_stopped(ppk2):
    clock = iter([0.0, 3 * N_READINGS / PPK2_RATE_HZ])

    with Ppk2(ppk2.port, SUPPLY_MV, lambda: next(clock)) as meter:
        meter.begin()
        assert ppk2.spent.wait(60)
        with pytest.raises(PowerError, match="stopped during the run: .* of about 60000 readings arrived"):
            meter.end()


def test_something_else_on_the_port_is_no_ppk2():
    with SimulatedPpk2(metadata="AT\r\nOK\r\n") as device, pytest.raises(PowerError, match="no PPK2 answers there"):
        Ppk2(device.port, SUPPLY_MV)


def test_a_port_that_is_not_there_is_told_in_a_sentence(tmp_path):
    with pytest.raises(PowerError, match="no PPK2 answers there"):
        Ppk2(str(tmp_path / "ttyACM9"), SUPPLY_MV)
