"""Energy of one inference, either measured with a meter or modelled from counted work; the two are never mixed.

To measure, windows of continuous inferences alternate with idle windows, ten seconds each as in MLPerf Tiny. The net
energy of an active window is its energy above the mean of the idle windows before and after it, so that a steady drift
(a warming chip, an emptying battery) cancels. The scatter of the windows is the uncertainty.

A measured energy is always computed from windows that a meter read, so no figure can be filled in by hand. A modelled
energy has a different type, with "modelled" in the name of each field.
"""

import logging
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cpep_bench import power
from cpep_bench.power import Instrument, Meter
from cpep_edge.errors import ConfigError, PowerError

N_WINDOWS = 5
WINDOW_S = 10.0
BAND = "band"  # name in `--power` for the battery gauge of the wristband on `--band`
_log = logging.getLogger(__name__)
_SLEPT_S = 0.1  # the clocks may differ by so much without sleep

# Student's t, two-sided 95 %, by degrees of freedom; for more, that of the normal distribution.
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time measured by a meter."""

    power_w: float  # mean
    seconds: float
    n_inferences: int  # 0: idle
    n_readings: int


@dataclass(frozen=True, slots=True)
class MeasuredEnergy:
    """Windows measured by a meter: idle, active, idle, ..., idle."""

    instrument: Instrument
    windows: tuple[Window, ...]

    def __post_init__(self) -> None:
        """Raises ValueError when the windows do not alternate."""
        turns = [bool(window.n_inferences) for window in self.windows]
        if len(turns) < 3 or turns != [bool(number % 2) for number in range(len(turns))] or turns[-1]:
            raise ValueError("every active window lies between idle windows")

    @property
    def active(self) -> tuple[Window, ...]:
        """The windows with inferences."""
        return tuple(window for window in self.windows if window.n_inferences)

    @property
    def idle(self) -> tuple[Window, ...]:
        """The windows without inferences."""
        return tuple(window for window in self.windows if not window.n_inferences)

    @property
    def gross_mj(self) -> float:
        """The total energy per inference in active windows; the median over them."""
        return statistics.median(w.power_w * w.seconds / w.n_inferences * 1e3 for w in self.active)

    @property
    def net_mj(self) -> float:
        """The energy per inference above idling; the mean over active windows."""
        return statistics.mean(self._nets_mj())

    @property
    def net_uncertainty_mj(self) -> float:
        """Half the 95 % interval of `net_mj`, by Student's t over the windows; infinite for one window."""
        nets_mj = self._nets_mj()
        if len(nets_mj) < 2:
            return math.inf
        return _T95.get(len(nets_mj) - 1, 1.96) * statistics.stdev(nets_mj) / math.sqrt(len(nets_mj))

    def _nets_mj(self) -> list[float]:
        nets_mj = []
        for number, window in enumerate(self.windows):
            if window.n_inferences:
                before, after = self.windows[number - 1], self.windows[number + 1]
                idle_w = (before.power_w + after.power_w) / 2
                nets_mj.append((window.power_w - idle_w) * window.seconds / window.n_inferences * 1e3)
        return nets_mj


@dataclass(frozen=True, slots=True)
class ModelledEnergy:
    """Energy from a published model of a chip and counted work; nothing was measured."""

    modelled_chip: str
    modelled_uj: float
    modelled_from: str  # the constants and their source


def measure_energy(
    meter: Meter,
    infer: Callable[[], object],
    *,
    n_at_once: int = 1,
    n_windows: int = N_WINDOWS,
    window_s: float = WINDOW_S,
    idle: Callable[[float], object] = time.sleep,
    slept_s: Callable[[], float] = power.slept_s,
) -> MeasuredEnergy:
    """Measure alternating idle and active windows, beginning and ending with an idle one.

    infer: runs `n_at_once` inferences
    idle: waits for so many seconds
    slept_s: returns how long the machine has been asleep since it booted
    Raises PowerError when the meter fails or the machine slept during the measurement.
    """
    infer()  # warm-up
    asleep_s, windows = slept_s(), []
    for number in range(2 * n_windows + 1):
        meter.begin()
        if number % 2:
            n_inferences, seconds = _infer_for(infer, n_at_once, window_s)
        else:
            idle(window_s)
            n_inferences, seconds = 0, window_s
        reading = meter.end()
        windows.append(Window(reading.power_w, seconds, n_inferences, reading.n_readings))
        if slept_s() - asleep_s > _SLEPT_S:
            raise PowerError(
                f"the machine slept for {slept_s() - asleep_s:.1f} s during the measurement: keep it awake, for "
                "instance with systemd-inhibit, and measure again"
            )
    return MeasuredEnergy(meter.instrument, tuple(windows))


def open_meter(spec: str) -> Meter | None:
    """The meter for the value of `--power`; None for `none`, and for `auto` on a machine without a readable meter.

    spec: auto, none, rapl[:FOLDER], hwmon[:FOLDER], battery[:FOLDER], pi5[:PROGRAM] or ppk2:PORT@MILLIVOLTS; also None
        for band, the gauge of another device (`cpep_bench.band_figures`)
    Raises ConfigError for anything else, PowerError when the meter does not answer.
    """
    kind, _, place = spec.partition(":")
    if kind == "ppk2":
        return _ppk2(place)
    if kind in _KINDS:
        return _KINDS[kind](place)
    if spec in ("none", BAND):
        return None
    if spec != "auto":
        raise ConfigError(
            f"--power {spec} is not a meter: choose from auto, none, {', '.join(_KINDS)}, ppk2 and {BAND}"
        )
    for look in _KINDS.values():
        try:
            return look("")
        except power.ReadDeniedError as error:
            _log.warning("%s", error)  # this meter exists, but permission is missing
        except PowerError:
            continue
    return None


_KINDS: dict[str, Callable[[str], Meter]] = {
    "rapl": lambda place: power.Rapl(Path(place or power.POWERCAP)),
    "pi5": lambda place: power.pi5(place or power.VCGENCMD),
    "hwmon": lambda place: power.hwmon(Path(place or power.HWMON)),
    "battery": lambda place: power.battery(Path(place or power.POWER_SUPPLY)),
}


def _ppk2(place: str) -> Meter:
    from cpep_bench.power_ports import Ppk2

    port, _, supply_mv = place.rpartition("@")
    if not port or not supply_mv.isdecimal():
        raise ConfigError("--power ppk2 needs its port and the supply's voltage, as in ppk2:/dev/ttyACM0@3700")
    return Ppk2(port, int(supply_mv))


def _infer_for(infer: Callable[[], object], n_at_once: int, seconds: float) -> tuple[int, float]:
    n_inferences, start_s = 0, time.monotonic()
    while (elapsed_s := time.monotonic() - start_s) < seconds:
        infer()
        n_inferences += n_at_once
    return n_inferences, elapsed_s
