"""Files in the layout of Ninapro's documentation, written here with scipy, come out as sessions."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from cpep_edge.errors import DataError
from cpep_edge.session import JOINT_NAMES
from cpep_train.corpus import Corpus, corpus_info
from cpep_train.import_ninapro import GLOVE_18, GLOVE_22, LAYOUTS, Database, import_ninapro, joint_angles
from cpep_train.leakage import audit

N_A_REPETITION = 30  # rows of a movement, and of the rest after it
BEND = GLOVE_22.index("index_pip_flexion")


def _variables(
    database: Database, movements: int = 2, repetitions: int = 6, sensors: int = 22, seed: int = 0
) -> dict[str, np.ndarray]:
    """One exercise: rest, then each movement as often as asked, each followed by a rest."""
    rng = np.random.default_rng(seed)
    label, repetition = [np.zeros(N_A_REPETITION)], [np.zeros(N_A_REPETITION)]
    for movement in range(1, movements + 1):
        for number in range(1, repetitions + 1):
            for value in (movement, 0):
                label.append(np.full(N_A_REPETITION, value))
                repetition.append(np.full(N_A_REPETITION, number if value else 0))
    labels, numbers = np.concatenate(label)[:, None], np.concatenate(repetition)[:, None]
    glove = rng.uniform(40, 60, (len(labels), sensors))
    glove[:, BEND] = 50 + 20 * labels[:, 0]
    return {
        "emg": rng.standard_normal((len(labels), LAYOUTS[database].n_channels)) * 1e-5,
        "glove": glove,
        "stimulus": np.roll(labels, 3),
        "restimulus": labels.astype(np.int8),
        "repetition": np.roll(numbers, 3),
        "rerepetition": numbers.astype(np.int8),
        "exercise": np.array([[1]]),
        "subject": np.array([[1]]),
    }


def _without(variables: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in variables.items() if name not in names}


@pytest.mark.parametrize(
    ("database", "file"),
    [("db1", "S1_A1_E1.mat"), ("db2", "S1_E1_A1.mat"), ("db5", "s1/S1_E1_A1.mat")],
)
def test_each_repetition_of_a_movement_becomes_a_recording(tmp_path: Path, database: Database, file: str) -> None:
    variables = _variables(database)
    (tmp_path / "set" / file).parent.mkdir(parents=True)
    savemat(tmp_path / "set" / file, variables)
    summary = import_ninapro(tmp_path / "set", tmp_path / "out", database)
    corpus, layout = Corpus.open(tmp_path / "out"), LAYOUTS[database]
    assert (summary.n_files, summary.n_subjects, summary.n_recordings) == (1, 1, 2 * 6 + 13)
    assert {row.stage for row in corpus.rows} == {"Rest", "E1-01", "E1-02"}
    tested = {row.session.rpartition("rep")[2] for row in corpus.rows if row.split == "test"}
    assert tested == {str(n) for n in layout.test_repetitions if n <= 6}
    row = next(row for row in corpus.rows if (row.stage, row.session) == ("E1-02", f"{database}-01-E1-rep3"))
    start = N_A_REPETITION * (1 + 2 * (6 + 2))
    with corpus.session(row) as session:
        expected = variables["emg"][start : start + N_A_REPETITION] * layout.microvolts
        np.testing.assert_allclose(session.emg(), expected, rtol=1e-6)
        assert (session.meta.sample_rate, session.meta.num_channels) == (layout.sample_rate_hz, layout.n_channels)
        assert session.pose_valid().all()
    assert corpus_info(tmp_path / "out").faults == ()
    audit(corpus)


def test_database_8_splits_by_day_and_reads_the_glove_of_18_sensors(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for day in (1, 2, 3):
        variables = _without(_variables("db8", sensors=18, seed=day), "exercise", "restimulus", "rerepetition")
        variables["stimulus"], variables["repetition"] = (
            np.roll(variables["stimulus"], -3),
            np.roll(variables["repetition"], -3),
        )
        savemat(tmp_path / "set" / f"S4_E1_A1_D{day}.mat", variables)
    import_ninapro(tmp_path / "set", tmp_path / "out", "db8", [4])
    corpus = Corpus.open(tmp_path / "out")
    assert {(row.session.split("-")[2], row.split) for row in corpus.rows} == {
        ("D1", "train"), ("D2", "train"), ("D3", "test"),
    }  # fmt: skip
    assert {row.stage for row in corpus.rows} == {"Rest", "M-01", "M-02"}
    with corpus.session(next(row for row in corpus.rows if row.stage == "M-02")) as session:
        bent = session.joint_angles()[:, JOINT_NAMES.index("index_pip_flexion")]
        straight = session.joint_angles()[:, JOINT_NAMES.index("index_dip_flexion")]
    assert bent.min() > 1.5
    assert not straight.any()


def test_a_sensors_range_is_laid_onto_that_of_its_joint() -> None:
    glove = np.tile(np.linspace(100, 200, 101)[:, None], (1, 22))
    angles = joint_angles(glove, glove.min(axis=0), glove.max(axis=0))
    of = {name: angles[:, JOINT_NAMES.index(name)] for name in JOINT_NAMES}
    np.testing.assert_allclose(np.rad2deg(of["middle_mcp_flexion"]), np.linspace(0, 90, 101), atol=1e-4)
    assert np.rad2deg(of["index_mcp_abduction"][-1]) == pytest.approx(20)
    assert np.rad2deg(of["ring_mcp_abduction"][-1]) == pytest.approx(-20)
    assert np.rad2deg(of["pinky_mcp_abduction"][-1]) == pytest.approx(-40)  # it is carried along by the ring finger
    assert not of["middle_mcp_abduction"].any()  # the glove has no sensor for it


def test_calibrated_angles_are_taken_as_they_are_and_missing_values_fail_the_pose() -> None:
    degrees = np.full((3, 22), 30.0)
    degrees[1, BEND] = np.nan
    angles = joint_angles(degrees, np.zeros(22), np.ones(22), in_degrees=True)
    assert np.rad2deg(angles[0, JOINT_NAMES.index("ring_pip_flexion")]) == pytest.approx(30)
    assert angles.any(axis=1).tolist() == [True, False, True]


def test_both_gloves_name_only_joints_of_the_format_and_each_once() -> None:
    for glove, n in ((GLOVE_22, 22), (GLOVE_18, 18)):
        named = [name for name in glove if name is not None]
        assert len(glove) == n
        assert len(set(named)) == len(named)
        assert set(named) <= set(JOINT_NAMES)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"emg": None}, "variable emg is missing"),
        ({"emg": np.zeros((5, 3))}, "variable emg has 3 columns, but db5 has 16"),
        ({"restimulus": np.zeros((5, 1))}, r"variable restimulus is \(5, 1\), but emg has"),
        ({"glove": np.zeros((750, 7))}, "variable glove is"),
        ({"exercise": None}, "variable exercise is missing"),
    ],
)
def test_a_file_of_another_layout_is_named_and_nothing_is_left(
    tmp_path: Path, change: dict[str, np.ndarray | None], says: str
) -> None:
    (tmp_path / "set").mkdir()
    variables = {k: v for k, v in {**_variables("db5"), **change}.items() if v is not None}
    savemat(tmp_path / "set" / "S1_E1_A1.mat", variables)
    with pytest.raises(DataError, match=says):
        import_ninapro(tmp_path / "set", tmp_path / "out", "db5")
    assert not (tmp_path / "out").exists()


def test_a_missing_subject_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "S1_E1_A1.mat").write_bytes(b"MATLAB 5.0 MAT-file, or so it says" * 10)
    with pytest.raises(DataError, match="no .mat file of subject 2"):
        import_ninapro(tmp_path, tmp_path / "out", "db5", [1, 2])
    with pytest.raises(DataError, match="S1_E1_A1.mat: not a MATLAB 5 file"):
        import_ninapro(tmp_path, tmp_path / "out", "db5")
