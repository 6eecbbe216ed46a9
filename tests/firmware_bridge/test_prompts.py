"""Recording with prompts: gestures become labelled sessions, and rows in a table that the user may edit."""

import csv
from pathlib import Path

import pytest

from cpep_bridge.prompts import Prompt, PromptList, load_prompts, record_prompts
from cpep_bridge.recording import Recorded, Wearer, record
from cpep_edge.errors import ConfigError, DataError, LinkError
from cpep_edge.session import Session
from tests.firmware_bridge.blocks_in_memory import RATE_HZ, WEARER, BlocksInMemory, block

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


def prompts_in(folder: Path, text: str = PROMPTS) -> PromptList:
    (folder / "list.toml").write_text(text)
    return load_prompts(folder / "list.toml")


def samples(n_samples: int = 20_000, error: BaseException | None = None) -> BlocksInMemory:
    return BlocksInMemory([block(n, 64) for n in range(0, n_samples, 64)], error)


def record_all(source: BlocksInMemory, folder: Path, prompts: PromptList, wearer: Wearer = WEARER) -> list[Recorded]:
    return record_prompts(source, folder, wearer, prompts, lambda *_: None)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_prompts_become_labelled_sessions_and_rows_of_metadata(tmp_path):
    shown: list[tuple[str, bool]] = []

    def show(prompt: Prompt, resting: bool, left_s: float) -> None:
        shown.append((prompt.stage, resting))

    recorded = record_prompts(samples(), tmp_path / "corpus", WEARER, prompts_in(tmp_path), show)

    fist, shaka = ("GraspPunchCloseFar", 2_000), ("ShakaVulcanPeace", 500)
    assert [(one.stage, one.n_samples) for one in recorded] == [fist, shaka, fist]
    with Session(recorded[1].path) as session:
        assert session.emg()[0, 0] == 1_000 + 2_000 + 1_000
    assert list(dict.fromkeys(shown))[:2] == [("GraspPunchCloseFar", True), ("GraspPunchCloseFar", False)]
    rows = (tmp_path / "corpus" / "metadata.csv").read_text().splitlines()
    assert rows[0] == ("user,session,stage,side,moving_hand,held_out_user,held_out_stage,split,generalization,filename")
    assert rows[2] == "anna,monday-rep1,ShakaVulcanPeace,left,left,False,False,train,,anna_monday_ShakaVulcanPeace_1"
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("repeats", "splits"),
    [((1, 2), ["train", "train", "test"]), ((3, 4), ["train", "train", "val", "train", "test", "val", "test"])],
)
def test_repetitions_that_are_asked_for_are_split_and_a_session_can_be_for_one_thing(tmp_path, repeats, splits):
    prompt = '[[prompt]]\nstage = "{}"\nseconds = 0.1\nrepeat = {}\n'
    text = "rest_s = 0.01\n" + prompt.format("Fist", repeats[0]) + prompt.format("Open", repeats[1])
    prompts = prompts_in(tmp_path, text)

    for session, split in (("one", None), ("two", "test")):
        wearer = Wearer("anna", session, "left")
        record_prompts(samples(), tmp_path / "corpus", wearer, prompts, lambda *_: None, split)
    rows = rows_of(tmp_path / "corpus")
    assert [row["split"] for row in rows] == splits + ["test"] * len(splits)
    assert {row["filename"].rpartition("_")[2] for row in rows if row["session"] == "two-rep2"} == {"2"}


def test_prompts_that_are_recorded_open_as_a_corpus_whose_splits_leak_into_none(tmp_path):
    corpus = pytest.importorskip("cpep_train.corpus")
    leakage = pytest.importorskip("cpep_train.leakage")
    record_all(samples(), tmp_path / "corpus", prompts_in(tmp_path))
    found = corpus.Corpus.open(tmp_path / "corpus")

    assert (len(found.numbers("train")), len(found.numbers("test"))) == (2, 1)
    assert len({row.donning for row in found.rows}) == 1
    assert len(leakage.audit(found).entries) == 3


def test_a_prompt_that_was_broken_off_is_not_kept(tmp_path):
    with pytest.raises(LinkError):
        record_all(samples(4_500, LinkError("gone")), tmp_path / "corpus", prompts_in(tmp_path))

    assert {path.name for path in (tmp_path / "corpus").iterdir()} == {
        "anna_monday_GraspPunchCloseFar_1.hdf5",
        "anna_monday_ShakaVulcanPeace_1.hdf5",
        "metadata.csv",
    }


def test_everything_wrong_in_a_prompt_list_is_said_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"list.toml: .*rest is not a known key") as caught:
        prompts_in(tmp_path, 'rest = 1\n[[prompt]]\nstage = "a b"\nseconds = 0')
    assert "prompt.0.stage" in str(caught.value)
    assert "prompt.0.seconds" in str(caught.value)


@pytest.mark.parametrize("cut", ["a loss", "a restart"])
def test_a_prompt_that_was_cut_in_two_is_asked_for_again(tmp_path, caplog, cut):
    prompts = prompts_in(tmp_path, 'rest_s = 0.5\n[[prompt]]\nstage = "Fist"\nseconds = 1.0\n')
    whole = [block(n, 50) for n in range(0, 2_000, 50)]  # the prompt begins at sample 1000
    index, boot_id = (4_000, 0) if cut == "a loss" else (0, 1)
    after = [block(index + n, 50, boot_id, host_t_s=9.0 + n / RATE_HZ) for n in range(0, 6_000, 50)]
    (recorded,) = record_all(BlocksInMemory([*whole, *after]), tmp_path / "corpus", prompts)

    with Session(recorded.path) as session:
        assert (session.n_samples, session.gaps()) == (2_000, [])
        assert session.emg()[0, 0] == index + 1_000  # after another pause
    assert "asked for again" in caplog.text


def test_a_prompt_that_was_recorded_but_not_noted_is_noted_the_next_time(tmp_path):
    prompts, folder = prompts_in(tmp_path), tmp_path / "corpus"
    record_all(samples(), folder, prompts)
    noted = rows_of(folder)
    (folder / "metadata.csv").unlink()  # like a kill before the table is written
    record(samples(), folder / "other_thing.hdf5", WEARER, "Fist", 0.1)  # not a prompted recording
    record_all(samples(), folder, prompts)

    again = rows_of(folder)
    assert sorted(row["filename"] for row in again[:3]) == sorted(row["filename"] for row in noted)
    assert {(row["session"], row["split"]) for row in again[:3]} == {("monday-rep1", "train"), ("monday-rep2", "train")}
    assert len(again) == 6


def test_a_row_that_somebody_took_out_stays_out(tmp_path):
    prompts, folder = prompts_in(tmp_path), tmp_path / "corpus"
    record_all(samples(), folder, prompts)
    head, bad, *others = (folder / "metadata.csv").read_text().splitlines(keepends=True)
    (folder / "metadata.csv").write_text("".join((head, *others)))
    record_all(samples(), folder, prompts)

    assert bad not in (folder / "metadata.csv").read_text()
    assert len(rows_of(folder)) == 5


@pytest.mark.parametrize("end", ["", "\r\n"])
def test_rows_go_into_the_columns_that_are_there(tmp_path, end):
    """A table saved by a spreadsheet: columns reordered, one added, a byte-order mark, no newline at the end."""
    columns = "note,filename,split,generalization,held_out_stage,held_out_user,moving_hand,side,stage,session,user"
    before = f'\ufeff{columns}\r\n"of\r\nold",one,train,,False,False,left,left,Fist,s,bob{end}'
    (tmp_path / "metadata.csv").write_bytes(before.encode())
    record_all(samples(), tmp_path, prompts_in(tmp_path))

    rows = rows_of(tmp_path)
    assert [row["filename"] for row in rows[:2]] == ["one", "anna_monday_GraspPunchCloseFar_1"]
    assert (rows[0]["note"], rows[0]["user"], rows[1]["user"], rows[1]["note"]) == ("of\r\nold", "bob", "anna", "")
    assert len(rows) == 4


@pytest.mark.parametrize("there", [b"user,session\n", b"\xff\xfeu\x00"])
def test_a_table_that_no_row_can_be_added_to_is_said_before_the_first_prompt(tmp_path, there):
    (tmp_path / "metadata.csv").write_bytes(there)
    shown: list[float] = []
    with pytest.raises(DataError, match=r"metadata.csv cannot be added to: .*; choose another folder"):
        record_prompts(samples(), tmp_path, WEARER, prompts_in(tmp_path), lambda *_: shown.append(0))

    assert shown == []
    assert (tmp_path / "metadata.csv").read_bytes() == there


def test_names_that_are_too_long_together_are_said_before_the_first_prompt(tmp_path):
    prompts = prompts_in(tmp_path, f'[[prompt]]\nstage = "{"S" * 100}"\nseconds = 0.1\n')
    with pytest.raises(ConfigError, match="is too long for the name of a file"):
        record_all(samples(), tmp_path / "corpus", prompts, Wearer("a" * 100, "b" * 100, "left"))
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
def test_a_prompt_list_that_would_not_end_is_refused(tmp_path, top, value):
    with pytest.raises(ConfigError, match=r"prompt list list.toml: (rest_s|prompt.0.(seconds|repeat)): input should"):
        prompts_in(tmp_path, f'{top}\n[[prompt]]\nstage = "Fist"\n{value}\n')
