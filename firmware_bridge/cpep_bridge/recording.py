"""Recording a stream as emg2pose sessions, so that a kill loses at most a quarter of a second.

While a session is recorded its rows go to a journal beside it, `.NAME.hdf5.part`: one line of JSON, then rows of fixed
size, appended. It is locked meanwhile, so that nobody takes it for one that was left behind. HDF5 itself is written at
the end, whole or not at all, for a killed HDF5 writer leaves a file that no one can open. A journal that was left
behind is turned into its session by `recover`.

Time goes on with the samples of the device; what was lost shows as a jump of `time`, which `Session.gaps` finds. Where
the device has no clock of its own and its samples come at another rate than is said, the session is of the rate at
which they came. A file that exists is not replaced, unless `force` says so.
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

WRITE_EVERY_S = 0.25  # a kill loses what came since
SYNC_EVERY_S = 0.75  # and a cut of the power what came since the disk had it: within a second, with the write before

_CHUNK_ROWS = 1 << 15  # read back at a time: bounds memory
_GROUP, _TABLE = "emg2pose", "timeseries"


@dataclass(frozen=True, slots=True)
class Wearer:
    """Who wears the band, as the sessions say it. Raises ConfigError for names that no file or table could hold."""

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
    duration_s: float  # of its samples; gaps are left out
    n_gaps: int


class Timeline:
    """Time of each block on one axis, in seconds since 1970, through restarts and reconnects of the device."""

    def __init__(self, sample_rate_hz: float) -> None:
        self._rate_hz = sample_rate_hz
        self._boot_id: int | None = None
        self._zero_s = 0.0  # time of sample 0 of this boot
        self._last: tuple[float, float] | None = None  # end of the last block on this axis, and on the host's clock

    def start_s(self, block: Block) -> float:
        """Time of a block's first sample."""
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
        """Where a new count of samples begins: as much later as it arrived later."""
        if self._last is None:
            return time.time() - length_s
        end_s, host_t_s = self._last
        return end_s + max(1 / self._rate_hz, block.host_t_s - host_t_s - length_s)


class Recorder:
    """One session on its way to the disk.

    Raises DataError when the disk refuses; what was recorded until then is in the journal.
    """

    def __init__(self, path: Path, meta: SessionMeta, force: bool = False) -> None:
        """path: of the session, which replaces no file unless `force` says so
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
        """Make the session of the journal; None when it holds no samples. Raises CpepError when the disk refuses.

        heard_hz: the rate at which the samples came, where that is not known to be the one of `meta`
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
        """Throw away what was recorded."""
        self.journal.unlink()
        self._close()

    def _flush(self) -> None:
        self._write(b"".join(rows.tobytes() for rows in self._waiting))
        self._waiting.clear()
        self._written_s = time.monotonic()
        if self._written_s - self._synced_s >= SYNC_EVERY_S and not (self._syncing and self._syncing.is_alive()):
            self._synced_s = self._written_s
            self._syncing = threading.Thread(target=self._sync, name="journal")  # the stream must not wait for a disk
            try:
                self._syncing.start()
            except RuntimeError:  # no thread more can be had
                self._syncing = None
                self._sync()

    def _sync(self) -> None:
        with contextlib.suppress(OSError):  # a disk that fails tells the next write
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
    """Record an opened source until it ends, for so many seconds of samples, or until Ctrl-C; None if nothing came.

    stage: the gesture
    force: a session that exists is replaced
    An end of the source by failure leaves a whole session too, and is raised after it was written.
    """
    recorder = Recorder(path, session_meta(source.info, path, wearer, check_gesture(stage)), force)
    try:
        for start_s, samples_uv in _timed(source, seconds):
            recorder.add(start_s, samples_uv)
    except KeyboardInterrupt:
        pass
    except DataError:
        raise  # the disk: the journal stays as it is
    except BaseException:
        recorder.finish(rate_heard(source))
        raise
    return recorder.finish(rate_heard(source))


def rate_heard(source: BlockSource) -> float:
    """The rate of a source's samples by the host's clock, where there is no better one and it is known; else 0."""
    return 0.0 if source.info.has_clock else source.counts.heard_hz


def session_meta(info: StreamInfo, path: Path, wearer: Wearer, stage: str) -> SessionMeta:
    """The attributes of a session that is about to be recorded."""
    return SessionMeta(
        session=wearer.session,
        user=wearer.user,
        stage=stage,
        side=wearer.side,
        start=0.0,
        end=0.0,
        num_channels=info.n_channels,
        sample_rate=info.sample_rate_hz,
        filename=printable(path.stem),  # HDF5 takes no name that is not UTF-8
    )


def journal_of(path: Path) -> Path:
    """The file with the rows of a session while it is recorded."""
    return path.with_name(f".{path.name}.part")


def recover(journal: Path, force: bool = False) -> Recorded:
    """Make the session of a journal, whose last row may be cut short, and remove the journal.

    force: a session that exists is replaced
    Raises DataError when it is no journal, is in use, or holds no whole row.
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
    check_free(path, force)  # it may have come while this one was recorded
    start_s, last_s = float(rows[:1]["time"][0]), float(rows[len(rows) - 1 :]["time"][0])
    largest_step_s, stretch = 1.5 / meta.sample_rate, 1.0
    if heard_hz and abs(heard_hz / meta.sample_rate - 1) > HEARD_RATE_TOLERANCE:
        rate_hz = float(f"{heard_hz:.3g}")  # as exact as it is known, and the same from one session to the next
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
    """Blocks with their time, cut off after so many seconds of samples, at the rate at which they come."""
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
    """Lock an open journal until it is closed; False when somebody else has it.

    Somebody who is just ending, or a process that was forked and has yet to start its program, lets go of it soon.
    """
    try:
        import fcntl
    except ImportError:  # Windows: there, a file that is open cannot be removed
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
    """The whole rows of a journal, read a stretch at a time: hours of signal are more than memory holds."""

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
