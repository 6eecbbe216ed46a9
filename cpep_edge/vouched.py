"""What this machine remembers of bundles that no key vouches for: by the hash of the manifest, which covers every file.

A bundle carries native code. Without a key it runs only where it was made here or the user said once, with --trust,
that this very bundle may. And its programs are data until they ran once in a process of their own and gave their golden
answers (`cpep_edge.golden`); that too is remembered, so that it is paid once.
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
_MOST = 4096  # bundles remembered; beyond, the oldest are forgotten


def remembers(fact: Fact, manifest_sha256: str) -> bool:
    """Whether this is known of a bundle."""
    return fact in read_memory(_FILE).get(manifest_sha256, ())


def remember(fact: Fact, manifest_sha256: str) -> None:
    """Note it. Raises CpepError when the memory cannot be written."""
    with memory(_FILE) as known:
        facts = known.pop(manifest_sha256, [])
        known[manifest_sha256] = [*facts, *({fact} - {*facts})]
        for oldest in list(known)[:-_MOST]:
            del known[oldest]


@contextmanager
def memory(name: str) -> Iterator[dict[str, Any]]:
    """A JSON object in the user's folder of states, to be changed: held for one process at a time, and written whole.

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
    """The object, empty where there is none yet or no place for one. Raises CpepError when it is damaged."""
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
