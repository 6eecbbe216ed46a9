from pathlib import Path

import pytest

from cpep_edge.errors import DataError
from cpep_train.corpus import METADATA_FILE, Corpus
from cpep_train.leakage import audit
from tests.train.toy_corpus import write_toy_corpus

MINI = """\
train:
- u0-Fist
- u0-Flat
val:
- u0-Point
test:
- u0-Rest.hdf5
- u1-Fist
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A dataset folder whose metadata list more recordings than it has, like the mini dataset."""
    write_toy_corpus(tmp_path / "toy", n_samples=300)
    for file in (tmp_path / "toy").glob("u[234]-*.hdf5"):
        file.unlink()
    return tmp_path / "toy"


def _write(folder: Path, text: str) -> Path:
    (folder / "split.yaml").write_text(text)
    return folder / "split.yaml"


def test_a_split_file_opens_what_it_lists_and_says_what_is_held_out(folder):
    corpus = Corpus.open(_write(folder, MINI))
    assert [(row.filename, row.split) for row in corpus.rows] == [
        ("u0-Fist", "train"), ("u0-Flat", "train"), ("u0-Point", "val"), ("u0-Rest", "test"), ("u1-Fist", "test"),
    ]  # fmt: skip
    assert [(row.held_out_user, row.held_out_stage, row.generalization) for row in corpus.rows[2:]] == [
        (False, True, "stage"), (False, True, "stage"), (True, False, "user"),
    ]  # fmt: skip
    audit(corpus)


def test_the_full_split_is_that_of_the_metadata(folder):
    text = "_target_: emg2pose.utils.load_splits\nmetadata_file: ${data_location}/metadata.csv\nsubsample: 1\n"
    assert Corpus.open(_write(folder, text)) == Corpus.open(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINI.replace("u0-Fist", "nobody"), f"nobody is listed, but {METADATA_FILE} does not name it"),
        (MINI.replace("val:", "vall:"), "key val is not a list of file names"),
        (MINI + "- u0-Fist\n", "u0-Fist is in split train and in split test"),
        ("- a\n- b\n", "no split file"),
        ("train: [", "cannot be read as YAML"),
    ],
)
def test_a_malformed_split_file_is_named(folder, text, says):
    with pytest.raises(DataError, match=says):
        Corpus.open(_write(folder, text))
