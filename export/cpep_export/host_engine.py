"""The microcontroller engine, compiled for this machine and called from Python.

It gives the same bits as on the target, so that accuracy is measured here, on as many windows as one likes.
"""

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_edge.pose_index import Vote
from cpep_export.fixed_point import IntegerEncoder, padded

UNIT = 32767  # length of an embedding in integers
_GAIN_BITS = 16


class _Vote(ctypes.Structure):
    _fields_ = (
        ("gesture", ctypes.c_int32),
        ("n_votes", ctypes.c_int32),
        ("n_neighbours", ctypes.c_int32),
        ("similarity", ctypes.c_int32),  # in 2^-24
    )


class HostEngine:
    """One stream of samples through the engine; also an `EmgEncoder` of preprocessed windows."""

    def __init__(self, library: Path, encoder: IntegerEncoder) -> None:
        """library: `build/host/libcpep.so` of an emitted folder, made from this encoder."""
        self._c = ctypes.CDLL(str(library))
        self._c.cpep_vote_of.restype = _Vote
        self._encoder = encoder
        self.arena_bytes = int(self._c.cpep_size_bytes())
        self._state = np.zeros(-(-self.arena_bytes // 8), np.int64)
        self.reset()

    def reset(self) -> None:
        """Forget the past."""
        self._c.cpep_reset(_at(self._state))

    def calibrate(self, gains: NDArray[np.float32], turn: int = 0) -> None:
        """Multiply each channel, (C,), by a gain beyond its usual scale, and undo the band's turn, 0 <= turn < C."""
        integers = np.rint(gains * 2.0**_GAIN_BITS).astype(np.uint32)
        self._c.cpep_calibrate(_at(self._state), _at(integers), ctypes.c_int32(turn))

    def push(self, counts: NDArray[np.int32]) -> None:
        """Filter the next samples, (n_samples, C), in counts."""
        for sample in np.ascontiguousarray(counts, np.int32):
            self._c.cpep_push(_at(self._state), _at(sample))

    def window(self) -> NDArray[np.int16]:
        """The last filtered samples in the engine's unit, (T, C), oldest first."""
        samples = np.zeros((self._encoder.window_samples, self._encoder.n_channels), np.int16)
        self._c.cpep_read_window(_at(self._state), _at(samples))
        return samples

    def embed_integers(self) -> NDArray[np.int16]:
        """The embedding of the last window, (E_,), of length 32767, filled up with zeros."""
        embedding = np.zeros(padded(self._encoder.d_embed), np.int16)
        self._c.cpep_take_window(_at(self._state))
        self._c.cpep_embed(_at(self._state), _at(embedding))
        return embedding

    def embed(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """window: (C, T) float32, preprocessed; returns (E,) float32, unit length."""
        integers = self._encoder.to_integers(window)
        self._c.cpep_load_window(_at(self._state), _at(integers))
        return (self.embed_integers()[: self._encoder.d_embed] / UNIT).astype(np.float32)

    def vote(self, embedding: NDArray[np.int16]) -> Vote:
        """The engine's own vote; embedding: (E_,), as `embed_integers` gives it."""
        gesture, n_votes, n_neighbours, similarity = self.vote_integers(embedding)
        return Vote(gesture, n_votes / n_neighbours, similarity / 2**24)

    def vote_integers(self, embedding: NDArray[np.int16]) -> tuple[int, int, int, int]:
        """The vote's own numbers: gesture, votes for it, neighbours, similarity in 2^-24."""
        integers = np.ascontiguousarray(embedding)
        vote: _Vote = self._c.cpep_vote_of(_at(integers))
        return vote.gesture, vote.n_votes, vote.n_neighbours, vote.similarity


def _at(array: NDArray[np.generic]) -> ctypes.c_void_p:
    """The address of an array, which must have a name: it does not keep the array alive."""
    return ctypes.c_void_p(array.ctypes.data)
