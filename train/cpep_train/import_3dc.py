"""Import the 3DC armband set (Côté-Allard et al. 2019): 10 electrodes, 1 kHz, eleven gestures, no pose.

Files are `ParticipantN/{train,test}/EMG/3dc_EMG_gesture_<repetition>_<gesture>.txt`, one row a sample, integer counts.
The counts are kept as they are; what a count is in microvolts was not published. The first four repetitions are for
training, the last four for testing, as its authors use them.
"""

import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import DataError
from cpep_edge.folders import output_folder
from cpep_edge.session import SessionMeta, write_session
from cpep_train.corpus import Row, write_metadata
from cpep_train.pose_templates import TEMPLATES

logger = logging.getLogger(__name__)

N_CHANNELS = 10
SAMPLE_RATE_HZ = 1_000
GESTURES = tuple(TEMPLATES)  # in the order of the set's own numbers, 0 to 10
SHORT_S = 4.0  # trials are meant to last 5 s

_SIDE = "unknown"  # the wearers' dominant arm, which the files do not name
_NAME = re.compile(r"3dc_EMG_gesture_(\d+)_(\d+)\.txt")


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an import found."""

    n_files: int
    n_participants: int
    hours: float
    short_files: tuple[str, ...]  # kept
    identical_participants: tuple[tuple[str, ...], ...]  # groups whose recordings are the same bytes


def import_3dc(
    source: Path,
    out: Path,
    participants: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
    *,
    force: bool = False,
) -> ImportSummary:
    """Write the recordings of some participants as a corpus, whole or not at all.

    progress: called with (files done, files in all)
    force: replace an earlier output although it was changed since
    Raises ConfigError where `out` holds other things, DataError when a participant is missing or a file is not of the
    layout above.
    """
    files = [file for participant in participants for file in _files(source, participant)]
    hashes: dict[str, set[str]] = defaultdict(set)
    rows, lengths = [], []
    with output_folder(out, "data import 3dc", force=force) as folder:
        for done, (row, file) in enumerate(files):
            content = file.read_bytes()
            hashes[hashlib.sha256(content).hexdigest()].add(row.user)
            lengths.append(_write(folder, row, _counts(file, content)))
            rows.append(row)
            if progress is not None:
                progress(done + 1, len(files))
        write_metadata(folder, rows)
    identical = tuple(sorted({tuple(sorted(users)) for users in hashes.values() if len(users) > 1}))
    for users in identical:
        logger.warning("%s are the same recordings: one person, counted %d times", " and ".join(users), len(users))
    return ImportSummary(
        n_files=len(rows),
        n_participants=len(set(participants)),
        hours=sum(lengths) / SAMPLE_RATE_HZ / 3600,
        short_files=tuple(row.filename for row, n in zip(rows, lengths, strict=True) if n < SHORT_S * SAMPLE_RATE_HZ),
        identical_participants=identical,
    )


def _files(source: Path, participant: int) -> list[tuple[Row, Path]]:
    folder = source / f"Participant{participant}"
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such participant")
    found = [_place(file, participant, split) for split in ("train", "test") for file in _texts(folder, split)]
    return sorted(found, key=lambda place: place[0].filename)


def _texts(folder: Path, split: str) -> list[Path]:
    texts = list((folder / split / "EMG").glob("*.txt"))
    if not texts:
        raise DataError(f"{folder / split / 'EMG'}: there are no recordings")
    return texts


def _place(file: Path, participant: int, split: str) -> tuple[Row, Path]:
    match = _NAME.fullmatch(file.name)
    if match is None or int(match[2]) >= len(GESTURES):
        raise DataError(f"{file}: the name is not 3dc_EMG_gesture_<repetition>_<gesture 0-10>.txt")
    repetition = int(match[1]) + (4 if split == "test" else 0)
    user, gesture = f"3dc-{participant:02d}", GESTURES[int(match[2])]
    session = f"{user}-rep{repetition}"
    row = Row(user, session, gesture, _SIDE, _SIDE, False, False, split, "", f"{session}-{gesture}")
    return row, file


def _counts(file: Path, content: bytes) -> NDArray[np.float32]:
    """(n_samples, 10)"""
    try:
        counts = np.array([line.split(",") for line in content.decode("ascii").split()], dtype=np.float32)
    except ValueError as error:
        raise DataError(f"{file}: not lines of {N_CHANNELS} integers") from error
    if counts.ndim != 2 or counts.shape[1] != N_CHANNELS:
        raise DataError(f"{file}: not lines of {N_CHANNELS} integers")
    return counts


def _write(folder: Path, row: Row, counts: NDArray[np.float32]) -> int:
    time_s = np.arange(len(counts)) / SAMPLE_RATE_HZ
    meta = SessionMeta(
        session=row.session,
        user=row.user,
        stage=row.stage,
        side=row.side,
        start=0.0,
        end=float(time_s[-1]),
        num_channels=N_CHANNELS,
        sample_rate=float(SAMPLE_RATE_HZ),
        filename=row.filename,
    )
    write_session(folder / f"{row.filename}.hdf5", meta, time_s, counts)
    return len(counts)
