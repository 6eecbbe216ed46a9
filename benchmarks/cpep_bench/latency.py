"""Time calls: warm-up excluded, `perf_counter_ns`, each run kept.

A distribution is described by its percentiles and maximum, never by a mean; its median has a bootstrap interval. Other
work on the machine lasts longer than a run, so the times of neighbouring runs are correlated. The bootstrap therefore
draws blocks of neighbouring runs (the circular block bootstrap of Politis and Romano, 1992), not single runs.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_RUNS = 200  # with fewer, the 99th percentile is a single outlier
WARM_UP_RUNS = 20
_BLOCK_RUNS = 10
_N_RESAMPLES = 1_000
_INTERVAL = (2.5, 97.5)  # percentiles: 95 %
_COMPARED = (0.5, 99.5)  # 99 %, because a comparison has a dozen figures and 95 % would be wrong for one in twenty

Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Latency:
    """A distribution of times, in the order in which they were taken."""

    times_ms: tuple[float, ...]

    @property
    def n(self) -> int:
        """The number of runs."""
        return len(self.times_ms)

    @property
    def p50_ms(self) -> float:
        """Median."""
        return self._percentile(50)

    @property
    def p95_ms(self) -> float:
        """95th percentile."""
        return self._percentile(95)

    @property
    def p99_ms(self) -> float:
        """99th percentile."""
        return self._percentile(99)

    @property
    def max_ms(self) -> float:
        """The worst run."""
        return max(self.times_ms)

    @property
    def p50_interval_ms(self) -> tuple[float, float]:
        """95 % bootstrap interval of the median."""
        low, high = np.percentile(_resampled_medians(self.times_ms, seed=0), _INTERVAL)
        return float(low), float(high)

    def _percentile(self, percent: float) -> float:
        return float(np.percentile(self.times_ms, percent))


def median_ratio_interval(after: Latency, before: Latency) -> tuple[float, float]:
    """99 % bootstrap interval of the ratio of two medians, `after` to `before`, measured independently."""
    ratios = _resampled_medians(after.times_ms, seed=0) / _resampled_medians(before.times_ms, seed=1)
    low, high = np.percentile(ratios, _COMPARED)
    return float(low), float(high)


def measure_interleaved(
    calls: Mapping[str, Callable[..., object]],
    n_runs: int = MIN_RUNS,
    *,
    prepare: Mapping[str, Callable[[], object]] | None = None,
    n_warm_up: int = WARM_UP_RUNS,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Latency]:
    """Time several calls in turns, so that other load on the machine affects all of them equally.

    prepare: for some calls, makes the argument of each run, outside the timing
    clock_ns: `time.thread_time_ns` counts only the calling thread's CPU time, which other work does not lengthen
    Raises ValueError for fewer than 200 runs.
    """
    check_runs(n_runs)
    prepared = prepare or {}
    times_ns = np.empty((n_warm_up + n_runs, len(calls)))
    for row in times_ns:
        for place, (name, call) in enumerate(calls.items()):
            arguments = (prepared[name](),) if name in prepared else ()
            row[place] = _time_ns(clock_ns, call, *arguments)
    return {
        name: Latency(tuple(round(float(value) * 1e-6, 6) for value in column))
        for name, column in zip(calls, times_ns[n_warm_up:].T, strict=True)
    }


def check_runs(n_runs: int) -> None:
    """Raises ValueError when there are too few runs for percentiles."""
    if n_runs < MIN_RUNS:
        raise ValueError(f"{n_runs} runs are too few for percentiles, ask for at least {MIN_RUNS}")


def _time_ns(clock_ns: Callable[[], int], call: Callable[..., object], *arguments: object) -> int:
    start_ns = clock_ns()
    call(*arguments)
    return clock_ns() - start_ns


def _resampled_medians(times_ms: tuple[float, ...], seed: int) -> Times:
    """Medians of bootstrap samples, drawn in blocks that wrap around at the end."""
    values = np.array(times_ms)
    n_blocks = -(-len(values) // _BLOCK_RUNS)
    starts = np.random.default_rng(seed).integers(0, len(values), (_N_RESAMPLES, n_blocks, 1))
    places = (starts + np.arange(_BLOCK_RUNS)) % len(values)
    medians: Times = np.median(values[places.reshape(_N_RESAMPLES, -1)], axis=1)
    return medians
