"""Write sessions for other software: EDF+, CSV or Parquet, with EMG, poses and the label."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import DataError
from cpep_edge.files import replacing
from cpep_edge.session import JOINT_NAMES, Session
from cpep_train.even_grid import LONGEST_GAP_PERIODS

Format = Literal["edf", "csv", "parquet"]
NOT_RECORDED, AFTER_THE_END = "not recorded", "end of the recording"  # annotations of the filled-in samples of an EDF
_ROWS_AT_ONCE = 1 << 16
_EDF_LARGEST = 9_999_999  # end of a range, which has eight characters
_JITTER = 0.1  # of a period: with larger deviations the stamps count as jittering, and only longer steps are gaps
_SAME_RATE = 0.001


def export_session(path: Path, out: Path, form: Format) -> Path:
    """Write one session file as `out`, whole or not at all.

    EDF+ stores 16 bits per sample over each channel's own range. It has one clock, so gaps of the recording are filled
    with the last sample and annotated. CSV and Parquet are lossless.
    Raises DataError when the session cannot be read.
    """
    with Session(path) as session:
        session.check()
        with replacing(out) as temporary:
            {"edf": _write_edf, "csv": _write_csv, "parquet": _write_parquet}[form](session, temporary)
    return out


def _names(session: Session) -> tuple[str, ...]:
    channels = (f"emg_{n + 1}_uv" for n in range(session.meta.num_channels))
    joints = (f"{name}_rad" for name in JOINT_NAMES) if session.pose_valid().any() else ()
    return ("time_s", *channels, *joints)


def _blocks(session: Session, with_pose: bool) -> Iterator[NDArray[np.float64]]:
    """Rows of time, EMG and poses, NaN where there is no pose."""
    for start in range(0, session.n_samples, _ROWS_AT_ONCE):
        stop = start + _ROWS_AT_ONCE
        parts: list[NDArray[Any]] = [session.time_s(start, stop)[:, None], session.emg(start, stop)]
        if with_pose:
            poses, valid = session.valid_poses(start, stop)
            parts.append(np.where(valid[:, None], poses, np.nan))
        yield np.hstack(parts).astype(np.float64)


def _write_csv(session: Session, out: Path) -> None:
    names = _names(session)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*names, "stage"))
        for block in _blocks(session, len(names) > 1 + session.meta.num_channels):
            for row in block:
                writer.writerow((*("" if np.isnan(value) else repr(float(value)) for value in row), session.meta.stage))


def _write_parquet(session: Session, out: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names, meta = _names(session), session.meta
    types: list[tuple[str, Any]] = [("time_s", pa.float64()), *((name, pa.float32()) for name in names[1:])]
    about = {key: str(getattr(meta, key)) for key in ("session", "user", "stage", "side", "sample_rate")}
    schema = pa.schema([*types, ("stage", pa.dictionary(pa.int32(), pa.string()))]).with_metadata(about)
    with pq.ParquetWriter(out, schema) as writer:
        for block in _blocks(session, len(names) > 1 + meta.num_channels):
            columns = [pa.array(column, kind) for column, (_, kind) in zip(block.T, types, strict=True)]
            stage = pa.DictionaryArray.from_arrays(np.zeros(len(block), np.int32), [meta.stage])
            writer.write_table(pa.Table.from_arrays([*columns, stage], schema=schema))


def _write_edf(session: Session, out: Path) -> None:
    import edfio

    meta = session.meta
    emg, annotations = _without_gaps(session)
    rate_hz = float(round(meta.sample_rate)) if abs(meta.sample_rate / round(meta.sample_rate) - 1) < _SAME_RATE else 0
    if not rate_hz:
        raise DataError(f"{session.path}: EDF needs a whole number of samples a second, this has {meta.sample_rate:g}")
    n = len(emg) // int(rate_hz) * int(rate_hz)
    n_before = len(emg)
    if n < n_before:  # EDF files consist of whole seconds
        emg = np.pad(emg, ((0, n + int(rate_hz) - len(emg)), (0, 0)), mode="edge")
        annotations.append(edfio.EdfAnnotation(n_before / rate_hz, None, AFTER_THE_END))
    signals = [
        edfio.EdfSignal(
            column,
            rate_hz,
            label=f"EMG {number + 1}",
            physical_dimension="uV",
            physical_range=_range(session.path, column),
        )
        for number, column in enumerate(emg.T.astype(np.float64))
    ]
    stage = edfio.EdfAnnotation(0, n_before / rate_hz, meta.stage)
    edfio.Edf(signals, annotations=[stage, *annotations]).write(out)


def _range(path: Path, column: NDArray[np.float64]) -> tuple[float, float]:
    """A channel's range, rounded so that each end fits the eight characters of EDF."""
    low, high = np.floor(column.min()), np.ceil(column.max())
    if max(abs(low), abs(high)) > _EDF_LARGEST:
        raise DataError(f"{path}: EDF holds values up to {_EDF_LARGEST} uV, these reach {max(-low, high):g}; take CSV")
    return float(low), float(high if high > low else low + 1)


def _without_gaps(session: Session) -> tuple[NDArray[np.float32], list[Any]]:
    """EMG on one even clock, each gap filled with the sample before it, and an annotation for each gap."""
    import edfio

    emg, rate_hz = session.emg(), session.meta.sample_rate
    steps = np.diff(session.time_s()) * rate_hz
    jitters = len(steps) > 0 and float(np.median(np.abs(steps - 1))) > _JITTER
    is_gap = steps > (LONGEST_GAP_PERIODS if jitters else 1.5)
    n_missing = np.where(is_gap, np.round(steps) - 1, 0).astype(np.int64)
    filled = np.repeat(emg, np.append(n_missing, 0) + 1, axis=0)
    place = np.arange(len(steps)) + np.cumsum(n_missing) - n_missing  # of the last sample before each step
    gaps = [
        edfio.EdfAnnotation(float(place[n] + 1) / rate_hz, float(n_missing[n]) / rate_hz, NOT_RECORDED)
        for n in np.flatnonzero(is_gap)
    ]
    return filled, gaps
