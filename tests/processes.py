"""Run the command line and Python code in another process or in this one; simulate unreadable files and a full disk."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from cpep_edge.cli import app


def environment(**more: str) -> dict[str, str]:
    """Environment variables for a Python process that finds the same modules as this one."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}


def cpep_edge(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return python("-m", "cpep_edge", *words, **options)


def python(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "env": environment(), **options}
    return subprocess.run([sys.executable, *map(str, words)], text=True, check=False, **options)


def start(*words: object, **options: Any) -> "subprocess.Popen[str]":
    """Start a Python process with pipes, to communicate with while it runs."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment(), **options}
    return subprocess.Popen([sys.executable, *map(str, words)], text=True, **options)


@contextmanager
def simulated(*words: object) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run `cpep-edge simulate` in another process; yields its port and the process."""
    with start("-m", "cpep_edge", "simulate", *words) as process:
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)


def invoke(*words: object, **options: Any) -> Result:
    """Run `cpep-edge` in this process."""
    return CliRunner().invoke(app, [str(word) for word in words], **options)


def without_package(module: str) -> str:
    """Code that makes a package impossible to import, as if it were not installed."""
    return f"""
import sys
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, NotInstalled())
"""


@contextmanager
def forbidding(path: Path | str) -> Iterator[None]:
    """Make a path unreadable for this user; as root, by switching to another user."""
    os.chmod(path, 0)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65_534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Simulate a full disk: writing more than this to a file fails."""
    ignored, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
