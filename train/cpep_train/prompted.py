"""Prompted sessions: a wearer makes one gesture after the other as asked, with rests, and each gesture's time is known.

Decisions are scored on them event by event. A corpus of them is an ordinary corpus folder in which each session is one
recording of the stage `Prompted`. Beside `metadata.csv` is a `labels.csv` with the columns filename, gesture, start_s
and end_s: from when the hand starts to move until it starts to let go, in seconds of the recording. The session's
calibration movements and a rest are separate recordings in the folder.
"""

import csv
import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from cpep_edge.errors import ConfigError, DataError
from cpep_edge.events import Label
from cpep_edge.folders import output_folder
from cpep_edge.outside import unreadable
from cpep_train.corpus import FREE_STAGE, Row, write_metadata
from cpep_train.hand_model import load_hand
from cpep_train.simulation import (
    CALIBRATING_S,
    check_length,
    metadata_row,
    simulate,
    simulate_free,
    simulate_prompted,
    write_recording,
)
from cpep_train.stages import STAGES, Stage

PROMPTED = "Prompted"
LABELS_FILE = "labels.csv"
REST = "Rest"
CALIBRATION_STAGES = (REST, "GraspPunchCloseFar", "CountingUpDownFingerWigglingSpreading")
CALIBRATION_S = 6.0  # of each calibration movement; free movement is longer

_ASKED_S = 1.0  # shortest duration of a prompted gesture
_COLUMNS = ("filename", "gesture", "start_s", "end_s")


def synthesise_prompted(
    out: Path,
    *,
    n_users: int,
    sessions_per_user: int,
    repetitions: int,
    seed: int,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write prompted sessions of the wearers whom `synthesise_corpus` with these numbers keeps out of training.

    Each session is a new donning, not one of that corpus. Held-out wearers are the split test, validation wearers the
    split val. Every trained single-pose gesture is asked for `repetitions` times, in random order.

    force: replace an earlier output even if it was changed since
    progress: called with (sessions done, sessions in all)
    Raises ConfigError without mujoco, for so few users that none is held out, for far too many, or when `out` holds
    other things; CpepError when writing fails.
    """
    check_length(n_users * repetitions * len(STAGES) * _ASKED_S)
    load_hand()  # fails on a missing package before anything is written
    rows = [metadata_row(user, 0, STAGES[0], n_users, sessions_per_user) for user in range(n_users)]
    users = [(number, row.split) for number, row in enumerate(rows) if row.split != "train"]
    if not users:
        raise ConfigError(f"of {n_users} simulated people none is held out, who would be prompted: ask for 3 at least")
    with output_folder(out, "data synth --prompted", force=force) as folder:
        written: list[Row] = []
        labels: list[tuple[str, Label]] = []
        for done, (user, split) in enumerate(users):
            session_rows, session_labels = _write_session(folder, user, sessions_per_user, n_users, repetitions, seed)
            written += [
                replace(row, split=split, generalization="user" if split == "test" else "") for row in session_rows
            ]
            labels += session_labels
            if progress is not None:
                progress(done + 1, len(users))
        write_metadata(folder, written)
        _write_labels(folder, labels)


def read_labels(folder: Path) -> dict[str, list[Label]]:
    """The labels of each recording of a folder, in order of time; raises DataError when there are none."""
    path = folder / LABELS_FILE
    if not path.is_file():
        raise DataError(f"{path} is missing: labels with times are needed to judge events, see data synth --prompted")
    labels: dict[str, list[Label]] = {}
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {unreadable(error)}") from error
    for number, line in enumerate(lines, start=2):
        try:
            filename, label = line["filename"], Label(line["gesture"], float(line["start_s"]), float(line["end_s"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: line {number} does not hold {', '.join(_COLUMNS)}") from error
        if not 0 <= label.start_s < label.end_s < math.inf:
            raise DataError(
                f"{path}: line {number} is from {label.start_s:g} s to {label.end_s:g} s, which is not a stretch of a "
                "recording"
            )
        labels.setdefault(filename, []).append(label)
    return {filename: sorted(found, key=lambda label: label.start_s) for filename, found in labels.items()}


def _write_session(
    folder: Path, user: int, session: int, n_users: int, repetitions: int, seed: int
) -> tuple[list[Row], list[tuple[str, Label]]]:
    """Write one wearer's calibration movements and prompted session."""
    rows = []
    for stage in (one for one in STAGES if one.name in CALIBRATION_STAGES):
        row = metadata_row(user, session, stage, n_users, session)
        write_recording(folder, row.user, row.session, row.stage, simulate(user, session, stage, CALIBRATION_S, seed))
        rows.append(row)
    freely = replace(rows[0], stage=FREE_STAGE, filename=f"{rows[0].session}-{FREE_STAGE}")
    recording = simulate_free(user, session, CALIBRATING_S, seed)
    write_recording(folder, freely.user, freely.session, FREE_STAGE, recording)
    recording, labels = simulate_prompted(user, session, _asked(user, repetitions, seed), seed)
    row = replace(rows[0], stage=PROMPTED, filename=f"{rows[0].session}-{PROMPTED}")
    write_recording(folder, row.user, row.session, PROMPTED, recording)
    return [*rows, freely, row], [(row.filename, label) for label in labels]


def _asked(user: int, repetitions: int, seed: int) -> list[Stage]:
    """Every trained single-pose gesture, `repetitions` times each, in a random order that depends on the wearer."""
    asked = [stage for stage in STAGES[1:] if not stage.is_chain and not stage.held_out] * repetitions
    order = np.random.default_rng((seed, user)).permutation(len(asked))
    return [asked[number] for number in order]


def _write_labels(folder: Path, labels: list[tuple[str, Label]]) -> None:
    with (folder / LABELS_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for filename, label in labels:
            writer.writerow((filename, label.gesture, f"{label.start_s:.3f}", f"{label.end_s:.3f}"))
