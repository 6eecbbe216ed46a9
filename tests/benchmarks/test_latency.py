import numpy as np
import pytest

from cpep_bench.latency import MIN_RUNS, Latency, measure_interleaved, median_ratio_interval
from cpep_bench.pipeline import end_to_end_calls
from cpep_edge.bundle import Bundle
from cpep_edge.golden import Golden
from cpep_edge.recogniser import Recogniser


class Clock:
    """A clock that advances only when told to."""

    def __init__(self) -> None:
        self._now_ns = 0

    def __call__(self) -> int:
        return self._now_ns

    def works(self, ms: int) -> None:
        self._now_ns += ms * 1_000_000


def drawn(rng: np.random.Generator, median_ms: float, n: int = 200) -> Latency:
    return Latency(tuple(median_ms * np.exp(rng.normal(0, 0.1, n))))


def test_the_interval_of_the_median_holds_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [drawn(rng, 3.0).p50_interval_ms for _ in range(60)]

    assert 0.88 <= np.mean([low <= 3.0 <= high for low, high in intervals]) <= 1.0


def test_runs_that_hang_together_widen_the_interval():
    rng = np.random.default_rng(1)
    alone = drawn(rng, 3.0, 1_000)
    together = Latency(tuple(np.repeat(alone.times_ms[:100], 10)))

    widths = [high - low for low, high in (alone.p50_interval_ms, together.p50_interval_ms)]
    assert widths[1] > 2 * widths[0]


def test_the_ratio_of_medians_tells_a_change_from_noise():
    rng = np.random.default_rng(2)

    low, high = median_ratio_interval(drawn(rng, 3.0), drawn(rng, 3.0))
    assert low < 1 < high
    low, high = median_ratio_interval(drawn(rng, 3.6), drawn(rng, 3.0))
    assert 1 < low < 1.2 < high


def test_every_run_is_counted_and_warm_up_is_not():
    calls: list[int] = []

    latency = measure_interleaved({"a": lambda: calls.append(1)}, 250, n_warm_up=30)["a"]

    assert (len(calls), latency.n) == (280, 250)


def test_a_slow_warm_up_leaves_no_trace():
    clock = Clock()
    works_ms = iter([50] * 5 + [1] * MIN_RUNS)

    times = measure_interleaved({"a": lambda: clock.works(next(works_ms))}, n_warm_up=5, clock_ns=clock)

    assert times["a"].max_ms == 1


def test_preparing_is_not_timed():
    clock, heard = Clock(), list[object]()

    times = measure_interleaved(
        {"a": heard.append, "b": lambda: clock.works(1)},
        prepare={"a": lambda: clock.works(2)},
        n_warm_up=0,
        clock_ns=clock,
    )

    assert heard == [None] * MIN_RUNS
    assert (times["a"].max_ms, times["b"].max_ms) == (0, 1)


def test_percentiles_are_those_of_the_runs():
    clock = Clock()
    works_ms = iter([1] * 180 + [4] * 19 + [9])

    latency = measure_interleaved({"a": lambda: clock.works(next(works_ms))}, 200, n_warm_up=0, clock_ns=clock)["a"]

    assert (latency.p50_ms, latency.p95_ms, latency.max_ms) == (1, 4, 9)
    assert 4 <= latency.p99_ms < 9


def test_too_few_runs_are_refused():
    with pytest.raises(ValueError, match="199 runs are too few"):
        measure_interleaved({"a": lambda: None}, 199)


def test_interleaved_calls_take_turns():
    turns: list[str] = []

    measure_interleaved({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")})

    assert "".join(turns) == "ab" * (len(turns) // 2)


@pytest.mark.executorch
def test_every_hop_of_the_end_to_end_run_ends_in_a_decision(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    golden = Golden.from_bytes(bundle.read(bundle.manifest.golden_file))

    arrive, decide = end_to_end_calls(Recogniser(bundle), golden.signal_uv[0].astype(np.float32))
    latency = measure_interleaved({"whole": decide}, prepare={"whole": arrive})["whole"]

    assert latency.n == MIN_RUNS
    assert 0 < latency.p50_ms < 100
