"""Import two sets that were recorded with one Thalmic Myo: eight electrodes, 200 Hz, no pose.

`import_myo_wrist`: the myo-readings-dataset, `PERSON-SESSION/GESTURE.txt`, a minute each, eight signed bytes and a
label per row; rest (0) and the gesture alternate every five seconds, and a session is a donning of the band. The
labels are prompts, and people move up to a second later. A person's last session is for testing.

`import_myo_longterm`: the Wearable Sensor Long-term sEMG Dataset, `subS/dayD/D<day>M<motion>T<trial>.csv`, 1.5 s each,
scaled; a day is a donning. The first day is for training, as the authors use it, and the others are for testing.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import DataError
from cpep_train.importing import CorpusWriter, ImportSummary, Recording, Writing, stretches, whole_rows, writing_corpus

N_CHANNELS = 8
SAMPLE_RATE_HZ = 200.0
WRIST_GESTURES = (
    "Rest", "WristFlexion", "WristExtension", "RadialDeviation", "UlnarDeviation", "Pronation", "Supination", "Fist",
)  # fmt: skip
_PROMPT_S = 5.0
_LONGTERM_NAMED = {1: "Rest", 2: "WristFlexion"}  # the files name only these
_COUNTS_OF_ONE = 100.0  # counts per unit of the long-term set; a signed byte's limits are about 1.28
_WRIST = re.compile(r"(?P<person>.+)-(?P<session>\d+)")
_LONGTERM = re.compile(r"D(?P<day>\d+)M(?P<motion>\d+)T(?P<trial>\d+)\.csv")


def import_myo_wrist(
    source: Path,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    writing: Writing = Writing(),
    rest_between: bool = True,
) -> ImportSummary:
    """Write the set as a corpus, whole or not at all; progress: called with (files done, files in all).

    rest_between: False takes rest only from the session's minute without prompts, in pieces as long as a prompt. The
        pauses between prompts contain the start of a gesture when a person or the recording is ahead of the prompts.
    Raises DataError, naming the file, when it does not have the layout above.
    """
    files = _wrist_files(source)
    prompt = round(_PROMPT_S * SAMPLE_RATE_HZ)
    last = {person: max(session for who, session, _ in files if who == person) for person, _, _ in files}

    def of_file(file: Path, person: str, session: int, rows: NDArray[np.float64]) -> Iterator[Recording]:
        for start, stop in stretches(rows[:, N_CHANNELS]):
            label = float(rows[start, N_CHANNELS])
            if label not in range(len(WRIST_GESTURES)):
                raise DataError(f"{file}: the label {label:g} is none of 0 to {len(WRIST_GESTURES) - 1}")
            if not rest_between and label == 0 and file.stem != "0":
                writer.leave_out("rest between prompts", stop - start)
                continue
            pieces = range(start, stop, stop - start if rest_between or label else prompt)
            for first in pieces:
                yield Recording(
                    user=f"myo-{person}",
                    session=f"myo-{person}-{session}",
                    stage=WRIST_GESTURES[int(label)],
                    emg_uv=rows[first : min(stop, first + pieces.step), :N_CHANNELS],
                    sample_rate_hz=SAMPLE_RATE_HZ,
                    split="test" if session == last[person] else "train",
                    side="right",
                    other_names=(person,),
                )

    with writing_corpus(out, writing, "data import myo") as writer:
        for done, (person, session, file) in enumerate(files, start=1):
            rows = _rows(file, N_CHANNELS + 1, writer)
            for recording in of_file(file, person, session, rows):
                writer.add(recording, file)
            if progress is not None:
                progress(done, len(files))
        return writer.finish()


def import_myo_longterm(
    source: Path,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    writing: Writing = Writing(),
) -> ImportSummary:
    """Write the set as a corpus, whole or not at all; progress: called with (files done, files in all).

    Raises DataError, naming the file, when it does not have the layout above.
    """
    found = [(match, file) for file in source.rglob("*.csv") if (match := _LONGTERM.fullmatch(file.name))]
    if not found:
        raise DataError(f"{source}: there is no file subS/dayD/D<day>M<motion>T<trial>.csv")
    files = sorted(found, key=lambda one: (one[1].parts[-3], *(int(one[0][k]) for k in ("day", "motion", "trial"))))
    with writing_corpus(out, writing, "data import myo") as writer:
        for done, (match, file) in enumerate(files, start=1):
            day, motion = int(match["day"]), int(match["motion"])
            person = file.parts[-3]
            rows = _rows(file, N_CHANNELS, writer) * _COUNTS_OF_ONE
            recording = Recording(
                user=f"longterm-{person}",
                session=f"longterm-{person}-day{day}",
                stage=_LONGTERM_NAMED.get(motion, f"motion {motion}"),
                emg_uv=rows,
                sample_rate_hz=SAMPLE_RATE_HZ,
                split="train" if day == 1 else "test",
                other_names=(person, person.removeprefix("sub"), f"S{person.removeprefix('sub')}"),
            )
            writer.add(recording, file)
            if progress is not None:
                progress(done, len(files))
        return writer.finish()


def _wrist_files(source: Path) -> list[tuple[str, int, Path]]:
    found = [
        (match["person"], int(match["session"]), file)
        for file in sorted(source.rglob("*.txt"))
        if file.stem.isdigit() and (match := _WRIST.fullmatch(file.parent.name))
    ]
    if not found:
        raise DataError(f"{source}: there is no file PERSON-SESSION/GESTURE.txt")
    return found


def _rows(file: Path, n_columns: int, writer: CorpusWriter) -> NDArray[np.float64]:
    rows, n_cut = whole_rows(file, n_columns)
    writer.read(len(rows) + n_cut)
    writer.leave_out("rows cut short at the end of a file", n_cut)
    return rows
