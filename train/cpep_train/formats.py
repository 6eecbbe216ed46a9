"""Recordings as the software of amplifiers writes them: EDF and BDF, XDF, OpenSignals HDF5, OpenBCI and Delsys text.

A reader only reads: channels with their names, units and rates, events, and notes of what it found. What becomes of
that is the business of `cpep_train.import_files`. Each raises DataError, naming the file and what is wrong with it.
"""

import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import ConfigError, DataError
from cpep_train.importing import LONGEST_GAP_PERIODS, LONGEST_GAP_S
from cpep_train.text_formats import Channel, Event, SourceFile, is_delsys, is_openbci, read_delsys, read_openbci

# biosignalsplux and BITalino: volts of the supply, and the gain of their EMG sensor, by their data sheets
_PLUX = (3.0, 1000.0)
_BITALINO = (3.3, 1009.0)
_HEAD_BYTES = 4096


def read_source(path: Path) -> SourceFile:
    """Read a file of any format that is known; its content decides, not its name alone."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    reader = _reader(path)
    if reader is None:
        raise DataError(
            f"{path}: neither EDF, BDF, XDF, OpenSignals HDF5, OpenBCI nor Delsys text; other text goes in by "
            "cpep-edge data import csv, which takes a column map"
        )
    try:
        return reader(path)
    except (DataError, ConfigError, ModuleNotFoundError):
        raise
    except Exception as error:  # readers raise whatever comes on a damaged file
        raise DataError(
            f"{path} cannot be read, it is damaged or cut short: {error or type(error).__name__}"
        ) from error


def _reader(path: Path) -> Callable[[Path], SourceFile] | None:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(b"XDF:") or (head.startswith(b"\x1f\x8b") and path.suffix == ".xdfz"):
        return _read_xdf
    if head.startswith(b"\xffBIOSEMI"):
        return _read_bdf
    if re.match(rb"0 {7}", head) and path.suffix.lower() in (".edf", ".rec"):
        return _read_edf
    if h5py.is_hdf5(path):
        return _read_opensignals
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff")
    if is_openbci(text):
        return read_openbci
    return read_delsys if is_delsys(text) else None


def _read_edf(path: Path) -> SourceFile:
    import edfio

    return _of_edf(edfio.read_edf(path), "EDF")


def _read_bdf(path: Path) -> SourceFile:
    import edfio

    return _of_edf(edfio.read_bdf(path), "BDF")


def _of_edf(file: "object", kind: str) -> SourceFile:
    signals, annotations = file.signals, file.annotations  # type: ignore[attr-defined]
    channels = tuple(
        Channel(
            s.label.strip(), np.asarray(s.data, np.float64), float(s.sampling_frequency), s.physical_dimension.strip()
        )
        for s in signals
    )
    events = tuple(
        Event(float(a.onset), None if a.duration is None else float(a.duration), a.text) for a in annotations
    )
    return SourceFile(kind, channels, events)


def _read_xdf(path: Path) -> SourceFile:
    import logging

    import pyxdf

    logging.getLogger("pyxdf").setLevel(logging.ERROR)  # what it warns of is in the notes
    streams, _ = pyxdf.load_xdf(
        str(path), jitter_break_threshold_seconds=LONGEST_GAP_S, jitter_break_threshold_samples=LONGEST_GAP_PERIODS
    )
    signals = [stream for stream in streams if _is_signal(stream)]
    if not signals:
        raise DataError(f"{path}: no stream holds samples of numbers")
    notes = [f"stream {_text(stream, 'name')} holds no samples" for stream in streams if not len(stream["time_stamps"])]
    by_kind = sorted(signals, key=lambda stream: (_rank(stream), len(stream["time_stamps"])), reverse=True)
    chosen = by_kind[0]
    notes += [f"stream {_text(stream, 'name')} was left out" for stream in by_kind[1:]]
    notes.append(f"stream {_text(chosen, 'name')} of type {_text(chosen, 'type')} is taken")
    time_s = np.asarray(chosen["time_stamps"], np.float64)
    values = np.asarray(chosen["time_series"], np.float64)
    order = np.argsort(time_s, kind="stable")  # a clock that was reset may leave stamps out of order
    time_s, values = time_s[order], values[order]
    nominal_hz = float(_text(chosen, "nominal_srate") or 0)
    start_s = float(time_s[0])
    names, units = _xdf_channels(chosen, values.shape[1])
    events = [
        Event(float(at) - start_s, None, str(marker[0]).strip())
        for stream in streams
        if _text(stream, "channel_format") == "string"
        for at, marker in zip(stream["time_stamps"], stream["time_series"], strict=True)
        if _is_label(str(marker[0]))
    ]
    rate_hz = nominal_hz or _usual_rate(time_s)
    channels = tuple(Channel(n, column, rate_hz, u) for n, column, u in zip(names, values.T, units, strict=True))
    return SourceFile("XDF", channels, tuple(sorted(events, key=lambda e: e.start_s)), time_s - start_s, tuple(notes))


def _is_signal(stream: dict) -> bool:  # type: ignore[type-arg]
    values = stream["time_series"]
    return isinstance(values, np.ndarray) and values.ndim == 2 and len(values) > 1 and values.dtype.kind in "fiu"


def _rank(stream: dict) -> int:  # type: ignore[type-arg]
    """How likely a stream is EMG, by its type and name."""
    said = f"{_text(stream, 'type')} {_text(stream, 'name')}".lower()
    return 2 if "emg" in said else 1 if re.search(r"exg|eeg", said) else 0


def _is_label(text: str) -> bool:
    return bool(text.strip()) and not text.lstrip().startswith(("<", "{"))


def _text(stream: dict, key: str) -> str:  # type: ignore[type-arg]
    value = stream["info"].get(key)
    return str(value[0] if isinstance(value, list) and value else value or "")


def _xdf_channels(stream: dict, n: int) -> tuple[list[str], list[str]]:  # type: ignore[type-arg]
    """Names and units of a stream's channels, as its description may say."""
    try:
        said = stream["info"]["desc"][0]["channels"][0]["channel"]
        names = [str(c["label"][0]) for c in said]
        units = [str((c.get("unit") or [""])[0] or "") for c in said]
    except (KeyError, IndexError, TypeError):
        names, units = [], []
    if len(names) != n:
        return [f"channel {number + 1}" for number in range(n)], [""] * n
    return names, units


def _usual_rate(time_s: NDArray[np.float64]) -> float:
    step_s = np.diff(time_s)
    moving = step_s[(step_s > 0) & (step_s <= 10 * np.median(step_s[step_s > 0]))]
    return float(len(moving) / moving.sum())


def _read_opensignals(path: Path) -> SourceFile:
    with h5py.File(path, "r") as file:
        devices = [group for group in file.values() if isinstance(group, h5py.Group) and "sampling rate" in group.attrs]
        if not devices:
            raise DataError(f"{path}: an HDF5 file, but not of OpenSignals; sessions go into training as they are")
        channels: list[Channel] = []
        notes: list[str] = []
        time_s = None
        for device in devices:
            rate_hz = float(np.ravel(device.attrs["sampling rate"])[0])
            bits = dict(zip(np.ravel(device.attrs["channels"]).tolist(), np.ravel(device.attrs["resolution"]).tolist(),
                            strict=False))  # fmt: skip
            for name, table in device["raw"].items():
                number = re.fullmatch(r"channel_(\d+)", name)
                if number is not None:
                    channels.append(_opensignals_channel(device, table, int(number[1]), bits, rate_hz))
            lost = _lost_before(device["raw"].get("nSeq"))
            if lost is not None and lost.any():
                notes.append(f"{int(lost.sum())} samples of {_attr(device, 'device name')} were lost on the way")
                if len(devices) == 1:
                    time_s = (np.arange(len(lost)) + np.cumsum(lost)) / rate_hz
    return SourceFile("OpenSignals", tuple(channels), (), time_s, tuple(notes))


def _opensignals_channel(
    device: h5py.Group, table: h5py.Dataset, number: int, bits: dict[int, int], rate_hz: float
) -> Channel:
    codes = table[()].ravel().astype(np.float64)
    sensor = _attr(table, "sensor") or "RAW"
    name = f"{sensor} {number}"
    if "EMG" not in sensor.upper():
        return Channel(name, codes, rate_hz, "code")
    n_bits = bits.get(number, 16)
    supply_v, gain = _BITALINO if "bitalino" in _attr(device, "device").lower() else _PLUX
    return Channel(name, (codes / 2**n_bits - 0.5) * supply_v / gain * 1e6, rate_hz, "uV")


def _attr(thing: h5py.Group | h5py.Dataset, name: str) -> str:
    value = thing.attrs.get(name, "")
    return value.decode() if isinstance(value, bytes) else str(value)


def _lost_before(counter: h5py.Dataset | None) -> NDArray[np.int64] | None:
    """Samples lost before each, by a counter that wraps."""
    if counter is None or len(counter) < 2:
        return None
    values = counter[()].ravel().astype(np.int64)
    wrap = 1 << max(1, int(values.max()).bit_length())
    lost: NDArray[np.int64] = (np.diff(values, prepend=values[0] - 1) - 1) % wrap
    return lost if np.median(lost) == 0 else None
