"""The machine that a figure was measured on, as far as it can be told without rights."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BOARD = Path("/proc/device-tree/model")
CLOCK_KHZ = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
_IDLE_LOAD = 0.5  # of a machine that does nothing else


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides how fast things run, and whether something else ran besides."""

    cpu: str
    architecture: str
    n_cpus: int
    clock_mhz: float | None  # of the first CPU when asked; None where the system does not say
    load_1min: float  # processes that wanted to run, mean of the minute before
    system: str

    def is_crowded(self, n_threads: int) -> bool:
        """Whether the load left no processor to some of so many threads, which then wait for each other."""
        return self.load_1min > self.n_cpus - n_threads + _IDLE_LOAD


def this_machine(cpuinfo: Path = CPUINFO, board: Path = BOARD, clock_khz: Path = CLOCK_KHZ) -> Machine:
    """Describe the machine as it is now.

    cpuinfo: the kernel's table of processors
    board: the board's name, on those that have a device tree
    clock_khz: the clock as it is, where the table does not tell it
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
