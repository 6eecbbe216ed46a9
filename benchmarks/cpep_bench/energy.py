"""Energy of one inference: measured with a meter, or modelled from counted work, and never one for the other.

Measured means that windows with inferences back to back alternate with idle ones, as in MLPerf Tiny ten seconds each.
The net energy of an active window is what it took beyond the mean of the idle windows beside it, so that what drifts
steadily (a warming chip, an emptying battery) cancels; the scatter of the windows is the uncertainty.

A measured figure exists only as windows that a meter read: no field holds it, so none can be filled in. A modelled one
is another type whose every field says so.
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
BAND = "band"  # what `--power` calls the gauge of the wristband that `--band` names
_log = logging.getLogger(__name__)
_SLEPT_S = 0.1  # that the clocks may differ by

# Student's t, two-sided 95 %, by degrees of freedom; beyond, the normal's.
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time that a meter watched."""

    power_w: float  # mean
    seconds: float
    n_inferences: int  # 0: idle
    n_readings: int


@dataclass(frozen=True, slots=True)
class MeasuredEnergy:
    """Windows that a meter read: idle, active, idle, ..., idle."""

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
        """The windows without."""
        return tuple(window for window in self.windows if not window.n_inferences)

    @property
    def gross_mj(self) -> float:
        """Everything the meter saw in the active windows, per inference; median of them."""
        return statistics.median(w.power_w * w.seconds / w.n_inferences * 1e3 for w in self.active)

    @property
    def net_mj(self) -> float:
        """What an inference takes beyond idling; mean of the active windows."""
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
    """Energy by a published model of a chip, from counted work; nothing was measured."""

    modelled_chip: str
    modelled_uj: float
    modelled_from: str  # the constants, and where they were published


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
    """Alternate idle and active windows, beginning and ending idle.

    infer: one inference, or so many at once
    idle: waits for so many seconds
    slept_s: how long the machine was asleep since it booted
    Raises PowerError when the meter fails or the machine went to sleep meanwhile.
    """
    infer()  # warm
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
    """The meter that `--power` names; None for `none`, and for `auto` where this machine has none that can be read.

    spec: auto, none, rapl[:FOLDER], hwmon[:FOLDER], battery[:FOLDER], pi5[:PROGRAM] or ppk2:PORT@MILLIVOLTS; band
        is the gauge of another device (`cpep_bench.band_figures`), so None here
    Raises ConfigError for another, PowerError when the meter does not answer.
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
            _log.warning("%s", error)  # a meter that could be had
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
