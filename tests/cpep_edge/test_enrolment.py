"""Gestures enrolled in and removed from the toy bundle."""

import json
import resource
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.bundle import Bundle, write_bundle
from cpep_edge.enrolment import (
    OpenBundle,
    add_gesture,
    confusions,
    prototypes_from_pose,
    prototypes_from_session,
    remove_gesture,
)
from cpep_edge.errors import ArtifactError, ConfigError, DataError
from cpep_edge.manifest import Manifest
from cpep_edge.pose_index import build_index
from cpep_edge.recogniser import Recogniser
from cpep_edge.session import JOINT_NAMES, Session, SessionMeta, write_session
from cpep_edge.session_trial import SessionTrial
from cpep_edge.trust import generate_keys, load_signing_key
from cpep_edge.verify import verify_bundle
from tests.processes import cpep_edge, start

pytestmark = pytest.mark.executorch

LEFT_OUT = "WristFlexionAbduction"  # at a corner of the toy's latent space


@pytest.fixture
def without(bundle) -> Path:
    """The bundle with one gesture removed."""
    remove_gesture(OpenBundle.check(Bundle(bundle)), LEFT_OUT)
    return bundle


@pytest.fixture
def pose_file(tiny_corpus, tmp_path) -> Path:
    """The mean pose of a training person making the gesture, as a row of a CSV file."""
    with Session(tiny_corpus / f"user_a_{LEFT_OUT}_0.hdf5") as session:
        pose = session.joint_angles().mean(axis=0)
    file = tmp_path / "pose.csv"
    file.write_text(",".join(JOINT_NAMES) + "\n" + ",".join(f"{angle:.4f}" for angle in pose) + "\n")
    return file


def share_of(bundle: Path, corpus: Path, gesture: str, stage: str) -> float:
    """The share of windows of a held-out person's recording that are recognised as a gesture."""
    recogniser = Recogniser(Bundle(bundle))
    n = recogniser.manifest.encoder.window_samples
    with Session(corpus / f"user_c_{stage}_0.hdf5") as session:
        filtered = recogniser.stream()(session.emg())
    names = [g.name for g in recogniser.manifest.gestures]
    starts = range(n, len(filtered) - n, n // 2)
    windows = [np.ascontiguousarray(filtered[start : start + n].T) for start in starts]
    return float(np.mean([names[recogniser.recognise(window).vote.gesture_index] == gesture for window in windows]))


def test_a_forgotten_gesture_is_recognised_again_from_its_pose_alone(without, pose_file, tiny_corpus):
    opened = OpenBundle.check(Bundle(without))
    add_gesture(opened, "Enrolled", prototypes_from_pose(opened, pose_file), "pose file")

    assert share_of(without, tiny_corpus, "Enrolled", LEFT_OUT) > 0.6  # of six gestures
    assert share_of(without, tiny_corpus, "Enrolled", "ShakaVulcanPeace") < 0.2
    assert verify_bundle(without).version == 3


def test_a_forgotten_gesture_is_recognised_again_from_seconds_of_emg(without, tiny_corpus):
    opened = OpenBundle.check(Bundle(without))
    prototypes = prototypes_from_session(opened, tiny_corpus / f"user_a_{LEFT_OUT}_1.hdf5")
    add_gesture(opened, "Enrolled", prototypes, "session")

    assert share_of(without, tiny_corpus, "Enrolled", LEFT_OUT) > 0.5
    assert share_of(without, tiny_corpus, "ShakaVulcanPeace", "ShakaVulcanPeace") > 0.7
    gesture = verify_bundle(without) and Bundle(without).manifest.gestures[-1]
    assert gesture
    assert (gesture.origin, gesture.trained) == ("session", False)


def test_adding_and_removing_leaves_the_index_as_it_was(bundle):
    before = Bundle(bundle).manifest
    opened = OpenBundle.check(Bundle(bundle))
    add_gesture(opened, "New", opened.recogniser.index.vectors[::7], "session")

    after = remove_gesture(OpenBundle.check(Bundle(bundle)), "New")

    assert after.files[after.index.file] == before.files[before.index.file]
    assert (after.gestures, after.version) == (before.gestures, before.version + 2)


def test_a_removed_gesture_is_never_answered(without, tiny_corpus):
    manifest = Bundle(without).manifest
    index = Recogniser(Bundle(without)).index

    assert LEFT_OUT not in [gesture.name for gesture in manifest.gestures]
    assert index.gesture_index.max() == len(manifest.gestures) - 1
    assert np.bincount(index.gesture_index).tolist() == [gesture.n_prototypes for gesture in manifest.gestures]


def test_a_name_that_exists_is_refused(bundle):
    opened = OpenBundle.check(Bundle(bundle))

    with pytest.raises(ConfigError, match=f"has a gesture {LEFT_OUT} already"):
        add_gesture(opened, LEFT_OUT, opened.recogniser.index.vectors[:5], "session")


def test_a_gesture_that_is_not_there_cannot_be_removed(bundle):
    with pytest.raises(ConfigError, match="has no gesture Wave; it has "):
        remove_gesture(OpenBundle.check(Bundle(bundle)), "Wave")


def test_a_bundle_without_its_pose_encoder_says_so(bundle, pose_file):
    strip_pose_encoder(bundle)

    with pytest.raises(ConfigError, match="contains no pose encoder; export it with --pose-encoder, or add"):
        prototypes_from_pose(OpenBundle.check(Bundle(bundle)), pose_file)


def test_a_movement_shorter_than_a_window_is_refused(bundle, pose_file):
    header, row = pose_file.read_text().splitlines()
    pose_file.write_text(f"time_s,{header}\n0,{row}\n0.05,{row}\n")

    with pytest.raises(DataError, match="a movement of 0.05 s is shorter than the window"):
        prototypes_from_pose(OpenBundle.check(Bundle(bundle)), pose_file)


@pytest.mark.parametrize(
    ("n_channels", "n_samples", "said"),
    [(3, 500, "3 channels at 500 Hz, the bundle takes 4 at 500 Hz"), (4, 250, "0.5 s of signal are too short")],
)
def test_a_recording_of_another_band_or_a_short_one_is_refused(bundle, tmp_path, n_channels, n_samples, said):
    meta = SessionMeta("s", "u", "Fist", "left", 0.0, n_samples / 500, n_channels, 500.0, "one")
    write_session(tmp_path / "one.hdf5", meta, np.arange(n_samples) / 500, np.ones((n_samples, n_channels), "f4"))

    with pytest.raises(DataError, match=said):
        prototypes_from_session(OpenBundle.check(Bundle(bundle)), tmp_path / "one.hdf5")


def test_a_tampered_bundle_is_not_rewritten(bundle):
    index = bundle / "index.bin"
    index.write_bytes(index.read_bytes()[:-1] + b"\x55")

    with pytest.raises(ArtifactError, match="changed after export"):
        OpenBundle.check(Bundle(bundle))


def test_a_change_is_signed_when_a_key_is_given_and_unsigned_when_not(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    public = generate_keys(tmp_path / "key.pem")
    remove_gesture(OpenBundle.check(Bundle(bundle, trust=True)), LEFT_OUT, load_signing_key(tmp_path / "key.pem"))

    verify_bundle(bundle, public)
    remove_gesture(OpenBundle.check(Bundle(bundle, public)), "ShakaVulcanPeace")

    with pytest.raises(ArtifactError, match="is not signed"):
        verify_bundle(bundle, public)


def test_a_full_disk_leaves_the_old_bundle(bundle, tiny_corpus):
    """A limit on file sizes simulates the full disk: the encoder library no longer fits."""
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    limit = max(len(content) for content in before.values()) // 2
    shrink = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    answer = cpep_edge("gestures", "remove", bundle, LEFT_OUT, preexec_fn=shrink)

    assert answer.returncode == 1
    assert answer.stderr.startswith("error: ")
    assert answer.stderr.count("\n") == 1
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before
    assert [path.name for path in bundle.parent.iterdir() if path.suffix == ".tmp"] == []


def test_the_nearest_confusion_is_the_gesture_that_lies_nearest():
    rng = np.random.default_rng(0)
    centres = np.eye(3, 8)
    centres[1] = centres[0] + 0.5 * centres[1]  # the first two are close together, the third is far away
    values = np.repeat(centres, 40, axis=0) + rng.normal(0, 0.25, (120, 8))
    index = build_index(
        (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32), np.repeat([0, 1, 2], 40)
    )

    found = confusions(index, ("a", "b", "c"), 10)

    assert [confusion.nearest for confusion in found[:2]] == ["b", "a"]
    assert found[2].share < min(found[0].share, found[1].share)


def test_gestures_are_listed_with_counts_and_neighbours(bundle):
    listed = json.loads(cpep_edge("gestures", "list", bundle, "--json").stdout)["gestures"]

    assert [row["n_prototypes"] for row in listed] == [g.n_prototypes for g in Bundle(bundle).manifest.gestures]
    assert all(0 <= row["nearest_share"] <= 1 for row in listed)


def strip_pose_encoder(bundle: Path) -> Manifest:
    opened = Bundle(bundle)
    name = opened.manifest.pose.encoder.file

    def fill(folder: Path) -> None:
        opened.copy_files(folder, {})
        (folder / name).unlink()

    return write_bundle(bundle, fill, lambda files: opened.manifest.model_copy(update={"files": files, "pose": None}))


@pytest.mark.parametrize("name", ["bad\x1b[2Jname", " Wave", "", "a" * 101, "a" * 5_000, "unknown"])
def test_what_is_no_name_is_refused(bundle, name):
    opened = OpenBundle.check(Bundle(bundle))

    with pytest.raises(ConfigError, match="is not a name for a gesture") as refused:
        add_gesture(opened, name, opened.recogniser.index.vectors[:5], "session")
    assert len(str(refused.value)) < 200
    assert Bundle(bundle).manifest.version == 1


def test_a_session_to_learn_from_is_read_apart_first(bundle, tiny_corpus, monkeypatch):
    def note(self: SessionTrial, what: str, path: Path) -> object:
        raise DataError(f"{path} was read apart")

    opened = OpenBundle.check(Bundle(bundle))
    monkeypatch.setattr(SessionTrial, "_answer", note)

    with pytest.raises(DataError, match="was read apart"):
        prototypes_from_session(opened, next(tiny_corpus.glob("*.hdf5")))


def test_edits_at_once_wait_for_one_another_and_all_count(bundle):
    names = [gesture.name for gesture in Bundle(bundle).manifest.gestures][:3]
    started = [start("-m", "cpep_edge", "gestures", "remove", bundle, name, stdout=None, stderr=None) for name in names]

    assert [process.wait() for process in started] == [0] * len(names)
    left = Bundle(bundle).manifest
    assert not {gesture.name for gesture in left.gestures} & {*names}
    assert left.version == 1 + len(names)
    verify_bundle(bundle)
    assert [file.name for file in bundle.parent.iterdir()] == [bundle.name]


def test_who_reads_a_bundle_while_it_is_edited_is_told_so_and_not_that_it_is_damaged(bundle):
    """For example when `live` starts while a gesture is removed in another terminal."""
    reading = Bundle(bundle)
    remove_gesture(OpenBundle.check(Bundle(bundle)), LEFT_OUT)

    with pytest.raises(ArtifactError, match="was replaced by another bundle while it was in use: start again"):
        reading.read("golden.npz")

    now = Bundle(bundle)
    (bundle / "golden.npz").write_bytes(b"")
    with pytest.raises(ArtifactError, match="golden.npz has 0 bytes"):
        now.read("golden.npz")
