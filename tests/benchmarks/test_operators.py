from types import SimpleNamespace

import pytest

from cpep_bench.operators import Operator, summarise

WARM_UP = [99.0] * 5


def event(name: str, times_ms: list[float], *, delegated: bool = False) -> SimpleNamespace:
    return SimpleNamespace(name=name, is_delegated_op=delegated, perf_data=SimpleNamespace(raw=WARM_UP + times_ms))


def test_one_run_that_had_to_wait_does_not_make_its_operator_the_longest() -> None:
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
    assert fully.mean_us == pytest.approx(6.5)  # of the two faster runs
    assert transpose == Operator("Transpose (X32)", 1, pytest.approx(1.0))
    assert native.mean_us == pytest.approx(1.5)
    assert (profile.total_us, profile.arena_bytes) == (pytest.approx(10.5), 7)
