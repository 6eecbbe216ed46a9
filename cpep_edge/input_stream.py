"""Convert a band's raw samples to encoder input for one donning; live runs, replays and all others use this class.

Samples are put into the model's order, filtered and scaled. If there is a front end, it computes tokens from them. One
step of the encoder's input is a sample of all channels, or a token. The stream keeps all state, so the steps do not
depend on how the signal is cut into blocks.
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
    """The functions for filter and front end; those of a bundle's C library give the same numbers as these."""

    sosfilt: SosFilter = scipy_sosfilt
    front_end: Callable[..., MpfStream] = MpfStream


class InputStream:
    """Preprocessing and front end for one stream and one donning, with their state."""

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
        """Reset the state; the next sample has this index."""
        self._preprocess.reset()
        if self.front_end is not None:
            self.front_end.reset(sample_index)

    def scaled(self, samples_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """Filter and scale the band's next samples, (n, C), into the model's order; dead electrodes are zero."""
        scaled = self._preprocess(self.donning.arranged(samples_uv))
        scaled[:, self._dead] = 0
        return scaled

    def steps(self, scaled: NDArray[np.float32]) -> NDArray[np.float32]:
        """The steps of encoder input that the next scaled samples complete, (m, n_inputs)."""
        return scaled if self.front_end is None else self.front_end(scaled)

    def last_window(self, samples_uv: NDArray[np.float32], n_steps: int) -> NDArray[np.float32]:
        """The encoder's input for the last window of a piece of signal, (n_inputs, n_steps), after a reset.

        samples_uv: (n, C), raw; a window or more
        """
        hop = 1 if self.front_end is None else self.front_end.spec.hop_samples
        self.reset(-len(samples_uv) % hop)  # so that the last token ends where the signal does
        return np.ascontiguousarray(self(samples_uv)[-n_steps:].T)

    def __call__(self, samples_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """The steps of encoder input, (m, n_inputs), that the band's next raw samples complete."""
        return self.steps(self.scaled(samples_uv))
