"""Measure the time and memory of imports against the size of the imported file.

    python benchmarks/measure_import.py

Files of 16 channels at 2 kHz, from half a minute to four minutes, are written as CSV, EDF and Ninapro's .mat. Each is
imported by the command line in its own process, whose peak resident memory the system reports. Writes import.md to
train/results.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy.io import savemat

from cpep_bench.machine import this_machine
from cpep_edge.files import write_file
from cpep_edge.versions import git_commit

_RATE_HZ, _CHANNELS = 2_000, 16
_MINUTES = (0.5, 1, 2, 4)
_OUT = Path("train/results/import.md")
_MAP = """sample_rate_hz = 2000
unit = "uV"
[columns]
emg = [{columns}]
stage = "gesture"
[pose.index_mcp_flexion]
column = "index"
[[files]]
file = "a.csv"
user = "p"
session = "s"
split = "train"
"""


def main() -> None:
    """Measure and write the table."""
    rows = []
    with TemporaryDirectory() as scratch:
        for minutes in _MINUTES:
            for kind, write in (("CSV", _csv), ("EDF", _edf), ("Ninapro .mat", _mat)):
                folder = Path(scratch) / f"{kind}-{minutes}"
                folder.mkdir()
                arguments, source = write(folder, minutes)
                seconds, peak_mb = _run([*arguments, str(folder / "out")])
                size_mb = source.stat().st_size / 1e6
                speed = size_mb / seconds
                rows.append(f"| {kind} | {minutes:g} | {size_mb:.0f} | {seconds:.1f} | {speed:.1f} | {peak_mb:.0f} |")
    machine = this_machine()
    text = [
        "# Imports: time and memory against size",
        "",
        f"`python benchmarks/measure_import.py`, commit `{git_commit()[:12]}`, {machine.n_cpus} shared cores, "
        f"{machine.cpu}, load {machine.load_1min:.1f}. {_CHANNELS} channels at {_RATE_HZ} Hz in one file; the "
        "interpreter and its libraries are in the memory.",
        "",
        "| format | minutes | MB | seconds | MB/s | peak MB |",
        "| --- | --: | --: | --: | --: | --: |",
        *sorted(rows, key=lambda row: row.split("|")[1]),
        "",
    ]
    write_file(_OUT, "\n".join(text))
    sys.stdout.write("\n".join(text))


def _emg(minutes: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 30, (round(minutes * 60 * _RATE_HZ), _CHANNELS))


def _csv(folder: Path, minutes: float) -> tuple[list[str], Path]:
    names = [f"ch_{k + 1}" for k in range(_CHANNELS)]
    with (folder / "a.csv").open("w") as file:
        file.write(",".join([*names, "index", "gesture"]) + "\n")
        for row in _emg(minutes):
            file.write(",".join(f"{value:.4f}" for value in row) + ",0.5,Fist\n")
    (folder / "map.toml").write_text(_MAP.format(columns=", ".join(f'"{name}"' for name in names)))
    return ["csv", str(folder / "map.toml")], folder / "a.csv"


def _edf(folder: Path, minutes: float) -> tuple[list[str], Path]:
    import edfio

    columns = _emg(minutes).T
    signals = [edfio.EdfSignal(c, _RATE_HZ, label=f"EMG {k}", physical_dimension="uV") for k, c in enumerate(columns)]
    edfio.Edf(signals, annotations=[edfio.EdfAnnotation(0, None, "Fist")]).write(folder / "a.edf")
    return ["files", str(folder / "a.edf")], folder / "a.edf"


def _mat(folder: Path, minutes: float) -> tuple[list[str], Path]:
    emg = _emg(minutes)
    label = (np.arange(len(emg)) // (5 * _RATE_HZ) % 10)[:, None]
    savemat(folder / "S1_E1_A1.mat", {"emg": emg * 1e-6, "restimulus": label, "rerepetition": np.ones_like(label)})
    return ["ninapro", str(folder), "--database", "db8"], folder / "S1_E1_A1.mat"


def _run(arguments: list[str]) -> tuple[float, float]:
    """The time in seconds and the peak resident memory in MB of one import."""
    kind, source, *options, out = arguments
    command = [sys.executable, "-m", "cpep_edge", "data", "import", kind, source, out, *options]
    started_s = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - started_s, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
