import gc
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cpep_edge import cli
from cpep_edge.errors import CpepError
from cpep_edge.extras import EXTRA_OF, PACKAGE_OF
from tests.processes import cpep_edge, environment, invoke, python, start, without_package

HEAVY = {"torch", "executorch", "torchao", "lightning", "hnswlib", "serial", "scipy", "h5py", "sklearn", "matplotlib"}


@pytest.mark.parametrize("statement", ["import cpep_edge", "import cpep_edge.cli"])
def test_importing_pulls_in_nothing_heavy(statement):
    script = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    assert not HEAVY & set(json.loads(python("-c", script).stdout))


def test_help_names_the_commands_of_the_contract():
    answer = invoke("--help")
    assert answer.exit_code == 0
    for command in ("demo", "data", "train", "eval", "export", "inspect", "verify", "simulate", "live", "bench"):
        assert f" {command} " in answer.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "nowhere.cpep"),
        ("inspect", "nowhere.cpep"),
        ("live", "nowhere.cpep", "--port", "nowhere"),
        ("data", "info", "nowhere"),
        ("simulate", "nowhere.hdf5"),
        ("train", "nothing.toml", "--data", "nowhere", "--out", "nowhere"),
    ],
)
def test_what_is_not_there_is_one_sentence(arguments):
    answer = invoke(*arguments)
    assert isinstance(answer.exception, CpepError)
    assert answer.stdout == ""
    assert "\n" not in str(answer.exception)


def test_a_failure_is_said_on_stderr_with_exit_1():
    answer = cpep_edge("verify", "nowhere.cpep")
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: ")
    assert answer.stderr.count("\n") == 1


def test_wrong_usage_is_exit_2():
    def exit_of(*arguments: str) -> int:
        return invoke(*arguments).exit_code

    assert exit_of("live") == 2
    assert exit_of("export", "run", "--data", "d", "--out", "o", "--quant", "int7") == 2
    assert exit_of("export", "run", "--data", "d", "--out", "o", "--chip-ram", "64") == 2  # no chip is chosen
    for participants in ("x", "8-1", "1,1", "1-3,2", "0-2", "1-10000"):
        assert exit_of("data", "import", "3dc", "a", "b", "--participants", participants) == 2
    for option, value in (("--speed", "inf"), ("--drift", "nan"), ("--drift", "1e12"), ("--seed", "-1")):
        assert exit_of("simulate", "nowhere.hdf5", option, value) == 2
    for seeds in ("1,1", "-1", "a"):
        assert exit_of("sweep", "demo", "--data", "d", "--out", "o", "--seeds", seeds) == 2


SLOW = {"marks": pytest.mark.slow}


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("torch", "train demo --data d --out o", "train"),
        pytest.param("torch", "eval r --data d", "train", **SLOW),
        pytest.param("lightning", "train demo --data d --out o", "train", **SLOW),
        pytest.param("lightning", "sweep demo --data d --out o", "train", **SLOW),
        ("sklearn", "eval r --data d", "train"),
        pytest.param("safetensors", "robustness r --data d", "train", **SLOW),
        ("torch", "export r --data d --out o", "train,export"),
        ("yaml", "data info split.yaml", "train"),
        ("cryptography", "keygen k", "trust"),
        ("mujoco", "data synth nowhere", "sim"),
        pytest.param("mujoco", "demo --out nowhere", "sim", **SLOW),
    ],
)
def test_a_missing_package_is_one_sentence_with_the_line_that_installs_it(module, arguments, extra, tmp_path):
    (tmp_path / "split.yaml").write_text("train: []")
    code = f"sys.argv = ['cpep-edge', *{arguments.split()!r}]\nfrom cpep_edge.cli import main\nmain()"
    answer = python("-c", without_package(module) + code, cwd=tmp_path)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1].startswith("error: ")
    assert f"pip install 'cpep-edge[{extra}]'" in answer.stderr.splitlines()[-1]
    assert "Traceback" not in answer.stderr


def test_every_extra_that_is_named_declares_its_package():
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for module, extra in EXTRA_OF.items():
        names = {re.split(r"[^A-Za-z0-9_.-]", text)[0] for text in declared["optional-dependencies"][extra]}
        assert PACKAGE_OF.get(module, module).replace("_", "-") in {name.replace("_", "-") for name in names}


def test_debug_shows_the_traceback():
    answer = cpep_edge("--debug", "verify", "nowhere.cpep")
    assert answer.returncode == 1
    assert "Traceback" in answer.stderr


UNREAD = """
import sys
from cpep_edge.blocks import StreamInfo
from cpep_edge.cli.live import _json_lines
from cpep_edge.decisions import Decision
with _json_lines(StreamInfo("x", 1, 100.0), lambda: {"type": "summary"}) as printed:
    for number in range(5_000):
        printed(Decision(number, 0.0, "Fist", False, "Fist", 0.8, 0.4, False, False, 1.5))
    print("went on", file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize("reads", [True, False])
def test_decisions_that_nobody_reads_hold_up_nothing(reads):
    with start("-c", UNREAD) as process:
        said = process.stderr.readline()
        if not reads:
            assert process.wait(timeout=120) == 0
            assert "decisions were not printed" in process.stderr.read()
        printed = process.stdout.read().splitlines()

    assert said == "went on\n"
    assert json.loads(printed[0])["type"] == "decision"
    if reads:
        assert json.loads(printed[-1]) == {"type": "summary"}
        assert len({json.loads(line)["sample_index"] for line in printed[:-1]}) == len(printed) - 1


def test_ctrl_c_while_a_class_is_made_is_no_traceback(monkeypatch):
    """Python 3.11 wraps exceptions from `__set_name__`, which pydantic defines in each model that is imported."""

    class Interrupted:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", lambda: type("Model", (), {"field": Interrupted()}))
    monkeypatch.setattr(cli, "_stop_by_signal", lambda: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)  # freezing would hide objects from later tests
    with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:  # from 3.12 on it is not wrapped: typer's case
        cli.main()
    assert str(caught.value) in ("", "130")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_answer_that_cannot_be_written_is_one_sentence():
    with Path("/dev/full").open("w") as full:
        done = cpep_edge("--version", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "error: a file, or the answer, cannot be read or written: No space left on device\n"


def test_a_folder_that_was_removed_is_said(tmp_path):
    here = tmp_path / "gone"
    here.mkdir()
    script = f"cd {here} && rmdir {here} && exec {sys.executable} -m cpep_edge data synth out --users 1 --seconds 1"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 1
    assert done.stderr == "error: the folder that you are in was removed: change to another\n"
