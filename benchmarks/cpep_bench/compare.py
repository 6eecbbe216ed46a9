"""Two reports side by side: what changed beyond noise, and what went past a budget.

Absolute times only compare on one machine in one state. So each part's time is also given in units of the fixed
arithmetic that was timed in turns with it (`relative.*`), and a budget meant for changing machines names those and
bytes.
"""

import tomllib
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from cpep_bench.energy import MeasuredEnergy
from cpep_bench.latency import Latency, median_ratio_interval
from cpep_bench.report import NOISY, Report
from cpep_edge.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of both reports, as the ratio of the later to the earlier."""

    figure: str
    ratio: float
    low: float  # of a 99 % interval; for bytes, which have no noise, the ratio itself
    high: float
    budget: float | None  # the largest ratio allowed

    @property
    def beyond_noise(self) -> bool:
        """Whether it is not the same."""
        return not self.low <= 1 <= self.high

    @property
    def over_budget(self) -> bool:
        """Whether it is surely more than allowed."""
        return self.budget is not None and self.low > self.budget

    def row(self) -> tuple[str, str, str, str]:
        """Of a table."""
        word = "" if not self.beyond_noise else "less" if self.ratio < 1 else "more"
        if self.over_budget:
            word = f"MORE THAN {self.budget:g} ALLOWS"
        return self.figure, f"{self.ratio:.3f}", f"{self.low:.3f} to {self.high:.3f}", word


def compare_reports(before: Report, after: Report, budget: dict[str, float] | None = None) -> list[Change]:
    """All figures that both reports have.

    budget: the largest ratio allowed, by the name of a figure
    Raises ConfigError when the budget names a figure that the two do not share.
    """
    found = {**_latencies(before, after), **_starts(before, after), **_bytes(before, after), **_energy(before, after)}
    limits = budget or {}
    for figure in limits:
        if figure not in found:
            raise ConfigError(f"the budget names {figure}, which the reports do not share: {', '.join(found)}")
    return [Change(figure, *ratio, limits.get(figure)) for figure, ratio in found.items()]


def caveats(before: Report, after: Report) -> list[str]:
    """What a reader must know before believing the ratios."""
    found = []
    if (before.machine.cpu, before.machine.n_cpus) != (after.machine.cpu, after.machine.n_cpus):
        found.append("Two machines: only relative.* and bytes tell of the code.")
    if before.n_threads != after.n_threads:
        found.append(f"The encoder had {before.n_threads} threads, then {after.n_threads}.")
    if before.quantisation != after.quantisation:
        found.append(f"The encoder was {before.quantisation}, then {after.quantisation}.")
    for name, report in (("earlier", before), ("later", after)):
        if report.noise > NOISY:
            found.append(f"The machine was noisy in the {name} run ({report.noise:.2f}): intervals are too narrow.")
    return found


def read_budget(file: Path) -> dict[str, float]:
    """Read a TOML file with a table `at_most`: figure = largest ratio. Raises ConfigError when it is none."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as a budget: {error}") from error
    limits = content.get("at_most")
    if set(content) != {"at_most"} or not isinstance(limits, dict) or not limits:
        raise ConfigError(f'{file}: a budget is one table [at_most] with lines such as "relative.encoder" = 1.2')
    for figure, limit in limits.items():
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
            raise ConfigError(f"{file}: at_most.{figure} must be a ratio above 0, not {limit!r}")
    return {figure: float(limit) for figure, limit in limits.items()}


_Ratio = tuple[float, float, float]


def _latencies(before: Report, after: Report) -> dict[str, _Ratio]:
    shared = [name for name in before.latency if name in after.latency]
    plain = {f"latency.{name}": _ratio(before.latency[name], after.latency[name]) for name in shared}
    unit, unit_low, unit_high = _ratio(before.arithmetic, after.arithmetic)
    relative = {}
    for name in shared:
        ratio, low, high = plain[f"latency.{name}"]
        relative[f"relative.{name}"] = (ratio / unit, low / unit_high, high / unit_low)
    return {**plain, "latency.fixed arithmetic": (unit, unit_low, unit_high), **relative}


def _ratio(before: Latency, after: Latency) -> _Ratio:
    return (after.p50_ms / before.p50_ms, *median_ratio_interval(after, before))


def _starts(before: Report, after: Report) -> dict[str, _Ratio]:
    """Start-up and peak memory, between the extremes of their few processes."""
    figures = {}
    for name in ("total_ms", "peak_rss_mb"):
        old, new = (sorted(getattr(start, name) for start in report.starts) for report in (before, after))
        ratios = [later / earlier for later, earlier in product(new, old)]
        figures[f"start.{name}"] = (new[len(new) // 2] / old[len(old) // 2], min(ratios), max(ratios))
    return figures


def _bytes(before: Report, after: Report) -> dict[str, _Ratio]:
    sizes = {
        "bytes.encoder": (before.files[before.encoder_file], after.files[after.encoder_file]),
        "bytes.index": (before.files[before.index_file], after.files[after.index_file]),
        "bytes.bundle": (sum(before.files.values()), sum(after.files.values())),
    }
    return {name: (new / old, new / old, new / old) for name, (old, new) in sizes.items()}


def _energy(before: Report, after: Report) -> dict[str, _Ratio]:
    """Measured with measured only; nothing modelled is compared."""
    if before.energy is None or after.energy is None:
        return {}
    (old, old_low, old_high), (new, new_low, new_high) = map(_net_interval, (before.energy, after.energy))
    if old_low <= 0:
        return {}
    return {"energy.net": (new / old, new_low / old_high, new_high / old_low)}


def _net_interval(energy: MeasuredEnergy) -> _Ratio:
    net_mj, half_mj = energy.net_mj, energy.net_uncertainty_mj
    return net_mj, net_mj - half_mj, net_mj + half_mj
