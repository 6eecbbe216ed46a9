"""Read sessions from untrusted sources in a child process, which may crash.

HDF5's library trusts its files: a few changed bytes in a header can crash the process that opens it, or keep it busy
for ever. So a file from elsewhere is first read from beginning to end in a child process. If the child crashes or does
not end, this becomes an error message that names the file. One child reads many files, and is replaced if it dies.
"""

import json
import os
import resource
import select
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from cpep_edge.errors import CpepError, DataError
from cpep_edge.session import NOT_PERMITTED, Session, SessionMeta, check_tables
from cpep_edge.trial import limit_to

MEMORY_BYTES = 8 << 30  # of address space
_ROWS = 1 << 18  # read at a time
_BASE_S, _BYTES_A_SECOND = 20.0, 1 << 20  # time limit for a file; even a network drive is faster


@dataclass(frozen=True, slots=True)
class SessionSurvey:
    """A summary of a whole session."""

    n_samples: int
    duration_s: float
    sample_rate_hz: float
    n_channels: int
    n_gaps: int
    gaps_s: float
    n_failed_poses: int


class SessionTrial:
    """Reads one session after the other in a child process, which ends with the `with` block."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "SessionTrial":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def survey(self, path: Path) -> SessionSurvey:
        """Read a session from beginning to end.

        Raises DataError, which names the file, at the first fault that makes it unusable, and when reading it crashes
        the child or does not end.
        """
        return SessionSurvey(**self._ask("survey", path))

    def meta(self, path: Path) -> SessionMeta:
        """Read a session's attributes; raises DataError as `survey` does."""
        return SessionMeta(**self._ask("meta", path))

    def check_tables(self, path: Path) -> None:
        """Read every table of an HDF5 file of any kind; raises DataError as `survey` does."""
        self._ask("tables", path)

    def _ask(self, what: str, path: Path) -> dict[str, Any]:
        match self._answer(what, path):
            case {"found": dict(found)}:
                return found
            case {"error": str(said)}:
                raise DataError(said)
            case answer:
                raise AssertionError(f"the child answered {answer!r}")

    def _answer(self, what: str, path: Path) -> object:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))  # a pipe would block until it has a writer
        except PermissionError as error:  # known without a child
            raise DataError(f"{path}: {NOT_PERMITTED}") from error
        except OSError:
            pass  # the child will report it
        child = self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps([what, str(path)]).encode() + b"\n")
            child.stdin.flush()
            limit_s = _BASE_S + (path.stat().st_size if path.is_file() else 0) / _BYTES_A_SECOND
            if not select.select([child.stdout], [], [], limit_s)[0]:
                self._end()
                raise DataError(f"{path}: reading it does not end; the file is damaged, or made to do harm")
            line = child.stdout.readline()
        except BrokenPipeError:
            line = b""
        if line:
            return json.loads(line)
        status = child.wait()
        self._end()
        how = signal.strsignal(-status) if status < 0 else f"exit status {status}"
        raise DataError(f"{path}: reading it crashes HDF5 ({how}); the file is damaged, or made to do harm")

    def _start(self) -> "subprocess.Popen[bytes]":
        if self._child is None:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            command = [sys.executable, "-m", "cpep_edge.session_trial"]
            try:
                self._child = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    start_new_session=True,  # so that Ctrl-C reaches only the parent, which ends the child
                )
            except OSError as error:
                raise CpepError(f"cannot start a process to read sessions in: {error.strerror}") from error
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()


def check_session(path: Path) -> None:
    """Read one untrusted session in a child process; raises DataError when it cannot be used."""
    with SessionTrial() as trial:
        trial.survey(path)


def _find(what: str, path: Path) -> dict[str, object]:
    if what == "tables":
        check_tables(path)
        return {}
    with Session(path) as session:
        return asdict(survey_session(session) if what == "survey" else session.meta)


def survey_session(session: Session) -> SessionSurvey:
    """Read a whole session in this process; raises DataError when it cannot be used."""
    session.check()
    gaps = session.gaps()
    return SessionSurvey(
        n_samples=session.n_samples,
        duration_s=session.duration_s,
        sample_rate_hz=session.meta.sample_rate,
        n_channels=session.meta.num_channels,
        n_gaps=len(gaps),
        gaps_s=sum(duration_s for _, duration_s in gaps),
        n_failed_poses=sum(
            int(np.count_nonzero(~session.pose_valid(start, start + _ROWS)))
            for start in range(0, session.n_samples, _ROWS)
        ),
    )


def _serve() -> None:
    for line in sys.stdin.buffer:
        what, path = json.loads(line)
        try:
            answer: dict[str, object] = {"found": _find(what, Path(path))}
        except DataError as error:
            answer = {"error": str(error)}
        except MemoryError:
            answer = {"error": f"{path}: reading it takes more memory than any session does"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    limit_to(resource.RLIMIT_AS, MEMORY_BYTES)
    _serve()
