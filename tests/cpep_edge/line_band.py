"""A simulated home-made band: text lines on a pseudo-terminal, and a wearer who follows instructions.

It shares no code with the project's simulators and drivers; it writes lines like an Arduino's.
"""

import itertools
import os
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from tests.cpep_edge.arm import Arm

PROFILE = """
name = "my band"
source = "home-made"
baud = [115200]
sample_rate_hz = {rate_hz}
n_channels = {n_channels}
uv_per_count = 0.1

[lines]
separator = ","
first_column = 1
counter_column = 0
counter_modulus = 65536
"""


class LineBand:
    """Streams the arm's current gesture, several times faster than real time; `does` changes the gesture."""

    def __init__(self, arm: Arm, speed: float = 4.0) -> None:
        self._arm, self._speed = arm, speed
        self._turns: tuple[tuple[str, ...], float] = (("Rest",), 1.0)
        self._wearing, self._switched = 0, threading.Event()
        self._switched.set()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._stream, daemon=True)

    def __enter__(self) -> "LineBand":
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.port = os.ttyname(self._slave)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        os.close(self._master)
        os.close(self._slave)

    def does(self, gesture: str) -> None:
        """Make this gesture from now on."""
        self._turns = ((gesture,), 1.0)

    def does_in_turn(self, gestures: tuple[str, ...], seconds: float = 1.5) -> None:
        """Make these gestures in turn from now on, each for so many seconds of the band's clock."""
        self._turns = (gestures, seconds)

    def turn(self, electrodes: int) -> None:
        """Put the band on again, turned by some electrodes."""
        self._wearing = electrodes

    def switch(self, on: bool) -> None:
        """Switch the band on or off; while off it sends nothing."""
        (self._switched.set if on else self._switched.clear)()

    def profile(self, folder: Path) -> Path:
        """Write the band's profile, for `--device`."""
        file = folder / "my-band.toml"
        file.write_text(PROFILE.format(rate_hz=self._arm.rate_hz, n_channels=self._arm.n_channels), encoding="utf-8")
        return file

    def _stream(self) -> None:
        began_s, n_sent, n = time.monotonic(), 0, 0
        samples = self._samples()
        while not self._ending.is_set():
            due = round((time.monotonic() - began_s) * self._speed * self._arm.rate_hz)
            for _ in range(n_sent, due):
                counts = np.rint(next(samples) / 0.1).astype(int)
                if self._switched.is_set():
                    line = ",".join(map(str, (n % 65536, *counts.tolist()))) + "\r\n"
                    try:
                        os.write(self._master, line.encode())
                    except BlockingIOError:  # no reader: drop the line, as an Arduino does
                        pass
                n += 1
            n_sent = due
            time.sleep(0.005)

    def _samples(self) -> Iterator[NDArray[np.float32]]:
        for tenth in itertools.count():
            gestures, seconds = self._turns
            gesture = gestures[int(0.1 * tenth / seconds) % len(gestures)]
            yield from self._arm.make(gesture, 0.1, turned=self._wearing)
