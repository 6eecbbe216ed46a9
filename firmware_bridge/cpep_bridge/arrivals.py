"""Measure the rate at which samples really arrive, by the host's clock, and compare it with the device's nominal rate.

A line is fitted to the sample with the least delay of each second (see `clock`). Two estimates a second apart must
agree, so a stall or a burst has no effect. The device's own time stamps, if it sends them, are a second source. No
crystal is off by half. So when the stamps agree with the nominal rate while the host's clock shows one that is far off,
the stream is a recording or a simulation, played faster or slower than real time.

Samples that waited while the host was busy arrive faster than they were taken, until the host has caught up. So a rate
above the nominal one must last. When the rate of the last seconds differs from the line's, the estimate starts again.
"""

import logging
from collections import deque

from cpep_edge.blocks import StreamInfo
from cpep_edge.device_clock import DeviceClock

HEARD_RATE_TOLERANCE = 0.01  # clocks drift by 1e-4 at most; a larger difference is another rate
_FIRST_LOOK_S = 3.0
_CAUGHT_UP_S = 10.0  # by then, samples that waited at the start have arrived
_RECENT_LOOKS = 6  # a second apart
_CHANGED = 0.1  # the rate has changed when the last seconds differ from the line by more than this share
_PLAYED = 1.5  # no device's clock is so many times too fast or too slow; such a stream is played back
_JITTER_S = 0.1  # largest jitter of arrivals, which makes a rate measured over a short time uncertain

_log = logging.getLogger(__name__)


class ArrivalRate:
    """The measured rate of one stream. Logs a warning, once, when it differs from the nominal rate."""

    def __init__(self, info: StreamInfo) -> None:
        self._info = info
        self._said = False
        self._hz = 0.0
        self.restart()

    def restart(self) -> None:
        """Expect a new stream of the same device; `heard_hz` is kept."""
        self._clock = DeviceClock()
        self._first_s: float | None = None
        self._first_stamp: tuple[int, float] | None = None  # a sample's index, and its time by the device's clock
        self._next_s = 0.0  # time of the next estimate
        self._seen_hz = 0.0  # the last estimate
        self._looks: deque[tuple[float, int]] = deque(maxlen=_RECENT_LOOKS)  # time and end index of each estimate

    @property
    def heard_hz(self) -> float:
        """The measured rate; 0 until it is known to a percent, or known to differ from the nominal rate."""
        return self._hz

    def add(self, end_index: int, host_t_s: float, stamp_s: float | None = None) -> None:
        """Note that at `host_t_s` every sample before `end_index` had arrived or was lost.

        stamp_s: the time of `end_index` by the device's own clock, if it has one
        """
        promised_hz = self._info.sample_rate_hz
        self._clock.add_arrival(end_index / promised_hz, host_t_s)
        if stamp_s is not None and self._first_stamp is None:
            self._first_stamp = end_index, stamp_s
        if self._first_s is None:
            self._first_s, self._next_s = host_t_s, host_t_s + _FIRST_LOOK_S
        if host_t_s < self._next_s or (line := self._clock.line) is None:
            return
        self._next_s = host_t_s + 1.0
        if self._has_changed(end_index, host_t_s, promised_hz / line.slope):
            self.restart()
            return
        doubt = _JITTER_S / (host_t_s - self._first_s)
        off = abs(1 / line.slope - 1)
        if max(off, HEARD_RATE_TOLERANCE) < doubt:
            return
        if max(line.slope, 1 / line.slope) > _PLAYED and self._runs_as_promised(end_index, stamp_s):
            return
        seen_hz, self._seen_hz = self._seen_hz, promised_hz / line.slope
        if abs(seen_hz - self._seen_hz) > HEARD_RATE_TOLERANCE * self._seen_hz:
            return  # a stall makes successive estimates differ; a really different rate is the same in both
        if self._seen_hz > (1 + HEARD_RATE_TOLERANCE) * promised_hz and host_t_s - self._first_s < _CAUGHT_UP_S:
            return
        was_hz, self._hz = self._hz, self._seen_hz
        if (
            was_hz and abs(self._hz / was_hz - 1) > _CHANGED and off > HEARD_RATE_TOLERANCE
        ):  # no warning when the rate is back at the nominal one: the samples had only waited
            _log.warning(
                "%s: samples came at %.4g Hz before, and at %.4g Hz now: record again, one recording has one rate",
                *(self._info.name, was_hz, self._hz),
            )
        if off > HEARD_RATE_TOLERANCE and not self._said:
            self._said = True
            _log.warning("%s: %s", self._info.name, rate_sentence(self._hz, promised_hz))

    def _has_changed(self, end_index: int, host_t_s: float, line_hz: float) -> bool:
        """Whether the last seconds had another rate than the whole stream."""
        self._looks.append((host_t_s, end_index))
        then_s, then_index = self._looks[0]
        if len(self._looks) < _RECENT_LOOKS:
            return False
        return abs((end_index - then_index) / (host_t_s - then_s) / line_hz - 1) > _CHANGED

    def _runs_as_promised(self, end_index: int, stamp_s: float | None) -> bool:
        """Whether the device took its samples at the nominal rate by its own clock."""
        if stamp_s is None or self._first_stamp is None:
            return False
        first_index, first_s = self._first_stamp
        promised_s = (end_index - first_index) / self._info.sample_rate_hz
        return abs((stamp_s - first_s) - promised_s) <= HEARD_RATE_TOLERANCE * promised_s


def rate_sentence(heard_hz: float, promised_hz: float) -> str:
    """A message about a rate that differs from the nominal one."""
    return (
        f"samples arrive at {heard_hz:.4g} Hz where {promised_hz:g} Hz are promised: "
        "set the device, or the rate in its profile, right"
    )
