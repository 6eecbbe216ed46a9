"""TOML that a user wrote: whatever is wrong with a file is one reason, in words."""

import tomllib
from pathlib import Path
from typing import Any

from cpep_edge.files import read_plain
from cpep_edge.outside import unreadable

_MAX_BYTES = 1 << 24


def load_toml(path: Path) -> dict[str, Any]:
    """A TOML file; raises ValueError, saying why, where it cannot be read or is none."""
    try:
        return parse_toml(read_plain(path, _MAX_BYTES, follow=True).decode())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(unreadable(error)) from error


def parse_toml(text: str) -> dict[str, Any]:
    """Keys and values; raises ValueError, never anything else."""
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))  # which some editors begin a file with
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
