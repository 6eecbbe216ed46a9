"""Recordings to evaluate decisions on, with the times of the gestures, and the parts that teach and calibrate."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_bench.onset import energy, onset
from cpep_edge.errors import DataError
from cpep_edge.events import Label
from cpep_edge.lesson import Timing
from cpep_edge.names import UNKNOWN
from cpep_edge.personal import Repetition

REST = "Rest"
MYO_GESTURES = ("Flexion", "Extension", "Radial", "Ulnar", "Pronation", "Supination", "Fist")
MYO_HZ, THREE_DC_HZ = 200.0, 1000.0
N_TAUGHT = 3  # repetitions
LATE_S = 0.1  # a repetition is cut from so long before its onset, since its first SETTLE_S only settle the filter
AFTER_S, BEFORE_S = 1.2, 0.3  # rest left out after a gesture and before the next
CALIBRATED_S, CALIBRATED_REST_S = 3.0, 4.0  # signal of each gesture, and of rest, that calibrates

Emg = NDArray[np.float32]  # (n, C)


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording of a donning."""

    gesture: str  # the prompted gesture; "" for movements that are all to be ignored
    emg: Emg
    prompts: tuple[tuple[int, int], ...] = ()  # first sample of each, and one past its last
    labels: tuple[Label, ...] = ()  # times at which the gesture was made
    clear: tuple[bool, ...] = ()  # whether the onset was found


Worn = tuple[Recording, ...]  # one donning of one person


def read_myo(folder: Path) -> dict[str, list[Worn]]:
    """The donnings of each person of myo-wrist, in the order of sessions.

    Raises DataError when there is none, or a session has no movement in any prompt.
    """
    found: dict[str, list[Worn]] = {}
    for path in sorted(path for path in folder.glob("*-*") if path.is_dir()):
        recordings = []
        for number in range(1 + len(MYO_GESTURES)):
            lines = (line.split(",") for line in (path / f"{number}.txt").read_text().splitlines())
            rows = np.array([line for line in lines if len(line) == 9], np.float32)
            name = MYO_GESTURES[number - 1] if number else ""
            recordings.append(prompted(name, rows[:, :8], rows[:, 8] != 0) if number else Recording("", rows[:, :8]))
        if not any(any(one.clear) for one in recordings):
            raise DataError(f"{path}: no prompt holds a movement, so there is nothing to judge decisions by")
        found.setdefault(path.name.split("-")[0], []).append(tuple(recordings))
    if not found:
        raise DataError(f"{folder} holds no folder of myo-wrist, as 10101-1")
    return found


def prompted(gesture: str, emg: Emg, asked: NDArray[np.bool_]) -> Recording:
    """A recording with the gesture's onsets, found near its prompts; asked: (n,), whether a prompt was shown."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], asked, [False]]).astype(np.int8)))
    prompts = tuple(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
    psi = energy(emg, MYO_HZ)
    onsets = [onset(psi, first, MYO_HZ) for first, _ in prompts]
    labels = tuple(
        Label(gesture, (first - 0.75 * MYO_HZ if one is None else one) / MYO_HZ, last / MYO_HZ)
        for (first, last), one in zip(prompts, onsets, strict=True)
    )
    return Recording(gesture, emg, prompts, labels, tuple(one is not None for one in onsets))


def read_3dc(folder: Path) -> dict[str, tuple[list[Repetition], Recording]]:
    """By person of 3DC: the repetitions that teach, and one recording of the later ones, joined with rest."""
    names = ("Radial", "Flexion", "Ulnar", "Extension", "Supination", "Pronation", "Power", "Open", "Chuck", "Pinch")
    found = {}
    for person in sorted(folder.glob("Participant*")):

        def load(part: str, repetition: int, gesture: int, person: Path = person) -> Emg:
            emg = np.loadtxt(person / part / "EMG" / f"3dc_EMG_gesture_{repetition}_{gesture}.txt", delimiter=",")
            return (emg - emg.mean(axis=0)).astype(np.float32)

        taught = [
            Repetition((REST, *names)[gesture], repetition + 1, load("train", repetition, gesture))
            for repetition in range(N_TAUGHT)
            for gesture in range(1 + len(names))
        ]
        parts, labels, at = [], [], 0
        for repetition in range(4):
            rest = load("test", repetition, 0)
            for gesture, name in enumerate(names, start=1):
                made = load("test", repetition, gesture)
                parts += [rest, made]
                start = at + len(rest)
                at = start + len(made)
                labels.append(Label(name, start / THREE_DC_HZ, at / THREE_DC_HZ))
        joined = np.concatenate(parts)
        found[person.name] = (taught, Recording("joined", joined, (), tuple(labels), (True,) * len(labels)))
    return found


def repetitions_of(worn: Worn, rate_hz: float) -> list[Repetition]:
    """The first repetitions of each gesture, from the onset of EMG, and the rest before them.

    A repetition without a known onset begins half a second after its prompt.
    """
    found, late, after, before = [], *(round(s * rate_hz) for s in (LATE_S, AFTER_S, BEFORE_S))
    for recording in worn:
        ended = -after
        for number, (asked, last) in enumerate(recording.prompts[:N_TAUGHT], start=1):
            first = round(recording.labels[number - 1].start_s * rate_hz)
            made = first - late if recording.clear[number - 1] else asked + round(0.5 * rate_hz)
            found.append(Repetition(recording.gesture, number, recording.emg[made:last]))
            resting = recording.emg[ended + after : first - before]
            if len(resting) > rate_hz:
                found.append(Repetition(REST, number, resting))
            ended = last
    return found


def others_of(emg: Emg, rate_hz: float) -> list[Repetition]:
    """Other movements, as a lesson asks for them, from the beginning of a recording to be ignored."""
    n = round(Timing().other_s * rate_hz)
    return [Repetition(UNKNOWN, 1 + k, emg[k * n : (k + 1) * n]) for k in range(N_TAUGHT)]


def calibration_of(worn: Worn) -> list[Emg]:
    """Unlabelled signal for a calibration: part of the first repetition of each gesture, and some rest."""
    found = []
    for recording in worn:
        if recording.prompts:
            first = recording.prompts[0][0] + round(MYO_HZ)
            found.append(recording.emg[first : first + round(CALIBRATED_S * MYO_HZ)])
    first = worn[1].prompts[0][0]
    return [*found, worn[1].emg[max(0, first - round(CALIBRATED_REST_S * MYO_HZ)) : first]]


def knocked(emg_uv: Emg, rate_hz: float, rng: np.random.Generator) -> Emg:
    """The signal with a knock on one to three electrodes every ten seconds, which rings at 1 to 3 mV."""
    found, n = emg_uv.copy(), round(0.15 * rate_hz)
    time_s = np.arange(n) / rate_hz
    for start in range(round(5 * rate_hz), len(found) - n, round(10 * rate_hz)):
        ringing = rng.uniform(1_000, 3_000) * np.exp(-time_s / 0.03) * np.sin(2 * np.pi * rng.uniform(15, 60) * time_s)
        struck = rng.choice(found.shape[1], rng.integers(1, 4), replace=False)
        found[start : start + n, struck] += (ringing[:, None] * rng.uniform(0.5, 1, len(struck))).astype(np.float32)
    return found
