from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from cpep_edge.errors import ArtifactError, DataError
from cpep_train.corpus import Corpus, write_metadata
from cpep_train.recipe import Recipe
from cpep_train.recordings import RECORDINGS_FILE, layout_of, load_layouts, save_layouts, survey
from cpep_train.training import train
from tests.train.toy_corpus import RATE_HZ, write_toy_corpus, write_toy_session


def test_a_layout_tells_gaps_and_failed_poses(toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path) -> None:
    time_s = np.arange(1000) / RATE_HZ + 5.0 * (np.arange(1000) >= 433)
    write_toy_session(tmp_path, "x", time_s=time_s, failed=slice(995, 1000))
    write_metadata(tmp_path, [replace(toy_corpus.rows[0], filename="x")])
    layout = layout_of(Corpus.open(tmp_path), 0, tiny_recipe)
    assert (layout.n_samples, layout.spans, layout.failed) == (1000, ((0, 433), (433, 1000)), ((995, 1000),))
    assert layout.has_pose


def test_what_was_found_is_kept_with_the_run(toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path) -> None:
    found = survey(toy_corpus, tiny_recipe, [3, 0])
    assert load_layouts(tmp_path) is None
    save_layouts(tmp_path, found)
    assert load_layouts(tmp_path) == found
    (tmp_path / RECORDINGS_FILE).write_text("{")
    with pytest.raises(ArtifactError, match="delete it"):
        load_layouts(tmp_path)


def _damage(file: Path, field: str, where: object, value: float) -> None:
    with h5py.File(file, "r+") as session:
        table = session["emg2pose/timeseries"][:]
        table[field][where] = value
        session["emg2pose/timeseries"][:] = table


@pytest.mark.parametrize(
    ("field", "where", "value", "says"),
    [
        ("emg", (5, 2), np.nan, "field emg holds NaN or infinity"),
        ("emg", (5, 2), -np.inf, "field emg holds NaN or infinity"),
        ("emg", (slice(None), 2), 7.0, "field emg is flat in channel 3"),
        ("joint_angles", (5, 2), np.nan, "field joint_angles holds NaN"),
        ("joint_angles", slice(None), 0.0, "field joint_angles holds no pose"),
        ("time", 500, 0.0, "field time does not rise"),
    ],
)
def test_a_recording_that_cannot_be_trained_on_is_named_before_training(
    field: str, where: object, value: float, says: str, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    corpus = write_toy_corpus(tmp_path / "toy")
    _damage(corpus.folder / "u1-Flat.hdf5", field, where, value)
    with pytest.raises(DataError, match=rf"u1-Flat\.hdf5: {says}") as caught:
        train(tiny_recipe, corpus.folder, tmp_path / "run", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "emg-mae").exists()


def test_a_recording_at_another_rate_than_it_says_is_named(tiny_recipe: Recipe, tmp_path: Path) -> None:
    corpus = write_toy_corpus(tmp_path / "toy")
    write_toy_session(corpus.folder, "u1-Flat", "Flat", "u1", time_s=np.arange(1000) / 490)
    with pytest.raises(
        DataError, match=r"u1-Flat\.hdf5: attribute sample_rate says 500 Hz, but field time runs at 490"
    ):
        train(tiny_recipe, corpus.folder, tmp_path / "run", progress=False)


def test_a_recording_shorter_than_a_window_is_named(tiny_recipe: Recipe, tmp_path: Path) -> None:
    corpus = write_toy_corpus(tmp_path / "toy")
    write_toy_session(corpus.folder, "u3-Fist", "Fist", "u3", n_samples=99)
    with pytest.raises(DataError, match=r"u3-Fist\.hdf5: field emg has 99 samples, fewer than a window of 100"):
        train(tiny_recipe, corpus.folder, tmp_path / "run", progress=False)


@pytest.mark.parametrize(("split", "kept"), [("train", "u0-Fist"), ("val", "u3-Fist")])
def test_a_split_of_one_gesture_is_refused(split: str, kept: str, tiny_recipe: Recipe, tmp_path: Path) -> None:
    corpus = write_toy_corpus(tmp_path / "toy")
    rows = [row for row in corpus.rows if row.split != split or row.filename == kept]
    with pytest.raises(DataError, match=f"every recording of split {split} has stage Fist"):
        Corpus(corpus.folder, tuple(rows)).check(tiny_recipe)


def test_a_corpus_without_a_training_split_is_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    corpus = write_toy_corpus(tmp_path / "toy")
    rows = tuple(row for row in corpus.rows if row.split != "train")
    with pytest.raises(DataError, match="no row has split train"):
        Corpus(corpus.folder, rows).check(tiny_recipe)
