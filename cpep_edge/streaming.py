"""Run a streaming encoder on windows, without computing again what a window shares with the one before.

The program takes one block of signal at a time, and keeps the state that later blocks need. An embedding depends only
on the newest `n_blocks` blocks. So a window that continues the last one costs only its new blocks. Any other window,
after a start, lost samples or a jump, costs all blocks. Both ways give the same embedding.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cpep_edge.encoder import EmgEncoder
    from cpep_edge.manifest import EncoderSpec


class StreamingRunner:
    """An encoder of whole windows that runs a program block by block. Only one thread at a time may use it."""

    def __init__(self, program: "EmgEncoder", spec: "EncoderSpec") -> None:
        """program: embeds one block, (n_channels, block_samples), after all blocks that it embedded before."""
        if spec.stream is None:
            raise ValueError("the encoder does not stream")
        self._program = program
        self._shape = (spec.n_channels, spec.window_samples)
        self._block_samples, self._n_blocks = spec.stream.block_samples, spec.stream.n_blocks
        self._last: NDArray[np.float32] | None = None  # the signal of the newest n_blocks that the program has run on

    def embed(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed one window; this is cheap when it continues the last one by whole blocks.

        window: (n_channels, window_samples) float32, preprocessed
        returns: (d_embed,) float32, unit length
        Raises ValueError for another shape.
        """
        if window.shape != self._shape:
            raise ValueError(f"window has shape {window.shape}, this encoder takes {self._shape}")
        seen = window[:, -self._n_blocks * self._block_samples :].copy()
        n_new, self._last = self._n_new(seen), None  # stays None if the program fails, as its state is then unknown
        for block in np.split(seen, self._n_blocks, axis=1)[-n_new:]:
            embedding = self._program.embed(block)
        self._last = seen
        return embedding

    def _n_new(self, seen: NDArray[np.float32]) -> int:
        """How many blocks are new since the last window; all of them when the signal does not continue it."""
        if self._last is not None:
            for n_new in range(1, self._n_blocks):
                n_moved = n_new * self._block_samples
                same_end = np.array_equal(seen[:, -n_moved - 1], self._last[:, -1])  # a cheap test that rules out most
                if same_end and np.array_equal(seen[:, :-n_moved], self._last[:, n_moved:]):
                    return n_new
        return self._n_blocks
