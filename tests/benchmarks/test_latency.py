import time
from pathlib import Path

import numpy as np
import pytest

from cpep_bench.latency import MIN_RUNS, end_to_end_latency, measure, measure_interleaved
from cpep_edge.bundle import Bundle
from cpep_edge.golden import Golden
from cpep_edge.recogniser import Recogniser


def test_every_run_is_counted_and_warm_up_is_not() -> None:
    calls: list[int] = []

    latency = measure(lambda: calls.append(1), 250, n_warm_up=30)

    assert (len(calls), latency.n) == (280, 250)


def test_a_slow_warm_up_leaves_no_trace() -> None:
    waits_s = iter([0.05] * 5 + [0.0] * MIN_RUNS)

    assert measure(lambda: time.sleep(next(waits_s)), n_warm_up=5).max_ms < 50


def test_preparing_is_not_timed() -> None:
    latency = measure(lambda argument: None, prepare=lambda: time.sleep(0.002), n_warm_up=0)

    assert latency.p50_ms < 1


def test_percentiles_are_those_of_the_runs() -> None:
    waits_s = iter([0.0] * 180 + [0.004] * 20)

    latency = measure(lambda: time.sleep(next(waits_s)), 200, n_warm_up=0)

    assert latency.p50_ms < 2 < 4 <= latency.p95_ms <= latency.p99_ms <= latency.max_ms


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="199 runs are too few"):
        measure(lambda: None, 199)


def test_interleaved_calls_take_turns() -> None:
    turns: list[str] = []

    measure_interleaved({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")})

    assert "".join(turns) == "ab" * (len(turns) // 2)


@pytest.mark.executorch
def test_every_hop_of_the_end_to_end_run_ends_in_a_decision(tiny_bundle: Path) -> None:
    bundle = Bundle(tiny_bundle)
    golden = Golden.from_bytes(bundle.read(bundle.manifest.golden_file))

    latency = end_to_end_latency(Recogniser(bundle), golden.signal_uv[0].astype(np.float32))

    assert latency.n == MIN_RUNS
    assert 0 < latency.p50_ms < 100
