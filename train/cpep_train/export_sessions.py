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

Format = Literal["edf", "csv", "parquet"]
_ROWS_AT_ONCE = 1 << 16
_SAME_RATE = 0.001


def export_session(path: Path, out: Path, form: Format) -> Path:
    """Write one session file as `out`, whole or not at all.

    EDF+ holds 16 bits a sample over each channel's own range; where the recording has gaps they are filled with the
    last sample and annotated, because the format has one clock. CSV and Parquet lose nothing.
    Raises DataError where the session cannot be read.
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
    if n < len(emg):  # a file is made of whole seconds
        emg = np.pad(emg, ((0, n + int(rate_hz) - len(emg)), (0, 0)), mode="edge")
        annotations.append(edfio.EdfAnnotation(session.n_samples / rate_hz, None, "end of the recording"))
    signals = [
        edfio.EdfSignal(
            column,
            rate_hz,
            label=f"EMG {number + 1}",
            physical_dimension="uV",
            physical_range=_range(column),
        )
        for number, column in enumerate(emg.T.astype(np.float64))
    ]
    stage = edfio.EdfAnnotation(0, session.duration_s, meta.stage)
    edfio.Edf(signals, annotations=[stage, *annotations]).write(out)


def _range(column: NDArray[np.float64]) -> tuple[float, float]:
    """A channel's range, in the eight characters that EDF has for each end."""
    low, high = np.floor(column.min()), np.ceil(column.max())
    return float(low), float(high if high > low else low + 1)


def _without_gaps(session: Session) -> tuple[NDArray[np.float32], list[Any]]:
    """EMG on one even clock, and an annotation for each gap."""
    import edfio

    emg, time_s, rate_hz = session.emg(), session.time_s(), session.meta.sample_rate
    place = np.round((time_s - time_s[0]) * rate_hz).astype(np.int64)
    filled = np.repeat(emg, np.diff(place, append=place[-1] + 1).clip(1), axis=0)
    gaps = [
        edfio.EdfAnnotation(float(place[n] + 1) / rate_hz, gap.duration_s, "not recorded")
        for gap in session.gaps()
        if (n := int(np.searchsorted(time_s, gap.start_s))) < len(place)
    ]
    return filled, gaps
