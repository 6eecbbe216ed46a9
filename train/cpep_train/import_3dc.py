"""Import the 3DC armband set (Côté-Allard et al. 2019): 10 electrodes, 1 kHz, eleven gestures, no pose.

Files are `ParticipantN/{train,test}/EMG/3dc_EMG_gesture_<repetition>_<gesture>.txt`, one row a sample, integer counts.
The counts are kept as they are; what a count is in microvolts was not published. The first four repetitions are for
training, the last four for testing, as its authors use them.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from cpep_edge.errors import DataError
from cpep_train.importing import ImportSummary, Recording, Split, Writing, whole_rows, writing_corpus
from cpep_train.pose_templates import TEMPLATES

N_CHANNELS = 10
SAMPLE_RATE_HZ = 1_000
GESTURES = tuple(TEMPLATES)  # in the order of the set's own numbers, 0 to 10
SHORT_S = 4.0  # trials are meant to last 5 s

_NAME = re.compile(r"3dc_EMG_gesture_(\d+)_(\d+)\.txt")


def import_3dc(
    source: Path,
    out: Path,
    participants: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
    *,
    writing: Writing = Writing(),
) -> ImportSummary:
    """Write the recordings of some participants as a corpus, whole or not at all.

    progress: called with (files done, files in all)
    Raises DataError when a participant is missing or a file is not of the layout above.
    """
    files = [file for participant in participants for file in _files(source, participant)]
    n_short = 0
    with writing_corpus(out, writing, "data import 3dc") as writer:
        for done, (participant, split, file) in enumerate(files):
            match = _NAME.fullmatch(file.name)
            if match is None or int(match[2]) >= len(GESTURES):
                raise DataError(f"{file}: the name is not 3dc_EMG_gesture_<repetition>_<gesture 0-10>.txt")
            counts, n_cut = whole_rows(file, N_CHANNELS)
            writer.read(len(counts) + n_cut)
            writer.leave_out("rows cut short at the end of a file", n_cut)
            n_short += len(counts) < SHORT_S * SAMPLE_RATE_HZ
            user = f"3dc-{participant:02d}"
            repetition = int(match[1]) + (4 if split == "test" else 0)
            recording = Recording(
                user=user,
                session=f"{user}-rep{repetition}",
                stage=GESTURES[int(match[2])],
                emg_uv=counts,
                sample_rate_hz=SAMPLE_RATE_HZ,
                split=split,
                other_names=(f"Participant{participant}", f"S{participant}", str(participant)),
            )
            writer.add(recording, file)
            if progress is not None:
                progress(done + 1, len(files))
        if n_short:
            writer.notes.append(f"{n_short} recordings are shorter than {SHORT_S:g} s and were kept")
        return writer.finish()


def _files(source: Path, participant: int) -> list[tuple[int, Split, Path]]:
    folder = source / f"Participant{participant}"
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such participant")
    found: list[tuple[int, Split, Path]] = []
    splits: tuple[Split, Split] = ("train", "test")
    for split in splits:
        texts = sorted((folder / split / "EMG").glob("*.txt"))
        if not texts:
            raise DataError(f"{folder / split / 'EMG'}: there are no recordings")
        found += [(participant, split, file) for file in texts]
    return found
