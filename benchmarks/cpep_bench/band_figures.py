"""The cost of a wristband's own engine, which the band measures on request (BENCH, `firmware_bridge/PROTOCOL.md`)."""

from dataclasses import dataclass, replace

from cpep_bench.energy import MeasuredEnergy, measure_energy
from cpep_bench.power_ports import BandGauge
from cpep_bridge.band import Band
from cpep_bridge.devices import LinkOptions, open_source
from cpep_bridge.frames import Capability
from cpep_edge.errors import ConfigError, PowerError

_BENCHES_A_WINDOW = 4  # each first checks the golden inputs, which do not count as inferences
_MOST_RUNS = 0xFFFF  # the most that BENCH can ask for


@dataclass(frozen=True, slots=True)
class BandFigures:
    """The times of inferences by the band's own clock, after its golden inputs gave the right results."""

    device: str
    n_runs: int
    p50_us: int
    p95_us: int
    p99_us: int
    max_us: int
    arena_bytes: int
    energy_uj: float | None  # of one run, as reported by the band; None: not reported
    energy: MeasuredEnergy | None = None  # measured with the band's gauge; None: not asked for


def ask_band(
    port: str,
    n_runs: int,
    *,
    window_s: float | None = None,
    rate_hz: float = 1.0,
    link: LinkOptions = LinkOptions(),
) -> BandFigures:
    """Let the band on a port run its own benchmark, and read its battery gauge during that time.

    window_s: length of each idle and each active window; None: energy is not measured
    rate_hz: of its TELEMETRY; more than 1 only for a simulated band faster than real time
    Raises LinkError when it does not answer, has no engine or fails its golden inputs, ConfigError for another device,
    PowerError when it has no gauge or the gauge's readings stop.
    """
    with open_source(port, link=link) as band:
        if not isinstance(band, Band):
            raise ConfigError(f"--band {port}: {band.info.name} does not speak BENCH, only a cpep band does")
        if window_s is None:
            return _timed(band, n_runs)
        if not band.identity.capabilities & Capability.TELEMETRY:
            raise PowerError(f"--power band: the band on {port} has no gauge of its battery, choose another meter")
        figures = _timed(band, n_runs)
        return replace(figures, energy=_energy(band, figures.p50_us, window_s, rate_hz))


def _energy(band: Band, p50_us: int, window_s: float, rate_hz: float) -> MeasuredEnergy:
    n_at_once = min(max(1, round(window_s / _BENCHES_A_WINDOW / max(p50_us, 1) * 1e6)), _MOST_RUNS)
    return measure_energy(
        BandGauge(band, rate_hz),
        lambda: band.bench(n_at_once),
        n_at_once=n_at_once,
        window_s=window_s,
        idle=lambda seconds: band.rest(seconds, 1 / rate_hz),
    )


def _timed(band: Band, n_runs: int) -> BandFigures:
    result = band.bench(min(n_runs, _MOST_RUNS))
    times = (result.p50_us, result.p95_us, result.p99_us, result.max_us)
    return BandFigures(band.info.name, result.n_runs, *times, result.arena_bytes, result.energy_uj or None)
