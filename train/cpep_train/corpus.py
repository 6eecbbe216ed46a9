"""A corpus: a folder of session files and the `metadata.csv` that says who is in which split.

The columns are those of emg2pose, so its published folder works unchanged. A folder without metadata, or a single
session file, can be inspected but not trained on.
"""

import csv
import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cpep_edge.errors import DataError
from cpep_edge.files import read_plain, write_file
from cpep_edge.names import FREE_MOVEMENT, check_label
from cpep_edge.outside import unreadable
from cpep_edge.session import RECORDED_RATE_TOLERANCE, Session
from cpep_edge.session_trial import SessionSurvey, SessionTrial, survey_session
from cpep_train.shards import SHARDS_FILE, Shards

if TYPE_CHECKING:
    from cpep_train.recipe import Recipe  # pulls in torch, which reading a corpus does not need

logger = logging.getLogger(__name__)

METADATA_FILE = "metadata.csv"
FREE_STAGE = FREE_MOVEMENT  # stage of recordings without a gesture: used for training, never an answer


@dataclass(frozen=True, slots=True)
class Row:
    """One recording, as a line of metadata.csv."""

    user: str
    session: str
    stage: str  # the gesture label of the whole recording
    side: str
    moving_hand: str
    held_out_user: bool
    held_out_stage: bool
    split: str  # train, val or test; empty where there is no metadata
    generalization: str  # of test rows: user, stage or user_stage
    filename: str  # without ".hdf5"

    @property
    def is_idle(self) -> bool:
        """Whether this hand was not asked to move, as in a quarter of emg2pose's recordings."""
        return {self.side, self.moving_hand} == {"left", "right"}

    @property
    def donning(self) -> tuple[str, str, str]:
        """One wearing of one band. A session of emg2pose has two, and sessions ending in -repN share a wearing."""
        return self.user, re.sub(r"-rep\d+$", "", self.session), self.side


@dataclass(frozen=True, slots=True)
class Corpus:
    """The recordings of one folder; each file is opened only when it is needed."""

    folder: Path
    rows: tuple[Row, ...]
    masked_channels: tuple[int, ...] = ()  # from 1; read as zero
    shards: Shards | None = None  # that hold the recordings; None: they are files of the folder

    @classmethod
    def open(cls, path: Path) -> "Corpus":
        """Read the metadata of a folder, or the attributes of session files where there is none.

        path: a folder, a session file, or a split file of emg2pose (`cpep_train.split_file`)
        Raises DataError when there is nothing to read or metadata.csv is malformed.
        """
        if path.suffix in (".yaml", ".yml") and path.is_file():
            from cpep_train.split_file import listed_splits  # needs PyYAML

            listed = listed_splits(path)
            return cls.open(path.parent)._chosen(path, listed)
        if path.is_file():
            with SessionTrial() as trial:
                return cls(path.parent, (_row_of_file(trial, path),))
        if not path.is_dir():
            raise DataError(f"{path}: there is no such folder or session file")
        if (path / METADATA_FILE).is_file():
            shards = Shards.open(path) if (path / SHARDS_FILE).is_file() else None
            return cls(path, tuple(_read_metadata(path / METADATA_FILE)), shards=shards)
        files = sorted(path.glob("*.hdf5"))
        if not files:
            raise DataError(f"{path}: neither {METADATA_FILE} nor any .hdf5 file is in this folder")
        with SessionTrial() as trial:
            return cls(path, tuple(_row_of_file(trial, file) for file in files))

    def _chosen(self, path: Path, listed: dict[str, str] | None) -> "Corpus":
        """The recordings that the split file `path` lists; all recordings when it refers to the metadata.

        A person or a gesture without a training recording in the list counts as held out, whatever the metadata say.
        """
        if listed is None:
            return self
        rows = {row.filename: row for row in self.rows}
        unknown = next((name for name in listed if name not in rows), None)
        if unknown is not None:
            raise DataError(f"{path}: {unknown} is listed, but {METADATA_FILE} does not name it")
        trained = [rows[name] for name, split in listed.items() if split == "train"]
        users, stages = {row.user for row in trained}, {row.stage for row in trained}
        chosen = []
        for name, split in listed.items():
            user, stage = rows[name].user not in users, rows[name].stage not in stages
            kind = "_".join(word for word, held in (("user", user), ("stage", stage)) if held)
            chosen.append(
                replace(rows[name], split=split, generalization=kind, held_out_user=user, held_out_stage=stage)
            )
        return replace(self, rows=tuple(chosen))

    def file(self, row: Row) -> Path:
        """The file with the samples of a row."""
        return self.folder / f"{row.filename}.hdf5"

    def session(self, row: Row) -> Session:
        """Open the recording of a row."""
        content = None if self.shards is None else self.shards.read(row.filename)
        return Session(self.file(row), self.masked_channels, content)

    def stamp(self, row: Row) -> tuple[int, int]:
        """Two numbers that change with the file of a row: its size, and its modification time or content hash."""
        if self.shards is not None:
            place = self.shards.place(row.filename)
            return place.size_bytes, int(place.sha256[:15], 16)
        try:
            stat = self.file(row).stat()
        except OSError as error:
            raise DataError(f"{self.file(row)}: there is no such file") from error
        return stat.st_size, stat.st_mtime_ns

    def usable(self, recipe: "Recipe", bad: Collection[str] = ()) -> "Corpus":
        """The same rows in the same places, but unused rows are in no split and dead channels are masked.

        Left out are recordings named as bad and, where the recipe wants the moving hand, those of a hand that was not
        asked to move. A person who is tested but not trained on counts as held out even without the flag, and so does a
        gesture without a training recording; a warning names them.
        """
        moving = recipe.recordings.hand == "moving"
        rows = [replace(row, split="") if row.filename in bad or (moving and row.is_idle) else row for row in self.rows]
        trained = [row for row in rows if row.split == "train"]
        if not trained:
            return replace(self, rows=tuple(rows), masked_channels=recipe.recordings.masked_channels)
        watched = {row.user for row in rows if row.split in ("train", "val")}
        users = {row.user for row in rows if row.split == "test" and not row.held_out_user} - watched
        stages = {row.stage for row in rows if row.split and not row.held_out_stage} - {row.stage for row in trained}
        for what, names in (("person", users), ("gesture", stages)):
            for name in sorted(names):
                logger.warning("%s %s has no training recording and counts as held out", what, name)
        flagged = (
            replace(
                row,
                held_out_user=row.held_out_user or row.user in users,
                held_out_stage=row.held_out_stage or row.stage in stages,
            )
            for row in rows
        )
        return replace(self, rows=tuple(flagged), masked_channels=recipe.recordings.masked_channels)

    @property
    def trained_users(self) -> frozenset[str]:
        """People with a training recording."""
        return frozenset(row.user for row in self.rows if row.split == "train")

    def numbers(self, split: str) -> list[int]:
        """Places in `rows` of the recordings of a split."""
        return [number for number, row in enumerate(self.rows) if row.split == split]

    @property
    def seen_stages(self) -> tuple[str, ...]:
        """Gestures that training may see."""
        return tuple(sorted({row.stage for row in self.rows if not row.held_out_stage}))

    @property
    def unseen_stages(self) -> tuple[str, ...]:
        """Gestures held out of all training, for the test."""
        held_out = {row.stage for row in self.rows if row.held_out_stage}
        return tuple(sorted(held_out - set(self.validation_stages)))

    @property
    def validation_stages(self) -> tuple[str, ...]:
        """Gestures held out of training and test, to tune on, with people whom training never saw."""
        held_out = {row.stage for row in self.rows if row.held_out_stage and row.split == "val"}
        return tuple(sorted(held_out - {row.stage for row in self.rows if row.split == "test"}))

    def check(self, recipe: "Recipe") -> None:
        """Raise DataError when splits leak or are empty, or when files do not fit the recipe, naming all of them."""
        self.check_splits()
        faults = [fault for row in self.rows if row.split and (fault := self.fault(row, recipe))]
        if faults:
            raise DataError(all_faults(faults))

    def check_splits(self) -> None:
        """Raise DataError at the first thing in the metadata that would stop a training, or an export after it."""
        metadata = self.folder / METADATA_FILE
        for stage in sorted({row.stage for row in self.rows if row.split}):
            try:
                check_label(stage)
            except ValueError as error:
                raise DataError(f"{metadata}: the gesture {stage!r} cannot be used: {error}") from error
        for what in ("user", "stage"):
            typed: dict[str, str] = {}
            for name in sorted({getattr(row, what) for row in self.rows if row.split}):
                other = typed.setdefault(name.casefold(), name)
                if other != name:
                    raise DataError(
                        f"{metadata}: {what} {other} and {what} {name} differ only in capitals: write them alike "
                        "if they are one, or else rename one"
                    )
        if not self.numbers("train"):
            raise DataError(f"{metadata}: no row has split train, so there is nothing to train on")
        leaked = [r for r in self.rows if r.split == "train" and (r.held_out_user or r.held_out_stage)]
        if leaked:
            raise DataError(f"{metadata}: {leaked[0].filename} is held out, but its split is {leaked[0].split}")
        both = set(self.seen_stages) & {row.stage for row in self.rows if row.held_out_stage}
        if both:
            raise DataError(f"{metadata}: held_out_stage of {min(both)} is True in some rows and False in others")
        for split in ("train", "val"):
            stages = {self.rows[number].stage for number in self.numbers(split)}
            if len(stages - {FREE_STAGE}) == 1:
                only = min(stages - {FREE_STAGE})
                raise DataError(
                    f"{metadata}: every recording of split {split} has stage {only}; it takes two gestures at "
                    "least to tell them apart"
                )

    def check_device(self, recipe: "Recipe") -> None:
        """Raise DataError when the first training recordings show that the recipe is for another device.

        This check runs before all recordings are read: if one has the wrong channels or is too short, usually all are.
        """
        first = [row for row in self.rows if row.split == "train"][:_FIRST_LOOKED_AT]
        longest = 0
        for row in first:
            with self.session(row) as session:
                _check_band(session, recipe)
                longest = max(longest, session.n_samples)
            if longest >= recipe.windows.window_samples:
                break
        if first and longest < recipe.windows.window_samples:
            raise DataError(
                f"{self.folder}: the first {len(first)} recordings of training have at most {longest} samples, fewer "
                f"than windows.window_samples, which is {recipe.windows.window_samples}"
            )
        asked = set(recipe.calibration.stages)
        if asked and asked.isdisjoint(row.stage for row in self.rows):
            raise DataError(f"{self.folder} has no recording of {' or '.join(sorted(asked))} to calibrate with")

    def fault(self, row: Row, recipe: "Recipe") -> str | None:
        """Why a recording does not fit a recipe; None when it fits."""
        try:
            with self.session(row) as session:
                _check_session(session, row, recipe)
        except DataError as error:
            return str(error)
        return None


_MOST_NAMED = 50


def all_faults(faults: Sequence[str]) -> str:
    """Join faults of recordings into one sentence."""
    if len(faults) == 1:
        return faults[0]
    more = f"; and {len(faults) - _MOST_NAMED} more" if len(faults) > _MOST_NAMED else ""
    return f"{len(faults)} recordings cannot be used: {'; '.join(faults[:_MOST_NAMED])}{more}"


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """The summary of a corpus that `data info` prints."""

    n_files: int
    n_users: int
    n_held_out_users: int
    n_sessions: int
    hours: float
    stages: dict[str, float]  # hours of each stage
    unseen_stages: tuple[str, ...]
    splits: dict[str, int]  # recordings of each split
    sample_rates_hz: tuple[float, ...]
    n_channels: tuple[int, ...]
    n_gaps: int
    gaps_s: float
    failed_pose_share: float  # of all samples; 1 where no pose was recorded
    faults: tuple[str, ...]  # one sentence per broken file
    uses: tuple["Use", ...]  # what it can be used for, and what is missing for the rest


@dataclass(frozen=True, slots=True)
class Use:
    """One thing to do with a corpus."""

    name: str
    missing: str  # what the corpus lacks for this, and how to get it; empty: nothing


def corpus_info(path: Path, progress: Callable[[int, int], None] | None = None) -> CorpusInfo:
    """Read every sample of a corpus, or of one session file, and report what it holds and what is broken.

    progress: called with (files done, files in all)
    """
    corpus = Corpus.open(path)
    surveys: list[tuple[Row, SessionSurvey]] = []
    faults: list[str] = []
    with SessionTrial() as trial:
        for done, row in enumerate(corpus.rows):
            try:
                if corpus.shards is None:
                    surveys.append((row, trial.survey(corpus.file(row))))
                else:  # fetched by its hash, so it is the file that was packed
                    with corpus.session(row) as session:
                        surveys.append((row, survey_session(session)))
            except DataError as error:
                faults.append(str(error))
            if progress is not None:
                progress(done + 1, len(corpus.rows))
    stages: Counter[str] = Counter()
    for row, survey in surveys:
        stages[row.stage] += survey.duration_s / 3600  # type: ignore[assignment]  # Counter adds floats as well
    n_samples = sum(survey.n_samples for _, survey in surveys)
    n_failed = sum(survey.n_failed_poses for _, survey in surveys)
    return CorpusInfo(
        n_files=len(corpus.rows),
        n_users=len({row.user for row in corpus.rows}),
        n_held_out_users=len({row.user for row in corpus.rows if row.held_out_user}),
        n_sessions=len({(row.user, row.session) for row in corpus.rows}),
        hours=sum(survey.duration_s for _, survey in surveys) / 3600,
        stages=dict(sorted(stages.items())),
        unseen_stages=corpus.unseen_stages,
        splits=dict(sorted(Counter(row.split for row in corpus.rows if row.split).items())),
        sample_rates_hz=tuple(sorted({survey.sample_rate_hz for _, survey in surveys})),
        n_channels=tuple(sorted({survey.n_channels for _, survey in surveys})),
        n_gaps=sum(survey.n_gaps for _, survey in surveys),
        gaps_s=sum(survey.gaps_s for _, survey in surveys),
        failed_pose_share=n_failed / n_samples if n_samples else 0.0,
        faults=tuple(faults),
        uses=_uses(corpus, [survey for _, survey in surveys]),
    )


def _uses(corpus: Corpus, surveys: Sequence[SessionSurvey]) -> tuple[Use, ...]:
    rows = [row for row in corpus.rows if row.split]
    bands = {(survey.n_channels, survey.sample_rate_hz) for survey in surveys}
    by_split = {split: [row for row in rows if row.split == split] for split in ("train", "val", "test")}
    trained = {row.stage for row in by_split["train"]} - {FREE_STAGE}
    people = {row.user for row in by_split["train"]}
    repeat = "record with repeat = 3 in the prompt list, or --split {0}, or import with split {0}"
    several = ", ".join(f"{n} channels at {rate:g} Hz" for n, rate in sorted(bands))
    has_pose = any(survey.n_failed_poses < survey.n_samples for survey in surveys)
    of_known = any(row.user in people and row.stage in trained for row in by_split["test"])
    donnings = Counter(row.user for row in {row.donning: row for row in rows}.values())
    training = (
        f"there is no {METADATA_FILE}, which says who makes which gesture: record with --prompt, or import"
        if not rows
        else f"it takes two gestures in split train, there are {len(trained)}"
        if len(trained) < 2
        else f"recordings are of several bands: {several}; keep each in a folder of its own"
        if len(bands) > 1
        else ""
    )
    return (
        Use("training (recipe own-band)", training),
        Use("rejection of uncertain windows", "" if by_split["val"] else f"no split val: {repeat.format('val')}"),
        Use("judging known people", "" if of_known else f"no split test of them: {repeat.format('test')}"),
        Use(
            "judging new people",
            ""
            if {row.user for row in by_split["test"]} - people
            else "everybody in split test is trained on: record somebody else with --user NAME --split test",
        ),
        Use(
            "judging the next donning",
            ""
            if any(n > 1 for n in donnings.values())
            else "everybody wore the band once: take it off, put it on and record with another --session",
        ),
        Use("gestures by pose, unseen ones too", "" if has_pose else "no pose was recorded (see data import)"),
    )


def write_metadata(folder: Path, rows: Sequence[Row]) -> None:
    """Write metadata.csv, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(astuple(row) for row in rows)
    write_file(folder / METADATA_FILE, text.getvalue())


_MAX_METADATA_BYTES = 1 << 30
_MOST_COLUMNS = 1_000
_FIRST_LOOKED_AT = 20  # recordings
_HANDS = ("both", "left", "right")
_COLUMNS = tuple(field.name for field in fields(Row))
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False, "": False}


def _read_metadata(file: Path) -> Iterable[Row]:
    try:
        text = read_plain(file, _MAX_METADATA_BYTES, follow=True).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        names = list(reader.fieldnames or ())
        missing = [name for name in _COLUMNS if name not in names]
        if missing:
            raise DataError(f"{file}: columns missing: {', '.join(missing)}")
        if len(names) > _MOST_COLUMNS:
            raise DataError(f"{file} has {len(names):,} columns, at most {_MOST_COLUMNS:,} are read")
        twice = next((name for name in _COLUMNS if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{file}: column {twice} is there twice: remove one of them")
        lines, rows = [], []
        for values in reader:
            lines.append(reader.line_num)
            rows.append(_row(file, reader.line_num, values))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{file} cannot be read: {unreadable(error)}") from error
    if not rows:
        raise DataError(f"{file}: it lists no recording")
    first_line: dict[str, int] = {}
    for number, row in zip(lines, rows, strict=True):
        if first_line.setdefault(row.filename, number) != number:
            raise DataError(
                f"{file}: {row.filename} is in line {first_line[row.filename]} and in line {number}: remove one of them"
            )
    return rows


def _row(file: Path, line: int, values: dict[str, str | None]) -> Row:
    text = {name: (values[name] or "").strip() for name in _COLUMNS}
    odd = next((name for name in _COLUMNS if not text[name].isprintable()), None)
    if odd is not None:
        raise DataError(f"{file}: {odd} in line {line} holds what is not a printable character: {text[odd][:40]!r}")
    flags = {}
    for name in ("held_out_user", "held_out_stage"):
        flag = _BOOLEANS.get(text.pop(name).lower())
        if flag is None:
            raise DataError(f"{file}: {name} in line {line} is neither True nor False")
        flags[name] = flag
    if text["split"] not in ("train", "val", "test"):
        raise DataError(f"{file}: split in line {line} is {text['split']!r}, not train, val or test")
    if not text["filename"] or Path(text["filename"]).name != text["filename"]:
        raise DataError(f"{file}: filename in line {line} is not a plain name")
    return Row(**text, **flags)  # type: ignore[arg-type]  # every field of Row is in one of the two


def _row_of_file(trial: SessionTrial, file: Path) -> Row:
    meta = trial.meta(file)
    return Row(meta.user, meta.session, meta.stage, meta.side, meta.side, False, False, "", "", file.stem)


def _check_session(session: Session, row: Row, recipe: "Recipe") -> None:
    _check_band(session, recipe)
    stage = session.meta.stage
    if stage not in (row.stage, *(f"{row.stage}_{hand}" for hand in _HANDS)):  # published files add the hand
        raise DataError(f"{session.path}: attribute stage is {stage}, but {METADATA_FILE} says {row.stage}")


def _check_band(session: Session, recipe: "Recipe") -> None:
    meta, signal = session.meta, recipe.signal
    if meta.num_channels != signal.n_channels:
        raise DataError(
            f"{session.path}: field emg has {meta.num_channels} channels, but recipe {recipe.name} is for "
            f"{signal.n_channels}; recipe own-band is for any band"
        )
    if abs(meta.sample_rate / signal.sample_rate_hz - 1) > RECORDED_RATE_TOLERANCE:
        raise DataError(
            f"{session.path}: attribute sample_rate is {meta.sample_rate:g} Hz, but recipe {recipe.name} is for "
            f"{signal.sample_rate_hz:g} Hz; recipe own-band is for any band"
        )
