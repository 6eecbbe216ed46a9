"""Write files and folders whole or not at all, and read only what is a file."""

import io
import os
import shutil
import stat
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import CpepError

_MAX_UNPACKED_BYTES = 1 << 26  # of an archive of arrays; golden inputs at paper size take 0.3 MB each


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it takes the place of `path`, on any failure it is removed.

    The old file, if there was one, survives every failure, a full disk included.
    Raises CpepError when the disk refuses.
    """
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise CpepError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, on any failure it is removed.

    A folder cannot be replaced in one step, so the old one steps aside first and comes back if the swap fails.
    """
    temporary = _beside(path)
    retired = _beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        if path.exists():
            os.replace(path, retired)
        try:
            os.replace(temporary, path)
        except OSError:
            if retired.exists():
                os.replace(retired, path)
            raise
    except OSError as error:
        raise CpepError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(retired, ignore_errors=True)


def check_free(path: Path, force: bool = False) -> None:
    """Check, before any work is done, that a file can be written there and takes the place of nothing.

    force: a plain file may be replaced
    Raises CpepError when something is there already, or the folder cannot be written to.
    """
    if path.is_dir():
        raise CpepError(f"{path} is a folder: give the name of a file")
    if os.path.lexists(path) and not force:
        raise CpepError(f"{path} exists and is not replaced: choose another name, or say --force")
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise CpepError(f"cannot write {path}: {folder} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CpepError(f"cannot write {path}: you may not write to {folder}")


def read_plain(file: Path, max_bytes: int) -> bytes:
    """The content of a plain file: no link is followed, no pipe waited for, nothing read beyond the limit.

    Raises OSError when it is no plain file that can be read, ValueError when it is larger.
    """
    handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{file} is no plain file")
        if status.st_size > max_bytes:
            raise ValueError(f"{file.name} has {status.st_size} bytes, {max_bytes} at the most")
        with open(handle, "rb", closefd=False) as stream:
            return stream.read(max_bytes)
    finally:
        os.close(handle)


def read_arrays(content: bytes, names: Iterable[str]) -> dict[str, NDArray[np.generic]]:
    """Some arrays out of the content of an `.npz`, never a pickle.

    Raises ValueError for all that is no such archive, lacks one of them, or would unpack without end.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_UNPACKED_BYTES:
                raise ValueError("it would unpack to more than any export writes")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except Exception as error:  # on bytes that somebody made up, zipfile and numpy raise whatever comes
        raise ValueError(str(error) or type(error).__name__) from error


def _beside(path: Path) -> Path:
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"


def _sync(file: Path) -> None:
    if file.is_file():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
