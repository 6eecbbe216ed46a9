"""The guided fuzzer finds planted bugs. Without this test, its table of results would mean nothing."""

import importlib.util

import pytest

from fuzz_parsers import PLANTED, fuzz

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _atheris() -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: pip install 'cpep-edge[fuzz]'")


def test_a_planted_fault_is_found(tmp_path):
    found = fuzz(tmp_path, PLANTED, 200_000, tmp_path)

    assert "KeyError" in found.finding
    assert 0 < found.n_inputs < 200_000


@pytest.mark.executorch
@pytest.mark.parametrize("target", ["json", "array"])
def test_parsers_take_or_refuse_what_is_made_up(tiny_bundle, tmp_path, target):
    found = fuzz(tiny_bundle, target, 2_000, tmp_path)

    assert found.finding == ""
    assert found.n_inputs >= 2_000
    assert found.n_edges > 20  # it passed the first check
