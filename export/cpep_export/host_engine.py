"""The microcontroller engine, compiled for this machine and called from Python.

It gives the same bits as on the target, so accuracy can be measured here, on any number of windows.
"""

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_edge.donning import Donning
from cpep_edge.manifest import DecisionSpec
from cpep_edge.names import UNKNOWN
from cpep_edge.pose_index import Vote
from cpep_export.emit_c import DeviceModel
from cpep_export.fixed_point import padded

UNIT = 32767  # length of an embedding in integers
_GAIN_BITS = 16
_ONE = 2.0**24  # of a share and of a similarity


_DECISION_NUMBERS = ("hop_ms", "evidence_ms", "min_vote_share", "min_similarity", "min_belief", "release_ms")


class _DecisionSpec(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_float) for name in _DECISION_NUMBERS),
        *((name, ctypes.c_int32) for name in ("rest", "wake", "other")),
    )


class _Donning(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("gains", "order", "live", "centre", "head_means"))


class HostEngine:
    """One stream of samples through the engine; also an `EmgEncoder` of preprocessed windows."""

    def __init__(self, library: Path, model: DeviceModel) -> None:
        """library: `build/host/libcpep.so` of an emitted folder, made from this model."""
        self._c = ctypes.CDLL(str(library))
        numbers = (*((name, ctypes.c_int32) for name in ("gesture", "share", "similarity")),)
        self._vote = type(
            "cpep_vote", (ctypes.Structure,), {"_fields_": (*numbers, ("shares", ctypes.c_int32 * len(model.gestures)))}
        )
        for function in (self._c.cpep_recognise, *((self._c.cpep_vote_of,) if model.encoder is not None else ())):
            function.restype = self._vote
        self._model = model
        self.arena_bytes = int(self._c.cpep_size_bytes())
        self._state = np.zeros(-(-self.arena_bytes // 8), np.int64)
        self._worn: tuple[NDArray[np.generic], ...] = ()  # keeps arrays alive that the engine points to
        self.reset()

    def reset(self, sample_index: int = 0) -> None:
        """Forget the past; the next sample has this index."""
        self._c.cpep_reset(_at(self._state), ctypes.c_uint32(sample_index))

    def calibrate(self, donning: Donning) -> None:
        """Adapt the engine to one donning.

        Raises ValueError if its order is not a permutation or fewer than two electrodes are live.
        """
        model = self._model
        level_uv, scale_uv = donning.level_uv, model.preprocessing.scale_uv
        gain = np.ones(model.n_channels) if level_uv is None else scale_uv / level_uv.astype(np.float64)
        live = np.ones(model.n_channels, np.uint8)
        live[list(donning.dead)] = 0
        arrays: dict[str, NDArray[np.generic]] = {
            "gains": np.clip(np.rint(gain * 2.0**_GAIN_BITS), 1, 2**32 - 1).astype(np.uint32),
            "order": np.array(donning.order or range(model.n_channels), np.uint8),
            "live": live,
        }
        for name in ("centre", "head_means"):
            if (found := getattr(donning, name)) is not None:
                arrays[name] = np.ascontiguousarray(found, np.float32)
        worn = _Donning(**{name: array.ctypes.data for name, array in arrays.items()})
        if not self._c.cpep_calibrate(_at(self._state), ctypes.byref(worn)):
            raise ValueError("the engine takes a permutation of its channels and two live electrodes at least")
        self._worn = tuple(arrays.values())

    def push(self, counts: NDArray[np.int32]) -> None:
        """Filter the next samples, (n_samples, C), in counts."""
        samples = np.ascontiguousarray(counts, np.int32)
        self._c.cpep_push_samples(_at(self._state), _at(samples), ctypes.c_uint32(len(samples)))

    def window(self) -> NDArray[np.float32]:
        """The last steps in the encoder's units, (n_inputs, n_steps), oldest first."""
        model = self._model
        shape, is_signal = (model.n_steps, model.n_inputs), model.front_end is None
        steps = np.zeros(shape, np.int16) if is_signal else np.zeros(shape, np.float32)
        self._c.cpep_read_window(_at(self._state), _at(steps))
        return np.ascontiguousarray(steps.T * (model.input_step if is_signal else 1), np.float32)

    def load(self, window: NDArray[np.float32]) -> None:
        """Replace the last steps by a window, (n_inputs, n_steps)."""
        model = self._model
        if model.front_end is None and model.encoder is not None:
            steps: NDArray[np.generic] = model.encoder.to_integers(window)
        else:
            steps = np.ascontiguousarray(window.T, np.float32)
        self._c.cpep_load_window(_at(self._state), _at(steps))

    def mean_token(self) -> NDArray[np.float32]:
        """The mean of the last window's tokens, (F,); empty where there is no front end."""
        mean = np.zeros(0 if self._model.front_end is None else self._model.n_inputs, np.float32)
        if mean.size:
            self._c.cpep_take_window(_at(self._state))
            self._c.cpep_read_mean(_at(self._state), _at(mean))
        return mean

    def embed_integers(self) -> NDArray[np.int16]:
        """The embedding of the last window, (E_,), of length 32767, filled up with zeros; empty without an encoder."""
        encoder = self._model.encoder
        embedding = np.zeros(0 if encoder is None else padded(encoder.d_embed), np.int16)
        if embedding.size:
            self._c.cpep_take_window(_at(self._state))
            self._c.cpep_embed(_at(self._state), _at(embedding))
        return embedding

    def embed(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """window: (n_inputs, n_steps) float32, as the encoder takes it; returns (E,) float32, unit length."""
        self.load(window)
        d_embed = 0 if self._model.encoder is None else self._model.encoder.d_embed
        return (self.embed_integers()[:d_embed] / UNIT).astype(np.float32)

    def recognise(self) -> Vote:
        """The answer to the last window."""
        self._c.cpep_take_window(_at(self._state))
        return _vote(self._c.cpep_recognise(_at(self._state)))

    def recognise_integers(self) -> tuple[int, ...]:
        """The answer in integers: gesture, then share, similarity and every gesture's share in units of 2^-24."""
        self._c.cpep_take_window(_at(self._state))
        vote = self._c.cpep_recognise(_at(self._state))
        return vote.gesture, vote.share, vote.similarity, *vote.shares

    def vote(self, embedding: NDArray[np.int16]) -> Vote:
        """The vote of the prototypes; embedding: (E_,), as `embed_integers` gives it."""
        integers = np.ascontiguousarray(embedding)
        return _vote(self._c.cpep_vote_of(_at(integers)))

    def decider(self, spec: DecisionSpec) -> "HostDecider":
        """The engine's decisions of a fresh stream."""
        return HostDecider(self._c, self._vote, spec, self._model.gestures)


class HostDecider:
    """Decisions of the engine; used as `cpep_edge.decisions.Decider` is."""

    def __init__(
        self, library: ctypes.CDLL, vote: type[ctypes.Structure], spec: DecisionSpec, gestures: tuple[str, ...]
    ) -> None:
        self._c, self._vote, self._states = library, vote, (*gestures, UNKNOWN)
        numbers = {name: getattr(spec, name) for name in _DECISION_NUMBERS}
        named = {
            name: gestures.index(one) if one in gestures else -1
            for name, one in (("rest", spec.rest_gesture), ("wake", spec.wake_gesture), ("other", UNKNOWN))
        }
        self._decider = np.zeros(-(-int(library.cpep_decider_bytes()) // 4), np.int32)  # the decision comes first
        library.cpep_begin(_at(self._decider), ctypes.byref(_DecisionSpec(**numbers, **named)))

    @property
    def gesture(self) -> str:
        """The current decision."""
        return self._states[int(self._decider[0])]

    def update(self, vote: Vote | None) -> bool:
        """Process the vote of one window, None for a quiet one; returns whether the decision changed."""
        if vote is None:
            return bool(self._c.cpep_decide(_at(self._decider), None))
        shares = (ctypes.c_int32 * (len(self._states) - 1))(*(round(share * _ONE) for share in vote.shares))
        numbers = round(vote.share * _ONE), round(vote.similarity * _ONE)
        given = self._vote(vote.gesture_index, *numbers, shares)
        return bool(self._c.cpep_decide(_at(self._decider), ctypes.byref(given)))


def _vote(vote: ctypes.Structure) -> Vote:
    shares = tuple(share / _ONE for share in vote.shares)
    return Vote(vote.gesture, vote.share / _ONE, vote.similarity / _ONE, shares)


def _at(array: NDArray[np.generic]) -> ctypes.c_void_p:
    """The address of an array. The caller must hold a reference, because the pointer does not keep the array alive."""
    return ctypes.c_void_p(array.ctypes.data)
