"""Find which of a board's frames are new and how many are missing, from a counter of a few bits and the host's clock.

A counter of 8 bits gives the number of lost frames modulo 256. The clock gives the number of whole wraps: when a stream
is late by a wrap or more and stays so for half a second, those frames are lost. Frames that only waited somewhere (in a
stalled radio, on a slow line) arrive in a burst and catch up in that time, so they are late, not lost. For a board that
does not number its frames the clock alone decides, with a resolution of a quarter of a second.

The clock also detects a restarted counter. A counter that jumps by more frames than can have been sent since the last
read has restarted, and a new stream begins. After a reader stalled, old frames arrive first and then a gap, where the
line was full. So the counter may also jump by as much time as the old frames were late.

A long counter may really be a clock, such as a sketch's millis(). Its increment per frame is the greatest common
divisor of its first steps.

For a board that stamps its frames with its own clock, only the stamps decide: a step of more than two and a half
periods is a loss.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LATE_FRAMES = 8  # a frame whose counter steps back by at most this is late
LATE_BY_CLOCK_S = 0.25  # a stream without a counter is late from here; arrivals jitter by tens of milliseconds
LATE_BY_TURNS = 0.75  # a stream with a counter is late from this many wraps
DOUBT_S = 0.5  # late frames that have not arrived after so long are lost
LEAP_S = 0.5  # how much further a counter may jump than time has passed, since frames may have waited in transit
LATE_BY_STAMP = 2.5  # periods; a larger step of the stamps is a loss

_FEW_FRAMES = 16
_LONG_MODULUS = 1 << 16  # a counter with a smaller modulus always counts frames
_STRIDE_FRAMES = 64  # frames from which a long counter's increment per frame is learnt
_ON_TIME_S = 10.0  # the least lag over this time counts as on time; a rate error of 1 % moves it by 0.1 s
_CATCHING_UP_S = 0.05  # the stream is catching up when its lag falls by more than this


@dataclass(frozen=True, slots=True)
class Numbered:
    """Frames of one read that belong to one stream."""

    start: int  # place of the first of them in the read
    numbers: NDArray[np.int64]  # -1 for a frame to drop, which is repeated or late
    is_new_stream: bool  # whether the board's counter or clock restarted before them


class CounterLedger:
    """Numbers the frames of one stream without wrapping, and counts the missing ones.

    Numbers start at 0 with the first frame that arrives; losses before it cannot be known.
    """

    def __init__(self, modulus: int | None, frame_s: float) -> None:
        """modulus: where the counter wraps, None without a counter; frame_s: time from one frame to the next"""
        self.lost_frames = 0
        self.duplicate_frames = 0
        self.late_frames = 0
        self._modulus = modulus
        self._turn_frames = modulus or 1
        self._frame_s = frame_s
        self._late_s = max(LATE_BY_CLOCK_S, LATE_BY_TURNS * self._turn_frames * frame_s)
        self.restart()

    def restart(self) -> None:
        """Expect a new stream; the counts continue."""
        self._next_number = 0
        self._is_new_stream = False  # whether the counter jumped and no frame was numbered since
        self._last_counter: int | None = None
        self._stride = 0  # a long counter's increment per frame; 0 until it is known
        self._last_stamp_s: float | None = None
        self._read_s: float | None = None  # when the last read ended
        self._lag_s: float | None = None  # arrival time of the newest frame minus the time by its number
        # least lag of the current and of the previous period of `_ON_TIME_S`, and when the current one began
        self._on_time: tuple[float, float, float] | None = None
        # while the stream is late: lag before that, least lag since, and when that was reached
        self._doubt: tuple[float, float, float] | None = None

    @property
    def next_number(self) -> int:
        """The number expected of the next frame."""
        return self._next_number

    def accept(
        self,
        counters: NDArray[np.int64] | None,
        n_frames: int,
        host_t_s: float,
        stamps_s: NDArray[np.float64] | None = None,
    ) -> list[Numbered]:
        """Number the frames of one read. There is one item per stream, usually just one.

        host_t_s: when the read ended, with nothing more waiting
        stamps_s: (n_frames,), time by the board's own clock, if it sends it
        """
        if stamps_s is not None:
            return self._by_stamps(stamps_s)
        if counters is not None and n_frames <= _FEW_FRAMES:
            number = self._in_step(counters.tolist(), host_t_s)
            if number is not None:
                return [Numbered(0, np.arange(number, number + n_frames), False)]
        parts, start = list[Numbered](), 0
        while True:
            rest = None if counters is None else counters[start:]
            known = self._last_counter, self.duplicate_frames, self.late_frames
            steps = self._steps(rest, n_frames - start)
            leap = self._leap(steps, host_t_s)
            if leap is not None:  # the frames from there on belong to a new stream
                self._last_counter, self.duplicate_frames, self.late_frames = known
                steps = self._steps(None if rest is None else rest[:leap], leap)
            if len(steps):
                parts.append(Numbered(start, self._numbered(steps, host_t_s), start > 0 or self._is_new_stream))
                self._is_new_stream = False
            if leap is None:
                return parts
            self.restart()
            start, self._is_new_stream = start + leap, True

    def _numbered(self, steps: NDArray[np.int64], host_t_s: float) -> NDArray[np.int64]:
        if not steps.any():  # only repeated or late frames, which do not tell the time either
            return np.full(len(steps), -1)
        n_turns = self._missed_turns(int(steps.sum()), host_t_s)
        if n_turns:
            odd = np.flatnonzero(steps > 1)
            steps[int(odd[0]) if odd.size else int(np.argmax(steps > 0))] += n_turns * self._turn_frames
        numbers = self._next_number - 1 + np.cumsum(steps)
        self._next_number += int(steps.sum())
        self._lag_s, self._read_s = host_t_s - self._next_number * self._frame_s, host_t_s
        self._note_lag(self._lag_s, host_t_s)
        self.lost_frames += int((steps[steps > 0] - 1).sum())
        return np.where(steps > 0, numbers, -1)

    def _in_step(self, counters: list[int], host_t_s: float) -> int | None:
        """The fast path: the number of the first of a few frames that are all in sequence and on time; else None."""
        if self._last_counter is None or self._modulus is None or self._lag_s is None or self._doubt is not None:
            return None
        expected = self._last_counter
        for counter in counters:
            expected = (expected + max(1, self._stride)) % self._modulus
            if counter != expected:
                return None
        next_number = self._next_number + len(counters)
        lag_s = host_t_s - next_number * self._frame_s
        if lag_s - self._lag_s >= self._late_s:
            return None
        number, self._next_number, self._last_counter, self._lag_s = self._next_number, next_number, expected, lag_s
        self._read_s = host_t_s
        self._note_lag(lag_s, host_t_s)
        return number

    def _note_lag(self, lag_s: float, host_t_s: float) -> None:
        least_s, before_s, since_s = self._on_time or (lag_s, lag_s, host_t_s)
        if host_t_s - since_s >= _ON_TIME_S:
            least_s, before_s, since_s = lag_s, least_s, host_t_s
        self._on_time = min(least_s, lag_s), before_s, since_s

    def _steps(self, counters: NDArray[np.int64] | None, n_frames: int) -> NDArray[np.int64]:
        """The increment of each frame's number over that of the previous frame; 0 for a frame to drop."""
        if counters is None or self._modulus is None or not n_frames:
            return np.ones(n_frames, np.int64)
        is_first = self._last_counter is None
        previous = int(counters[0]) - 1 if self._last_counter is None else self._last_counter
        steps = np.diff(counters, prepend=previous) % self._modulus
        if self._modulus >= _LONG_MODULUS:
            self._learn_stride(steps[1:] if is_first else steps)
        stride = max(1, self._stride)
        if (steps[is_first:] == stride).all():
            self._last_counter = int(counters[-1])
            return np.ones(n_frames, np.int64)
        for index, counter in enumerate(counters.tolist()):
            step = (counter - previous) % self._modulus
            if step == 0:
                self.duplicate_frames += 1
            elif step >= self._modulus - min(LATE_FRAMES, self._modulus // 8) * stride:
                self.late_frames += 1
                step = 0
            else:
                previous = counter
            steps[index] = step if is_first and index == 0 else -(-step // stride)
        self._last_counter = previous
        return steps

    def _learn_stride(self, steps: NDArray[np.int64]) -> None:
        if self._next_number >= _STRIDE_FRAMES or self._modulus is None:
            return
        for step in steps.tolist():
            if 0 < step < self._modulus - LATE_FRAMES:
                self._stride = math.gcd(self._stride, step)

    def _leap(self, steps: NDArray[np.int64], host_t_s: float) -> int | None:
        """The place of the first frame after a jump of the counter that the time since the last read rules out."""
        if self._read_s is None:
            return None
        skipped_s = int((steps[steps > 0] - 1).sum()) * self._frame_s
        late_s = 0.0 if self._on_time is None else host_t_s - self._next_number * self._frame_s - min(self._on_time[:2])
        if skipped_s <= max(host_t_s - self._read_s, late_s) + LEAP_S:
            return None
        return int(np.argmax(steps))

    def _missed_turns(self, n_steps: int, host_t_s: float) -> int:
        """How many whole wraps of the counter were lost, once it is certain that those frames do not arrive late."""
        if self._lag_s is None or self._read_s is None:
            return 0
        lag_s = host_t_s - (self._next_number + n_steps) * self._frame_s
        if self._doubt is None:
            if lag_s - self._lag_s >= self._late_s:
                self._doubt = self._lag_s, lag_s, host_t_s
            return 0
        before_s, least_s, since_s = self._doubt
        if lag_s - before_s < self._late_s:  # the stream has caught up
            self._doubt = None
        elif lag_s < least_s - _CATCHING_UP_S:
            self._doubt = before_s, lag_s, host_t_s
        elif host_t_s - since_s >= DOUBT_S:
            self._doubt = None
            return max(0, round((least_s - before_s) / (self._turn_frames * self._frame_s)))
        return 0

    def _by_stamps(self, stamps_s: NDArray[np.float64]) -> list[Numbered]:
        previous_s = float(stamps_s[0]) - self._frame_s if self._last_stamp_s is None else self._last_stamp_s
        passed_s = np.diff(stamps_s, prepend=previous_s)
        self._last_stamp_s = float(stamps_s[-1])
        starts = [0, *(int(index) for index in np.flatnonzero(passed_s < 0) if index)]
        parts = []
        for start, stop in zip(starts, [*starts[1:], len(stamps_s)], strict=True):
            is_new_stream = bool(passed_s[start] < 0)
            if is_new_stream:
                self._next_number = 0
            periods = np.rint(passed_s[start:stop] / self._frame_s)
            steps = np.where(periods > LATE_BY_STAMP, periods, 1).astype(np.int64)
            if is_new_stream:
                steps[0] = 1
            numbers = self._next_number - 1 + np.cumsum(steps)
            self._next_number += int(steps.sum())
            self.lost_frames += int((steps - 1).sum())
            parts.append(Numbered(start, numbers, is_new_stream))
        return parts
