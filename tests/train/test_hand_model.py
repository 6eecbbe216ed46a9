"""The musculoskeletal hand, checked with elementary mechanics."""

import sys

import numpy as np
import pytest

pytest.importorskip("myo_sim")

from cpep_edge.errors import ConfigError
from cpep_edge.session import JOINT_NAMES
from cpep_train.hand_model import (
    N_POSE,
    WRIST_NAMES,
    Hand,
    activations,
    joint_values,
    load_hand,
    passive_torque,
)

NAMES = JOINT_NAMES + WRIST_NAMES
REST = np.full(N_POSE, 0.1)


@pytest.fixture(scope="module")
def hand() -> Hand:
    return load_hand()


def _solve(hand: Hand, joint: str, torque_nm: float, floor: float = 0.0) -> dict[str, float]:
    wanted = np.zeros((1, N_POSE))
    wanted[0, NAMES.index(joint)] = torque_nm
    floors = np.full((1, len(hand.muscle_names)), floor)
    solved = activations(hand, REST[None], wanted, floors, np.ones(len(hand.muscle_names)))
    return dict(zip(hand.muscle_names, solved[0], strict=True))


def test_a_full_pose_has_twenty_finger_joints_three_of_the_wrist_and_forty_two_muscles(hand):
    assert (N_POSE, len(hand.muscle_names), hand.moment_arms_m(REST[None]).shape) == (23, 42, (1, 23, 42))
    assert np.all(hand.lower_rad < hand.upper_rad)


@pytest.mark.parametrize(
    ("muscle", "joint", "sign"),
    [
        ("FDP2", "index_dip_flexion", 1),
        ("FDS4", "ring_pip_flexion", 1),
        ("EDC3", "middle_mcp_flexion", -1),
        ("FPL", "thumb_ip_flexion", 1),
        ("EPL", "thumb_ip_flexion", -1),
        ("APL", "thumb_cmc_abduction", 1),
        ("RI2", "index_mcp_abduction", 1),
        ("FCR", "wrist_flexion", 1),
        ("ECRL", "wrist_radial_deviation", 1),
        ("PT", "forearm_pronation", 1),
        ("SUP", "forearm_pronation", -1),
    ],
)
def test_muscles_turn_the_joints_as_anatomy_says(hand, muscle, joint, sign):
    arms = hand.moment_arms_m(REST[None])[0]
    assert sign * arms[NAMES.index(joint), hand.muscle_names.index(muscle)] > 1e-3


def test_moment_arms_are_the_slope_of_tendon_length(hand):
    import mujoco

    from cpep_train.hand_model import _load_model

    _, model = _load_model()
    data = mujoco.MjData(model)
    step_rad, address = 1e-5, int(model.joint("mcp2_flexion_r").qposadr[0])
    data.qpos[:] = 0.5
    data.qpos[model.joint("cmc_abduction_r").qposadr[0]] = 0.5
    lengths = []
    for sign in (-1, 1):
        data.qpos[address] = 0.5 + sign * step_rad
        mujoco.mj_forward(model, data)
        lengths.append(data.actuator_length.copy())
    pose = np.full(N_POSE, 0.5)
    pose[[0, 2, 3]] = -0.5  # MyoHand's thumb flexions have the opposite sign
    slope = (lengths[1] - lengths[0]) / (2 * step_rad)
    np.testing.assert_allclose(
        hand.moment_arms_m(pose[None])[0, NAMES.index("index_mcp_flexion"), :39], -slope, atol=1e-6
    )


def test_bending_the_index_calls_its_flexors_and_a_wrist_extensor_answers(hand):
    solved = _solve(hand, "index_pip_flexion", 0.3)
    assert solved["FDP2"] + solved["FDS2"] > 0.05
    assert solved["FDP4"] + solved["FDS4"] < 0.02
    assert sum(solved[name] for name in ("ECRL", "ECRB", "ECU", "EDC2", "EDC3", "EIP")) > 0.03


def test_the_torques_asked_for_are_met(hand):
    wanted = np.zeros((1, N_POSE))
    wanted[0, [NAMES.index(f"middle_{joint}_flexion") for joint in ("mcp", "pip", "dip")]] = (0.2, 0.15, 0.08)
    n_muscles = len(hand.muscle_names)
    solved = activations(hand, REST[None], wanted, np.zeros((1, n_muscles)), np.ones(n_muscles))
    given = hand.moment_arms_m(REST[None])[0] @ (hand.peak_force_n * solved[0])
    np.testing.assert_allclose(given[:20], wanted[0, :20], atol=0.025)


def test_no_muscle_falls_below_the_floor_and_none_exceeds_one(hand):
    gentle, absurd = _solve(hand, "wrist_flexion", 0.5, floor=0.02), _solve(hand, "index_mcp_flexion", 100.0)
    assert min(gentle.values()) >= 0.02
    assert max(absurd.values()) == 1.0


def test_the_relaxed_hand_needs_no_torque_and_a_moved_joint_pulls_back():
    poses = np.tile(REST, (3, 1))
    assert np.all(passive_torque(poses, REST, 50.0) == 0)
    poses[:, NAMES.index("ring_mcp_flexion")] += 0.5
    torque_nm = passive_torque(poses, REST, 50.0)
    assert np.flatnonzero(torque_nm[1]).tolist() == [NAMES.index("ring_mcp_flexion")]
    assert torque_nm[1].max() == pytest.approx(0.5 * 0.04)


def test_one_value_a_kind_of_joint_reaches_every_joint():
    kinds = {"thumb": 1.0, "mcp": 2.0, "pip": 3.0, "dip": 4.0, "forearm": 5.0, "wrist": 6.0}
    assert joint_values(kinds).tolist() == [1.0] * 4 + [2.0, 2.0, 3.0, 4.0] * 4 + [5.0, 6.0, 6.0]


def test_a_missing_package_says_the_install_line(monkeypatch):
    from cpep_train.hand_model import _load_model

    monkeypatch.setitem(sys.modules, "myo_sim", None)
    with pytest.raises(ConfigError, match=r"pip install 'cpep-edge\[sim\]'"):
        _load_model()
