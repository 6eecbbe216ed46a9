"""Hudgins' time-domain features with a plain linear discriminant, as a baseline on real and simulated EMG.

The features are as LibEMG defines them (Hudgins et al. 1993: mean absolute value, zero crossings and slope sign changes
without threshold, waveform length). Two tests:
- Same person: trained on the first half of what a person did, tested on the second half (3DC: repetitions 1-4, 5-8).
- Person left out: trained on all other people, tested on this one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score

from cpep_edge.errors import DataError

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
    """The figures to compare; accuracies are balanced and averaged over people."""

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


@dataclass(frozen=True, slots=True)
class FeatureWindows:
    """The features of a set of people's windows, and how well a linear discriminant classifies them."""

    features: NDArray[np.float64]  # (n, 4 * n_channels)
    gesture: NDArray[np.int64]  # (n,)
    person: NDArray[np.str_]  # (n,)
    second_half: NDArray[np.bool_]  # (n,)

    @classmethod
    def cut(cls, trials: Iterable[Trial], length_s: float, stride_s: float) -> "FeatureWindows":
        """Cut trials into windows from their first sample; a trial shorter than a window gives none."""
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
    """Power share in the band, median frequency, and RMS relative to rest, of active trials, each flattened."""
    rest = {
        person: np.mean([_rms(t) for t in trials if t.person == person and t.gesture == 0], axis=0)
        for person in {trial.person for trial in trials}
    }
    active = [trial for trial in trials if trial.gesture != 0]
    share, median_hz = zip(*(_spectrum(trial) for trial in active), strict=True)
    ratio = [_rms(trial) / rest[trial.person] for trial in active]
    return np.concatenate(share), np.concatenate(median_hz), np.concatenate(ratio)


def _spectrum(trial: Trial) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of the raw power in the band, and median frequency of the high-passed signal, each (n_channels,)."""
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
