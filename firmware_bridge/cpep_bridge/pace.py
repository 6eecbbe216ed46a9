"""When to read a stream: rarely enough to be cheap, and soon after the last frame of each read has arrived.

The cost of a read is mostly the wake-up: after a sleep the caches are cold, and decoding takes ten times as long as in
a loop. So the frames of 20 ms are read together. Reads end at whole multiples of 20 ms after the stream's first sample.
Windows and hops that are multiples of 20 ms end there too, so a decision does not wait for the next read.
"""

import time

READ_EVERY_S = 0.020

_LATE_S = 0.001  # delay of a read after its last frame arrives, so that jitter does not make it too early
_CREEP_S = 0.0001  # how much earlier each read is than the one before


class Pace:
    """Sleeps from one read of a stream to the next.

    A read that finds its frames already waiting does not show when they arrived. So each read is a little earlier than
    the one before, until one is too early. That one waits on the line for its last frame, which shows the arrival time,
    and the next read is due one period and a millisecond later. So about nine reads in ten cost a single wake-up.
    """

    def __init__(self, frame_s: float = READ_EVERY_S) -> None:
        """frame_s: time from one frame of the stream to the next"""
        self._n_frames = max(1, int(READ_EVERY_S / frame_s + 0.01))  # frames per read
        self._period_s = self._n_frames * frame_s
        self._stop = self._n_frames  # how many frames the stream has had when the next read is complete
        self.due_s = 0.0  # when to read next, as time.monotonic()
        self._too_early = True

    def rest(self) -> None:
        """Sleep until the next read is due."""
        wait_s = self.due_s - time.monotonic()
        if wait_s > 0:
            time.sleep(min(wait_s, self._period_s))

    def note(self, n_frames: int, host_t_s: float) -> None:
        """Note that the stream had had `n_frames`, lost ones included, when a read ended at `host_t_s`."""
        if n_frames < self._stop:
            self.due_s, self._too_early = host_t_s, True
            return
        if n_frames >= self._stop + self._n_frames:  # a backlog, or a stream faster than real time
            self.due_s = host_t_s
        elif self._too_early:
            self.due_s = host_t_s + self._period_s + _LATE_S
        else:
            self.due_s += self._period_s - _CREEP_S
        self._stop = (n_frames // self._n_frames + 1) * self._n_frames
        self._too_early = False
