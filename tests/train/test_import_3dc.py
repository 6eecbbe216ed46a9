from pathlib import Path

import numpy as np
import pytest

from cpep_edge.errors import DataError
from cpep_train.corpus import Corpus, corpus_info
from cpep_train.import_3dc import GESTURES, import_3dc
from cpep_train.pose_templates import TEMPLATES, template_poses

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def _write_set(folder: Path, participants: list[int], n_rows: int = 4500) -> None:
    """Write two gestures, with one training and one test repetition, in the layout of the published set."""
    for participant in participants:
        rng = np.random.default_rng(participant)
        for split in ("train", "test"):
            emg = folder / f"Participant{participant}" / split / "EMG"
            emg.mkdir(parents=True)
            for gesture in (0, 10):
                counts = rng.integers(-2000, 2000, (n_rows, 10))
                np.savetxt(emg / f"3dc_EMG_gesture_1_{gesture}.txt", counts, fmt="%d", delimiter=",")


def test_recordings_become_sessions_with_their_labels_and_counts(tmp_path):
    _write_set(tmp_path / "set", [3])
    summary = import_3dc(tmp_path / "set", tmp_path / "out", [3])
    corpus = Corpus.open(tmp_path / "out")
    assert (summary.n_files, summary.people, summary.notes) == (4, ("3dc-03",), ())
    assert {(row.user, row.stage, row.split) for row in corpus.rows} == {
        ("3dc-03", stage, split) for stage in ("NoMotion", "PinchGrip") for split in ("train", "test")
    }
    row = next(row for row in corpus.rows if row.split == "test" and row.stage == "PinchGrip")
    source = tmp_path / "set" / "Participant3" / "test" / "EMG" / "3dc_EMG_gesture_1_10.txt"
    with corpus.session(row) as session:
        np.testing.assert_array_equal(session.emg(), np.loadtxt(source, delimiter=","))
        assert not session.pose_valid().any()
        assert (session.meta.sample_rate, session.meta.num_channels) == (1000.0, 10)
    assert row.session == "3dc-03-rep5"  # numbers continue in the second half of the repetitions
    assert corpus_info(tmp_path / "out").faults == ()


def test_short_trials_are_kept_and_said(tmp_path):
    _write_set(tmp_path / "set", [1], n_rows=363)
    summary = import_3dc(tmp_path / "set", tmp_path / "out", [1])
    assert (summary.n_recordings, summary.notes) == (4, ("4 recordings are shorter than 4 s and were kept",))


def test_people_with_the_same_recordings_are_told(tmp_path):
    _write_set(tmp_path / "set", [19, 20])
    (tmp_path / "set" / "Participant19").rename(tmp_path / "set" / "Participant21")
    _write_set(tmp_path / "set", [19])
    summary = import_3dc(tmp_path / "set", tmp_path / "out", [19, 20, 21])
    assert len(summary.notes) == 1
    assert "3dc-19 and 3dc-21 share recordings, bit for bit: one person under two names" in summary.notes[0]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("3dc_EMG_gesture_0_11.txt", "1,2\n", "the name is not"),
        ("notes.txt", "hello", "the name is not"),
        ("3dc_EMG_gesture_0_3.txt", "1,2,3\n", "not lines of 10 numbers"),
        ("3dc_EMG_gesture_0_3.txt", "a,b\n", "not lines of 10 numbers"),
        ("3dc_EMG_gesture_0_3.txt", "", "not lines of 10 numbers"),
    ],
)
def test_a_file_of_another_layout_is_named_and_nothing_is_left(tmp_path, name, text, says):
    _write_set(tmp_path / "set", [1])
    (tmp_path / "set" / "Participant1" / "train" / "EMG" / name).write_text(text)
    with pytest.raises(DataError, match=says):
        import_3dc(tmp_path / "set", tmp_path / "out", [1])
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_missing_participant_is_named(tmp_path):
    with pytest.raises(DataError, match="Participant9: there is no such participant"):
        import_3dc(tmp_path, tmp_path / "out", [9])


def test_templates_tell_all_gestures_apart_and_vary_less_than_they_differ():
    drawn = {name: [template_poses(name, 2000, 1000.0, str(n)).mean(axis=0) for n in range(20)] for name in TEMPLATES}
    centres = {name: np.mean(poses, axis=0) for name, poses in drawn.items()}
    nearest = [
        min(centres, key=lambda other: float(np.linalg.norm(pose - centres[other]))) == name  # noqa: B023
        for name, poses in drawn.items()
        for pose in poses
    ]
    assert np.mean(nearest) > 0.95


def test_a_template_is_drawn_the_same_for_a_recording_and_differs_between_them():
    one, again = (template_poses("OpenHand", 500, 1000.0, "a") for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert one.shape == (500, 23)
    assert np.abs(one - template_poses("OpenHand", 500, 1000.0, "b")).max() > 0.05


def test_a_gesture_without_a_template_is_named():
    with pytest.raises(DataError, match="no pose template for stage Snap"):
        template_poses("Snap", 100, 1000.0, "x")


@pytest.mark.skipif(not (SHARED / "3dc").is_dir(), reason="the 3DC recordings are not here")
def test_the_real_set_imports_whole(tmp_path):
    summary = import_3dc(SHARED / "3dc", tmp_path / "out", [7])
    info = corpus_info(tmp_path / "out")
    assert (summary.n_files, info.n_files, info.faults) == (88, 88, ())
    assert set(info.stages) == set(GESTURES)
    assert info.splits == {"test": 44, "train": 44}
    assert info.failed_pose_share == 1.0
