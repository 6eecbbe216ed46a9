"""Hand shapes that are drawn for a gesture's name."""

import numpy as np
import pytest

from cpep_edge.hand import N_ANGLES, HandPoses
from cpep_edge.hand_shapes import REST_SHAPE, shape_of
from cpep_edge.session import JOINT_NAMES

CURLED = [JOINT_NAMES.index(f"{finger}_pip_flexion") for finger in ("index", "middle", "ring", "pinky")]


@pytest.mark.parametrize(
    ("label", "curled"),  # index to little finger
    [
        ("Fist", (True, True, True, True)),
        ("ThumbsUpDownThumbRotationsCWCCWP", (True, True, True, True)),
        ("OpenHand", (False, False, False, False)),
        ("point_with_index", (False, True, True, True)),
        ("Peace", (False, False, True, True)),
        ("ILoveYou", (False, True, True, False)),
    ],
)
def test_fingers_are_curled_as_the_name_says(label, curled):
    shape = shape_of(label)
    assert tuple(bool(angle > 1.0) for angle in shape[CURLED]) == curled


def test_the_gestures_of_the_wrist_differ_in_the_wrist_alone():
    flexion, deviation, pronation = range(20, 23)
    for label, angle, sign in (
        ("WristFlexion", flexion, 1), ("WristExtension", flexion, -1), ("UlnarDeviation", deviation, 1),
        ("RadialDeviation", deviation, -1), ("Pronation", pronation, 1), ("Supination", pronation, -1),
    ):  # fmt: skip
        shape = shape_of(label)
        assert np.sign(shape[angle]) == sign
        assert np.array_equal(shape[:20], REST_SHAPE[:20])


def test_a_name_that_says_nothing_of_the_hand_has_no_shape():
    assert [shape_of(label) for label in ("Zack", "gesture 7", "拳", "unknown")] == [None] * 4


@pytest.mark.parametrize("n_angles", N_ANGLES)
def test_poses_with_and_without_the_wrist_survive_their_file(n_angles):
    poses = HandPoses(np.eye(2, dtype=np.float32), np.ones((2, n_angles), np.float32), np.zeros(n_angles, np.float32))
    read = HandPoses.from_bytes(poses.to_bytes(), 2)
    assert np.array_equal(read.joint_angles_rad, poses.joint_angles_rad)
    assert read.rest_rad.shape == (n_angles,)
