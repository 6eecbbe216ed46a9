"""Import Ninapro databases 1, 2, 5 and 8 (Atzori et al. 2014; Pizzolato et al. 2017; Krasoulis et al. 2019).

A subject has a .mat file an exercise, `S<subject>_...E<exercise>....mat`, or in database 8 one a recording day,
`S<subject>_..._D<day>.mat`; their variables are synchronised columns: `emg`, `restimulus` (the refined label, or
`stimulus` where there is none), `rerepetition` (or `repetition`), and `glove` of a CyberGlove 2. Each stretch of one
movement in one repetition becomes a recording, and so does each rest, which counts to the repetition before it.

The glove's signal was published uncalibrated, "proportional to the angles": each sensor's range over all of a subject's
files is laid onto the usual range of its joint. So poses are estimates; where a file has `angles` in degrees they are
taken as they are. Joints without a sensor stay at zero.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from cpep_edge.errors import DataError
from cpep_edge.folders import output_folder
from cpep_edge.session import JOINT_NAMES, N_JOINTS, SessionMeta, write_session
from cpep_train.corpus import Row, write_metadata

Database = Literal["db1", "db2", "db5", "db8"]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a database's documentation says of its files."""

    n_channels: int
    sample_rate_hz: float
    microvolts: float  # of one unit; 1: not published, kept as it is
    test_repetitions: tuple[int, ...]  # as its authors split, those of all others are for training
    test_days: tuple[int, ...] = ()


LAYOUTS: dict[Database, Layout] = {
    "db1": Layout(10, 100.0, 1.0, (2, 5, 7)),  # Otto Bock: the amplitude after rectifying, no raw signal
    "db2": Layout(12, 2_000.0, 1e6, (2, 5)),  # Delsys Trigno, volts
    "db5": Layout(16, 200.0, 1.0, (2, 5)),  # two Thalmic Myos, 8-bit counts
    "db8": Layout(16, 2_000.0, 1e6, (), (3,)),  # Delsys Trigno resampled from 1111 Hz, volts; day 3 is for testing
}

# Sensors of the CyberGlove 2 in its order; the 18-sensor glove lacks the distal joints. None: no joint of the format.
GLOVE_22: tuple[str | None, ...] = (
    "thumb_cmc_flexion", "thumb_mcp_flexion", "thumb_ip_flexion", "thumb_cmc_abduction",
    "index_mcp_flexion", "index_pip_flexion", "index_dip_flexion",
    "middle_mcp_flexion", "middle_pip_flexion", "middle_dip_flexion", "index_mcp_abduction",
    "ring_mcp_flexion", "ring_pip_flexion", "ring_dip_flexion", "ring_mcp_abduction",
    "pinky_mcp_flexion", "pinky_pip_flexion", "pinky_dip_flexion", "pinky_mcp_abduction",
    None, None, None,
)  # fmt: skip
GLOVE_18 = tuple(name for name in GLOVE_22 if name is None or "dip" not in name)
_GLOVES = {22: GLOVE_22, 18: GLOVE_18}
# Usual active ranges in degrees (American Academy of Orthopaedic Surgeons), from the straight hand.
_RANGE_DEG = {
    "thumb_cmc_flexion": (0, 40), "thumb_cmc_abduction": (0, 60), "thumb_mcp_flexion": (0, 50),
    "thumb_ip_flexion": (0, 80), "mcp_flexion": (0, 90), "pip_flexion": (0, 100), "dip_flexion": (0, 70),
    "mcp_abduction": (0, 20),
}  # fmt: skip
_AWAY_FROM_THUMB = ("ring_mcp_abduction", "pinky_mcp_abduction")  # spreading moves them to the other side than index
_EXTREMES = (1, 99)  # percentiles that count as the ends of a sensor's range
_MOST_RANGE_VALUES = 200_000  # of a file, evenly chosen, for the percentiles
_SIDE = "right"
_SUBJECT = re.compile(r"[sS](\d+)_")
_DAY = re.compile(r"[dD](\d+)\.mat$|[dD](\d+)_")
_REST = 0


@dataclass(frozen=True, slots=True)
class NinaproSummary:
    """What an import found."""

    n_files: int
    n_recordings: int
    n_subjects: int
    hours: float
    with_pose: bool


@dataclass(frozen=True, slots=True)
class _Exercise:
    """One .mat file."""

    user: str
    part: str  # "E1", or "D1" of database 8
    day: int
    emg_uv: NDArray[np.float32]  # (n, n_channels)
    glove: NDArray[np.float64] | None  # (n, 18 or 22)
    in_degrees: bool
    label: NDArray[np.int64]  # (n,)
    repetition: NDArray[np.int64]  # (n,)


def import_ninapro(
    source: Path,
    out: Path,
    database: Database,
    subjects: Sequence[int] = (),
    progress: Callable[[int, int], None] | None = None,
    *,
    force: bool = False,
) -> NinaproSummary:
    """Write the recordings of some subjects, or of all that are there, as a corpus, whole or not at all.

    progress: called with (files done, files in all)
    force: replace an earlier output although it was changed since
    Raises ConfigError where `out` holds other things, DataError, naming the file and the variable, when a subject is
    missing or a file is not of the layout above.
    """
    layout, files = LAYOUTS[database], _files(source, subjects)
    rows: list[Row] = []
    n_samples, with_pose, done = 0, False, 0
    with output_folder(out, "data import ninapro", force=force) as folder:
        for mine in files.values():
            exercises = [_read(file, database, layout) for file in mine]
            poses = _poses(exercises)
            for exercise, pose in zip(exercises, poses, strict=True):
                with_pose |= pose is not None
                for row, start, stop in _recordings(exercise, layout):
                    _write(folder, row, exercise, pose, start, stop, layout)
                    rows.append(row)
                    n_samples += stop - start
            done += len(mine)
            if progress is not None:
                progress(done, sum(map(len, files.values())))
        write_metadata(folder, rows)
    hours = n_samples / layout.sample_rate_hz / 3600
    return NinaproSummary(done, len(rows), len(files), hours, with_pose)


def _files(source: Path, subjects: Sequence[int]) -> dict[int, list[Path]]:
    """The .mat files of each subject."""
    found: dict[int, list[Path]] = {}
    for file in sorted(source.rglob("*.mat")):
        match = _SUBJECT.match(file.name)
        if match is not None and (not subjects or int(match[1]) in subjects):
            found.setdefault(int(match[1]), []).append(file)
    missing = [subject for subject in subjects if subject not in found]
    if missing or not found:
        who = f"of subject {missing[0]}" if missing else "named S<subject>_..."
        raise DataError(f"{source}: there is no .mat file {who}")
    return dict(sorted(found.items()))


def _read(file: Path, database: Database, layout: Layout) -> _Exercise:
    try:
        values = loadmat(file)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise DataError(f"{file}: not a MATLAB 5 file that can be read: {error}") from error
    emg = _columns(file, values, "emg")
    if emg.shape[1] != layout.n_channels:
        raise DataError(f"{file}: variable emg has {emg.shape[1]} columns, but {database} has {layout.n_channels}")
    label = _whole_numbers(file, values, "restimulus" if "restimulus" in values else "stimulus", len(emg))
    repetition = _whole_numbers(file, values, "rerepetition" if "rerepetition" in values else "repetition", len(emg))
    in_degrees = "angles" in values
    glove = _columns(file, values, "angles" if in_degrees else "glove") if in_degrees or "glove" in values else None
    if glove is not None and (len(glove) != len(emg) or glove.shape[1] not in _GLOVES):
        raise DataError(f"{file}: variable glove is {glove.shape}, not ({len(emg)}, 18 or 22)")
    match, day = _SUBJECT.match(file.name), _DAY.search(file.name)
    if match is None:
        raise DataError(f"{file}: the name does not start with S<subject>_")
    number = int(day[1] or day[2]) if day else 1
    part = f"D{number}" if layout.test_days else f"E{int(_columns(file, values, 'exercise')[0, 0])}"
    emg_uv = (emg * layout.microvolts).astype(np.float32)
    user = f"{database}-{int(match[1]):02d}"
    return _Exercise(user, part, number, emg_uv, glove, in_degrees, label, repetition)


def _columns(file: Path, values: dict[str, NDArray[np.generic]], name: str) -> NDArray[np.float64]:
    """A variable as a table; raises DataError where there is none."""
    if name not in values:
        raise DataError(f"{file}: variable {name} is missing")
    table = values[name]
    if table.ndim != 2 or not len(table) or not np.issubdtype(table.dtype, np.number):
        raise DataError(f"{file}: variable {name} is no table of numbers")
    return table.astype(np.float64)


def _whole_numbers(file: Path, values: dict[str, NDArray[np.generic]], name: str, n: int) -> NDArray[np.int64]:
    column = _columns(file, values, name)
    if column.shape != (n, 1):
        raise DataError(f"{file}: variable {name} is {column.shape}, but emg has {n} rows")
    whole: NDArray[np.int64] = column[:, 0].astype(np.int64)
    return whole


def _recordings(exercise: _Exercise, layout: Layout) -> Iterator[tuple[Row, int, int]]:
    """Every stretch of one label in one repetition, as a row with its first sample and one past its last."""
    change = np.diff(exercise.label) != 0
    change |= (np.diff(exercise.repetition) != 0) & (exercise.label[1:] != _REST)
    edges = np.concatenate(([0], np.flatnonzero(change) + 1, [len(exercise.label)])).tolist()
    repetition, n_rests = 1, 0
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        movement = int(exercise.label[start])
        if movement != _REST:
            repetition = int(exercise.repetition[start])
        n_rests += movement == _REST
        is_test = exercise.day in layout.test_days if layout.test_days else repetition in layout.test_repetitions
        stage = "Rest" if movement == _REST else f"{exercise.part if not layout.test_days else 'M'}-{movement:02d}"
        session = f"{exercise.user}-{exercise.part}-rep{repetition}"
        name = f"{session}-{stage}" + (f"-{n_rests}" if movement == _REST else "")
        split = "test" if is_test else "train"
        yield Row(exercise.user, session, stage, _SIDE, _SIDE, False, False, split, "", name), start, stop


def _poses(exercises: Sequence[_Exercise]) -> list[NDArray[np.float32] | None]:
    """Joint angles of each of a subject's files, (n, 20) radians; None where there was no glove."""
    raw = [e.glove[:: -(-len(e.glove) // _MOST_RANGE_VALUES)] for e in exercises if e.glove is not None]
    if not raw or any(values.shape[1] != raw[0].shape[1] for values in raw):
        return [None] * len(exercises)
    low, high = np.nanpercentile(np.concatenate(raw), _EXTREMES, axis=0)
    return [None if e.glove is None else joint_angles(e.glove, low, high, e.in_degrees) for e in exercises]


def joint_angles(
    glove: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], in_degrees: bool = False
) -> NDArray[np.float32]:
    """Lay a glove's sensors onto the joints of the format.

    glove: (n, 18 or 22)
    low, high: (18 or 22,), the ends of each sensor's range
    in_degrees: whether the values are calibrated angles already
    returns: (n, 20) radians; joints without a sensor, and rows with a value that is no number, are zero
    """
    out = np.zeros((len(glove), N_JOINTS))
    for sensor, joint in enumerate(_GLOVES[glove.shape[1]]):
        if joint is None or (not in_degrees and not high[sensor] > low[sensor]):
            continue
        angle_deg = glove[:, sensor]
        if not in_degrees:
            least, most = _range_deg(joint)
            angle_deg = least + np.clip((angle_deg - low[sensor]) / (high[sensor] - low[sensor]), 0, 1) * (most - least)
        sign = -1 if joint in _AWAY_FROM_THUMB else 1
        out[:, JOINT_NAMES.index(joint)] = sign * np.deg2rad(angle_deg)
    out[:, JOINT_NAMES.index("pinky_mcp_abduction")] += out[:, JOINT_NAMES.index("ring_mcp_abduction")]
    out[~np.isfinite(out).all(axis=1)] = 0
    return out.astype(np.float32)


def _range_deg(joint: str) -> tuple[float, float]:
    finger, _, kind = joint.partition("_")
    return _RANGE_DEG[joint if finger == "thumb" else kind]


def _write(
    folder: Path,
    row: Row,
    exercise: _Exercise,
    pose: NDArray[np.float32] | None,
    start: int,
    stop: int,
    layout: Layout,
) -> None:
    time_s = np.arange(stop - start) / layout.sample_rate_hz
    meta = SessionMeta(
        session=row.session,
        user=row.user,
        stage=row.stage,
        side=row.side,
        start=0.0,
        end=float(time_s[-1]),
        num_channels=layout.n_channels,
        sample_rate=layout.sample_rate_hz,
        filename=row.filename,
    )
    path = folder / f"{row.filename}.hdf5"
    write_session(path, meta, time_s, exercise.emg_uv[start:stop], None if pose is None else pose[start:stop])
