"""Compare simulated people with real ones: do the signals look alike, and is a gesture as hard to read?

    python benchmarks/measure_realism.py DATA --out benchmarks/results/realism [--groups N]

DATA: folder with `3dc` and `myo-wrist` in their published layouts, and optionally `ninapro-db5` and `myo-longterm`.
Simulated people wear a band with the same electrodes, rate and noise. They make the gestures of 3DC and of myo-wrist by
name (`cpep_train.stages.WRIST_AND_GRIPS`), with the same numbers of donnings and repetitions and the same hold times;
to compare with Ninapro DB5 they move finger by finger. A few people are not representative, so simulated figures are
means over groups as large as the real set, with the standard deviation over groups. The long-term set is only compared
in levels, spectra and covariances.

Balanced accuracies of a linear discriminant on 250 ms windows:
- by features: Hudgins' time-domain features, logarithms of levels (of the signal and of its difference), and levels
  with logarithms of covariance matrices in three bands (log-Euclidean: Arsigny 2006). For 3DC the last are without
  levels.
- within a person and donning: first half of the repetitions -> second half;
- next donning: donnings 1 and 2 -> donning 3, of the same person (myo-wrist);
- person left out: features are recentred on each donning's mean. People of 3DC wore their band in any orientation.
  "placed" brings the bands of those trained on to a common turn and direction by their labels, and the band of the one
  left out by likelihood.

Log-covariances of a gesture in a donning, of the high-passed signal: mean squared distances of windows from their
gesture's mean, of gestures from their donning's mean, and of the same gesture between donnings and between people; the
eigenvalues' shares; and correlations by distance round the band.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal
from scipy.io import loadmat
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score

from cpep_edge.donning import placements
from cpep_edge.errors import CpepError, DataError
from cpep_edge.files import replacing
from cpep_edge.head import fit_head
from cpep_edge.mpf import permutation
from cpep_edge.versions import git_commit
from cpep_train.hand_model import load_hand
from cpep_train.plain_head import common_placement
from cpep_train.simulation import POSE_RATE_HZ, record
from cpep_train.stages import FINGER_MOVEMENTS, WRIST_AND_GRIPS, hold
from cpep_train.volume_conductor import Electrodes
from cpep_train.wearers import RingBand, draw_donning, draw_wearer, stream

# The placement of bands is estimated from the real sets. By `common_placement` and the labels, six of the eight people
# of 3DC wore the band alike within an electrode, one a fifth of a turn off, one in the opposite direction. For donnings
# of myo-wrist the report's table has the turn.
THREE_DC = RingBand(
    10, 1_000.0, (5.0, 430.0), along_mm=-40.0, turned_rad=0.34, mirrored=0.125, noise_uv=2.4, common=0.8, offset_uv=0.0
)  # fmt: skip
MYO = RingBand(
    8, 200.0, (10.0, 90.0), Electrodes(length_mm=10.0), along_mm=-40.0, turned_rad=0.68, donned_rad=0.26, noise_uv=1.2,
    offset_uv=0.0, step_uv=0.8,
)  # fmt: skip
# Two Myos, one behind the other, as Ninapro DB5 has them.
DOUBLE_MYO = replace(MYO, n_channels=16, turned_rad=0.1, donned_rad=0.14)
MYO_GESTURES = (
    "NoMotion", "WristFlexion", "WristExtension", "RadialDeviation", "UlnarDeviation", "Pronation", "Supination",
    "PowerGrip",
)  # fmt: skip
SEEDS = (8, 9, 10, 11)  # one group of people each; the simulation was tuned on seeds 1 to 7
_Made = tuple[RingBand, tuple[str, ...], int, int, int, float]  # band, gestures, people, donnings, repetitions, seconds
WINDOW_S = 0.25
_SD = ", sd of groups"
_LEFT_OUT_STEP = 2  # only every so many-th window of the others is trained on

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """The filters and the stride for one set's signals, within the limits of its rate."""

    rate_hz: float
    stride_s: float
    high_pass_hz: float
    bands_hz: tuple[tuple[float, float], ...]
    ridge: float  # added to covariances, as a share of the mean variance


FAST = FilterSettings(1_000.0, 0.05, 20.0, ((20.0, 60.0), (60.0, 120.0), (120.0, 450.0)), 1e-3)
SLOW = FilterSettings(200.0, 0.1, 15.0, ((15.0, 40.0), (40.0, 65.0), (65.0, 95.0)), 1e-2)


@dataclass(frozen=True, slots=True)
class Hold:
    """One continuous stretch of one gesture."""

    person: str
    donning: int
    repetition: int
    gesture: int  # 0 is rest
    emg: Array  # (n_samples, n_channels)


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of a set, hold by hold."""

    person: NDArray[np.str_]
    donning: NDArray[np.int64]
    gesture: NDArray[np.int64]
    late: NDArray[np.bool_]  # whether in the second half of a donning's repetitions
    features: dict[str, NDArray[np.float32]]
    covariance: NDArray[np.float32]  # (n, n_channels, n_channels)


def cut(holds: list[Hold], settings: FilterSettings) -> Windows:
    """Cut holds into windows and compute their features."""
    last: dict[tuple[str, int, int], int] = {}
    for one in holds:
        key = (one.person, one.donning, one.gesture)
        last[key] = max(last.get(key, 0), one.repetition)
    found, rows = [], []
    for one in holds:
        parts = features(one.emg, settings)
        n = len(parts["covariance"])
        late = one.repetition > last[one.person, one.donning, one.gesture] // 2
        found.append(parts)
        rows += [(one.person, one.donning, one.gesture, late)] * n
    person, donning, gesture, is_late = zip(*rows, strict=True)
    joined = {name: np.concatenate([parts[name] for parts in found]) for name in found[0]}
    return Windows(
        np.array(person), np.array(donning), np.array(gesture), np.array(is_late), joined, joined.pop("covariance")
    )


def features(emg: Array, settings: FilterSettings) -> dict[str, NDArray[np.float32]]:
    """All features of the windows of one hold, each (n, ...)."""
    n = round(WINDOW_S * settings.rate_hz)
    starts = np.arange(0, len(emg) - n + 1, round(settings.stride_s * settings.rate_hz))

    def windows(kind: str, corners: float | tuple[float, float], order: int) -> Array:
        sos = signal.butter(order, corners, kind, fs=settings.rate_hz, output="sos")
        filtered = signal.sosfilt(sos, emg - emg[0], axis=0)
        return np.lib.stride_tricks.sliding_window_view(filtered, n, axis=0)[starts]  # (n_windows, channel, sample)

    high = windows("highpass", settings.high_pass_hz, 4)
    step = np.diff(high, axis=-1)
    crossings, turns = (np.sum(x[..., 1:] * x[..., :-1] < 0, axis=-1) for x in (high, step))
    hudgins = np.concatenate([np.abs(high).mean(axis=-1), np.abs(step).sum(axis=-1), crossings, turns], axis=1)
    levels = np.log(np.concatenate([high.std(axis=-1), step.std(axis=-1)], axis=1) + 0.1)
    logs = [log_covariance(covariance(windows("bandpass", band, 2)), settings.ridge) for band in settings.bands_hz]
    found = {"hudgins": hudgins, "levels": levels, "covariances": np.concatenate(logs, axis=1)}
    found["covariance"] = covariance(high)
    return {name: value.astype(np.float32) for name, value in found.items()}


def covariance(windows: Array) -> Array:
    """Covariances of windows (n, channels, samples) whose mean is zero, (n, channels, channels)."""
    return windows @ windows.swapaxes(1, 2) / windows.shape[-1]


def log_covariance(matrices: Array, ridge: float) -> Array:
    """Logarithms of covariance matrices as vectors whose distance is the log-Euclidean one, (n, c (c + 1) / 2)."""
    n = matrices.shape[-1]
    mean = np.trace(matrices, axis1=-2, axis2=-1)[..., None, None] / n
    values, vectors = np.linalg.eigh(matrices + (ridge * mean + 1e-6) * np.eye(n))
    logs = (vectors * np.log(values)[..., None, :]) @ vectors.swapaxes(-1, -2)
    row, column = np.triu_indices(n)
    return logs[..., row, column] * np.where(row == column, 1.0, math.sqrt(2))


def accuracies(windows: Windows, with_levels: bool) -> dict[str, dict[str, float]]:
    """Balanced accuracies, by feature and question."""
    found = {}
    sets = {"hudgins": ("hudgins",), "levels": ("levels",)}
    sets["covariances"] = ("levels", "covariances") if with_levels else ("covariances",)
    session = np.char.add(windows.person, np.char.add(" ", windows.donning.astype(str)))
    for name, parts in sets.items():
        rows = np.concatenate([windows.features[part] for part in parts], axis=1)
        for one in np.unique(session):
            mine = session == one
            rows[mine] -= rows[mine].mean(axis=0)
            if name == "hudgins":
                rows[mine] /= rows[mine].std(axis=0) + 1e-9
        read = _reader(rows, windows.gesture)
        within = [read((session == s) & ~windows.late, (session == s) & windows.late, 0.1) for s in np.unique(session)]
        people = np.unique(windows.person)
        every = np.arange(len(rows)) % _LEFT_OUT_STEP == 0
        left_out = [read((windows.person != p) & every, windows.person == p, 0.15) for p in people]
        if name == "covariances" and not with_levels:
            found_placed = placed(rows, windows.gesture, windows.person, every)
        found[name] = {"within": float(np.mean(within)), "left out": float(np.mean(left_out))}
        if name == "covariances" and not with_levels:
            found[name]["left out, placed"] = found_placed
        if windows.donning.max() >= 2:
            of = [(windows.person == p, windows.donning) for p in people]
            found[name]["next donning"] = float(np.mean([read(m & (d < 2), m & (d == 2), 0.1) for m, d in of]))
    return found


def placed(
    rows: NDArray[np.float32], gesture: NDArray[np.int64], person: NDArray[np.str_], every: NDArray[np.bool_]
) -> float:
    """Accuracy on people left out, trying all turns in both directions; rows: log-covariances of three bands."""
    n_electrodes = math.isqrt(2 * rows.shape[1] // 3)
    orders = placements(n_electrodes, n_electrodes // 2, mirrored=True)
    moves = [permutation(order, 3) for order in orders]
    read = []
    for left_out in np.unique(person):
        mine = person == left_out
        train = ~mine & every
        others, label = rows[train], gesture[train]
        session = np.unique(person[train], return_inverse=True)[1]
        for number, move in enumerate(common_placement(others, label, session, moves)):
            others[session == number] = others[session == number][:, moves[move]]
        head = fit_head(others, label)
        fits = [head.fit_of(rows[mine][::3][:, move]) for move in moves]
        turned = rows[mine][:, moves[int(np.argmax(fits))]]
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.15).fit(others, label)
        read.append(balanced_accuracy_score(gesture[mine], lda.predict(turned)))
    return float(np.mean(read))


def _reader(
    rows: NDArray[np.float32], gesture: NDArray[np.int64]
) -> Callable[[NDArray[np.bool_], NDArray[np.bool_], float], float]:
    def read(train: NDArray[np.bool_], test: NDArray[np.bool_], shrinkage: float) -> float:
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(rows[train], gesture[train])
        return float(balanced_accuracy_score(gesture[test], lda.predict(rows[test])))

    return read


def structure(windows: Windows) -> dict[str, float]:
    """Levels and covariances of a set."""
    keys = sorted(set(zip(windows.person.tolist(), windows.donning.tolist(), windows.gesture.tolist(), strict=True)))
    mean, log_mean, scatter, level_scatter = {}, {}, [], []
    for person, donning, gesture in keys:
        mine = (windows.person == person) & (windows.donning == donning) & (windows.gesture == gesture)
        matrices = windows.covariance[mine].astype(np.float64)
        logs = log_covariance(matrices, 1e-2)
        mean[person, donning, gesture], log_mean[person, donning, gesture] = matrices.mean(axis=0), logs.mean(axis=0)
        scatter.append(np.mean(np.sum((logs - logs.mean(axis=0)) ** 2, axis=1)))
        levels = np.log(np.diagonal(matrices, axis1=1, axis2=2) + 1e-12) / 2
        if gesture:
            level_scatter.append(levels.std(axis=0).mean())
    rms = {key: np.sqrt(np.diag(matrix)) for key, matrix in mean.items()}
    rest = [rms[key[:2] + (0,)] if key[:2] + (0,) in rms else np.nan for key in keys]
    ratio = np.array([rms[key] / quiet for key, quiet in zip(keys, rest, strict=True) if key[2]])
    donnings = sorted({key[:2] for key in keys})
    centre = {d: np.mean([log_mean[k] for k in keys if k[:2] == d], axis=0) for d in donnings}
    pattern = {key: log_mean[key] - centre[key[:2]] for key in keys}
    common = {g: np.mean([pattern[k] for k in keys if k[2] == g], axis=0) for g in {k[2] for k in keys}}
    active = [mean[key] for key in keys if key[2]]
    correlation = [matrix / np.sqrt(np.outer(np.diag(matrix), np.diag(matrix))) for matrix in active]
    n = len(active[0])
    overall = np.mean(list(centre.values()), axis=0)
    shares = np.mean([np.sort(np.linalg.eigvalsh(m))[::-1] / np.trace(m) for m in active], axis=0)
    found = {
        "active over rest, RMS, 5 %": float(np.nanpercentile(ratio, 5)),
        "active over rest, RMS, median": float(np.nanmedian(ratio)),
        "active over rest, RMS, 95 %": float(np.nanpercentile(ratio, 95)),
        "log level, sd over windows of a gesture": float(np.mean(level_scatter)),
        "log level, sd over channels": float(np.mean([np.log(rms[k] + 1e-9).std() for k in keys if k[2]])),
        "log covariance: windows about their gesture": float(np.mean(scatter)),
        "log covariance: gestures about their donning": _mean_square(list(pattern.values())),
        "log covariance: of that, common to people": _mean_square([common[k[2]] for k in keys]),
        "log covariance: donnings about all": _mean_square([c - overall for c in centre.values()]),
    }
    twins = [
        (pattern[k] - pattern[k[0], other, k[2]]) / math.sqrt(2)
        for k in keys
        for other in range(k[1])
        if (k[0], other, k[2]) in pattern
    ]
    if twins:
        found["log covariance: a gesture from donning to donning"] = _mean_square(twins)
        level = {k: np.log(rms[k] + 1e-9) for k in keys}
        turns = [_turn_deg(level, d, (d[0], other)) for d in donnings for other in range(d[1])]
        found["turn from donning to donning, RMS, degrees"] = math.sqrt(np.mean(np.square(turns)))
    for step in range(1, n // 2 + 1):
        turned = [[abs(c[i, (i + step) % n]) for i in range(n)] for c in correlation]
        found[f"correlation {step} apart, size"] = float(np.mean(turned))
    for place in range(min(n, 6)):
        found[f"eigenvalue {place + 1}, share"] = float(shares[place])
    return found


def _turn_deg(level: dict[tuple[str, int, int], Array], a: tuple[str, int], b: tuple[str, int]) -> float:
    """The turn of the band, unsigned, at which the levels of all gestures in two donnings are most alike."""
    both = [gesture for *donning, gesture in level if tuple(donning) == a and (*b, gesture) in level]
    one, other = (np.array([level[*donning, gesture] for gesture in both]) for donning in (a, b))
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    n = one.shape[1]
    turns = np.arange(-n / 4, n / 4, 0.1)  # in electrodes
    waves = np.fft.fft(one, axis=1)
    phases = np.exp(-2j * np.pi * np.fft.fftfreq(n) * turns[:, None])  # a turn in space is a phase of each wave
    turned = np.fft.ifft(waves * phases[:, None], axis=2).real
    return float(abs(turns[np.argmin(np.sum((turned - other) ** 2, axis=(1, 2)))]) * 360 / n)


def _mean_square(vectors: list[Array]) -> float:
    return float(np.mean([np.sum(vector**2) for vector in vectors]))


def spectrum(holds: list[Hold], settings: FilterSettings) -> dict[str, float]:
    """Median frequencies of active, high-passed signals."""
    sos = signal.butter(4, settings.high_pass_hz, "highpass", fs=settings.rate_hz, output="sos")
    found = []
    n = round(0.5 * settings.rate_hz)
    for one in holds:
        if one.gesture and len(one.emg) >= 2 * n:
            hz, power = signal.welch(
                signal.sosfilt(sos, one.emg, axis=0)[n // 2 :], settings.rate_hz, nperseg=n, axis=0
            )
            found.append(hz[np.sum(np.cumsum(power, axis=0) / power.sum(axis=0) < 0.5, axis=0)])
    low, middle, high = np.percentile(np.concatenate(found), [5, 50, 95])
    return {"median frequency, 5 %, Hz": low, "median frequency, Hz": middle, "median frequency, 95 %, Hz": high}


def real_3dc(folder: Path) -> Iterator[Hold]:
    """The 3DC recordings; repetitions 0-3 are those of the first session."""
    for path in sorted(folder.glob("Participant*/*/EMG/3dc_EMG_gesture_*_*.txt")):
        repetition, gesture = map(int, path.stem.rsplit("_", 2)[1:])
        late = 4 if path.parts[-3] == "test" else 0
        yield Hold(path.parts[-4], 0, repetition + late + 1, gesture, np.loadtxt(path, delimiter=","))


def real_myo(folder: Path) -> Iterator[Hold]:
    """The myo-wrist recordings; a hold is a prompt without its first half second."""
    donnings: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*-*")):
        donnings.setdefault(path.name.split("-")[0], []).append(path)
    for person, paths in donnings.items():
        for donning, path in enumerate(paths):
            for gesture in range(len(MYO_GESTURES)):
                lines = (line.split(",") for line in (path / f"{gesture}.txt").read_text().splitlines())
                rows = np.array([line for line in lines if len(line) == 9], dtype=float)
                changes = np.flatnonzero(np.diff(rows[:, 8])) + 1
                if not gesture:  # rest is one minute without prompts
                    changes = np.arange(1_000, len(rows), 1_000)
                for repetition, block in enumerate(np.split(rows, changes), start=1):
                    if block[0, 8] == gesture and len(block) > 300:
                        yield Hold(person, donning, repetition, gesture, block[100:, :8])


def real_db5(folder: Path) -> Iterator[Hold]:
    """Ninapro DB5, exercise 1."""
    for path in sorted(folder.glob("S*_E1_A1.mat")):
        content = loadmat(path)
        emg, gesture = content["emg"].astype(float), content["restimulus"].ravel().astype(int)
        changes = np.flatnonzero(np.diff(gesture)) + 1
        counts: dict[int, int] = {}
        for block in np.split(np.arange(min(len(emg), len(gesture))), changes):
            number = int(gesture[block[0]])
            counts[number] = counts.get(number, 0) + 1
            if len(block) > 300:
                yield Hold(path.stem, 0, counts[number], number, emg[block[100:]])


def real_longterm(folder: Path) -> Iterator[Hold]:
    """The long-term set: each day is a donning, each trial lasts 1.5 s."""
    for path in sorted(folder.glob("sub*/day*/D*M*T*.csv")):
        day, rest = path.stem[1:].split("M")
        motion, trial = rest.split("T")
        emg = 100 * np.loadtxt(path, delimiter=",")[:, :8]
        yield Hold(path.parts[-3], int(day) - 1, int(trial), int(motion) - 1, emg)


def simulated(
    seed: int,
    band: RingBand,
    gestures: tuple[str, ...],
    n_people: int,
    n_donnings: int,
    n_repetitions: int,
    seconds: float,
) -> Iterator[Hold]:
    """Simulated people who hold gestures like the real ones."""
    stages = {stage.name: stage for stage in (*WRIST_AND_GRIPS, *FINGER_MOVEMENTS)}
    hand = load_hand()
    for person in range(n_people):
        wearer = draw_wearer(seed, person, band.electrodes)
        for donning in range(n_donnings):
            worn = draw_donning(wearer, seed, person, donning, band)
            for repetition in range(1, n_repetitions + 1):
                for gesture, name in enumerate(gestures):
                    rng = stream(seed, person, donning, 1_000 + 20 * repetition + gesture)
                    n_poses = math.ceil((seconds + 0.5) * POSE_RATE_HZ) + 1
                    motion = hold(stages[name], wearer.style, hand, n_poses, POSE_RATE_HZ, rng)
                    emg_uv = record(worn, motion, seconds + 0.5, rng).emg_uv[round(0.5 * band.sample_rate_hz) :]
                    yield Hold(str(person), donning, repetition, gesture, emg_uv / (band.step_uv or 1.0))


def measure(holds: Iterator[Hold], settings: FilterSettings, *, read: bool = True) -> dict[str, float]:
    """All figures of a set."""
    kept = list(holds)
    if not kept:
        raise DataError("one of the sets is empty: is the folder of the data right?")
    windows = cut(kept, settings)
    found = {"people": float(len({hold.person for hold in kept})), "channels": float(kept[0].emg.shape[1])}
    if read:
        for name, by_question in accuracies(windows, with_levels=settings is SLOW).items():
            found |= {f"{name}, {question}": accuracy for question, accuracy in by_question.items()}
    return found | spectrum(kept, settings) | structure(windows)


def group_mean(groups: list[dict[str, float]]) -> dict[str, float]:
    """The mean over groups of simulated people; for accuracies also the standard deviation over groups."""
    found = {name: float(np.mean([group[name] for group in groups])) for name in groups[0]}
    read = [name for name in found if name.startswith(("hudgins", "levels", "covariances"))]
    return found | {name + _SD: float(np.std([g[name] for g in groups])) for name in read}


def markdown(columns: dict[str, dict[str, float]]) -> str:
    """The comparison as a table, one column a set."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column if not name.endswith(_SD)))
    lines = [
        "# Simulated and real people",
        "",
        f"`python benchmarks/measure_realism.py DATA`, commit {git_commit()[:12]}; its head explains the figures.",
        "The constants of the simulation were chosen by hand to match all people of 3DC, myo-wrist and Ninapro DB5,",
        "with simulated people of other seeds. The simulated people of this table were evaluated once. After the",
        "accuracy of simulated people comes its standard deviation over groups of as many people.",
        "",
        "| | " + " | ".join(columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for name in names:
        cells = (_cell(column, name) for column in columns.values())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(column: dict[str, float], name: str) -> str:
    differ = f" ± {column[name + _SD]:.2f}" if name + _SD in column else ""
    return f"{column[name]:.3g}{differ}" if name in column else ""


def main() -> int:
    """Compare, and write the table and the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with 3dc, myo-wrist, ninapro-db5, myo-longterm")
    parser.add_argument("--out", type=Path, required=True, help="results without their suffixes: .md and .json follow")
    parser.add_argument("--groups", type=int, default=3, help="of simulated people; 1 to 4")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    gestures = tuple(stage.name for stage in WRIST_AND_GRIPS)
    fingers = tuple(stage.name for stage in FINGER_MOVEMENTS)
    sets: dict[str, tuple[Callable[[Path], Iterator[Hold]], FilterSettings, _Made]] = {
        "3dc": (real_3dc, FAST, (THREE_DC, gestures, 8, 1, 8, 3.0)),
        "myo-wrist": (real_myo, SLOW, (MYO, MYO_GESTURES, 24, 3, 6, 2.5)),
        "ninapro-db5": (real_db5, SLOW, (DOUBLE_MYO, fingers, 5, 1, 6, 2.5)),
    }
    columns = {}
    for name, (real, settings, made) in sets.items():
        columns[name] = measure(real(options.data / name), settings)
        columns[f"simulated {name}"] = group_mean(
            [measure(simulated(seed, *made), settings) for seed in SEEDS[: options.groups]]
        )
    if (options.data / "myo-longterm").is_dir():
        columns["myo-longterm"] = measure(real_longterm(options.data / "myo-longterm"), SLOW, read=False)
    for suffix, text in ((".md", markdown(columns)), (".json", json.dumps(columns, indent=1) + "\n")):
        with replacing(options.out.with_suffix(suffix)) as file:
            file.write_text(text, encoding="utf-8")
    sys.stdout.write(markdown(columns))
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except CpepError as error:
        raise SystemExit(f"error: {error}") from None
