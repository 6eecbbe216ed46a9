"""One recording in the emg2pose HDF5 format: EMG and, where it was tracked, the pose of the hand.

The format is that of Salter et al., "emg2pose" (NeurIPS 2024): group `emg2pose`, compound dataset `timeseries` with the
fields `time`, `joint_angles`, `emg`, and attributes on the group. It lives in the runtime because recordings,
simulations and imports are all written in it. A sample whose joint angles are all zero is one whose pose could not be
fitted; a recording without pose holds zeros throughout. Corpora of many sessions are the business of
`cpep_train.corpus`.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import DataError
from cpep_edge.files import replacing

N_JOINTS = 20
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
_MOST_UNPACKED = 1_100  # times its file's size; deflate does not get beyond 1,032
_MOST_HZ = 1e7
_MOST_CHARS = 200  # of a name in the attributes
_CHECK_ROWS = 1 << 18  # rows read at a time while checking: bounds memory, not speed


@dataclass(frozen=True, slots=True)
class SessionMeta:
    """The attributes of the group `emg2pose`, by the names of the published files."""

    session: str  # one donning of the band; holds several stages
    user: str
    stage: str  # what the wearer was asked to do: the gesture label of the whole recording
    side: str  # "left" or "right"
    start: float  # time of the first sample, seconds
    end: float  # time of the last sample, seconds
    num_channels: int
    sample_rate: float  # hertz
    filename: str  # without ".hdf5"


@dataclass(frozen=True, slots=True)
class Gap:
    """Samples that were never recorded, found as a jump of `time`."""

    start_s: float  # time of the last sample before the gap
    duration_s: float


class Session:
    """One session file, opened for reading; samples are read when asked for.

    Raises DataError, naming the file and the field, when the layout is not that of emg2pose.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        try:
            self._table = _table(self._file, path)
            self.meta = _meta(self._file[_GROUP], self._table, path)
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
        """Close the file; reading afterwards is an error."""
        self._file.close()

    @property
    def n_samples(self) -> int:
        """Samples in the file."""
        return int(self._table.shape[0])

    @property
    def duration_s(self) -> float:
        """Seconds of signal in the file, gaps left out."""
        return self.n_samples / self.meta.sample_rate

    def emg(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Samples `start` to `stop`, (n_samples, n_channels), microvolts."""
        return self._read("emg", start, stop).astype(np.float32, copy=False)

    def joint_angles(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Poses of samples `start` to `stop`, (n_samples, 20), radians; rows of zeros are failed fits."""
        return self._read("joint_angles", start, stop).astype(np.float32, copy=False)

    def time_s(self, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """Time stamps of samples `start` to `stop`, (n_samples,), seconds."""
        return self._read("time", start, stop).astype(np.float64, copy=False)

    def pose_valid(self, start: int = 0, stop: int | None = None) -> NDArray[np.bool_]:
        """Where the pose was fitted, (n_samples,)."""
        valid: NDArray[np.bool_] = np.any(self.joint_angles(start, stop) != 0, axis=1)
        return valid

    def gaps(self) -> list[Gap]:
        """Jumps of `time` by more than one and a half sample periods."""
        time_s = self.time_s()
        step_s = np.diff(time_s)
        period_s = 1 / self.meta.sample_rate
        where = np.flatnonzero(step_s > 1.5 * period_s)
        return [Gap(float(time_s[i]), float(step_s[i] - period_s)) for i in where]

    def check(self) -> None:
        """Read the whole file and raise DataError at the first thing that makes it unusable."""
        previous_s = -np.inf
        for start in range(0, self.n_samples, _CHECK_ROWS):
            stop = start + _CHECK_ROWS
            time_s = self.time_s(start, stop)
            if not np.all(np.isfinite(time_s)):
                raise DataError(f"{self.path}: field time holds a value that is no number")
            if np.any(np.diff(time_s, prepend=previous_s) <= 0):
                raise DataError(f"{self.path}: field time does not rise from sample to sample")
            previous_s = float(time_s[-1])
            for field, values in (("emg", self.emg(start, stop)), ("joint_angles", self.joint_angles(start, stop))):
                bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
                if bad.size:
                    raise DataError(f"{self.path}: field {field} holds NaN or infinity at sample {start + bad[0]}")
        self._check_rate()

    def _check_rate(self) -> None:
        if self.n_samples < 2:
            return
        actual_hz = 1 / float(np.median(np.diff(self.time_s(0, 20_000))))
        stated_hz = self.meta.sample_rate
        if abs(actual_hz / stated_hz - 1) > 0.01:
            raise DataError(
                f"{self.path}: attribute sample_rate says {stated_hz:g} Hz, but field time runs at {actual_hz:.6g} Hz"
            )

    def _read(self, field: str, start: int, stop: int | None) -> NDArray[np.generic]:
        try:
            values: NDArray[np.generic] = self._table.fields(field)[start:stop]
        except Exception as error:  # on a file that somebody made up, h5py raises whatever comes
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
    joint_angles_rad: (n_samples, 20); None where no pose was recorded
    """
    n_samples, n_channels = emg_uv.shape
    table = np.zeros(n_samples, dtype=timeseries_dtype(n_channels))
    table["time"] = time_s
    table["emg"] = emg_uv
    if joint_angles_rad is not None:
        table["joint_angles"] = joint_angles_rad
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        group = file.create_group(_GROUP)
        for name in SessionMeta.__dataclass_fields__:
            group.attrs[name] = getattr(meta, name)
        group.create_dataset(_TABLE, data=table)


def timeseries_dtype(n_channels: int) -> np.dtype[np.void]:
    """The compound type of one row: time, joint angles and EMG of one sample."""
    return np.dtype([("time", "<f8"), ("joint_angles", "<f4", (N_JOINTS,)), ("emg", "<f4", (n_channels,))])


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: not an HDF5 file, or one that was cut short") from error


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
    if table.shape[0] == 0:
        raise DataError(f"{path}: {_GROUP}/{_TABLE} holds no samples")
    return table


def _check_storage(table: h5py.Dataset, file: h5py.File, path: Path) -> None:
    """Raise DataError unless the samples lie in this file, as numbers, and it is long enough to hold them."""
    for field in ("time", "joint_angles", "emg"):
        if table.dtype[field].base.kind not in "fiu":
            raise DataError(f"{path}: field {field} holds something else than numbers")
    if table.ndim != 1:
        raise DataError(f"{path}: {_GROUP}/{_TABLE} has {table.ndim} dimensions, not one")
    if table.is_virtual or table.external or table.file.filename != file.filename:
        raise DataError(f"{path}: its samples lie in other files, which are not read")
    size_bytes = table.shape[0] * table.dtype.itemsize
    if size_bytes > _MOST_UNPACKED * path.stat().st_size:
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
    meta = SessionMeta(
        **text,
        start=float(group.attrs["start"]),
        end=float(group.attrs["end"]),
        num_channels=int(group.attrs["num_channels"]),
        sample_rate=float(group.attrs["sample_rate"]),
    )
    n_channels = table.dtype["emg"].shape[0]
    if meta.num_channels != n_channels:
        raise DataError(f"{path}: attribute num_channels says {meta.num_channels}, but field emg has {n_channels}")
    if not 0 < meta.sample_rate < _MOST_HZ:
        raise DataError(f"{path}: attribute sample_rate is {meta.sample_rate:g} Hz")
    return meta


def _text(value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}..."
