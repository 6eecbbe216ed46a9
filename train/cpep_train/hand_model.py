"""The musculoskeletal hand: which muscles must pull, and how hard, to hold a pose.

The body is MyoHand of the `myo-sim` package (Wang et al., MyoSim, ICRA 2022; Apache-2.0), itself built on the hand
and wrist of Lee et al. (2015) and Gonzalez et al. (1997): 23 joints, 39 muscles, and three more here. A full pose is
the 20 finger joints of emg2pose in the order of `cpep_edge.session.JOINT_NAMES`, then the 3 joints of the wrist
(`WRIST_NAMES`).

Physical assumptions, each with its source:
- Muscles act through the moment arms that MuJoCo computes from MyoHand's tendon paths, at their peak isometric force.
  Force-length and force-velocity effects are left out, as hand gestures are slow and near mid-range.
- Joints are springs toward the relaxed hand, with dampers: hundredths of N m/rad at the fingers (Kamper et al. 2002,
  Esteki & Mansour 1996) and a few tenths at the wrist (Formica et al. 2012).
- The nervous system shares load between muscles by least squared activation (Crowninshield & Brand 1981), on top of a
  floor of co-contraction that every muscle keeps and the others have to balance (Gribble et al. 2003).
- MyoHand lacks the muscles that supinate. Supinator, biceps and brachioradialis are added, with peak forces as in
  Holzbaur et al. (2005) and constant moment arms about the forearm's axis after Bremer et al. (2006); the
  brachioradialis pulls towards the middle position. What they do at the elbow is left out.
- The intrinsic thumb muscles are one (opponens pollicis), so thumb torques are met only as far as its muscles reach.

It is not a dynamics simulator: nothing here is integrated over time, and gravity is left out.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from cpep_edge.errors import ConfigError
from cpep_edge.session import JOINT_NAMES, N_JOINTS

WRIST_NAMES = ("forearm_pronation", "wrist_radial_deviation", "wrist_flexion")
N_POSE = N_JOINTS + len(WRIST_NAMES)  # 23 joints of a full pose
_PRONATION = N_JOINTS

# Where each joint of a full pose is found in MyoHand. Its thumb bends toward negative angles; in a full pose flexion,
# abduction (of the fingers: toward the thumb), pronation and radial deviation are positive everywhere.
_THUMB = (("cmc_flexion_r", -1), ("cmc_abduction_r", 1), ("mp_flexion_r", -1), ("ip_flexion_r", -1))
_FINGERS = tuple(
    (f"{joint}{finger}_{motion}_r", 1)
    for finger in (2, 3, 4, 5)
    for joint, motion in (("mcp", "abduction"), ("mcp", "flexion"), ("pm", "flexion"), ("md", "flexion"))
)
_WRIST = (("pro_sup_r", 1), ("deviation_r", 1), ("flexion_r", 1))
_MYOHAND_JOINTS = _THUMB + _FINGERS + _WRIST

# Forearm muscles beyond MyoHand: peak force in N, moment arm of pronation in m, whether it pulls towards the middle.
_ROTATORS = {"SUP": (476.0, -0.010, False), "BIC": (624.0, -0.010, False), "BRD": (261.0, -0.005, True)}

_STIFFNESS = {"thumb": 0.03, "mcp": 0.04, "pip": 0.03, "dip": 0.02, "forearm": 0.10, "wrist": 0.25}  # N m/rad
_DAMPING_S = 0.06  # damping over stiffness: a released finger settles in about this time
TORQUE_TOLERANCE = {"thumb": 0.04, "mcp": 0.02, "pip": 0.02, "dip": 0.02, "forearm": 0.10, "wrist": 0.04}  # N m


@dataclass(frozen=True, slots=True)
class Hand:
    """MyoHand, loaded; joints are in the order and the signs of a full pose."""

    muscle_names: tuple[str, ...]  # 42, without the side
    peak_force_n: NDArray[np.float64]  # (n_muscles,)
    lower_rad: NDArray[np.float64]  # (23,)
    upper_rad: NDArray[np.float64]  # (23,)
    moment_arms_m: Callable[[NDArray[np.float64]], NDArray[np.float64]]  # (n, 23) poses -> (n, 23, n_muscles)

    def clip(self, poses_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        """Poses brought inside the joints' ranges, (..., 23)."""
        inside: NDArray[np.float64] = np.clip(poses_rad, self.lower_rad, self.upper_rad)
        return inside


@lru_cache(maxsize=1)
def load_hand() -> Hand:
    """Load MyoHand once; it takes a few seconds.

    Raises ConfigError when mujoco or myo-sim is not installed.
    """
    mujoco, model = _load_model()
    joints = [model.joint(name) for name, _ in _MYOHAND_JOINTS]
    sign = np.array([sign for _, sign in _MYOHAND_JOINTS], dtype=np.float64)
    ranges = np.sort(np.array([joint.range for joint in joints]) * sign[:, None], axis=1)
    return Hand(
        muscle_names=(*(model.actuator(u).name.removesuffix("_r") for u in range(model.nu)), *_ROTATORS),
        peak_force_n=np.concatenate([model.actuator_gainprm[:, 2], [force_n for force_n, _, _ in _ROTATORS.values()]]),
        lower_rad=ranges[:, 0],
        upper_rad=ranges[:, 1],
        moment_arms_m=_moment_arms(mujoco, model, [int(joint.qposadr[0]) for joint in joints], sign),
    )


def joint_values(values: dict[str, float]) -> NDArray[np.float64]:
    """Spread one value per kind of joint (thumb, mcp, pip, dip, forearm, wrist) over a full pose, (23,)."""

    def kind(name: str) -> str:
        first, second = name.split("_")[:2]
        return first if first in values else second

    return np.array([values[kind(name)] for name in JOINT_NAMES + WRIST_NAMES])


def passive_torque(
    poses_rad: NDArray[np.float64], rest_rad: NDArray[np.float64], rate_hz: float
) -> NDArray[np.float64]:
    """Torque that muscles must add to hold and move the hand against its springs and dampers.

    poses_rad: (n, 23), `rate_hz` poses a second
    rest_rad: (23,), the relaxed hand
    returns: (n, 23), N m, positive toward flexion
    """
    velocity = np.gradient(poses_rad, 1 / rate_hz, axis=0) if len(poses_rad) > 1 else np.zeros_like(poses_rad)
    return joint_values(_STIFFNESS) * (poses_rad - rest_rad + _DAMPING_S * velocity)


def activations(
    hand: Hand,
    poses_rad: NDArray[np.float64],
    torque_nm: NDArray[np.float64],
    floor: NDArray[np.float64],
    cost: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Least-effort activations that give the torques, none below the floor of co-contraction.

    Minimises the squared torque error in units of its tolerance plus the squared activation above the floor, weighted.

    poses_rad: (n, 23); torque_nm: (n, 23)
    floor: (n, n_muscles), what every muscle keeps
    cost: (n_muscles,), a person's reluctance to use each muscle
    returns: (n, n_muscles), 0 to 1
    """
    tolerance = joint_values(TORQUE_TOLERANCE)
    leverage = hand.moment_arms_m(poses_rad) * hand.peak_force_n / tolerance[:, None]  # (n, 23, n_muscles)
    wanted = torque_nm / tolerance
    n_muscles = len(hand.peak_force_n)
    system = np.concatenate([leverage, np.broadcast_to(np.diag(cost), (len(leverage), n_muscles, n_muscles))], axis=1)
    wanted = np.concatenate([wanted, np.zeros((len(wanted), n_muscles))], axis=1)
    above = np.array([nnls(matrix, target)[0] for matrix, target in zip(system, wanted, strict=True)])
    clipped: NDArray[np.float64] = np.clip(floor + above, 0.0, 1.0)
    return clipped


def _load_model() -> tuple[Any, Any]:
    try:
        import mujoco
        import myo_sim
    except ImportError as error:
        raise ConfigError("simulating needs mujoco and myo-sim: run pip install 'cpep-edge[sim]'") from error
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: None)  # a note about saving models; by default it becomes a log file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return mujoco, myo_sim.load_model("myohand_r")
    finally:
        mujoco.set_mju_user_warning(previous)


def _moment_arms(
    mujoco: Any, model: Any, address: list[int], sign: NDArray[np.float64]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    data = mujoco.MjData(model)
    dense = np.zeros((model.nu, model.nv))

    def at(poses_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        arms = np.zeros((len(poses_rad), len(address), model.nu + len(_ROTATORS)))
        pronation_rad = poses_rad[:, _PRONATION]
        for column, (_, arm_m, to_middle) in enumerate(_ROTATORS.values(), start=model.nu):
            arms[:, _PRONATION, column] = arm_m * np.tanh(2 * pronation_rad) if to_middle else arm_m
        for row, pose_rad in enumerate(poses_rad):
            data.qpos[address] = sign * pose_rad
            for step in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_tendon, mujoco.mj_transmission):
                step(model, data)
            mujoco.mju_sparse2dense(
                dense, data.actuator_moment, data.moment_rownnz, data.moment_rowadr, data.moment_colind
            )
            # A muscle pulls, so a tendon that lengthens with the angle turns the joint the other way.
            arms[row, :, : model.nu] = -sign[:, None] * dense.T[address]
        return arms

    return at
