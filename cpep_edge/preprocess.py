"""Turn raw microvolts into the encoder's input: a causal filter, then one fixed scale per channel.

The same code runs in training, at export and live, and its coefficients are part of the bundle. The filter keeps its
state from block to block, so that the output does not depend on how the signal is cut. The scale is the corpus' RMS, or
each channel's level in a short calibration of the session (`cpep_edge.calibration`). Windows are never normalised one
by one, because rest would then look like effort.

The filter is recursive, so a single NaN would spoil its output for ever. A sample that is NaN, or larger than any
electrode can give, is therefore replaced by its channel's last good value.

The C library in a bundle (`cpep_edge.native_encoder`) and scipy filter with equal results; scipy serves bundles without
a library. It is imported only where it is used, because its filters take more time and memory to import than everything
else that a device loads at start.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Takes sections (n, 6), samples (n_samples, n_channels) and state (n, 2, n_channels); returns filtered samples and the
# next state.
SosFilter = Callable[
    [NDArray[np.float64], NDArray[np.float32], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]
]


LARGEST_UV = 1e7  # 10 V; the usual filter has settled a quarter of a second after a step of that size


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Everything that decides how samples become encoder input; stored in checkpoints and bundles."""

    sample_rate_hz: float
    sos: tuple[tuple[float, ...], ...]  # second-order sections as scipy writes them: b0 b1 b2 a0 a1 a2
    scale_uv: float  # the training corpus' RMS; it divides the filtered signal of a session without calibration
    clip: float  # the scaled signal is limited to -clip..clip


def design_filter(
    sample_rate_hz: float, high_pass_hz: float, notch_hz: float | None = None, order: int = 4
) -> tuple[tuple[float, ...], ...]:
    """Second-order sections of a Butterworth high-pass and, if asked for, a notch of quality 30.

    emg2pose was published with a 40 Hz high-pass, which removes motion artefacts and electrode drift.
    Raises ValueError when a corner frequency is not below half the sample rate.
    """
    from scipy import signal

    for corner_hz in (high_pass_hz, notch_hz):
        if corner_hz is not None and not 0 < corner_hz < sample_rate_hz / 2:
            raise ValueError(f"a corner of {corner_hz:g} Hz does not lie below half of {sample_rate_hz:g} Hz")
    sections = [signal.butter(order, high_pass_hz, "highpass", fs=sample_rate_hz, output="sos")]
    if notch_hz is not None:
        sections.append(signal.tf2sos(*signal.iirnotch(notch_hz, 30.0, fs=sample_rate_hz)))
    return tuple(tuple(float(value) for value in row) for row in np.concatenate(sections))


class Preprocessor:
    """The filter and scale of one stream, with the filter's state."""

    def __init__(
        self,
        spec: Preprocessing,
        n_channels: int,
        level_uv: NDArray[np.float32] | None = None,
        sosfilt: SosFilter | None = None,
    ) -> None:
        """level_uv: (n_channels,), from a calibration; each channel is divided by it instead of `scale_uv`
        sosfilt: the filter function; None: that of scipy
        """
        self.spec = spec
        self._scale_uv = spec.scale_uv if level_uv is None else level_uv.astype(np.float64)
        self.n_channels = n_channels
        self._sos = np.array(spec.sos, dtype=np.float64)
        self._rest = steady_state(self._sos)[:, :, None]
        self._sosfilt = sosfilt or scipy_sosfilt
        self._state: NDArray[np.float64] | None = None
        self._last_uv = np.zeros(n_channels, np.float32)  # last good values

    def reset(self) -> None:
        """Start anew, as if the signal had always been at the next sample's level: a DC offset then makes no step."""
        self._state = None
        self._last_uv = np.zeros(self.n_channels, np.float32)

    def __call__(self, samples_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """Filter and scale the next samples of the stream.

        samples_uv: (n_samples, n_channels), n_samples >= 1
        returns: (n_samples, n_channels) float32, in units of the scale
        """
        if not (np.abs(samples_uv) <= LARGEST_UV).all():  # not `> LARGEST_UV`: any comparison with NaN is false
            samples_uv = self._held(samples_uv)
        self._last_uv = samples_uv[-1]
        if self._state is None:
            self._state = self._rest * samples_uv[0].astype(np.float64)
        filtered, self._state = self._sosfilt(self._sos, samples_uv, self._state)
        scaled = np.clip(filtered / self._scale_uv, -self.spec.clip, self.spec.clip)
        return scaled.astype(np.float32)

    def _held(self, samples_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """The samples, with each bad value replaced by its channel's last good value before it."""
        known = np.concatenate([self._last_uv[None], samples_uv])
        good = np.abs(known) <= LARGEST_UV
        newest_good = np.maximum.accumulate(np.where(good, np.arange(len(known))[:, None], 0), axis=0)
        held: NDArray[np.float32] = np.take_along_axis(known, newest_good, axis=0)[1:]
        return held


def steady_state(sos: NDArray[np.float64]) -> NDArray[np.float64]:
    """The steady state of second-order sections, (n, 6), under a constant input of one, (n, 2).

    In transposed direct form II, a section with constant input x has the output g x, which is the next section's input,
    with g = (b0 + b1 + b2) / (1 + a1 + a2). Its second state is (b2 - a2 g) x, and its first is that plus
    (b1 - a1 g) x.
    """
    state, level = np.empty((len(sos), 2)), 1.0
    for section, (b0, b1, b2, _, a1, a2) in enumerate(sos):
        gain = (b0 + b1 + b2) / (1 + a1 + a2)
        second = b2 - a2 * gain
        state[section] = level * (b1 - a1 * gain + second), level * second
        level *= gain
    return state


def scipy_sosfilt(
    sos: NDArray[np.float64], samples: NDArray[np.float32], state: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Filter the next samples with second-order sections; see `SosFilter`."""
    from scipy.signal import sosfilt

    filtered, state = sosfilt(sos, samples, axis=0, zi=state)
    return filtered, state
