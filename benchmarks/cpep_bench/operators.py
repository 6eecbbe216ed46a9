"""Profile an encoder operator by operator, inside the delegate too: ExecuTorch's ETDump, read by its Inspector.

It needs torch and executorch. It runs in its own process, because a bundle's library and ExecuTorch's bindings would be
two runtimes in one process. Times are means over the faster half of the runs, because one run that had to wait would
outweigh all others.

XNNPACK truncates each run's time to whole microseconds, so more runs do not help, and operators that take less than a
microsecond would vanish. If there is a C compiler, the process therefore gets a clock that runs a thousand times
faster, so that only nanoseconds are truncated.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

from cpep_edge.errors import CpepError

N_RUNS = 100
TIMEOUT_S = 300.0
_WARM_UP_RUNS = 5
CLOCK_FACTOR = 1000  # how many times faster the profiled process's monotonic clock runs
_FAST_CLOCK = f"""
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *now) {{
  int failed = (int)syscall(SYS_clock_gettime, id, now);
  if (failed || id != CLOCK_MONOTONIC) return failed;
  unsigned long long ns = (now->tv_sec * 1000000000ull + (unsigned long long)now->tv_nsec) * {CLOCK_FACTOR};
  now->tv_sec = (time_t)(ns / 1000000000ull);
  now->tv_nsec = (long)(ns % 1000000000ull);
  return 0;
}}
"""
_WHOLE = "Method::execute"
_NUMBER = re.compile(r" #\d+$")  # XNNPACK numbers the operators of a kind


@dataclass(frozen=True, slots=True)
class Operator:
    """All operators of one kind in a program."""

    kind: str
    n_calls: int  # in one window
    mean_us: float  # sum over these operators in one window


@dataclass(frozen=True, slots=True)
class OperatorProfile:
    """The profile of one window of an encoder; the kinds of operators with the most time come first."""

    operators: tuple[Operator, ...]
    total_us: float  # of a window with profiling on, mean of the faster half
    arena_bytes: int  # planned memory outside the delegates, without their own workspace
    step_us: float = 1.0  # resolution to which each operator's time is truncated

    @property
    def between_us(self) -> float:
        """The time outside all operators."""
        return self.total_us - sum(operator.mean_us for operator in self.operators)


def profile_encoder(program: bytes, n_runs: int = N_RUNS) -> OperatorProfile | None:
    """Profile a program that was checked by its hash and ran before; None without torch or executorch.

    Raises CpepError when the profiling process fails.
    """
    if find_spec("torch") is None or find_spec("executorch") is None:
        return None
    with TemporaryDirectory() as folder:
        clock = fast_clock(Path(folder))
        environment = os.environ | ({} if clock is None else {"LD_PRELOAD": str(clock)})
        factor = 1 if clock is None else CLOCK_FACTOR
        command = [sys.executable, "-W", "ignore", "-m", "cpep_bench.operators", str(n_runs), str(factor)]
        try:
            done = subprocess.run(
                command, input=program, capture_output=True, timeout=TIMEOUT_S, check=True, env=environment
            )
        except subprocess.SubprocessError as error:
            raise CpepError(f"the operators of the encoder could not be profiled: {error}") from error
    said = json.loads(done.stdout.splitlines()[-1])
    said["operators"] = tuple(Operator(**operator) for operator in said["operators"])
    return OperatorProfile(**said)


def fast_clock(folder: Path) -> Path | None:
    """Build a library that makes a process's monotonic clock run fast; None without a compiler."""
    compiler, library = shutil.which("gcc"), folder / "clock.so"
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    command = [compiler, "-shared", "-fPIC", "-O2", "-x", "c", "-", "-o", str(library)]
    made = subprocess.run(command, input=_FAST_CLOCK, text=True, capture_output=True, check=False)
    return library if made.returncode == 0 else None


def _profile(program: bytes, n_runs: int, factor: int) -> OperatorProfile:
    import torch
    from executorch.devtools import Inspector
    from executorch.exir._serialize._program import deserialize_pte_binary
    from executorch.extension.pybindings import _C as bindings  # noqa: N811

    bindings._unsafe_reset_threadpool(1)
    module = bindings._load_for_executorch_from_buffer(program, enable_etdump=True, debug_buffer_size=0)
    shape = tuple(module.method_meta("forward").input_tensor_meta(0).sizes())
    window = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for _ in range(_WARM_UP_RUNS + n_runs):
        module.run_method("forward", (window,))
    with NamedTemporaryFile(suffix=".etdump") as file:
        module.write_etdump_result_to_file(file.name)
        blocks = Inspector(etdump_path=file.name).event_blocks  # of loading, and of running
        events = next(block.events for block in blocks if any(event.name == _WHOLE for event in block.events))
    plan = deserialize_pte_binary(program).program.execution_plan[0]
    return summarise(events, sum(plan.non_const_buffer_sizes), factor)


def summarise(events: Sequence[Any], arena_bytes: int, factor: int = 1) -> OperatorProfile:
    """Sum up the Inspector's events by kind of operator; their times are milliseconds, with the warm-up runs first.

    factor: how many times too fast the clock ran
    """
    whole_ms = _times_ms(next(event for event in events if event.name == _WHOLE))
    middle_ms = statistics.median(whole_ms)
    kept = [number for number, time_ms in enumerate(whole_ms) if time_ms <= middle_ms]
    calls: dict[str, int] = defaultdict(int)
    spent_us: dict[str, float] = defaultdict(float)
    for event in events:
        if event.is_delegated_op or event.name.startswith("native_call"):
            kind = _NUMBER.sub("", event.name).replace("(NC, ", "(").replace("(ND, ", "(")
            calls[kind] += 1
            spent_us[kind] += _mean_us(_times_ms(event), kept) / factor
    kinds = sorted(calls, key=lambda kind: -spent_us[kind])
    operators = tuple(Operator(kind, calls[kind], spent_us[kind]) for kind in kinds)
    return OperatorProfile(operators, _mean_us(whole_ms, kept) / factor, arena_bytes, 1 / factor)


def _times_ms(event: Any) -> list[float]:
    times_ms: list[float] = event.perf_data.raw[_WARM_UP_RUNS:]
    return times_ms


def _mean_us(times_ms: list[float], kept: list[int]) -> float:
    return statistics.mean(times_ms[number] for number in kept) * 1e3


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    answer = _profile(sys.stdin.buffer.read(), *map(int, sys.argv[1:3]))
    sys.stdout.write("\n" + json.dumps(asdict(answer)) + "\n")
