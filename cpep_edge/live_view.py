"""The values of a live run that a screen shows, in the terminal or on the web page.

A view asks for values at its own pace, and gets the newest; it does not get those that it missed in between. So even a
slow view never delays the loop and never fills memory.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cpep_edge.decisions import Decision
from cpep_edge.hand import HandPoses
from cpep_edge.hand_shapes import REST_SHAPE, shape_of
from cpep_edge.live_loop import Live
from cpep_edge.live_stats import Change, LiveStats, LiveSummary
from cpep_edge.manifest import Manifest
from cpep_edge.names import UNKNOWN
from cpep_edge.recogniser import Recogniser
from cpep_edge.sinks import SinkCounts, SinkTap

STRIP_S = 0.010  # signal per stroke of a strip chart
STRIP_LIMIT = 6.0  # of the scaled signal; a strip is cut off beyond it
SILENT_S = 0.5  # after this time without samples the link is shown as lost


class Electrode(Protocol):
    """The signal quality of one channel."""

    @property
    def rms(self) -> float: ...

    @property
    def fault(self) -> str: ...


class Watch(Protocol):
    """The state of a device, see `cpep_bridge.device_watch`."""

    def electrodes(self) -> Sequence[Electrode]: ...

    def battery_percent(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class ShownGesture:
    """One gesture of the bundle, for display."""

    label: str
    name: str
    kind: str  # "trained", "taught" from the wearer's own EMG, or "zero-shot" from its pose alone


class LiveView:
    """The values of one run. The thread that iterates over the loop feeds `stats`; any thread may use all else."""

    def __init__(
        self,
        title: str,
        recogniser: Recogniser,
        loop: Live,
        hand: HandPoses | None,
        sinks: tuple[SinkTap, ...] = (),
        watch: Watch | None = None,
    ) -> None:
        """hand: the poses in the bundle; a gesture without one is drawn after its name"""
        self.title = title
        self.url = ""  # address of the web page, if it is served
        self.stats = LiveStats()
        self._manifest = recogniser.manifest
        self.loop, self._hand, self._sinks, self._watch = loop, hand, sinks, watch
        self._strip_samples = max(1, round(STRIP_S * self._manifest.preprocessing.sample_rate_hz))
        self._began_s = time.monotonic()
        self.generation = 0  # number of changes of `about`

    def renewed(self, manifest: Manifest | None = None, hand: HandPoses | None = None) -> None:
        """Note that `about` has changed; a manifest is given when the bundle has changed too."""
        if manifest is not None:
            self._manifest, self._hand = manifest, hand
        self.generation += 1

    def about(self) -> dict[str, object]:
        """Values that stay the same until `generation` changes."""
        info, engine = self.loop.source.info, self.loop.engine
        order = engine.donning.order or range(info.n_channels)
        return {
            "title": self.title,
            "bundle": self._manifest.name,
            "device": info.name,
            "n_channels": info.n_channels,
            "sample_rate_hz": info.sample_rate_hz,
            "unit": "µV" if info.unit == "uV" else info.unit,
            "hop_ms": engine.hop_ms,
            "gestures": [asdict(gesture) for gesture in self.gestures()],
            "rest_gesture": engine.spec.rest_gesture,
            "min_vote_share": engine.spec.min_vote_share,
            "evidence_ms": engine.spec.evidence_ms,
            "release_ms": engine.spec.release_ms,
            "calibrated": self._calibrated(),
            "electrode_of_strip": [int(electrode) for electrode in order],
            "strip_s": STRIP_S,
        }

    def _calibrated(self) -> str:
        level_uv, worn = self.loop.engine.donning.level_uv, self._manifest.worn
        if level_uv is None:
            return "not calibrated"
        return "as taught" if worn is not None and np.allclose(level_uv, worn.level_uv) else "calibrated"

    def shown(self, label: str) -> str:
        """The name under which a gesture is shown."""
        return self._manifest.shown(label)

    def drawn(self, label: str) -> NDArray[np.float32] | None:
        """The hand shape for a gesture's shown name, or else for its label; None when there is none for either."""
        shape = shape_of(self.shown(label))
        return shape_of(label) if shape is None else shape

    def gestures(self) -> list[ShownGesture]:
        """The bundle's gestures in its order."""
        return [
            ShownGesture(
                gesture.name,
                self.shown(gesture.name),
                "taught" if gesture.origin == "session" else "trained" if gesture.trained else "zero-shot",
            )
            for gesture in self._manifest.gestures
        ]

    def health(self) -> dict[str, object]:
        """The figures of the run, and the state of link, sinks and electrodes."""
        watch = self._watch
        return {
            **asdict(self.summary()),
            "silent_s": self.silent_s,
            "silent": self.silent_s > SILENT_S,
            "ended": self.loop.stopped,
            "run_s": time.monotonic() - self._began_s,
            "sinks": [asdict(counts) for counts in self.sink_counts],
            "electrodes": [] if watch is None else [[round(one.rms, 1), one.fault] for one in watch.electrodes()],
            "battery_percent": None if watch is None else watch.battery_percent(),
        }

    @property
    def sink_counts(self) -> list[SinkCounts]:
        """The counts of the sinks."""
        return [sink.counts for sink in self._sinks]

    def summary(self) -> LiveSummary:
        """The figures so far."""
        return self.stats.summary(self.loop.engine, self.loop.source.counts)

    @property
    def silent_s(self) -> float:
        """Seconds since the last samples arrived."""
        last_s = self.loop.engine.last_block_s
        return time.monotonic() - (self._began_s if last_s is None else last_s)

    def changes_after(self, number: int) -> tuple[int, list[Change]]:
        """The number of changes of the decision so far, and those after the `number`-th that are still kept."""
        return self.stats.changes_after(number)

    def shares(self) -> list[float]:
        """Each gesture's share of the newest window's vote; zeros at rest and before the first window."""
        recognition = self.loop.engine.recognition
        shares = () if recognition is None else recognition.vote.shares
        return [*shares, *[0.0] * (len(self._manifest.gestures) - len(shares))]

    def hand_rad(self, decision: Decision) -> NDArray[np.float32] | None:
        """The joint angles to draw for the newest decision, (20 or 23,).

        They are those of the poses nearest to the embedding. A gesture without a pose is drawn after its name. None
        when neither is known.
        """
        recognition = self.loop.engine.recognition
        if recognition is None or (self._hand is None and decision.gesture == UNKNOWN):
            return REST_SHAPE if self._hand is None else self._hand.rest_rad
        if self._hand is None or any(
            g.origin == "session" and g.name == decision.gesture for g in self._manifest.gestures
        ):
            return self.drawn(decision.gesture)
        return self._hand.nearest(recognition.embedding)

    def strips(self, first: int, n_most: int) -> tuple[int, NDArray[np.float32]]:
        """The newest signal as strokes, each from the least to the largest value of `STRIP_S` of signal.

        Strokes are numbered from the start of the stream.

        first: number of the first stroke wanted
        returns: number of the first stroke given, and (n_strokes, n_channels, 2), at most `n_most`
        """
        size = self._strip_samples
        end_index, signal = self.loop.engine.signal(first * size, (n_most + 1) * size)
        start = -(-(end_index - signal.shape[1]) // size)
        n_strokes = max(0, end_index // size - start)
        offset = start * size - (end_index - signal.shape[1])
        whole = signal[:, offset : offset + n_strokes * size].reshape(len(signal), n_strokes, size)
        return start, np.stack([whole.min(axis=2, initial=0), whole.max(axis=2, initial=0)], axis=2).transpose(1, 0, 2)
