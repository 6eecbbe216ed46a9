"""Readers for text files of the OpenBCI GUI and of Delsys' software."""

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import DataError
from cpep_edge.outside import printable

_OPENBCI_COUNTER = 256  # boards count their samples in a byte
Gaps = tuple[tuple[float, float], ...]  # of each: seconds recorded before it, seconds missing
MAX_RATE_HZ = 1e6  # far above any EMG converter
_IN_MILLISECONDS = 1e11  # time stamps above this are milliseconds since 1970
_LONGEST_BURST_S = 0.2  # longest burst of samples that arrive at once


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of a file, in its own unit and at its own rate."""

    name: str
    values: NDArray[np.float64]  # (n,)
    rate_hz: float
    unit: str  # as spelt in the file; empty if it names none


@dataclass(frozen=True, slots=True)
class Event:
    """An annotation or a marker."""

    start_s: float  # from the first sample
    duration_s: float | None  # None or 0: until the next event
    text: str


@dataclass(frozen=True, slots=True)
class SourceFile:
    """The content of a file."""

    kind: str
    channels: tuple[Channel, ...]
    events: tuple[Event, ...] = ()
    time_s: NDArray[np.float64] | None = None  # of each sample, from the first; None: evenly spaced
    notes: tuple[str, ...] = ()
    gaps: Gaps = ()  # used when `time_s` is None
    n_left_out: int = 0  # rows that could not be used


def is_openbci(head: str) -> bool:
    """Whether a file begins like one of the OpenBCI GUI."""
    return head.startswith("%OpenBCI")


def is_delsys(head: str) -> bool:
    """Whether a file begins like one of Trigno Discover or EMGworks."""
    return bool(re.match(r'Application:|Label: .*Sampling frequency:|"?X ?\[s\]"?[,;]', head))


def read_openbci(path: Path) -> SourceFile:
    """Read a recording of the OpenBCI GUI, version 4 to 6."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    head = [line for line in lines if line.startswith("%")]
    rate = re.search(r"%\s*Sample Rate\s*=\s*([\d.]+)", "\n".join(head))
    rate_hz = float(rate[1].rstrip(".")) if rate else 0.0
    if not 0 < rate_hz <= MAX_RATE_HZ:
        raise DataError(f"{path}: the line %Sample Rate is missing, or none that can be")
    rows = list(csv.reader((line for line in lines if line and not line.startswith("%")), skipinitialspace=True))
    names = [name.strip() for name in rows[0]] if rows and not _is_number(rows[0][0]) else []
    body = rows[1:] if names else rows
    width = Counter(map(len, body)).most_common(1)[0][0] if body else 0
    if not names:
        n = re.search(r"%\s*Number of channels\s*=\s*(\d+)", "\n".join(head))
        names = ["Sample Index", *(f"EXG Channel {k}" for k in range(int(n[1]) if n else 8))]
    whole = [row for row in body if len(row) == width]
    exg = [place for place, name in enumerate(names) if name.upper().startswith("EXG CHANNEL")]
    if not exg or not whole:
        raise DataError(f"{path}: there is no column EXG Channel with samples")
    odd = next(((row, p) for row in whole for p in (0, *exg) if not _is_number(row[p])), None)
    if odd is not None:
        where = f"where {names[0]} is {printable(odd[0][0], 20)}"
        raise DataError(
            f"{path}: {names[odd[1]]} holds {printable(odd[0][odd[1]], 20)!r}, which is not a number, {where}"
        )
    table = np.array([[float(row[place]) for place in (0, *exg)] for row in whole])
    stamp = names.index("Timestamp") if "Timestamp" in names else None
    lost = _lost_by_index(table[:, 0], rate_hz, None if stamp is None else [row[stamp] for row in whole])
    notes = [f"{int(lost.sum())} samples were lost on the way, by the sample index"] if lost.any() else []
    time_s = (np.arange(len(table)) + np.cumsum(lost)) / rate_hz if lost.any() else None
    marker = next((place for place, name in enumerate(names) if name.lower().startswith("marker")), None)
    marked = [] if marker is None or marker >= width else [row[marker] for row in whole]
    events = _marker_events(marked, rate_hz, time_s)
    channels = tuple(Channel(names[p], table[:, 1 + k], rate_hz, "uV") for k, p in enumerate(exg))
    return SourceFile("OpenBCI", channels, tuple(events), time_s, tuple(notes), n_left_out=len(body) - len(whole))


def _lost_by_index(index: NDArray[np.float64], rate_hz: float, arrivals: list[str] | None = None) -> NDArray[np.int64]:
    """Samples lost before each sample, from a wrapping counter; all zero when the column is not a counter.

    arrivals: arrival time of each sample: a counter that jumps while the clock does not was restarted
    """
    lost = np.zeros(len(index), np.int64)
    if not (np.abs(index) <= _OPENBCI_COUNTER).all():
        return lost
    steps = np.diff(index.astype(np.int64))
    usual = int(np.median(steps)) if len(steps) else 0
    if usual <= 0:
        return lost
    wrap = int(index.max()) + usual  # 256 of a Cyton, 101 or 201 of a Ganglion
    lost[1:] = steps % wrap // usual - 1  # a Daisy counts by two
    if arrivals is not None and all(map(_is_number, arrivals)):
        missing_s = lost / rate_hz
        came = np.array([float(text) for text in arrivals])
        waited_s = np.diff(came, prepend=came[0]) / (1000 if came[0] > _IN_MILLISECONDS else 1)  # version 4 and before
        lost[(missing_s > _LONGEST_BURST_S) & (waited_s < missing_s / 2)] = 0
    return np.maximum(lost, 0)


def _marker_events(texts: list[str], rate_hz: float, time_s: NDArray[np.float64] | None) -> list[Event]:
    values = [text.strip() for text in texts]
    return [
        Event(n / rate_hz if time_s is None else float(time_s[n]), None, f"marker {value.removesuffix('.0')}")
        for n, value in enumerate(values)
        if value and _is_number(value) and float(value) != 0
    ]


def read_delsys(path: Path) -> SourceFile:
    """Read an export of Trigno Discover or EMGworks. Channels may have different rates; slower ones have fewer rows."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as text:
        first = text.readline()
        text.seek(0)
        with_semicolons = first.count(";") > first.count(",")  # separator when the decimal mark is a comma
        mark = ";" if with_semicolons else ","
        rows = [[cell.strip() for cell in row] for row in csv.reader(text, delimiter=mark, skipinitialspace=True)]
    if with_semicolons:
        rows = [[cell.replace(",", ".") for cell in row] for row in rows]
    if rows and rows[0] and rows[0][0].startswith("Application:"):
        return _trigno_discover(path, rows)
    return _emgworks(path, rows)


def _trigno_discover(path: Path, rows: list[list[str]]) -> SourceFile:
    sensors = next((n for n, row in enumerate(rows) if n + 1 < len(rows) and _starts(rows[n + 1], "sensor mode")), None)
    if sensors is None or sensors + 2 >= len(rows):
        raise DataError(f"{path}: the line of sensor modes is missing, the export was cut short")
    names, units, rates = rows[sensors + 2], [], []
    rate_row = rows[sensors + 3] if sensors + 3 < len(rows) else []
    apart = bool(rate_row) and rate_row[0].endswith("Hz")
    for place, name in enumerate(names):
        rate = re.search(r"([\d.]+) ?Hz", rate_row[place] if apart and place < len(rate_row) else name)
        unit = re.search(r"\(([^()]*)\)$", name)
        rates.append(float(rate[1]) if rate else 0.0)
        units.append(unit[1] if unit and "Hz" not in unit[1] else "mV" if "EMG" in name else "")
    if not any(rates):
        raise DataError(f"{path}: its header gives no channel a rate in Hz; export it again with the rates")
    labelled = _with_sensors(names, rows[sensors])
    columns = _columns(path, rows, sensors + 3 + apart, labelled)
    told = zip(labelled, columns, rates, units, strict=True)
    channels = tuple(Channel(n, values, rate, unit) for n, values, rate, unit in told if len(values) > 1 and rate > 0)
    if not channels:
        raise DataError(f"{path}: no channel holds samples")
    return SourceFile("Trigno Discover", channels)


def _with_sensors(names: list[str], sensors: list[str]) -> list[str]:
    """Add each sensor's name to its channels; the file writes it only above the first channel of the sensor."""
    labelled, sensor = [], ""
    for place, name in enumerate(names):
        sensor = (sensors[place] if place < len(sensors) else "") or sensor
        short = re.sub(r" ?\([^()]*\)", "", name)
        labelled.append(f"{short} (sensor {re.sub(r' ?[(].*', '', sensor)})")
    return labelled


def _emgworks(path: Path, rows: list[list[str]]) -> SourceFile:
    """Read pairs of columns, time and value; older exports give rate and unit of each channel in lines before."""
    said: dict[str, tuple[float, str]] = {}
    n_said: dict[str, int] = {}
    for row in rows:
        match = re.match(r"Label: (.*?) Sampling frequency: (\S+) .*?Unit: (\S*)", row[0] if row else "")
        if match:
            said[match[1]] = (float(match[2]), match[3])
            points = re.search(r"Number of points: (\d+)", row[0])
            n_said[match[1]] = int(points[1]) if points else 0
    header = next((n for n, row in enumerate(rows) if row and row[0].replace(" ", "").startswith("X[s]")), None)
    first = next((n for n, row in enumerate(rows) if _all_numbers(row)), len(rows))
    start = first if header is None else header + 1
    if header is not None:
        names = rows[header][1::2]
    elif said:
        names = list(said)
    else:
        raise DataError(f"{path}: the line of column names is missing")
    columns = _columns(path, rows, start, [cell for name in names for cell in (name, name)])
    channels, odd, short = [], [], ""
    for number, name in enumerate(names):
        time_s, values = columns[2 * number], columns[2 * number + 1]
        n = min(len(time_s), len(values))
        if n < 2:
            odd.append(name)
            continue
        rate_hz, unit = said.get(name, (0.0, "V" if "EMG" in name else ""))
        steps = (time_s[n - 1] - time_s[0]) / (n - 1)
        by_time = 1 / steps if steps > 0 else 0.0
        if not rate_hz or abs(by_time / rate_hz - 1) > 0.01:  # some EMGworks files give kilohertz as hertz
            rate_hz = by_time
        channels.append(Channel(name, values[:n], float(rate_hz), unit))
        if n < n_said.get(name, n):
            short = f"{name} holds {n} of the {n_said[name]} samples that its header promises"
    notes = [f"channels without samples were left out: {', '.join(odd)}"] if odd else []
    notes += [short] if short else []
    if not channels:
        raise DataError(f"{path}: no channel holds samples")
    return SourceFile("EMGworks", tuple(channels), (), None, tuple(notes))


def _columns(path: Path, rows: list[list[str]], start: int, names: list[str]) -> list[NDArray[np.float64]]:
    """Each column from a start row down to its end; a last row that was cut short is used as far as it goes.

    Raises DataError when EMG has a hole, because the samples after it would be shifted.
    """
    columns: list[list[float]] = [[] for _ in names]
    ended = [0] * len(names)  # row where each column ended; 0: not yet
    for number, row in enumerate(rows[start:], start=start + 1):
        for place, name in enumerate(names):
            cell = row[place] if place < len(row) else ""
            if not _is_number(cell):
                ended[place] = ended[place] or number
            elif not ended[place]:
                columns[place].append(float(cell))
            elif "EMG" in name:
                raise DataError(f"{path}: {printable(name)} holds no number in row {ended[place]}, but does after it")
    return [np.array(column) for column in columns]


def _starts(row: list[str], text: str) -> bool:
    return bool(row) and row[0].lower().startswith(text)


def _all_numbers(row: list[str]) -> bool:
    return len(row) > 1 and all(_is_number(cell) for cell in row if cell)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
