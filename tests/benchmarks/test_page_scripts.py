"""Every script that a page mentions is run, here on small inputs or by its own test, or there is a reason why not."""

import re
from pathlib import Path

import pytest

from cpep_train.checkpoint import save_checkpoint
from tests.processes import environment, python

ROOT = Path(__file__).parents[2]
SMALL = {
    "benchmarks/measure_chain.py": "--runs 200 --out OUT.md",
    "benchmarks/measure_enrolment.py": "BUNDLE RUN --data CORPUS --out OUT.md",
    "benchmarks/measure_index.py": "RUN --data CORPUS --out OUT.md",
    "benchmarks/measure_quantisation.py": "--run RUN --data CORPUS --out OUT.md",
    "benchmarks/measure_runtimes.py": "--out OUT.md",
    "cpep_bench.decoding": "--out OUT.md",
}
BY_OTHER_TESTS = {
    "benchmarks/crash_steps.py": "benchmarks/test_crash_steps.py",
    "benchmarks/fuzz_bundle.py": "benchmarks/test_fuzz_bundle.py",
    "benchmarks/fuzz_parsers.py": "benchmarks/test_fuzz_parsers.py",
    "benchmarks/measure_3dc.py": "benchmarks/test_3dc_loop.py",
    "benchmarks/measure_decisions.py": "benchmarks/test_measure_decisions.py",
    "benchmarks/measure_readers.py": "benchmarks/test_link_readers.py",
    "benchmarks/measure_real.py": "benchmarks/test_measure_real.py",
    "benchmarks/measure_realism.py": "benchmarks/test_measure_realism.py",
    "benchmarks/measure_teaching.py": "benchmarks/test_measure_teaching.py",
    "benchmarks/measure_transfer.py": "benchmarks/test_measure_transfer.py",
    "cpep_bench.link_readers": "benchmarks/test_link_readers.py",
    "cpep_edge": "train/test_distributed.py",  # for torchrun; test_page_commands.py tests the command line itself
}
NOT_RUN = {
    "benchmarks/measure_training.py": "reads with up to eight processes, from files, shards and HTTP: minutes",
    "cpep_bench.brainflow_transcript": "firmware_bridge/test_brainflow_peer.py talks to the same peer",
    "benchmarks/measure_chips.py": "needs bundles of paper size for five processors and their emulators",
    "benchmarks/measure_encoder.py": "trains and lowers eight variants of the paper's encoder: hours",
    "benchmarks/measure_growth.py": "grows encoders and indices until they are large, which is its point: minutes",
    "benchmarks/measure_import.py": "writes and imports 85 MB files ten times: minutes, and its sizes are its point",
    "benchmarks/measure_index_caches.py": "needs valgrind, under which it takes minutes",
    "benchmarks/measure_live.py": "needs a prompted recording of a wearer, and a browser for its pictures",
    "export/mcu/figures.py": "needs a compiler and an emulator of Cortex-M; export/test_mcu.py runs what it calls",
    "firmware_bridge/firmware/fuzz/run.py": "needs clang's fuzzer; the fuzzed code is tested in test_firmware_codec.py",
}
_SCRIPT = re.compile(r"\bpython3? (?:-m )?((?:[a-z_]+/)+[a-z0-9_]+\.py|cpep_[a-z]+(?:\.[a-z_]+)?)")


def _scripts() -> set[str]:
    pages = [page for page in ROOT.glob("**/*.md") if ".venv" not in page.parts]
    named = {script for page in pages for script in _SCRIPT.findall(page.read_text(encoding="utf-8"))}
    return named | ({"cpep_edge"} if any("torchrun" in page.read_text(encoding="utf-8") for page in pages) else set())


def test_every_script_of_a_page_is_run_or_says_why_not():
    assert _scripts() == {*SMALL, *BY_OTHER_TESTS, *NOT_RUN}
    assert all((ROOT / "tests" / test).is_file() for test in BY_OTHER_TESTS.values())
    scripts = {file.relative_to(ROOT).as_posix() for file in ROOT.glob("benchmarks/measure_*.py")}
    assert scripts <= _scripts()


@pytest.mark.slow
@pytest.mark.executorch
@pytest.mark.parametrize("script", SMALL)
def test_a_script_of_a_page_runs_on_small_inputs(script, tiny_checkpoint, tiny_bundle, tiny_corpus, tmp_path):
    save_checkpoint(tmp_path / "run", tiny_checkpoint)
    names = {"BUNDLE": tiny_bundle, "RUN": tmp_path / "run", "CORPUS": tiny_corpus}
    words = [names.get(word, word) for word in SMALL[script].split()]
    start = [ROOT / script] if script.endswith(".py") else ["-m", script]
    done = python(*start, *words, cwd=tmp_path, env=environment(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    assert any(file.stat().st_size for file in tmp_path.glob("*.md"))
