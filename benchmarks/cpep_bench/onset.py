"""Find the onset of EMG of a prompted gesture.

A prompt comes a second or more before the movement, or after it when the wearer anticipates it. So the delay of a
decision must be measured from an onset in the signal. The onset is found in the Teager-Kaiser energy, x(t)^2 - x(t - 1)
x(t + 1), which rises with amplitude and frequency and sharpens onsets (Li et al. 2007, Clinical Neurophysiology 118),
with a double threshold (Bonato et al. 1998, IEEE Trans. Biomed. Eng. 45): the energy exceeds a level above rest, and
stays above it for most of the following time, so that a short twitch does not count.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import signal

SMOOTHED_S = 0.05
BASELINE_S = 1.0  # length of the baseline: the quietest part of the rest before the prompt
REST_S = 3.5
ABOVE = 5.0  # threshold, in standard deviations above the baseline's mean
KEPT_S, KEPT_SHARE = 0.25, 0.8  # after an onset, so large a share of so many seconds is above the threshold
EARLIEST_S, LATEST_S = -2.0, 3.0  # relative to the prompt; some people of myo-wrist anticipate it by 1.4 s
_LOW_HZ = 20.0


def energy(emg: NDArray[np.float32], rate_hz: float) -> NDArray[np.float64]:
    """The smoothed Teager-Kaiser energy, mean over channels, (n,)."""
    x = signal.sosfilt(signal.butter(4, _LOW_HZ, "highpass", fs=rate_hz, output="sos"), emg - emg[0], axis=0)
    psi = np.zeros(len(x))
    psi[1:-1] = np.abs(x[1:-1] ** 2 - x[:-2] * x[2:]).mean(axis=1)
    n = max(1, round(SMOOTHED_S * rate_hz))
    return np.convolve(psi, np.ones(n) / n, "same")


def onset(psi: NDArray[np.float64], prompt: int, rate_hz: float) -> int | None:
    """The sample of the onset near a prompt; None when it cannot be found.

    psi: `energy` of a recording with more than a second of rest before the prompt
    """
    quiet = psi[max(0, prompt - round(REST_S * rate_hz)) : prompt - round(0.2 * rate_hz)]
    n = round(BASELINE_S * rate_hz)
    if len(quiet) <= n:
        return None
    first = int(np.argmin(np.convolve(quiet, np.ones(n), "valid")))
    baseline, kept = quiet[first : first + n], round(KEPT_S * rate_hz)
    start, end = max(0, prompt + round(EARLIEST_S * rate_hz)), prompt + round(LATEST_S * rate_hz)
    above = psi[start : end + kept] > baseline.mean() + ABOVE * baseline.std()
    behind = np.convolve(above, np.ones(kept))[kept - 1 :]
    found = np.flatnonzero(above & (behind[: len(above)] >= KEPT_SHARE * kept))
    if not len(found) or found[0] >= end - start or found[0] <= 1:  # never, too late, or active all the time
        return None
    return start + int(found[0])
