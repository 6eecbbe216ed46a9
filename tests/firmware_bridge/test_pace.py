"""Reads are rare, come soon after a frame, and end where windows end; in simulated time."""

from collections.abc import Iterator

import numpy as np
import pytest

from cpep_bridge.pace import READ_EVERY_S, Pace

FRAME_S = 0.005
N_FRAMES = 4  # per read


def reads(arrivals_s: list[float], wake_jitter_s: float = 0.0) -> Iterator[tuple[int, float, bool]]:
    """For each read: the number of frames so far, the time of its end, and whether it also had to wait for the line."""
    pace, n_frames, now_s = Pace(FRAME_S), 0, 0.0
    jitter = np.random.default_rng(2)
    while n_frames < len(arrivals_s):
        now_s = max(now_s, pace.due_s + jitter.uniform(0, wake_jitter_s) if pace.due_s > now_s else now_s)
        waits = arrivals_s[n_frames] > now_s
        now_s = max(now_s, arrivals_s[n_frames])
        while n_frames < len(arrivals_s) and arrivals_s[n_frames] <= now_s:
            n_frames += 1
        pace.note(n_frames, now_s)
        yield n_frames, now_s, waits


@pytest.mark.parametrize("drift_ppm", [-100, 0, 100])
def test_a_steady_stream_is_read_soon_after_each_fourth_frame(drift_ppm):
    rng = np.random.default_rng(1)
    due_s = np.arange(1, 8_001) * FRAME_S * (1 + drift_ppm * 1e-6)
    arrivals_s = np.maximum.accumulate(due_s + rng.uniform(0, 0.0005, len(due_s))).tolist()
    made = list(reads(arrivals_s, wake_jitter_s=0.0003))[40:]
    ends = [(n, at_s) for n, at_s, _ in made if n % N_FRAMES == 0]
    late_s = [at_s - arrivals_s[n - 1] for n, at_s in ends]

    assert [n for n, _ in ends] == list(range(ends[0][0], 8_001, N_FRAMES))
    assert len(made) < 1.25 * len(ends)
    assert sum(waits for _, _, waits in made) < 0.25 * len(ends)  # the others needed one wake-up
    assert np.median(late_s) < 0.001
    assert max(late_s) < 0.002


def test_after_lost_frames_and_a_stalled_reader_reads_end_at_whole_multiples_again():
    pace = Pace(FRAME_S)
    pace.note(4, 1.0)
    pace.note(9, 1.050)  # the reader was one frame late
    assert pace.due_s < 1.050 + READ_EVERY_S
    pace.note(11, 1.056)  # before the twelfth frame: wait for the line
    assert pace.due_s == 1.056
    pace.note(12, 1.060)
    assert pace.due_s == pytest.approx(1.060 + READ_EVERY_S, abs=0.0011)


def test_a_backlog_is_read_without_rest():
    pace = Pace(FRAME_S)
    pace.note(4, 1.0)
    pace.note(60, 1.020)

    assert pace.due_s == 1.020


def test_frames_longer_than_a_read_are_read_one_by_one():
    pace = Pace(0.030)
    pace.note(1, 5.0)

    assert pace.due_s == pytest.approx(5.030, abs=0.0011)
