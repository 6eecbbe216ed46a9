"""Which frames of a board are new and how many are missing, by a counter of few bits and the host's clock.

A counter of 8 bits says the number of lost frames modulo 256. Whole turns are told by the clock: when everything that
was waiting has been read and the stream is still late by a turn or more, those frames never came. A board that does not
number its frames is judged by the clock alone, to a quarter of a second.
"""

import numpy as np
from numpy.typing import NDArray

LATE_FRAMES = 8  # a counter that steps back by no more is a frame that comes late
LATE_BY_CLOCK_S = 0.25  # of a stream without a counter; arrivals jitter by tens of milliseconds
LATE_BY_TURNS = 0.75

_FEW_FRAMES = 16


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
        self._last_counter: int | None = None
        self._lag_s: float | None = None  # arrival of the newest frame, less its number in seconds

    @property
    def next_number(self) -> int:
        """The number that the next frame should have."""
        return self._next_number

    def accept(self, counters: NDArray[np.int64] | None, n_frames: int, host_t_s: float) -> NDArray[np.int64]:
        """Numbers of the frames of one read, (n_frames,); -1 for those to drop: repeated, or late.

        host_t_s: when the read ended, and nothing more was waiting
        """
        if counters is not None and n_frames <= _FEW_FRAMES:
            number = self._in_step(counters.tolist(), host_t_s)
            if number is not None:
                return np.arange(number, number + n_frames)
        steps = self._steps(counters, n_frames)
        if not steps.any():  # nothing but repetitions: they say nothing of the time either
            return np.full(n_frames, -1)
        steps[self._first_odd(steps)] += self._missed_turns(int(steps.sum()), host_t_s) * self._turn_frames
        numbers = self._next_number - 1 + np.cumsum(steps)
        self._next_number += int(steps.sum())
        self._lag_s = host_t_s - self._next_number * self._frame_s
        self.lost_frames += int((steps[steps > 0] - 1).sum())
        return np.where(steps > 0, numbers, -1)

    def _in_step(self, counters: list[int], host_t_s: float) -> int | None:
        """The number of the first of a few frames when nothing is odd about them; else None. The way that is cheap."""
        if self._last_counter is None or self._modulus is None or self._lag_s is None:
            return None
        expected = self._last_counter
        for counter in counters:
            expected = (expected + 1) % self._modulus
            if counter != expected:
                return None
        next_number = self._next_number + len(counters)
        lag_s = host_t_s - next_number * self._frame_s
        if lag_s - self._lag_s >= self._late_s:
            return None
        number, self._next_number, self._last_counter, self._lag_s = self._next_number, next_number, expected, lag_s
        return number

    def _steps(self, counters: NDArray[np.int64] | None, n_frames: int) -> NDArray[np.int64]:
        """By how much each frame's number exceeds that of the one before; 0 for a frame to drop."""
        if counters is None or self._modulus is None:
            return np.ones(n_frames, np.int64)
        previous = int(counters[0]) - 1 if self._last_counter is None else self._last_counter
        steps = np.diff(counters, prepend=previous) % self._modulus
        if (steps == 1).all():
            self._last_counter = int(counters[-1])
            return steps
        for index, counter in enumerate(counters.tolist()):
            step = (counter - previous) % self._modulus
            if step == 0:
                self.duplicate_frames += 1
            elif step >= self._modulus - LATE_FRAMES:
                self.late_frames += 1
                step = 0
            else:
                previous = counter
            steps[index] = step
        self._last_counter = previous
        return steps

    def _first_odd(self, steps: NDArray[np.int64]) -> int:
        odd = np.flatnonzero(steps > 1)
        return int(odd[0]) if odd.size else int(np.argmax(steps > 0))

    def _missed_turns(self, n_steps: int, host_t_s: float) -> int:
        if self._lag_s is None or not n_steps:
            return 0
        late_s = host_t_s - (self._next_number + n_steps) * self._frame_s - self._lag_s
        return 0 if late_s < self._late_s else round(late_s / (self._turn_frames * self._frame_s))
