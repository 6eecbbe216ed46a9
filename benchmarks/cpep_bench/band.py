"""What a wristband says its own engine costs, asked over the wire (BENCH frames, `firmware_bridge/PROTOCOL.md`)."""

from dataclasses import dataclass

from cpep_bridge.band import Band
from cpep_bridge.devices import open_source
from cpep_edge.errors import ConfigError


@dataclass(frozen=True, slots=True)
class BandFigures:
    """Inferences that a band timed by its own clock, after its golden inputs had come out right."""

    device: str
    n_runs: int
    p50_us: int
    p95_us: int
    p99_us: int
    max_us: int
    arena_bytes: int
    energy_uj: float | None  # of one run, where the band measures it


def ask_band(port: str, n_runs: int) -> BandFigures:
    """Let the band on a port run its own benchmark.

    Raises LinkError when it does not answer, has no engine or fails its golden inputs, ConfigError for another device.
    """
    with open_source(port) as source:
        if not isinstance(source, Band):
            raise ConfigError(f"--band {port}: {source.info.name} does not speak BENCH, only a cpep band does")
        result = source.bench(n_runs)
        times = (result.p50_us, result.p95_us, result.p99_us, result.max_us)
        return BandFigures(source.info.name, result.n_runs, *times, result.arena_bytes, result.energy_uj or None)
