"""Import CSV recordings of any band by a column map in TOML.

sample_rate_hz = 1000          # not needed where there is a column of time
unit = "uV"                    # uV, mV or V; without it the size of the values says
delimiter = ","                # ";" or "\\t" as well
decimal = "."                  # or ","
comment = "#"                  # lines that begin so are skipped
header = true                  # false: columns go by their numbers, "1", "2", ...

[columns]
emg = ["ch_1", "ch_2"]
stage = "gesture"              # optional: the label of each row, cut into recordings where it changes
time = "timestamp"             # optional: jitter is evened out, gaps stay gaps
time_unit_s = 0.001            # seconds of one unit of it

[pose.index_mcp_flexion]       # optional, any of the 20 joints: angle_rad = offset + scale * column
column = "index"
scale = -1.57
offset = 1.57

[prompts]                      # optional: labels in files of their own, each until the next
columns = ["gesture"]          # one that holds it; or several of 0 and 1, whose names make it: "thumb+index", "Rest"
time = "timestamp"             # in the unit of columns.time

[[files]]
file = "a.csv"                 # beside the TOML, or under it
prompts = "a-prompts.csv"      # optional
user = "p1"
session = "s1"
stage = "Fist"                 # where no column says it
split = "train"                # train, val or test
held_out_user = false          # optional, as held_out_stage

A file without a column of time is read and written block by block, however long it is.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cpep_edge.blocks import LARGEST_SAMPLE
from cpep_edge.errors import ConfigError, DataError
from cpep_edge.files import require_plain
from cpep_edge.outside import printable, unreadable
from cpep_edge.session import JOINT_NAMES, N_JOINTS
from cpep_edge.toml_text import faults, load_toml
from cpep_train.even_grid import evened, usual_rate
from cpep_train.importing import CorpusWriter, ImportSummary, Recording, Writing, stretches, writing_corpus
from cpep_train.text_formats import MAX_RATE_HZ
from cpep_train.units import microvolts_of

_BLOCK_ROWS = 8_192
_LEAST_RATE_HZ = 1.0  # with a lower rate, the time column must be in another unit
_STATED_RATE_TOLERANCE = 0.1
_LEAST_SHARE_OF_TIME = 0.02  # share of a recording that prompts must cover

_NumberedRow = tuple[int, list[str]]  # line number in the file, cells


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Columns(_Part):
    """The columns of a CSV file."""

    emg: tuple[str, ...] = Field(min_length=1)
    stage: str | None = None
    time: str | None = None
    time_unit_s: float = Field(default=1.0, gt=0, le=86_400)


class Angle(_Part):
    """How a column becomes a joint's angle: offset + scale * column."""

    column: str
    scale: float = 1.0
    offset: float = 0.0  # rad


class Prompts(_Part):
    """The columns of a file of prompts."""

    columns: tuple[str, ...] = Field(min_length=1)
    time: str


class File(_Part):
    """One CSV file."""

    file: str = Field(min_length=1)
    user: str = Field(min_length=1)
    session: str = Field(min_length=1)
    split: Literal["train", "val", "test"]
    prompts: str | None = None
    stage: str | None = None
    side: Literal["left", "right", "unknown"] = "unknown"
    held_out_user: bool = False
    held_out_stage: bool = False


class ColumnMap(_Part):
    """The whole map."""

    sample_rate_hz: float | None = Field(default=None, gt=0, le=MAX_RATE_HZ)
    unit: Literal["uV", "mV", "V"] | None = None  # None: the size of the values says
    unit_uv: float | None = Field(default=None, gt=0, le=LARGEST_SAMPLE)  # microvolts of one unit, for counts
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    decimal: Literal[".", ","] = "."
    comment: str = "#"
    header: bool = True
    columns: Columns
    pose: dict[str, Angle] = {}
    prompts: Prompts | None = None
    files: tuple[File, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> "ColumnMap":
        faults = [f"pose.{name} is none of the 20 joints" for name in self.pose if name not in JOINT_NAMES]
        if self.columns.stage is None:
            unlabelled = [f.file for f in self.files if f.stage is None and f.prompts is None]
            faults += [f"files: {name} has no stage, and no column says it" for name in unlabelled]
        if any(f.prompts for f in self.files) and (self.prompts is None or self.columns.time is None):
            faults.append("files: prompts need the table prompts, and columns.time to lay them on")
        if self.sample_rate_hz is None and self.columns.time is None:
            faults.append("sample_rate_hz is missing, and no column of time says it")
        if self.unit is not None and self.unit_uv is not None:
            faults.append("unit and unit_uv both say what the EMG is in; leave one out")
        twice = [name for name, n in Counter(f.file for f in self.files).items() if n > 1]
        faults += self._column_faults()
        faults += [f"files: {name} is named twice, so each of its recordings would be there twice" for name in twice]
        if self.delimiter == self.decimal:
            faults.append("decimal and delimiter are the same character")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _column_faults(self) -> list[str]:
        columns = self.columns
        twice = [name for name, n in Counter(columns.emg).items() if n > 1]
        faults = [f"columns.emg: {name} is named twice" for name in twice]
        others = {"stage": columns.stage, "time": columns.time}
        return faults + [f"columns.{key}: {name} is EMG too" for key, name in others.items() if name in columns.emg]


@dataclass(frozen=True, slots=True)
class _Block:
    """Some rows of a file."""

    emg: NDArray[np.float64]  # (n, n_channels), in the file's unit
    pose_rad: NDArray[np.float64] | None  # (n, 20)
    stage: NDArray[np.str_]  # (n,)
    time_s: NDArray[np.float64] | None  # (n,)


def import_csv(column_map: Path, out: Path, *, writing: Writing = Writing()) -> ImportSummary:
    """Write the files that a column map names as a corpus, whole or not at all.

    Raises ConfigError that names all faults of the map at once, and DataError that names file and column.
    """
    spec = load_column_map(column_map)
    with writing_corpus(out, writing, "data import csv") as writer:
        for file in spec.files:
            path = column_map.parent / file.file
            if spec.columns.time is None:
                _stream(path, file, spec, writer)
            else:
                _read_whole(path, file, spec, writer)
        return writer.finish()


def load_column_map(path: Path) -> ColumnMap:
    """Read a column map; raises ConfigError, naming all faults at once."""
    try:
        return ColumnMap.model_validate(load_toml(path))
    except ValidationError as error:
        raise ConfigError(f"column map {path}: {faults(error)}") from error
    except ValueError as error:
        raise ConfigError(f"column map {path} cannot be read: {error}") from error


def _stream(path: Path, file: File, spec: ColumnMap, writer: CorpusWriter) -> None:
    """Write a file block by block, because it may be far larger than memory."""
    blocks = _blocks(path, file, spec, writer)
    first = next(blocks)
    scale = _microvolts(path, first.emg, spec, writer)

    def pieces() -> Iterator[tuple[str, _Block]]:
        writer.n_files += 1
        for block in chain([first], blocks):
            writer.n_samples_read += len(block.emg)
            for start, stop in stretches(block.stage):
                pose = None if block.pose_rad is None else block.pose_rad[start:stop]
                yield (
                    str(block.stage[start]),
                    _Block(block.emg[start:stop] * scale, pose, block.stage[start:stop], None),
                )

    for label, parts in groupby(pieces(), key=itemgetter(0)):
        if label:
            assert spec.sample_rate_hz is not None  # without a column of time
            head = _head(file, label, spec.sample_rate_hz, len(spec.columns.emg))
            writer.add_blocks(head, ((part.emg, part.pose_rad) for _, part in parts), path)
        else:
            writer.leave_out("rows without a label", sum(len(part.emg) for _, part in parts))


def _read_whole(path: Path, file: File, spec: ColumnMap, writer: CorpusWriter) -> None:
    """Even out the jitter of a file with a column of time, and write its labelled stretches."""
    blocks = list(_blocks(path, file, spec, writer))
    emg = np.concatenate([block.emg for block in blocks])
    emg *= _microvolts(path, emg[:_BLOCK_ROWS], spec, writer)
    stage = np.concatenate([block.stage for block in blocks])
    time_s = np.concatenate([block.time_s for block in blocks if block.time_s is not None])
    poses = [block.pose_rad for block in blocks if block.pose_rad is not None]
    if np.any(np.diff(time_s) < 0):
        row = int(np.argmax(np.diff(time_s) < 0)) + 2
        raise DataError(f"{path}: column {spec.columns.time} runs backwards after sample {row - 1}")
    rate_hz = _rate(path, time_s, spec, writer)
    columns = emg if not poses else np.hstack((emg, np.concatenate(poses)))
    even_s, values = evened(time_s, columns, rate_hz)
    if file.prompts is not None:
        stage = _prompted(path.parent / file.prompts, time_s, spec, writer)
    label = stage[np.clip(np.searchsorted(time_s, even_s - 0.5 / rate_hz), 0, len(stage) - 1)]
    n_channels = emg.shape[1]
    writer.read(len(even_s))
    if len(even_s) != len(emg):
        writer.notes.append(f"{path.name}: {len(emg)} samples were laid on {len(even_s)} of an even clock")
    for start, stop in stretches(label):
        if not label[start]:
            writer.leave_out("rows without a label", stop - start)
            continue
        head = _head(file, str(label[start]), rate_hz, n_channels)
        pose = values[start:stop, n_channels:] if poses else None
        from_zero_s = even_s[start:stop] - even_s[start]
        writer.add(replace(head, emg_uv=values[start:stop, :n_channels], pose_rad=pose, time_s=from_zero_s), path)


def _prompted(path: Path, time_s: NDArray[np.float64], spec: ColumnMap, writer: CorpusWriter) -> NDArray[np.str_]:
    """The label of each sample from a file of prompts, (n,); empty before the first prompt."""
    assert spec.prompts is not None  # the map was checked
    (_, names), *rows = _table_of_texts(path, spec)
    short = next((number for number, row in rows if len(row) < len(names)), None)
    if short is not None:
        raise DataError(f"{path}: a row has not as many values as the header has names, {len(names)}: row {short}")
    at_s = _numbers(path, names, rows, spec.prompts.time, spec) * spec.columns.time_unit_s
    odd = ~np.isfinite(at_s) | (np.diff(at_s, prepend=-np.inf) < 0)  # the binary search below needs them in order
    if odd.any():
        said = "holds no time, or one before that of the row above,"
        raise DataError(f"{path}: column {spec.prompts.time} {said} in row {rows[int(np.argmax(odd))][0]}")
    places = [_place(path, names, name) for name in (spec.prompts.time, *spec.prompts.columns)]
    if len(places) == 2:
        texts = [row[places[1]].strip() for _, row in rows]
    else:
        pairs = list(zip(spec.prompts.columns, places[1:], strict=True))
        texts = ["+".join(n for n, p in pairs if row[p].strip() not in ("", "0", "0.0")) or "Rest" for _, row in rows]
    labels: NDArray[np.str_] = np.array(["", *texts])[np.searchsorted(at_s, time_s, side="right")]
    unused = sorted(set(texts) - {""} - set(labels.tolist()))
    if unused:
        writer.notes.append(f"{path.name}: prompts that label no sample: {', '.join(unused)}")
    if len(at_s) > 1 and at_s[-1] - at_s[0] < _LEAST_SHARE_OF_TIME * (time_s[-1] - time_s[0]):
        writer.notes.append(
            f"{path.name}: its prompts take {at_s[-1] - at_s[0]:.3g} s of {time_s[-1] - time_s[0]:.3g} s; their times "
            "must be in the unit of columns.time"
        )
    return labels


def _table_of_texts(path: Path, spec: ColumnMap) -> list[_NumberedRow]:
    try:
        require_plain(path)
        with path.open(newline="", encoding="utf-8-sig") as text:
            rows = [(number, [cell.strip() for cell in row]) for number, row in _rows(path, text, spec)]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {unreadable(error)}") from error
    if len(rows) < 2:
        raise DataError(f"{path}: there are no prompts under the header")
    return rows


def _place(path: Path, names: list[str], name: str) -> int:
    if name not in names:
        raise DataError(f"{path}: column {name} is missing; there are {', '.join(names)}")
    if names.count(name) > 1:
        raise DataError(f"{path}: {names.count(name)} columns are called {name}; give each its own name")
    return names.index(name)


def _rate(path: Path, time_s: NDArray[np.float64], spec: ColumnMap, writer: CorpusWriter) -> float:
    """Samples per second: the map's value, which must agree with the time stamps, or else the stamps' rate."""
    by_time_hz, said_hz = usual_rate(time_s), spec.sample_rate_hz
    if said_hz is None:
        if by_time_hz is None:
            raise DataError(f"{path}: the column of time does not rise, so the rate is unknown; give sample_rate_hz")
        if not _LEAST_RATE_HZ <= by_time_hz <= MAX_RATE_HZ:
            raise DataError(f"{path}: {by_time_hz:g} Hz by column {spec.columns.time}; set columns.time_unit_s right")
        writer.notes.append(f"{path.name}: {by_time_hz:g} Hz by its time stamps")
        return by_time_hz
    if by_time_hz is not None and abs(by_time_hz / said_hz - 1) > _STATED_RATE_TOLERANCE:
        raise DataError(
            f"{path}: {by_time_hz:g} Hz by column {spec.columns.time}, but the map says {said_hz:g}; set "
            "sample_rate_hz or columns.time_unit_s right"
        )
    return said_hz


def _head(file: File, label: str, rate_hz: float, n_channels: int) -> Recording:
    """A recording without its samples."""
    return Recording(
        user=file.user,
        session=file.session,
        stage=label,
        emg_uv=np.empty((0, n_channels)),
        sample_rate_hz=rate_hz,
        split=file.split,
        side=file.side,
        held_out=(file.held_out_user, file.held_out_stage),
    )


def _microvolts(path: Path, emg: NDArray[np.float64], spec: ColumnMap, writer: CorpusWriter) -> float:
    """Microvolts of one unit of the EMG columns."""
    if spec.unit_uv is not None:
        return spec.unit_uv
    if spec.unit is not None:
        return microvolts_of(spec.unit) or 1.0
    factor, said = writer.unit_by_size.microvolts(path.name, emg)
    if said:
        writer.notes.append(f"{path.name}: {said}; say unit in the map")
    return factor


def _blocks(path: Path, file: File, spec: ColumnMap, writer: CorpusWriter) -> Iterator[_Block]:
    """Read a file some rows at a time; raises DataError that names file, row and column."""
    try:
        require_plain(path)
        with path.open(newline="", encoding="utf-8-sig") as text:
            rows = _rows(path, text, spec)
            first = next(rows, None)
            if first is None:
                raise DataError(f"{path}: the file is empty")
            header = first[1] if spec.header else [str(n + 1) for n in range(len(first[1]))]
            names = [name.strip() for name in header]
            rows = rows if spec.header else chain([first], rows)
            n_rows = 0
            while some := list(islice(rows, _BLOCK_ROWS)):
                if some[-1][1] and len(some[-1][1]) < len(names) and n_rows + len(some) > 1 and not _more(rows, some):
                    writer.leave_out("rows cut short at the end of a file", 1)
                    writer.n_samples_read += 1
                    some.pop()
                if some:
                    n_rows += len(some)
                    yield _block(path, names, some, file, spec)
            if not n_rows:
                raise DataError(f"{path}: there are no rows under the header")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {unreadable(error)}") from error


def _more(rows: Iterator[_NumberedRow], some: list[_NumberedRow]) -> bool:
    """Whether more rows follow; the next one is read ahead into `some`."""
    following = next(rows, None)
    if following is not None:
        some.append(following)
    return following is not None


def _rows(path: Path, text: Iterator[str], spec: ColumnMap) -> Iterator[_NumberedRow]:
    """The rows of a file with their line numbers; comments and empty lines are skipped."""

    def lines() -> Iterator[str]:
        for line in text:
            skipped = spec.comment and line.lstrip().startswith(spec.comment)
            yield "\n" if skipped else line

    reader = csv.reader(lines(), delimiter=spec.delimiter, strict=True)
    before = 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = (
                "a quotation mark is not closed" if reader.line_num > before + 1 or "EOF" in str(error) else str(error)
            )
            raise DataError(f"{path}: row {before + 1} cannot be read: {why}") from error
        if reader.line_num > before + 1:
            raise DataError(f"{path}: row {before + 1} cannot be read: a quotation mark is not closed")
        before = reader.line_num
        if any("\0" in cell for cell in row):
            raise DataError(f"{path}: row {before} holds a NUL byte, as after a power cut; delete it or repair it")
        if any(cell.strip() for cell in row) or len(row) > 1:
            yield before, row


def _block(path: Path, names: list[str], rows: list[_NumberedRow], file: File, spec: ColumnMap) -> _Block:
    odd_row = next((number for number, row in rows if len(row) != len(names)), None)
    if odd_row is not None:
        other = next((mark for mark in (";", "\t", ",") if len(names) == 1 and mark in names[0]), None)
        hint = f"; columns seem to be apart by {other!r}: say delimiter = {other!r} in the map" if other else ""
        said = f"a row has not as many values as the header has names, {len(names)}: row {odd_row}"
        raise DataError(f"{path}: {said}{hint}")
    emg = np.column_stack([_numbers(path, names, rows, name, spec) for name in spec.columns.emg])
    odd = ~(np.abs(emg) <= LARGEST_SAMPLE)  # also true for nan
    if odd.any():
        value, number = float(emg[odd][0]), rows[int(np.argmax(odd.any(axis=1)))][0]
        said = f"holds {value:g}, which nothing measures," if np.isfinite(value) else "holds no number"
        raise DataError(f"{path}: an EMG column {said} in row {number}")
    stage, time_s = spec.columns.stage, None
    labels = [file.stage or ""] * len(rows) if stage is None else _texts(path, names, rows, stage)
    labels = ["" if label.lower() == "nan" else label for label in labels]  # pandas writes a missing label as nan
    if spec.columns.time is not None:
        time_s = _numbers(path, names, rows, spec.columns.time, spec) * spec.columns.time_unit_s
        if not np.isfinite(time_s).all():
            row = rows[int(np.argmax(~np.isfinite(time_s)))][0]
            raise DataError(f"{path}: column {spec.columns.time} holds no number in row {row}")
    return _Block(emg, _pose(path, names, rows, spec), np.array(labels), time_s)


def _pose(path: Path, names: list[str], rows: list[_NumberedRow], spec: ColumnMap) -> NDArray[np.float64] | None:
    if not spec.pose:
        return None
    pose = np.zeros((len(rows), N_JOINTS))
    for joint, angle in spec.pose.items():
        values = _numbers(path, names, rows, angle.column, spec)
        pose[:, JOINT_NAMES.index(joint)] = angle.offset + angle.scale * values
    pose[~np.isfinite(pose).all(axis=1)] = np.nan
    return pose


def _texts(path: Path, names: list[str], rows: list[_NumberedRow], name: str) -> list[str]:
    place = _place(path, names, name)
    return [row[place].strip() for _, row in rows]


def _numbers(path: Path, names: list[str], rows: list[_NumberedRow], name: str, spec: ColumnMap) -> NDArray[np.float64]:
    """A column, (n,); empty cells are nan."""
    texts = _texts(path, names, rows, name)
    if spec.decimal == ",":
        texts = [text.replace(",", ".") for text in texts]
    try:
        return np.array([float(text) if text else np.nan for text in texts])
    except ValueError as error:
        row, odd = next((number, text) for (number, _), text in zip(rows, texts, strict=True) if not _is_number(text))
        hint = "; if that is its decimal point, say decimal = ',' in the map" if "," in odd else ""
        raise DataError(
            f"{path}: column {name} holds {printable(odd, 40)!r}, which is not a number, in row {row}{hint}"
        ) from error


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True
