import shutil
import sys
from types import SimpleNamespace

import pytest

from cpep_bench.operators import CLOCK_FACTOR, Operator, fast_clock, summarise
from tests.processes import environment, python

WARM_UP = [99.0] * 5


def event(name: str, times_ms: list[float], *, delegated: bool = False) -> SimpleNamespace:
    return SimpleNamespace(name=name, is_delegated_op=delegated, perf_data=SimpleNamespace(raw=WARM_UP + times_ms))


def test_one_run_that_had_to_wait_does_not_make_its_operator_the_longest():
    profile = summarise(
        [
            event("Method::execute", [0.010, 0.011, 8.012, 0.012]),
            event("Transpose (ND, X32) #1", [0.001, 0.001, 8.001, 0.001], delegated=True),
            event("Fully Connected (NC, QS8) #1", [0.004, 0.005, 0.005, 0.005], delegated=True),
            event("Fully Connected (NC, QS8) #2", [0.002, 0.002, 0.003, 0.003], delegated=True),
            event("native_call_linear.out", [0.001, 0.002, 0.002, 0.002]),
            event("OPERATOR_CALL", [0.9, 0.9, 0.9, 0.9]),
        ],
        arena_bytes=7,
    )

    fully, native, transpose = profile.operators
    assert (fully.kind, fully.n_calls) == ("Fully Connected (QS8)", 2)
    assert fully.mean_us == pytest.approx(6.5)  # the mean of the two faster runs
    assert transpose == Operator("Transpose (X32)", 1, pytest.approx(1.0))
    assert native.mean_us == pytest.approx(1.5)
    assert (profile.total_us, profile.arena_bytes) == (pytest.approx(10.5), 7)


def test_times_by_a_fast_clock_are_given_in_true_microseconds():
    events = [
        event("Method::execute", [73.0, 73.0]),
        event("Fully Connected (NC, QS8) #1", [0.446, 0.446], delegated=True),
    ]
    profile = summarise(events, arena_bytes=7, factor=1000)
    assert (profile.total_us, profile.operators[0].mean_us) == (pytest.approx(73.0), pytest.approx(0.446))
    assert profile.between_us == pytest.approx(72.554)
    assert profile.step_us == pytest.approx(0.001)


@pytest.mark.skipif(shutil.which("gcc") is None or sys.platform != "linux", reason="apt install gcc")
def test_a_process_under_the_fast_clock_lives_a_thousand_times_faster(tmp_path):
    code = """
import time
mono, true = time.monotonic_ns(), time.time_ns()
while time.time_ns() - true < 20_000_000:
    pass
print((time.monotonic_ns() - mono) / (time.time_ns() - true))
"""
    said = python("-c", code, env=environment(LD_PRELOAD=str(fast_clock(tmp_path))))
    assert float(said.stdout) == pytest.approx(CLOCK_FACTOR, rel=0.5)
