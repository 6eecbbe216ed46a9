"""Change the sample rate of a stream, causally; the result does not depend on how the stream is cut into blocks.

A polyphase FIR low-pass: output k is the sum over n of h[k M - n L] x[n], where L / M is the ratio of the rates. The
filter is causal, so it delays the signal by half its length, `delay_s`.
"""

from fractions import Fraction

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.signal import firwin

LARGEST_FACTOR = 1_000

_HALF_LENGTH = 10  # half the filter's length, in samples of the lower rate: a usual choice, 60 dB attenuation
_KAISER_BETA = 5.0


class Resampler:
    """The resampling filter of one stream, with its state."""

    def __init__(self, from_hz: float, to_hz: float, n_channels: int) -> None:
        """Raises ValueError when the rates' ratio is not one of whole numbers up to a thousand."""
        ratio = Fraction(to_hz / from_hz).limit_denominator(LARGEST_FACTOR)
        if ratio.numerator > LARGEST_FACTOR or abs(float(ratio) * from_hz / to_hz - 1) > 1e-6 or ratio == 0:
            raise ValueError(
                f"{from_hz:g} Hz cannot be turned into {to_hz:g} Hz by whole factors up to {LARGEST_FACTOR}"
            )
        self._up, self._down = ratio.numerator, ratio.denominator
        self.taps = _low_pass(self._up, self._down)
        self.delay_s = (len(self.taps) - 1) / 2 / self._up / from_hz
        self._n_taps = -(-len(self.taps) // self._up)  # taps of one phase
        padded = np.zeros(self._n_taps * self._up)
        padded[: len(self.taps)] = self.taps
        # Phase p holds h[p + j L]; the tap of the newest sample comes last.
        self._phases = padded.reshape(self._n_taps, self._up).T[:, ::-1].astype(np.float32)
        self._n_channels = n_channels
        self.restart(0)

    def restart(self, sample_index: int) -> None:
        """Expect input sample `sample_index` next, after a loss or a new start."""
        self._next_in = sample_index
        self._next_out = -(-sample_index * self._up // self._down)
        self._past: NDArray[np.float32] | None = None

    @property
    def next_index(self) -> int:
        """The index of the next output sample."""
        return self._next_out

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The output samples, (any number, n_channels), that can be computed with these new input samples.

        The signal before the first sample after a restart is taken to equal that sample, so that an electrode's offset
        causes no step.
        """
        if not len(samples):
            return np.empty((0, self._n_channels), np.float32)
        past = np.repeat(samples[:1], self._n_taps - 1, axis=0) if self._past is None else self._past
        known = np.concatenate([past, samples])
        self._past = known[len(known) - (self._n_taps - 1) :]
        first_in, self._next_in = self._next_in, self._next_in + len(samples)
        stop_out = -(-self._next_in * self._up // self._down)
        places = np.arange(self._next_out, stop_out) * self._down
        self._next_out = stop_out
        windows = sliding_window_view(known, self._n_taps, axis=0)[places // self._up - first_in]  # (n, channels, taps)
        resampled: NDArray[np.float32] = np.einsum("nct,nt->nc", windows, self._phases[places % self._up])
        return resampled


def _low_pass(up: int, down: int) -> NDArray[np.float64]:
    """A low-pass at `up` times the input rate, below the Nyquist frequencies of both rates, with a gain of `up`."""
    factor = max(up, down)
    if factor == 1:
        return np.ones(1)
    taps: NDArray[np.float64] = firwin(2 * _HALF_LENGTH * factor + 1, 1 / factor, window=("kaiser", _KAISER_BETA)) * up
    return taps
