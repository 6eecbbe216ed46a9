"""One recording in the emg2pose HDF5 format: EMG and, where it was tracked, the pose of the hand.

The format is that of Salter et al., "emg2pose" (NeurIPS 2024): group `emg2pose`, compound dataset `timeseries` with the
fields `time`, `joint_angles`, `emg`, and attributes on the group. It is part of the runtime because recordings,
simulations and imports are all written in it. `cpep_train.corpus` handles corpora of many sessions.

In published files, joint angles that are all zero mean that the sample's pose could not be fitted. But a straight hand
is all zero too. So a file written here that has a missing pose, or one that is all zero, marks missing poses by NaN and
says so in the attribute `missing_pose`. A recording without any pose holds zeros throughout.
"""

import errno
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from cpep_edge.blocks import LARGEST_SAMPLE
from cpep_edge.errors import DataError
from cpep_edge.files import replacing, write_file
from cpep_edge.hand_shapes import N_JOINTS as N_JOINTS
from cpep_edge.outside import printable

RECORDED_RATE_TOLERANCE = 0.005  # relative; closer rates count as equal, because headers round them and clocks drift
JOINT_NAMES = (
    "thumb_cmc_flexion",
    "thumb_cmc_abduction",
    "thumb_mcp_flexion",
    "thumb_ip_flexion",
    *(
        f"{finger}_{joint}"
        for finger in ("index", "middle", "ring", "pinky")
        for joint in ("mcp_abduction", "mcp_flexion", "pip_flexion", "dip_flexion")
    ),
)

_GROUP = "emg2pose"
_TABLE = "timeseries"
_MISSING_POSE = "missing_pose"  # attribute: "nan" if NaN marks a missing pose; absent if all zeros do
_CHUNK_ROWS = 4_096  # rows per HDF5 chunk
_ROOM_BYTES = 1 << 21  # for attributes, the list of chunks, and the last chunk, which is written whole
_BLOCK_BYTES = 1 << 24  # read at a time when checking a table of any kind
_MOST_UNPACKED = 1_100  # largest ratio of a table's size to its file's; deflate reaches at most 1,032
_MOST_HZ = 1e7
_MOST_CHARS = 200  # of a text in the attributes
_CHECK_ROWS = 1 << 18  # rows read at a time while checking: bounds memory, not speed


NOT_PERMITTED = "you may not read it; ask its owner, or change its permissions"


@dataclass(frozen=True, slots=True)
class SessionMeta:
    """The attributes of the group `emg2pose`, named as in the published files."""

    session: str  # name of the wearing; it can have several recordings
    user: str
    stage: str  # what the wearer was asked to do; it is the gesture label of the whole recording
    side: str  # "left" or "right"
    start: float  # time of the first sample, seconds
    end: float  # time of the last sample, seconds
    num_channels: int
    sample_rate: float  # hertz
    filename: str  # without ".hdf5"


class Session:
    """One recording (an HDF5 file in emg2pose's format), opened for reading. Samples are read on demand.

    Raises DataError, which names the file and the field, when the layout is not that of emg2pose.
    """

    def __init__(self, path: Path, masked_channels: Sequence[int] = (), content: BinaryIO | None = None) -> None:
        """masked_channels: dead channels, counted from 1, which are read as zero
        content: the open file, when it was fetched from elsewhere; `path` is then only its name
        """
        self.path = path
        self.masked_channels = masked_channels
        self._file = _open(path, content)
        try:
            self._table = _table(self._file, path)
            self.meta = _meta(self._file[_GROUP], self._table, path)
            self._zero_is_missing = _text(self._file[_GROUP].attrs.get(_MISSING_POSE, "zeros")) != "nan"
            _check_storage(self._table, self._file, path)
        except BaseException as error:
            with suppress(Exception):
                self._file.close()
            if isinstance(error, DataError) or not isinstance(error, Exception):
                raise
            raise DataError(f"{path}: {_GROUP} is not as a session has it: {_one_line(error)}") from error

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; it cannot be read afterwards."""
        self._file.close()

    @property
    def n_samples(self) -> int:
        """Samples in the file."""
        return int(self._table.shape[0])

    @property
    def duration_s(self) -> float:
        """Seconds of signal in the file, without gaps."""
        return self.n_samples / self.meta.sample_rate

    def emg(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Samples `start` to `stop`, (n_samples, n_channels), microvolts."""
        with np.errstate(over="ignore"):  # values too large for float32 become infinite, and `check` refuses them
            emg_uv = self._read("emg", start, stop).astype(np.float32, copy=False)
        emg_uv[:, [number - 1 for number in self.masked_channels]] = 0
        return emg_uv

    def joint_angles(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Poses of samples `start` to `stop`, (n_samples, 20), radians; `valid_poses` says which are valid."""
        return self._read("joint_angles", start, stop).astype(np.float32, copy=False)

    def time_s(self, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """Time stamps of samples `start` to `stop`, (n_samples,), seconds."""
        return self._read("time", start, stop).astype(np.float64, copy=False)

    def pose_valid(self, start: int = 0, stop: int | None = None) -> NDArray[np.bool_]:
        """Which samples have a pose, (n_samples,)."""
        return self.valid_poses(start, stop)[1]

    def valid_poses(self, start: int = 0, stop: int | None = None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Poses (n_samples, 20), and which samples have one (n_samples,).

        Raises DataError when a value is NaN or infinite and does not mark a missing pose.
        """
        poses = self.joint_angles(start, stop)
        finite = np.isfinite(poses).all(axis=1)
        valid = np.any(poses != 0, axis=1) if self._zero_is_missing else finite
        odd = ~finite if self._zero_is_missing else ~finite & ~np.isnan(poses).all(axis=1)
        if odd.any():
            raise DataError(
                f"{self.path}: field joint_angles holds NaN or infinity at sample {start + int(np.argmax(odd))}"
            )
        return poses, valid

    def gaps(self) -> list[tuple[float, float]]:
        """Gaps in the recording: the time of the last sample before each, and its duration, both in seconds.

        A gap is a step of `time` of more than one and a half sample periods.
        """
        time_s = self.time_s()
        step_s = np.diff(time_s)
        period_s = 1 / self.meta.sample_rate
        where = np.flatnonzero(step_s > 1.5 * period_s)
        return [(float(time_s[i]), float(step_s[i] - period_s)) for i in where]

    def check(self) -> None:
        """Read the whole file and raise DataError at the first thing that makes it unusable."""
        previous_s = -np.inf
        for start in range(0, self.n_samples, _CHECK_ROWS):
            stop = start + _CHECK_ROWS
            time_s = self.time_s(start, stop)
            if not np.all(np.isfinite(time_s)):
                raise DataError(f"{self.path}: field time holds a value that is not a number")
            if np.any(np.diff(time_s, prepend=previous_s) <= 0):
                raise DataError(f"{self.path}: field time does not rise from sample to sample")
            previous_s = float(time_s[-1])
            emg_uv = self.emg(start, stop)
            odd = ~(np.abs(emg_uv) <= LARGEST_SAMPLE)  # negated, so that NaN is odd too
            if odd.any():
                value = emg_uv[odd][0]
                said = f"{value:g}, which nothing measures," if np.isfinite(value) else "NaN or infinity"
                sample = start + int(np.argmax(odd.any(axis=1)))
                raise DataError(f"{self.path}: field emg holds {said} at sample {sample}")
            self.valid_poses(start, stop)
        self._check_rate()

    def _check_rate(self) -> None:
        if self.n_samples < 2:
            return
        steps_s, stated_hz = np.diff(self.time_s(0, 20_000)), self.meta.sample_rate
        actual_hz = 1 / float(np.median(steps_s))  # robust to gaps
        without_gaps_hz = 1 / float(np.mean(steps_s[steps_s <= 3 * np.median(steps_s)]))  # robust to jitter
        if min(abs(actual_hz / stated_hz - 1), abs(without_gaps_hz / stated_hz - 1)) > 0.01:
            raise DataError(
                f"{self.path}: attribute sample_rate says {stated_hz:g} Hz, but field time runs at {actual_hz:.6g} Hz"
            )

    def _read(self, field: str, start: int, stop: int | None) -> NDArray[np.generic]:
        try:
            values: NDArray[np.generic] = self._table.fields(field)[start:stop]
        except Exception as error:  # on a manipulated file, h5py may raise anything
            raise DataError(f"{self.path}: field {field} cannot be read, the file is damaged or cut short") from error
        return values


def write_session(
    path: Path,
    meta: SessionMeta,
    time_s: NDArray[np.float64],
    emg_uv: NDArray[np.float32],
    joint_angles_rad: NDArray[np.float32] | None = None,
) -> None:
    """Write one session, whole or not at all.

    time_s: (n_samples,), rising
    emg_uv: (n_samples, n_channels)
    joint_angles_rad: (n_samples, 20), with a row of NaN for each missing pose; None: no poses were recorded
    """
    write_session_blocks(path, meta, emg_uv.shape[1], [(time_s, emg_uv, joint_angles_rad)])


Block = tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float32] | None]  # time, EMG, joint angles


def write_session_blocks(path: Path, meta: SessionMeta, n_channels: int, blocks: Iterable[Block]) -> None:
    """Write one session of any length block by block, whole or not at all. `meta.end` is replaced by the actual end."""
    with new_file(path) as (file, reserve):
        _write_blocks(file, meta, n_channels, blocks, reserve)


@contextmanager
def new_file(path: Path) -> Iterator[tuple[h5py.File, Callable[[int], None]]]:
    """Yield an HDF5 file that replaces `path` on success, and a function that reserves disk space for more bytes.

    HDF5 crashes the process when the disk refuses a write. So space must be reserved before each table is written; for
    everything else it is reserved at the start. If the disk is full, reserving raises CpepError.
    """
    with replacing(path) as temporary:
        empty = io.BytesIO()
        h5py.File(empty, "w").close()
        temporary.write_bytes(empty.getbuffer())
        n_bytes = 0

        def reserve(more: int) -> None:
            nonlocal n_bytes
            n_bytes += more
            with temporary.open("r+b") as disk:
                _allocate(disk.fileno(), n_bytes)

        reserve(_ROOM_BYTES)
        with h5py.File(temporary, "r+") as file:  # "w" would release the reserved space
            yield file, reserve


def _allocate(handle: int, n_bytes: int) -> None:
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(handle, 0, n_bytes)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # this file system cannot do it
            raise


def write_short_session(
    path: Path, meta: SessionMeta, time_s: NDArray[np.float64], emg_uv: NDArray[np.float32]
) -> None:
    """Write one session of a few seconds without poses, whole or not at all.

    HDF5 builds it in memory, so the file needs no reserved space and fits even on a disk that is nearly full.
    """
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        _write_blocks(file, meta, emg_uv.shape[1], [(time_s, emg_uv, None)], lambda n_bytes: None)
    write_file(path, content.getbuffer())


def _write_blocks(
    file: h5py.File, meta: SessionMeta, n_channels: int, blocks: Iterable[Block], reserve: Callable[[int], None]
) -> None:
    dtype = timeseries_dtype(n_channels)
    group = file.create_group(_GROUP)
    for name in SessionMeta.__dataclass_fields__:
        group.attrs[name] = getattr(meta, name)
    table = None
    for time_s, emg_uv, joint_angles_rad in blocks:
        rows = np.empty(len(emg_uv), dtype)
        rows["time"] = time_s
        rows["emg"] = emg_uv
        rows["joint_angles"] = 0 if joint_angles_rad is None else joint_angles_rad
        if joint_angles_rad is not None and not np.all(np.any(np.nan_to_num(joint_angles_rad) != 0, axis=1)):
            group.attrs[_MISSING_POSE] = "nan"
        reserve(rows.nbytes)
        if table is None:
            table = group.create_dataset(_TABLE, data=rows, maxshape=(None,), chunks=(min(len(rows), _CHUNK_ROWS),))
            continue
        n_before = table.shape[0]
        table.resize((n_before + len(rows),))
        table[n_before:] = rows
    if table is not None:
        group.attrs["end"] = float(table.fields("time")[-1])


def timeseries_dtype(n_channels: int) -> np.dtype[np.void]:
    """The compound type of one row: time, joint angles and EMG of one sample."""
    return np.dtype([("time", "<f8"), ("joint_angles", "<f4", (N_JOINTS,)), ("emg", "<f4", (n_channels,))])


def _open(path: Path, content: BinaryIO | None) -> h5py.File:
    try:
        if content is None and not path.is_file():
            raise DataError(f"{path}: {'it is not a plain file' if path.exists() else 'there is no such file'}")
        return h5py.File(path if content is None else content, "r")
    except OSError as error:
        raise DataError(f"{path}: {_why_not_opened(path, error)}") from error


def _why_not_opened(path: Path, error: OSError) -> str:
    """Why a file cannot be opened, in words for a user; HDF5's own message is a stack trace."""
    if error.errno in (errno.EAGAIN, errno.EACCES, errno.EPERM) or "unable to lock" in str(error):
        if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            return NOT_PERMITTED
        return "another program has it open for writing; close it there first"
    if error.errno is not None and "signature" not in str(error) and "truncated" not in str(error):
        return f"it cannot be read: {error.strerror or os.strerror(error.errno)}"
    return "not an HDF5 file, or one that was cut short"


def _unknown_filters(table: h5py.Dataset) -> list[str]:
    """Number and name of each HDF5 filter that the table needs and that is not installed."""
    pipeline = table.id.get_create_plist()
    filters = [pipeline.get_filter(n) for n in range(pipeline.get_nfilters())]
    return [
        f"{number} {name.decode(errors='replace')}".strip()
        for number, _, _, name in filters
        if not h5py.h5z.filter_avail(number)
    ]


def _table(file: h5py.File, path: Path) -> h5py.Dataset:
    group = file.get(_GROUP)
    if not isinstance(group, h5py.Group):
        raise DataError(f"{path}: group {_GROUP} is missing")
    table = group.get(_TABLE)
    if not isinstance(table, h5py.Dataset):
        raise DataError(f"{path}: dataset {_GROUP}/{_TABLE} is missing")
    fields = table.dtype.fields or {}
    for field in ("time", "joint_angles", "emg"):
        if field not in fields:
            raise DataError(f"{path}: field {field} is missing from {_GROUP}/{_TABLE}")
    if fields["joint_angles"][0].shape != (N_JOINTS,):
        raise DataError(f"{path}: field joint_angles has shape {fields['joint_angles'][0].shape}, not ({N_JOINTS},)")
    if len(fields["emg"][0].shape) != 1:
        raise DataError(f"{path}: field emg has shape {fields['emg'][0].shape}, not (channels,)")
    _check_filters(table, f"{path}: {_GROUP}/{_TABLE}")
    if table.shape[0] == 0:
        raise DataError(f"{path}: {_GROUP}/{_TABLE} holds no samples")
    return table


def _check_filters(table: h5py.Dataset, where: str) -> None:
    unknown = _unknown_filters(table)
    if unknown:
        with suppress(ImportError):
            import hdf5plugin  # noqa: F401 - importing it registers its filters

            unknown = _unknown_filters(table)
    if unknown:
        raise DataError(
            f"{where} is compressed with the HDF5 filter {unknown[0]}, which is not installed; pip install hdf5plugin, "
            "which holds most of them"
        )


def check_tables(path: Path) -> None:
    """Read every numeric table of any HDF5 file once. Raises DataError, which names the file and the fault."""
    with _open(path, None) as file:

        def check(name: str, table: h5py.Dataset | h5py.Group) -> None:
            if not isinstance(table, h5py.Dataset) or table.dtype.kind not in "fiu":
                return
            where = f"{path}: {printable(name)}"
            _check_filters(table, where)
            if table.is_virtual or table.external:
                raise DataError(f"{where} lies in other files, which are not read")
            if table.size * table.dtype.itemsize > _MOST_UNPACKED * file.id.get_filesize():
                raise DataError(f"{where} is said to hold {table.size:,} values, more than a file of its size can")
            rows = max(1, _BLOCK_BYTES // max(1, table.nbytes // max(1, len(table)))) if table.ndim else 1
            for start in range(0, len(table), rows) if table.ndim else ():
                table[start : start + rows]

        try:
            file.visititems(check)
        except DataError:
            raise
        except Exception as error:  # on damaged files HDF5 may raise anything
            raise DataError(f"{path}: damaged, {_one_line(error)}") from error


def _check_storage(table: h5py.Dataset, file: h5py.File, path: Path) -> None:
    """Raise DataError unless the samples are numbers, are stored in this file, and fit into its size."""
    for field in ("time", "joint_angles", "emg"):
        if table.dtype[field].base.kind not in "fiu":
            raise DataError(f"{path}: field {field} holds something else than numbers")
    if table.ndim != 1:
        raise DataError(f"{path}: {_GROUP}/{_TABLE} has {table.ndim} dimensions, not one")
    if table.is_virtual or table.external or table.file.filename != file.filename:
        raise DataError(f"{path}: its samples lie in other files, which are not read")
    size_bytes = table.shape[0] * table.dtype.itemsize
    if size_bytes > _MOST_UNPACKED * file.id.get_filesize():
        raise DataError(
            f"{path}: {_GROUP}/{_TABLE} is said to hold {table.shape[0]:,} samples, more than a file of its size can"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _meta(group: h5py.Group, table: h5py.Dataset, path: Path) -> SessionMeta:
    missing = [name for name in SessionMeta.__dataclass_fields__ if name not in group.attrs]
    if missing:
        raise DataError(f"{path}: attributes missing from {_GROUP}: {', '.join(missing)}")
    text = {name: _text(group.attrs[name]) for name in ("session", "user", "stage", "side", "filename")}
    numbers = {}
    for name in ("start", "end", "num_channels", "sample_rate"):
        try:
            numbers[name] = float(group.attrs[name])
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path}: attribute {name} of {_GROUP} is not a number") from error
    n_said = numbers.pop("num_channels")
    n_channels_said = int(n_said) if np.isfinite(n_said) else 0
    meta = SessionMeta(**text, **numbers, num_channels=n_channels_said)  # type: ignore[arg-type]  # every field once
    n_channels = table.dtype["emg"].shape[0]
    if meta.num_channels != n_channels:
        raise DataError(f"{path}: attribute num_channels says {meta.num_channels}, but field emg has {n_channels}")
    if not 0 < meta.sample_rate < _MOST_HZ:
        raise DataError(f"{path}: attribute sample_rate is {meta.sample_rate:g} Hz")
    return meta


def _text(value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}..."
