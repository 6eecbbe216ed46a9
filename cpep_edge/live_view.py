"""What a screen shows of a live run, told in plain values: for the terminal and for the page.

Everything here is pulled: a view asks at its own pace, gets the newest, and what it missed in between it missed. So no
view, however slow, holds up the loop or makes anything grow.
"""

import time
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from cpep_edge.decisions import Decision
from cpep_edge.hand import HandPoses
from cpep_edge.live_loop import Live
from cpep_edge.live_stats import LiveStats, LiveSummary
from cpep_edge.recogniser import Recogniser
from cpep_edge.session import JOINT_NAMES
from cpep_edge.sinks import SinkCounts, SinkTap

STRIP_S = 0.010  # of signal between the two ends of a strip's stroke
STRIP_LIMIT = 6.0  # of the scaled signal; beyond, a strip is cut off
SILENT_S = 0.5  # without samples: the link is shown as lost


class LiveView:
    """One run, as it is shown. `stats` is fed by whoever iterates over the loop; everything else may be any thread."""

    def __init__(
        self, title: str, recogniser: Recogniser, loop: Live, hand: HandPoses | None, sinks: tuple[SinkTap, ...] = ()
    ) -> None:
        self.title = title
        self.stats = LiveStats()
        self._manifest = recogniser.manifest
        self._loop, self._hand, self._sinks = loop, hand, sinks
        self._strip_samples = max(1, round(STRIP_S * self._manifest.preprocessing.sample_rate_hz))
        self._began_s = time.monotonic()

    def about(self) -> dict[str, object]:
        """What does not change during a run."""
        info, spec = self._loop.source.info, self._loop.engine.spec
        return {
            "title": self.title,
            "bundle": self._manifest.name,
            "device": info.name,
            "n_channels": info.n_channels,
            "sample_rate_hz": info.sample_rate_hz,
            "hop_ms": self._loop.engine.hop_ms,
            "gestures": [gesture.name for gesture in self._manifest.gestures],
            "rest_gesture": spec.rest_gesture,
            "min_vote_share": spec.min_vote_share,
            "strip_s": STRIP_S,
            "joints": JOINT_NAMES if self._hand is not None else [],
        }

    def health(self) -> dict[str, object]:
        """The run in figures."""
        return {
            **asdict(self.summary()),
            "silent_s": self.silent_s,
            "silent": self.silent_s > SILENT_S,
            "ended": self._loop.stopped,
            "sinks": [asdict(counts) for counts in self.sink_counts],
        }

    @property
    def sink_counts(self) -> list[SinkCounts]:
        """What became of what the sinks were given."""
        return [sink.counts for sink in self._sinks]

    def summary(self) -> LiveSummary:
        """The figures so far."""
        return self.stats.summary(self._loop.engine, self._loop.source.counts)

    @property
    def silent_s(self) -> float:
        """How long no samples have come."""
        last_s = self._loop.engine.last_block_s
        return time.monotonic() - (self._began_s if last_s is None else last_s)

    def changes_after(self, number: int) -> tuple[int, list[Decision]]:
        """The changes of the decision since the `number`-th, as far as they are kept; and how many there were."""
        return self.stats.changes_after(number)

    def hand_rad(self) -> NDArray[np.float32] | None:
        """The joint angles to draw, (20,); None where the bundle carries no poses."""
        if self._hand is None:
            return None
        recognition = self._loop.engine.recognition
        return self._hand.rest_rad if recognition is None else self._hand.nearest(recognition.embedding)

    def strips(self, first: int, n_most: int) -> tuple[int, NDArray[np.float32]]:
        """The newest signal as strokes from its least to its greatest value, counted from the start of the stream.

        first: the first stroke wanted
        returns: number of the first stroke given, and (n_strokes, n_channels, 2), at most `n_most`
        """
        size = self._strip_samples
        end_index, signal = self._loop.engine.signal(first * size, (n_most + 1) * size)
        start = -(-(end_index - signal.shape[1]) // size)
        n_strokes = max(0, end_index // size - start)
        offset = start * size - (end_index - signal.shape[1])
        whole = signal[:, offset : offset + n_strokes * size].reshape(len(signal), n_strokes, size)
        return start, np.stack([whole.min(axis=2, initial=0), whole.max(axis=2, initial=0)], axis=2).transpose(1, 0, 2)
