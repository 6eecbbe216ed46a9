"""The figures of a live run, in bounded memory: for display while it runs and for the summary at its end."""

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from cpep_edge.blocks import LinkCounts
from cpep_edge.decisions import Decision
from cpep_edge.live_loop import LiveEngine

_DELAYS_KEPT = 3_000  # the newest; the last five minutes with a hop of 100 ms
_CHANGES_KEPT = 64


@dataclass(frozen=True, slots=True)
class LiveSummary:
    """The figures of a live run."""

    duration_s: float  # wall clock, from the first decision to the last
    n_decisions: int
    n_changes: int
    windows_by_gesture: dict[str, int]
    delay_p50_ms: float | None  # arrival of a window's last byte to its decision; None before the first decision
    delay_p99_ms: float | None
    sample_rate_hz: float | None  # as received: device samples per second of wall clock
    skipped_hops: int
    rest_hops: int  # in which the muscles were at rest and the encoder did not run
    suppressed_hops: int
    resets: int
    link: LinkCounts


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the decision to another gesture."""

    gesture: str
    run_s: float  # time since the run's first decision, wall clock


class LiveStats:
    """Collects the figures of one run; views may read them from other threads."""

    def __init__(self) -> None:
        self.last: Decision | None = None
        self._lock = threading.Lock()
        self._changes: deque[Change] = deque(maxlen=_CHANGES_KEPT)
        self._delays_ms: deque[float] = deque(maxlen=_DELAYS_KEPT)
        self._windows: Counter[str] = Counter()
        self._n_changes = 0
        self._first: tuple[int, float] | None = None  # sample index, wall clock
        self._newest: tuple[int, float] = (0, 0.0)

    def add(self, decision: Decision) -> None:
        """Add one decision, at the time it is made."""
        with self._lock:
            self.last = decision
            self._newest = (decision.sample_index, time.monotonic())
            self._first = self._first or self._newest
            self._delays_ms.append(decision.delay_ms)
            self._windows[decision.gesture] += 1
            if decision.changed:
                self._n_changes += 1
                self._changes.append(Change(decision.gesture, self._newest[1] - self._first[1]))

    def changes_after(self, number: int) -> tuple[int, list[Change]]:
        """The number of changes of the decision so far, and those after the `number`-th that are still kept."""
        with self._lock:
            n_new = min(self._n_changes - number, len(self._changes))
            return self._n_changes, list(self._changes)[len(self._changes) - n_new :] if n_new > 0 else []

    @property
    def run_s(self) -> float:
        """Time of the newest decision in seconds since the first; not by the device's clock, which starts at boot."""
        with self._lock:
            return 0.0 if self._first is None else self._newest[1] - self._first[1]

    def summary(self, engine: LiveEngine, link: LinkCounts) -> LiveSummary:
        """The figures so far."""
        with self._lock:
            return self._summary(engine, link)

    def _summary(self, engine: LiveEngine, link: LinkCounts) -> LiveSummary:
        first_index, first_s = self._first or self._newest
        duration_s = self._newest[1] - first_s
        p50, p99 = (float(p) for p in np.percentile(self._delays_ms, (50, 99))) if self._delays_ms else (None, None)
        return LiveSummary(
            duration_s=duration_s,
            n_decisions=self._windows.total(),
            n_changes=self._n_changes,
            windows_by_gesture=dict(self._windows.most_common()),
            delay_p50_ms=p50,
            delay_p99_ms=p99,
            sample_rate_hz=(self._newest[0] - first_index) / duration_s if duration_s > 0 else None,
            skipped_hops=engine.n_skipped_hops,
            rest_hops=engine.n_rest_hops,
            suppressed_hops=engine.n_suppressed_hops,
            resets=engine.n_resets,
            link=link,
        )
