"""Readers of recordings by amplifier software: EDF and BDF, XDF, OpenSignals HDF5, OpenBCI and Delsys text.

A reader returns channels with their names, units and rates, events, and notes on what it found;
`cpep_train.import_files` interprets them. Each reader raises DataError that names the file and what is wrong with it.
"""

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import ConfigError, DataError
from cpep_edge.outside import printable
from cpep_edge.session_trial import SessionTrial
from cpep_train.even_grid import LONGEST_GAP_PERIODS, LONGEST_GAP_S, usual_rate
from cpep_train.text_formats import (
    MAX_RATE_HZ,
    Channel,
    Event,
    Gaps,
    SourceFile,
    is_delsys,
    is_openbci,
    read_delsys,
    read_openbci,
)

# biosignalsplux and BITalino: supply voltage, and gain of their EMG sensor, from their data sheets
_PLUX = (3.0, 1000.0)
_BITALINO = (3.3, 1009.0)
_HEAD_BYTES = 4096
_EDF_START = re.compile(rb"\d\d[.]\d\d[.]\d{4}[.]\d\d[.]\d\d")  # date and time
_MOST_BITS = 32  # of a converter
_STAMPED_RATE_TOLERANCE = 0.02  # relative difference from the nominal rate beyond which the time stamps' rate is used


def read_source(path: Path) -> SourceFile:
    """Read a file of any known format, which is recognised by content and not by name alone."""
    if not path.is_file():
        raise DataError(f"{path}: {_no_file(path)}")
    reader = _reader(path)
    if reader is None:
        raise DataError(
            f"{path}: neither EDF, BDF, XDF, OpenSignals HDF5, OpenBCI nor Delsys text; other text goes in by "
            "cpep-edge data import csv, which takes a column map"
        )
    try:
        with _overheard() as said:
            source = reader(path)
    except (DataError, ConfigError, ModuleNotFoundError):
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # readers raise any kind of exception on a damaged file
        why = printable(str(error) or type(error).__name__)
        raise DataError(f"{path} cannot be read, it is damaged or cut short: {why}") from error
    impossible = next((c for c in source.channels if not 0 < c.rate_hz <= MAX_RATE_HZ), None)
    if impossible is not None:
        raise DataError(f"{path}: {printable(impossible.name)} cannot have been sampled at {impossible.rate_hz:g} Hz")
    return replace(source, notes=(*source.notes, *said))


def _no_file(path: Path) -> str:
    if path.is_dir():
        return "it is a folder; name the files in it"
    return "it is not a plain file" if path.exists() else "there is no such file"


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """Collect warnings of libraries while they read, for the notes; the list is filled at the end."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR:  # our own notes already cover what pyxdf only warns of
                said.append(printable(record.getMessage()))

    log, listener = logging.getLogger("pyxdf"), Listener()
    log.addHandler(listener)
    log.propagate = False
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield said
        said += [printable(str(warning.message)) for warning in warned]
    finally:
        log.removeHandler(listener)
        log.propagate = True


def _reader(path: Path) -> Callable[[Path], SourceFile] | None:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(b"XDF:") or (head.startswith(b"\x1f\x8b") and path.suffix == ".xdfz"):
        return _read_xdf
    if head.startswith(b"\xffBIOSEMI"):
        return _read_bdf
    if re.match(rb"0 {7}", head) and (path.suffix.lower() in (".edf", ".rec") or _EDF_START.match(head[168:184])):
        return _read_edf
    if h5py.is_hdf5(path):
        return _read_opensignals
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff")
    if is_openbci(text):
        return read_openbci
    return read_delsys if is_delsys(text) else None


def _read_edf(path: Path) -> SourceFile:
    import edfio

    gaps = _interruptions(path, 2)  # checks the header first
    return _of_edf(path, edfio.read_edf(path), "EDF", gaps)


def _read_bdf(path: Path) -> SourceFile:
    import edfio

    gaps = _interruptions(path, 3)
    return _of_edf(path, edfio.read_bdf(path), "BDF", gaps)


def _of_edf(path: Path, file: Any, kind: str, gaps: Gaps) -> SourceFile:
    channels = []
    for one in file.signals:
        name = printable(one.label.strip())
        ends = (one.physical_min, one.physical_max, one.digital_min, one.digital_max)
        if not np.isfinite(ends).all() or ends[0] == ends[1] or ends[2] == ends[3]:
            raise DataError(f"{path}: the header gives {name} no range of values, so its unit is unknown")
        values = np.asarray(one.data, np.float64)
        channels.append(Channel(name, values, float(one.sampling_frequency), one.physical_dimension.strip()))
    events = tuple(
        Event(float(a.onset), None if a.duration is None else float(a.duration), a.text) for a in file.annotations
    )
    notes = [f"it was interrupted {len(gaps)} times, {sum(s for _, s in gaps):.3g} s in all"] if gaps else []
    return SourceFile(kind, tuple(channels), events, None, tuple(notes), gaps)


def _interruptions(path: Path, sample_bytes: int) -> Gaps:
    """The gaps of an EDF+D or BDF+D, from the time in each record; of other files only the header is checked.

    This is needed because edfio reads the records as if they were contiguous.
    """
    content = path.read_bytes()

    def number(start: int, n_letters: int, what: str) -> float:
        text = content[start : start + n_letters].decode("latin-1").strip()
        value = float(text) if re.fullmatch(r"[-+]?\d+([.]\d*)?", text) else np.nan
        if not value > 0:
            raise DataError(f"{path}: the header is damaged: {what} is {printable(text)!r}")
        return value

    n = int(number(252, 4, "the number of signals"))
    record_s = number(244, 8, "the duration of a record")
    head = 256 * (n + 1)
    if number(184, 8, "its own length") != head or len(content) < head:
        raise DataError(f"{path}: the header is damaged, or the file cut short: {n} signals need {head} bytes of it")
    starts = [0]
    for k in range(n):
        size = number(256 + 216 * n + 8 * k, 8, f"the number of samples of signal {k + 1} in a record")
        starts.append(starts[-1] + sample_bytes * int(size))
    if len(content) < head + starts[-1]:
        raise DataError(f"{path}: it is cut short, or its header damaged: a record has {starts[-1]} bytes")
    if content[192:197] not in (b"EDF+D", b"BDF+D"):
        return ()
    labels = [content[256 + 16 * k :][:16].strip() for k in range(n)]
    told = next((k for k, label in enumerate(labels) if label in (b"EDF Annotations", b"BDF Annotations")), None)
    if told is None:
        raise DataError(f"{path}: it was interrupted (EDF+D), but the signal that says when is missing")
    whole = range(head, len(content) - starts[-1] + 1, starts[-1])
    at_s = [float(re.split(rb"[\x14\x15]", content[start + starts[told] :][:32])[0]) for start in whole]
    missing = [(k * record_s, at_s[k] - at_s[k - 1] - record_s) for k in range(1, len(at_s))]
    if any(gap_s < -1e-6 for _, gap_s in missing):
        raise DataError(f"{path}: the times of its records run backwards")
    return tuple((before_s, gap_s) for before_s, gap_s in missing if gap_s > 1e-6)


def _read_xdf(path: Path) -> SourceFile:
    import pyxdf

    streams, _ = pyxdf.load_xdf(
        str(path), jitter_break_threshold_seconds=LONGEST_GAP_S, jitter_break_threshold_samples=LONGEST_GAP_PERIODS
    )
    signals = [stream for stream in streams if _is_signal(stream)]
    if not signals:
        raise DataError(f"{path}: no stream holds samples of numbers")
    notes = [f"stream {_text(stream, 'name')} holds no samples" for stream in streams if not len(stream["time_stamps"])]
    by_kind = sorted(signals, key=lambda stream: (_rank(stream), len(stream["time_stamps"])), reverse=True)
    chosen = by_kind[0]
    if _rank(chosen) < 0:
        raise DataError(f"{path}: no stream holds EMG; {printable(_text(chosen, 'name'))} is {_text(chosen, 'type')}")
    notes += [f"stream {_text(stream, 'name')} was left out" for stream in by_kind[1:]]
    notes.append(f"stream {_text(chosen, 'name')} of type {_text(chosen, 'type')} is taken")
    time_s = np.asarray(chosen["time_stamps"], np.float64)
    values = np.asarray(chosen["time_series"], np.float64)
    if not np.isfinite(time_s).all():
        raise DataError(f"{path}: a time stamp of stream {printable(_text(chosen, 'name'))} is not a number")
    if (np.diff(time_s) < 0).any():
        _check_clock(path, time_s, printable(_text(chosen, "name")))
        notes.append(f"the clock of stream {_text(chosen, 'name')} went backwards; samples are in the clock's order")
    order = np.argsort(time_s, kind="stable")  # a clock that was reset may leave stamps out of order
    time_s, values = time_s[order], values[order]
    nominal_hz, by_time_hz = float(_text(chosen, "nominal_srate") or 0), usual_rate(time_s)
    if by_time_hz is None:
        raise DataError(f"{path}: the time stamps of stream {printable(_text(chosen, 'name'))} stand still")
    rate_hz = nominal_hz if abs(nominal_hz / by_time_hz - 1) <= _STAMPED_RATE_TOLERANCE else by_time_hz
    if nominal_hz and rate_hz != nominal_hz:
        notes.append(f"samples came at {rate_hz:g} Hz where {nominal_hz:g} Hz are said, and that is used")
    labelling = [_text(stream, "name") for stream in streams if stream is not chosen and _is_markers(stream)]
    if len(labelling) > 1:
        notes.append(f"labels come from {len(labelling)} streams: {', '.join(labelling)}")
    start_s = float(time_s[0])
    names, units = _xdf_channels(chosen, values.shape[1])
    events = [
        Event(float(at) - start_s, None, label)
        for stream in streams
        if stream is not chosen and _is_markers(stream)
        for at, marker in zip(stream["time_stamps"], stream["time_series"], strict=True)
        if _is_label(label := _label(marker[0]))
    ]
    channels = tuple(Channel(n, column, rate_hz, u) for n, column, u in zip(names, values.T, units, strict=True))
    return SourceFile("XDF", channels, tuple(sorted(events, key=lambda e: e.start_s)), time_s - start_s, tuple(notes))


def _check_clock(path: Path, time_s: NDArray[np.float64], name: str) -> None:
    """Raise DataError when a clock went back over time that it had covered, as labels would then fit two samples."""
    ends = np.flatnonzero(np.diff(time_s) < 0)
    pieces = sorted((piece[0], piece[-1]) for piece in np.split(time_s, ends + 1))
    over_s = max((before[1] - after[0] for before, after in pairwise(pieces)), default=0.0)
    if over_s > LONGEST_GAP_S:
        raise DataError(f"{path}: the clock of stream {name} went back {over_s:.3g} s, so labels fit twice")


def _is_markers(stream: dict) -> bool:  # type: ignore[type-arg]
    """Whether a stream holds markers: texts, or occasional numbers in a stream that is named so."""
    if _text(stream, "channel_format") == "string":
        return True
    said = f"{_text(stream, 'type')} {_text(stream, 'name')}"
    is_now_and_then = float(_text(stream, "nominal_srate") or 0) == 0 and np.ndim(stream["time_series"]) == 2
    return is_now_and_then and bool(re.search("marker|stim|event|trigger", said, re.IGNORECASE))


def _label(marker: "str | np.number[Any]") -> str:
    return marker.strip() if isinstance(marker, str) else f"marker {float(marker):g}"


def _is_signal(stream: dict) -> bool:  # type: ignore[type-arg]
    values = stream["time_series"]
    if _is_markers(stream):
        return False
    return isinstance(values, np.ndarray) and values.ndim == 2 and len(values) > 1 and values.dtype.kind in "fiu"


def _rank(stream: dict) -> int:  # type: ignore[type-arg]
    """How likely a stream is to be EMG, from its type and name."""
    said = f"{_text(stream, 'type')} {_text(stream, 'name')}".lower()
    if re.search(r"emg|exg|eeg", said):
        return 2 if "emg" in said else 1
    return -1 if re.search(r"\b(acc|gyr|mag|imu|gaze|audio|mocap|motion)", said) else 0


def _is_label(text: str) -> bool:
    return bool(text.strip()) and not text.lstrip().startswith(("<", "{"))


def _text(stream: dict, key: str) -> str:  # type: ignore[type-arg]
    value = stream["info"].get(key)
    return str(value[0] if isinstance(value, list) and value else value or "")


def _xdf_channels(stream: dict, n: int) -> tuple[list[str], list[str]]:  # type: ignore[type-arg]
    """Names and units of a stream's channels, as far as its description has them."""
    try:
        said = stream["info"]["desc"][0]["channels"][0]["channel"]
        names = [str(c["label"][0]) for c in said]
        units = [str((c.get("unit") or [""])[0] or "") for c in said]
    except (KeyError, IndexError, TypeError):
        names, units = [], []
    if len(names) != n:
        return [f"channel {number + 1}" for number in range(n)], [""] * n
    return names, units


def _read_opensignals(path: Path) -> SourceFile:
    with SessionTrial() as trial:
        trial.check_tables(path)
    with h5py.File(path, "r") as file:
        devices = [group for group in file.values() if isinstance(group, h5py.Group) and "sampling rate" in group.attrs]
        if not devices:
            raise DataError(f"{path}: an HDF5 file, but not of OpenSignals; sessions go into training as they are")
        channels: list[Channel] = []
        notes: list[str] = []
        time_s = None
        for device in devices:
            try:
                rate_hz = float(np.ravel(device.attrs["sampling rate"])[0])
                numbers, bits = (np.ravel(device.attrs[key]).astype(int) for key in ("channels", "resolution"))
                raw = device["raw"]
            except (KeyError, IndexError, ValueError) as error:
                where = printable(device.name)
                raise DataError(f"{path}: device {where} lacks its sampling rate, resolutions or samples") from error
            for name, table in raw.items():
                number = re.fullmatch(r"channel_(\d+)", name)
                if number is not None:
                    n_bits = dict(zip(numbers.tolist(), bits.tolist(), strict=False)).get(int(number[1]), 16)
                    channels.append(_opensignals_channel(path, device, table, n_bits, rate_hz))
            lost = _lost_before(raw.get("nSeq"))
            if lost is not None and lost.any():
                notes.append(f"{int(lost.sum())} samples of {_attr(device, 'device name')} were lost on the way")
                if len(devices) == 1:
                    time_s = (np.arange(len(lost)) + np.cumsum(lost)) / rate_hz
    return SourceFile("OpenSignals", tuple(channels), (), time_s, tuple(notes))


def _opensignals_channel(path: Path, device: h5py.Group, table: h5py.Dataset, n_bits: int, rate_hz: float) -> Channel:
    sensor, number = _attr(table, "sensor") or "RAW", table.name.rpartition("_")[2]
    name = f"{sensor} {number}"
    if not np.issubdtype(table.dtype, np.number) or not table.size:
        raise DataError(f"{path}: {printable(name)} holds no numbers")
    codes = table[()].ravel().astype(np.float64)
    if "EMG" not in sensor.upper():
        return Channel(name, codes, rate_hz, "code")
    if not 1 <= n_bits <= _MOST_BITS:
        raise DataError(f"{path}: {printable(name)} cannot have a resolution of {n_bits} bits")
    supply_v, gain = _BITALINO if "bitalino" in _attr(device, "device").lower() else _PLUX
    return Channel(name, (codes / 2**n_bits - 0.5) * supply_v / gain * 1e6, rate_hz, "uV")


def _attr(thing: h5py.Group | h5py.Dataset, name: str) -> str:
    value = thing.attrs.get(name, "")
    return value.decode() if isinstance(value, bytes) else str(value)


def _lost_before(counter: h5py.Dataset | None) -> NDArray[np.int64] | None:
    """Number of samples lost before each sample, from a wrapping counter."""
    if counter is None or len(counter) < 2:
        return None
    values = counter[()].ravel().astype(np.int64)
    wrap = 1 << max(1, int(values.max()).bit_length())
    lost: NDArray[np.int64] = (np.diff(values, prepend=values[0] - 1) - 1) % wrap
    return lost if np.median(lost) == 0 else None
