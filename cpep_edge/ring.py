"""A ring buffer of the last seconds of a stream, from which any window is one slice.

Every sample is written twice, one capacity apart, so that a window never wraps around. One thread writes. A reader
copies a window, then checks whether the writer has overwritten it in the meantime.
"""

import numpy as np
from numpy.typing import NDArray


class MirroredRing:
    """A ring of samples addressed by their absolute index in the stream."""

    def __init__(self, n_channels: int, capacity_samples: int) -> None:
        self.n_channels = n_channels
        self._capacity = capacity_samples
        self._buffer = np.zeros((n_channels, 2 * capacity_samples), dtype=np.float32)
        self._first = 0
        self.end_index = 0  # one past the newest sample

    def restart(self, sample_index: int) -> None:
        """Discard everything; the next sample written has this index."""
        self._first = self.end_index = sample_index

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append samples, (n_samples, n_channels), n_samples <= capacity."""
        n_samples = len(samples)
        if n_samples > self._capacity:
            raise ValueError(f"{n_samples} samples do not fit a ring of {self._capacity}")
        at = self.end_index % self._capacity
        head = min(n_samples, self._capacity - at)
        for start, part in ((at, samples[:head]), (0, samples[head:])):
            for mirror in (start, start + self._capacity):
                self._buffer[:, mirror : mirror + len(part)] = part.T
        self.end_index += n_samples

    def window(self, end_index: int, n_samples: int) -> NDArray[np.float32] | None:
        """A copy of the samples before `end_index`, (n_channels, n_samples).

        None when the ring does not hold all of them, either not yet or no longer. May be called while another thread
        writes.
        """
        start_index = end_index - n_samples
        if start_index < self._first or end_index > self.end_index:
            return None
        at = start_index % self._capacity
        window = self._buffer[:, at : at + n_samples].copy()
        overtaken = self.end_index - start_index > self._capacity or start_index < self._first
        return None if overtaken else window
