"""Record by a list of prompts: the wearer is shown what to do, and each prompt becomes a session with its label.

A list is a TOML file:

    rest_s = 3                       # before each prompt
    [[prompt]]
    stage = "FingerAbductionSeries"  # the label
    text = "Spread and close the fingers"
    seconds = 10
    repeat = 2

Samples of the rests are discarded. The folder becomes a corpus: one HDF5 file per prompt, and `metadata.csv`. The
corpus is split for training and testing: of a gesture with two or more repetitions the last is for testing, with three
or more the one before it is for validation. Alternatively the whole recording is for one split.
"""

import csv
import io
import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from cpep_bridge.recording import Recorded, Recorder, Timeline, Wearer, journal_of, rate_heard, session_meta
from cpep_bridge.toml_config import Section, read_toml
from cpep_edge.blocks import BlockSource
from cpep_edge.errors import ConfigError, DataError
from cpep_edge.files import read_plain, write_file
from cpep_edge.folders import locked
from cpep_edge.names import MAX_NAME, check_label
from cpep_edge.session import Session

METADATA = "metadata.csv"
_MAX_METADATA_BYTES = 1 << 30
_LONGEST_S = 86_400.0  # a day
_MOST_REPETITIONS = 1_000
_LONGEST_FILE_NAME = 220  # bytes; Linux allows 255, and a number and the suffix of a temporary file are added
CUT_S = 0.25  # a longer gap in a prompt makes it be repeated
COLUMNS = (
    *("user", "session", "stage", "side", "moving_hand", "held_out_user", "held_out_stage"),
    *("split", "generalization", "filename"),
)


Split = Literal["train", "val", "test"]


Stage = Annotated[
    str,
    Field(min_length=1, max_length=MAX_NAME, pattern=r"^[A-Za-z0-9_-]+$"),  # it goes into a file name
    AfterValidator(check_label),
]


class Prompt(Section):
    """One gesture to perform."""

    stage: Stage
    text: str = ""
    seconds: float = Field(gt=0, le=_LONGEST_S)
    repeat: int = Field(default=1, ge=1, le=_MOST_REPETITIONS)


class PromptList(Section):
    """The prompts of a session, in order."""

    rest_s: float = Field(default=3.0, ge=0, le=_LONGEST_S)
    prompt: list[Prompt] = Field(min_length=1, max_length=10_000)

    def steps(self) -> list[tuple[Prompt, Split]]:
        """The prompts in the order of recording, each with its split; the list is repeated as a whole."""
        n_of_stage: Counter[str] = Counter()
        for prompt in self.prompt:
            n_of_stage[prompt.stage] += prompt.repeat
        left, steps = n_of_stage.copy(), []
        for number in range(max(prompt.repeat for prompt in self.prompt)):
            for prompt in self.prompt:
                if number < prompt.repeat:
                    steps.append((prompt, _split(left[prompt.stage], n_of_stage[prompt.stage])))
                    left[prompt.stage] -= 1
        return steps


def _split(n_left: int, n_repetitions: int) -> Split:
    """The split of a repetition, by how many of its gesture are left, itself included."""
    if n_left == 1 and n_repetitions >= 2:
        return "test"
    return "val" if n_left == 2 and n_repetitions >= 3 else "train"


# Called to update what the wearer sees. Arguments: the prompt, whether this is the rest before it, and the seconds left
# of the rest or prompt.
Show = Callable[[Prompt, bool, float], None]

_log = logging.getLogger(__name__)


def load_prompts(path: Path) -> PromptList:
    """Read a prompt list. Raises ConfigError with everything that is wrong in it."""
    return read_toml(path, PromptList, "prompt list")


def record_prompts(
    source: BlockSource, folder: Path, wearer: Wearer, prompts: PromptList, show: Show, split: Split | None = None
) -> list[Recorded]:
    """Record an opened source by a list. Returns the finished sessions, also when Ctrl-C ends the recording early.

    split: the split of all sessions; None: by repetition, see the module

    An incomplete prompt is not kept, because its label would not be true for all of it. A prompt that is interrupted by
    a loss of more than a quarter of a second or a restart of the device is asked for again.
    Raises ConfigError for names that are too long for a file, DataError when writing fails.
    """
    stage = max((prompt.stage for prompt in prompts.prompt), key=len)
    name = f"{wearer.user}_{wearer.session}_{stage}"
    if len(os.fsencode(name)) > _LONGEST_FILE_NAME:
        raise ConfigError(f"{name!r} is too long for the name of a file: shorten --user, --session or the stage")
    for path in list_finished(folder, split or "train"):
        _log.warning("%s was recorded before and is noted in %s now", path, METADATA)
    director = _Director(source, folder, wearer, prompts, show, split)
    try:
        director.run()
    except KeyboardInterrupt:
        pass
    except DataError:
        raise  # writing failed: leave the journal as it is
    except BaseException:
        director.break_off()
        raise
    director.break_off()
    return director.recorded


class _Director:
    """Alternates rests and prompts, timed by the samples that arrive."""

    def __init__(
        self,
        source: BlockSource,
        folder: Path,
        wearer: Wearer,
        prompts: PromptList,
        show: Show,
        split: Split | None,
    ) -> None:
        self._source, self._folder, self._wearer, self._show, self._all_for = source, folder, wearer, show, split
        self._rest_s = prompts.rest_s
        self._steps = prompts.steps()
        self._recorder: Recorder | None = None  # None while resting
        self._repetition = wearer
        self.recorded: list[Recorded] = []

    def run(self) -> None:
        """Go through the whole list."""
        rate_hz = self._source.info.sample_rate_hz
        timeline = Timeline(rate_hz)
        n_left = round(self._rest_s * rate_hz)  # samples left of the current rest or prompt
        last: tuple[float, int] | None = None  # end of the last block, and its boot_id
        for block in self._source:
            start_s, samples_uv = timeline.start_s(block), block.samples_uv
            cut = last is not None and (start_s - last[0] > CUT_S or block.boot_id != last[1])
            if cut and self._recorder is not None:
                self.break_off()
                _log.warning("the prompt was interrupted: it is asked for again")
                n_left = round(self._rest_s * rate_hz)
            last = start_s + len(samples_uv) / rate_hz, block.boot_id
            while True:
                self._take(start_s, samples_uv[:n_left], n_left / rate_hz)
                n_taken = min(n_left, len(samples_uv))
                start_s, samples_uv, n_left = start_s + n_taken / rate_hz, samples_uv[n_taken:], n_left - n_taken
                if n_left:
                    break
                n_left = max(
                    int(self._recorder is None), round(self._turn() * rate_hz)
                )  # a prompt has at least one sample
                if len(self.recorded) == len(self._steps):
                    return

    def break_off(self) -> None:
        """Drop the prompt that is being recorded."""
        if self._recorder is not None:
            self._recorder.discard()
            self._recorder = None

    def _take(self, start_s: float, samples_uv: NDArray[np.float32], left_s: float) -> None:
        if not len(samples_uv):
            return
        self._show(self._steps[len(self.recorded)][0], self._recorder is None, left_s)
        if self._recorder is not None:
            self._recorder.add(start_s, samples_uv)

    def _turn(self) -> float:
        """Change from a rest to a prompt or back; returns the length of the new one in seconds."""
        if self._recorder is None:
            prompt, _ = self._steps[len(self.recorded)]
            path, self._repetition = self._free_path(prompt.stage)
            self._recorder = Recorder(path, session_meta(self._source.info, path, self._repetition, prompt.stage))
            return prompt.seconds
        recorder, self._recorder = self._recorder, None  # complete: an error from here on leaves its journal
        finished = recorder.finish(rate_heard(self._source))
        if finished is not None:
            split = self._all_for or self._steps[len(self.recorded)][1]
            _append(self._folder, [_row(self._repetition, finished.stage, split, finished.path)])
            self.recorded.append(finished)
        return self._rest_s

    def _free_path(self, stage: str) -> tuple[Path, Wearer]:
        """The file of the next repetition, and its wearer with a session of its own, so that splits stay separate."""
        for number in itertools.count(1):
            path = self._folder / f"{self._wearer.user}_{self._wearer.session}_{stage}_{number}.hdf5"
            if not path.exists() and not journal_of(path).exists():
                break
        return path, replace(self._wearer, session=f"{self._wearer.session}-rep{number}")


def list_finished(folder: Path, split: Split = "train") -> list[Path]:
    """Add complete recordings to the folder's metadata that lack a row because the program was stopped before.

    returns: the paths that were added
    A recording older than the metadata had a row that somebody removed on purpose, so it is not added again.
    Raises DataError when the metadata is invalid or writing fails.
    """
    text, table = _metadata(folder), folder / METADATA
    listed = {row.get("filename") for row in csv.DictReader(io.StringIO(text, newline=""))}
    written_ns = table.stat().st_mtime_ns if text else 0
    unlisted = [path for path in sorted(folder.glob("*_*.hdf5")) if path.stem not in listed]
    missing, rows = [path for path in unlisted if path.stat().st_mtime_ns > written_ns], []
    for path in missing:
        with suppress(DataError), Session(path) as session:
            meta = session.meta
            donning, _, number = meta.session.rpartition("-rep")
            if path.stem == f"{meta.user}_{donning}_{meta.stage}_{number}":  # as named by `_free_path`
                rows.append((path, _row(Wearer(meta.user, meta.session, meta.side), meta.stage, split, path)))
    if rows:
        _append(folder, [row for _, row in rows])
    return [path for path, _ in rows]


def _row(wearer: Wearer, stage: str, split: Split, path: Path) -> dict[str, str]:
    values = (wearer.user, wearer.session, stage, wearer.side, wearer.side, "False", "False", split, "", path.stem)
    return dict(zip(COLUMNS, values, strict=True))


def _append(folder: Path, rows: Sequence[dict[str, str]]) -> None:
    """Add rows to the folder's metadata, all or none; the existing text is kept unchanged."""
    with locked(folder):
        before = _metadata(folder)
        names = next(csv.reader(io.StringIO(before, newline="")), COLUMNS)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names, lineterminator="\n")
        if not before:
            writer.writeheader()
        elif not before.endswith(("\n", "\r")):
            text.write("\n")
        writer.writerows(rows)
        write_file((folder / METADATA).resolve(), (before + text.getvalue()).encode())


def _metadata(folder: Path) -> str:
    """The text of the folder's metadata, "" without one. Raises DataError when no row can be added to the file."""
    path = folder / METADATA
    try:
        text = read_plain(path, _MAX_METADATA_BYTES, follow=True).decode("utf-8-sig")
        names = next(csv.reader(io.StringIO(text, newline="")), [])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, csv.Error) as error:
        why = (isinstance(error, OSError) and error.strerror) or "it is not UTF-8 text"
        raise DataError(f"{path} cannot be added to: {why}; choose another folder") from error
    missing = [name for name in COLUMNS if name not in names]
    if text and missing:
        raise DataError(f"{path} cannot be added to: it has no column {missing[0]}; choose another folder")
    return text
