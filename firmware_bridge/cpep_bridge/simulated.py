"""The common base of all simulated devices: starting and stopping, the port, the true counts of what they sent, and
random faults in their frames."""

import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from cpep_bridge.pty_port import PtyPort

_CUT_BYTES = 64  # most successive bytes that are cut out of a frame


@dataclass(frozen=True, slots=True)
class SentCounts:
    """What a simulated device has sent since its start, to compare a host's counts with."""

    frames: int = 0  # DATA frames made, whether or not they arrived
    samples: int = 0  # samples in those frames
    injected_losses: int = 0  # frames left out on purpose
    overruns: int = 0  # frames dropped because the pty was full
    corrupted: int = 0  # frames with a bit flipped on purpose
    cut: int = 0  # frames with some bytes removed on purpose
    duplicated: int = 0  # frames sent twice on purpose
    noisy: int = 0  # frames sent behind random bytes and a frame with impossible numbers
    reordered: int = 0  # frames sent after their successor, when the host has already counted them as lost
    unplugged: int = 0  # frames that were due while the line was unplugged
    lost_samples: int = 0  # samples in all frames that were left out, dropped or damaged

    @property
    def lost_frames(self) -> int:
        """Frames that cannot have arrived intact and in time."""
        return self.injected_losses + self.overruns + self.corrupted + self.cut + self.reordered + self.unplugged


class Simulated(ABC):
    """A simulated device. `with` runs it; a host opens it at the path `port`."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    @abstractmethod
    def port(self) -> str:
        """Path of the pty. Raises ValueError before start()."""

    @property
    @abstractmethod
    def sent(self) -> SentCounts:
        """The counts so far."""

    @abstractmethod
    def start(self) -> None:
        """Open the pty, make the link, and run. Raises LinkError when the link cannot be made."""

    @abstractmethod
    def stop(self) -> None:
        """Stop at once and hang up. Raises any error of the device's run, such as DataError for a damaged session."""

    @abstractmethod
    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until a device with `once` has finished; returns whether it has. Raises any error of its run."""


class SimulatedThread(Simulated):
    """A simulated device in its own thread, which executes `_run`."""

    def __init__(self, link: Path | None) -> None:
        self._link = link
        self._tally = {field.name: 0 for field in fields(SentCounts)}
        self._pty: PtyPort | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._error: BaseException | None = None

    @property
    def port(self) -> str:
        if self._pty is None:
            raise ValueError("the simulated device was not started")
        return self._pty.path

    @property
    def sent(self) -> SentCounts:
        return SentCounts(**self._tally)

    def start(self) -> None:
        self._pty = PtyPort(self._link)
        self._thread = threading.Thread(target=self._guard, args=(self._pty,), name=type(self).__name__, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self.wait()

    def wait(self, timeout_s: float | None = None) -> bool:
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return not self._thread.is_alive()

    @abstractmethod
    def _run(self, port: PtyPort) -> None:
        """Act as the device on `port` until it has finished or `_stopping` is set."""

    def _guard(self, port: PtyPort) -> None:
        try:
            self._run(port)
        except BaseException as error:  # raised again in wait()
            self._error = error
        finally:
            (self._pty or port).close()  # `_run` may have changed to another pty

    def _made(self, n_samples: int) -> None:
        self._tally["frames"] += 1
        self._tally["samples"] += n_samples

    def _lost(self, how: str, n_samples: int) -> None:
        self._tally[how] += 1
        self._tally["lost_samples"] += n_samples


class Faults:
    """Random faults, drawn frame by frame, so that a seed damages the same frames at any speed."""

    def __init__(self, chances: Mapping[str, float], seed: int) -> None:
        """chances: probability of each kind of fault. Raises ValueError for one outside 0 to 1."""
        for name, chance in chances.items():
            if not 0 <= chance <= 1:
                raise ValueError(f"{name} must be a probability, not {chance}")
        self._chances = chances
        self._random = random.Random(seed)
        self._places = random.Random(seed + 1)

    def draw(self) -> set[str]:
        """The faults of the next frame."""
        return {name for name, chance in self._chances.items() if self._random.random() < chance}

    def noise(self) -> bytes:
        """Random bytes that form no valid frame, with a delimiter."""
        return bytes(self._places.randint(1, 255) for _ in range(self._places.randint(1, 3 * _CUT_BYTES))) + b"\0"

    def damage(self, wire: bytes, fault: set[str]) -> bytes:
        """The frame with a bit flipped or bytes cut out. Its delimiter is kept, so the next frame stays intact."""
        if "cut" in fault:
            start = self._places.randrange(len(wire) - 1)
            stop = min(start + self._places.randint(1, _CUT_BYTES), len(wire) - 1)
            return wire[:start] + wire[stop:]
        if "corrupt" not in fault:
            return wire
        bit = self._places.randrange(8 * (len(wire) - 1))
        damaged = bytearray(wire)
        damaged[bit // 8] ^= 1 << bit % 8
        return bytes(damaged)
