"""What this machine remembers of bundles that no key vouches for: by the hash of the manifest, which covers every file.

A bundle carries native code. Without a key it runs only where it was made here or the user said once, with --trust,
that this very bundle may. And its programs are data until they ran once in a process of their own and gave their golden
answers (`cpep_edge.trial`); that too is remembered, so that it is paid once.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from cpep_edge.errors import CpepError
from cpep_edge.files import replacing
from cpep_edge.folders import locked

Fact = Literal["may run", "ran its golden inputs"]
_FILE = "cpep-edge/bundles.json"
_MOST = 4096  # bundles remembered; beyond, the oldest are forgotten


def state_folder() -> Path:
    """Where programs of this user keep what they remember."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")


def remembers(fact: Fact, manifest_sha256: str) -> bool:
    """Whether this is known of a bundle."""
    return fact in read_memory(state_folder() / _FILE).get(manifest_sha256, ())


def remember(fact: Fact, manifest_sha256: str) -> None:
    """Note it. Raises CpepError when the memory cannot be written."""
    with memory(state_folder() / _FILE) as known:
        facts = known.pop(manifest_sha256, [])
        known[manifest_sha256] = [*facts, *({fact} - {*facts})]
        for oldest in list(known)[:-_MOST]:
            del known[oldest]


@contextmanager
def memory(file: Path) -> Iterator[dict[str, Any]]:
    """A JSON object on disk, to be changed: held for one process at a time, and written whole.

    Raises CpepError when it is damaged or cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CpepError(f"cannot write {file}: {error.strerror}") from error
    with locked(file.parent):
        known = read_memory(file)
        yield known
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def read_memory(file: Path) -> dict[str, Any]:
    """The object, empty where there is none yet. Raises CpepError when it is damaged."""
    try:
        known = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CpepError(f"{file}, the memory of bundles that ran here, cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict) or not all(isinstance(value, list) for value in known.values()):
        raise CpepError(f"{file}, the memory of bundles that ran here, is damaged; remove it to start anew")
    return known
