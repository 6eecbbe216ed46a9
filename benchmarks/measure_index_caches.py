"""Count the instructions and cache misses of one vote, comparing all poses and in a graph, for a CPU with small caches.

    python benchmarks/measure_index_caches.py --out benchmarks/results/index-caches.md

valgrind's cachegrind simulates caches like those of a Cortex-A72 (32 kB for data, 1 MB for all); it counts x86
instructions. The poses are random vectors of width 64 around 16 centres. What a vote costs is the difference between
two runs that differ only in their number of votes.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from cpep_edge.files import write_file
from cpep_edge.index_file import from_bytes
from cpep_edge.pose_index import PoseIndex, build_index
from cpep_edge.versions import git_commit

SIZES = (8_192, 16_384, 32_768)
WIDTH, N_GESTURES, K = 64, 16, 10
PENALTY = (0.1,) * 12 + (0.0,) * 4
FEW, MANY = 1, 51  # votes of the two runs
CACHES = ("--D1=32768,2,64", "--LL=1048576,16,64")
COUNTED = ("I   refs", "D1  misses", "LLd misses")


def main() -> None:
    """Measure and write the table, or, as its own child, vote."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file to write.")
    parser.add_argument("--vote", nargs=2, metavar=("INDEX", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.vote:
        _vote(Path(options.vote[0]), int(options.vote[1]))
    elif options.out is None:
        parser.error("--out is missing")
    else:
        write_file(options.out, _table())


def _vectors(n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Vectors of unit length, (n, WIDTH), and their gestures, (n,)."""
    centres = np.random.default_rng(0).normal(size=(N_GESTURES, WIDTH))
    labels = np.arange(n) % N_GESTURES
    vectors = centres[labels] + np.random.default_rng(seed).normal(0, 0.5, (n, WIDTH))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def _vote(file: Path, n: int) -> None:
    index = PoseIndex(from_bytes(file.read_bytes(), WIDTH), gesture_penalty=PENALTY)
    for query in _vectors(n, seed=2)[0]:
        index.vote(query, K)


def _table() -> str:
    lines = [
        "# What a vote costs where caches are small\n",
        "| poses of 64 numbers | search | instructions | misses of 32 kB | misses of 1 MB |",
        "| --: | --- | --: | --: | --: |",
    ]
    with TemporaryDirectory() as folder:
        for n in SIZES:
            for search in ("exact", "hnsw"):
                file = Path(folder) / f"{search}-{n}.bin"
                file.write_bytes(build_index(*_vectors(n, seed=1), search=search).to_bytes())  # type: ignore[arg-type]
                few, many = _counts(file, FEW), _counts(file, MANY)
                each = (many - few) / (MANY - FEW)
                lines.append(f"| {n:,} | {search} | " + " | ".join(f"{count:,.0f}" for count in each) + " |")
    lines.append(
        f"\n`python benchmarks/measure_index_caches.py`, commit `{git_commit()[:12] or 'unknown'}`; x86 instructions, "
        "caches simulated by valgrind, random vectors. Comparing all reads memory in order, a graph does not.\n"
    )
    return "\n".join(lines)


def _counts(file: Path, n: int) -> NDArray[np.float64]:
    """Instructions and misses of a process that loads an index and votes n times, as `COUNTED` names them."""
    valgrind = ("valgrind", "--tool=cachegrind", "--cache-sim=yes", "--cachegrind-out-file=/dev/null", *CACHES)
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*valgrind, sys.executable, __file__, "--vote", str(file), str(n)],
            env=alone,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise SystemExit("valgrind is not installed: apt-get install valgrind") from None
    found = re.findall(rf"({'|'.join(COUNTED)}):\s+([\d,]+)", done.stderr)
    if done.returncode != 0 or [name for name, _ in found] != list(COUNTED):
        raise SystemExit(f"valgrind ended with exit status {done.returncode} and said:\n{done.stderr}")
    return np.array([float(count.replace(",", "")) for _, count in found])


if __name__ == "__main__":
    main()
