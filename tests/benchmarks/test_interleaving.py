import sys
from pathlib import Path

import pytest

from cpep_bench.interleaving import STRETCH_RUNS, interleave
from cpep_edge.errors import CpepError


def serving(body: str) -> list[str]:
    """The command of a process that serves calls of `run`, which `body` defines."""
    return [sys.executable, "-c", f"from cpep_bench.interleaving import serve\n{body}\nserve(run)"]


def writing(letter: str, file: Path) -> list[str]:
    return serving(f"def run(): open({str(file)!r}, 'a').write({letter!r})")


def test_processes_work_in_turns_and_the_runs_that_wake_them_are_not_counted(tmp_path):
    done = tmp_path / "done"

    times = interleave({"a": writing("a", done), "b": writing("b", done)}, 210)

    assert {name: (turn.wall.n, turn.thread.n) for name, turn in times.items()} == {"a": (210, 210), "b": (210, 210)}
    stretches = done.read_text().replace("ab", "a b").replace("ba", "b a").split()
    assert "".join(stretch[0] for stretch in stretches) == "ab" * 11
    waking = len(stretches[0]) - STRETCH_RUNS
    assert waking > 0
    assert [len(stretch) - waking for stretch in stretches[::2]] == [STRETCH_RUNS] * 10 + [10]


def test_processor_time_leaves_waiting_out():
    waits = interleave({"a": serving("import time\ndef run(): time.sleep(0.002)")}, 200)["a"]

    assert waits.thread.p50_ms < 1 < 2 <= waits.wall.p50_ms


@pytest.mark.parametrize(
    "body",
    ["raise SystemExit('no such encoder')", "def run(): raise SystemExit('no such encoder')"],
    ids=["at once", "in the midst"],
)
def test_a_process_that_fails_is_told_in_its_own_last_words(body):
    with pytest.raises(CpepError, match="the process of ours failed: no such encoder"):
        interleave({"ours": serving(body)}, 200)


def test_too_few_runs_are_refused_before_anything_starts():
    with pytest.raises(ValueError, match="199 runs are too few"):
        interleave({"a": ["/no/such/program"]}, 199)
