"""From the band's raw samples to what the encoder takes, on one arm: the one way for live, replays and everything else.

Samples are put into the model's order, filtered and scaled; a front end, where there is one, makes tokens of them. A
step of the encoder's input is a sample of all channels, or a token. All state is here, so the steps do not depend on
how the signal was cut.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_edge.donning import Donning
from cpep_edge.mpf import MpfSpec, MpfStream
from cpep_edge.preprocess import Preprocessing, Preprocessor, SosFilter, scipy_sosfilt


@dataclass(frozen=True, slots=True)
class Kernels:
    """What computes the signal's way; those of a bundle's C library give the same numbers as these."""

    sosfilt: SosFilter = scipy_sosfilt
    front_end: Callable[..., MpfStream] = MpfStream


class InputStream:
    """The signal's way to the encoder, for one stream and one donning."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        front_end: MpfSpec | None,
        n_channels: int,
        donning: Donning | None = None,
        kernels: Kernels = Kernels(),
    ) -> None:
        self.donning = donning or Donning()
        self._dead = list(self.donning.dead)
        self._preprocess = Preprocessor(preprocessing, n_channels, self.donning.level_uv, kernels.sosfilt)
        self.front_end: MpfStream | None = None
        if front_end is not None:
            self.front_end = kernels.front_end(front_end, centre=self.donning.centre, dead=self.donning.dead)

    def reset(self, sample_index: int = 0) -> None:
        """Forget the past; the next sample has this index."""
        self._preprocess.reset()
        if self.front_end is not None:
            self.front_end.reset(sample_index)

    def scaled(self, samples_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """The next samples of the band, (n, C), filtered and scaled, in the model's order; dead electrodes are zero."""
        scaled = self._preprocess(self.donning.arranged(samples_uv))
        scaled[:, self._dead] = 0
        return scaled

    def steps(self, scaled: NDArray[np.float32]) -> NDArray[np.float32]:
        """The steps of input that the next scaled samples complete, (m, n_inputs)."""
        return scaled if self.front_end is None else self.front_end(scaled)

    def last_window(self, samples_uv: NDArray[np.float32], n_steps: int) -> NDArray[np.float32]:
        """The encoder's input for the window that ends with some signal, (n_inputs, n_steps), on its own.

        samples_uv: (n, C), raw; a window or more
        """
        hop = 1 if self.front_end is None else self.front_end.spec.hop_samples
        self.reset(-len(samples_uv) % hop)  # blocks end where the signal does
        return np.ascontiguousarray(self(samples_uv)[-n_steps:].T)

    def __call__(self, samples_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """The next samples of the band to steps of input, (m, n_inputs)."""
        return self.steps(self.scaled(samples_uv))
