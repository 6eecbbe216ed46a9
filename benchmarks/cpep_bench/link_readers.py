"""What reading a device costs: our drivers beside bare pyserial and BrainFlow, in turns, on the same simulated devices.

The device and each reader run in their own processes. Delay is the time from a sample to its arrival, minus the clock's
drift and the least delay of the run, because every reader has the delay of the pty and the simulator's loop.
"""

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpep_bench.interleaving import same_packages
from cpep_bench.latency import MIN_RUNS
from cpep_edge.errors import CpepError

BAND_RATE_HZ, BAND_FRAME_BYTES = 2_000.0, 347
SETTLE_S = 0.5  # the start of a run, which is left out
CYTON_RATE_HZ, CYTON_FRAME_BYTES = 250.0, 33
SECONDS, ROUNDS = 5.0, 3

Arrivals = list[tuple[float, float]]  # for the last sample of each read: its time by the device, its arrival


@dataclass(frozen=True, slots=True)
class LinkFigure:
    """The cost of one reader: medians over several runs."""

    device: str  # simulated, on a pty
    reader: str
    setting: str
    cpu_percent: float  # of a core
    delay_p50_ms: float  # of the last sample of a read, beyond the least delay of the run
    delay_p99_ms: float | None  # None: too few reads
    read_every_ms: float


def measure_readers(names: Sequence[str], seconds: float = SECONDS, rounds: int = ROUNDS) -> tuple[LinkFigure, ...]:
    """Measure these readers in turns, `rounds` times, each in its own process.

    names: of `READERS`
    Raises CpepError when a reader fails.
    """
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for device in dict.fromkeys(READERS[name].simulated for name in names):
        readers = [name for name in names if READERS[name].simulated == device]
        with _running(device) as port:
            for _ in range(rounds):
                for name in readers:
                    runs[name].append(_in_a_process(name, port, seconds))
    return tuple(_figure(READERS[name], results) for name, results in runs.items())


def cost_of(read: Callable[[str, float], Arrivals], port: str, seconds: float) -> dict[str, float]:
    """The cost of reading a port for so many seconds in this process, without opening and imports.

    returns: the fields of `LinkFigure`, and `n_reads`
    """
    read(port, 0.3)
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    arrivals = np.array(read(port, seconds))
    cpu_s = getattr(read, "cpu_s", time.process_time() - started_cpu_s)
    wall_s = seconds if hasattr(read, "cpu_s") else time.monotonic() - started_s
    arrivals = arrivals[arrivals[:, 0] > SETTLE_S]
    delays_ms = (arrivals[:, 1] - arrivals[:, 0]) * 1e3
    delays_ms -= np.polyval(np.polyfit(arrivals[:, 0], delays_ms, 1), arrivals[:, 0])
    p50, p99 = np.percentile(delays_ms - delays_ms.min(), (50, 99))
    return {
        "n_reads": len(delays_ms),
        "cpu_percent": 100 * cpu_s / wall_s,
        "delay_p50_ms": float(p50),
        "delay_p99_ms": float(p99),
        "read_every_ms": float(np.median(np.diff(arrivals[:, 1]))) * 1e3,
    }


def main() -> None:
    """Run as one of the processes that `measure_readers` starts: a device or a reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--reader", nargs=2, metavar=("NAME", "PORT"))
    parser.add_argument("--device")
    arguments = parser.parse_args()
    if arguments.device:
        _be(arguments.device)
    else:
        name, port = arguments.reader
        sys.stdout.write(json.dumps(cost_of(READERS[name].read, port, arguments.seconds)))


def read_raw(port: str, start: bytes, stop: bytes, frame_bytes: int, frame_s: float, seconds: float) -> Arrivals:
    """Read with `select` and `os.read` only."""
    import serial

    with serial.Serial(port, timeout=0, exclusive=True) as line:
        descriptor, arrivals, n_bytes = line.fileno(), list[tuple[float, float]](), 0
        line.write(start)
        end_s = time.monotonic() + seconds
        while (now_s := time.monotonic()) < end_s:
            select.select([descriptor], [], [], 0.5)
            with suppress(BlockingIOError):
                n_bytes += len(os.read(descriptor, 65_536))
            arrivals.append((n_bytes // frame_bytes * frame_s, now_s))
        line.write(stop)
        time.sleep(0.1)
    return [(sample_s, next_s) for (sample_s, _), (_, next_s) in pairwise(arrivals)]


def read_pyserial(port: str, start: bytes, stop: bytes, frame_bytes: int, frame_s: float, seconds: float) -> Arrivals:
    """Read with pyserial's `read(in_waiting or 1)`, as most programs do."""
    import serial

    with serial.Serial(port, timeout=0.5, exclusive=True) as line:
        arrivals, n_bytes = list[tuple[float, float]](), 0
        line.write(start)
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            n_bytes += len(line.read(line.in_waiting or 1))
            arrivals.append((n_bytes // frame_bytes * frame_s, time.monotonic()))
        line.write(stop)
        time.sleep(0.1)
    return arrivals


def read_ours(port: str, device: str, seconds: float) -> Arrivals:
    """Read with our driver, which gives samples in microvolts and counts every loss."""
    from cpep_bridge.devices import open_source

    arrivals: Arrivals = []
    with open_source(port, device=device) as source:
        rate_hz, end_s = source.info.sample_rate_hz, time.monotonic() + seconds
        for block in source:
            arrivals.append(((block.sample_index + len(block.samples_uv)) / rate_hz, block.host_t_s))
            if block.host_t_s > end_s:
                break
    return arrivals


def read_brainflow(port: str, seconds: float) -> Arrivals:
    """Read with BrainFlow's native client, whose samples are fetched four times a second."""
    from brainflow.board_shim import BoardIds, BoardShim, BrainFlowInputParams  # type: ignore[import-untyped,unused-ignore]

    BoardShim.disable_board_logger()
    parameters = BrainFlowInputParams()
    parameters.serial_port = port
    board = BoardShim(BoardIds.CYTON_BOARD.value, parameters)
    board.prepare_session()
    started = time.process_time()
    board.start_stream()
    pieces, end_s = [], time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(0.25)
        pieces.append(board.get_board_data())
    streamed = time.process_time() - started
    board.stop_stream()
    board.release_session()
    stamps = np.concatenate([piece[BoardShim.get_timestamp_channel(BoardIds.CYTON_BOARD.value)] for piece in pieces])
    read_brainflow.cpu_s = streamed  # type: ignore[attr-defined]
    return [((n + 1) / CYTON_RATE_HZ, float(stamp)) for n, stamp in enumerate(stamps)]


def _band_commands() -> tuple[bytes, bytes]:
    from cpep_bridge.frames import DELIMITER, Start, Stop, encode_frame

    return DELIMITER + encode_frame(Start(1)), encode_frame(Stop(2))


@dataclass(frozen=True, slots=True)
class _Reader:
    """One way to read one device."""

    device: str
    name: str
    setting: str
    read: Callable[[str, float], Arrivals]  # a port, for so many seconds
    simulated: str  # name of the simulated device in `_be`


BAND, CYTON = "band, 16 channels at 2 kHz", "Cyton, 8 channels at 250 Hz"
_OURS = "every frame checked, samples in microvolts, losses counted"
_BARE = "read(in_waiting or 1), nothing decoded"


def _ours_on(port: str, seconds: float, *, device: str) -> Arrivals:
    return read_ours(port, device, seconds)


def _bare_on(port: str, seconds: float, *, layout: Sequence[Any]) -> Arrivals:
    start, stop, frame_bytes, frame_s = layout
    return read_pyserial(port, start, stop, frame_bytes, frame_s, seconds)


def _of_boards() -> Iterator[tuple[str, _Reader]]:
    """Our driver and bare pyserial on each other board whose frames have one size."""
    from cpep_bridge.board_profile import find_profile
    from cpep_bridge.chords import START, STOP

    boards = {"chords": ("NPG-Lite by USB, 3 channels at 500 Hz", START, STOP, 10, 0.002)}
    for name in ("freeeeg32", "umyo", "emager", "neuropawn-knight"):
        profile = find_profile(name)
        assert profile is not None
        assert profile.frame is not None
        title = f"{profile.name}, {profile.n_channels} channels at {profile.sample_rate_hz:g} Hz"
        start, stop = profile.commands.start.encode(), profile.commands.stop.encode()
        frame_s = profile.frame.n_samples / profile.sample_rate_hz
        boards[name] = title, start, stop, profile.frame.size_bytes, frame_s
    for name, (title, *layout) in boards.items():
        yield f"{name}-ours", _Reader(title, "cpep-edge", _OURS, partial(_ours_on, device=name), name)
        yield f"{name}-pyserial", _Reader(title, "pyserial", _BARE, partial(_bare_on, layout=layout), name)


READERS: Mapping[str, _Reader] = {
    "band-ours": _Reader(BAND, "cpep-edge", _OURS, lambda port, s: read_ours(port, "cpep", s), "band"),
    "band-pyserial": _Reader(
        BAND,
        "pyserial",
        _BARE,
        lambda port, s: read_pyserial(port, *_band_commands(), BAND_FRAME_BYTES, 0.005, s),
        "band",
    ),
    "band-select": _Reader(
        BAND,
        "pyserial's port, select",
        "select and os.read, nothing decoded",
        lambda port, s: read_raw(port, *_band_commands(), BAND_FRAME_BYTES, 0.005, s),
        "band",
    ),
    "cyton-ours": _Reader(CYTON, "cpep-edge", _OURS, lambda port, s: read_ours(port, "cyton", s), "cyton"),
    "cyton-pyserial": _Reader(
        CYTON, "pyserial", _BARE, lambda port, s: read_pyserial(port, b"b", b"s", CYTON_FRAME_BYTES, 0.004, s), "cyton"
    ),
    "cyton-brainflow": _Reader(
        CYTON, "BrainFlow", "its own thread and stamps, samples fetched every 250 ms", read_brainflow, "cyton"
    ),
    **dict(_of_boards()),
}
LINK_PEERS: Mapping[str, tuple[str, ...]] = {  # by name in `--vs`: the readers to measure in turns
    "pyserial": ("band-ours", "band-pyserial", "band-select"),
    "brainflow": ("cyton-ours", "cyton-brainflow"),
}


def _be(device: str) -> None:
    """Run a simulated device until stdin closes."""
    from cpep_bridge.board_models import BOARD_MODELS, SimulatedProfile
    from cpep_bridge.board_profile import find_profile
    from cpep_bridge.simulated import Simulated
    from cpep_bridge.simulated_boards import SimulatedBoard
    from cpep_bridge.simulator import SimulatedBand

    def signal(n_samples: int, n_channels: int) -> NDArray[np.float32]:
        return np.random.default_rng(0).normal(0, 100, (n_samples, n_channels)).astype(np.float32)

    simulated: Simulated
    if device == "band":
        simulated = SimulatedBand([signal(20_000, 16)], BAND_RATE_HZ)
    else:
        profile = find_profile(device)
        model = BOARD_MODELS[device]() if profile is None else SimulatedProfile(profile)
        simulated = SimulatedBoard(model, [signal(5_000, model.n_channels)])
    with simulated:
        sys.stdout.write(f"{simulated.port}\n")
        sys.stdout.flush()
        sys.stdin.read()


@contextmanager
def _running(device: str) -> Iterator[str]:
    """The port of a simulated device in its own process."""
    command = [sys.executable, "-m", __spec__.name, "--device", device]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=same_packages()
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise OSError(f"cannot talk to the simulated {device}")
        yield process.stdout.readline().strip()
        process.stdin.close()


def _in_a_process(name: str, port: str, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", __spec__.name, "--reader", name, port, "--seconds", str(seconds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=same_packages(), check=True)
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CpepError(f"the reader {name} failed: {last_line}") from error
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _figure(reader: _Reader, results: list[dict[str, float]]) -> LinkFigure:
    middle = {key: statistics.median(result[key] for result in results) for key in results[0]}
    n_reads = min(result["n_reads"] for result in results)
    return LinkFigure(
        device=reader.device,
        reader=reader.name,
        setting=reader.setting,
        cpu_percent=middle["cpu_percent"],
        delay_p50_ms=middle["delay_p50_ms"],
        delay_p99_ms=middle["delay_p99_ms"] if n_reads >= MIN_RUNS else None,
        read_every_ms=middle["read_every_ms"],
    )


if __name__ == "__main__":
    main()
