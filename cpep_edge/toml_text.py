"""Read TOML that a user wrote, and report in one sentence what is wrong with it."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpep_edge.files import read_plain
from cpep_edge.outside import unreadable

if TYPE_CHECKING:
    from pydantic import ValidationError

_MAX_BYTES = 1 << 24


def load_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; raises ValueError, which says why, when it cannot be read or is not TOML."""
    try:
        return parse_toml(read_plain(path, _MAX_BYTES, follow=True).decode())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(unreadable(error)) from error


def parse_toml(text: str) -> dict[str, Any]:
    """The keys and values of a TOML text; raises ValueError, never anything else."""
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))  # some editors write it at the start of a file
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def faults(error: "ValidationError", meant: Callable[[str], str] = lambda key: "") -> str:
    """All validation errors of a file's keys, in words.

    meant: returns a hint to add for an unknown key
    """
    said = []
    for fault in error.errors():
        key, message = ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            said.append(f"{key} is not a known key{meant(key)}")
        elif fault["type"] == "missing":
            said.append(f"{key} is missing")
        else:
            said.append(f"{key}: {message[:1].lower()}{message[1:]}" if key else message)
    return "; ".join(said)
