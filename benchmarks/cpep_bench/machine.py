"""The machine that a figure was measured on, as far as it can be told without rights."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides how fast things run, and whether something else ran besides."""

    cpu: str
    architecture: str
    n_cpus: int
    clock_mhz: float | None  # of the first CPU when asked; None where the system does not say
    load_1min: float  # processes that wanted to run, mean of the last minute
    system: str


def this_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """Describe the machine as it is now; `cpuinfo` is the kernel's table of processors."""
    fields = _first_processor(cpuinfo)
    clock = fields.get("cpu MHz")
    return Machine(
        cpu=fields.get("model name") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        n_cpus=os.cpu_count() or 1,
        clock_mhz=float(clock) if clock else None,
        load_1min=os.getloadavg()[0],
        system=platform.platform(),
    )


def _first_processor(cpuinfo: Path) -> dict[str, str]:
    try:
        first = cpuinfo.read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
