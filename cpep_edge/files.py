"""Write files completely or not at all, and read only plain files. For folders see `cpep_edge.folders`."""

import errno
import io
import math
import os
import stat
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import CpepError

_MAX_UNPACKED_BYTES = 1 << 26  # of an archive of arrays; golden inputs at the paper's size take 0.3 MB each


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success that file replaces `path`, on any failure it is removed.

    The old file, if there was one, survives every failure, also a full disk.
    Raises CpepError when the file cannot be written.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        require_plain(path)
        make_folder(path.parent)
        yield temporary
        sync(temporary)
        require_plain(path)  # never replace a device or a pipe: run as root, this would delete /dev/null
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise CpepError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file completely or not at all, text as UTF-8; raises CpepError as `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, and sync them to the disk, so that a power cut does not undo them."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
        sync(folder.parent)


def check_free(path: Path, force: bool = False) -> None:
    """Check, before any work is done, that a file can be written at `path` without replacing anything.

    force: a plain file may be replaced
    Raises CpepError when `path` exists already, or the folder cannot be written to.
    """
    if path.is_dir():
        raise CpepError(f"{path} is a folder: give the name of a file")
    if os.path.lexists(path) and not force:
        raise CpepError(f"{path} exists and is not replaced: choose another name, or add --force")
    if path.exists() and not path.is_file():
        raise CpepError(f"{path} is not a plain file, and is not replaced: choose another name")
    check_writable(path)


def check_writable(path: Path) -> None:
    """Raise CpepError, before any work is done, when the folder of `path` cannot be written to."""
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise CpepError(f"cannot write {path}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CpepError(f"cannot write {path}: you have no permission to write to {folder}")


def require_plain(file: Path) -> None:
    """Raise OSError, as for a missing file, when `file` exists and is not a plain file, but for example a pipe."""
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "it is not a plain file", str(file))


def read_plain(file: Path, max_bytes: int, *, follow: bool = False) -> bytes:
    """The content of a plain file; never waits for a pipe, and never reads more than `max_bytes`.

    follow: follow a link, for a path that the user gave; False for a file in a folder from elsewhere
    Raises OSError when it is not a plain file that can be read, ValueError when it is larger than `max_bytes`.
    """
    handle = os.open(file, os.O_RDONLY | (0 if follow else os.O_NOFOLLOW) | os.O_NONBLOCK)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{file} is not a plain file")
        if status.st_size > max_bytes:
            raise ValueError(f"{file.name} has {status.st_size} bytes, {max_bytes} at the most")
        with open(handle, "rb", closefd=False) as stream:
            return stream.read(max_bytes)
    finally:
        os.close(handle)


def read_arrays(content: bytes, n_dimensions: Mapping[str, int]) -> dict[str, NDArray[np.generic]]:
    """Read arrays from the content of an `.npz`, never a pickle; their size must agree with their bytes.

    n_dimensions: number of dimensions of each array to read, by name
    Raises ValueError when the content is not such an archive, lacks an array or has it in another form, or would
    unpack to too much.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_UNPACKED_BYTES:
                raise ValueError("it would unpack to more than any export writes")
            return {name: _array(archive.read(f"{name}.npy"), name, number) for name, number in n_dimensions.items()}
    except Exception as error:  # on forged bytes, zipfile and numpy can raise any exception
        raise ValueError(str(error) or type(error).__name__) from error


def as_float32(array: NDArray[np.generic], name: str) -> NDArray[np.float32]:
    """Numbers from a file as float32. Raises ValueError when one is infinite or NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} holds a number that is infinite, or none")
    return numbers


def _array(content: bytes, name: str, n_dimensions: int) -> NDArray[np.generic]:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} is in a version of the format that no export writes")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, kind = header(file)  # type: ignore[no-untyped-call]
    data = content[file.tell() :]
    if kind.hasobject or kind.kind not in "fiu" or len(shape) != n_dimensions:
        raise ValueError(f"{name} is not {n_dimensions}-dimensional numbers")
    if not all(isinstance(size, int) and size > 0 for size in shape) or math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"{name} has {len(data)} bytes, not those of the shape {shape} that it names")
    return np.frombuffer(data, kind).reshape(shape, order="F" if by_columns else "C")


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk; links and devices are skipped."""
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
