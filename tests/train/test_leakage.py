import json
from contextlib import nullcontext
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from cpep_edge.errors import ArtifactError, DataError
from cpep_edge.session import Session, SessionMeta, write_session
from cpep_train.content import N_MARKS, content_of, marks
from cpep_train.corpus import FREE_STAGE, Corpus, Row, write_metadata
from cpep_train.leakage import SPLITS_FILE, audit, audit_against, load_splits, save_splits, split_manifest
from cpep_train.training import train
from tests.train.toy_corpus import HELD_OUT_STAGE, N_CHANNELS, RATE_HZ, toy_signals, write_toy_corpus, write_toy_session

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    """A corpus for one test, which may put leaks into it."""
    return write_toy_corpus(tmp_path / "toy", n_samples=400)


def _with(corpus: Corpus, filename: str, **change: object) -> Corpus:
    """The corpus with one row changed."""
    rows = tuple(replace(row, **change) if row.filename == filename else row for row in corpus.rows)
    return Corpus(corpus.folder, rows)


def _fist(corpus: Corpus) -> Row:
    return next(row for row in corpus.rows if row.filename == "u0-Fist")


def _elsewhere(corpus: Corpus, folder: Path, session: str) -> Corpus:
    """Another corpus, of a recording that has another name in it."""
    row = replace(corpus.rows[0], user="x", session=session, split="test", held_out_user=True, filename="x-Fist")
    write_metadata(folder, [row])
    return Corpus.open(folder)


def test_a_clean_corpus_passes_and_every_recording_is_in_its_manifest(corpus):
    manifest = audit(corpus)
    assert [entry.filename for entry in manifest.entries] == [row.filename for row in corpus.rows]
    assert len(manifest.trained) + len(manifest.asked) == len(corpus.rows)


@pytest.mark.parametrize(
    ("filename", "flag", "said"),
    [("u4-Fist", "held_out_user", "user u4"), ("u0-Spread", "held_out_stage", "stage Spread")],
)
def test_a_held_out_person_or_gesture_in_training_is_found(corpus, filename, flag, said):
    with pytest.raises(DataError, match=f"{said} is held out, but {filename} is in split train"):
        audit(_with(corpus, filename, split="train", **{flag: False}))


def test_one_session_on_both_sides_is_found(corpus):
    write_toy_session(corpus.folder, "u0-Fist-again", "Fist", "u0", 400, seed=99)
    again = replace(_fist(corpus), split="test", filename="u0-Fist-again")
    with pytest.raises(DataError, match="Fist in session s0 of u0 is on both sides, u0-Fist .* and u0-Fist-again"):
        audit(Corpus(corpus.folder, (*corpus.rows, again)))


def test_one_recording_under_two_names_on_both_sides_is_found(corpus):
    write_toy_session(corpus.folder, "u4-Fist", "Fist", "u4", 400, seed=0)  # the seed of u0-Fist: the same EMG
    with pytest.raises(DataError, match="u4-Fist, in split test, holds the same EMG as u0-Fist of u0"):
        audit(corpus)


def test_a_held_out_pose_under_another_name_in_training_is_found(corpus):
    write_toy_session(corpus.folder, "u0-Other", HELD_OUT_STAGE, "u0", 400, seed=77)
    other = replace(_fist(corpus), stage="Other", filename="u0-Other")
    with pytest.raises(DataError, match="u0-Other, in split train, spends 100% of its time in the pose of Spread"):
        audit(Corpus(corpus.folder, (*corpus.rows, other)))


def test_a_hand_may_pass_through_a_held_out_pose_and_a_gesture_begin_and_end_in_it(corpus):
    rng = np.random.default_rng(5)
    held_out, trained = (toy_signals(stage, 400, rng)[1] for stage in (HELD_OUT_STAGE, "Fist"))
    asked = ((FREE_STAGE, 8, True), (FREE_STAGE, 100, False), ("Fist", 100, True), ("Fist", 250, False))
    for stage, n_through, passes in asked:
        emg_uv, _ = toy_signals("Fist", 400, np.random.default_rng(8))
        pose = np.concatenate([trained[n_through:], held_out[:n_through]])
        meta = SessionMeta("s0", "u0", stage, "right", 0.0, 0.798, 4, RATE_HZ, "u0-free")
        write_session(corpus.folder / "u0-free.hdf5", meta, np.arange(400) / RATE_HZ, emg_uv, pose)
        free = replace(_fist(corpus), stage=stage, filename="u0-free")
        with nullcontext() if passes else pytest.raises(DataError, match="u0-free, in split train, spends [26]"):
            audit(Corpus(corpus.folder, (*corpus.rows, free)))


def test_the_hash_depends_on_the_emg_and_not_on_names_or_poses(tmp_path):
    def hash_of(name: str, **change: object) -> str:
        write_toy_session(tmp_path, name, n_samples=5_000, **change)
        with Session(tmp_path / f"{name}.hdf5") as session:
            return content_of(session).emg_sha256

    first = hash_of("a")
    assert first == hash_of("b", user="another", failed=slice(10, 20))
    assert first != hash_of("c", seed=1)


def test_training_refuses_a_leak_before_it_starts_and_leaves_its_splits(corpus, tiny_recipe, tmp_path):
    write_toy_session(corpus.folder, "u4-Fist", "Fist", "u4", 400, seed=0)
    with pytest.raises(DataError, match="holds the same EMG"):
        train(tiny_recipe, corpus.folder, tmp_path / "leaky", progress=False)
    assert not (tmp_path / "leaky").exists()
    write_toy_session(corpus.folder, "u4-Fist", "Fist", "u4", 400, seed=40)
    train(tiny_recipe, corpus.folder, tmp_path / "run", stage="pose-mae", progress=False)
    assert load_splits(tmp_path / "run") == split_manifest(corpus)


def test_metadata_edited_after_training_are_found(corpus):
    trained = audit(corpus)
    for name in ("Fist", "Flat", "Point", "Rest"):
        corpus = _with(corpus, f"u0-{name}", split="test", held_out_user=True)
    corpus = _with(corpus, "u0-Spread", held_out_user=True)
    audit(corpus)
    said = "u0-Fist, in split test, holds the same EMG as u0-Fist of u0, which is trained"
    with pytest.raises(DataError, match=said):
        audit_against(trained, corpus)


def test_a_renamed_person_of_another_corpus_is_found(corpus, tmp_path):
    trained = audit(corpus)
    other = tmp_path / "other"
    other.mkdir()
    write_toy_session(other, "x-Fist", "Fist", "x", 400, seed=0)
    with pytest.raises(DataError, match="x-Fist, in split test, holds the same EMG as u0-Fist of u0"):
        audit_against(trained, _elsewhere(corpus, other, "s0"))


def test_a_run_without_a_manifest_cannot_be_vouched_for(corpus, tmp_path):
    with pytest.raises(ArtifactError, match=r"splits.json is missing or malformed"):
        load_splits(tmp_path)
    save_splits(tmp_path, audit(corpus))
    content = json.loads((tmp_path / SPLITS_FILE).read_text())
    del content["entries"][0]["emg_sha256"]
    (tmp_path / SPLITS_FILE).write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"splits.json is missing or malformed"):
        load_splits(tmp_path)


def test_a_recording_that_was_cut_and_renamed_is_found(corpus, tmp_path):
    trained = audit(corpus)
    other = tmp_path / "other"
    other.mkdir()
    with Session(corpus.folder / "u0-Fist.hdf5") as session:
        emg_uv, pose = session.emg(130, 350), session.joint_angles(130, 350)
    meta = SessionMeta("s9", "x", "Fist", "right", 0.0, 1.0, N_CHANNELS, RATE_HZ, "x-Fist")
    write_session(other / "x-Fist.hdf5", meta, np.arange(220) / RATE_HZ, emg_uv, pose)
    with pytest.raises(DataError, match="x-Fist, in split test, holds a piece of the EMG of u0-Fist of u0"):
        audit_against(trained, _elsewhere(corpus, other, "s9"))


def test_marks_share_what_recordings_share():
    rng = np.random.default_rng(0)
    emg = rng.integers(-20, 20, (4000, 8)).astype(np.float32)  # coarse, as from a band with 8-bit counts
    one, half, other = (set(marks(values)) for values in (emg, emg[1000:3000], rng.permutation(emg)))
    assert len(one) == N_MARKS
    assert len(one & half) >= N_MARKS // 4
    assert not one & other
    assert marks(np.zeros((500, 8), np.float32)) == ()  # silence is not specific to a recording


def test_no_two_people_of_the_published_sets_are_taken_for_one():
    for database in ("ninapro-db1", "ninapro-db5"):
        folder = SHARED / database
        if not folder.is_dir():
            pytest.skip("shared/data is not there")
        found = [set(marks(loadmat(file)["emg"].astype(np.float32))) for file in sorted(folder.glob("*.mat"))]
        assert all(not one & other for one, other in combinations(found, 2))
