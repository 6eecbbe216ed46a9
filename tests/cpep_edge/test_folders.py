"""Replacing a folder: one that was changed is kept, and a kill at any moment leaves the old or the new one."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cpep_edge import folders
from cpep_edge.errors import ConfigError
from cpep_edge.folders import NOTE_FILE, made_by, output_folder, replacing_folder, restore, write_reports
from tests.processes import invoke, start


def test_a_folder_replaces_the_old_one_only_when_it_is_whole(tmp_path):
    target = tmp_path / "bundle"
    with replacing_folder(target) as folder:
        (folder / "one").write_text("1")
    with pytest.raises(RuntimeError), replacing_folder(target) as folder:
        (folder / "two").write_text("2")
        raise RuntimeError
    assert [file.name for file in target.iterdir()] == ["one"]
    with replacing_folder(target) as folder:
        (folder / "two").write_text("2")
    assert [file.name for file in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir() if file.name != NOTE_FILE}


def write(path: Path, command: str = "data import csv", *, force: bool | None = False, **files: str) -> None:
    with output_folder(path, command, force=force) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("my only copy")

    for force in (False, True):
        with pytest.raises(ConfigError, match="thesis holds chapter1.txt, which cpep-edge did not write; choose"):
            write(tmp_path / "thesis", one="1", force=force)

    assert contents(tmp_path / "thesis") == {"chapter1.txt": "my only copy"}
    assert [file.name for file in tmp_path.iterdir()] == ["thesis"]


def test_folders_without_a_file_in_them_are_somebodys_too(tmp_path):
    (tmp_path / "out" / "empty").mkdir(parents=True)

    with pytest.raises(ConfigError, match="holds folders"):
        write(tmp_path / "out", one="1")


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()

    write(tmp_path / "out", one="1")

    assert contents(tmp_path / "out") == {"one": "1"}


def test_a_file_is_no_place_for_a_folder(tmp_path):
    (tmp_path / "out").write_text("mine")

    with pytest.raises(ConfigError, match="exists and is not a folder"):
        write(tmp_path / "out", one="1")

    assert (tmp_path / "out").read_text() == "mine"


def test_an_earlier_output_that_nobody_touched_is_replaced(tmp_path):
    write(tmp_path / "out", one="1", two="2")
    assert made_by(tmp_path / "out") == "data import csv"

    write(tmp_path / "out", three="3")

    assert contents(tmp_path / "out") == {"three": "3"}
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_what_a_user_added_to_an_earlier_output_stays_even_with_force(tmp_path):
    write(tmp_path / "out", one="1")
    (tmp_path / "out" / "notes.txt").write_text("mine")

    for force in (False, True):
        with pytest.raises(ConfigError, match="holds notes.txt, which cpep-edge did not write"):
            write(tmp_path / "out", one="2", force=force)

    assert contents(tmp_path / "out") == {"one": "1", "notes.txt": "mine"}


def test_what_a_user_changed_in_an_earlier_output_is_replaced_only_by_force(tmp_path):
    write(tmp_path / "out", one="1")
    (tmp_path / "out" / "one").write_text("edited")
    assert made_by(tmp_path / "out") is None

    with pytest.raises(ConfigError, match="one was changed since; add --force"):
        write(tmp_path / "out", one="2")
    with pytest.raises(ConfigError, match="one was changed since; move it away, or choose another"):
        write(tmp_path / "out", one="2", force=None)  # like a command that has no --force
    assert contents(tmp_path / "out") == {"one": "edited"}

    write(tmp_path / "out", one="2", force=True)
    assert contents(tmp_path / "out") == {"one": "2"}


def test_an_edit_of_the_same_size_is_seen(tmp_path):
    write(tmp_path / "out", one="1")
    (tmp_path / "out" / "one").write_text("9")

    with pytest.raises(ConfigError, match="was changed since"):
        write(tmp_path / "out", one="2")


def test_another_commands_output_is_replaced_only_by_force(tmp_path):
    write(tmp_path / "out", "data synth --users 3", one="1")

    with pytest.raises(ConfigError, match="was made by data synth --users 3; add --force"):
        write(tmp_path / "out", one="2")
    write(tmp_path / "out", "data synth --users 4", one="2")
    write(tmp_path / "out", one="3", force=True)

    assert contents(tmp_path / "out") == {"one": "3"}


def test_what_comes_into_the_folder_while_the_new_one_is_made_stays(tmp_path):
    write(tmp_path / "out", one="1")

    with pytest.raises(ConfigError, match="holds late.txt"), output_folder(tmp_path / "out", "data import csv"):
        (tmp_path / "out" / "late.txt").write_text("mine")

    assert contents(tmp_path / "out") == {"one": "1", "late.txt": "mine"}


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    write(tmp_path / "real", one="1")
    (tmp_path / "out").symlink_to("real")

    write(tmp_path / "out", one="2")

    assert (tmp_path / "out").is_symlink()
    assert contents(tmp_path / "real") == {"one": "2"}


def test_a_report_takes_the_place_of_an_earlier_report_and_of_nothing_else(tmp_path):
    forms = {"report.json": b'{"a": 1, "b": 2}', "report.md": b"# one"}
    (tmp_path / "notes").write_text("mine")
    write_reports(tmp_path, forms)
    write_reports(tmp_path, {**forms, "report.md": b"# two"})
    assert (tmp_path / "report.md").read_text() == "# two"

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.md").write_text("my thesis")
    with pytest.raises(ConfigError, match=r"report\.md exists and is not an earlier report"):
        write_reports(tmp_path / "other", forms)
    assert contents(tmp_path / "other") == {"report.md": "my thesis"}

    (tmp_path / "other" / "report.json").write_text('{"mine": 1}')
    with pytest.raises(ConfigError, match=r"report\.json exists and is not an earlier report"):
        write_reports(tmp_path / "other", forms)


@pytest.mark.parametrize("figures", [{}, {"report.json": b"[1, 2]"}])
def test_a_report_that_a_second_run_would_not_know_is_not_written(figures, tmp_path):
    with pytest.raises(ValueError, match="takes a JSON object"):
        write_reports(tmp_path, {"report.md": b"# one", **figures})
    assert not list(tmp_path.iterdir())


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from cpep_edge import folders
if sys.argv[1] == "no exchange":
    folders._exchange = lambda one, other: False
for line in sys.stdin:
    step, out = line.split()
    child = os.fork()
    if not child:
        break
    print(os.waitpid(child, 0)[1], flush=True)
else:
    sys.exit()
calls = 0
def counted(function):
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == int(step):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call
for holder, name in ((os, "rename"), (os, "replace"), (os, "mkdir"), (os, "rmdir"), (os, "unlink"), (os, "fsync"),
                     (folders, "_exchange"), (os, "utime"), (os, "open")):
    setattr(holder, name, counted(getattr(holder, name)))
with folders.output_folder(Path(out), "data import csv") as folder:
    for name in "abc":
        (folder / name).write_text("new")
"""


@pytest.mark.parametrize("way", ["exchange", "no exchange"])
def test_a_kill_at_any_step_leaves_the_old_folder_or_the_new_one(tmp_path, way):
    killed = 0
    with start("-c", KILLED_AT, way, stdin=subprocess.PIPE) as process:
        for step in range(1, 200):
            out = tmp_path / str(step) / "out"
            write(out, a="old", b="old", c="old")
            process.stdin.write(f"{step} {out}\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
            restore(out)  # as the next program that opens it does
            assert contents(out) in ({name: "old" for name in "abc"}, {name: "new" for name in "abc"})

            write(out, a="next")
            assert contents(out) == {"a": "next"}
            assert [file.name for file in out.parent.iterdir()] == ["out"]  # no leftovers beside it
            if status == 0:
                break
            assert status == signal.SIGKILL
            killed += 1
    assert killed > 10


def test_a_folder_that_somebody_is_filling_is_not_tidied_away(tmp_path):
    with replacing_folder(tmp_path / "out") as first:
        (first / "one").write_text("1")
        with replacing_folder(tmp_path / "out") as second:
            (second / "two").write_text("2")
        assert (first / "one").read_text() == "1"
    assert contents(tmp_path / "out") == {"one": "1"}


def test_names_that_only_look_like_ours_are_left(tmp_path):
    lookalikes = [".out.tmp", ".out.old", ".out.12345678.tmp.txt", ".other.12345678.tmp", ".out.xyzxyzxy.tmp"]
    for name in lookalikes:
        (tmp_path / name).mkdir()

    write(tmp_path / "out", one="1")

    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*lookalikes, "out"])


def test_the_exchange_is_taken_where_the_system_has_one(tmp_path):
    if not re.match("linux|darwin", sys.platform):
        pytest.skip("this system exchanges no names")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()

    assert folders._exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "other").exists()
    assert (tmp_path / "other" / "one").exists()


@pytest.mark.parametrize(
    ("command", "option", "figures"),
    [
        (("bench", "gone.cpep", "--power", "none"), "--out", "report.json"),
        (("eval", "gone", "--data", "gone"), "--report", "evaluation.json"),
        (("eval", "gone", "--data", "gone", "--protocol", "live"), "--report", "live.json"),
        (("robustness", "gone", "--data", "gone"), "--out", "robustness.json"),
        (("sweep", "demo", "--data", "gone"), "--out", "sweep.json"),
        (("demo",), "--out", "report.json"),
    ],
)
def test_what_lies_where_a_report_would_go_is_said_before_any_work(tmp_path, command, option, figures):
    (tmp_path / figures).write_text("[1, 2]")
    done = invoke(*command, option, tmp_path)
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith(f"{tmp_path / figures} exists and is not an earlier report")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["[1, 2]"]


def test_a_pipe_where_a_report_or_a_note_would_be_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "report.json")
    os.mkfifo(tmp_path / folders.NOTE_FILE)
    with pytest.raises(ConfigError, match="is not an earlier report"):
        folders.check_report(tmp_path, "report.json")
    with pytest.raises(ConfigError, match="is not an earlier report"):
        folders.write_reports(tmp_path, {"report.json": b'{"a": 1}'})
    assert folders.made_by(tmp_path) is None
