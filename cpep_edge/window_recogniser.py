"""A bundle as a function from raw samples to a gesture, which `cpep_edge.load` returns.

It is for single windows and recordings. For a band that streams, use `cpep_edge.live`, which filters every sample only
once and adds up evidence over time; single windows are less accurate.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpep_edge.bundle import Bundle
from cpep_edge.decisions import Decider
from cpep_edge.donning import Donning
from cpep_edge.manifest import DecisionSpec
from cpep_edge.recogniser import Recogniser


@dataclass(frozen=True, slots=True)
class Answer:
    """The result for one window."""

    gesture: str  # "unknown" if the votes are too divided, or the window is too far from every gesture
    confidence: float  # the gesture's share of the votes, 0..1
    similarity: float  # cosine of the nearest prototype or, from a head, how typical the window is, up to 1
    shares: dict[str, float]  # of the votes, by gesture; they sum to one
    embedding: NDArray[np.float32]  # (d_embed,), unit length


class WindowRecogniser:
    """Recognises the gestures of one bundle in windows of raw signal. Threads may share it."""

    def __init__(self, bundle: Bundle, donning: Donning | None = None, spec: DecisionSpec | None = None) -> None:
        """donning: how the band sits; spec: thresholds of rejection; None: those of the bundle

        Raises ArtifactError when a file of the bundle cannot be used.
        """
        self._recogniser, self._donning = Recogniser(bundle), donning or bundle.manifest.usual_donning
        self._head = self._recogniser.on_arm(self._donning)
        self.gestures = bundle.manifest.gesture_names
        self._decider = Decider(spec or bundle.manifest.decision, self.gestures)
        self.n_channels = bundle.manifest.n_channels
        self.sample_rate_hz = bundle.manifest.preprocessing.sample_rate_hz
        self.window_samples = bundle.manifest.window_samples

    def recognise(self, window: ArrayLike) -> Answer:
        """Recognise the gesture in the newest window of a signal.

        window: (n_samples, n_channels), microvolts as the band sends them, at `sample_rate_hz`; at least
            `window_samples` rows. Give more if you can, so that the filters settle on the samples before the window.
        Raises ValueError for another shape, or for a value that is not finite.
        """
        signal_uv = np.asarray(window, np.float32)
        if signal_uv.ndim != 2 or signal_uv.shape[1] != self.n_channels or len(signal_uv) < self.window_samples:
            raise ValueError(
                f"window has shape {signal_uv.shape}; it must be (n_samples, {self.n_channels}) with at least "
                f"{self.window_samples} samples"
            )
        if not np.isfinite(signal_uv).all():
            raise ValueError("window holds a value that is not finite")
        read = self._recogniser.recognise(self._recogniser.last_window(signal_uv, self._donning), self._head)
        vote = read.vote
        shares = dict.fromkeys(self.gestures, 0.0)
        shares.update(zip(self.gestures, vote.shares, strict=False))  # zeros at the end may be left out
        return Answer(self._decider.accept(vote), vote.share, vote.similarity, shares, read.embedding)
