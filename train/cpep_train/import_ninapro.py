"""Import Ninapro databases 1, 2, 3, 5, 6 and 8.

Atzori et al. 2014 (1, 2, 3), Pizzolato et al. 2017 (5), Palermo et al. 2017 (6), Krasoulis et al. 2019 (8). A subject
has one .mat file per exercise, `S1_E1_A1.mat` or `S1_A1_E1.mat`; in database 6 one per session, `S1_D1_T1.mat`, and in
database 8 one per acquisition, `S1_E1_A3.mat`. Their variables are synchronised columns: `emg`, `restimulus` (the
refined label, or `stimulus` where there is none), `rerepetition` (or `repetition`), and `glove` of a CyberGlove 2. Each
stretch of one movement in one repetition becomes a recording, and so does each rest, which belongs to the repetition
before it. The exercise is taken from the file's name, because the variable `exercise` is wrong in some files.

The glove's signal was published uncalibrated, "proportional to the angles". Each sensor's range over all of a subject's
files is mapped to the usual range of its joint, so poses are estimates. A file that has `angles` in degrees is used
unchanged. Joints without a sensor, or with a broken one, stay at zero, and the summary names them.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from cpep_edge.errors import DataError
from cpep_edge.files import require_plain
from cpep_edge.outside import unreadable
from cpep_edge.session_trial import SessionTrial
from cpep_train.glove import GLOVES, joint_angles, lag_s, sensor_ranges
from cpep_train.importing import (
    CorpusWriter,
    ImportSummary,
    Recording,
    Writing,
    check_numbers,
    stretches,
    writing_corpus,
)
from cpep_train.ninapro_movements import movement_name

Database = Literal["db1", "db2", "db3", "db5", "db6", "db8"]


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of a database's files, from its documentation."""

    n_channels: int
    sample_rate_hz: float
    microvolts: float  # per unit of the file; 1: not published, values are kept
    test_repetitions: tuple[int, ...]  # the authors' split; all other repetitions are for training
    test_parts: tuple[int, ...] = ()  # days or acquisitions for testing, instead of repetitions
    least_channels: int = 0  # fewest that a subject has; 0: all have `n_channels`


LAYOUTS: dict[Database, Layout] = {
    # Otto Bock 13E200: rectified amplitude, not raw signal, in volts after amplification by about 14 000 (Atzori et
    # al. 2014). Calibration removes the scale again, so it only decides which electrodes count as dead.
    "db1": Layout(10, 100.0, 1e6 / 14_000, (2, 5, 7)),
    "db2": Layout(12, 2_000.0, 1e6, (2, 5)),  # Delsys Trigno, volts
    "db3": Layout(12, 2_000.0, 1e6, (2, 5), least_channels=10),  # as database 2; two stumps took ten electrodes
    "db5": Layout(16, 200.0, 1.0, (2, 5)),  # two Thalmic Myos, 8-bit counts
    "db6": Layout(16, 2_000.0, 1e6, (), (5,), least_channels=14),  # Delsys Trigno; the day for testing is our choice
    "db8": Layout(16, 2_000.0, 1e6, (), (3,)),  # Delsys Trigno resampled from 1111 Hz, volts; the third is for testing
}

_SIDE = "right"
_SUBJECT = re.compile(r"[sS](\d+)_")
_REST = 0
_LARGEST_LABEL = 10_000
_MOST_MISSING = 0.1  # largest share of a variable's rows to trim; more means another layout
_VARIABLES = ("emg", "restimulus", "stimulus", "rerepetition", "repetition", "angles", "glove", "exercise")


@dataclass(frozen=True, slots=True)
class _Exercise:
    """One .mat file."""

    file: Path
    user: str
    part: str  # "E1", "D1T2" of database 6, "A1" of database 8
    exercise: int
    is_test: bool | None  # None: the repetition decides
    emg_uv: NDArray[np.float32]  # (n, n_channels)
    glove: NDArray[np.float64] | None  # (n, 18 or 22)
    in_degrees: bool
    label: NDArray[np.int64]  # (n,)
    repetition: NDArray[np.int64]  # (n,)
    n_trimmed: int  # rows of the longest variable beyond the shortest


def import_ninapro(
    source: Path,
    out: Path,
    database: Database,
    subjects: Sequence[int] = (),
    progress: Callable[[int, int], None] | None = None,
    *,
    writing: Writing = Writing(),
    undo_lag: bool = False,
) -> ImportSummary:
    """Write the recordings of some subjects, or of all that are there, as a corpus, whole or not at all.

    progress: called with (files done, files in all)
    undo_lag: move each subject's poses earlier by the glove's lag behind the EMG
    Raises DataError, naming the file and the variable, when a subject is missing or a file has another layout.
    """
    layout, files = LAYOUTS[database], _files(source, subjects)
    done, n_files = 0, sum(map(len, files.values()))
    with writing_corpus(out, writing, "data import ninapro") as writer:
        for subject, mine in files.items():
            exercises = [_read(file, database, layout) for file in _kept_apart(mine, writer)]
            poses = _poses(exercises, layout, undo_lag, writer)
            for exercise, pose in zip(_distinct_parts(exercises), poses, strict=True):
                writer.read(len(exercise.emg_uv) + exercise.n_trimmed)
                writer.leave_out("rows beyond a file's shortest variable", exercise.n_trimmed)
                for recording in _recordings(exercise, pose, database, layout, subject):
                    writer.add(recording, exercise.file)
            done += len(mine)
            if progress is not None:
                progress(done, n_files)
        return writer.finish()


def _files(source: Path, subjects: Sequence[int]) -> dict[int, list[Path]]:
    """The .mat files of each subject."""
    found: dict[int, list[Path]] = {}
    for file in sorted(source.rglob("*.mat")):
        match = _SUBJECT.match(file.name)
        if match is not None and (not subjects or int(match[1]) in subjects):
            found.setdefault(int(match[1]), []).append(file)
    if not found and not subjects:
        raise DataError(f"{source}: there is no .mat file named S<subject>_...")
    check_numbers(found, subjects, source)
    return dict(sorted(found.items()))


def _kept_apart(files: Sequence[Path], writer: CorpusWriter) -> Iterator[Path]:
    """The files of a subject without byte-identical copies, which are reported."""
    seen: dict[bytes, Path] = {}
    for file in files:
        try:
            require_plain(file)
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").digest()
        except OSError as error:
            raise DataError(f"{file} cannot be read: {unreadable(error)}") from error
        if content in seen:
            writer.notes.append(f"{file} is a second copy of {seen[content]} and was left out")
            continue
        seen[content] = file
        yield file


def _distinct_parts(exercises: Sequence[_Exercise]) -> Iterator[_Exercise]:
    """Give files of the same part that differ in content separate sessions."""
    n_of: dict[str, int] = {}
    for exercise in exercises:
        n_of[exercise.part] = n = n_of.get(exercise.part, 0) + 1
        yield exercise if n == 1 else replace(exercise, part=f"{exercise.part}.{n}")


def _read(file: Path, database: Database, layout: Layout) -> _Exercise:
    values = _variables(file)
    emg = _columns(file, values, "emg")
    if database == "db6" and emg.shape[1] == 16 and not emg[:, 8:10].any():
        emg = np.delete(emg, (8, 9), axis=1)  # these two were published empty
    least = layout.least_channels or layout.n_channels
    if not least <= emg.shape[1] <= layout.n_channels:
        raise DataError(f"{file}: variable emg has {emg.shape[1]} columns, but {database} has {layout.n_channels}")
    in_degrees = "angles" in values
    tables = {
        "emg": emg,
        "label": _columns(file, values, "restimulus" if "restimulus" in values else "stimulus"),
        "repetition": _columns(file, values, "rerepetition" if "rerepetition" in values else "repetition"),
    }
    if in_degrees or "glove" in values:
        tables["glove"] = _columns(file, values, "angles" if in_degrees else "glove")
    if "glove" in tables and tables["glove"].shape[1] not in GLOVES:
        raise DataError(f"{file}: variable glove is {tables['glove'].shape}, not ({len(emg)}, 18 or 22)")
    lengths = [len(table) for table in tables.values()]
    n, longest = min(lengths), max(lengths)
    if n < (1 - _MOST_MISSING) * longest:
        short = min(tables, key=lambda name: len(tables[name]))
        named = "restimulus" if short == "label" else short
        raise DataError(f"{file}: variable {named} is {tables[short].shape}, but emg has {len(emg)} rows")
    part, exercise, is_test = _part(file, values, database, layout)
    match = _SUBJECT.match(file.name)
    if match is None:
        raise DataError(f"{file}: the name does not start with S<subject>_")
    return _Exercise(
        file=file,
        user=f"{database}-{int(match[1]):02d}",
        part=part,
        exercise=exercise,
        is_test=is_test,
        emg_uv=(emg[:n] * layout.microvolts).astype(np.float32),
        glove=tables["glove"][:n] if "glove" in tables else None,
        in_degrees=in_degrees,
        label=_whole(file, tables["label"][:n, 0], "label"),
        repetition=_whole(file, tables["repetition"][:n, 0], "repetition"),
        n_trimmed=longest - n,
    )


def _part(
    file: Path, values: Mapping[str, NDArray[np.generic]], database: Database, layout: Layout
) -> tuple[str, int, bool | None]:
    """The name of a file's part, its exercise, and whether the whole file is for testing."""
    number = {m[1].upper(): int(m[2]) for m in re.finditer(r"(?<=_)([EADTeadt])(\d+)(?=[_.])", file.name)}
    if database == "db8":
        acquisition = number.get("D", number.get("A", 1))
        return f"A{acquisition}", 1, acquisition in layout.test_parts
    if database == "db6":
        return f"D{number.get('D', 1)}T{number.get('T', 1)}", 1, number.get("D", 1) in layout.test_parts
    exercise = number.get("E") or int(_columns(file, values, "exercise")[0, 0])
    return f"E{exercise}", exercise, None


def _variables(file: Path) -> dict[str, NDArray[np.generic]]:
    """The variables of a .mat file in the format of MATLAB 5 to 7.2, or of 7.3, which is HDF5."""
    try:
        if h5py.is_hdf5(file):
            with SessionTrial() as trial:
                trial.check_tables(file)
            with h5py.File(file, "r") as content:
                return {name: content[name][()].T for name in _VARIABLES if isinstance(content.get(name), h5py.Dataset)}
        values: dict[str, NDArray[np.generic]] = loadmat(file, variable_names=_VARIABLES)
        return values
    except DataError:
        raise
    except Exception as error:  # scipy and HDF5 raise any kind of exception on damaged files
        raise DataError(f"{file}: not a MATLAB file that can be read: {error or type(error).__name__}") from error


def _columns(file: Path, values: Mapping[str, NDArray[np.generic]], name: str) -> NDArray[np.float64]:
    """A variable as a table; raises DataError when it is missing or not a table."""
    if name not in values:
        raise DataError(f"{file}: variable {name} is missing")
    table = values[name]
    if table.ndim != 2 or not len(table) or table.dtype.kind not in "biuf":
        raise DataError(f"{file}: variable {name} is not a table of numbers")
    return table.astype(np.float64)


def _whole(file: Path, values: NDArray[np.float64], what: str) -> NDArray[np.int64]:
    """Labels or repetitions; raises DataError when one is not a whole number from zero."""
    odd = ~((values >= 0) & (values <= _LARGEST_LABEL) & (values == np.round(values)))
    if odd.any():
        row = int(np.argmax(odd))
        raise DataError(f"{file}: row {row + 1} holds {values[row]:g}, which is not a {what}")
    return values.astype(np.int64)


def _recordings(
    exercise: _Exercise, pose: NDArray[np.float32] | None, database: Database, layout: Layout, subject: int
) -> Iterator[Recording]:
    """One recording for every stretch of one label in one repetition."""
    repetition_of_movement = np.where(exercise.label == _REST, 0, exercise.repetition)
    repetition = 1
    for start, stop in stretches(exercise.label, repetition_of_movement):
        movement = int(exercise.label[start])
        if movement != _REST:
            repetition = int(exercise.repetition[start])
        is_test = repetition in layout.test_repetitions if exercise.is_test is None else exercise.is_test
        yield Recording(
            user=exercise.user,
            session=f"{exercise.user}-{exercise.part}-rep{repetition}",
            stage="Rest" if movement == _REST else movement_name(database, exercise.exercise, movement),
            emg_uv=exercise.emg_uv[start:stop],
            sample_rate_hz=layout.sample_rate_hz,
            split="test" if is_test else "train",
            side=_SIDE,
            pose_rad=None if pose is None else pose[start:stop],
            other_names=(f"S{subject}", str(subject)),
        )


def _poses(
    exercises: Sequence[_Exercise], layout: Layout, undo_lag: bool, writer: CorpusWriter
) -> list[NDArray[np.float32] | None]:
    """Joint angles of each of a subject's files, (n, 20) radians; None when there was no glove."""
    raw = [exercise.glove for exercise in exercises if exercise.glove is not None]
    if not raw:
        return [None] * len(exercises)
    user = exercises[0].user
    if len({glove.shape[1] for glove in raw}) > 1:
        writer.notes.append(f"{user}: the files come from different gloves, so no pose was taken from them")
        return [None] * len(exercises)
    low, high = sensor_ranges(raw)
    names = GLOVES[raw[0].shape[1]]
    broken = [
        f"{n} ({name})" for n, name in enumerate(names) if name is not None and not np.isfinite(low[n])
    ]  # fmt: skip
    if broken:
        writer.notes.append(f"{user}: glove sensors that cannot be right are left out: {', '.join(broken)}")
    poses = [None if e.glove is None else joint_angles(e.glove, low, high, e.in_degrees) for e in exercises]
    found = [
        lag_s(exercise.emg_uv, pose, layout.sample_rate_hz)
        for exercise, pose in zip(exercises, poses, strict=True)
        if pose is not None
    ]
    lags = [lag for lag in found if lag is not None]
    if lags:
        lag = float(np.median(lags))
        moved = "; poses were moved earlier by that" if undo_lag else ""
        writer.notes.append(f"{user}: the glove lags behind the EMG by about {lag * 1000:.0f} ms{moved}")
        if undo_lag:
            n = round(lag * layout.sample_rate_hz)
            poses = [None if pose is None else _earlier(pose, n) for pose in poses]
    return poses


def _earlier(pose: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """Move poses n samples earlier; the last n are missing."""
    moved = np.full_like(pose, np.nan)
    moved[: len(pose) - n] = pose[n:]
    return moved
