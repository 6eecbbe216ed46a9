"""What this machine remembers about bundles without a checked signature, by the hash of their manifest.

A bundle contains native code. Without a key, it runs only if it was made on this machine, or if the user once allowed
this very bundle with --trust. Its programs must also have run once in a child process and given their golden answers
(`cpep_edge.golden`); that too is remembered, so that it is done only once. The manifest holds the hash of every other
file, so its own hash identifies the whole bundle.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from cpep_edge.errors import CpepError
from cpep_edge.files import make_folder, read_plain, write_file
from cpep_edge.folders import locked
from cpep_edge.outside import user_folder

Fact = Literal["may run", "ran its golden inputs"]
_FILE = "cpep-edge/bundles.json"
_MAX_BYTES = 1 << 26
_MOST = 4096  # bundles to remember; the oldest beyond that are forgotten


def remembers(fact: Fact, manifest_sha256: str) -> bool:
    """Whether this fact is remembered of a bundle."""
    return fact in read_memory(_FILE).get(manifest_sha256, ())


def remember(fact: Fact, manifest_sha256: str) -> None:
    """Remember a fact of a bundle. Raises CpepError when that cannot be written."""
    with memory(_FILE) as known:
        facts = known.pop(manifest_sha256, [])
        known[manifest_sha256] = [*facts, *({fact} - {*facts})]
        for oldest in list(known)[:-_MOST]:
            del known[oldest]


@contextmanager
def memory(name: str) -> Iterator[dict[str, Any]]:
    """Yield a JSON object in the user's state folder, to be changed; it is locked meanwhile, and then written whole.

    Raises CpepError when it is damaged or cannot be written, as for a user without a home.
    """
    folder = _state_folder()
    if folder is None:
        raise CpepError(
            "nothing can be remembered of bundles for a user without a home: set XDG_STATE_HOME to a folder"
        )
    file = folder / name
    try:
        make_folder(file.parent)
        if not os.access(file.parent, os.W_OK):
            raise OSError(errno.EACCES, "you have no permission to write there")
    except OSError as error:
        raise CpepError(
            f"cannot write {file}: {error.strerror}; set XDG_STATE_HOME to a folder that can be written to"
        ) from error
    with locked(file.parent):
        known = _read(file)
        yield known
        write_file(file, json.dumps(known, indent=1) + "\n")


def read_memory(name: str) -> dict[str, Any]:
    """Read the object; it is empty when there is none yet, or no folder for it. Raises CpepError when it is damaged."""
    folder = _state_folder()
    return {} if folder is None else _read(folder / name)


def _state_folder() -> Path | None:
    return user_folder("XDG_STATE_HOME", ".local", "state")


def _read(file: Path) -> dict[str, Any]:
    try:
        known = json.loads(read_plain(file, _MAX_BYTES, follow=True))
    except FileNotFoundError:
        return {}
    except OSError as error:
        why = error.strerror or "it is not a plain file"
        raise CpepError(f"{file}, the memory of bundles that ran here, cannot be read: {why}") from error
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict) or not all(isinstance(value, list) for value in known.values()):
        raise CpepError(f"{file}, the memory of bundles that ran here, is damaged; remove it to start again")
    return known
