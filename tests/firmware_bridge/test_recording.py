"""Recording: samples are stored at once, gaps are kept, and neither a kill nor a full disk loses what is stored."""

import os
import re
import signal
import tracemalloc

import numpy as np
import pytest

from cpep_bridge import recording
from cpep_bridge.devices import open_source
from cpep_bridge.recording import Recorder, Timeline, Wearer, journal_of, record, recover, session_meta
from cpep_bridge.simulator import SimulatedBand
from cpep_edge.blocks import LinkCounts
from cpep_edge.errors import ConfigError, CpepError, DataError, LinkError
from cpep_edge.session import Session
from tests.firmware_bridge.blocks_in_memory import INFO, RATE_HZ, WEARER, BlocksInMemory, block
from tests.processes import files_of_at_most, python, start


def test_a_recorded_session_holds_every_sample_and_shows_losses_as_gaps(tmp_path, emg_uv):
    with SimulatedBand([emg_uv] * 4, RATE_HZ, once=True, lossless=True, speed=8, loss=0.02, seed=2) as band:
        with open_source(band.port) as source:
            recorded = record(source, tmp_path / "one.hdf5", WEARER, "FingerFreeform")
        sent = band.sent
    with Session(recorded.path) as session:
        session.check()
        indices = np.rint((session.time_s() - session.time_s()[0]) * RATE_HZ).astype(int)
        truth = np.concatenate([emg_uv] * 4)

        assert (session.meta.user, session.meta.stage, session.meta.side) == ("anna", "FingerFreeform", "left")
        np.testing.assert_allclose(session.emg(), truth[indices], atol=0.126)
        assert session.n_samples == recorded.n_samples == sent.samples - sent.lost_samples
        assert len(session.gaps()) == recorded.n_gaps > 0
        missing_s = sum(duration_s for _, duration_s in session.gaps())
        assert missing_s == pytest.approx(sent.lost_samples / RATE_HZ, abs=1e-4)
        assert not session.joint_angles().any()
    assert list(tmp_path.iterdir()) == [recorded.path]


def test_time_goes_on_through_a_restart_of_the_device_by_the_hosts_clock():
    timeline = Timeline(RATE_HZ)
    first_s = timeline.start_s(block(0))
    assert timeline.start_s(block(10)) - first_s == pytest.approx(0.005, abs=1e-6)

    after = block(0, boot_id=1, host_t_s=3.01)
    assert timeline.start_s(after) - first_s == pytest.approx(3.005, abs=1e-6)
    assert timeline.start_s(block(30, boot_id=1)) - first_s == pytest.approx(3.020, abs=1e-6)


def test_so_many_seconds_are_so_many_samples(tmp_path):
    source = BlocksInMemory([block(n, 64) for n in range(0, 6_400, 64)])
    recorded = record(source, tmp_path / "one.hdf5", WEARER, "rest", seconds=1.5)

    assert recorded.n_samples == 3_000


@pytest.mark.parametrize("error", [LinkError("the device is gone"), KeyboardInterrupt()])
def test_a_recording_that_ends_early_leaves_a_whole_session(tmp_path, error):
    source = BlocksInMemory([block(0), block(10)], error)
    try:
        record(source, tmp_path / "one.hdf5", WEARER, "rest")
    except LinkError:
        assert isinstance(error, LinkError)

    with Session(tmp_path / "one.hdf5") as session:
        assert session.n_samples == 20
    assert not journal_of(tmp_path / "one.hdf5").exists()


def test_a_source_that_gave_nothing_leaves_nothing(tmp_path):
    assert record(BlocksInMemory([]), tmp_path / "one.hdf5", WEARER, "rest") is None
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys
import numpy as np
from pathlib import Path
from cpep_bridge.devices import open_source
from cpep_bridge.recording import Recorder, Wearer, record

add = Recorder.add
def added(recorder, start_s, samples_uv):
    add(recorder, start_s, samples_uv)
    print(recorder.n_samples, flush=True)
Recorder.add = added

with open_source(sys.argv[1]) as source:
    record(source, Path(sys.argv[2]), Wearer("anna", "monday", "left"), "rest")
"""


def test_a_kill_loses_at_most_the_last_second(tmp_path, emg_uv):
    path = tmp_path / "one.hdf5"
    with SimulatedBand([emg_uv], RATE_HZ) as band:
        with start("-c", KILLED, band.port, path) as process:
            came = 0
            while came < 1.5 * RATE_HZ:
                came = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
    recorded = recover(journal_of(path))

    assert recorded.n_samples > came - 1.0 * RATE_HZ
    with Session(path) as session:
        session.check()
        np.testing.assert_allclose(session.emg(0, 900), emg_uv[:900], atol=0.126)


def test_a_journal_cut_anywhere_gives_the_whole_rows_before_the_cut(tmp_path):
    path = tmp_path / "one.hdf5"
    recorder = Recorder(path, session_meta(INFO, path, WEARER, "rest"))
    recorder.add(1e9, block(0, 100).samples_uv)
    recorder._flush()
    os.close(recorder._file)  # like a kill
    whole = recorder.journal.read_bytes()
    header_bytes, row_bytes = whole.index(b"\n") + 1, 8 + 4 * 4
    for n_bytes in (header_bytes + row_bytes, header_bytes + 50 * row_bytes + 7, len(whole) - 1):
        recorder.journal.write_bytes(whole[:n_bytes])

        assert recover(recorder.journal, force=True).n_samples == (n_bytes - header_bytes) // row_bytes
    recorder.journal.write_bytes(whole[: header_bytes + 5])
    with pytest.raises(DataError, match="holds no samples"):
        recover(recorder.journal)
    recorder.journal.write_bytes(b"not json\n")
    with pytest.raises(DataError, match="is not a journal of a recording"):
        recover(recorder.journal)


def test_a_journal_that_is_a_pipe_is_said_at_once(tmp_path):
    journal = journal_of(tmp_path / "one.hdf5")
    os.mkfifo(journal)
    with pytest.raises(DataError, match="it is not a plain file"):
        recover(journal)


def test_a_journal_that_was_left_behind_is_not_overwritten(tmp_path):
    journal_of(tmp_path / "one.hdf5").write_bytes(b"precious")

    with pytest.raises(DataError, match="left from a recording that was cut off: keep it with 'cpep-edge record --rec"):
        record(BlocksInMemory([block(0)]), tmp_path / "one.hdf5", WEARER, "rest")


def test_a_disk_that_fills_is_one_sentence_and_what_is_on_it_stays_readable(tmp_path):
    path = tmp_path / "one.hdf5"
    recorder = Recorder(path, session_meta(INFO, path, WEARER, "rest"))
    said = r"cannot continue writing .*one.hdf5 after 2\.\d s: .*; make room, then run '.* record --recover .*part'"
    with files_of_at_most(100_000), pytest.raises(DataError, match=said):
        for n in range(100):
            recorder.add(n * 0.05, np.full((100, 4), n, np.float32))
            recorder._flush()
    recorder._close()  # like the end of the process
    assert recover(journal_of(path)).n_samples == pytest.approx(100_000 / 24, abs=20)


def test_recovering_takes_no_more_memory_for_more_hours(tmp_path):
    """Also tests that a gap between two chunks of the journal is counted once."""
    n_rows = 1_000_000
    recorder = Recorder(tmp_path / "long.hdf5", session_meta(INFO, tmp_path / "long.hdf5", WEARER, "Fist"))
    rows = np.zeros(n_rows, [("time", "<f8"), ("emg", "<f4", (INFO.n_channels,))])
    rows["time"] = np.arange(n_rows) / INFO.sample_rate_hz
    rows["time"][1 << 15 :] += 1.0
    rows["time"][500_000:] += 1.0
    with recorder.journal.open("ab") as journal:
        journal.write(rows.tobytes())
    size_bytes = rows.nbytes
    del rows
    recorder._close()  # like a kill: the journal is no longer locked
    tracemalloc.start()
    recorded = recover(recorder.journal)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (recorded.n_samples, recorded.n_gaps) == (n_rows, 2)
    assert peak_bytes < size_bytes / 2
    with Session(tmp_path / "long.hdf5") as session:
        assert session.n_samples == n_rows
        assert len(session.gaps()) == 2


def test_the_journal_is_on_the_disk_within_a_second(tmp_path, monkeypatch):
    """On a clock that the test controls, all that was written is synced once a second has passed."""
    now_s, size_at_sync = [100.0], []

    def note(file: int) -> None:
        size_at_sync.append((now_s[0], os.fstat(file).st_size))

    monkeypatch.setattr(recording.os, "fsync", note)
    monkeypatch.setattr(recording.time, "monotonic", lambda: now_s[0])
    recorder = Recorder(tmp_path / "one.hdf5", session_meta(INFO, tmp_path / "one.hdf5", WEARER, "Fist"))
    written: list[tuple[float, int]] = []
    for _ in range(200):
        recorder.add(now_s[0], np.zeros((10, INFO.n_channels), np.float32))
        written.append((now_s[0], recorder.journal.stat().st_size))
        if recorder._syncing is not None:
            recorder._syncing.join()
        now_s[0] += 0.05
    recorder.discard()

    for at_s, size in written[:-20]:
        assert any(synced_at_s <= at_s + 1.0 and synced >= size for synced_at_s, synced in size_at_sync), at_s


def test_a_session_that_exists_is_replaced_only_when_asked(tmp_path):
    path = tmp_path / "one.hdf5"
    record(BlocksInMemory([block(0, 100)]), path, WEARER, "rest")
    for taken in (path, tmp_path):
        with pytest.raises(CpepError, match=r"exists and is not replaced|is a folder"):
            record(BlocksInMemory([block(0, 10)]), taken, WEARER, "rest")
    with Session(path) as session:
        assert session.n_samples == 100

    record(BlocksInMemory([block(0, 10)]), path, WEARER, "rest", force=True)
    with Session(path) as session:
        assert session.n_samples == 10


def test_a_session_that_came_while_another_was_recorded_is_kept_and_the_journal_too(tmp_path):
    path = tmp_path / "one.hdf5"
    recorder = Recorder(path, session_meta(INFO, path, WEARER, "rest"))
    recorder.add(1e9, block(0, 100).samples_uv)
    path.write_bytes(b"precious")
    with pytest.raises(DataError, match=r"exists and is not replaced.*what was recorded is in .*part"):
        recorder.finish()

    assert path.read_bytes() == b"precious"
    assert recover(journal_of(path), force=True).n_samples == 100


def test_a_journal_in_use_is_neither_recovered_nor_recorded_over(tmp_path, virtual_time, monkeypatch):
    monkeypatch.setattr("cpep_bridge.recording.time", virtual_time)  # the command waits for a lock
    path = tmp_path / "one.hdf5"
    recorder = Recorder(path, session_meta(INFO, path, WEARER, "rest"))
    with pytest.raises(DataError, match="is being recorded now"):
        recover(recorder.journal)
    with pytest.raises(DataError, match="is being recorded now"):
        record(BlocksInMemory([block(0)]), path, WEARER, "rest")
    recorder.add(1e9, block(0, 50).samples_uv)

    finished = recorder.finish()
    assert finished.n_samples == 50


def test_seconds_count_samples_through_losses_and_restarts(tmp_path):
    blocks = [block(0, 1_000), block(50_000, 1_000), block(0, 1_000, boot_id=1, host_t_s=60.0)]
    recorded = record(BlocksInMemory([*blocks, block(1_000, 9_000, boot_id=1)]), tmp_path / "a.hdf5", WEARER, "x", 2.0)

    assert (recorded.n_samples, recorded.duration_s, recorded.n_gaps) == (4_000, 2.0, 2)


@pytest.mark.parametrize("heard_hz", [1_600.4, 2_400.0])
def test_a_session_is_of_the_rate_at_which_its_samples_came(tmp_path, heard_hz):
    source = BlocksInMemory([block(0, 1_000), block(1_500, 9_000)])
    source.counts = LinkCounts(heard_hz=heard_hz)
    recorded = record(source, tmp_path / "one.hdf5", WEARER, "rest", seconds=4.0)

    with Session(recorded.path) as session:
        session.check()
        assert session.meta.sample_rate == float(f"{heard_hz:.3g}")
        assert session.n_samples == round(4.0 * heard_hz)
        ((_, duration_s),) = session.gaps()
        assert duration_s == pytest.approx(500 / session.meta.sample_rate, rel=1e-4)


FULL_AT_THE_END = """
import resource, sys
import numpy as np
from pathlib import Path
from cpep_bridge.prompts import PromptList, record_prompts
from cpep_bridge.recording import Wearer, record
from cpep_edge.blocks import Block, LinkCounts, StreamInfo
from cpep_edge.errors import CpepError
from cpep_edge.session import SessionMeta, write_session

class Source:
    info, counts = StreamInfo("x", 4, 2000.0), LinkCounts()
    def __iter__(self):
        for n in range(0, 40_000, 100):
            yield Block(np.full((100, 4), n, np.float32), n, n / 2000.0, 0.0)

what, path, wearer = sys.argv[1], Path(sys.argv[2]), Wearer("a", "b", "left")
meta = SessionMeta("b", "a", "Fist", "left", 0.0, 1.0, 4, 2000.0, "one")
prompts = PromptList.model_validate({"rest_s": 0, "prompt": [{"stage": "Fist", "seconds": 15.0}]})
resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, 2_500_000))
try:
    if what == "session":
        write_session(path / "one.hdf5", meta, np.arange(30_000) / 2000, np.zeros((30_000, 4), np.float32))
    elif what == "prompts":
        record_prompts(Source(), path, wearer, prompts, lambda *_: None)
    else:
        record(Source(), path / "one.hdf5", wearer, "Fist", 15.0)
except CpepError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["session", "prompts", "record"])
def test_a_disk_that_fills_while_a_session_is_made_loses_nothing(tmp_path, what):
    """HDF5 breaks when one of its writes is refused, but the journal has all samples."""
    done = python("-c", FULL_AT_THE_END, what, tmp_path)

    assert done.returncode == 0, done.stderr
    assert re.match("cannot write .*hdf5: File too large", done.stdout)
    left = [path for path in tmp_path.iterdir() if path.suffix != ".part"]
    assert left == []
    if what != "session":
        (journal,) = tmp_path.iterdir()
        assert f"what was recorded is in {journal}, for 'cpep-edge record --recover'" in done.stdout
        assert recover(journal).n_samples == 30_000


@pytest.mark.parametrize("name", ["", " ann", "a/b", "a\nb", "\udcff", "a" * 101])
def test_names_that_no_file_or_table_could_hold_are_refused_where_they_enter(tmp_path, name):
    with pytest.raises(ConfigError, match="not a name for a user"):
        Wearer(name, "monday", "left")
    with pytest.raises(ConfigError, match="not a name for a session"):
        Wearer("anna", name, "left")
    if "/" not in name:
        with pytest.raises(ConfigError, match="not a name for a gesture"):
            record(BlocksInMemory([block(0)]), tmp_path / "one.hdf5", WEARER, name)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_not_utf_8_is_recorded_to(tmp_path):
    path = tmp_path / "caf\udce9.hdf5"
    record(BlocksInMemory([block(0)]), path, WEARER, "rest")
    with Session(path) as session:
        assert session.n_samples == 10
