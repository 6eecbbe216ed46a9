"""Run the programs of a bundle for the first time, in a child process, which may crash.

ExecuTorch checks the frame of a `.pte` but trusts most of its content: four changed bytes can crash the process that
loads it. So a bundle without a checked signature first runs its golden inputs in a child process, with limits of memory
and time. If the child dies, the user gets one sentence that says why.
"""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from cpep_edge.errors import ArtifactError, CpepError
from cpep_edge.vouched import remember, remembers

if TYPE_CHECKING:
    from cpep_edge.bundle import Bundle

TIMEOUT_S = 120.0
MEMORY_BYTES = 16 << 30  # of address space: torch maps a few GiB, a forged size asks for far more than this

_log = logging.getLogger(__name__)


def try_programs(bundle: "Bundle") -> float:
    """Run the golden inputs of a bundle in a child process; returns the smallest cosine to the stored embeddings.

    The bundle's code must be trusted already: a child process contains a crash, but not an attack.
    Raises ArtifactError when an answer is wrong, or the child crashes or does not end.
    """
    command = [sys.executable, "-m", "cpep_edge.golden", str(bundle.path), bundle.manifest_sha256]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ArtifactError(f"{bundle.path}: its programs did not end within {TIMEOUT_S:g} s") from error
    except OSError as error:
        raise CpepError(f"cannot start a process to try {bundle.path} in: {error.strerror}") from error
    lines = done.stdout.splitlines() or [b""]
    try:
        answer = json.loads(lines[-1])
    except ValueError:
        answer = None
    match answer:
        case {"smallest_cosine": float(smallest_cosine)}:
            return smallest_cosine
        case {"error": str(said)}:
            raise ArtifactError(said)
    raise ArtifactError(f"{bundle.path}: {_how_it_died(done.returncode, done.stderr)}")


def require_tried(bundle: "Bundle") -> None:
    """Try the programs of a bundle, unless that was done before. Raises ArtifactError as `try_programs` does."""
    if remembers("ran its golden inputs", bundle.manifest_sha256):
        return
    try_programs(bundle)
    try:
        remember("ran its golden inputs", bundle.manifest_sha256)
    except CpepError as error:
        _log.debug("each start will try the bundle again: %s", error)


def limit_to(what: int, most: int) -> None:
    """Limit a resource of this process, unless its limit is already lower, and switch core dumps off."""
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _how_it_died(status: int, complaint: bytes) -> str:
    harm = "the bundle is damaged, or made to do harm"
    if status < 0:
        return f"its programs crash on their golden inputs ({signal.strsignal(-status)}): {harm}"
    lines = complaint.decode(errors="replace").strip().splitlines() or ["nothing was said"]
    return f"its programs fail on their golden inputs ({lines[-1]}): {harm}"
