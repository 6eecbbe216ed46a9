"""Import CSV recordings of any band by a column map in TOML.

sample_rate_hz = 1000
unit_uv = 1.0                  # microvolts of one unit of the EMG columns

[columns]
emg = ["ch_1", "ch_2"]
stage = "gesture"              # optional: the label of each row, cut into recordings where it changes

[pose.index_mcp_flexion]       # optional, any of the 20 joints: angle_rad = offset + scale * column
column = "index"
scale = -1.57
offset = 1.57

[[files]]
file = "a.csv"                 # beside the TOML, or under it
user = "p1"
session = "s1"
stage = "Fist"                 # where no column says it
split = "train"                # train, val or test
held_out_user = false          # optional, as held_out_stage
"""

import csv
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cpep_edge.errors import ConfigError, DataError
from cpep_edge.folders import output_folder
from cpep_edge.session import JOINT_NAMES, N_JOINTS, SessionMeta, write_session
from cpep_train.corpus import Row, write_metadata


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Columns(_Part):
    """Which columns hold what."""

    emg: tuple[str, ...] = Field(min_length=1)
    stage: str | None = None


class Angle(_Part):
    """How a column becomes a joint's angle: offset + scale * column."""

    column: str
    scale: float = 1.0
    offset: float = 0.0  # rad


class File(_Part):
    """One CSV file."""

    file: str = Field(min_length=1)
    user: str = Field(min_length=1)
    session: str = Field(min_length=1)
    split: Literal["train", "val", "test"]
    stage: str | None = None
    side: Literal["left", "right", "unknown"] = "unknown"
    held_out_user: bool = False
    held_out_stage: bool = False


class ColumnMap(_Part):
    """The whole map."""

    sample_rate_hz: float = Field(gt=0)
    unit_uv: float = Field(default=1.0, gt=0)
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    columns: Columns
    pose: dict[str, Angle] = {}
    files: tuple[File, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> "ColumnMap":
        faults = [f"pose.{name} is none of the 20 joints" for name in self.pose if name not in JOINT_NAMES]
        if self.columns.stage is None:
            faults += [f"files: {f.file} has no stage, and no column says it" for f in self.files if f.stage is None]
        if faults:
            raise ValueError("; ".join(faults))
        return self


@dataclass(frozen=True, slots=True)
class CsvSummary:
    """What an import found."""

    n_files: int
    n_recordings: int
    hours: float
    with_pose: bool


@dataclass(frozen=True, slots=True)
class _Table:
    emg_uv: NDArray[np.float32]  # (n, n_channels)
    pose_rad: NDArray[np.float32] | None  # (n, 20)
    stage: NDArray[np.str_]  # (n,)


def import_csv(column_map: Path, out: Path, *, force: bool = False) -> CsvSummary:
    """Write the files that a column map names as a corpus, whole or not at all.

    force: replace an earlier output although it was changed since
    Raises ConfigError, naming all faults of the map at once or what else lies in `out`, and DataError, naming file and
    column.
    """
    spec = load_column_map(column_map)
    rows: list[Row] = []
    n_samples = 0
    with output_folder(out, "data import csv", force=force) as folder:
        for file in spec.files:
            table = _read(column_map.parent / file.file, file, spec)
            for row, start, stop in _recordings(file, table.stage, len(rows)):
                _write(folder, row, table, start, stop, spec.sample_rate_hz)
                rows.append(row)
                n_samples += stop - start
        write_metadata(folder, rows)
    return CsvSummary(len(spec.files), len(rows), n_samples / spec.sample_rate_hz / 3600, bool(spec.pose))


def load_column_map(path: Path) -> ColumnMap:
    """Read a column map; raises ConfigError, naming all faults at once."""
    try:
        return ColumnMap.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"column map {path} cannot be read: {error}") from error
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, e['loc'])) or 'the map'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"column map {path}: {'; '.join(faults)}") from error


def _read(path: Path, file: File, spec: ColumnMap) -> _Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as text:
            header, *lines = csv.reader(text, delimiter=spec.delimiter)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise DataError(f"{path}: the file is empty") from error
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"{path}: there are no rows under the header")
    if any(len(line) != len(header) for line in lines):
        raise DataError(f"{path}: a row has not as many values as the header has names, {len(header)}")
    emg = np.column_stack([_numbers(path, header, lines, name) for name in spec.columns.emg])
    bad = np.flatnonzero(~np.isfinite(emg).all(axis=1))
    if bad.size:
        raise DataError(f"{path}: an EMG column holds no number in row {bad[0] + 2}")
    stage = spec.columns.stage
    labels = [file.stage or ""] * len(lines) if stage is None else _texts(path, header, lines, stage)
    return _Table((emg * spec.unit_uv).astype(np.float32), _pose(path, header, lines, spec), np.array(labels))


def _pose(path: Path, header: list[str], lines: list[list[str]], spec: ColumnMap) -> NDArray[np.float32] | None:
    if not spec.pose:
        return None
    pose = np.zeros((len(lines), N_JOINTS))
    for joint, angle in spec.pose.items():
        values = _numbers(path, header, lines, angle.column)
        pose[:, JOINT_NAMES.index(joint)] = angle.offset + angle.scale * values
    pose[~np.isfinite(pose).all(axis=1)] = 0  # a failed fit, as emg2pose marks it
    return pose.astype(np.float32)


def _texts(path: Path, header: list[str], lines: list[list[str]], name: str) -> list[str]:
    if name not in header:
        raise DataError(f"{path}: column {name} is missing; there are {', '.join(header)}")
    place = header.index(name)
    return [line[place].strip() for line in lines]


def _numbers(path: Path, header: list[str], lines: list[list[str]], name: str) -> NDArray[np.float64]:
    """A column, (n,); empty cells are nan."""
    texts = _texts(path, header, lines, name)
    try:
        return np.array([float(text) if text else np.nan for text in texts])
    except ValueError as error:
        raise DataError(f"{path}: column {name} holds something that is no number: {error}") from error


def _recordings(file: File, stage: NDArray[np.str_], n_before: int) -> Iterator[tuple[Row, int, int]]:
    """Stretches of one label; rows with an empty label are left out."""
    edges = np.concatenate(([0], np.flatnonzero(stage[1:] != stage[:-1]) + 1, [len(stage)])).tolist()
    kind = "_".join(name for name, held in (("user", file.held_out_user), ("stage", file.held_out_stage)) if held)
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        label = str(stage[start])
        if not label:
            continue
        name = f"{file.user}-{file.session}-{label}-{n_before}".replace("/", "_")
        n_before += 1
        flags = (file.held_out_user, file.held_out_stage)
        yield Row(file.user, file.session, label, file.side, file.side, *flags, file.split, kind, name), start, stop


def _write(folder: Path, row: Row, table: _Table, start: int, stop: int, rate_hz: float) -> None:
    time_s = np.arange(stop - start) / rate_hz
    n_channels = table.emg_uv.shape[1]
    end_s = float(time_s[-1])
    meta = SessionMeta(row.session, row.user, row.stage, row.side, 0.0, end_s, n_channels, rate_hz, row.filename)
    pose = None if table.pose_rad is None else table.pose_rad[start:stop]
    write_session(folder / f"{row.filename}.hdf5", meta, time_s, table.emg_uv[start:stop], pose)
