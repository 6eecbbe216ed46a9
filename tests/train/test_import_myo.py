"""Files in the formats of the two published Myo sets become sessions."""

from pathlib import Path

import numpy as np
import pytest

from cpep_edge.errors import DataError
from cpep_train.corpus import Corpus
from cpep_train.import_myo import WRIST_GESTURES, import_myo_longterm, import_myo_wrist
from cpep_train.importing import Choices, Writing
from cpep_train.leakage import audit


def _write_wrist(folder: Path, gestures: tuple[int, ...] = (0, 1, 7)) -> dict[str, np.ndarray]:
    """Write two people with two donnings each; rest and gestures alternate."""
    written = {}
    for seed, session in enumerate(("111-1", "111-2", "222-1", "222-3")):
        (folder / session).mkdir(parents=True)
        for gesture in gestures:
            emg = np.random.default_rng(10 * seed + gesture).integers(-128, 128, (80, 8))
            rows = np.column_stack([emg, np.repeat([0, gesture, 0, gesture], 20)])
            np.savetxt(folder / session / f"{gesture}.txt", rows, fmt="%d", delimiter=",")
            written[f"{session}/{gesture}"] = rows
    return written


def test_labels_become_recordings_and_the_last_donning_is_for_testing(tmp_path):
    written = _write_wrist(tmp_path / "set")
    summary = import_myo_wrist(tmp_path / "set", tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    audit(corpus)
    assert summary.n_samples_kept == summary.n_samples_read == 12 * 80
    assert {(row.session, row.split) for row in corpus.rows} == {
        ("myo-111-1", "train"), ("myo-111-2", "test"), ("myo-222-1", "train"), ("myo-222-3", "test"),
    }  # fmt: skip
    fists = [row for row in corpus.rows if (row.session, row.stage) == ("myo-222-3", "Fist")]
    for row, start in zip(fists, (20, 60), strict=True):
        with corpus.session(row) as session:
            np.testing.assert_array_equal(session.emg(), written["222-3/7"][start : start + 20, :8])


def test_people_react_late_so_the_start_of_a_label_can_be_left_out(tmp_path):
    written = _write_wrist(tmp_path / "set", gestures=(1,))
    summary = import_myo_wrist(tmp_path / "set", tmp_path / "out", writing=Writing(Choices(skip_start_s=0.05)))
    assert summary.left_out == {"the start of recordings": 4 * 4 * 10}
    corpus = Corpus.open(tmp_path / "out")
    with corpus.session(corpus.rows[1]) as session:
        np.testing.assert_array_equal(session.emg(), written["111-1/1"][30:40, :8])


def test_rest_may_be_taken_from_the_minute_without_prompts_alone(tmp_path):
    written = _write_wrist(tmp_path / "set", gestures=(0, 1))
    minute = np.random.default_rng(5).integers(-128, 128, (2_300, 8))
    rows = np.column_stack([minute, np.zeros(len(minute))])
    np.savetxt(tmp_path / "set/111-1/0.txt", rows, fmt="%d", delimiter=",")
    summary = import_myo_wrist(tmp_path / "set", tmp_path / "out", rest_between=False)
    assert summary.left_out == {"rest between prompts": 4 * 40}
    corpus, read = Corpus.open(tmp_path / "out"), []
    for row in corpus.rows:
        if row.session == "myo-111-1":
            with corpus.session(row) as session:
                read.append((row.stage, session.emg()))
    assert [(stage, len(emg)) for stage, emg in read] == [
        *[("Rest", 1_000)] * 2, ("Rest", 300), *[("WristFlexion", 20)] * 2,
    ]  # fmt: skip
    np.testing.assert_array_equal(np.concatenate([emg for _, emg in read[:3]]), minute)
    np.testing.assert_array_equal(read[3][1], written["111-1/1"][20:40, :8])


def test_a_garbled_row_is_left_out_and_a_label_beyond_the_set_is_named(tmp_path):
    _write_wrist(tmp_path / "set", gestures=(1,))
    with (tmp_path / "set" / "111-1" / "1.txt").open("a") as file:
        file.write("1,2,3")
    assert import_myo_wrist(tmp_path / "set", tmp_path / "out").left_out == {"rows cut short at the end of a file": 1}
    with (tmp_path / "set" / "111-1" / "1.txt").open("a") as file:
        file.write("\n0,0,0,0,0,0,0,0,9\n")
    with pytest.raises(DataError, match=r"1.txt: the label 9 is none of 0 to 7"):
        import_myo_wrist(tmp_path / "set", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_days_are_donnings_and_the_first_is_for_training(tmp_path):
    for day in (1, 2, 10):
        folder = tmp_path / "set" / "sub2" / f"day{day}"
        folder.mkdir(parents=True)
        for motion in (1, 2, 3):
            emg = np.random.default_rng(day * 10 + motion).uniform(-1.28, 1.28, (300, 8))
            np.savetxt(folder / f"D{day}M{motion}T1.csv", emg, delimiter=",")
    summary = import_myo_longterm(
        tmp_path / "set", tmp_path / "out", writing=Writing(Choices(rename={"motion 3": WRIST_GESTURES[2]}))
    )
    corpus = Corpus.open(tmp_path / "out")
    assert summary.gestures == {"Rest": 3, "WristExtension": 3, "WristFlexion": 3}
    assert {(row.session, row.split) for row in corpus.rows} == {
        ("longterm-sub2-day1", "train"), ("longterm-sub2-day2", "test"), ("longterm-sub2-day10", "test"),
    }  # fmt: skip
    audit(corpus)


@pytest.mark.parametrize("label", ["nan", "0.5", "-1"])
def test_a_label_that_is_no_whole_number_is_named(tmp_path, label):
    _write_wrist(tmp_path / "set", gestures=(1,))
    file = tmp_path / "set" / "111-1" / "1.txt"
    file.write_text(file.read_text().replace(",1\n", f",{label}\n"))
    with pytest.raises(DataError, match=f"the label {label} is none of 0 to 7"):
        import_myo_wrist(tmp_path / "set", tmp_path / "out")


def test_the_mark_of_a_text_editor_costs_no_row(tmp_path):
    _write_wrist(tmp_path / "set", gestures=(1,))
    file = tmp_path / "set" / "111-1" / "1.txt"
    file.write_text("\ufeff" + file.read_text().replace("\n", "\r\n"), encoding="utf-8")
    assert import_myo_wrist(tmp_path / "set", tmp_path / "out").left_out == {}
