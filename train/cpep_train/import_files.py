"""Import recordings of amplifier software (`cpep_train.formats`), and LibEMG's folders.

The steps are the same for all: read, choose the EMG channels, convert them to microvolts and to one rate, even out
jitter, turn events into labels, number the repetitions, and pass the labelled stretches to `cpep_train.importing`.

Unless they are given, the person is the name of the file's folder and the session is the file's name.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from cpep_edge.errors import DataError
from cpep_edge.files import require_plain
from cpep_edge.outside import unreadable
from cpep_train.even_grid import evened
from cpep_train.export_sessions import AFTER_THE_END, NOT_RECORDED
from cpep_train.formats import read_source
from cpep_train.importing import CorpusWriter, ImportSummary, Recording, Split, Writing, stretches, writing_corpus
from cpep_train.text_formats import Channel, Event, SourceFile
from cpep_train.units import UnitBySize, microvolts_of

_FILLED = {NOT_RECORDED: "samples that were not recorded", AFTER_THE_END: "samples after the end of the recording"}
_SAME_RATE = 0.001  # relative difference up to which two channel rates count as the same
_LARGEST_RATIO = 2_000
_OTHER_SENSORS = re.compile(r"EKG|ECG|(?<![a-z])(EDA|GSR|PPG|SpO2|ACC|GYRO?|MAG|TEMP|RESP)(?![a-z])", re.IGNORECASE)
_COUNTING = 0.9  # if this share of a column's steps is 1, the column is a sample counter
_LIBEMG = re.compile(r"R_(?P<rep>\d+)_C_(?P<c>\d+)|C_(?P<c2>\d+)_R_(?P<rep2>\d+)", re.IGNORECASE)
_LIBEMG_SUBJECT = re.compile(r"(?:^|[/_])(?:S_?|subject_?|P_?)(\d+)(?=[/_])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FileChoices:
    """What the user adds, because a file does not contain it."""

    user: str = ""  # empty: the name of the file's folder
    session: str = ""  # empty: the file's name
    stage: str = ""  # label of samples without an event; empty: left out
    side: str = "unknown"
    split: Split = "train"
    test_repetitions: tuple[int, ...] = ()  # of each gesture, counted from 1
    val_repetitions: tuple[int, ...] = ()


def import_files(
    sources: Sequence[Path],
    out: Path,
    about: FileChoices,
    progress: Callable[[int, int], None] | None = None,
    *,
    writing: Writing = Writing(),
) -> ImportSummary:
    """Write files as a corpus, whole or not at all.

    progress: called with (files done, files in all)
    Raises DataError, naming the file, when one cannot be read or nothing in it has a label.
    """
    seen: set[Path] = set()
    twice = next((path for path in sources if path.resolve() in seen or seen.add(path.resolve())), None)  # type: ignore[func-returns-value]
    if twice is not None:
        raise DataError(f"{twice} is named twice, so each of its recordings would be there twice")
    both = set(about.test_repetitions) & set(about.val_repetitions)
    if both:
        raise DataError(f"repetition {min(both)} is for testing and for validation; choose one")
    repetitions: set[int] = set()
    sessions: dict[tuple[str, str], Path] = {}
    with writing_corpus(out, writing, "data import files") as writer:
        for done, path in enumerate(sources, start=1):
            repetitions |= _import(path, read_source(path), about, writer)
            user, session = _whose(path, about)
            other = sessions.setdefault((user, session), path)
            if other != path:
                writer.notes.append(f"{other} and {path} are both session {session} of {user}")
            if progress is not None:
                progress(done, len(sources))
        _check_repetitions((*about.test_repetitions, *about.val_repetitions), repetitions, "in all files")
        return writer.finish()


def _import(path: Path, source: SourceFile, about: FileChoices, writer: CorpusWriter) -> set[int]:
    """Pass a file's recordings to the writer; returns the numbers of its repetitions."""
    writer.notes += [f"{path.name}: {note}" for note in source.notes]
    chosen = _emg_channels(source.channels)
    if not chosen:
        raise DataError(f"{path}: no channel holds EMG; there are {', '.join(c.name for c in source.channels[:8])}")
    taken = {id(channel) for channel in chosen}
    left = [channel.name for channel in source.channels if id(channel) not in taken]
    rate_hz = max(channel.rate_hz for channel in chosen)
    if any(abs(channel.rate_hz / rate_hz - 1) > _SAME_RATE for channel in chosen):
        writer.notes.append(f"{path.name}: slower channels are brought to {rate_hz:g} Hz")
    columns = [_at_rate(channel, rate_hz) for channel in chosen]
    n, longest = min(map(len, columns)), max(map(len, columns))  # channels may differ in length by some samples
    emg = np.column_stack([column[:n] for column in columns])
    emg, how = _in_microvolts(path.name, emg, chosen, writer.unit_by_size)
    names = ", ".join(f"{n} {channel.name}" for n, channel in enumerate(chosen, start=1))
    text = f"{path.name}: {source.kind}, {len(chosen)} channels at {rate_hz:g} Hz, {how}: {names}"
    writer.notes.append(text + (f"; not taken: {', '.join(left[:8])}{' ...' if len(left) > 8 else ''}" if left else ""))
    time_s = np.arange(len(emg)) / rate_hz
    for before_s, missing_s in reversed(source.gaps):
        time_s[round(before_s * rate_hz) :] += missing_s
    if source.time_s is not None:
        n_before = len(emg)
        time_s, emg = evened(source.time_s[:n_before], emg, rate_hz)
        if len(emg) != n_before:
            writer.notes.append(f"{path.name}: {n_before} samples were laid on {len(emg)} of an even clock")
    writer.read(len(emg) + longest - n + source.n_left_out)
    writer.leave_out("samples beyond a file's shortest channel", longest - n)
    writer.leave_out("rows cut short", source.n_left_out)
    labels = _labels(source.events, time_s, about.stage)
    unused = sorted({event.text.strip() for event in source.events} - set(labels.tolist()))
    if unused:
        writer.notes.append(f"{path.name}: events that label no sample: {', '.join(unused)}")
    if not any(labels):
        raise DataError(f"{path}: nothing in it has a label, neither by an annotation nor by a marker; give --stage")
    user, session = _whose(path, about)
    counted: Counter[str] = Counter()
    for start, stop in stretches(labels):
        label = str(labels[start])
        if not label or label in _FILLED:
            writer.leave_out(_FILLED.get(label, "samples without a label"), stop - start)
            continue
        counted[label] += 1
        recording = Recording(
            user=user,
            session=session,
            stage=label,
            emg_uv=emg[start:stop],
            sample_rate_hz=rate_hz,
            side=about.side,
            split=about.split,
            time_s=time_s[start:stop] - time_s[start],
        )
        writer.add(_of_repetition(recording, counted[label], about), path)
    return set(range(1, max(counted.values(), default=0) + 1))


def _whose(path: Path, about: FileChoices) -> tuple[str, str]:
    """Person and session of a file."""
    return about.user or path.resolve().parent.name, about.session or path.stem


def _of_repetition(recording: Recording, repetition: int, about: FileChoices) -> Recording:
    """Put the recording in the split of its repetition; each split's repetitions form their own session."""
    if not (about.test_repetitions or about.val_repetitions):
        return recording
    split: Split = (
        "test"
        if repetition in about.test_repetitions
        else "val"
        if repetition in about.val_repetitions
        else about.split
    )
    return replace(recording, split=split, session=f"{recording.session}-rep{repetition}")


def _emg_channels(channels: Sequence[Channel]) -> list[Channel]:
    """The channels named EMG; if there are none, those in volts; else all with the fastest rate.

    returns: an empty list when all channels belong to other sensors
    """
    plain = {c.name: re.sub(r"\(.*?\)", "", c.name) for c in channels}  # without the sensor's name in brackets
    skeletal = [c for c in channels if not re.search(r"EKG|ECG", c.name)]
    named = [c for c in skeletal if re.search(r"(^|[^a-z])emg", plain[c.name], re.IGNORECASE)]
    channels = [c for c in channels if not _OTHER_SENSORS.search(plain[c.name])]
    surely = named or [c for c in channels if re.search(r"exg", plain[c.name], re.IGNORECASE)]
    chosen = surely or [c for c in channels if microvolts_of(c.unit) is not None] or channels
    if not chosen:
        return []
    fastest = max(c.rate_hz for c in chosen)
    usual = Counter(round(c.rate_hz, 2) for c in chosen).most_common(1)[0][0]
    # Sensors of one kind may run at somewhat different rates, but a channel ten times slower is not EMG.
    return [c for c in chosen if c.rate_hz >= 0.25 * min(fastest, 4 * usual)]


def _at_rate(channel: Channel, rate_hz: float) -> NDArray[np.float64]:
    if abs(channel.rate_hz / rate_hz - 1) <= _SAME_RATE:
        return channel.values
    ratio = Fraction(rate_hz / channel.rate_hz).limit_denominator(_LARGEST_RATIO)
    resampled: NDArray[np.float64] = signal.resample_poly(
        channel.values, ratio.numerator, ratio.denominator, padtype="line"
    )
    return resampled


def _in_microvolts(
    name: str, emg: NDArray[np.float64], channels: Sequence[Channel], by_size: UnitBySize
) -> tuple[NDArray[np.float64], str]:
    """The channels in microvolts, each converted from its own unit, and a note on where the unit came from."""
    factors = [microvolts_of(channel.unit) for channel in channels]
    if all(factor is not None for factor in factors):
        units = sorted({channel.unit for channel in channels})
        return emg * np.array([factor or 1.0 for factor in factors]), f"in {', '.join(units)} by the file"
    factor, said = by_size.microvolts(name, emg)
    return emg * factor, f"in a unit that is not a voltage or has no name, {said or 'kept as they are'}"


def _labels(events: Sequence[Event], time_s: NDArray[np.float64], otherwise: str) -> NDArray[np.str_]:
    """One label per sample: an event lasts for its duration or, without one, until the next event."""
    labels = np.full(len(time_s), otherwise, dtype=object)
    for number, event in enumerate(events):
        until = time_s[-1] + 1 if number + 1 == len(events) else events[number + 1].start_s
        stop = event.start_s + event.duration_s if event.duration_s else until
        inside = (time_s >= event.start_s - 1e-9) & (time_s < stop - 1e-9)
        labels[inside] = event.text.strip()
    return labels.astype(str)


def import_libemg(
    source: Path,
    out: Path,
    sample_rate_hz: float,
    test_repetitions: Sequence[int] = (),
    progress: Callable[[int, int], None] | None = None,
    *,
    writing: Writing = Writing(),
) -> ImportSummary:
    """Write a folder of LibEMG's screen-guided training, with files `R_<repetition>_C_<class>`, as a corpus.

    A class is called "class N" unless a file `collection_details.json` or an option names it. The last repetition is
    for testing, unless others are chosen.
    Raises DataError, naming the file, when it is not a table of numbers.
    """
    matches = [
        (file, match)
        for file in sorted(source.rglob("*"))
        if file.suffix.lower() in (".csv", ".txt") and (match := _LIBEMG.search(file.stem))
    ]
    of_emg = [(file, match) for file, match in matches if "emg" in file.stem[match.end() :].lower()] or matches
    files = [(file, int(m["rep"] or m["rep2"]), int(m["c"] or m["c2"]), file.stem[: m.start()]) for file, m in of_emg]
    if not files:
        raise DataError(f"{source}: there is no file named R_<repetition>_C_<class>")
    repetitions = {repetition for _, repetition, _, _ in files}
    _check_repetitions(test_repetitions, repetitions, source)
    names, details = _class_names(source)
    tested = set(test_repetitions) or ({max(repetitions)} if len(repetitions) > 1 else set())
    apart = len({(repetition, number) for _, repetition, number, _ in files}) < len(files)
    with writing_corpus(out, writing, "data import files") as writer:
        if len(files) < len(matches):
            writer.notes.append(f"{len(matches) - len(files)} files of other sensors than EMG were left out")
        if details:
            writer.notes.append(details)
        if not tested:
            writer.notes.append("there is one repetition of each gesture, so none is for testing")
        for done, (file, repetition, number, before) in enumerate(files, start=1):
            emg = _libemg_table(file)
            writer.read(len(emg))
            factor, said = writer.unit_by_size.microvolts(file.name, emg)
            if said and said not in writer.notes:
                writer.notes.append(said)
            subject = _LIBEMG_SUBJECT.search(str(file.relative_to(source.parent)))
            # File names have no subject number here, so a repetition that exists twice is of two people.
            person = before.strip("_- ") or file.parent.name if apart else source.name
            user = f"libemg-{int(subject[1]):02d}" if subject else f"libemg-{person}"
            recording = Recording(
                user=user,
                session=f"{user}-rep{repetition}",
                stage=names.get(number, f"class {number}"),
                emg_uv=emg * factor,
                sample_rate_hz=sample_rate_hz,
                split="test" if repetition in tested else "train",
                other_names=(f"S{int(subject[1])}", subject[1]) if subject else (person, source.name),
            )
            writer.add(recording, file)
            if progress is not None:
                progress(done, len(files))
        return writer.finish()


def _check_repetitions(asked: Sequence[int], there: set[int], where: object) -> None:
    missing = next((repetition for repetition in asked if repetition not in there), None)
    if missing is not None:
        raise DataError(f"{where}: no gesture has a repetition {missing}, the last is {max(there, default=0)}")


def _libemg_table(file: Path) -> NDArray[np.float64]:
    """The samples of a file, (n, n_channels), without a leading column of time stamps or sample numbers."""
    try:
        require_plain(file)
        lines = [line.strip(", \t") for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {unreadable(error)}") from error
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            rows.append([float(value) for value in re.split(r"[,;\s]+", line)])
        except ValueError:
            rows.append([])
        if not rows[-1] or len(rows[-1]) != len(rows[0]):
            raise DataError(f"{file}: row {number} is not as many numbers as the first")
    if not rows:
        raise DataError(f"{file}: no table of numbers, it is empty")
    table = np.array(rows)
    steps = np.diff(table[:, 0])
    counts = bool((steps > 0).all()) or float(np.mean(steps == 1)) > _COUNTING  # a counter wraps
    return table[:, 1:] if counts and len(table) > 2 and table.shape[1] > 1 else table


def _class_names(source: Path) -> tuple[dict[int, str], str]:
    """The class names from LibEMG's file, and a note for the user when that file cannot be read."""
    import json

    said = ""
    for file in source.rglob("collection_details.json"):
        try:
            require_plain(file)
            classes = json.loads(file.read_text(encoding="utf-8")).get("classes", {})
            return (
                {int(number): str(name) for name, number in classes.items()}
                if all(str(n).isdigit() for n in classes.values())
                else {int(number): str(name) for number, name in classes.items()}
            ), ""
        except (OSError, ValueError, AttributeError, RecursionError):
            said = f"{file.name} cannot be read, so classes go by their numbers"
    return {}, said
