"""How long it takes to find frames in damaged streams, against their size: time must grow with the bytes, not faster.

python -m cpep_bench.decoding [--out FILE.md]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from cpep_bench.machine import this_machine
from cpep_bridge.chords import chords_layout
from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.fixed_frames import FixedFrameDecoder, FrameLayout, fixed_bytes, pack_frame
from cpep_bridge.frames import Data, SampleFormat, encode_frame
from cpep_bridge.text_lines import LineDecoder, LineLayout
from cpep_edge.versions import code_version

SIZES = (1 << 16, 1 << 18, 1 << 20, 1 << 22)
ROUNDS = 3


class Decoder(Protocol):
    """The interface of all decoders."""

    def feed(self, data: bytes) -> object: ...


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    table = measure()
    sys.stdout.write(table)
    if arguments.out:
        arguments.out.write_text(table)


def measure(sizes: tuple[int, ...] = SIZES, rounds: int = ROUNDS) -> str:
    """The table of the milliseconds of one call of `feed`, for each kind of damage and size."""
    rows = [
        f"| {name} | " + " | ".join(f"{_time_ms(make, stream, size, rounds):.1f}" for size in sizes) + " |"
        for name, make, stream in _cases()
    ]
    machine = this_machine()
    return "\n".join(
        [
            "# Finding frames in damaged streams",
            "",
            f"Milliseconds for so many bytes given at once, median of {rounds}. By `python -m cpep_bench.decoding`, "
            f"code {code_version('firmware_bridge/cpep_bridge')}, {machine.n_cpus} cores shared with other work, "
            f"{machine.cpu}.",
            "",
            "| stream | " + " | ".join(f"{size >> 10} KiB" for size in sizes) + " |",
            "| --- |" + " --- |" * len(sizes),
            *rows,
            "",
        ]
    )


def _cases() -> list[tuple[str, Callable[[], Decoder], bytes]]:
    """The cases: name, decoder, and a piece of the stream, which is repeated."""
    rng = np.random.default_rng(0)
    short = FrameLayout(12, fixed_bytes(0, (0xA5,)), 1, 1, 5, "i16", True)
    frame = pack_frame(short, 0, np.ones((1, 5), np.float32))
    chords = [pack_frame(chords_layout(6), n, np.ones((1, 6), np.float32)) for n in range(256)]
    data = b"".join(encode_frame(Data(n, 10 * n, 0, 10, 16, SampleFormat.I16, 0, rng.bytes(320))) for n in range(64))
    layout = LineLayout(",", (1, 2, 3, 4), 0, 65_536)
    lines = b"".join(b"%d,100,200,300,400\r\n" % (n % 65_536) for n in range(4_096))
    return [
        ("our frames, whole", FrameDecoder, data),
        ("our frames, noise", FrameDecoder, rng.bytes(1 << 16)),
        ("fixed frames, whole", lambda: FixedFrameDecoder(chords_layout(6)), b"".join(chords)),
        ("fixed frames, noise", lambda: FixedFrameDecoder(short), rng.bytes(1 << 16)),
        ("fixed frames, every second one zeros", lambda: FixedFrameDecoder(short), frame + bytes(12)),
        ("fixed frames, a byte too many after each two", lambda: FixedFrameDecoder(short), 2 * frame + b"\0"),
        ("fixed frames, nothing but the sync byte", lambda: FixedFrameDecoder(short), b"\xa5" * 4_096),
        ("lines of text, whole", lambda: LineDecoder(layout), lines),
        ("lines of text, noise", lambda: LineDecoder(layout), rng.bytes(1 << 16)),
    ]


def _time_ms(make: Callable[[], Decoder], piece: bytes, size: int, rounds: int) -> float:
    stream = (piece * (size // len(piece) + 1))[:size]
    times_ms = []
    for _ in range(rounds):
        decoder, started_ns = make(), time.perf_counter_ns()
        decoder.feed(stream)
        times_ms.append((time.perf_counter_ns() - started_ns) / 1e6)
    return statistics.median(times_ms)


if __name__ == "__main__":
    main()
