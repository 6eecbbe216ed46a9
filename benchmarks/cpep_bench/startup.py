"""What a fresh process pays before the first answer: import, load, first inference, and the memory it reaches.

The measurement needs a process of its own, which runs this file: whatever the benchmark itself has imported or warmed
up would hide what a device sees. The number of threads is fixed when a process loads its first program, so encoders of
several numbers of threads are timed here too.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from cpep_edge.errors import CpepError

TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Startup:
    """One fresh process from its start to its first vote, in the order of the fields."""

    process_ms: float  # the interpreter, up to the first line of ours
    import_ms: float  # this package, numpy, hnswlib; torch and the runtime where the bundle carries no library
    load_ms: float  # hashes, encoder, index, filter; scipy where the bundle carries no library
    first_inference_ms: float  # filter, encoder and vote of one window
    process_rss_mb: float  # resident memory at the first line of ours; 1 MB = 10^6 bytes
    import_rss_mb: float  # after the import
    load_rss_mb: float  # after loading
    peak_rss_mb: float  # largest of the process

    @property
    def total_ms(self) -> float:
        """From the start of the process to the first vote."""
        return self.process_ms + self.import_ms + self.load_ms + self.first_inference_ms


@dataclass(frozen=True, slots=True)
class FreshProcess:
    """A start, and the encoder's times after it."""

    startup: Startup
    encoder_ms: tuple[float, ...]  # empty when none were asked for


def run_fresh(bundle: Path, n_threads: int = 1, n_runs: int = 0) -> FreshProcess:
    """Start a process that opens `bundle`, recognises one window, and times the encoder `n_runs` times more.

    Raises CpepError when that process fails.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    arguments = (str(bundle), str(n_threads), str(n_runs), str(time.time()))
    command = [sys.executable, "-m", "cpep_bench.startup", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=True)
    except subprocess.TimeoutExpired as error:
        raise CpepError(f"{bundle}: a fresh process did not recognise its first window in {TIMEOUT_S:g} s") from error
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CpepError(f"{bundle}: a fresh process could not run it: {last_line}") from error
    said = json.loads(done.stdout)
    return FreshProcess(Startup(**said["startup"]), tuple(said["encoder_ms"]))


def _be_fresh(bundle: Path, n_threads: int, n_runs: int, started_s: float) -> FreshProcess:
    times_s, rss_mb = [started_s, time.time()], [_memory_mb("VmRSS")]
    import numpy as np

    from cpep_edge.bundle import Bundle
    from cpep_edge.encoder import import_runtime
    from cpep_edge.recogniser import Recogniser

    opened = Bundle(bundle)
    if opened.manifest.native is None:  # otherwise the bundle brings its own runtime, which loads with it
        import_runtime()
    times_s.append(time.time())
    rss_mb.append(_memory_mb("VmRSS"))
    recogniser = Recogniser(opened, n_threads)
    preprocess = recogniser.preprocessor()
    times_s.append(time.time())
    rss_mb.append(_memory_mb("VmRSS"))
    spec = opened.manifest.encoder
    signal_uv = np.random.default_rng(0).normal(0, 100, (spec.window_samples, spec.n_channels)).astype(np.float32)
    window = np.ascontiguousarray(preprocess(signal_uv).T)
    recogniser.recognise(window)
    times_s.append(time.time())
    process_ms, import_ms, load_ms, first_ms = (np.diff(times_s) * 1e3).tolist()
    rss_mb.append(_memory_mb("VmHWM"))
    startup = Startup(process_ms, import_ms, load_ms, first_ms, *rss_mb)
    if not n_runs:
        return FreshProcess(startup, ())
    from cpep_bench.latency import measure

    return FreshProcess(startup, measure(lambda: recogniser.encoder.embed(window), n_runs).times_ms)


def _memory_mb(field: str) -> float:
    """The kernel's own mark of this process; the peak of getrusage would start from that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024e-6


if __name__ == "__main__":
    fresh = _be_fresh(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    sys.stdout.write(json.dumps(asdict(fresh)))
