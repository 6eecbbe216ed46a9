"""Compare two reports: which figures changed beyond noise, and which exceed a budget.

Absolute times can only be compared on the same machine in the same state. So each part's time is also given relative to
the fixed arithmetic that was timed in turns with it (`relative.*`). A budget for different machines should only use
those figures and bytes.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from cpep_bench.energy import MeasuredEnergy
from cpep_bench.latency import Latency, median_ratio_interval
from cpep_bench.report import NOISY, Report
from cpep_edge.chip import CortexMSpec, EthosUSpec
from cpep_edge.errors import ConfigError
from cpep_edge.toml_text import load_toml


@dataclass(frozen=True, slots=True)
class Change:
    """The ratio of one figure in the later report to that in the earlier one."""

    figure: str
    ratio: float
    low: float  # of a 99 % interval; for a figure without noise, such as bytes or instructions, the ratio itself
    high: float
    budget: float | None  # the largest ratio allowed

    @property
    def beyond_noise(self) -> bool:
        """Whether the figure changed by more than noise."""
        return not self.low <= 1 <= self.high

    @property
    def over_budget(self) -> bool:
        """Whether the whole interval is above the budget."""
        return self.budget is not None and self.low > self.budget

    def row(self) -> tuple[str, str, str, str]:
        """The change as a row of a table."""
        word = "" if not self.beyond_noise else "less" if self.ratio < 1 else "more"
        if self.over_budget:
            word = f"MORE THAN {self.budget:g} ALLOWS"
        return self.figure, f"{self.ratio:.3f}", f"{self.low:.3f} to {self.high:.3f}", word


def compare_reports(before: Report, after: Report, budget: dict[str, float] | None = None) -> list[Change]:
    """All figures that both reports have.

    budget: the largest ratio allowed, by the name of a figure
    Raises ConfigError when the budget names a figure that the two do not share.
    """
    parts = (_latencies, _starts, _bytes, _chip, _band)
    found = {figure: ratio for part in parts for figure, ratio in part(before, after).items()}
    found |= _energy("energy.net", before.energy, after.energy)
    limits = budget or {}
    for figure in limits:
        if figure not in found:
            raise ConfigError(f"the budget names {figure}, which the reports do not share: {', '.join(found)}")
    return [Change(figure, *ratio, limits.get(figure)) for figure, ratio in found.items()]


def caveats(before: Report, after: Report) -> list[str]:
    """Warnings that a reader needs to judge the ratios."""
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
    """Read a TOML file with a table `at_most`: figure = largest ratio. Raises ConfigError for an invalid file."""
    try:
        content = load_toml(file)
    except ValueError as error:
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
    """Ratios of start-up time and peak memory; the interval is that of the extremes, because processes are few."""
    figures = {}
    for name in ("total_ms", "peak_rss_mb"):
        old, new = (sorted(getattr(start, name) for start in report.starts) for report in (before, after))
        ratios = [later / earlier for later, earlier in product(new, old)]
        figures[f"start.{name}"] = (new[len(new) // 2] / old[len(old) // 2], min(ratios), max(ratios))
    return figures


def _bytes(before: Report, after: Report) -> dict[str, _Ratio]:
    return {
        "bytes.encoder": _exact(before.files[before.encoder_file], after.files[after.encoder_file]),
        "bytes.index": _exact(before.files[before.index_file], after.files[after.index_file]),
        "bytes.bundle": _exact(sum(before.files.values()), sum(after.files.values())),
    }


def _chip(before: Report, after: Report) -> dict[str, _Ratio]:
    """Ratios of counts for a microcontroller, or of Vela's estimates when both are for the same accelerator."""
    old, new = before.chip, after.chip
    if isinstance(old, EthosUSpec) and isinstance(new, EthosUSpec) and old.vela.accelerator == new.vela.accelerator:
        return {f"modelled.{old.vela.accelerator} cycles": _exact(old.vela.cycles, new.vela.cycles)}
    if not isinstance(old, CortexMSpec) or not isinstance(new, CortexMSpec):
        return {}
    figures = {}
    for earlier, later in product(old.runs, new.runs):
        if earlier.processor == later.processor:
            counted = (earlier.instructions_a_window, later.instructions_a_window)
            figures[f"instructions.{later.processor}"] = _exact(*counted)
            figures[f"bytes.{later.processor} RAM"] = _exact(earlier.ram_bytes, later.ram_bytes)
    return figures


def _band(before: Report, after: Report) -> dict[str, _Ratio]:
    """Ratios of a wristband's own figures. It reports only percentiles, so median to 95th counts as its noise."""
    old, new = before.band, after.band
    if old is None or new is None:
        return {}
    figures = _energy("energy.band net", old.energy, new.energy)
    if old.p50_us > 0:  # a fast engine may take no whole microsecond
        figures["band.inference"] = (new.p50_us / old.p50_us, new.p50_us / old.p95_us, new.p95_us / old.p50_us)
    if old.arena_bytes > 0:
        figures["bytes.band arena"] = _exact(old.arena_bytes, new.arena_bytes)
    return figures


def _exact(old: float, new: float) -> _Ratio:
    return (new / old,) * 3


def _energy(figure: str, before: MeasuredEnergy | None, after: MeasuredEnergy | None) -> dict[str, _Ratio]:
    """The ratio of two measured energies; modelled ones are not compared."""
    if before is None or after is None:
        return {}
    (old, old_low, old_high), (new, new_low, new_high) = map(_net_interval, (before, after))
    if old_low <= 0:
        return {}
    return {figure: (new / old, new_low / old_high, new_high / old_low)}


def _net_interval(energy: MeasuredEnergy) -> _Ratio:
    net_mj, half_mj = energy.net_mj, energy.net_uncertainty_mj
    return net_mj, net_mj - half_mj, net_mj + half_mj
