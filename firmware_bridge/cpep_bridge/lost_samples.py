"""Count a stream's lost samples: every sample that the device sent is either passed on once or counted as lost.

The wire carries `seq` modulo 2^16 and `sample_index` modulo 2^32; here both are unwrapped.
"""

from collections import deque

_HALF_TURN = 1 << 31  # half the range of `sample_index` on the wire
N_GAPS = 256  # gaps remembered, to tell a late frame from a duplicate


class StreamLedger:
    """Decides for each DATA frame of a stream whether its samples are new, and counts the missing ones.

    A stream starts at seq 0 and sample 0, so losses before the first frame that arrives are counted too.
    """

    def __init__(self) -> None:
        self.lost_frames = 0
        self.lost_samples = 0
        self.duplicate_frames = 0
        self.late_frames = 0
        self._gaps: deque[tuple[int, int]] = deque(maxlen=N_GAPS)  # first sample lost, one past the last
        self.restart()

    def restart(self) -> None:
        """Expect a new stream; the counts continue."""
        self._next_seq = 0
        self._next_index = 0
        self._frame_samples = 0  # in the newest frame
        self._gaps.clear()

    @property
    def next_index(self) -> int:
        """The unwrapped index of the sample that is expected next."""
        return self._next_index

    def ahead(self, sample_index: int) -> int:
        """How many samples a `sample_index` is past the expected one; negative when it was due earlier."""
        # of the indices that wrap to this value, the nearest
        return (sample_index - self._next_index + _HALF_TURN) % (2 * _HALF_TURN) - _HALF_TURN

    def accept(self, seq: int, sample_index: int, n_samples: int) -> int | None:
        """The unwrapped index of a frame's first sample, or None when the frame must be dropped.

        A frame is dropped when its samples were passed on before (duplicate) or were already counted as lost (late).
        """
        ahead = self.ahead(sample_index)
        if ahead < 0:
            if any(first <= self._next_index + ahead < stop for first, stop in self._gaps):
                self.late_frames += 1
            else:
                self.duplicate_frames += 1
            return None
        self._frame_samples = n_samples
        if ahead:
            self._lose(seq, ahead)
        index = self._next_index + ahead
        self._next_index = index + n_samples
        self._next_seq = (seq + 1) & 0xFFFF
        return index

    def finish(self, next_seq: int, sample_index: int) -> None:
        """Count what is missing at the end of a stream; the device reports the end's seq and sample_index."""
        ahead = self.ahead(sample_index)
        if ahead > 0:
            self._lose(next_seq, ahead)
            self._next_index += ahead
            self._next_seq = next_seq

    def _lose(self, seq: int, n_lost: int) -> None:
        skipped = (seq - self._next_seq) & 0xFFFF
        if self._frame_samples:  # how often the u16 counter wrapped, estimated from the number of missing samples
            skipped += max(0, round((n_lost / self._frame_samples - skipped) / 0x10000)) * 0x10000
        self.lost_frames += skipped
        self.lost_samples += n_lost
        self._gaps.append((self._next_index, self._next_index + n_lost))
