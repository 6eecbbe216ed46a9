"""An emulated board with an Arm processor: Debian's arm64 Python and what `pip install cpep-edge` installs on it.

Only hnswlib has no wheel, so it is cross-compiled here. Nothing is installed on this machine: all is in one folder.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

QEMU = ("qemu-aarch64-static", "-cpu", "cortex-a72")
TOOLS = {"mmdebstrap": "mmdebstrap", QEMU[0]: "qemu-user-static", "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu"}
ROOT = Path(__file__).parents[2]
SUITE, PYTHON = "bookworm", "3.11"
PLATFORMS = [f"--platform=manylinux{name}_aarch64" for name in ("2014", "_2_17", "_2_27", "_2_28")]
TIMEOUT_S = 240


class Aarch64Device:
    """Python on the emulated board, with the packages of `cpep_edge` and no torch."""

    def __init__(self, folder: Path) -> None:
        """Skips the test, naming the missing tool, if the board cannot be emulated."""
        root, self._site, self._python = folder / "root", folder / "site", folder / "python"
        _build_root(root)
        _fetch_packages(self._site, folder)
        self._python.write_text(f'#!/bin/sh\nexec {" ".join(QEMU)} -L {root} {root}/usr/bin/python{PYTHON} "$@"\n')
        self._python.chmod(0o755)
        # Python processes that Python starts, as `bench` does, must also run under the emulator.
        (self._site / "sitecustomize.py").write_text(f"import sys\nsys.executable = {str(self._python)!r}\n")

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run Python on the board."""
        sources = (self._site, ROOT, ROOT / "firmware_bridge", ROOT / "benchmarks")
        return subprocess.run(
            [self._python, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sources))},
        )


def _build_root(root: Path) -> None:
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (apt-get install {package})")
    packages = f"--include=python{PYTHON},libpython{PYTHON}-dev,libstdc++6"
    command = ("mmdebstrap", "--quiet", "--arch=arm64", "--variant=extract", packages, SUITE, str(root))
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    if ran.returncode != 0:
        pytest.skip(f"Debian's packages for arm64 are out of reach: {ran.stderr.strip()[-300:]}")


def _fetch_packages(site: Path, folder: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    declared = [Requirement(text) for text in requires("cpep-edge") or []]
    wanted = {one.name: f"{one.name}=={version(one.name)}" for one in declared if one.marker is None}
    del wanted["hnswlib"]
    wanted["cobs"] = "cobs"  # the newest has no Linux wheel; an older one is pure Python
    wheels = ("--only-binary=:all:", f"--python-version={PYTHON}", *PLATFORMS)
    _run((*pip, "install", "--target", str(site), *wheels, *wanted.values()))
    source = f"hnswlib=={version('hnswlib')}"
    _run((*pip, "download", "--no-deps", "--no-binary=hnswlib", "--dest", str(folder), source, "pybind11"))
    _compile_hnswlib(site, folder)


def _compile_hnswlib(site: Path, folder: Path) -> None:
    shutil.unpack_archive(next(folder.glob("hnswlib-*.tar.gz")), folder)
    with zipfile.ZipFile(next(folder.glob("pybind11-*.whl"))) as wheel:
        wheel.extractall(folder / "pybind11")
    source = next(folder.glob("hnswlib-*/python_bindings/bindings.cpp"))
    headers = (
        source.parents[1] / "hnswlib",
        folder / "pybind11" / "pybind11" / "include",
        site / "numpy" / "_core" / "include",
        folder / "root" / "usr" / "include" / f"python{PYTHON}",
        folder / "root" / "usr" / "include",
    )
    target = site / f"hnswlib.cpython-{PYTHON.replace('.', '')}-aarch64-linux-gnu.so"
    options = ("-O2", "-std=c++14", "-shared", "-fPIC", "-fvisibility=hidden", *(f"-I{path}" for path in headers))
    _run(("aarch64-linux-gnu-g++", *options, str(source), "-o", str(target), "-lpthread"))


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, timeout=TIMEOUT_S)
