"""At what rate samples really arrive, by the host's clock, beside the rate that a device is said to have.

Of every second only the sample that came with the least delay counts, and the line goes through those (see `clock`).
Two looks, a second apart, must agree: a stall or a burst changes nothing. Where the device stamps its samples, its
clock is a second witness: no crystal is off by half, so that a device whose stamps agree with its rate while the host's
clock says another is a recording or a simulation, played faster or slower than it was.

What waited while the host was busy arrives faster than it was taken, for as long as it takes to catch up. So a rate
above the promised one must last, and when the last seconds came at another rate than the line says, it begins anew.
"""

import logging
from collections import deque

from cpep_edge.blocks import StreamInfo
from cpep_edge.device_clock import DeviceClock

HEARD_RATE_TOLERANCE = 0.01  # clocks drift by 1e-4 at most; more is another rate
_FIRST_LOOK_S = 3.0
_CAUGHT_UP_S = 10.0  # after which what waited at the start has arrived
_RECENT_LOOKS = 6  # a second apart
_CHANGED = 0.1  # of the line's rate, by which the last seconds differ where it has changed
_PLAYED = 1.5  # times as fast, or as slow, as which no clock of a device runs
_JITTER_S = 0.1  # of arrivals, at most: so far a rate may seem wrong over a short time

_log = logging.getLogger(__name__)


class ArrivalRate:
    """The rate of one stream; says once, in the log, when it is not the nominal one."""

    def __init__(self, info: StreamInfo) -> None:
        self._info = info
        self._said = False
        self._hz = 0.0
        self.restart()

    def restart(self) -> None:
        """A new stream of the same device begins; what was found out stays."""
        self._clock = DeviceClock()
        self._first_s: float | None = None
        self._first_stamp: tuple[int, float] | None = None  # a sample, and its time by the device's clock
        self._next_s = 0.0  # when to look at it
        self._seen_hz = 0.0  # at the last look
        self._looks: deque[tuple[float, int]] = deque(maxlen=_RECENT_LOOKS)  # when, and what had arrived

    @property
    def heard_hz(self) -> float:
        """Samples a second; 0 until it is known to a percent, or known to be wrong."""
        return self._hz

    def add(self, end_index: int, host_t_s: float, stamp_s: float | None = None) -> None:
        """Note that everything before `end_index` had arrived, or was lost, at `host_t_s`.

        stamp_s: the time of `end_index` by the device's own clock, where it has one
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
            return  # a stall moves what is seen from look to look, another rate stays
        if self._seen_hz > (1 + HEARD_RATE_TOLERANCE) * promised_hz and host_t_s - self._first_s < _CAUGHT_UP_S:
            return
        was_hz, self._hz = self._hz, self._seen_hz
        if (
            was_hz and abs(self._hz / was_hz - 1) > _CHANGED and off > HEARD_RATE_TOLERANCE
        ):  # back at it: it had only waited
            _log.warning(
                "%s: samples came at %.4g Hz before, and at %.4g Hz now: record again, one recording has one rate",
                *(self._info.name, was_hz, self._hz),
            )
        if off > HEARD_RATE_TOLERANCE and not self._said:
            self._said = True
            _log.warning("%s: %s", self._info.name, rate_sentence(self._hz, promised_hz))

    def _has_changed(self, end_index: int, host_t_s: float, line_hz: float) -> bool:
        """Whether the last seconds came at another rate than all."""
        self._looks.append((host_t_s, end_index))
        then_s, then_index = self._looks[0]
        if len(self._looks) < _RECENT_LOOKS:
            return False
        return abs((end_index - then_index) / (host_t_s - then_s) / line_hz - 1) > _CHANGED

    def _runs_as_promised(self, end_index: int, stamp_s: float | None) -> bool:
        """Whether the device has taken its samples at the promised rate, by its own clock."""
        if stamp_s is None or self._first_stamp is None:
            return False
        first_index, first_s = self._first_stamp
        promised_s = (end_index - first_index) / self._info.sample_rate_hz
        return abs((stamp_s - first_s) - promised_s) <= HEARD_RATE_TOLERANCE * promised_s


def rate_sentence(heard_hz: float, promised_hz: float) -> str:
    """A sentence about a rate that differs from the promised one."""
    return (
        f"samples arrive at {heard_hz:.4g} Hz where {promised_hz:g} Hz are promised: "
        "set the device, or the rate in its profile, right"
    )
