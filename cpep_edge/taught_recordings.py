"""The recordings for one taught bundle: a folder beside it, to which repetitions are added but never removed.

`MINE.cpep` is fitted again from `MINE.recordings` whenever gestures are added or left out, and an interrupted lesson
continues where it stopped. Each repetition is written as an emg2pose session as soon as it was made; its stage is the
gesture. `teaching.json` says which band recorded them and which gestures the bundle has.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cpep_edge.blocks import RATE_TOLERANCE, StreamInfo
from cpep_edge.errors import ConfigError, DataError
from cpep_edge.files import read_plain, write_file
from cpep_edge.names import MAX_NAME
from cpep_edge.personal import Repetition
from cpep_edge.session import Session, SessionMeta, write_short_session

NOTES_FILE = "teaching.json"
_MAX_NOTES_BYTES = 1 << 20
_NAME = re.compile(r"w(\d+)-r(\d+)-(\d+)")  # wearing, round and a serial number


class Notes(BaseModel):
    """The content of `teaching.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    device: str = Field(max_length=200)
    n_channels: int = Field(ge=2, le=64)
    sample_rate_hz: float = Field(gt=0, le=1e6)
    unit: Literal["uV", "count"]
    gestures: tuple[str, ...] = Field(max_length=1000)  # of the bundle, without rest
    rest: str = Field(min_length=1, max_length=MAX_NAME)
    n_fitted: int | None = Field(default=None, ge=0)  # the bundle was fitted to recordings below this number; None: all


def recordings_of(bundle: Path) -> Path:
    """The folder with the recordings of a taught bundle."""
    return bundle.with_name(f"{bundle.name.removesuffix('.cpep')}.recordings")


@dataclass(frozen=True, slots=True)
class Recordings:
    """The recordings of one bundle, and the notes about them."""

    folder: Path
    notes: Notes

    @classmethod
    def read(cls, folder: Path) -> "Recordings | None":
        """The recordings in a folder; None when it is missing or empty.

        Raises ConfigError when the folder holds something else, DataError when it is damaged.
        """
        try:
            content = read_plain(folder / NOTES_FILE, _MAX_NOTES_BYTES)
        except FileNotFoundError:
            stranger = (
                next((name for name in sorted(os.listdir(folder)) if name[0] != "."), None) if folder.is_dir() else None
            )
            if stranger is not None:
                raise ConfigError(
                    f"{folder}, where recordings would go, holds {stranger} and no {NOTES_FILE}: move it away, or "
                    "teach a bundle of another name"
                ) from None
            return None
        except (OSError, ValueError) as error:
            why = (isinstance(error, OSError) and error.strerror) or "it is not a file of cpep-edge teach"
            raise DataError(f"{folder / NOTES_FILE} cannot be read: {why}") from error
        try:
            return cls(folder, Notes.model_validate_json(content))
        except ValidationError as error:
            raise DataError(f"{folder / NOTES_FILE} is damaged: {error.errors()[0]['msg']}") from error

    @classmethod
    def begin(cls, folder: Path, info: StreamInfo, gestures: tuple[str, ...], rest: str) -> "Recordings":
        """New recordings of a band; nothing is written before `save` or `add`."""
        unit: Literal["uV", "count"] = "uV" if info.unit == "uV" else "count"
        notes = Notes(
            device=info.name[:200],
            n_channels=info.n_channels,
            sample_rate_hz=info.sample_rate_hz,
            unit=unit,
            gestures=gestures,
            rest=rest,
        )
        return cls(folder, notes)

    def check_band(self, info: StreamInfo) -> None:
        """Raise ConfigError when the band does not match the one of the recordings."""
        notes = self.notes
        same_rate = abs(info.sample_rate_hz / notes.sample_rate_hz - 1) <= RATE_TOLERANCE
        if info.n_channels != notes.n_channels or not same_rate or (info.unit == "uV") != (notes.unit == "uV"):
            raise ConfigError(
                f"{self.folder} is of a band of {notes.n_channels} channels at {notes.sample_rate_hz:g} Hz in "
                f"{notes.unit}, but {info.name} has {info.n_channels} at {info.sample_rate_hz:g} Hz in {info.unit}: "
                "use that band, or teach a bundle of another name"
            )

    def with_gestures(self, gestures: tuple[str, ...]) -> "Recordings":
        """The same recordings, for a bundle with these gestures."""
        return replace(self, notes=self.notes.model_copy(update={"gestures": gestures}))

    def all_fitted(self) -> "Recordings":
        """The same recordings, after the bundle was fitted to all of them."""
        return replace(self, notes=self.notes.model_copy(update={"n_fitted": self._next_number()}))

    def are_new(self) -> list[bool]:
        """Whether each recording, in the order of `repetitions`, is new: the bundle was not yet fitted to it."""
        n_fitted = self.notes.n_fitted
        return [n_fitted is not None and _number(file) >= n_fitted for file in self._files()]

    def save(self) -> None:
        """Write the notes. Raises CpepError when the disk refuses."""
        write_file(self.folder / NOTES_FILE, self.notes.model_dump_json(indent=1) + "\n")

    def add(self, repetition: Repetition) -> None:
        """Write a repetition, whole or not at all. Raises CpepError when the disk refuses."""
        stem = f"w{repetition.wearing}-r{repetition.number:02d}-{self._next_number():03d}"
        rate_hz = self.notes.sample_rate_hz
        n = len(repetition.samples)
        meta = SessionMeta(
            session=f"wearing{repetition.wearing}",
            user="user",
            stage=repetition.gesture,
            side="right",
            start=0.0,
            end=(n - 1) / rate_hz,
            num_channels=self.notes.n_channels,
            sample_rate=rate_hz,
            filename=stem,
        )
        write_short_session(self.folder / f"{stem}.hdf5", meta, np.arange(n) / rate_hz, repetition.samples)

    def repetitions(self) -> list[Repetition]:
        """All repetitions, in the order of recording. Raises DataError for a file that is not a usable repetition."""
        found = []
        for file in self._files():
            with Session(file) as session:
                meta, name = session.meta, _NAME.fullmatch(file.stem)
                if meta.num_channels != self.notes.n_channels or name is None:
                    raise DataError(
                        f"{file} has {meta.num_channels} channels, not {self.notes.n_channels}: move it away"
                    )
                samples = session.emg()
            if not np.isfinite(samples).all():
                raise DataError(f"{file} holds NaN or infinity: move it away")
            found.append(Repetition(meta.stage, int(name[2]), samples, int(name[1])))
        return found

    def _next_number(self) -> int:
        return 1 + max((_number(file) for file in self._files()), default=-1)  # not the count: files may be missing

    def _files(self) -> list[Path]:
        files = [file for file in self.folder.glob("*.hdf5") if _NAME.fullmatch(file.stem)]
        return sorted(files, key=_number)


def _number(file: Path) -> int:
    return int(file.stem.rpartition("-")[2])
