"""What all imports share: turn labelled recordings into the sessions of a corpus, and account for every sample.

An importer reads its files and adds one `Recording` after the other. This module chooses the channels, changes the
rate, renames gestures, holds out people and gestures, keeps names unique, and counts what was left out by reason.
The corpus is written completely or not at all.
"""

import difflib
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from scipy import signal

from cpep_edge.blocks import LARGEST_SAMPLE
from cpep_edge.errors import ConfigError, DataError
from cpep_edge.files import require_plain
from cpep_edge.folders import check_output_folder, output_folder
from cpep_edge.names import check_label, check_name
from cpep_edge.session import N_JOINTS, Block, SessionMeta, write_session_blocks
from cpep_edge.toml_text import faults, load_toml
from cpep_train.corpus import Row, write_metadata
from cpep_train.text_formats import MAX_RATE_HZ
from cpep_train.units import UnitBySize

Floats = NDArray[np.floating[Any]]
Split = Literal["train", "val", "test"]
_MOST_ODD_ROWS = 0.01  # largest share of a text file's rows to leave out; more means another layout
_LARGEST_RAD = 1e3  # of an angle; wide enough for degrees mistaken for radians
_LARGEST_RATIO = 1_000  # of whole numbers, for resampling
_LABEL_CHARACTERS = str.maketrans("/\\\0 ", "____")


GestureName = Annotated[str, AfterValidator(check_name)]


class Choices(BaseModel):
    """The user's choices for an import, from options or a TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hold_out_people: tuple[str, ...] = ()  # by their name in the set, "S1", or in the corpus, "db5-01"
    validation_people: tuple[str, ...] = ()
    hold_out_gestures: tuple[str, ...] = ()
    rename: dict[str, GestureName] = {}  # from a gesture's name in the set to its name in the corpus
    channels: tuple[int, ...] = ()  # from 1, in the wanted order; empty: all
    skip_start_s: float = Field(default=0.0, ge=0)  # left out at the start of each recording, while people react
    resample_hz: float | None = Field(default=None, gt=0, le=MAX_RATE_HZ)

    @field_validator("hold_out_people", "validation_people", "hold_out_gestures", "rename")
    @classmethod
    def _composed(cls, names: Any) -> Any:
        """Normalise the Unicode of names, as `_composed` does for recordings."""
        composed = [unicodedata.normalize("NFC", name) for name in names]
        return dict(zip(composed, names.values(), strict=True)) if isinstance(names, dict) else tuple(composed)

    @model_validator(mode="after")
    def _one_split_each(self) -> "Choices":
        both = sorted(set(self.hold_out_people) & set(self.validation_people))
        if both:
            raise ValueError(f"{both[0]} is held out for testing and for validation; choose one")
        return self

    @field_validator("channels")
    @classmethod
    def _each_once(cls, channels: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(channels)) < len(channels):
            raise ValueError("a channel is named twice")
        return channels


def load_choices(path: Path) -> Choices:
    """Read choices from TOML; raises ConfigError that names all faults at once."""
    try:
        values = load_toml(path)
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return choices_of(values, str(path))


def choices_of(values: dict[str, object], where: str) -> Choices:
    """Choices from keys and values; raises ConfigError that names all faults at once."""
    try:
        return Choices.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {faults(error)}") from error


@dataclass(frozen=True, slots=True)
class Writing:
    """How an import writes its corpus."""

    choices: Choices = Choices()
    dry_run: bool = False  # read and report, write nothing
    force: bool = False  # replace an earlier output even if it was changed since


@dataclass(frozen=True, slots=True)
class Recording:
    """One labelled stretch, as an importer reads it."""

    user: str
    session: str
    stage: str
    emg_uv: Floats  # (n_samples, n_channels)
    sample_rate_hz: float
    split: Split = "train"  # the authors' split; held-out people and gestures go to test
    side: str = "unknown"
    pose_rad: Floats | None = None  # (n_samples, 20); rows of NaN where there was none
    time_s: NDArray[np.float64] | None = None  # (n_samples,), including gaps; None: even, from zero
    other_names: tuple[str, ...] = ()  # other names of the person in the set
    held_out: tuple[bool, bool] = (False, False)  # person and gesture, if the source itself says so


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an import read and wrote. Every sample read is in a recording or is left out for a stated reason."""

    n_files: int
    n_recordings: int
    people: tuple[str, ...]
    gestures: dict[str, int]  # recordings of each
    splits: dict[str, int]  # recordings of each
    n_channels: tuple[int, ...]
    sample_rates_hz: tuple[float, ...]
    hours: float
    with_pose: bool
    n_samples_read: int
    n_samples_kept: int
    left_out: dict[str, int]  # number of samples by reason
    notes: tuple[str, ...]


@dataclass
class CorpusWriter:
    """Takes recordings one by one and writes them as sessions of a corpus."""

    folder: Path | None  # None: nothing is written, only counted
    choices: Choices
    rows: list[Row] = field(default_factory=list)
    n_files: int = 0
    n_samples_read: int = 0
    n_samples_kept: int = 0
    seconds: float = 0.0
    with_pose: bool = False
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    unit_by_size: UnitBySize = field(default_factory=UnitBySize)
    _contents: dict[bytes, Row] = field(default_factory=dict)
    _twins: set[frozenset[str]] = field(default_factory=set)
    _used: set[str] = field(default_factory=set)
    _shapes: set[tuple[int, float]] = field(default_factory=set)
    _people: dict[str, set[str]] = field(default_factory=dict)
    _gestures: dict[str, set[str]] = field(default_factory=dict)

    def read(self, n_samples: int) -> None:
        """Count a file and its samples; each must later be added or left out."""
        self.n_files += 1
        self.n_samples_read += n_samples

    def leave_out(self, reason: str, n_samples: int) -> None:
        """Count samples that do not become part of a recording."""
        if n_samples:
            self.left_out[reason] += n_samples

    def add(self, recording: Recording, where: object) -> None:
        """Write one recording, or leave it out when nothing of it remains.

        where: the file it comes from, for an error
        Raises DataError when a name, a value or a channel of it cannot be used.
        """
        recording = _composed(recording)
        self._check_names(recording, where)
        recording = self._after_start(recording)
        n_read = len(recording.emg_uv)
        if n_read == 0:
            return
        if self.choices.resample_hz is not None and self.choices.resample_hz != recording.sample_rate_hz:
            recording = _resampled(recording, self.choices.resample_hz)
        self._write(recording, [(recording.emg_uv, recording.pose_rad)], n_read, where)

    def add_blocks(self, head: Recording, blocks: Iterable[tuple[Floats, Floats | None]], where: object) -> None:
        """Write one recording of evenly spaced samples block by block (EMG and poses), so it may be of any length.

        head: the recording, without its samples
        """
        if self.choices.resample_hz is not None or self.choices.skip_start_s:
            emg, poses = zip(*blocks, strict=True)
            pose = None if poses[0] is None else np.concatenate(poses)
            self.add(replace(head, emg_uv=np.concatenate(emg), pose_rad=pose), where)
            return
        head = _composed(head)
        self._check_names(head, where)
        self._write(head, blocks, None, where)

    def _check_names(self, recording: Recording, where: object) -> None:
        stage = self.choices.rename.get(recording.stage, recording.stage)
        for what, name in (("gesture", stage), ("person", recording.user), ("session", recording.session)):
            try:
                (check_label if what == "gesture" else check_name)(name)
            except ValueError as error:
                raise DataError(f"{where}: the {what} {name!r} cannot be used: {error}") from error
        self._people.setdefault(recording.user, set()).update((recording.user, *recording.other_names))
        self._gestures.setdefault(stage, set()).update((stage, recording.stage))

    def _write(
        self, head: Recording, blocks: Iterable[tuple[Floats, Floats | None]], n_read: int | None, where: object
    ) -> None:
        """Write a recording. n_read: samples it was made from; None: count those of the blocks."""
        row, rate_hz = self._row(head), head.sample_rate_hz
        channels = self._channels(head, where)
        content, n_written = hashlib.sha256(), 0

        def resampled() -> Iterator[Block]:
            nonlocal n_written
            for emg, pose in blocks:
                _check_range(emg, LARGEST_SAMPLE, f"{where}: EMG of {head.stage}")
                if pose is not None:
                    _check_range(pose[~np.isnan(pose).any(axis=1)], _LARGEST_RAD, f"{where}: a pose of {head.stage}")
                emg_uv = np.ascontiguousarray(emg[:, channels], np.float32)
                content.update(emg_uv.tobytes())
                even_s = (n_written + np.arange(len(emg_uv))) / rate_hz
                n_written += len(emg_uv)
                self.with_pose |= pose is not None
                time_s = even_s if head.time_s is None else head.time_s
                yield time_s, emg_uv, None if pose is None else np.asarray(pose, np.float32)

        if self.folder is None:
            for _ in resampled():
                pass
        else:
            meta = SessionMeta(
                row.session, row.user, row.stage, row.side, 0.0, 0.0, len(channels), rate_hz, row.filename
            )  # fmt: skip
            write_session_blocks(self.folder / f"{row.filename}.hdf5", meta, len(channels), resampled())
        self._compare(row, content.digest())
        self.rows.append(row)
        self._shapes.add((len(channels), rate_hz))
        self.n_samples_kept += n_written if n_read is None else n_read
        self.seconds += n_written / rate_hz

    def _channels(self, head: Recording, where: object) -> list[int]:
        """Places of the channels that are kept."""
        n = head.emg_uv.shape[1]
        missing = next((number for number in self.choices.channels if not 1 <= number <= n), None)
        if missing is not None:
            raise DataError(f"{where}: there is no channel {missing}, there are {n}")
        return [number - 1 for number in self.choices.channels] or list(range(n))

    def finish(self) -> ImportSummary:
        """Check that everything the user chose was found, and write metadata.csv.

        Raises DataError when it was not, or when samples are unaccounted for.
        """
        if not self.rows:
            reasons = "; ".join(f"{reason}: {n} samples" for reason, n in self.left_out.items()) or "no samples"
            raise DataError(f"there is no recording to import ({reasons})")
        self._check_capitals()
        self._check_named("person", "people", self._people)
        self._check_named("gesture", "gestures", self._gestures)
        before = set().union(*self._gestures.values())
        unknown = next((name for name in self.choices.rename if name not in before), None)
        if unknown is not None:
            near = difflib.get_close_matches(unknown, before, n=1)
            raise DataError(
                f"no gesture is called {unknown!r}, to be renamed" + (f"; did you mean {near[0]}?" if near else "")
            )
        for what, found in (
            ("channels", {n for n, _ in self._shapes}),
            ("samples a second", {r for _, r in self._shapes}),
        ):
            if len(found) > 1:
                many = ", ".join(f"{number:g}" for number in sorted(found))
                self.notes.append(f"recordings differ in their {what}: {many}; a training takes one number")
        lost = self.n_samples_read - self.n_samples_kept - sum(self.left_out.values())
        if lost:
            raise DataError(f"{lost} of {self.n_samples_read} samples are in no recording and were not left out")
        if self.folder is not None:
            write_metadata(self.folder, self.rows)
        return ImportSummary(
            n_files=self.n_files,
            n_recordings=len(self.rows),
            people=tuple(sorted({row.user for row in self.rows})),
            gestures=dict(sorted(Counter(row.stage for row in self.rows).items())),
            splits=dict(sorted(Counter(row.split for row in self.rows).items())),
            n_channels=tuple(sorted({n for n, _ in self._shapes})),
            sample_rates_hz=tuple(sorted({rate for _, rate in self._shapes})),
            hours=self.seconds / 3600,
            with_pose=self.with_pose,
            n_samples_read=self.n_samples_read,
            n_samples_kept=self.n_samples_kept,
            left_out=dict(self.left_out),
            notes=tuple(self.notes),
        )

    def _after_start(self, recording: Recording) -> Recording:
        n = min(len(recording.emg_uv), round(self.choices.skip_start_s * recording.sample_rate_hz))
        if n == 0:
            return recording
        self.leave_out("the start of recordings", n)
        return replace(
            recording,
            emg_uv=recording.emg_uv[n:],
            pose_rad=None if recording.pose_rad is None else recording.pose_rad[n:],
            time_s=None if recording.time_s is None else recording.time_s[n:],
        )

    def _row(self, recording: Recording) -> Row:
        stage = self.choices.rename.get(recording.stage, recording.stage)
        choices, names = self.choices, {recording.user, *recording.other_names}
        held_user = recording.held_out[0] or not names.isdisjoint(choices.hold_out_people)
        held_stage = recording.held_out[1] or not {stage, recording.stage}.isdisjoint(choices.hold_out_gestures)
        split: Split = recording.split
        if (held_user, held_stage) != recording.held_out:
            split = "test"
        elif not names.isdisjoint(choices.validation_people):
            split = "val"
        kind = "_".join(word for word, held in (("user", held_user), ("stage", held_stage)) if held)
        name = self._free_name(f"{recording.session}-{stage}".translate(_LABEL_CHARACTERS))
        side = recording.side
        return Row(
            recording.user, recording.session, stage, side, side, held_user, held_stage, split, kind, name
        )  # fmt: skip

    def _compare(self, row: Row, content: bytes) -> None:
        """Report, once per pair of people, that their recordings are identical."""
        twin = self._contents.setdefault(content, row)
        pair = frozenset((twin.user, row.user))
        if len(pair) == 2 and pair not in self._twins:
            self._twins.add(pair)
            self.notes.append(
                f"{twin.user} and {row.user} share recordings, bit for bit: one person under two names; leave one out"
            )

    def _free_name(self, wanted: str) -> str:
        """A file name that the corpus does not use yet, ignoring case, because some file systems ignore it."""
        name, n = wanted, 1
        while name.lower() in self._used:
            n += 1
            name = f"{wanted}-{n}"
        self._used.add(name.lower())
        return name

    def _check_capitals(self) -> None:
        """Raise DataError when two names differ only by capitals, because training refuses such a corpus."""
        for what, names in (("people", self._people), ("gestures", self._gestures)):
            typed: dict[str, str] = {}
            for name in sorted(names):
                other = typed.setdefault(name.casefold(), name)
                if other != name:
                    way_out = (
                        f"--rename {name}={other} makes them one" if what == "gestures" else "write them alike or apart"
                    )
                    raise DataError(f"the {what} {other} and {name} differ by capitals alone; {way_out}")

    def _check_named(self, one: str, many: str, names: dict[str, set[str]]) -> None:
        there = set().union(*names.values())
        asked = getattr(self.choices, f"hold_out_{many}")
        if many == "people":
            asked = (*asked, *self.choices.validation_people)
        for name in asked:
            if name not in there:
                near = difflib.get_close_matches(name, there, n=1)
                hint = f"; did you mean {near[0]}? There are" if near else "; there are"
                raise DataError(f"no {one} is called {name!r}{hint} {', '.join(sorted(names))}")
        if asked and len(set(names) - {n for n, others in names.items() if others & set(asked)}) == 0:
            raise DataError(f"all {many} are held out, so there is nothing to train on")


def _composed(recording: Recording) -> Recording:
    """Normalise the recording's names to composed Unicode, because names that look alike can be encoded in two ways."""
    names = {key: unicodedata.normalize("NFC", getattr(recording, key)) for key in ("user", "session", "stage")}
    return replace(recording, **names)  # type: ignore[arg-type]


def _check_range(values: Floats, largest: float, what: str) -> None:
    """Raise DataError when a value is not finite or is impossibly large."""
    odd = ~(np.abs(values) <= largest)  # also true for NaN
    if odd.any():
        value = float(values[odd][0])
        said = (
            f"holds {value:g}, which nothing measures" if np.isfinite(value) else "holds a value that is not a number"
        )
        raise DataError(f"{what} {said}")


@contextmanager
def writing_corpus(out: Path, writing: Writing, made_by: str) -> Iterator[CorpusWriter]:
    """A writer into a folder that is created whole or not at all; a dry run only counts.

    made_by: the command
    The caller finishes the writer inside the block.
    """
    if writing.dry_run:
        check_output_folder(out, made_by, force=writing.force)
        yield CorpusWriter(None, writing.choices)
        return
    with output_folder(out, made_by, force=writing.force) as folder:
        yield CorpusWriter(folder, writing.choices)


def stretches(*keys: NDArray[np.generic]) -> Iterator[tuple[int, int]]:
    """Start and stop of each run of samples over which no key changes; keys: (n,) each."""
    n = len(keys[0])
    if n == 0:
        return
    change = np.zeros(n - 1, bool)
    for key in keys:
        change |= key[1:] != key[:-1]
    edges = [0, *(np.flatnonzero(change) + 1).tolist(), n]
    yield from zip(edges[:-1], edges[1:], strict=True)


def _resampled(recording: Recording, wanted_hz: float) -> Recording:
    """Resample EMG with a polyphase filter and poses by linear interpolation, each gap-free stretch separately."""
    emg, pose, rate_hz = recording.emg_uv, recording.pose_rad, recording.sample_rate_hz
    time_s = np.arange(len(emg)) / rate_hz if recording.time_s is None else recording.time_s
    ratio = Fraction(wanted_hz / rate_hz).limit_denominator(_LARGEST_RATIO)
    cuts = [0, *(np.flatnonzero(np.diff(time_s) > 1.5 / rate_hz) + 1).tolist(), len(emg)]
    parts, poses, times = [], [], []
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        piece = signal.resample_poly(
            emg[start:stop].astype(np.float64), ratio.numerator, ratio.denominator, axis=0, padtype="line"
        )
        grid = time_s[start] + np.arange(len(piece)) / wanted_hz
        parts.append(piece)
        times.append(grid)
        if pose is not None:
            old = time_s[start:stop]
            poses.append(np.column_stack([np.interp(grid, old, pose[start:stop, joint]) for joint in range(N_JOINTS)]))
    return replace(
        recording,
        emg_uv=np.concatenate(parts),
        pose_rad=np.concatenate(poses) if poses else None,
        time_s=np.concatenate(times),
        sample_rate_hz=wanted_hz,
    )


def check_numbers(found: Iterable[int], wanted: Sequence[int], source: Path) -> None:
    """Raise DataError when a wanted person was not found."""
    there = set(found)
    missing = [number for number in wanted if number not in there]
    if missing or not there:
        raise DataError(f"{source}: there is no recording of subject {missing[0] if missing else 'anybody'}")


def whole_rows(file: Path, n_columns: int) -> tuple[NDArray[np.float64], int]:
    """The rows of a text file without a header, (n, n_columns), and how many rows were cut short or garbled.

    Raises DataError, naming the file and the row, when more than one row in a hundred is bad.
    """
    try:
        require_plain(file)
        lines = [line for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    rows, odd = np.empty((len(lines), n_columns)), []
    for number, line in enumerate(lines):
        values = line.strip().removesuffix(",").split(",")
        try:
            rows[number] = [float(value) for value in values]
        except ValueError:
            odd.append(number)
    if len(odd) == len(lines) or len(odd) > max(1, _MOST_ODD_ROWS * len(lines)):
        where = f", row {odd[0] + 1} is not" if odd else ", it is empty"
        raise DataError(f"{file}: not lines of {n_columns} numbers{where}")
    return np.delete(rows, odd, axis=0), len(odd)
