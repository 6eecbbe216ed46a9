"""Record a stream as emg2pose sessions, so that a killed process loses at most a quarter of a second.

During the recording, rows are appended to a journal beside the session, `.NAME.hdf5.part`: one line of JSON, then rows
of fixed size. The journal is locked, so that no other program takes it for one of an interrupted recording. The HDF5
file is written at the end, whole or not at all, because a killed HDF5 writer leaves a file that cannot be opened.
`recover` makes the session from the journal of an interrupted recording.

Time follows the device's samples. Lost samples are a jump of `time`, which `Session.gaps` finds. When the device has no
clock of its own and its samples arrive at another rate than the nominal one, the session gets the measured rate. An
existing file is replaced only with `force`.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.arrivals import HEARD_RATE_TOLERANCE
from cpep_edge.blocks import Block, BlockSource, StreamInfo
from cpep_edge.errors import ConfigError, CpepError, DataError
from cpep_edge.files import check_free, make_folder, require_plain, sync
from cpep_edge.names import MAX_NAME, check_gesture, check_name
from cpep_edge.outside import printable
from cpep_edge.session import SessionMeta, new_file, timeseries_dtype

WRITE_EVERY_S = 0.25  # a killed process loses the samples since the last write
SYNC_EVERY_S = 0.75  # a power cut loses those since the last sync; with the time of a write, at most a second

_CHUNK_ROWS = 1 << 15  # rows read back at a time, to limit memory
_GROUP, _TABLE = "emg2pose", "timeseries"


@dataclass(frozen=True, slots=True)
class Wearer:
    """Who wears the band, as written in the sessions. Raises ConfigError for a name unfit for files and tables."""

    user: str
    session: str  # one donning of the band
    side: str  # "left" or "right"

    def __post_init__(self) -> None:
        for what in ("user", "session"):
            name = getattr(self, what)
            try:
                check_name(name)
            except ValueError as error:
                raise ConfigError(f"{printable(name, MAX_NAME)!r} is not a name for a {what}: {error}") from error
            if "/" in name:
                raise ConfigError(
                    f"{name!r} is not a name for a {what}: it is used in file names, which cannot contain a slash"
                )


@dataclass(frozen=True, slots=True)
class Recorded:
    """One finished session file."""

    path: Path
    stage: str
    n_samples: int
    duration_s: float  # of its samples, without gaps
    n_gaps: int


class Timeline:
    """The time of each block on one axis, in seconds since 1970, across restarts and reconnects of the device."""

    def __init__(self, sample_rate_hz: float) -> None:
        self._rate_hz = sample_rate_hz
        self._boot_id: int | None = None
        self._zero_s = 0.0  # time of sample 0 of this boot
        self._last: tuple[float, float] | None = None  # end of the last block on this axis, and on the host's clock

    def start_s(self, block: Block) -> float:
        """The time of a block's first sample."""
        length_s = len(block.samples_uv) / self._rate_hz
        index_s = block.sample_index / self._rate_hz
        jumped_back = self._last is not None and self._zero_s + index_s < self._last[0] - 0.5 / self._rate_hz
        if block.boot_id != self._boot_id or jumped_back:
            self._zero_s = self._fresh_start_s(block, length_s) - index_s
            self._boot_id = block.boot_id
        start_s = self._zero_s + index_s
        self._last = (start_s + length_s, block.host_t_s)
        return start_s

    def _fresh_start_s(self, block: Block, length_s: float) -> float:
        """The time at which a new count of samples begins, estimated from the arrival times of the blocks."""
        if self._last is None:
            return time.time() - length_s
        end_s, host_t_s = self._last
        return end_s + max(1 / self._rate_hz, block.host_t_s - host_t_s - length_s)


class Recorder:
    """Writes one session while it is recorded.

    Raises DataError when writing fails; the samples recorded until then are in the journal.
    """

    def __init__(self, path: Path, meta: SessionMeta, force: bool = False) -> None:
        """path: of the session; an existing file is replaced only with `force`
        meta: its `start` and `end` are set from the samples
        """
        check_free(path, force)
        self.path = path
        self._force = force
        self.journal = journal_of(path)
        self._meta = meta
        self._dtype = _row_dtype(meta.num_channels)
        self._waiting: list[NDArray[np.void]] = []
        self._written_s = time.monotonic()
        self.n_samples = 0
        make_folder(path.parent)
        self._file = _create(self.journal)
        self._synced_s = 0.0
        self._syncing: threading.Thread | None = None
        sync(path.parent)
        self._write(json.dumps(asdict(meta)).encode() + b"\n")

    def add(self, start_s: float, samples_uv: NDArray[np.float32]) -> None:
        """Append samples, (n_samples, n_channels), the first of which is at `start_s`."""
        rows = np.empty(len(samples_uv), self._dtype)
        rows["time"] = start_s + np.arange(len(rows)) / self._meta.sample_rate
        rows["emg"] = samples_uv
        self._waiting.append(rows)
        self.n_samples += len(rows)
        if time.monotonic() - self._written_s >= WRITE_EVERY_S:
            self._flush()

    def finish(self, heard_hz: float = 0.0) -> Recorded | None:
        """Write the session from the journal; None when there are no samples. Raises CpepError when writing fails.

        heard_hz: the measured rate of the samples, 0 when it is not known; replaces that of `meta` when they differ
        """
        try:
            self._flush()
            if not self.n_samples:
                self.journal.unlink()
                return None
            try:
                return _make_session(self.journal, self.path, self._force, heard_hz)
            except CpepError as error:
                raise DataError(
                    f"{error}; what was recorded is in {self.journal}, for 'cpep-edge record --recover'"
                ) from error
        finally:
            self._close()

    def discard(self) -> None:
        """Delete the recording."""
        self.journal.unlink()
        self._close()

    def _flush(self) -> None:
        self._write(b"".join(rows.tobytes() for rows in self._waiting))
        self._waiting.clear()
        self._written_s = time.monotonic()
        if self._written_s - self._synced_s >= SYNC_EVERY_S and not (self._syncing and self._syncing.is_alive()):
            self._synced_s = self._written_s
            self._syncing = threading.Thread(target=self._sync, name="journal")  # so that the stream does not wait
            try:
                self._syncing.start()
            except RuntimeError:  # no further thread can be started
                self._syncing = None
                self._sync()

    def _sync(self) -> None:
        with contextlib.suppress(OSError):  # if the disk fails, the next write reports it
            os.fsync(self._file)

    def _close(self) -> None:
        if self._syncing is not None:
            self._syncing.join()
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            raise DataError(
                f"cannot continue writing {self.path} after {self.n_samples / self._meta.sample_rate:.1f} s: "
                f"{error.strerror}; make room, then run 'cpep-edge record --recover {self.journal}' to keep it"
            ) from error


def record(
    source: BlockSource, path: Path, wearer: Wearer, stage: str, seconds: float | None = None, *, force: bool = False
) -> Recorded | None:
    """Record an opened source until it ends, for so many seconds of samples, or until Ctrl-C; None without samples.

    stage: the gesture
    force: replace an existing session
    When the source fails, the session is still written completely, and then the error is raised.
    """
    recorder = Recorder(path, session_meta(source.info, path, wearer, check_gesture(stage)), force)
    try:
        for start_s, samples_uv in _timed(source, seconds):
            recorder.add(start_s, samples_uv)
    except KeyboardInterrupt:
        pass
    except DataError:
        raise  # writing failed: leave the journal as it is
    except BaseException:
        recorder.finish(rate_heard(source))
        raise
    return recorder.finish(rate_heard(source))


def rate_heard(source: BlockSource) -> float:
    """The measured rate of a source's samples by the host's clock; 0 when unknown or the device has its own clock."""
    return 0.0 if source.info.has_clock else source.counts.heard_hz


def session_meta(info: StreamInfo, path: Path, wearer: Wearer, stage: str) -> SessionMeta:
    """The attributes of a session to be recorded; `start` and `end` are set later."""
    return SessionMeta(
        session=wearer.session,
        user=wearer.user,
        stage=stage,
        side=wearer.side,
        start=0.0,
        end=0.0,
        num_channels=info.n_channels,
        sample_rate=info.sample_rate_hz,
        filename=printable(path.stem),  # HDF5 accepts only UTF-8
    )


def journal_of(path: Path) -> Path:
    """The path of the journal of a session."""
    return path.with_name(f".{path.name}.part")


def recover(journal: Path, force: bool = False) -> Recorded:
    """Write the session from a journal, whose last row may be incomplete, and remove the journal.

    force: replace an existing session
    Raises DataError when the file is not a journal, is in use, or holds no complete row.
    """
    path = journal.with_name(journal.name.removeprefix(".").removesuffix(".part"))
    if path == journal:
        raise DataError(f"{journal}: is not a journal of a recording, whose name is .NAME.hdf5.part")
    try:
        require_plain(journal)
        file = os.open(journal, os.O_RDWR)
    except OSError as error:
        raise DataError(f"cannot read {journal}: {error.strerror}") from error
    try:
        if not _locked(file):
            raise DataError(
                f"{journal} is being recorded now, by another program, which writes the recording at its end"
            )
        return _make_session(journal, path, force, 0.0)
    finally:
        os.close(file)


def _make_session(journal: Path, path: Path, force: bool, heard_hz: float) -> Recorded:
    meta, rows = _read_journal(journal)
    if not len(rows):
        raise DataError(f"{journal}: holds no samples")
    check_free(path, force)  # another program may have written the file during the recording
    start_s, last_s = float(rows[:1]["time"][0]), float(rows[len(rows) - 1 :]["time"][0])
    largest_step_s, stretch = 1.5 / meta.sample_rate, 1.0
    if heard_hz and abs(heard_hz / meta.sample_rate - 1) > HEARD_RATE_TOLERANCE:
        rate_hz = float(f"{heard_hz:.3g}")  # to the accuracy of the measurement; equal for all sessions
        stretch, meta = meta.sample_rate / rate_hz, replace(meta, sample_rate=rate_hz)
    meta = replace(meta, start=start_s, end=start_s + (last_s - start_s) * stretch)
    n_gaps, previous_s = 0, start_s
    with new_file(path) as (file, reserve):
        group = file.create_group(_GROUP)
        for name, value in asdict(meta).items():
            group.attrs[name] = value
        table = group.create_dataset(_TABLE, (len(rows),), timeseries_dtype(meta.num_channels), chunks=True)
        for first in range(0, len(rows), _CHUNK_ROWS):
            part = _session_rows(rows[first : first + _CHUNK_ROWS], meta.num_channels)
            steps_s = np.diff(part["time"], prepend=previous_s)
            n_gaps, previous_s = n_gaps + int(np.sum(steps_s > largest_step_s)), float(part["time"][-1])
            part["time"] = start_s + (part["time"] - start_s) * stretch
            reserve(part.nbytes)
            table[first : first + _CHUNK_ROWS] = part
    recorded = Recorded(path, meta.stage, len(rows), len(rows) / meta.sample_rate, n_gaps)
    journal.unlink()
    sync(journal.parent)
    return recorded


def _timed(source: BlockSource, seconds: float | None) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """Blocks with their time, cut off after so many seconds of samples at their measured rate."""
    timeline, n_taken = Timeline(source.info.sample_rate_hz), 0
    for block in source:
        start_s, samples_uv = timeline.start_s(block), block.samples_uv
        if seconds is not None:
            n_wanted = round(seconds * (rate_heard(source) or source.info.sample_rate_hz))
            samples_uv = samples_uv[: max(0, n_wanted - n_taken)]
        if len(samples_uv):
            yield start_s, samples_uv
        n_taken += len(samples_uv)
        if seconds is not None and n_taken >= n_wanted:
            return


def _create(journal: Path) -> int:
    try:
        file = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError as error:
        with contextlib.suppress(OSError):
            left = os.open(journal, os.O_RDWR)
            try:
                if not _locked(left):
                    raise DataError(
                        f"{journal} is being recorded now, by another program: choose another name"
                    ) from error
            finally:
                os.close(left)
        raise DataError(
            f"{journal} is left from a recording that was cut off: keep it with "
            f"'cpep-edge record --recover {journal}', or delete it"
        ) from error
    except OSError as error:
        raise DataError(f"cannot record to {journal.parent}: {error.strerror}") from error
    _locked(file)
    return file


def _locked(file: int) -> bool:
    """Lock an open journal until it is closed; False when another process holds the lock.

    It tries for a second, because a process that is ending, or was forked and has not started its program yet, releases
    the lock soon.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where an open file cannot be removed
        return True
    for _ in range(20):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


def _row_dtype(n_channels: int) -> np.dtype[np.void]:
    return np.dtype([("time", "<f8"), ("emg", "<f4", (n_channels,))])


class _Rows:
    """The complete rows of a journal, read slice by slice, because hours of signal do not fit into memory."""

    def __init__(self, journal: Path, dtype: np.dtype[np.void], offset: int, n_rows: int) -> None:
        self._journal, self._dtype, self._offset, self._n_rows = journal, dtype, offset, n_rows

    def __len__(self) -> int:
        return self._n_rows

    def __getitem__(self, asked: slice) -> NDArray[np.void]:
        start, stop, _ = asked.indices(self._n_rows)
        with self._journal.open("rb") as file:
            file.seek(self._offset + start * self._dtype.itemsize)
            rows: NDArray[np.void] = np.fromfile(file, self._dtype, stop - start)
        return rows


def _read_journal(journal: Path) -> tuple[SessionMeta, _Rows]:
    try:
        with journal.open("rb") as file:
            meta = SessionMeta(**json.loads(file.readline(1 << 16)))
            offset = file.tell()
        dtype = _row_dtype(meta.num_channels)
        n_rows = (journal.stat().st_size - offset) // dtype.itemsize
    except OSError as error:
        raise DataError(f"cannot read {journal}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{journal}: is not a journal of a recording") from error
    return meta, _Rows(journal, dtype, offset, n_rows)


def _session_rows(rows: NDArray[np.void], n_channels: int) -> NDArray[np.void]:
    table = np.zeros(len(rows), timeseries_dtype(n_channels))
    table["time"], table["emg"] = rows["time"], rows["emg"]
    return table
