"""The interface of power meters, and the meters of the kernel or the board.

A meter measures the energy between `begin` and `end`. Each takes the folder, program or port that it reads as an
argument, so that it can be tested on a copy. Meters on a serial port are in `power_ports`.
"""

import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cpep_edge.errors import PowerError

POWERCAP = Path("/sys/class/powercap")
HWMON = Path("/sys/class/hwmon")
POWER_SUPPLY = Path("/sys/class/power_supply")
VCGENCMD = "vcgencmd"
MIN_READINGS = 5  # of a window; fewer are not enough for a mean

_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "5V_IN")  # labels of the whole board's supply, on Jetson and similar boards
_COMMAND_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Instrument:
    """The description of a meter."""

    name: str
    covers: str  # the part of the machine whose power it measures
    rate_hz: float  # readings per second; 0: a counter, read at both ends of a window


@dataclass(frozen=True, slots=True)
class PowerReading:
    """The energy that a meter measured from `begin` to `end`."""

    energy_j: float
    seconds: float
    n_readings: int

    @property
    def power_w(self) -> float:
        """Mean power."""
        return self.energy_j / self.seconds


class ReadDeniedError(PowerError):
    """There is a meter, but no permission to read it."""


class Meter(ABC):
    """Measures energy; `with` opens and closes it."""

    instrument: Instrument

    @abstractmethod
    def begin(self) -> None:
        """Start a window. Raises PowerError."""

    @abstractmethod
    def end(self) -> PowerReading:
        """End the window. Raises PowerError when the meter failed during the window."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the meter's resources."""
        return None


class Rapl(Meter):
    """Intel's and AMD's energy counters of processor packages and their memory, which wrap around."""

    def __init__(self, root: Path = POWERCAP) -> None:
        """Raises PowerError when there are no counters, or ReadDeniedError when they may not be read."""
        zones = {zone: _text(zone / "name") for zone in sorted(root.glob("intel-rapl:*"))}
        self._zones = [zone for zone, name in zones.items() if name.startswith("package") or name == "dram"]
        if not self._zones:
            raise PowerError(f"{root} holds no RAPL counters of a processor: choose another meter, or --power none")
        self._ranges_uj = [_integer(zone / "max_energy_range_uj") for zone in self._zones]
        self.instrument = Instrument("RAPL", ", ".join(zones[zone] for zone in self._zones), 0.0)
        self._before_uj, self._begun_s = self._counters_uj(), 0.0

    def begin(self) -> None:
        self._before_uj, self._begun_s = self._counters_uj(), time.monotonic()

    def end(self) -> PowerReading:
        """See Meter; a counter may wrap once."""
        after_uj, seconds = self._counters_uj(), time.monotonic() - self._begun_s
        spent_uj = sum(
            (after - before) % (limit + 1)
            for before, after, limit in zip(self._before_uj, after_uj, self._ranges_uj, strict=True)
        )
        if not spent_uj:
            raise PowerError(f"{self._zones[0]}/energy_uj stands still: this machine does not count, try --power none")
        return PowerReading(spent_uj * 1e-6, seconds, 2)

    def _counters_uj(self) -> list[int]:
        return [_integer(zone / "energy_uj") for zone in self._zones]


class PolledMeter(Meter):
    """A power meter that a thread reads repeatedly; the readings are integrated by trapezoids to an energy."""

    def __init__(self, instrument: Instrument, read_w: Callable[[], float]) -> None:
        """read_w: one reading in watts; raises PowerError. It is called once here, to detect a dead meter early."""
        self.instrument = instrument
        self._read_w = read_w
        self._points: list[tuple[float, float]] = []  # seconds, watts
        self._failure: Exception | None = None
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        read_w()

    def begin(self) -> None:
        self._points, self._failure = [], None
        self._ending.clear()
        self._thread = threading.Thread(target=self._poll, name="power meter", daemon=True)
        self._thread.start()

    def end(self) -> PowerReading:
        self.close()
        if self._failure is not None:
            raise PowerError(f"{self.instrument.name} stopped during the run: {self._failure}") from self._failure
        return integrate(self._points, self.instrument)

    def close(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _poll(self) -> None:
        try:
            while True:
                power_w = self._read_w()
                self._points.append((time.monotonic(), power_w))
                if self._ending.wait(1 / self.instrument.rate_hz):
                    return
        except Exception as error:  # raised again at the end of the window
            self._failure = error


def integrate(points: list[tuple[float, float]], instrument: Instrument) -> PowerReading:
    """Integrate readings of power by trapezoids; points: seconds, watts. Raises PowerError for too few readings."""
    if len(points) < MIN_READINGS:
        raise PowerError(
            f"{instrument.name} gave {len(points)} readings in a window, too few for a mean: make windows longer than "
            f"{MIN_READINGS / instrument.rate_hz:g} s"
        )
    energy_j = sum((w0 + w1) / 2 * (t1 - t0) for (t0, w0), (t1, w1) in zip(points, points[1:], strict=False))
    return PowerReading(energy_j, points[-1][0] - points[0][0], len(points))


def hwmon(folder: Path = HWMON) -> PolledMeter:
    """A sensor of current and voltage on the board, such as INA219, INA226 or INA3221.

    folder: of one sensor, or of all sensors, of which the first of Texas Instruments' INA family is used
    Raises PowerError when there is none.
    """
    sensor = folder if (folder / "name").is_file() else _first_ina(folder)
    name = _text(sensor / "name")
    if (powers := sorted(sensor.glob("power*_input"))) and len(powers) == 1:
        channel, source = powers[0].name.split("_")[0], [(powers[0], 1e-6)]
    else:
        channel, source = _current_and_voltage(sensor)
    label = _label(sensor, channel)
    covers = f"the rail {label}" if label else f"the rail at {channel} of {name}"
    return PolledMeter(Instrument(name, covers, 20.0), lambda: _product(source))


def battery(folder: Path = POWER_SUPPLY) -> PolledMeter:
    """The gauge of the battery that powers this machine.

    folder: of one battery, or of all power supplies
    Raises PowerError when there is no battery, or it does not discharge.
    """
    found = [supply for supply in (folder, *sorted(folder.glob("*"))) if _text(supply / "type") == "Battery"]
    if not found:
        raise PowerError(f"{folder} holds no battery: choose another meter, or --power none")
    supply = found[0]
    power = supply / "power_now"
    pair = [(supply / "voltage_now", 1e-6), (supply / "current_now", 1e-6)]
    source = [(power, 1e-6)] if power.is_file() else pair

    def read_w() -> float:
        status = _text(supply / "status")
        if status != "Discharging":
            raise PowerError(f"{supply.name} is {status.lower() or 'in no known state'}: unplug the charger")
        return abs(_product(source))  # some drivers report a discharge as negative

    return PolledMeter(Instrument(f"gauge of {supply.name}", "the whole machine, from its battery", 2.0), read_w)


def pi5(command: str = VCGENCMD) -> PolledMeter:
    """The power management chip of a Raspberry Pi 5, read with `vcgencmd pmic_read_adc`.

    Raises PowerError when the program is missing or reports no rails.
    """
    return PolledMeter(
        Instrument("pmic_read_adc", "the rails of the Pi's power chip, without its losses and USB", 10.0),
        lambda: rails_w(_output(command, "pmic_read_adc")),
    )


def rails_w(text: str) -> float:
    """The power of all rails in the output of `pmic_read_adc`, with lines `NAME_A current(i)=1.0A` and `NAME_V ...`.

    Raises PowerError when no rail has both.
    """
    values: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        rail, _, unit = name.rpartition("_")
        if unit in values and "=" in value:
            values[unit][rail] = float(value.split("=")[1].rstrip("AV"))
    rails = values["A"].keys() & values["V"].keys()
    if not rails:
        raise PowerError("pmic_read_adc told no rail's current and voltage: only a Raspberry Pi 5 has them")
    return sum(values["A"][rail] * values["V"][rail] for rail in rails)


def _first_ina(folder: Path) -> Path:
    for sensor in sorted(folder.glob("hwmon*")):
        if _text(sensor / "name").lower().startswith("ina"):
            return sensor
    raise PowerError(f"{folder} holds no power sensor of the INA family: name one as hwmon:FOLDER, or --power none")


def _current_and_voltage(sensor: Path) -> tuple[str, list[tuple[Path, float]]]:
    """The channel labelled as the whole board, else the first, with its files in milliamperes and millivolts."""
    channels = [file.name.removeprefix("curr").removesuffix("_input") for file in sensor.glob("curr*_input")]
    channels = sorted(channel for channel in channels if (sensor / f"in{channel}_input").is_file())
    if not channels:
        raise PowerError(f"{sensor} tells neither a power nor a current with its voltage: choose another meter")
    whole = [channel for channel in channels if _label(sensor, f"in{channel}") in _WHOLE_BOARD]
    channel = (whole or channels)[0]
    return f"in{channel}", [(sensor / f"in{channel}_input", 1e-3), (sensor / f"curr{channel}_input", 1e-3)]


def _label(sensor: Path, channel: str) -> str:
    return _text(sensor / f"{channel}_label")


def _product(source: list[tuple[Path, float]]) -> float:
    product = 1.0
    for file, unit in source:
        product *= _integer(file) * unit
    return product


def _output(*command: str) -> str:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise PowerError(f"{' '.join(command)} failed: {error}") from error
    return ran.stdout


def _text(file: Path) -> str:
    """The text of a small file; "" without the file."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _integer(file: Path) -> int:
    try:
        return int(file.read_text())
    except PermissionError as error:
        raise ReadDeniedError(
            f"no permission to read {file}: run `sudo chmod a+r {file.parent.parent}/*/{file.name}`, which lasts until "
            "the next boot, or choose --power none"
        ) from error
    except (OSError, ValueError) as error:
        raise PowerError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def slept_s() -> float:
    """The seconds that this machine has been asleep since it booted."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
