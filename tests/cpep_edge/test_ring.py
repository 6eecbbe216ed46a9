import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpep_edge.ring import MirroredRing


def ramp(start: int, stop: int) -> np.ndarray:
    """Samples whose values are their indices in the stream, on two channels of opposite sign."""
    index = np.arange(start, stop, dtype=np.float32)
    return np.stack([index, -index], axis=1)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 50))
def test_a_window_is_the_stream_s_own_samples_or_none(sizes, n_samples):
    ring = MirroredRing(2, 64)
    for size in sizes:
        ring.write(ramp(ring.end_index, ring.end_index + size))
    for end_index in range(n_samples, ring.end_index + 5):
        window = ring.window(end_index, n_samples)
        held = end_index <= ring.end_index and end_index - n_samples >= ring.end_index - 64
        assert (window is not None) == held
        assert window is None or np.array_equal(window, ramp(end_index - n_samples, end_index).T)


def test_nothing_from_before_a_restart_is_handed_out():
    ring = MirroredRing(2, 64)
    ring.write(ramp(0, 60))
    ring.restart(1000)
    ring.write(ramp(1000, 1010))
    assert ring.window(1010, 11) is None
    assert np.array_equal(ring.window(1010, 10), ramp(1000, 1010).T)


def test_a_block_larger_than_the_ring_is_refused():
    with pytest.raises(ValueError, match="65 samples do not fit"):
        MirroredRing(2, 64).write(ramp(0, 65))


def test_a_reader_beside_a_writer_never_sees_a_torn_window():
    ring = MirroredRing(2, 256)
    done = threading.Event()

    def write() -> None:
        for start in range(0, 200_000, 10):
            ring.write(ramp(start, start + 10))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while not done.is_set():
        end_index = ring.end_index
        window = ring.window(end_index, 128)
        if window is not None:
            seen += 1
            assert np.array_equal(window, ramp(end_index - 128, end_index).T)
    writer.join()
    assert seen > 0
