"""Recording: what arrives is on the disk, gaps show, and neither a kill nor a full disk takes it away."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cpep_bridge import recording
from cpep_bridge.devices import open_source
from cpep_bridge.prompts import load_prompts, record_prompts
from cpep_bridge.recording import Recorder, Timeline, Wearer, journal_of, record, recover, session_meta
from cpep_bridge.simulator import SimulatedBand
from cpep_edge.blocks import Block, LinkCounts, StreamInfo
from cpep_edge.errors import ConfigError, CpepError, DataError, LinkError
from cpep_edge.session import Session

RATE_HZ = 2_000.0
WEARER = Wearer("anna", "monday", "left")
INFO = StreamInfo("in memory", 4, RATE_HZ)


class BlocksInMemory:
    """A BlockSource of given blocks."""

    info = INFO
    counts = LinkCounts()

    def __init__(self, blocks: list[Block], error: BaseException | None = None) -> None:
        self._blocks, self._error = blocks, error

    def __enter__(self) -> "BlocksInMemory":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def stop(self) -> None: ...

    def __iter__(self) -> Iterator[Block]:
        yield from self._blocks
        if self._error is not None:
            raise self._error


def block(sample_index: int, n_samples: int = 10, boot_id: int = 0, host_t_s: float | None = None) -> Block:
    values = np.arange(sample_index, sample_index + n_samples, dtype=np.float32)
    arrival_s = (sample_index + n_samples) / RATE_HZ if host_t_s is None else host_t_s
    return Block(np.repeat(values[:, None], 4, axis=1), sample_index, sample_index / RATE_HZ, arrival_s, boot_id)


def test_a_recorded_session_holds_every_sample_and_shows_losses_as_gaps(
    tmp_path: Path, emg_uv: NDArray[np.float32]
) -> None:
    with SimulatedBand([emg_uv] * 4, RATE_HZ, once=True, lossless=True, speed=8, loss=0.02, seed=2) as band:
        with open_source(band.port) as source:
            recorded = record(source, tmp_path / "one.hdf5", WEARER, "FingerFreeform")
        sent = band.sent
    assert recorded is not None
    with Session(recorded.path) as session:
        session.check()
        indices = np.rint((session.time_s() - session.time_s()[0]) * RATE_HZ).astype(int)
        truth = np.concatenate([emg_uv] * 4)

        assert (session.meta.user, session.meta.stage, session.meta.side) == ("anna", "FingerFreeform", "left")
        np.testing.assert_allclose(session.emg(), truth[indices], atol=0.126)
        assert session.n_samples == recorded.n_samples == sent.samples - sent.lost_samples
        assert len(session.gaps()) == recorded.n_gaps > 0
        assert sum(gap.duration_s for gap in session.gaps()) == pytest.approx(sent.lost_samples / RATE_HZ, abs=1e-4)
        assert not session.joint_angles().any()
    assert list(tmp_path.iterdir()) == [recorded.path]


def test_time_goes_on_through_a_restart_of_the_device_by_the_hosts_clock() -> None:
    timeline = Timeline(RATE_HZ)
    first_s = timeline.start_s(block(0))
    assert timeline.start_s(block(10)) - first_s == pytest.approx(0.005, abs=1e-6)

    after = block(0, boot_id=1, host_t_s=3.01)
    assert timeline.start_s(after) - first_s == pytest.approx(3.005, abs=1e-6)
    assert timeline.start_s(block(30, boot_id=1)) - first_s == pytest.approx(3.020, abs=1e-6)


def test_so_many_seconds_are_so_many_samples(tmp_path: Path) -> None:
    source = BlocksInMemory([block(n, 64) for n in range(0, 6_400, 64)])
    recorded = record(source, tmp_path / "one.hdf5", WEARER, "rest", seconds=1.5)

    assert recorded is not None
    assert recorded.n_samples == 3_000


@pytest.mark.parametrize("error", [LinkError("the device is gone"), KeyboardInterrupt()])
def test_a_recording_that_ends_early_leaves_a_whole_session(tmp_path: Path, error: BaseException) -> None:
    source = BlocksInMemory([block(0), block(10)], error)
    try:
        record(source, tmp_path / "one.hdf5", WEARER, "rest")
    except LinkError:
        assert isinstance(error, LinkError)

    with Session(tmp_path / "one.hdf5") as session:
        assert session.n_samples == 20
    assert not journal_of(tmp_path / "one.hdf5").exists()


def test_a_source_that_gave_nothing_leaves_nothing(tmp_path: Path) -> None:
    assert record(BlocksInMemory([]), tmp_path / "one.hdf5", WEARER, "rest") is None
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys
import numpy as np
from pathlib import Path
from cpep_bridge.devices import open_source
from cpep_bridge.recording import Wearer, record
with open_source(sys.argv[1]) as source:
    print("on", flush=True)
    record(source, Path(sys.argv[2]), Wearer("anna", "monday", "left"), "rest")
"""


def test_a_kill_loses_at_most_the_last_second(tmp_path: Path, emg_uv: NDArray[np.float32]) -> None:
    path = tmp_path / "one.hdf5"
    with SimulatedBand([emg_uv], RATE_HZ) as band:
        command = [sys.executable, "-c", KILLED, band.port, str(path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(1.5)
            process.send_signal(signal.SIGKILL)
        sent_s = band.sent.samples / RATE_HZ
    recorded = recover(journal_of(path))

    assert recorded.duration_s > sent_s - 1.0
    with Session(path) as session:
        session.check()
        np.testing.assert_allclose(session.emg(0, 900), emg_uv[:900], atol=0.126)


def test_a_journal_cut_anywhere_gives_the_whole_rows_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "one.hdf5"
    recorder = Recorder(path, session_meta(INFO, path, WEARER, "rest"))
    recorder.add(1e9, block(0, 100).samples_uv)
    recorder._flush()
    os.close(recorder._file)  # as a kill does
    whole = recorder.journal.read_bytes()
    header_bytes, row_bytes = whole.index(b"\n") + 1, 8 + 4 * 4
    for n_bytes in (header_bytes + row_bytes, header_bytes + 50 * row_bytes + 7, len(whole) - 1):
        recorder.journal.write_bytes(whole[:n_bytes])

        assert recover(recorder.journal, force=True).n_samples == (n_bytes - header_bytes) // row_bytes
    recorder.journal.write_bytes(whole[: header_bytes + 5])
    with pytest.raises(DataError, match="holds no samples"):
        recover(recorder.journal)
    recorder.journal.write_bytes(b"not json\n")
    with pytest.raises(DataError, match="is no journal of a recording"):
        recover(recorder.journal)


def test_a_journal_that_was_left_behind_is_not_overwritten(tmp_path: Path) -> None:
    journal_of(tmp_path / "one.hdf5").write_bytes(b"precious")

    with pytest.raises(
        DataError, match=r"left from a recording that was cut off: keep it with 'cpep-edge record --rec"
    ):
        record(BlocksInMemory([block(0)]), tmp_path / "one.hdf5", WEARER, "rest")


FULL = """
import resource, sys
import numpy as np
from pathlib import Path
from cpep_bridge.recording import Recorder, Wearer, session_meta
from cpep_edge.blocks import StreamInfo
from cpep_edge.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
path = Path(sys.argv[1])
recorder = Recorder(path, session_meta(StreamInfo("x", 4, 2000.0), path, Wearer("a", "b", "left"), "rest"))
try:
    for n in range(100):
        recorder.add(n * 0.05, np.full((100, 4), n, np.float32))
        recorder._flush()
except DataError as error:
    print(error)
"""


def test_a_disk_that_fills_is_one_sentence_and_what_is_on_it_stays_readable(tmp_path: Path) -> None:
    path = tmp_path / "one.hdf5"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, env=environment)

    said = r"cannot go on writing .*one.hdf5 after 2\.\d s: .*; make room, then run 'cpep-edge record --recover .*part'"
    assert re.search(said, done.stdout), done.stdout + done.stderr
    assert recover(journal_of(path)).n_samples == pytest.approx(100_000 / 24, abs=20)


PROMPTS = """
rest_s = 0.5
[[prompt]]
stage = "GraspPunchCloseFar"
text = "Make a fist"
seconds = 1.0
repeat = 2
[[prompt]]
stage = "ShakaVulcanPeace"
seconds = 0.25
"""


def test_prompts_become_labelled_sessions_and_rows_of_metadata(tmp_path: Path) -> None:
    (tmp_path / "list.toml").write_text(PROMPTS)
    shown: list[tuple[str, bool]] = []
    source = BlocksInMemory([block(n, 64) for n in range(0, 20_000, 64)])
    recorded = record_prompts(
        source,
        tmp_path / "corpus",
        WEARER,
        load_prompts(tmp_path / "list.toml"),
        lambda prompt, resting, left_s: shown.append((prompt.stage, resting)),
    )

    assert [(one.stage, one.n_samples) for one in recorded] == [
        ("GraspPunchCloseFar", 2_000),
        ("ShakaVulcanPeace", 500),
        ("GraspPunchCloseFar", 2_000),
    ]
    with Session(recorded[1].path) as session:
        assert session.emg()[0, 0] == 1_000 + 2_000 + 1_000
    assert list(dict.fromkeys(shown))[:2] == [("GraspPunchCloseFar", True), ("GraspPunchCloseFar", False)]
    rows = (tmp_path / "corpus" / "metadata.csv").read_text().splitlines()
    assert rows[0] == ("user,session,stage,side,moving_hand,held_out_user,held_out_stage,split,generalization,filename")
    assert rows[2] == "anna,monday-rep1,ShakaVulcanPeace,left,left,False,False,train,,anna_monday_ShakaVulcanPeace_1"
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("repeats", "splits"),
    [
        ((1, 2), ["train", "train", "test"]),
        ((3, 4), ["train", "train", "val", "train", "test", "val", "test"]),
    ],
)
def test_repetitions_that_are_asked_for_are_split_and_a_session_can_be_for_one_thing(
    tmp_path: Path, repeats: tuple[int, int], splits: list[str]
) -> None:
    prompt = '[[prompt]]\nstage = "{}"\nseconds = 0.1\nrepeat = {}\n'
    (tmp_path / "list.toml").write_text(
        "rest_s = 0.01\n" + prompt.format("Fist", repeats[0]) + prompt.format("Open", repeats[1])
    )
    prompts = load_prompts(tmp_path / "list.toml")

    for session, split in (("one", None), ("two", "test")):
        source = BlocksInMemory([block(n, 64) for n in range(0, 20_000, 64)])
        wearer = Wearer("anna", session, "left")
        record_prompts(source, tmp_path / "corpus", wearer, prompts, lambda *_: None, split)
    with (tmp_path / "corpus" / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == splits + ["test"] * len(splits)
    assert {row["filename"].rpartition("_")[2] for row in rows if row["session"] == "two-rep2"} == {"2"}


def test_prompts_that_are_recorded_open_as_a_corpus_whose_splits_leak_into_none(tmp_path: Path) -> None:
    corpus = pytest.importorskip("cpep_train.corpus")
    leakage = pytest.importorskip("cpep_train.leakage")
    (tmp_path / "list.toml").write_text(PROMPTS)
    source = BlocksInMemory([block(n, 64) for n in range(0, 20_000, 64)])
    record_prompts(source, tmp_path / "corpus", WEARER, load_prompts(tmp_path / "list.toml"), lambda *_: None)
    found = corpus.Corpus.open(tmp_path / "corpus")

    assert (len(found.numbers("train")), len(found.numbers("test"))) == (2, 1)
    assert len({row.donning for row in found.rows}) == 1
    assert len(leakage.audit(found).entries) == 3


def test_a_prompt_that_was_broken_off_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "list.toml").write_text(PROMPTS)
    source = BlocksInMemory([block(n, 64) for n in range(0, 4_500, 64)], LinkError("gone"))
    with pytest.raises(LinkError):
        record_prompts(source, tmp_path / "corpus", WEARER, load_prompts(tmp_path / "list.toml"), lambda *_: None)

    assert {path.name for path in (tmp_path / "corpus").iterdir()} == {
        "anna_monday_GraspPunchCloseFar_1.hdf5",
        "anna_monday_ShakaVulcanPeace_1.hdf5",
        "metadata.csv",
    }


def test_everything_wrong_in_a_prompt_list_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "list.toml").write_text('rest = 1\n[[prompt]]\nstage = "a b"\nseconds = 0')

    with pytest.raises(ConfigError, match=r"list.toml: .*rest is not a known key") as caught:
        load_prompts(tmp_path / "list.toml")
    assert "prompt.0.stage" in str(caught.value)
    assert "prompt.0.seconds" in str(caught.value)


def test_recovering_takes_no_more_memory_for_more_hours(tmp_path: Path) -> None:
    """A gap on the border of two stretches is counted once, as anywhere."""
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
    recorder._close()  # as a kill does: the journal is nobody's
    tracemalloc.start()
    recorded = recover(recorder.journal)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (recorded.n_samples, recorded.n_gaps) == (n_rows, 2)
    assert peak_bytes < size_bytes / 2
    with Session(tmp_path / "long.hdf5") as session:
        assert session.n_samples == n_rows
        assert len(session.gaps()) == 2


def test_the_journal_is_on_the_disk_within_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that the test moves: what was written when a second has passed was synced."""
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


def test_a_session_that_exists_is_replaced_only_when_asked(tmp_path: Path) -> None:
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


def test_a_session_that_came_while_another_was_recorded_is_kept_and_the_journal_too(tmp_path: Path) -> None:
    path = tmp_path / "one.hdf5"
    recorder = Recorder(path, session_meta(INFO, path, WEARER, "rest"))
    recorder.add(1e9, block(0, 100).samples_uv)
    path.write_bytes(b"precious")
    with pytest.raises(DataError, match=r"exists and is not replaced.*what was recorded is in .*part"):
        recorder.finish()

    assert path.read_bytes() == b"precious"
    assert recover(journal_of(path), force=True).n_samples == 100


def test_a_journal_in_use_is_neither_recovered_nor_recorded_over(tmp_path: Path) -> None:
    path = tmp_path / "one.hdf5"
    recorder = Recorder(path, session_meta(INFO, path, WEARER, "rest"))
    with pytest.raises(DataError, match="is being recorded now"):
        recover(recorder.journal)
    with pytest.raises(DataError, match="is being recorded now"):
        record(BlocksInMemory([block(0)]), path, WEARER, "rest")
    recorder.add(1e9, block(0, 50).samples_uv)

    finished = recorder.finish()
    assert finished is not None
    assert finished.n_samples == 50


def test_seconds_count_samples_through_losses_and_restarts(tmp_path: Path) -> None:
    blocks = [block(0, 1_000), block(50_000, 1_000), block(0, 1_000, boot_id=1, host_t_s=60.0)]
    recorded = record(BlocksInMemory([*blocks, block(1_000, 9_000, boot_id=1)]), tmp_path / "a.hdf5", WEARER, "x", 2.0)

    assert recorded is not None
    assert (recorded.n_samples, recorded.duration_s, recorded.n_gaps) == (4_000, 2.0, 2)


@pytest.mark.parametrize("heard_hz", [1_600.4, 2_400.0])
def test_a_session_is_of_the_rate_at_which_its_samples_came(tmp_path: Path, heard_hz: float) -> None:
    source = BlocksInMemory([block(0, 1_000), block(1_500, 9_000)])
    source.counts = LinkCounts(heard_hz=heard_hz)
    recorded = record(source, tmp_path / "one.hdf5", WEARER, "rest", seconds=4.0)

    assert recorded is not None
    with Session(recorded.path) as session:
        session.check()
        assert session.meta.sample_rate == float(f"{heard_hz:.3g}")
        assert session.n_samples == round(4.0 * heard_hz)
        (gap,) = session.gaps()
        assert gap.duration_s == pytest.approx(500 / session.meta.sample_rate, rel=1e-4)


@pytest.mark.parametrize("cut", ["a loss", "a restart"])
def test_a_prompt_that_was_cut_in_two_is_asked_for_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: str
) -> None:
    (tmp_path / "list.toml").write_text('rest_s = 0.5\n[[prompt]]\nstage = "Fist"\nseconds = 1.0\n')
    whole = [block(n, 50) for n in range(0, 2_000, 50)]  # the prompt begins with sample 1000
    index, boot_id = (4_000, 0) if cut == "a loss" else (0, 1)
    after = [block(index + n, 50, boot_id, host_t_s=9.0 + n / RATE_HZ) for n in range(0, 6_000, 50)]
    (recorded,) = record_prompts(
        BlocksInMemory([*whole, *after]),
        tmp_path / "corpus",
        WEARER,
        load_prompts(tmp_path / "list.toml"),
        lambda *_: None,
    )

    with Session(recorded.path) as session:
        assert (session.n_samples, session.gaps()) == (2_000, [])
        assert session.emg()[0, 0] == index + 1_000  # after another rest
    assert "asked for again" in caplog.text


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
def test_a_disk_that_fills_while_a_session_is_made_loses_nothing(tmp_path: Path, what: str) -> None:
    """HDF5 breaks down when a write of it is refused: what it does not write is in the journal."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FULL_AT_THE_END, what, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)

    assert done.returncode == 0, done.stderr
    assert re.match("cannot write .*hdf5: File too large", done.stdout)
    left = [path for path in tmp_path.iterdir() if path.suffix != ".part"]
    assert left == []
    if what != "session":
        (journal,) = tmp_path.iterdir()
        assert f"what was recorded is in {journal}, for 'cpep-edge record --recover'" in done.stdout
        assert recover(journal).n_samples == 30_000


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_prompt_that_was_recorded_but_not_noted_is_noted_the_next_time(tmp_path: Path) -> None:
    (tmp_path / "list.toml").write_text(PROMPTS)
    prompts, folder = load_prompts(tmp_path / "list.toml"), tmp_path / "corpus"
    samples = [block(n, 64) for n in range(0, 20_000, 64)]
    record_prompts(BlocksInMemory(samples), folder, WEARER, prompts, lambda *_: None)
    noted = rows_of(folder)
    (folder / "metadata.csv").unlink()  # as a kill between the two leaves it
    record(BlocksInMemory(samples), folder / "other_thing.hdf5", WEARER, "Fist", 0.1)  # none of its own
    record_prompts(BlocksInMemory(samples), folder, WEARER, prompts, lambda *_: None)

    again = rows_of(folder)
    assert sorted(row["filename"] for row in again[:3]) == sorted(row["filename"] for row in noted)
    assert {(row["session"], row["split"]) for row in again[:3]} == {("monday-rep1", "train"), ("monday-rep2", "train")}
    assert len(again) == 6


@pytest.mark.parametrize("end", ["", "\r\n"])
def test_rows_go_into_the_columns_that_are_there(tmp_path: Path, end: str) -> None:
    """A table that a spreadsheet saved: another order, a column more, a byte-order mark, no line end at the end."""
    (tmp_path / "list.toml").write_text(PROMPTS)
    samples = [block(n, 64) for n in range(0, 20_000, 64)]
    columns = "note,filename,split,generalization,held_out_stage,held_out_user,moving_hand,side,stage,session,user"
    before = f'\ufeff{columns}\r\n"of\r\nold",one,train,,False,False,left,left,Fist,s,bob{end}'
    (tmp_path / "metadata.csv").write_bytes(before.encode())
    record_prompts(BlocksInMemory(samples), tmp_path, WEARER, load_prompts(tmp_path / "list.toml"), lambda *_: None)

    rows = rows_of(tmp_path)
    assert [row["filename"] for row in rows[:2]] == ["one", "anna_monday_GraspPunchCloseFar_1"]
    assert (rows[0]["note"], rows[0]["user"], rows[1]["user"], rows[1]["note"]) == ("of\r\nold", "bob", "anna", "")
    assert len(rows) == 4


@pytest.mark.parametrize("there", [b"user,session\n", b"\xff\xfeu\x00"])
def test_a_table_that_no_row_can_be_added_to_is_said_before_the_first_prompt(tmp_path: Path, there: bytes) -> None:
    (tmp_path / "list.toml").write_text(PROMPTS)
    (tmp_path / "metadata.csv").write_bytes(there)
    shown: list[float] = []
    source = BlocksInMemory([block(n, 64) for n in range(0, 20_000, 64)])
    with pytest.raises(DataError, match=r"metadata.csv cannot be added to: .*; choose another folder"):
        record_prompts(source, tmp_path, WEARER, load_prompts(tmp_path / "list.toml"), lambda *_: shown.append(0))

    assert shown == []
    assert (tmp_path / "metadata.csv").read_bytes() == there


@pytest.mark.parametrize("name", ["", " ann", "a/b", "a\nb", "\udcff", "a" * 101])
def test_names_that_no_file_or_table_could_hold_are_refused_where_they_enter(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no name for a user"):
        Wearer(name, "monday", "left")
    with pytest.raises(ConfigError, match="no name for a session"):
        Wearer("anna", name, "left")
    if "/" not in name:
        with pytest.raises(ConfigError, match="no name for a gesture"):
            record(BlocksInMemory([block(0)]), tmp_path / "one.hdf5", WEARER, name)
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_too_long_together_are_said_before_the_first_prompt(tmp_path: Path) -> None:
    prompt = f'[[prompt]]\nstage = "{"S" * 100}"\nseconds = 0.1\n'
    (tmp_path / "list.toml").write_text(prompt)
    with pytest.raises(ConfigError, match="is too long for the name of a file"):
        record_prompts(
            BlocksInMemory([block(0)]),
            tmp_path / "corpus",
            Wearer("a" * 100, "b" * 100, "left"),
            load_prompts(tmp_path / "list.toml"),
            lambda *_: None,
        )
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(
    ("top", "value"),
    [
        ("rest_s = inf", "seconds = 1"),
        ("rest_s = 1e308", "seconds = 1"),
        ("", "seconds = inf"),
        ("", "seconds = 1e308"),
        ("", "seconds = true"),
        ("", 'seconds = "1"'),
        ("", "seconds = 1\nrepeat = 1000000000000000000"),
        ("", "seconds = 1\nrepeat = 2.0"),
    ],
)
def test_a_prompt_list_that_would_not_end_is_refused(tmp_path: Path, top: str, value: str) -> None:
    (tmp_path / "list.toml").write_text(f'{top}\n[[prompt]]\nstage = "Fist"\n{value}\n')
    with pytest.raises(ConfigError, match=r"prompt list list.toml: (rest_s|prompt.0.(seconds|repeat)): input should"):
        load_prompts(tmp_path / "list.toml")


def test_a_path_that_is_not_utf_8_is_recorded_to(tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9.hdf5"
    record(BlocksInMemory([block(0)]), path, WEARER, "rest")
    with Session(path) as session:
        assert session.n_samples == 10
