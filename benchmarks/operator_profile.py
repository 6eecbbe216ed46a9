"""Where a program's time goes, by kind of operator, inside the delegate too: ExecuTorch's ETDump and Inspector."""

from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from cpep_edge.encoder import import_runtime, quiet_stderr

N_RUNS = 100
_SMALLEST_SHARE = 0.01


def profile_table(program: bytes, shape: tuple[int, int]) -> list[str]:
    """Lines of a Markdown table: kind, calls, milliseconds and share of the time inside delegates.

    program: takes one window, (1, *shape); the medians of 100 runs on one thread, clocked to a microsecond
    """
    calls: dict[str, int] = defaultdict(int)
    took_ms: dict[str, float] = defaultdict(float)
    for name, p50_ms in _delegated(program, shape):
        kind = name.split("#")[0].strip()
        calls[kind] += 1
        took_ms[kind] += p50_ms
    total_ms = sum(took_ms.values())
    kinds = sorted(took_ms, key=lambda kind: -took_ms[kind])
    shown = [kind for kind in kinds if took_ms[kind] >= _SMALLEST_SHARE * total_ms]
    rest_ms = total_ms - sum(took_ms[kind] for kind in shown)
    n_rest = sum(calls[kind] for kind in kinds if kind not in shown)
    return [
        "| XNNPACK operator | calls | ms | share |",
        "| --- | --: | --: | --: |",
        *(f"| {kind} | {calls[kind]} | {took_ms[kind]:.3f} | {took_ms[kind] / total_ms:.0%} |" for kind in shown),
        f"| all others | {n_rest} | {rest_ms:.3f} | {rest_ms / total_ms:.0%} |",
    ]


def _delegated(program: bytes, shape: tuple[int, int]) -> list[tuple[str, float]]:
    from executorch.devtools import Inspector

    _, bindings = import_runtime()
    with TemporaryDirectory() as scratch, quiet_stderr():
        dump = Path(scratch) / "etdump"
        bindings._unsafe_reset_threadpool(1)
        loaded = bindings._load_program_from_buffer(program, enable_etdump=True)
        method = loaded.load_method("forward")
        window = torch.zeros(1, *shape)
        for _ in range(N_RUNS):
            method.call((window,))
        loaded.write_etdump_result_to_file(str(dump), "")
        blocks = [block for block in Inspector(etdump_path=str(dump)).event_blocks if block.name == "Execute"]
    events = [event for block in blocks for event in block.events if event.is_delegated_op and event.perf_data]
    return [(event.name, event.perf_data.p50) for event in events]
