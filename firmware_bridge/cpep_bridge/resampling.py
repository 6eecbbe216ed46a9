"""Changing the sample rate of a stream, causally and the same however the stream is cut into blocks.

A polyphase FIR low-pass: output k is the sum over n of h[k M - n L] x[n], where L / M is the ratio of the rates. It
looks at no sample that has not come, so it delays by half its length, which `delay_s` says.
"""

from fractions import Fraction

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.signal import firwin

LARGEST_FACTOR = 1_000

_HALF_LENGTH = 10  # of the filter, in samples of the lower rate: the usual choice, 60 dB down
_KAISER_BETA = 5.0


class Resampler:
    """One stream's filter and its memory."""

    def __init__(self, from_hz: float, to_hz: float, n_channels: int) -> None:
        """Raises ValueError when the rates have no ratio of whole numbers up to a thousand."""
        ratio = Fraction(to_hz / from_hz).limit_denominator(LARGEST_FACTOR)
        if ratio.numerator > LARGEST_FACTOR or abs(float(ratio) * from_hz / to_hz - 1) > 1e-6 or ratio == 0:
            raise ValueError(
                f"{from_hz:g} Hz cannot be turned into {to_hz:g} Hz by whole factors up to {LARGEST_FACTOR}"
            )
        self._up, self._down = ratio.numerator, ratio.denominator
        self.taps = _low_pass(self._up, self._down)
        self.delay_s = (len(self.taps) - 1) / 2 / self._up / from_hz
        self._n_taps = -(-len(self.taps) // self._up)  # of one phase
        padded = np.zeros(self._n_taps * self._up)
        padded[: len(self.taps)] = self.taps
        # Phase p holds h[p + j L], the newest sample's tap last.
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
        """Index of the output sample that comes next."""
        return self._next_out

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The output samples, (any number, n_channels), that the next input samples make possible.

        Before the first sample after a restart the signal is taken to have been what that sample is: an electrode's
        offset then makes no step.
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
    """Filter at `up` times the input rate that keeps what both rates can hold, with a gain of `up`."""
    factor = max(up, down)
    if factor == 1:
        return np.ones(1)
    taps: NDArray[np.float64] = firwin(2 * _HALF_LENGTH * factor + 1, 1 / factor, window=("kaiser", _KAISER_BETA)) * up
    return taps
