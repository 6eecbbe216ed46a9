"""Time calls in turns that each need their own process, such as runtimes with their own threads.

Such threads spin for milliseconds after their work and so take processors from the call that runs next: in one process
with torch, XNNPACK on two threads took twice as long as alone. So each call has its own process and runs for a stretch
while the others wait. A pause before every stretch lets the threads of the last one fall asleep. The first runs of a
stretch wake threads and fill caches, and are not counted.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

from cpep_bench.latency import Latency, check_runs
from cpep_edge.errors import CpepError

STRETCH_RUNS = 20
_WAKING_RUNS = 5
_PAUSE_S = 0.05

_Pair = tuple[int, int]  # nanoseconds of one run: wall-clock time, and CPU time of the calling thread


@dataclass(frozen=True, slots=True)
class TurnTimes:
    """The times of one process's runs."""

    wall: Latency
    thread: Latency  # CPU time of the calling thread only, which other work on the machine does not lengthen


def interleave(commands: Mapping[str, Sequence[str]], n_runs: int) -> dict[str, TurnTimes]:
    """Start a process with each command, which must call `serve`, and time their calls in turns.

    Raises CpepError with its error message when a process fails, ValueError for fewer than 200 runs.
    """
    check_runs(n_runs)
    times: dict[str, list[_Pair]] = {name: [] for name in commands}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(_Server(name, command)) for name, command in commands.items()}
        for done in range(0, n_runs, STRETCH_RUNS):
            for name, server in servers.items():
                time.sleep(_PAUSE_S)
                times[name] += server.run(min(STRETCH_RUNS, n_runs - done))
    return {name: _times(pairs) for name, pairs in times.items()}


def same_packages() -> dict[str, str]:
    """An environment in which a new process finds the same packages as this one."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def serve(call: Callable[[], object], before: Callable[[], object] = lambda: None) -> None:
    """In a process started by `interleave`: time `call` as often as each line of stdin says, until stdin closes.

    before: is called before each call, not timed
    """
    _say([])  # ready
    for line in sys.stdin:
        for _ in range(_WAKING_RUNS):
            call()
        _say([_timed(call, before) for _ in range(int(line))])


def _timed(call: Callable[[], object], before: Callable[[], object]) -> _Pair:
    before()
    start_ns, start_thread_ns = time.perf_counter_ns(), time.thread_time_ns()
    call()
    return time.perf_counter_ns() - start_ns, time.thread_time_ns() - start_thread_ns


def _say(answer: list[_Pair]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _times(pairs: list[_Pair]) -> TurnTimes:
    wall, thread = (Latency(tuple(value * 1e-6 for value in column)) for column in zip(*pairs, strict=True))
    return TurnTimes(wall, thread)


class _Server:
    """A process that runs `serve`; `with` starts it, waits until it is ready, and ends it."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self._name, self._command = name, command

    def __enter__(self) -> "_Server":
        self._errors = TemporaryFile()  # not a pipe, which would fill up unread
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=same_packages(),
        )
        try:
            self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate()
        self._errors.close()

    def run(self, n_runs: int) -> list[_Pair]:
        """The times of so many runs. Raises CpepError when the process ended."""
        stdin = self._stream(self._process.stdin)
        try:
            stdin.write(f"{n_runs}\n")
            stdin.flush()
        except BrokenPipeError:  # its error message is in self._errors
            pass
        return self._answer()

    def _answer(self) -> list[_Pair]:
        line = self._stream(self._process.stdout).readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise CpepError(f"the process of {self._name} failed: {said[-1]}")
        answer: list[_Pair] = json.loads(line)
        return answer

    def _stream(self, stream: IO[str] | None) -> IO[str]:
        if stream is None:
            raise ValueError("a process without pipes")
        return stream
