"""The cost of a fresh process until its first answer: import, load, first inference, and its memory.

The measurement runs this file in its own process, because packages that the benchmark has already imported and warmed
up would hide costs that a device has.
"""

import json
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

    process_ms: float  # the interpreter, up to the first line of our code
    import_ms: float  # this package, numpy, hnswlib; torch and the runtime if the bundle carries no library
    load_ms: float  # hashes, encoder, index, filter; scipy if the bundle carries no library
    first_inference_ms: float  # filter, encoder and vote of one window
    process_rss_mb: float  # resident memory at the first line of our code; 1 MB = 10^6 bytes
    import_rss_mb: float  # after the import
    load_rss_mb: float  # after loading
    peak_rss_mb: float  # peak of the process

    @property
    def total_ms(self) -> float:
        """The time from the start of the process to the first vote."""
        return self.process_ms + self.import_ms + self.load_ms + self.first_inference_ms


def run_fresh(bundle: Path, manifest_sha256: str, n_threads: int = 1) -> Startup:
    """Start a process that opens exactly this bundle and recognises one window.

    Raises CpepError when that process fails.
    """
    from cpep_bench.interleaving import same_packages  # imported here, so that the fresh process does not import it

    command = [
        sys.executable,
        "-m",
        "cpep_bench.startup",
        str(bundle),
        manifest_sha256,
        str(n_threads),
        str(time.time()),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, env=same_packages(), check=True
        )
    except subprocess.TimeoutExpired as error:
        raise CpepError(f"{bundle}: a fresh process did not recognise its first window in {TIMEOUT_S:g} s") from error
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CpepError(f"{bundle}: a fresh process could not run it: {last_line}") from error
    return Startup(**json.loads(done.stdout))


def _be_fresh(bundle: Path, manifest_sha256: str, n_threads: int, started_s: float) -> Startup:
    times_s, rss_mb = [started_s, time.time()], [_memory_mb("VmRSS")]
    import numpy as np

    from cpep_edge.bundle import Bundle
    from cpep_edge.encoder import import_runtime
    from cpep_edge.recogniser import Recogniser

    opened = Bundle(bundle, manifest_sha256=manifest_sha256)
    if opened.manifest.native is None:  # otherwise the bundle carries its own runtime, which loads with it
        import_runtime()
    times_s.append(time.time())
    rss_mb.append(_memory_mb("VmRSS"))
    recogniser = Recogniser(opened, n_threads)
    stream = recogniser.stream()
    times_s.append(time.time())
    rss_mb.append(_memory_mb("VmRSS"))
    shape = opened.manifest.window_samples, opened.manifest.n_channels
    signal_uv = np.random.default_rng(0).normal(0, 100, shape).astype(np.float32)
    recogniser.recognise(stream.last_window(signal_uv, opened.manifest.input_shape[1]))
    times_s.append(time.time())
    process_ms, import_ms, load_ms, first_ms = (np.diff(times_s) * 1e3).tolist()
    rss_mb.append(_memory_mb("VmHWM"))
    return Startup(process_ms, import_ms, load_ms, first_ms, *rss_mb)


def _memory_mb(field: str) -> float:
    """The kernel's figure for this process; the peak of getrusage would include that of the parent process."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024e-6


if __name__ == "__main__":
    fresh = _be_fresh(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    sys.stdout.write(json.dumps(asdict(fresh)))
