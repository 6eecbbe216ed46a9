"""What a wearer who teaches a band gets: windows and recordings read right, in the same wearing and in the next.

    python benchmarks/measure_teaching.py --data FOLDER --out FOLDER [--only 3dc,myo-wrist,simulated] [--people 8]
        [--trained BUNDLE]

FOLDER of the data: `3dc` and `myo-wrist` in their published layouts; twelve simulated people are generated here.
BUNDLE: trained for simulated people, as by `cpep-edge export box --out BUNDLE`; with it, the methods that need it are
measured too. Writes `teaching.md` and `teaching.json`.

Each person teaches with only their own first 1, 2 or 3 repetitions. Later recordings are fed to the live engine one by
one. The methods:

- teach, teach --from BUNDLE: `fit_taught` and `write_taught`, which `cpep-edge teach` calls.
- Hudgins and LDA: the features of LibEMG, standardised on the teaching recordings, or on the calibration; windows of
  250 ms, as in teach.
- BUNDLE, calibrated: nothing is taught; the bundle answers with its poses of other people.
- BUNDLE, gestures add: each gesture is taught as by `gestures add --from-session`, as the poses nearest to the person's
  own EMG; only these poses answer.

The measures:

- windows: accuracy of the votes at every hop, balanced over gestures; the mean over people, and its 95 % bootstrap
  interval.
- recordings: accuracy of the decision that stood longest in each recording.
- next wearing: earlier sessions teach; the first repetitions of the last session calibrate without labels, as
  `cpep-edge calibrate` does, and the later ones are tested on.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import signal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from cpep_bench.machine import this_machine
from cpep_edge.blocks import Block, StreamInfo
from cpep_edge.bundle import Bundle
from cpep_edge.calibration import donning_of
from cpep_edge.donning import SETTLE_S, Donning
from cpep_edge.enrolment import OpenBundle, prototypes_from_session
from cpep_edge.errors import CpepError
from cpep_edge.folders import write_reports
from cpep_edge.json_text import to_json
from cpep_edge.lesson import rest_of
from cpep_edge.live_loop import LiveEngine
from cpep_edge.personal import Repetition, design_reading
from cpep_edge.pose_index import build_index
from cpep_edge.recogniser import Recogniser
from cpep_edge.taught import Base, fit_taught, write_taught
from cpep_edge.taught_recordings import Recordings
from cpep_edge.versions import code_version
from cpep_train.realism import features
from cpep_train.simulation import simulate
from cpep_train.stages import STAGES
from cpep_train.wearers import CPEP_BAND

SETS = ("3dc", "myo-wrist", "simulated")
GESTURES_3DC = ("NoMotion", "Radial", "Flexion", "Ulnar", "Extension", "Supination", "Pronation", "PowerGrip", "Open",
                "ChuckGrip", "PinchGrip")  # fmt: skip
GESTURES_MYO = ("Rest", "Flexion", "Extension", "Radial", "Ulnar", "Pronation", "Supination", "Fist")
MYO_RATE_HZ = 200.0
_MYO_HOLD_S = (1.0, 4.9)  # the part of each prompt to use; people move up to a second late
_MYO_REST_S = 5.0  # length of the pieces that file 0 is cut into
_BLOCK = 50  # samples
_HUDGINS_S = (0.25, 0.05)  # window and hop
_SIMULATED_PEOPLE = 12
_SIMULATED_S = 16.0  # length of a recording of one gesture in one wearing
_SIMULATED_REPETITIONS = 5  # parts that it is cut into
_SEED = 77  # the box's encoder was trained on people of other seeds


@dataclass(frozen=True, slots=True)
class Person:
    """One wearer of one set."""

    name: str
    info: StreamInfo
    wearings: tuple[tuple[Repetition, ...], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """The accuracy of one person with one way of teaching."""

    data: str
    person: str
    way: str
    protocol: str  # "same wearing" or "next wearing"
    taught: str  # "3 repetitions", or the wearings
    windows: float
    recordings: float | None


Some = Sequence[Repetition]
Ask = Callable[[Some, Some, Some], tuple[float, float | None]]  # taught, calibration, asked: windows, recordings


def people_of_3dc(folder: Path) -> Iterator[Person]:
    """The people of 3DC: eight repetitions in one wearing."""
    for person in sorted(folder.glob("Participant*"), key=lambda path: int(path.name.removeprefix("Participant"))):
        found = []
        for part, offset in (("train", 1), ("test", 5)):
            for file in sorted((person / part / "EMG").glob("*.txt")):
                *_, repetition, gesture = file.stem.split("_")
                samples = np.loadtxt(file, delimiter=",", dtype=np.float32)
                found.append(Repetition(GESTURES_3DC[int(gesture)], offset + int(repetition), samples))
        yield Person(person.name, StreamInfo("3DC", 10, 1000.0, "count"), (tuple(found),))


def people_of_myo(folder: Path) -> Iterator[Person]:
    """The people of myo-wrist: six repetitions in each of three wearings. Rest is file 0, with small movements."""
    of_person: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*-*")):
        if path.is_dir():
            of_person[path.name.rpartition("-")[0]].append(path)
    for name, sessions in of_person.items():
        wearings = tuple(tuple(_myo_repetitions(session, number)) for number, session in enumerate(sessions))
        yield Person(name, StreamInfo("Myo", 8, MYO_RATE_HZ, "count"), wearings)


def _myo_repetitions(session: Path, wearing: int) -> Iterator[Repetition]:
    lead = round(SETTLE_S * MYO_RATE_HZ)
    for number, gesture in enumerate(GESTURES_MYO):
        table = np.genfromtxt(session / f"{number}.txt", delimiter=",", invalid_raise=False)
        table = table[np.isfinite(table).all(axis=1)]
        emg, label = table[:, :8].astype(np.float32), table[:, 8]
        if number == 0:
            a_piece = round(_MYO_REST_S * MYO_RATE_HZ)
            for place in range(min(6, len(emg) // a_piece)):
                yield Repetition(gesture, place + 1, emg[place * a_piece : (place + 1) * a_piece], wearing)
            continue
        edges = np.flatnonzero(np.diff(label)) + 1
        prompts = [part for part in np.split(np.arange(len(label)), edges) if label[part[0]] == number]
        held = [round(second * MYO_RATE_HZ) for second in _MYO_HOLD_S]
        for place, part in enumerate(prompts, start=1):
            kept = emg[part[0] + held[0] - lead : min(part[-1], part[0] + held[1])]
            if len(kept) > MYO_RATE_HZ:
                yield Repetition(gesture, place, kept, wearing)


def simulated_people() -> Iterator[Person]:
    """Simulated people in two wearings of the band that the project trains for; they make sixteen gestures."""
    info = StreamInfo("simulated", CPEP_BAND.n_channels, CPEP_BAND.sample_rate_hz)
    for person in range(_SIMULATED_PEOPLE):
        wearings = []
        for wearing in range(2):
            made = [(stage.name, simulate(person, wearing, stage, _SIMULATED_S, _SEED).emg_uv) for stage in STAGES]
            wearings.append(
                tuple(
                    Repetition(name, number, part, wearing)
                    for name, emg_uv in made
                    for number, part in enumerate(np.array_split(emg_uv, _SIMULATED_REPETITIONS), start=1)
                )
            )
        yield Person(f"simulated {person}", info, tuple(wearings))


def teach(info: StreamInfo, folder: Path, base: Base | None = None) -> Ask:
    """The method that teaches a bundle and tests it with the live engine."""

    def ask(taught: Some, calibration: Some, asked: Some) -> tuple[float, float | None]:
        rest = rest_of(sorted({one.gesture for one in taught}))
        reading = design_reading(info.n_channels, info.sample_rate_hz)
        unit: Literal["uV", "count"] = "uV" if info.unit == "uV" else "count"
        write_taught(folder / "mine.cpep", fit_taught(taught, rest, reading, unit, base), taught, "benchmark")
        recogniser = Recogniser(Bundle(folder / "mine.cpep"))
        donning = donning_of(recogniser, [one.samples for one in calibration]) if calibration else None
        return live(recogniser, info, donning, asked)

    return ask


def calibrated(info: StreamInfo, opened: OpenBundle) -> Ask:
    """The method that teaches nothing; the calibration, or else the teaching recordings, give the band's placement."""

    def ask(taught: Some, calibration: Some, asked: Some) -> tuple[float, float | None]:
        donning = donning_of(opened.recogniser, [one.samples for one in calibration or taught])
        return live(opened.recogniser, info, donning, asked)

    return ask


def gestures_added(info: StreamInfo, folder: Path, opened: OpenBundle) -> Ask:
    """The method that replaces the index by those of its poses that are nearest to the person's EMG of each gesture."""

    def ask(taught: Some, calibration: Some, asked: Some) -> tuple[float, float | None]:
        recogniser, manifest = Recogniser(opened.bundle), opened.bundle.manifest
        names = manifest.gesture_names
        donning, vectors, labels = donning_of(recogniser, [one.samples for one in taught]), [], []
        for one in taught:
            with TemporaryDirectory(dir=folder) as place:
                Recordings.begin(Path(place), info, tuple(names), "Rest").add(one)
                (file,) = Path(place).iterdir()
                vectors.append(prototypes_from_session(opened, file, donning))
                labels += [names.index(one.gesture)] * len(vectors[-1])
        no_penalty = (0.0,) * len(names)
        recogniser.index = build_index(np.concatenate(vectors), np.array(labels), 0, no_penalty)
        if calibration:
            donning = donning_of(recogniser, [one.samples for one in calibration])
        return live(recogniser, info, donning, asked)

    return ask


def live(
    recogniser: Recogniser, info: StreamInfo, donning: Donning | None, asked: Sequence[Repetition]
) -> tuple[float, float]:
    """Balanced accuracy of windows and of recordings; each recording is fed to a new live engine."""
    names = recogniser.manifest.gesture_names
    windows: dict[str, list[bool]] = defaultdict(list)
    recordings: dict[str, list[bool]] = defaultdict(list)
    for one in asked:
        engine, stood = LiveEngine(recogniser, info, donning=donning), Counter[str]()
        for start in range(0, len(one.samples), _BLOCK):
            part = one.samples[start : start + _BLOCK]
            engine.ingest(Block(part, start, start / info.sample_rate_hz, 0.0))
            while (decision := engine.step(newest=False)) is not None:
                seen = engine.recognition
                answer = recogniser.manifest.decision.rest_gesture if seen is None else names[seen.vote.gesture_index]
                windows[one.gesture].append(answer == one.gesture)
                stood[decision.gesture] += 1
        if stood:
            recordings[one.gesture].append(stood.most_common(1)[0][0] == one.gesture)
    return _balanced(windows), _balanced(recordings)


def hudgins(info: StreamInfo) -> Ask:
    """The peer method: time-domain features and a linear discriminant."""

    def ask(taught: Some, calibration: Some, asked: Some) -> tuple[float, None]:
        described = [_hudgins(one.samples, info) for one in taught]
        x, label = np.concatenate(described), np.repeat([one.gesture for one in taught], [len(f) for f in described])
        mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit((x - mean) / spread, label)
        if calibration:
            heard = np.concatenate([_hudgins(one.samples, info) for one in calibration])
            mean, spread = heard.mean(axis=0), heard.std(axis=0) + 1e-9
        right: dict[str, list[bool]] = defaultdict(list)
        for one in asked:
            found = _hudgins(one.samples, info)
            if len(found):
                right[one.gesture] += (lda.predict((found - mean) / spread) == one.gesture).tolist()
        return _balanced(right), None

    return ask


def _hudgins(samples: NDArray[np.float32], info: StreamInfo) -> NDArray[np.float64]:
    n, hop = (round(seconds * info.sample_rate_hz) for seconds in _HUDGINS_S)
    low_hz = 20.0 if info.sample_rate_hz >= 400 else 15.0
    sos = signal.butter(4, low_hz, "highpass", fs=info.sample_rate_hz, output="sos")
    filtered = signal.sosfilt(sos, samples - samples[0], axis=0)[round(SETTLE_S * info.sample_rate_hz) :]
    if len(filtered) < n:
        return np.empty((0, 4 * info.n_channels))
    return features(np.lib.stride_tricks.sliding_window_view(filtered, n, axis=0)[::hop].transpose(0, 2, 1))


def _balanced(right: dict[str, list[bool]]) -> float:
    return float(np.mean([np.mean(each) for each in right.values()]))


def figures_of(data: str, person: Person, ways: dict[str, Ask]) -> Iterator[Figure]:
    """All figures of one person."""
    last = person.wearings[0]
    later = 4 if data == "3dc" else 3  # 3DC is always tested on repetitions 5 to 8, others on all that did not teach
    asked = [one for one in last if one.number > later]
    for n in (1, 2, 3):
        taught = [one for one in last if one.number <= n]
        for way, ask in ways.items():
            yield Figure(data, person.name, way, "same wearing", f"{n} of each", *ask(taught, [], asked))
    if len(person.wearings) < 2:
        return
    new = [replace(one, wearing=0) for one in person.wearings[-1]]
    calibration, asked = [one for one in new if one.number == 1], [one for one in new if one.number > 1]
    for first in range(len(person.wearings) - 2, -1, -1):
        before = [
            replace(one, wearing=n) for n, w in enumerate(person.wearings[first:-1]) for one in w if one.number <= 3
        ]
        taught_in = f"{len(person.wearings) - 1 - first} wearing, 3 of each"
        for way, ask in ways.items():
            yield Figure(data, person.name, way, "next wearing", taught_in, *ask(before, calibration, asked))


def markdown(figures: Sequence[Figure], command: str) -> str:
    """The table."""
    machine, rows = this_machine(), []
    for key in dict.fromkeys((one.data, one.protocol, one.taught, one.way) for one in figures):
        mine = [one for one in figures if (one.data, one.protocol, one.taught, one.way) == key]
        windows = _interval([one.windows for one in mine])
        told = [one.recordings for one in mine if one.recordings is not None]
        rows.append(f"| {' | '.join(key)} | {len(mine)} | {windows} | {_interval(told) if told else '-'} |")
    return "\n".join(
        (
            "# Accuracy after teaching a band",
            "",
            f"`{command}`, commit `{code_version('cpep_edge', 'benchmarks')}`, {machine.n_cpus} CPUs, {machine.cpu}.",
            "Balanced accuracy: the mean over people and its 95 % bootstrap interval. The head of the script explains",
            "the terms. Tested on: 3DC, 11 gestures, repetitions 5 to 8; myo-wrist, 8 gestures, repetitions 4 to 6 of",
            "the first wearing and 2 to 6 of the last; simulated people, 16 gestures, the last two of five parts of a",
            "recording, and all parts but the first of the next wearing.",
            "",
            "| data | tested on | taught by | method | people | windows | recordings |",
            "| --- | --- | --- | --- | --: | --: | --: |",
            *rows,
            "",
        )
    )


def _interval(values: Sequence[float]) -> str:
    rng = np.random.default_rng(0)
    means = rng.choice(values, (2000, len(values))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every person and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with 3dc and myo-wrist")
    parser.add_argument("--out", type=Path, required=True, help="folder for teaching.md and teaching.json")
    parser.add_argument("--only", default=",".join(SETS), help="sets, separated by commas")
    parser.add_argument("--people", type=int, default=100, help="of each set, at most")
    parser.add_argument("--trained", type=Path, help="bundle trained for simulated people")
    options = parser.parse_args(arguments)
    readers: dict[str, Callable[[], Iterator[Person]]] = {
        "3dc": partial(people_of_3dc, options.data / "3dc"),
        "myo-wrist": partial(people_of_myo, options.data / "myo-wrist"),
        "simulated": simulated_people,
    }
    opened = None if options.trained is None else OpenBundle.check(Bundle.open(options.trained))
    figures: list[Figure] = []
    for data in options.only.split(","):
        for _, person in zip(range(options.people), readers[data](), strict=False):
            with TemporaryDirectory() as place:
                folder = Path(place)
                ways = {"teach": teach(person.info, folder), "Hudgins and LDA": hudgins(person.info)}
                if data == "simulated" and opened is not None:
                    name, base = options.trained.name, Base(opened.bundle, opened.recogniser)
                    ways[f"teach --from {name}"] = teach(person.info, folder, base)
                    ways[f"{name}, calibrated"] = calibrated(person.info, opened)
                    ways[f"{name}, gestures add"] = gestures_added(person.info, folder, opened)
                figures += figures_of(data, person, ways)
            print(data, person.name, "of", len({one.person for one in figures if one.data == data}), flush=True)
    if not figures:
        raise CpepError(f"there is nothing of {options.only} in {options.data}")
    asked = f"--only {options.only} --people {options.people}"
    asked += "" if options.trained is None else f" --trained {options.trained.name}"
    command = f"python benchmarks/measure_teaching.py --data FOLDER --out FOLDER {asked}"
    said = {"command": command, "commit": code_version("cpep_edge", "benchmarks"), "figures": figures}
    content = {"teaching.json": to_json(said) + "\n", "teaching.md": markdown(figures, command)}
    write_reports(options.out, {name: text.encode() for name, text in content.items()})


if __name__ == "__main__":
    main()
