"""Which code is running: the commit of the checkout, and the versions of the packages that it uses."""

import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def git_commit() -> str:
    """The commit of the checkout that the running code is in; empty when it is not in one."""
    command = ("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD")
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def code_version(*paths: str) -> str:
    """The short commit, for results; ends in `+changes` when files under `paths` of the checkout differ from it."""
    commit = git_commit()[:12]
    if not commit:
        return "unknown"
    command = ("git", "-C", str(Path(__file__).parents[1]), "status", "--porcelain", "--", *paths)
    try:
        changes = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return commit
    return f"{commit}+changes" if changes else commit


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of those of the packages that are installed."""
    found = {"python": sys.version.split()[0]}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
