"""Write folders completely or not at all, and never over files that cpep-edge did not write.

A new folder is filled under a temporary name beside the old one, and the two names are then exchanged in one step. If
the system cannot do that, the old folder is first renamed to `.NAME.xxxxxxxx.old`; if the process is killed at that
point, the next one renames it back.

The file `.cpep-edge.json` in a folder records the command that wrote it, and size and time of every file. So a later
run can tell its own earlier output from files that a user added or changed, which it does not touch.
"""

import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cpep_edge.errors import ConfigError, CpepError
from cpep_edge.files import check_writable, make_folder, read_plain, sync, write_file

NOTE_FILE = ".cpep-edge.json"
_MAX_JSON_BYTES = 1 << 28  # of a note (`NOTE_FILE`) or a report

_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2), RENAME_SWAP of macOS' renamex_np(2)
_AT_FDCWD = -100
_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


@contextmanager
def output_folder(path: Path, made_by: str, *, force: bool | None = None) -> Iterator[Path]:
    """Yield a temporary folder that replaces `path` on success; on any failure it is removed.

    made_by: the command, with the options that decide what it writes
    force: replace an earlier output even if it was changed since, or another command made it; None when the command
        has no such option
    Raises ConfigError when `path` holds something that no earlier run wrote, CpepError when it cannot be written.
    """
    _require_ours(path, made_by, force)
    with replacing_folder(path, ready=lambda: _require_ours(path, made_by, force)) as folder:
        yield folder
        note = {"made_by": made_by, "files": {name: _stamp(file) for name, file in _files(folder).items()}}
        (folder / NOTE_FILE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def check_output_folder(path: Path, made_by: str, *, force: bool | None = None) -> None:
    """Raise as `output_folder` would, before any work is done, when `path` must not or cannot be written."""
    check_writable(path)
    _require_ours(path, made_by, force)


def made_by(path: Path) -> str | None:
    """The command that wrote the folder; None when it is unknown or a file was added, removed or changed since."""
    note = _note(path)
    files = _files(path)
    if note is None or note[1].keys() != files.keys() or any(_stamp(files[name]) != note[1][name] for name in files):
        return None
    return note[0]


def check_report(folder: Path, figures: str) -> None:
    """Check, before any work is done, that a report can be written into a folder; only an earlier one is replaced.

    figures: file name of the report's JSON object
    Raises ConfigError when another file has this name, CpepError when the folder cannot be written to.
    """
    check_writable(folder / figures)
    try:
        taken = os.path.lexists(folder / figures) and not isinstance(_json(folder / figures), dict)
    except (OSError, ValueError, RecursionError):
        taken = True
    if taken:
        raise ConfigError(
            f"{folder / figures} exists and is not an earlier report; move it away, or choose another folder"
        )


def write_reports(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write the files of a report into a folder, in place of an earlier report; other files are left alone.

    contents: by file name; one is a JSON object, by whose keys an earlier report is recognised
    Raises ConfigError when another file has one of the names, CpepError when a file cannot be written, ValueError when
    there is no JSON object, because a later run could not recognise the report as its own.
    """
    figures = next((name for name in contents if name.endswith(".json")), None)
    if figures is None or not isinstance(json.loads(contents[figures]), dict):
        raise ValueError("a report takes a JSON object, by which a later run knows it")
    taken = [name for name in contents if os.path.lexists(folder / name)]
    if taken and not _has_keys_of(folder / figures, contents[figures]):
        raise ConfigError(
            f"{folder / taken[0]} exists and is not an earlier report; move it away, or choose another folder"
        )
    for name, content in contents.items():
        write_file(folder / name, content)


@contextmanager
def replacing_folder(path: Path, ready: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it replaces `path`, on any failure it is removed.

    A kill at any moment leaves the old folder or the new one, and its temporary folder is removed the next time.

    ready: called just before the replacement, with the content on the disk; an exception from it is a failure too
    Raises CpepError when the folder cannot be written.
    """
    path = path.resolve()  # replace the target of a link, not the link
    temporary = _beside(path, "tmp")
    try:
        make_folder(path.parent)
        with locked(path.parent):
            _tidy(path)
            temporary.mkdir()
            busy = os.open(temporary, os.O_RDONLY)
            fcntl.flock(busy, fcntl.LOCK_EX)  # a kill releases the lock, which marks this folder as abandoned
        try:
            yield temporary
            if path.is_dir():
                shutil.copymode(path, temporary)
            for folder, _, names in os.walk(temporary):
                for name in names:
                    sync(Path(folder) / name)
                sync(Path(folder))
            with locked(path.parent):
                ready()
                _swap(temporary, path)
                sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(busy)
    except OSError as error:
        raise CpepError(f"cannot write {path}: {error.strerror or error}") from error


def restore(path: Path) -> None:
    """Rename an old folder back whose replacement was killed halfway; does nothing when there is none."""
    if path.parent.is_dir() and not path.exists():
        with suppress(OSError), locked(path.parent):
            _restore(path)


def hold(folder: Path) -> int:
    """Lock a folder until the returned handle is closed, or the process ends. Users of `locked` wait meanwhile.

    Raises BlockingIOError when it is locked already.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        pass  # the file system has no locks
    return handle


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for one process at a time; others wait. A kill releases the lock, and there is no lock file."""
    while True:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.samestat(os.fstat(handle), os.stat(folder)):
            break
        os.close(handle)  # the folder was replaced while this process waited
    try:
        yield
    finally:
        os.close(handle)


def _require_ours(path: Path, command: str, force: bool | None) -> None:
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise ConfigError(f"{path} exists and is not a folder; choose another name")
    files = _files(path)
    if not files and not any(path.iterdir()):
        return
    note = _note(path)
    if note is None:
        raise ConfigError(
            f"{path} holds {next(iter(files), 'folders')}, which cpep-edge did not write; choose another folder"
        )
    stranger = next((name for name in files if name not in note[1]), None)
    if stranger is not None:
        raise ConfigError(
            f"{path} holds {stranger}, which cpep-edge did not write; move it away, or choose another folder"
        )
    if force:
        return
    way = "move it away" if force is None else "add --force to replace it"
    changed = next((name for name, file in files.items() if _stamp(file) != note[1][name]), None)
    if changed is not None:
        raise ConfigError(f"{path}: {changed} was changed since; {way}, or choose another folder")
    if note[0].split(" --")[0] != command.split(" --")[0]:
        raise ConfigError(f"{path} was made by {note[0]}; {way}, or choose another folder")


def _has_keys_of(file: Path, content: bytes) -> bool:
    """Whether a JSON file has most keys of `content`; not all, because an earlier version's report may lack some."""
    try:
        keys, asked = set(_json(file)), set(json.loads(content))
    except (OSError, ValueError, TypeError, RecursionError):
        return False
    return len(keys & asked) * 2 > len(asked)


def _json(file: Path) -> Any:
    return json.loads(read_plain(file, _MAX_JSON_BYTES, follow=True))


def _note(path: Path) -> tuple[str, dict[str, list[int]]] | None:
    try:
        note = _json(path / NOTE_FILE)
        return str(note["made_by"]), dict(note["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _files(folder: Path) -> dict[str, Path]:
    """All files in a folder and its subfolders, except its note, by relative path."""
    return {
        name: file
        for file in sorted(folder.rglob("*"))
        if (name := file.relative_to(folder).as_posix()) != NOTE_FILE and (file.is_symlink() or not file.is_dir())
    }


def _stamp(file: Path) -> list[int]:
    status = file.lstat()
    return [status.st_size, status.st_mtime_ns]


def _beside(path: Path, what: str) -> Path:
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.{what}"


def _left_beside(path: Path, what: str) -> list[Path]:
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.{what}")
    found = [other for other in path.parent.iterdir() if name.fullmatch(other.name) and other.is_dir()]
    return sorted(found, key=lambda other: other.stat().st_mtime_ns)


def _tidy(path: Path) -> None:
    """Finish or undo what a killed process began; the caller has locked the parent."""
    _restore(path)
    for left in _left_beside(path, "old"):
        shutil.rmtree(left)
    for left in _left_beside(path, "tmp"):
        handle = os.open(left, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)
        except BlockingIOError:
            pass  # another process is filling it
        finally:
            os.close(handle)


def _restore(path: Path) -> None:
    aside = _left_beside(path, "old")
    if aside and not path.exists():
        os.rename(aside[-1], path)


def _swap(temporary: Path, path: Path) -> None:
    """Replace `path` by a temporary folder; the old one ends up under the temporary name, or is deleted."""
    if not path.exists() or not any(path.iterdir()):
        os.replace(temporary, path)
    elif not _exchange(temporary, path):
        retired = _beside(path, "old")
        os.rename(path, retired)
        try:
            os.rename(temporary, path)
        except OSError:
            os.rename(retired, path)
            raise
        shutil.rmtree(retired, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False when the system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(libc, "renameat2"):
        failed = libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE)
    elif hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(*names, _EXCHANGE)
    else:
        return False
    if failed and ctypes.get_errno() not in _CANNOT_EXCHANGE:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return not failed
