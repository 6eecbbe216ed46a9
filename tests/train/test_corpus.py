from collections.abc import Callable
from dataclasses import replace

import pytest

from cpep_edge.errors import DataError
from cpep_train.corpus import METADATA_FILE, Corpus, corpus_info, write_metadata
from tests.train.toy_corpus import HELD_OUT_STAGE, varied, write_toy_corpus, write_toy_session


def test_metadata_reads_back_as_it_was_written(toy_corpus, tmp_path):
    write_metadata(tmp_path, toy_corpus.rows)
    assert Corpus.open(tmp_path).rows == toy_corpus.rows


def test_nothing_held_out_is_in_training_or_validation(toy_corpus):
    used = [toy_corpus.rows[number] for split in ("train", "val") for number in toy_corpus.numbers(split)]
    assert used
    assert not any(row.held_out_user or row.held_out_stage for row in used)
    assert toy_corpus.unseen_stages == (HELD_OUT_STAGE,)
    assert HELD_OUT_STAGE not in toy_corpus.seen_stages


def test_columns_may_come_in_any_order_and_with_others(toy_corpus, tmp_path):
    lines = (toy_corpus.folder / METADATA_FILE).read_text().splitlines()
    turned = [",".join(["more", *reversed(line.split(","))]) for line in lines]
    (tmp_path / METADATA_FILE).write_text("\n".join(turned))
    assert Corpus.open(tmp_path).rows == toy_corpus.rows


def test_info_counts_what_is_there(toy_corpus):
    info = corpus_info(toy_corpus.folder)
    assert (info.n_files, info.n_users, info.n_held_out_users, info.n_sessions) == (25, 5, 1, 5)
    assert info.splits == {"test": 9, "train": 12, "val": 4}
    assert sum(info.stages.values()) == pytest.approx(info.hours)
    assert info.hours * 3600 == pytest.approx(25 * 2.0)
    assert (info.sample_rates_hz, info.n_channels, info.n_gaps, info.faults) == ((500.0,), (4,), 0, ())


def test_info_reports_a_file_that_metadata_names_and_nobody_has(toy_corpus, tmp_path):
    write_toy_session(tmp_path, "here")
    row = toy_corpus.rows[0]
    write_metadata(tmp_path, [replace(row, filename="here"), replace(row, filename="gone")])
    (fault,) = corpus_info(tmp_path).faults
    assert "gone.hdf5" in fault


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_channels": 16}, "field emg has 4 channels, but recipe tiny is for 16"),
        ({"sample_rate_hz": 2000.0}, "sample_rate is 500 Hz, but recipe tiny is for 2000 Hz"),
    ],
)
def test_a_corpus_of_another_band_is_refused(toy_corpus, tiny_recipe, change, says):
    with pytest.raises(DataError, match=says):
        toy_corpus.check(varied(tiny_recipe, signal=change))


def test_a_held_out_recording_in_training_is_refused(tmp_path, tiny_recipe):
    corpus = write_toy_corpus(tmp_path / "toy")
    leaked = [replace(row, split="train") if row.held_out_stage else row for row in corpus.rows]
    with pytest.raises(DataError, match="is held out, but its split is train"):
        Corpus(corpus.folder, tuple(leaked)).check(tiny_recipe)


def test_an_empty_folder_is_no_corpus(tmp_path):
    with pytest.raises(DataError, match=r"neither metadata.csv nor any"):
        Corpus.open(tmp_path)


def test_metadata_of_a_spreadsheet_reads_as_what_was_typed(toy_corpus, tmp_path):
    """With a byte-order mark, Windows line ends, and a column of notes that contain all kinds of line breaks."""
    head, *lines = (toy_corpus.folder / METADATA_FILE).read_text().splitlines()
    notes = ['"first\r\nsecond"', '"a\nb"', "x\u2028y", "x\x0cy", "x\x85y"]
    noted = [f"{line},{notes[number % 5]}" for number, line in enumerate(lines)]
    (tmp_path / METADATA_FILE).write_bytes("\ufeff".encode() + "\r\n".join([f"{head},note", *noted]).encode())
    assert Corpus.open(tmp_path).rows == toy_corpus.rows


def replaced(wrong: str, right: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert wrong in text
        return text.replace(wrong, right, 1)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: "", "columns missing"),
        (lambda text: "user,stage\nu,Fist\n", "columns missing: session, side"),
        (replaced("False", "maybe"), "held_out_user in line 2 is neither True nor False"),
        (lambda text: f"{text}{text.splitlines()[1]}\n", "is in line 2 and in line .*: remove one of them"),
        (lambda text: f'{text}"{"x" * 200_000}",b\n', "cannot be read: field larger than"),
        (lambda text: text + "\udcff\n", "cannot be read: it is not UTF-8"),
        (replaced("user,", "user,user,"), "column user is there twice"),
        (replaced("user,", "user," + "x," * 1_000_000), "has 1,000,010 columns, at most 1,000"),
        (replaced("\nu0,", "\nu\x000,"), "user in line 2 holds what is not a printable character: 'u.x000'"),
        (replaced("\nu0,", '\n"u\n0",'), "user in line 3 holds what is not a printable character"),
    ],
)
def test_a_table_that_only_looks_like_metadata_is_said(toy_corpus, tmp_path, change, says):
    text = (toy_corpus.folder / METADATA_FILE).read_text()
    (tmp_path / METADATA_FILE).write_text(change(text), errors="surrogateescape")
    with pytest.raises(DataError, match=says):
        Corpus.open(tmp_path)


@pytest.mark.parametrize("what", ["user", "stage"])
def test_one_name_that_is_typed_in_two_ways_is_no_two(toy_corpus, what):
    """A person who is held out as Ann but trained on as ann would be a leak."""
    name = getattr(toy_corpus.rows[-1], what)
    rows = (*toy_corpus.rows[:-1], replace(toy_corpus.rows[-1], **{what: name.swapcase()}))
    with pytest.raises(DataError, match=f"{what} .* differ only in capitals"):
        replace(toy_corpus, rows=rows).check_splits()


def test_what_a_recipe_asks_of_all_recordings_is_looked_for_in_the_first(toy_corpus, tiny_recipe):
    toy_corpus.check_device(tiny_recipe)
    with pytest.raises(DataError, match=r"the first 12 recordings of training have at most 1000 samples, fewer than"):
        toy_corpus.check_device(varied(tiny_recipe, windows={"window_samples": 1_001}))
    with pytest.raises(DataError, match="has no recording of Neither or Nope to calibrate with"):
        toy_corpus.check_device(varied(tiny_recipe, calibration={"stages": ("Nope", "Neither")}))
