from pathlib import Path

import numpy as np
import pytest

from cpep_edge.errors import DataError
from cpep_edge.pose_file import read_movement
from cpep_edge.session import JOINT_NAMES, N_JOINTS, SessionMeta, write_session

JOINTS = ("thumb", "index", "wrist")


def csv(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n")
    return file


def test_columns_are_found_by_their_names(tmp_path):
    movement = read_movement(csv(tmp_path / "pose.csv", "wrist, thumb,index", "0.3,0.1,0.2"), JOINTS)

    assert movement.angles_rad.tolist() == [[0.1, 0.2, 0.3]]
    assert movement.duration_s == 0


def test_a_movement_is_read_between_its_poses_along_a_line(tmp_path):
    file = csv(tmp_path / "pose.csv", "time_s,thumb,index,wrist", "10,0,0,0", "11,1,0,-1", "13,1,2,-1")

    at = read_movement(file, JOINTS).at(np.array([0.5, 2.0]))

    np.testing.assert_allclose(at, [[0.5, 0, -0.5], [1, 1, -1]])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["thumb,index", "0,0"], "the header lacks wrist; this bundle's joints are thumb, index, wrist"),
        (["thumb,index,wrist,toe", "0,0,0,0"], "the header has toe"),
        (["thumb,index,wrist,thumb", "0,0,0,0"], "the header repeats a joint"),
        (["thumb,index,wrist"], "no row below the header"),
        ([], "not a CSV file"),
        (["thumb,index,wrist", "0,zero,0"], "line 2 holds something that is not a number"),
        (["thumb,index,wrist", "0,0"], "line 2 has 2 numbers, the header 3 names"),
        (["thumb,index,wrist", "0,nan,0"], "index is NaN or infinite in pose 1"),
        (["time_s,thumb,index,wrist", "0,0,0,0", "1,0,0,inf"], "wrist is NaN or infinite in pose 2"),
        (["thumb,index,wrist", "10,45,0"], "index is 45 in pose 1; these look like degrees, give radians"),
        (["thumb,index,wrist", "0,0,0", "0,0,0"], "2 poses and no column time_s"),
        (["time_s,thumb,index,wrist", "1,0,0,0", "1,0,0,0"], "time_s does not rise"),
    ],
)
def test_a_file_of_no_pose_is_refused_in_one_sentence(tmp_path, lines, said):
    with pytest.raises(DataError, match=said) as raised:
        read_movement(csv(tmp_path / "pose.csv", *lines), JOINTS)
    assert "pose.csv" in str(raised.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "pose.csv").write_bytes(b"\xff\xfe\x00\x01" * 40)

    with pytest.raises(DataError, match="not a CSV file"):
        read_movement(tmp_path / "pose.csv", JOINTS)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_movement(tmp_path / "nowhere.csv", JOINTS)


@pytest.fixture
def session(tmp_path) -> Path:
    """A recording of ten poses, three of which are failed fits."""
    angles = np.outer(np.arange(1, 11), np.linspace(0.01, 0.1, N_JOINTS)).astype(np.float32)
    angles[[0, 4, 9]] = np.nan
    angles[5] = 0  # a straight hand is a valid pose
    file = tmp_path / "tracked.hdf5"
    meta = SessionMeta("s", "u", "Fist", "left", 0.0, 0.9, 2, 10.0, "tracked")
    write_session(file, meta, np.arange(10) / 10, np.zeros((10, 2), np.float32), angles)
    return file


def test_poses_of_a_session_are_those_that_were_tracked(session):
    movement = read_movement(session, JOINT_NAMES)

    assert movement.angles_rad.shape == (7, N_JOINTS)
    np.testing.assert_allclose(movement.time_s, [0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8])


def test_a_session_has_no_wrist(session):
    with pytest.raises(DataError, match="no angles for wrist_flexion"):
        read_movement(session, (*JOINT_NAMES, "wrist_flexion"))
