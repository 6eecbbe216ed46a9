import logging
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from cpep_edge.errors import ArtifactError, ConfigError, DataError
from cpep_edge.session import Session
from cpep_train.checkpoint import load_checkpoint
from cpep_train.corpus import Corpus, write_metadata
from cpep_train.protocols import evaluate
from cpep_train.provenance import load_provenance
from cpep_train.recordings import RECORDINGS_FILE, layout_of, load_layouts, look_through, save_layouts
from cpep_train.training import train
from tests.train.toy_corpus import (
    RATE_HZ,
    STAGES,
    damage,
    renamed,
    train_on,
    varied,
    write_toy_corpus,
    write_toy_session,
)


def test_a_layout_tells_gaps_and_failed_poses(toy_corpus, tiny_recipe, tmp_path):
    time_s = np.arange(1000) / RATE_HZ + 5.0 * (np.arange(1000) >= 433)
    write_toy_session(tmp_path, "x", time_s=time_s, failed=slice(995, 1000))
    write_metadata(tmp_path, [replace(toy_corpus.rows[0], filename="x")])
    layout = layout_of(Corpus.open(tmp_path), 0, tiny_recipe)
    assert (layout.n_samples, layout.spans, layout.failed) == (1000, ((0, 433), (433, 1000)), ((995, 1000),))
    assert layout.has_pose


def test_what_was_found_is_kept_with_the_run(toy_corpus, tiny_recipe, tmp_path):
    found, _ = look_through(toy_corpus, tiny_recipe)
    assert load_layouts(tmp_path) is None
    save_layouts(tmp_path, found)
    assert load_layouts(tmp_path) == found
    (tmp_path / RECORDINGS_FILE).write_text("{")
    with pytest.raises(ArtifactError, match="delete it"):
        load_layouts(tmp_path)


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
    field, where, value, says, tiny_recipe, tmp_path
):
    corpus = write_toy_corpus(tmp_path / "toy")
    damage(corpus.folder / "u1-Flat.hdf5", field, where, value)
    with pytest.raises(DataError, match=rf"u1-Flat\.hdf5: {says}") as caught:
        train(tiny_recipe, corpus.folder, tmp_path / "run", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "emg-mae").exists()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"time_s": np.arange(1000) / 490}, "attribute sample_rate says 500 Hz, but .* runs at 490"),
        ({"n_samples": 99}, "field emg has 99 samples, fewer than a window of 100"),
    ],
)
def test_a_recording_at_another_rate_or_shorter_than_a_window_is_named(changed, says, tiny_recipe, tmp_path):
    corpus = write_toy_corpus(tmp_path / "toy")
    write_toy_session(corpus.folder, "u1-Flat", "Flat", "u1", **changed)
    with pytest.raises(DataError, match=rf"u1-Flat\.hdf5: {says}"):
        train(tiny_recipe, corpus.folder, tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("split", "kept", "says"),
    [
        ("train", "u0-Fist", "every recording of split train has stage Fist"),
        ("val", "u3-Fist", "every recording of split val has stage Fist"),
        ("train", None, "no row has split train"),
    ],
)
def test_a_split_of_one_gesture_or_none_is_refused(split, kept, says, tiny_recipe, tmp_path):
    corpus = write_toy_corpus(tmp_path / "toy")
    rows = [row for row in corpus.rows if row.split != split or row.filename == kept]
    with pytest.raises(DataError, match=says):
        Corpus(corpus.folder, tuple(rows)).check(tiny_recipe)


def test_a_refused_start_names_all_that_is_bad_and_blocks_nothing(tiny_recipe, tmp_path):
    corpus, out = write_toy_corpus(tmp_path / "toy"), tmp_path / "new" / "run"
    damage(corpus.folder / "u1-Flat.hdf5", "emg", (5, 2), np.nan)
    damage(corpus.folder / "u4-Fist.hdf5", "emg", (slice(None), 0), 1.0)  # in the test split
    write_toy_session(corpus.folder, "u3-Fist", "Fist", "u3", n_samples=60)
    with pytest.raises(DataError, match=r"3 recordings cannot be used: .*u1-Flat.*u3-Fist.*u4-Fist"):
        train(tiny_recipe, corpus.folder, out, progress=False)
    assert not out.parent.exists()
    rows = [row for row in corpus.rows if row.filename not in ("u1-Flat", "u3-Fist", "u4-Fist")]
    write_metadata(corpus.folder, rows)
    assert train(tiny_recipe, corpus.folder, out, progress=False) is not None


def test_bad_recordings_are_left_out_where_asked_and_written_down(tiny_recipe, tmp_path, caplog):
    corpus, out = write_toy_corpus(tmp_path / "toy"), tmp_path / "run"
    damage(corpus.folder / "u1-Flat.hdf5", "emg", (5, 2), np.nan)
    damage(corpus.folder / "u4-Fist.hdf5", "emg", (5, 2), np.nan)
    with caplog.at_level(logging.WARNING):
        train(tiny_recipe, corpus.folder, out, stage="pose-mae", progress=False, skip_bad=True)
    assert set(load_provenance(out).skipped) == {"u1-Flat", "u4-Fist"}
    assert "u4-Fist.hdf5: field emg holds NaN" in load_provenance(out).skipped["u4-Fist"]
    assert caplog.text.count("left out: ") == 2
    train_on(tiny_recipe, corpus, out, resume=True)  # without the option
    assert evaluate(load_checkpoint(out), corpus.folder)  # without the recordings left out


def test_a_start_that_fails_late_leaves_nothing(tiny_recipe, tmp_path):
    patches = {"patch_samples": 20}
    few = varied(tiny_recipe, windows={"window_samples": 980}, emg=patches, pose=patches)
    longer = write_toy_corpus(tmp_path / "gaps")
    for row in longer.rows:
        gappy_s = np.arange(1000) / RATE_HZ + 5.0 * (np.arange(1000) >= 500)
        write_toy_session(longer.folder, row.filename, row.stage, row.user, time_s=gappy_s, seed=longer.rows.index(row))
    with pytest.raises(DataError, match="0 usable windows"):
        train(few, longer.folder, tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists()


def test_changed_samples_are_other_data_and_a_copy_is_not(tiny_recipe, tmp_path):
    corpus, out = write_toy_corpus(tmp_path / "toy"), tmp_path / "run"
    train(tiny_recipe, corpus.folder, out, stage="pose-mae", progress=False)
    shutil.copytree(corpus.folder, tmp_path / "copy")
    assert train(tiny_recipe, tmp_path / "copy", out, resume=True, progress=False) is not None
    for field in ("emg", "joint_angles"):
        shutil.copytree(corpus.folder, tmp_path / field)
        damage(tmp_path / field / "u1-Flat.hdf5", field, (400, 2), 0.125)  # one value; the file size stays
        with pytest.raises(ConfigError, match="other data"):
            train(tiny_recipe, tmp_path / field, out, resume=True, progress=False)


def test_a_dead_channel_can_be_masked(tiny_recipe, tmp_path):
    corpus = write_toy_corpus(tmp_path / "toy")
    for row in corpus.rows:
        damage(corpus.file(row), "emg", (slice(None), 2), 7.0)
    with pytest.raises(DataError, match=r"flat in channel 3; mask a dead channel .* recordings.masked_channels=\[3\]"):
        train(tiny_recipe, corpus.folder, tmp_path / "run", progress=False)
    masked = varied(tiny_recipe, recordings={"masked_channels": (3,)}, calibration={"stages": ("Fist", "Flat")})
    assert train(masked, corpus.folder, tmp_path / "run", progress=False) is not None
    with corpus.usable(masked).session(corpus.rows[0]) as session:
        assert not session.emg()[:, 2].any()


def test_a_gesture_that_no_bundle_could_hold_is_refused_before_training(tiny_recipe, tmp_path):
    corpus = write_toy_corpus(tmp_path / "toy")
    renamed(corpus.folder, {s: 101 * "x" if s == "Flat" else s for s in STAGES})
    with pytest.raises(DataError, match="the gesture 'x+' cannot be used: a name has 1 to 100 characters"):
        train(tiny_recipe, corpus.folder, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_rates_are_one_within_what_headers_round(tiny_recipe, tmp_path):
    corpus = write_toy_corpus(tmp_path / "toy")
    for row in corpus.rows:
        with h5py.File(corpus.file(row), "r+") as file:
            file["emg2pose"].attrs["sample_rate"] = 499.9998
    corpus.check(tiny_recipe)
    with h5py.File(corpus.file(corpus.rows[0]), "r+") as file:
        file["emg2pose"].attrs["sample_rate"] = 490.0
    with pytest.raises(DataError, match="attribute sample_rate is 490 Hz, but recipe tiny is for 500 Hz"):
        corpus.check(tiny_recipe)


@pytest.mark.parametrize(("scale", "is_refused"), [(1e-6, True), (1e-3, True), (0.02, False), (50.0, False)])
def test_a_recording_in_another_unit_than_the_others_is_named(scale, is_refused, tiny_recipe, tmp_path):
    corpus = write_toy_corpus(tmp_path / "toy", n_samples=300)
    with Session(tmp_path / "toy" / "u0-Fist.hdf5") as session:
        emg = session.emg()
    damage(tmp_path / "toy" / "u0-Fist.hdf5", "emg", slice(None), scale * emg)
    _, faults = look_through(corpus, tiny_recipe)
    assert list(faults) == ([0] if is_refused else [])
    assert all("u0-Fist.hdf5: field emg deviates by" in fault for fault in faults.values())
