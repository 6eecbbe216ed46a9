"""`cpep-edge train`, interrupted at every file that it writes and resumed by the same command, gives the same bits."""

import os
import re
import signal
import sys
import traceback
from itertools import cycle
from pathlib import Path

import pytest

from cpep_edge import cli, files
from cpep_train import training
from cpep_train.training import STAGES
from tests.train.toy_corpus import write_recipe

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_replace = os.replace


def _command(words: list[str], log: Path, done: Path, number: int | None = None) -> int:
    """Run the command in another process, which gets signal `number` when it writes a file; returns its exit status.

    done: list of the files at which a process already got a signal, before or after the file was written; each is used
        once
    """
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    status = 99  # from here on in the child process
    with log.open("w") as err:
        os.dup2(err.fileno(), 2)

    def signalled(when: str) -> None:
        if number is not None and when not in done.read_text().splitlines():
            with done.open("a") as file:
                file.write(when + "\n")
            os.kill(os.getpid(), number)

    def replace(source: Path, target: Path) -> None:
        name = f"{target.parent.name}/{target.name}, {'again' if target.exists() else 'at first'}"
        signalled(f"before {name}")
        _replace(source, target)
        signalled(f"after {name}")

    try:
        sys.stderr = os.fdopen(2, "w", buffering=1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        files.os.replace = replace
        sys.argv = ["cpep-edge", *words]
        cli.main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _content(run: Path) -> dict[str, bytes]:
    """All files of a run, except the time of its start, the durations of its epochs and the picture of its curves."""
    found = {str(file.relative_to(run)): file.read_bytes() for file in sorted(run.rglob("*")) if file.is_file()}
    found["curves.png"] = found["curves.png"][:8]
    for name in found:
        if name.endswith(".csv"):
            found[name] = re.sub(rb",[^,]*$", b"", found[name], flags=re.MULTILINE)
        elif name.endswith(".json"):
            found[name] = re.sub(rb'"created_utc": "[^"]*"', b"", found[name])
    return found


@pytest.mark.slow
def test_a_command_broken_off_at_every_file_it_writes_resumes_to_the_same_run(
    toy_corpus, tiny_recipe, tmp_path, monkeypatch
):
    monkeypatch.undo()  # in this test the curves are drawn
    file, log, done = write_recipe(tiny_recipe, tmp_path / "tiny.toml"), tmp_path / "log", tmp_path / "done"
    done.touch()
    words = ["train", str(file), "--data", str(toy_corpus.folder), "--out"]
    assert _command([*words, str(tmp_path / "whole")], log, done) == 0, log.read_text()
    run, numbers = tmp_path / "run", cycle(SIGNALS)
    while True:
        number, n_before = next(numbers), len(done.read_text().splitlines())
        status = _command([*words, str(run), "--resume"], log, done, number)
        said, tried = log.read_text(), done.read_text().splitlines()
        assert "Traceback" not in said, (tried[-1], said)
        if len(tried) == n_before:
            break
        assert status == (-signal.SIGKILL if number == signal.SIGKILL else 1), (tried[-1], said)
    assert status == 0, said
    for stage in STAGES:
        for name in ("resume.ckpt, at first", "resume.ckpt, again", "weights.safetensors, at first"):
            assert {f"before {stage}/{name}", f"after {stage}/{name}"} <= set(tried)
    assert {"before run/checkpoint.json, at first", "after run/recipe.json, at first"} <= set(tried)
    assert _content(run) == _content(tmp_path / "whole")


def test_a_stage_taken_over_from_another_run_is_not_done_before_its_weights_are_whole(
    trained_run, tmp_path, monkeypatch
):
    def killed(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:100])
        if source.name == "weights.safetensors":
            raise KeyboardInterrupt

    monkeypatch.setattr(training.shutil, "copyfile", killed)
    with pytest.raises(KeyboardInterrupt):
        training._copy(trained_run / "pose-mae", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["epochs.csv"]
