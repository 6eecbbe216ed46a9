"""Files in the layout of Ninapro's documentation, which the tests write with scipy, become sessions."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from cpep_edge.errors import DataError
from cpep_edge.session import JOINT_NAMES
from cpep_train.corpus import Corpus, corpus_info
from cpep_train.glove import GLOVE_18, GLOVE_22, joint_angles, lag_s, sensor_ranges
from cpep_train.import_ninapro import LAYOUTS, Database, import_ninapro
from cpep_train.importing import Choices, Writing
from cpep_train.leakage import audit

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
N_A_REPETITION = 30  # rows of a movement, and of the rest after it
FIRST_TWO = {
    "db1": ("index flexion", "index extension"),
    "db2": ("thumb up", "index and middle extended"),
    "db5": ("index flexion", "index extension"),
}
BEND = GLOVE_22.index("index_pip_flexion")


def _variables(
    database: Database, movements: int = 2, repetitions: int = 6, sensors: int = 22, seed: int = 0
) -> dict[str, np.ndarray]:
    """The variables of one exercise: rest, then the repetitions of each movement, each followed by a rest."""
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


def _write_set(folder: Path, variables: dict[str, np.ndarray], name: str = "S1_E1_A1.mat") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    savemat(folder / name, variables)


@pytest.mark.parametrize(
    ("database", "file"), [("db1", "S1_A1_E1.mat"), ("db2", "S1_E1_A1.mat"), ("db5", "s1/S1_E1_A1.mat")]
)
def test_each_repetition_of_a_movement_becomes_a_recording(tmp_path, database, file):
    variables = _variables(database)
    _write_set(tmp_path / "set", variables, file)
    summary = import_ninapro(tmp_path / "set", tmp_path / "out", database)
    corpus, layout = Corpus.open(tmp_path / "out"), LAYOUTS[database]
    assert (summary.n_files, len(summary.people), summary.n_recordings) == (1, 1, 2 * 6 + 13)
    assert summary.n_samples_read == summary.n_samples_kept == len(variables["emg"])
    assert {row.stage for row in corpus.rows} == {"Rest", *FIRST_TWO[database]}
    tested = {row.session.rpartition("rep")[2] for row in corpus.rows if row.split == "test"}
    assert tested == {str(n) for n in layout.test_repetitions if n <= 6}
    row = next(r for r in corpus.rows if (r.stage, r.session) == (FIRST_TWO[database][1], f"{database}-01-E1-rep3"))
    start = N_A_REPETITION * (1 + 2 * (6 + 2))
    with corpus.session(row) as session:
        expected = variables["emg"][start : start + N_A_REPETITION] * layout.microvolts
        np.testing.assert_allclose(session.emg(), expected, rtol=1e-6)
        assert (session.meta.sample_rate, session.meta.num_channels) == (layout.sample_rate_hz, layout.n_channels)
        assert session.pose_valid().all()
    assert corpus_info(tmp_path / "out").faults == ()
    audit(corpus)


@pytest.mark.parametrize("name", ["S4_E1_A1_D{}.mat", "S4_E1_A{}.mat"])
def test_database_8_splits_by_acquisition_and_reads_the_glove_of_18_sensors(tmp_path, name):
    for day in (1, 2, 3):
        variables = _variables("db8", sensors=18, seed=day)
        for told in ("stimulus", "repetition"):
            variables[told] = np.roll(variables[told], -3)
        for gone in ("exercise", "restimulus", "rerepetition"):
            del variables[gone]
        _write_set(tmp_path / "set", variables, name.format(day))
    summary = import_ninapro(tmp_path / "set", tmp_path / "out", "db8", [4])
    assert summary.n_samples_kept == 3 * 750 == _samples_written(tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert {(row.session.split("-")[2], row.split) for row in corpus.rows} == {
        ("A1", "train"), ("A2", "train"), ("A3", "test"),
    }  # fmt: skip
    movements = {"thumb flexion and extension", "thumb abduction and adduction"}
    assert {row.stage for row in corpus.rows} == {"Rest", *movements}
    with corpus.session(next(row for row in corpus.rows if row.stage == "thumb abduction and adduction")) as session:
        bent = session.joint_angles()[:, JOINT_NAMES.index("index_pip_flexion")]
        straight = session.joint_angles()[:, JOINT_NAMES.index("index_dip_flexion")]
    assert bent.min() > 1.5
    assert not straight.any()


def _samples_written(corpus: Path) -> int:
    return sum(h5py.File(file)["emg2pose/timeseries"].shape[0] for file in corpus.glob("*.hdf5"))


def test_a_flickering_label_and_a_second_folder_lose_nothing(tmp_path):
    variables = _variables("db5")
    variables["restimulus"][40:42] = 0  # within the first repetition
    for folder, seed in (("set", 0), ("set/old", 1)):
        emg = np.random.default_rng(seed).standard_normal(variables["emg"].shape)
        _write_set(tmp_path / folder, {**variables, "emg": emg})
    summary = import_ninapro(tmp_path / "set", tmp_path / "out", "db5")
    rows = Corpus.open(tmp_path / "out").rows
    assert len({row.filename for row in rows}) == len(rows) == summary.n_recordings
    assert summary.n_samples_kept == _samples_written(tmp_path / "out") == 2 * 750
    assert {row.session.split("-")[2] for row in rows} == {"E1", "E1.2"}


def test_the_same_file_twice_counts_once_and_is_said(tmp_path):
    for folder in ("set", "set/copy"):
        _write_set(tmp_path / folder, _variables("db5"))
    summary = import_ninapro(tmp_path / "set", tmp_path / "out", "db5")
    assert (summary.n_files, summary.n_samples_kept) == (1, 750)
    assert "second copy" in summary.notes[0]


def test_a_variable_some_rows_short_trims_the_file_and_is_counted(tmp_path):
    variables = _variables("db5")
    variables["restimulus"] = variables["restimulus"][:-7]
    savemat(tmp_path / "S1_E1_A1.mat", variables)
    summary = import_ninapro(tmp_path, tmp_path / "out", "db5")
    assert summary.left_out == {"rows beyond a file's shortest variable": 7}
    assert summary.n_samples_read == 750 == summary.n_samples_kept + 7


def test_a_file_of_matlab_7_3_reads_as_one_of_matlab_5(tmp_path):
    variables = _variables("db3")
    _write_set(tmp_path / "old", variables)
    (tmp_path / "new").mkdir()
    with h5py.File(tmp_path / "new" / "S1_E1_A1.mat", "w", userblock_size=512) as file:
        for name, value in variables.items():
            file[name] = value.T  # column by column
    for folder in ("old", "new"):
        import_ninapro(tmp_path / folder, tmp_path / f"{folder}-out", "db3")
    old, new = Corpus.open(tmp_path / "old-out"), Corpus.open(tmp_path / "new-out")
    assert old.rows == new.rows
    for row in old.rows:
        with old.session(row) as one, new.session(row) as other:
            np.testing.assert_array_equal(one.emg(), other.emg())
            np.testing.assert_array_equal(one.joint_angles(), other.joint_angles())


def test_a_sensor_that_cannot_be_right_is_left_out_and_said(tmp_path):
    variables = _variables("db5")
    variables["glove"][:, 10] = np.linspace(-137, 1076, 750)  # as in the published files
    savemat(tmp_path / "S1_E1_A1.mat", variables)
    summary = import_ninapro(tmp_path, tmp_path / "out", "db5")
    assert "left out: 10 (index_mcp_abduction)" in summary.notes[0]
    corpus = Corpus.open(tmp_path / "out")
    with corpus.session(corpus.rows[0]) as session:
        assert not session.joint_angles()[:, JOINT_NAMES.index("index_mcp_abduction")].any()
    low, high = sensor_ranges([variables["glove"]])
    assert np.flatnonzero(np.isnan(low)).tolist() == np.flatnonzero(np.isnan(high)).tolist() == [10]


@pytest.mark.parametrize("lag", [0, 24, 61])
def test_the_gloves_lag_is_found_as_it_was_made(lag):
    rng, rate_hz = np.random.default_rng(1), 200.0
    effort = np.repeat(rng.permutation(np.tile([0.0, 0.0, 1.0], 40)), 400)
    emg = (1 + 4 * effort)[:, None] * rng.standard_normal((len(effort), 4))
    pose = np.zeros((len(effort), 20))
    pose[:, 5] = np.roll(effort, lag) + 0.01 * rng.standard_normal(len(effort))
    found = lag_s(emg, pose, rate_hz)
    assert found is not None
    assert found == pytest.approx(lag / rate_hz, abs=0.02)
    assert lag_s(rng.standard_normal((20_000, 4)), pose[:20_000], rate_hz) is None


def test_undoing_the_lag_moves_poses_and_marks_what_is_missing(tmp_path):
    rng = np.random.default_rng(0)
    variables = _variables("db5", repetitions=20)
    label = np.repeat(variables["restimulus"][:, 0], 20)
    moved = np.roll(label > 0, 40).astype(float)
    more = {"restimulus": label[:, None], "rerepetition": np.repeat(variables["rerepetition"], 20, axis=0)}
    more["emg"] = (1 + 9 * (label > 0))[:, None] * rng.standard_normal((len(label), 16))
    more["glove"] = 50 + 20 * moved[:, None] + 0.1 * rng.standard_normal((len(label), 22))
    savemat(tmp_path / "S1_E1_A1.mat", more)
    summary = import_ninapro(tmp_path, tmp_path / "out", "db5", undo_lag=True)
    note = next(note for note in summary.notes if "lags" in note)
    assert int(re.search(r"about (\d+) ms; poses were moved", note)[1]) == pytest.approx(200, abs=20)
    failed = corpus_info(tmp_path / "out").failed_pose_share * len(label)
    assert failed == pytest.approx(40, abs=4)


def test_people_and_gestures_are_held_out_by_the_names_of_the_set(tmp_path):
    for subject in (1, 3, 4):
        _write_set(tmp_path / "set", _variables("db5", seed=subject), f"S{subject}_E1_A1.mat")
    choices = Choices(hold_out_people=("S1",), validation_people=("db5-04",), hold_out_gestures=("index flexion",))
    import_ninapro(tmp_path / "set", tmp_path / "out", "db5", writing=Writing(choices))
    corpus = Corpus.open(tmp_path / "out")
    audit(corpus)
    assert {row.user for row in corpus.rows if row.held_out_user} == {"db5-01"}
    assert corpus.unseen_stages == ("index flexion",)
    assert {(row.user, row.split) for row in corpus.rows if not row.held_out_stage} == {
        ("db5-01", "test"), ("db5-03", "train"), ("db5-03", "test"), ("db5-04", "val"),
    }  # fmt: skip
    with pytest.raises(DataError, match=r"no gesture is called 'index flexing'; did you mean index flexion\?"):
        import_ninapro(
            tmp_path / "set", tmp_path / "no", "db5", writing=Writing(Choices(hold_out_gestures=("index flexing",)))
        )
    assert not (tmp_path / "no").exists()


def test_the_published_files_are_read_whole(tmp_path):
    if not (SHARED / "ninapro-db5").is_dir():
        pytest.skip("shared/data is not there")
    summary = import_ninapro(SHARED / "ninapro-db5", tmp_path / "out", "db5", [1], writing=Writing(dry_run=True))
    assert summary.n_samples_kept == summary.n_samples_read == 130_267
    assert len(summary.gestures) == 13
    assert any("10 (index_mcp_abduction)" in note for note in summary.notes)
    assert not (tmp_path / "out").exists()


def test_a_sensors_range_is_laid_onto_that_of_its_joint():
    glove = np.tile(np.linspace(100, 200, 101)[:, None], (1, 22))
    angles = joint_angles(glove, glove.min(axis=0), glove.max(axis=0))
    of = {name: angles[:, JOINT_NAMES.index(name)] for name in JOINT_NAMES}
    np.testing.assert_allclose(np.rad2deg(of["middle_mcp_flexion"]), np.linspace(0, 90, 101), atol=1e-4)
    assert np.rad2deg(of["index_mcp_abduction"][-1]) == pytest.approx(20)
    assert np.rad2deg(of["ring_mcp_abduction"][-1]) == pytest.approx(-20)
    assert np.rad2deg(of["pinky_mcp_abduction"][-1]) == pytest.approx(-40)  # the ring finger carries it along
    assert not of["middle_mcp_abduction"].any()  # the glove has no sensor for it


def test_calibrated_angles_are_taken_as_they_are_and_missing_values_fail_the_pose():
    degrees = np.full((3, 22), 30.0)
    degrees[1, BEND] = np.nan
    angles = joint_angles(degrees, np.zeros(22), np.ones(22), in_degrees=True)
    assert np.rad2deg(angles[0, JOINT_NAMES.index("ring_pip_flexion")]) == pytest.approx(30)
    assert np.isnan(angles).all(axis=1).tolist() == [False, True, False]


def test_both_gloves_name_only_joints_of_the_format_and_each_once():
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
        ({"restimulus": np.full((750, 1), np.nan)}, "row 1 holds nan, which is not a label"),
        ({"restimulus": np.full((750, 1), -3.0)}, "row 1 holds -3, which is not a label"),
        ({"rerepetition": np.full((750, 1), 0.5)}, "row 1 holds 0.5, which is not a repetition"),
        ({"emg": np.full((750, 16), 1j)}, "variable emg is not a table of numbers"),
    ],
)
def test_a_file_of_another_layout_is_named_and_nothing_is_left(tmp_path, change, says):
    variables = {k: v for k, v in {**_variables("db5"), **change}.items() if v is not None}
    _write_set(tmp_path / "set", variables)
    with pytest.raises(DataError, match=says):
        import_ninapro(tmp_path / "set", tmp_path / "out", "db5")
    assert not (tmp_path / "out").exists()


def test_a_missing_subject_and_a_damaged_file_are_named(tmp_path):
    (tmp_path / "S1_E1_A1.mat").write_bytes(b"MATLAB 5.0 MAT-file, or so it says" * 10)
    with pytest.raises(DataError, match="no recording of subject 2"):
        import_ninapro(tmp_path, tmp_path / "out", "db5", [1, 2])
    with pytest.raises(DataError, match="S1_E1_A1.mat: not a MATLAB file"):
        import_ninapro(tmp_path, tmp_path / "out", "db5")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_glove_that_said_nothing_is_left_out_and_said(tmp_path, value):
    variables = _variables("db5")
    _write_set(tmp_path / "set", {**variables, "glove": np.full_like(variables["glove"], value)})
    assert "cannot be right" in import_ninapro(tmp_path / "set", tmp_path / "out", "db5").notes[0]


def _with_filter(file: h5py.File) -> None:
    storage = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    storage.set_chunk((16, 750))
    storage.set_filter(32008, h5py.h5z.FLAG_OPTIONAL, (0,))
    table = h5py.h5d.create(file.id, b"emg", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((16, 750)), storage)
    table.write_direct_chunk((0, 0), np.zeros((16, 750)).tobytes(), 0)


def _beyond_its_size(file: h5py.File) -> None:
    file.create_dataset("emg", (10**7, 10**6), "f8", chunks=(1000, 1000))


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (_with_filter, "emg is compressed with the HDF5 filter 32008"),
        (_beyond_its_size, "more than a file of its size"),
    ],
)
def test_a_file_of_matlab_7_3_that_cannot_be_read_says_why(tmp_path, write, says):
    with h5py.File(tmp_path / "S1_E1_A1.mat", "w") as file:
        write(file)
    with pytest.raises(DataError, match=says):
        import_ninapro(tmp_path, tmp_path / "out", "db5")


def test_a_gesture_to_be_renamed_that_is_not_there_is_said(tmp_path):
    _write_set(tmp_path / "set", _variables("db5"))
    with pytest.raises(DataError, match="'index flexon', to be renamed; did you mean index flexion?"):
        import_ninapro(
            tmp_path / "set", tmp_path / "out", "db5", writing=Writing(Choices(rename={"index flexon": "Point"}))
        )
