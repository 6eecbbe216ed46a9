"""A description of the machine that a figure was measured on, as far as no privileges are needed."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BOARD = Path("/proc/device-tree/model")
CLOCK_KHZ = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
_IDLE_LOAD = 0.5  # load of an otherwise idle machine


@dataclass(frozen=True, slots=True)
class Machine:
    """The properties of the machine that determine its speed, and its load by other work."""

    cpu: str
    architecture: str
    n_cpus: int
    clock_mhz: float | None  # present clock of the first CPU; None: unknown
    load_1min: float  # mean number of runnable processes in the last minute
    system: str

    def is_crowded(self, n_threads: int) -> bool:
        """Whether the load left too few processors for so many threads, so that some had to wait."""
        return self.load_1min > self.n_cpus - n_threads + _IDLE_LOAD


def this_machine(cpuinfo: Path = CPUINFO, board: Path = BOARD, clock_khz: Path = CLOCK_KHZ) -> Machine:
    """Describe the machine as it is now.

    cpuinfo: the kernel's table of processors
    board: file with the board's name, on boards with a device tree
    clock_khz: file with the present clock, used when the table does not have it
    """
    pairs = (line.partition(":") for line in _text(cpuinfo).split("\n\n")[0].splitlines())
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    clock, khz = fields.get("cpu MHz"), _text(clock_khz)
    return Machine(
        cpu=fields.get("model name") or _text(board).strip("\0\n") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        n_cpus=os.cpu_count() or 1,
        clock_mhz=float(clock) if clock else float(khz) * 1e-3 if khz else None,
        load_1min=os.getloadavg()[0],
        system=platform.platform(),
    )


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
