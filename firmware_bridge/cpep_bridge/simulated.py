"""What all simulated devices have in common: how they are started and stopped, where a host finds them, the truth about
what they sent, and chance that harms their frames."""

import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from cpep_bridge.pty_port import PtyPort

_CUT_BYTES = 64  # lost in a run, at most


@dataclass(frozen=True, slots=True)
class SentCounts:
    """What a simulated device did since it was started: the truth that a host's counts are held against."""

    frames: int = 0  # of samples, whatever became of them
    samples: int = 0  # in those
    injected_losses: int = 0  # frames left out on purpose
    overruns: int = 0  # frames dropped because the pty was full
    corrupted: int = 0  # frames damaged on purpose: a bit flipped
    cut: int = 0  # frames that some bytes were taken out of
    duplicated: int = 0  # frames sent twice on purpose
    noisy: int = 0  # frames that noise, or a frame whose numbers cannot be, was sent in front of
    reordered: int = 0  # frames sent after a later one: what arrives late has been given up
    unplugged: int = 0  # frames that fell due while the line was unplugged
    lost_samples: int = 0  # in all the frames that were left out, dropped or damaged

    @property
    def lost_frames(self) -> int:
        """Frames that cannot have arrived intact and in time."""
        return self.injected_losses + self.overruns + self.corrupted + self.cut + self.reordered + self.unplugged


class Simulated(ABC):
    """A simulated device; `with` runs it, and `port` is where a host finds it."""

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
        """End at once and hang up. Raises what went wrong meanwhile, such as DataError for a damaged session."""

    @abstractmethod
    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until a device that plays once has finished; whether it has. Raises what went wrong meanwhile."""


class SimulatedThread(Simulated):
    """A simulated device in a thread of its own: what it does on its pty is `_run`."""

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
        """Be the device until it has finished or `_stopping` is set."""

    def _guard(self, port: PtyPort) -> None:
        try:
            self._run(port)
        except BaseException as error:  # handed over to whoever waits
            self._error = error
        finally:
            (self._pty or port).close()  # it may have taken another one

    def _made(self, n_samples: int) -> None:
        self._tally["frames"] += 1
        self._tally["samples"] += n_samples

    def _lost(self, how: str, n_samples: int) -> None:
        self._tally[how] += 1
        self._tally["lost_samples"] += n_samples


class Faults:
    """Chance, drawn frame by frame, so that the same seed harms the same frames at any speed."""

    def __init__(self, chances: Mapping[str, float], seed: int) -> None:
        """chances: of each kind of harm, 0 to 1. Raises ValueError for one that is no probability."""
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
        """Bytes that are no frame, and their delimiter."""
        return bytes(self._places.randint(1, 255) for _ in range(self._places.randint(1, 3 * _CUT_BYTES))) + b"\0"

    def damage(self, wire: bytes, fault: set[str]) -> bytes:
        """The frame with a bit flipped or bytes cut out, anywhere but its delimiter: so the next one stays whole."""
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
