"""Wait for another thread or process."""

import time
from collections.abc import Callable


def wait(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end_s, "it never came to that"
        time.sleep(0.01)
