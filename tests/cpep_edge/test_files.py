import errno
import os
from pathlib import Path

import pytest

from cpep_edge import files
from cpep_edge.errors import CpepError
from cpep_edge.files import check_free, replacing
from cpep_edge.toml_text import load_toml


def test_a_file_takes_its_name_only_when_it_is_whole(tmp_path):
    target = tmp_path / "a" / "file"
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ValueError("bug")])
def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path, failure):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(type(failure)), replacing(target) as temporary:
        temporary.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_one_sentence_and_the_old_file_survives(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(CpepError, match=r"cannot write .*file: No space left on device"), replacing(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_text() == "old"


def test_writing_to_a_device_that_is_full_is_told(tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("/dev/full: this system has none")
    with pytest.raises(CpepError, match="No space left"), replacing(tmp_path / "file") as temporary:
        temporary.symlink_to(full)
        with temporary.open("wb", buffering=0) as file:
            file.write(b"x")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("pipe", "is not a plain file"),
        ("/dev/zero", "is not a plain file"),
        (".", "is not a plain file"),
        ("gone", "No such file or directory"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"a = '\xff'", "not UTF-8 text"),
        (b"a = 1\na = 2", "Cannot overwrite a value"),
        (b"a = " + b"9" * 10_000, "integer"),
    ],
)
def test_what_is_no_toml_file_is_one_reason_and_nobody_waits_for_it(tmp_path, given, said):
    os.mkfifo(tmp_path / "pipe")
    file = tmp_path / (given if isinstance(given, str) else "file.toml")
    if isinstance(given, bytes):
        file.write_bytes(given)
    with pytest.raises(ValueError, match=said):
        load_toml(file)


def test_toml_is_read_through_a_link_and_behind_a_mark_of_its_encoding(tmp_path):
    (tmp_path / "file.toml").write_bytes(b"\xef\xbb\xbfgestures = ['Fist']\r\n")
    (tmp_path / "link.toml").symlink_to("file.toml")
    assert load_toml(tmp_path / "link.toml") == {"gestures": ["Fist"]}


@pytest.mark.parametrize("there", ["pipe", "device", "link to a device", "folder"])
def test_what_is_no_plain_file_is_never_replaced(tmp_path, there, monkeypatch):
    """Not even with --force: /dev/null would then be a file for all programs."""
    path = tmp_path / "out"
    if there == "pipe":
        os.mkfifo(path)
    elif there == "folder":
        path.mkdir()
    elif there == "link to a device":
        path.symlink_to(os.devnull)
    else:
        path = Path(os.devnull)
        monkeypatch.setattr(os, "replace", None)  # so that a failing test does not replace it
    with pytest.raises(CpepError, match="is not a plain file|is a folder"):
        check_free(path, force=True)
    with pytest.raises(CpepError, match="it is not a plain file"), replacing(path) as temporary:
        temporary.write_text("x")
    assert not path.is_file()


def test_a_new_folder_is_on_the_disk_before_anything_is_put_into_it(tmp_path, monkeypatch):
    """A new name is lost in a power cut, with all that is inside, unless the folder above it was synced."""
    kept: list[Path] = []
    monkeypatch.setattr(files, "sync", kept.append)
    files.make_folder(tmp_path / "runs" / "one")
    assert set(kept) == {tmp_path, tmp_path / "runs"}
