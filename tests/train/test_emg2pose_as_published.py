"""A corpus with every property of the published emg2pose goes through training, evaluation and export.

The properties are from its paper, its repository's split files and the crosstab of its metadata. A session has two
wrists, in files `<session>_left` and `<session>_right`. `moving_hand` is left, right or both, so a quarter of the files
are of a hand that was not asked to move. Validation people are flagged as held out. Stage names in the files include
the hand.
"""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from cpep_edge.session import SessionMeta, write_session
from cpep_export.rejection import watched_windows
from cpep_train.checkpoint import load_checkpoint
from cpep_train.corpus import Corpus, Row, write_metadata
from cpep_train.donnings import Donnings
from cpep_train.evaluate import EvaluationSet, evaluation_set
from cpep_train.protocols import evaluate_run
from cpep_train.recipe import Recipe
from cpep_train.seen_penalty import largest_bearable
from cpep_train.training import train
from tests.train.toy_corpus import HELD_OUT_STAGE, N_CHANNELS, RATE_HZ, STAGES, toy_signals, varied

ONE_HANDED = "Point"  # with the right hand
LEFT_GAIN = 5.0
N_SAMPLES = 1500


def _person(number: int) -> tuple[str, bool]:
    """Split and held-out flag of a person, as in the published metadata."""
    return [("train", False), ("train", False), ("train", False), ("val", True), ("test", True)][number]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Corpus:
    folder = tmp_path_factory.mktemp("published")
    rows = []
    for person in range(5):
        for stage in STAGES:
            split, held_user = _person(person)
            held_stage = stage == HELD_OUT_STAGE
            split = "test" if held_stage and split == "train" else split
            moving = "right" if stage == ONE_HANDED else "both"
            for side in ("left", "right"):
                does = stage if moving in ("both", side) else "Rest"
                rng = np.random.default_rng(hash((person, STAGES.index(stage), side == "left")) % 2**32)
                emg_uv, pose = toy_signals(does, N_SAMPLES, rng)
                gain = LEFT_GAIN if side == "left" else 1.0
                name = f"2022-04-07-u{person}-{stage}_{side}"
                time_s = np.arange(N_SAMPLES) / RATE_HZ
                session, label = f"2022-04-07-u{person}", f"{stage}_{moving}"
                meta = SessionMeta(session, f"u{person}", label, side, 0.0, 3.0, N_CHANNELS, RATE_HZ, name)
                write_session(folder / f"{name}.hdf5", meta, time_s, (emg_uv - 100) * gain, pose)
                kind = {(False, False): "none", (True, False): "user", (False, True): "stage"}.get(
                    (held_user, held_stage), "user_stage"
                )
                rows.append(Row(f"u{person}", session, stage, side, moving, held_user, held_stage, split, kind, name))
    write_metadata(folder, rows)
    split = {kind: [f"{row.filename}.hdf5" for row in rows if row.split == kind] for kind in ("train", "val", "test")}
    (folder / "mini_split.yaml").write_text(yaml.safe_dump(split))
    (folder / "full_split.yaml").write_text("metadata_file: metadata.csv\n")
    return Corpus.open(folder)


@pytest.fixture(scope="module")
def calibrated(tiny_recipe) -> Recipe:
    align = {"epochs": 12, "learning_rate": 3e-3}
    return varied(tiny_recipe, calibration={"stages": ("Fist", "Point")}, align=align)


@pytest.fixture(scope="module")
def run(published, calibrated, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(calibrated, published.folder, out, progress=False)
    return out


@pytest.fixture(scope="module")
def asked(run, published) -> EvaluationSet:
    return evaluation_set(load_checkpoint(run), published)


def test_each_wrist_has_levels_of_its_own_from_movements_that_it_made(published, calibrated):
    spec = calibrated.preprocessing(1.0)
    levels = Donnings(published, calibrated, spec)
    of_side = {row.side: levels.of(row).level_uv for row in published.rows if row.user == "u0"}
    only_fist = Donnings(published, varied(calibrated, calibration={"stages": ("Fist",)}), spec)
    left_fist = only_fist.of(next(row for row in published.rows if row.side == "left")).level_uv
    assert of_side["left"] is not None
    assert left_fist is not None
    np.testing.assert_array_equal(of_side["left"], left_fist)  # the left hand was still while the right one pointed
    assert of_side["right"] is not None
    assert np.median(left_fist) > 3 * np.median(of_side["right"])


def test_a_hand_that_was_not_asked_to_move_is_left_out_unless_the_recipe_wants_it(published, calibrated, asked):
    idle = {row.filename for row in published.rows if row.is_idle}
    assert len(idle) == 5  # one of two wrists, in one of five stages
    looked_up = {published.rows[number].filename for number, _ in (*asked.references.places, *asked.queries.places)}
    assert not looked_up & idle
    any_hand = published.usable(varied(calibrated, recordings={"hand": "any"}))
    assert [row.split for row in any_hand.rows] == [row.split for row in published.rows]


def test_validation_people_choose_and_are_not_judged_by(run, published, asked):
    watched = watched_windows(asked)
    assert {published.rows[number].user for number, _ in watched.queries.places} == {"u3"}
    found, material = evaluate_run(run, load_checkpoint(run), published.folder)
    assert largest_bearable(material.examples, material.queries, material.references) is not None
    judged = {
        person for reading in found.readings for s in reading.scores if s.users == "held-out" for person in s.by_user
    }
    assert judged == {"u4"}


@pytest.mark.parametrize("split_file", ["mini_split.yaml", "full_split.yaml"])
def test_the_published_split_files_split_as_the_metadata_do(published, split_file):
    rows = Corpus.open(published.folder / split_file).rows
    by_name = {row.filename: row for row in published.rows}
    assert len(rows) == len(published.rows)
    for row in rows:
        assert replace(row, generalization="") == replace(by_name[row.filename], generalization="")


def test_training_reads_the_wrists_it_was_given(run, published):
    found, _ = evaluate_run(run, load_checkpoint(run), published.folder, ("zero-shot",))
    (score,) = (s for s in found.readings[0].scores if (s.users, s.gestures) == ("held-out", "seen"))
    assert score.balanced_accuracy > 0.75


@pytest.mark.executorch
@pytest.mark.slow
def test_it_exports(run, published, tmp_path):
    from cpep_export.package import export_bundle

    out, options = tmp_path / "a.cpep", {"quant": "fp32", "pose_encoder": False, "force": True}
    manifest = export_bundle(load_checkpoint(run), published.folder, out, **options)
    assert {gesture.name: gesture.trained for gesture in manifest.gestures} == {s: s != HELD_OUT_STAGE for s in STAGES}


def test_a_stage_of_another_name_is_still_told(published, calibrated, tmp_path):
    row = published.rows[0]
    (tmp_path / f"{row.filename}.hdf5").write_bytes(published.file(row).read_bytes())
    with h5py.File(tmp_path / f"{row.filename}.hdf5", "r+") as file:
        file["emg2pose"].attrs["stage"] = "Fist_and_more"
    fault = Corpus(tmp_path, (row,)).fault(row, calibrated)
    assert fault is not None
    assert "attribute stage is Fist_and_more, but metadata.csv says Fist" in fault
