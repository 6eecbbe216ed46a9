"""Which frames of a board are new and how many are missing, by two witnesses: a counter of few bits and a clock.

A counter of 8 bits says the number of lost frames modulo 256. Whole turns are told by the host's clock: when a stream
is late by a turn or more and stays so for half a second, those frames never came. What only waited somewhere (a radio
that stalled, a slow line) comes in a burst and catches up meanwhile: that is late, not lost. A board that does not
number its frames is judged by the clock alone, to a quarter of a second.

The clock also catches a counter that lies: one that leaps by more than can have been sent since the last read was
started anew, and with it the stream. A reader that stalled finds old frames first and then a hole, where the line was
full: as much as the old ones were late may be skipped too.

A long counter may be a clock in disguise, such as a sketch's millis(): what all its first steps have in common is one
frame.

A board that stamps its frames with its own clock is judged by that alone: a step of two and a half periods is a loss.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LATE_FRAMES = 8  # a counter that steps back by no more is a frame that comes late
LATE_BY_CLOCK_S = 0.25  # of a stream without a counter; arrivals jitter by tens of milliseconds
LATE_BY_TURNS = 0.75
DOUBT_S = 0.5  # without catching up, until what is late is lost
LEAP_S = 0.5  # of frames that a counter may skip beyond the time that passed: they may have waited on the way
LATE_BY_STAMP = 2.5  # periods

_FEW_FRAMES = 16
_LONG_MODULUS = 1 << 16  # a shorter counter counts frames and nothing else
_STRIDE_FRAMES = 64  # of a stream, by which it is known how much a long counter grows with each
_ON_TIME_S = 10.0  # over which the least lag is what is on time; a rate that is off by a percent moves it by 0.1 s
_CATCHING_UP_S = 0.05  # less late than that is no progress


@dataclass(frozen=True, slots=True)
class Numbered:
    """Frames of one read that belong to one stream."""

    start: int  # the first of them among those of the read
    numbers: NDArray[np.int64]  # -1 for those to drop: repeated, or late
    is_new_stream: bool  # the board's counter or clock began anew before them


class CounterLedger:
    """Numbers the frames of one stream without wrapping, and counts what is missing.

    What was lost before the first frame that arrives, nobody can know: numbers start there, at 0.
    """

    def __init__(self, modulus: int | None, frame_s: float) -> None:
        """modulus: where the counter wraps, None without one; frame_s: from one frame to the next"""
        self.lost_frames = 0
        self.duplicate_frames = 0
        self.late_frames = 0
        self._modulus = modulus
        self._turn_frames = modulus or 1
        self._frame_s = frame_s
        self._late_s = max(LATE_BY_CLOCK_S, LATE_BY_TURNS * self._turn_frames * frame_s)
        self.restart()

    def restart(self) -> None:
        """Expect a new stream; the counts go on."""
        self._next_number = 0
        self._is_new_stream = False  # nothing was numbered since the counter leapt
        self._last_counter: int | None = None
        self._stride = 0  # of a long counter, from frame to frame; 0 until it is known
        self._last_stamp_s: float | None = None
        self._read_s: float | None = None  # when the last read ended
        self._lag_s: float | None = None  # arrival of the newest frame, less its number in seconds
        self._on_time: tuple[float, float, float] | None = None  # least lag now and before, and since when it is now
        self._doubt: tuple[float, float, float] | None = None  # lag before it, least lag in it, when that was reached

    @property
    def next_number(self) -> int:
        """The number that the next frame should have."""
        return self._next_number

    def accept(
        self,
        counters: NDArray[np.int64] | None,
        n_frames: int,
        host_t_s: float,
        stamps_s: NDArray[np.float64] | None = None,
    ) -> list[Numbered]:
        """The frames of one read, numbered; mostly one stream.

        host_t_s: when the read ended, and nothing more was waiting
        stamps_s: (n_frames,), of the board's own clock, where it sends them
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
            if leap is not None:  # what is behind it is no part of this stream
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
        if not steps.any():  # nothing but repetitions: they say nothing of the time either
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
        """The number of the first of a few frames when nothing is odd about them; else None. The way that is cheap."""
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
        """By how much each frame's number exceeds that of the one before; 0 for a frame to drop."""
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
        """The frame before which the counter leapt by more than the time that passed since the last read allows."""
        if self._read_s is None:
            return None
        skipped_s = int((steps[steps > 0] - 1).sum()) * self._frame_s
        late_s = 0.0 if self._on_time is None else host_t_s - self._next_number * self._frame_s - min(self._on_time[:2])
        if skipped_s <= max(host_t_s - self._read_s, late_s) + LEAP_S:
            return None
        return int(np.argmax(steps))

    def _missed_turns(self, n_steps: int, host_t_s: float) -> int:
        """Whole turns of the counter that went by unseen, once it is sure that they are not on their way."""
        if self._lag_s is None or self._read_s is None:
            return 0
        lag_s = host_t_s - (self._next_number + n_steps) * self._frame_s
        if self._doubt is None:
            if lag_s - self._lag_s >= self._late_s:
                self._doubt = self._lag_s, lag_s, host_t_s
            return 0
        before_s, least_s, since_s = self._doubt
        if lag_s - before_s < self._late_s:  # it has caught up
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
