"""Turn raw microvolts into what the encoder sees: causal filter, then one fixed scale a channel.

The same code runs in training, in export and live, and its coefficients travel in the bundle. The filter carries its
state from block to block, so that the output does not depend on how the signal was cut. The scale is the corpus' RMS,
or each channel's level in a short calibration of the session (`cpep_edge.calibration`); windows are never normalised
one by one, because rest would then look like effort.

Two filters give the same numbers: that of the C library which a bundle carries (`cpep_edge.native_encoder`), and, where
there is none, that of scipy. scipy is imported where it is used, because importing its filters takes longer and more
memory than all else that a device starts with.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Sections (n, 6), samples (n_samples, n_channels) and state (n, 2, n_channels), to filtered samples and the next state.
SosFilter = Callable[
    [NDArray[np.float64], NDArray[np.float32], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]
]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Everything that decides how samples become encoder input; stored in checkpoints and bundles."""

    sample_rate_hz: float
    sos: tuple[tuple[float, ...], ...]  # second-order sections as scipy writes them: b0 b1 b2 a0 a1 a2
    scale_uv: float  # divides the filtered signal of a session that was not calibrated; the training corpus' RMS
    clip: float  # limit of the scaled signal, both signs


def design_filter(
    sample_rate_hz: float, high_pass_hz: float, notch_hz: float | None = None, order: int = 4
) -> tuple[tuple[float, ...], ...]:
    """Second-order sections of a Butterworth high-pass and, if asked for, a notch of quality 30.

    The 40 Hz high-pass that emg2pose was published with removes motion artefacts and electrode drift.
    Raises ValueError when a corner does not lie below half the sample rate.
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
        """level_uv: (n_channels,), what divides each channel in place of `scale_uv`, from a calibration
        sosfilt: what filters; None: scipy
        """
        self.spec = spec
        self._scale_uv = spec.scale_uv if level_uv is None else level_uv.astype(np.float64)
        self.n_channels = n_channels
        self._sos = np.array(spec.sos, dtype=np.float64)
        self._rest = steady_state(self._sos)[:, :, None]
        self._sosfilt = sosfilt or scipy_sosfilt
        self._state: NDArray[np.float64] | None = None

    def reset(self) -> None:
        """Forget the past: the next sample is taken for a steady level, so that a DC offset makes no step."""
        self._state = None

    def __call__(self, samples_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """Filter and scale the next samples of the stream.

        samples_uv: (n_samples, n_channels), n_samples >= 1
        returns: (n_samples, n_channels) float32, in units of the scale
        """
        if self._state is None:
            self._state = self._rest * samples_uv[0].astype(np.float64)
        filtered, self._state = self._sosfilt(self._sos, samples_uv, self._state)
        scaled = np.clip(filtered / self._scale_uv, -self.spec.clip, self.spec.clip)
        return scaled.astype(np.float32)


def steady_state(sos: NDArray[np.float64]) -> NDArray[np.float64]:
    """The state of second-order sections, (n, 6), in which a constant input of one has gone on for ever, (n, 2).

    In transposed direct form II a section with input x and output g x keeps (b2 - a2 g) x in its second place, and that
    plus (b1 - a1 g) x in its first; g = (b0 + b1 + b2) / (1 + a1 + a2) is what the next section gets for each x.
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
    """Second-order sections over the next samples; see `SosFilter`."""
    from scipy.signal import sosfilt

    filtered, state = sosfilt(sos, samples, axis=0, zi=state)
    return filtered, state
