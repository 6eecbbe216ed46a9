"""Compare simulated people with real ones: is a gesture as hard to read, and does the signal look the same?

    python -m cpep_train.realism --data DIR [--real DIR] [--out DIR]

Hudgins' time-domain features (Hudgins et al. 1993, as LibEMG defines them: mean absolute value, zero crossings and
slope sign changes without threshold, waveform length) and a plain linear discriminant, as in LibEMG. Two questions:
- Same person: trained on the first half of what a person did in one donning, tested on the second half. In the 3DC
  recordings these are repetitions 1-4 and 5-8 of one session; in a simulated recording the two halves of its time.
- Person left out: trained on all other people, tested on this one.

Both sides have 11 classes and as many people as the real set (8): rest and ten gestures, each held again and again. The
real set's ten are six of the wrist and forearm and four grips; the simulated ten are the seen stages of one gesture.
A band of 10 of the 16 simulated electrodes at 1 kHz stands beside the whole band, as the real band has 10 at 1 kHz.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score

from cpep_edge.checkout import code_version
from cpep_edge.errors import CpepError, DataError
from cpep_edge.files import replacing
from cpep_edge.session import Session
from cpep_train.stages import STAGES

GESTURES = tuple(stage.name for stage in STAGES if not stage.held_out and not stage.is_chain)
N_PEOPLE = 8
WINDOWS_S = ((0.25, 0.05), (2.0, 0.25))  # length and stride
REAL_RATE_HZ = 1_000.0
_HIGH_PASS_HZ = 20.0
_BAND_HZ = (20.0, 450.0)
_Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Trial:
    """A stretch of one gesture by one person."""

    person: str
    gesture: int  # 0 is rest
    second_half: bool
    emg: NDArray[np.float64]  # (n_samples, n_channels), no high-pass yet
    sample_rate_hz: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What is compared; accuracies are balanced and averaged over people."""

    people: int
    channels: int
    same_person_250ms: float
    same_person_2s: float
    left_out_250ms: float
    left_out_2s: float
    power_share_20_450hz: float  # of the power from 2 Hz up, mean over gestures, people and channels
    median_frequency_hz: float  # of the high-passed signal, median
    median_frequency_5th_hz: float
    median_frequency_95th_hz: float
    active_to_rest: float  # RMS, median over gestures, people and channels
    active_to_rest_5th: float
    active_to_rest_95th: float


def measure(trials: list[Trial]) -> Figures:
    """All figures of one set of people."""
    same, left_out = [], []
    for length_s, stride_s in WINDOWS_S:
        windows = FeatureWindows.cut(trials, length_s, stride_s)
        same.append(_mean(windows.same_person()))
        left_out.append(_mean(windows.left_out()))
    share, median_hz, ratio = _signal_figures(trials)
    return Figures(
        len({trial.person for trial in trials}), trials[0].emg.shape[1], same[0], same[1], left_out[0], left_out[1],
        float(np.mean(share)), *_quantiles(median_hz), *_quantiles(ratio),
    )  # fmt: skip


def features(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hudgins' features: MAV, ZC, SSC, WL of every channel.

    windows: (n_windows, n_samples, n_channels)
    returns: (n_windows, 4 * n_channels)
    """
    step = np.diff(windows, axis=1)
    zero_crossings = np.sum(np.abs(np.diff(np.sign(windows), axis=1)) == 2, axis=1)
    slope_changes = np.sum(-step[:, :-1] * step[:, 1:] >= 0, axis=1)
    length = np.sum(np.abs(step), axis=1)
    return np.concatenate([np.mean(np.abs(windows), axis=1), zero_crossings, slope_changes, length], axis=1)


def real_trials(folder: Path) -> list[Trial]:
    """The 3DC recordings in their published layout; each file is one repetition of one gesture.

    Raises DataError when there are none.
    """
    trials = []
    for path in sorted(folder.glob("Participant*/*/EMG/3dc_EMG_gesture_*_*.txt")):
        gesture = int(path.stem.rsplit("_", 1)[1])
        emg = np.loadtxt(path, delimiter=",")
        trials.append(Trial(path.parts[-4], gesture, path.parts[-3] == "test", emg, REAL_RATE_HZ))
    if len({trial.person for trial in trials}) < 2:
        raise DataError(f"{folder}: fewer than two people of the 3DC set are here, as Participant1, ...")
    return trials


def simulated_trials(folder: Path) -> list[Trial]:
    """The first donning of the first eight simulated people; each recording is cut into two halves.

    Raises DataError when a recording is missing.
    """
    donnings = sorted(path.name[: -len(f"-{GESTURES[0]}.hdf5")] for path in folder.glob(f"*-d0-{GESTURES[0]}.hdf5"))
    if len(donnings) < 2:
        raise DataError(f"{folder}: fewer than two simulated people found, make some with cpep-edge data synth")
    trials: list[Trial] = []
    for donning, (gesture, name) in product(donnings[:N_PEOPLE], enumerate(GESTURES)):
        with Session(folder / f"{donning}-{name}.hdf5") as session:
            emg = session.emg().astype(np.float64)
            trials += halves(donning, gesture, emg, session.meta.sample_rate)
    return trials


def halves(person: str, gesture: int, emg: NDArray[np.float64], sample_rate_hz: float) -> list[Trial]:
    """One recording as two trials."""
    middle = len(emg) // 2
    return [
        Trial(person, gesture, False, emg[:middle], sample_rate_hz),
        Trial(person, gesture, True, emg[middle:], sample_rate_hz),
    ]


def narrowed(trials: list[Trial], n_channels: int = 10) -> list[Trial]:
    """The same trials from every second sample of evenly chosen electrodes, as a smaller band would see them."""
    chosen = np.round(np.arange(n_channels) * trials[0].emg.shape[1] / n_channels).astype(int)
    return [
        Trial(t.person, t.gesture, t.second_half, signal.decimate(t.emg[:, chosen], 2, axis=0), t.sample_rate_hz / 2)
        for t in trials
    ]


@dataclass(frozen=True, slots=True)
class FeatureWindows:
    """The windows of a set of people, as features, and how well a linear discriminant reads each person's."""

    features: NDArray[np.float64]  # (n, 4 * n_channels)
    gesture: NDArray[np.int64]  # (n,)
    person: NDArray[np.str_]  # (n,)
    second_half: NDArray[np.bool_]  # (n,)

    @classmethod
    def cut(cls, trials: Iterable[Trial], length_s: float, stride_s: float) -> "FeatureWindows":
        """Cut trials into windows from their first sample on; a trial shorter than a window has none."""
        parts = [(trial, _trial_features(trial, length_s, stride_s)) for trial in trials]
        counts = [len(rows) for _, rows in parts]
        return cls(
            np.concatenate([rows for _, rows in parts if len(rows)]),
            np.repeat([trial.gesture for trial, _ in parts], counts),
            np.repeat([trial.person for trial, _ in parts], counts),
            np.repeat([trial.second_half for trial, _ in parts], counts),
        )

    def same_person(self) -> dict[str, float]:
        """Balanced accuracy on a person's second half, trained on the first."""
        return self._accuracies(lambda mine: (mine & ~self.second_half, mine & self.second_half))

    def left_out(self) -> dict[str, float]:
        """Balanced accuracy on a person, trained on all others."""
        return self._accuracies(lambda mine: (~mine, mine))

    def _accuracies(self, parts: "Callable[[_Mask], tuple[_Mask, _Mask]]") -> dict[str, float]:
        scores = {}
        for person in np.unique(self.person).tolist():
            train, test = parts(self.person == person)
            lda = LinearDiscriminantAnalysis().fit(self.features[train], self.gesture[train])
            scores[person] = float(balanced_accuracy_score(self.gesture[test], lda.predict(self.features[test])))
        return scores


def _mean(by_person: dict[str, float]) -> float:
    return float(np.mean(list(by_person.values())))


def _trial_features(trial: Trial, length_s: float, stride_s: float) -> NDArray[np.float64]:
    n_samples, stride = round(length_s * trial.sample_rate_hz), round(stride_s * trial.sample_rate_hz)
    if len(trial.emg) < n_samples:
        return np.empty((0, 4 * trial.emg.shape[1]))
    windows = np.lib.stride_tricks.sliding_window_view(_high_passed(trial), n_samples, axis=0)[::stride]
    return features(windows.transpose(0, 2, 1))


def _high_passed(trial: Trial) -> NDArray[np.float64]:
    sos = signal.butter(4, _HIGH_PASS_HZ, "highpass", fs=trial.sample_rate_hz, output="sos")
    filtered: NDArray[np.float64] = signal.sosfilt(sos, trial.emg - trial.emg[0], axis=0)
    return filtered


def _signal_figures(trials: list[Trial]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of active trials: power share in the band, median frequency, RMS over the person's RMS at rest; all flat."""
    rest = {
        person: np.mean([_rms(t) for t in trials if t.person == person and t.gesture == 0], axis=0)
        for person in {trial.person for trial in trials}
    }
    active = [trial for trial in trials if trial.gesture != 0]
    share, median_hz = zip(*(_spectrum(trial) for trial in active), strict=True)
    ratio = [_rms(trial) / rest[trial.person] for trial in active]
    return np.concatenate(share), np.concatenate(median_hz), np.concatenate(ratio)


def _spectrum(trial: Trial) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of the raw power in the band and median frequency of the high-passed signal, each (n_channels,)."""
    n_fft = min(len(trial.emg), round(0.512 * trial.sample_rate_hz))
    hz, raw = signal.welch(trial.emg - trial.emg.mean(axis=0), trial.sample_rate_hz, nperseg=n_fft, axis=0)
    in_band = (hz >= _BAND_HZ[0]) & (hz <= _BAND_HZ[1])
    _, power = signal.welch(_high_passed(trial), trial.sample_rate_hz, nperseg=n_fft, axis=0)
    below = np.cumsum(power, axis=0) / power.sum(axis=0) < 0.5
    return raw[in_band].sum(axis=0) / raw[hz > 1.9].sum(axis=0), hz[below.sum(axis=0)]


def _rms(trial: Trial) -> NDArray[np.float64]:
    settled = _high_passed(trial)[round(0.1 * trial.sample_rate_hz) :]
    rms: NDArray[np.float64] = np.sqrt(np.mean(settled**2, axis=0))
    return rms


def _quantiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    middle, low, high = np.percentile(values, [50, 5, 95])
    return float(middle), float(low), float(high)


def report(columns: dict[str, Figures]) -> str:
    """The comparison as a Markdown table, one column a set of people."""
    lines = [
        "# Simulated people beside real ones",
        "",
        "Made by `cpep-edge data synth DIR --users 8 --sessions-per-user 1 --seconds 40 --seed 1` and",
        f"`python -m cpep_train.realism --data DIR --real 3DC`, commit {code_version('train/cpep_train')}; the",
        "docstring of `cpep_train.realism` says what is measured and how the two protocols match. Accuracies are",
        "balanced, over 11 classes, and averaged over people.",
        "The simulation's constants were chosen so that the whole band of 16 electrodes meets the real figures; a band",
        "of 10 electrodes on the same simulated people is harder to read than the real band of 10. The gestures are",
        "not the same: the real ones are mostly of the wrist and forearm, the simulated ones of the fingers.",
        "",
        "| | " + " | ".join(columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for name in Figures.__dataclass_fields__:
        cells = (getattr(figures, name) for figures in columns.values())
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(_cell(value) for value in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"


def main() -> int:
    """Compare and write realism.md and realism.json."""
    parser = argparse.ArgumentParser(prog="python -m cpep_train.realism", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a simulated corpus, 40 s a recording, 8 users")
    parser.add_argument("--real", type=Path, help="the 3DC recordings; left out of the table when absent")
    parser.add_argument("--out", type=Path, default=Path("train/results"), help="where the table goes")
    options = parser.parse_args()
    columns = {}
    if options.real is not None:
        columns["real, 3DC"] = measure(real_trials(options.real))
    simulated = simulated_trials(options.data)
    columns["simulated"] = measure(simulated)
    columns["simulated, 10 electrodes at 1 kHz"] = measure(narrowed(simulated))
    _write(options.out / "realism.md", report(columns))
    _write(
        options.out / "realism.json", json.dumps({name: asdict(column) for name, column in columns.items()}, indent=2)
    )
    sys.stdout.write(report(columns))
    return 0


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text + ("" if text.endswith("\n") else "\n"))


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except CpepError as error:
        raise SystemExit(f"error: {error}") from None
