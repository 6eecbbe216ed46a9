"""When to read a stream: rarely enough to be cheap, and soon after the frame that completes a read.

What a read costs is the wake-up: after a sleep the caches are cold, and decoding takes ten times as long as in a loop.
So the frames of 20 ms are read together. Reads end at whole multiples of that since the stream's first sample, where
windows and hops of whole multiples end too: a sample that a decision waits for does not wait for a read.
"""

import time

READ_EVERY_S = 0.020

_LATE_S = 0.001  # after its last frame comes, so that jitter does not make a read too early
_CREEP_S = 0.0001  # by how much the next read is earlier


class Pace:
    """Sleeps from one read of a stream to the next.

    When a frame came, a read that finds it waiting does not show. So each read is a little earlier than the one before,
    until one comes too early: it waits on the line for the frame that is missing, and the next ones follow that frame's
    time by a millisecond. All but about one read in ten so cost a single wake-up.
    """

    def __init__(self, frame_s: float = READ_EVERY_S) -> None:
        """frame_s: from one frame of the stream to the next"""
        self._n_frames = max(1, int(READ_EVERY_S / frame_s + 0.01))  # of a read
        self._period_s = self._n_frames * frame_s
        self._stop = self._n_frames  # number of the stream's frames with which the next read ends
        self.due_s = 0.0  # when to read next, as time.monotonic()
        self._too_early = True

    def rest(self) -> None:
        """Sleep until the next read is due."""
        wait_s = self.due_s - time.monotonic()
        if wait_s > 0:
            time.sleep(min(wait_s, self._period_s))

    def note(self, n_frames: int, host_t_s: float) -> None:
        """Note how many frames the stream had, lost ones too, when a read ended at `host_t_s`."""
        if n_frames < self._stop:
            self.due_s, self._too_early = host_t_s, True
            return
        if n_frames >= self._stop + self._n_frames:  # a backlog, or a stream that is played faster
            self.due_s = host_t_s
        elif self._too_early:
            self.due_s = host_t_s + self._period_s + _LATE_S
        else:
            self.due_s += self._period_s - _CREEP_S
        self._stop = (n_frames // self._n_frames + 1) * self._n_frames
        self._too_early = False
