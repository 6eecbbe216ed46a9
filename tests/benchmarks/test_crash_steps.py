"""The harness that makes each step fail in turn, here for small scenarios; benchmarks/results has a table of all."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import python

pytestmark = [pytest.mark.slow, pytest.mark.executorch]  # the script always needs a bundle

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "crash_steps.py"


def run(bundle: Path, only: str, patch: str = "") -> subprocess.CompletedProcess[str]:
    """patch: Python code that breaks the package before the scenarios run"""
    if not sys.platform.startswith("linux") or shutil.which("cc") is None:
        pytest.skip("steps are counted on Linux, by a library that a C compiler makes")
    words = [str(SCRIPT), str(bundle), "--only", only, "--allocations", "10"]
    broken = f"import runpy, sys; {patch}; sys.argv = {words!r}; runpy.run_path({words[0]!r}, run_name='__main__')"
    start = f"import runpy, sys; sys.exit(runpy.run_path({words[0]!r})['again_preloaded'](['-c', {broken!r}]))"
    return python("-c", start) if patch else python(*words)


def table(text: str) -> dict[str, list[int]]:
    """The counts of each scenario."""
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("| ")]
    return {name: [int(cell) for cell in cells] for name, *cells in rows if all(cell.isdigit() for cell in cells)}


@pytest.mark.parametrize("only", ["profile of", "memory of versions", "import", "journal", "checkpoint of a run"])
def test_whatever_step_falls_the_old_or_the_new_is_there(tiny_bundle, only):
    done = run(tiny_bundle, only)

    assert done.returncode == 0, done.stdout + done.stderr
    for counts in table(done.stdout).values():
        *tried, lost = counts
        assert min(tried) > 5
        assert lost == 0


def test_ways_to_write_that_lose_something_are_seen_to(tiny_bundle):
    done = run(tiny_bundle, "control")

    assert done.returncode == 0, done.stdout + done.stderr
    lost = [counts[-1] for counts in table(done.stdout).values()]
    assert len(lost) == 3
    assert all(lost)


@pytest.mark.parametrize(
    ("patch", "only"),
    [
        ("import cpep_edge.files as f, cpep_edge.folders as g; f.sync = g.sync = lambda path: None", "profile of"),
        ("import cpep_edge.files as f, cpep_edge.folders as g; f.sync = g.sync = lambda path: None", "import over"),
        ("import cpep_edge.folders as g; g._restore = lambda path: None", "import, no exchange"),
    ],
)
def test_the_harness_finds_what_was_broken(tiny_bundle, patch, only):
    done = run(tiny_bundle, only, patch)

    assert done.returncode == 1
    assert re.search(r"^- .*, step \d+: ", done.stdout, re.M), done.stdout + done.stderr
