"""Free movement: a hand that goes on through all postures it can take, with no gesture to name.

It is to a simulated wearer what the freestyle stages of emg2pose are to theirs. A hand moves from posture to posture
along minimum-jerk paths and holds every other one for a while, each drawn from how joints of natural hands go together:
- Fingers bend together, neighbours most (Häger-Ross & Schieber 2000); a second synergy bends the knuckles against the
  joints beyond (Santello et al. 1998), and the last two joints of a finger bend as one. The two first principal
  components of postures drawn here hold six tenths of their variance, as those of everyday movement do (Ingram et al.
  2008).
- The thumb goes partly with the fingers; fingers spread as they straighten; bending the wrist straightens the fingers
  (tenodesis: Su et al. 2005).
- Every joint uses its whole range evenly, so that rare postures are there too, and none leaves it.
- The farther a hand has to go the faster it moves, up to some 5 rad/s at a joint.

It stays clear of the held-out gestures: no posture, on the way neither, is nearer to one than `CLEARANCE_RAD`.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import special

from cpep_edge.session import JOINT_NAMES, N_JOINTS
from cpep_train.hand_model import N_POSE, WRIST_NAMES, Hand
from cpep_train.stages import STAGES, TREMOR_RAD, VALIDATION_STAGES, Motion, Style, travel

CLEARANCE_RAD = 0.3  # root mean square over the finger joints, from the nearest held-out gesture
_MARGIN_RAD = 4 * TREMOR_RAD  # kept beside it, as a hand trembles
WAY_S = (0.25, 0.65)  # of a small step and of one through a joint's whole range, and so long again at the most
_STAY_S = 0.25  # mean
_HOLDING, _HOLD_S = 0.5, (0.8, 1.6)  # share of postures that are held, and how long
_EFFORT = 1.5  # as gestures are pressed, and how much it varies
_EFFORT_SPREAD = 0.5
_WRIST_SHARE = 0.8  # of the wrist's ranges that free movement uses

# How strongly joints follow what they share; the rest of their variance is their own.
_WHOLE_HAND, _KNUCKLES_AGAINST, _FINGER, _SPREADING = 0.65, 0.35, 0.6, 0.7
_NEIGHBOUR = 0.5  # of a finger's own bending that the next one shares


def move_free(style: Style, hand: Hand, n_poses: int, rate_hz: float, rng: np.random.Generator) -> Motion:
    """Move one wearer's hand through postures of all kinds, `n_poses` poses, `rate_hz` a second."""
    points_rad, effort, times_s = [_posture(hand, rng)], [_EFFORT * style.effort], [(0.0, WAY_S[0])]
    while not _clear(points_rad[0], points_rad[0]):
        points_rad[0] = _posture(hand, rng)
    reach_rad = hand.upper_rad - hand.lower_rad
    time_s = WAY_S[0]
    while time_s < n_poses / rate_hz:
        point_rad = _posture(hand, rng)
        if not _clear(points_rad[-1], point_rad):
            continue
        longest = float(np.max(np.abs(point_rad - points_rad[-1]) / reach_rad))
        way_s = (WAY_S[0] + (WAY_S[1] - WAY_S[0]) * longest) * rng.uniform(1, 2)
        points_rad.append(point_rad)
        effort.append(_EFFORT * style.effort * float(rng.lognormal(0, _EFFORT_SPREAD)))
        times_s.append((time_s, way_s))
        time_s += way_s + (rng.uniform(*_HOLD_S) if rng.random() < _HOLDING else rng.exponential(_STAY_S))
    return travel(np.array(points_rad), np.array(effort), np.array(times_s), hand, n_poses, rate_hz, rng)


HELD_OUT_RAD = np.concatenate([stage.keys_rad for stage in (*STAGES, *VALIDATION_STAGES) if stage.held_out])  # (n, 23)


def _clear(start_rad: NDArray[np.float64], end_rad: NDArray[np.float64]) -> bool:
    """Whether the straight way between two postures, as minimum jerk takes it, stays clear of the held-out gestures."""
    way_rad = (end_rad - start_rad)[:N_JOINTS]
    to_key_rad = (HELD_OUT_RAD - start_rad)[:, :N_JOINTS]
    share = np.clip(to_key_rad @ way_rad / max(float(way_rad @ way_rad), 1e-12), 0, 1)
    nearest_rad = np.sqrt(np.mean((to_key_rad - share[:, None] * way_rad) ** 2, axis=1))
    return bool(nearest_rad.min() > CLEARANCE_RAD + _MARGIN_RAD)


def _posture(hand: Hand, rng: np.random.Generator) -> NDArray[np.float64]:
    """One posture, (23,): correlated normal variables, each spread evenly over its joint's range."""
    middle_rad, half_rad = (hand.upper_rad + hand.lower_rad) / 2, (hand.upper_rad - hand.lower_rad) / 2
    half_rad[N_JOINTS:] *= _WRIST_SHARE
    even = 2 * special.ndtr(_JOINT_FACTORS @ rng.standard_normal(_JOINT_FACTORS.shape[1])) - 1
    posture_rad: NDArray[np.float64] = middle_rad + half_rad * even
    return posture_rad


def _joint_factors() -> NDArray[np.float64]:
    """Matrix that makes independent normal variables into those of the joints, each of variance 1, (23, n_factors)."""
    names = JOINT_NAMES + WRIST_NAMES
    whole, against, spreading, *fingers = range(8)  # bending, knuckles against the rest, spreading, one a finger
    factors = np.zeros((N_POSE, 8 + N_POSE))
    for finger in range(5):
        for joint in range(4):
            row = factors[4 * finger + joint]
            name = names[4 * finger + joint]
            if name.endswith("abduction"):
                row[spreading] = _SPREADING * (0.5 if finger == 0 else 1.5 - 0.6 * (finger - 1))  # the index one way
                row[whole] = -0.3 * row[spreading]
                row[8 + 4 * finger + joint] = 0.5
                continue
            row[whole] = _WHOLE_HAND * (0.5 if finger == 0 else 1.0)
            row[against] = _KNUCKLES_AGAINST * (1 if joint == 1 else -1)
            row[fingers[finger]] = _FINGER
            for other in (finger - 1, finger + 1):
                if finger and 1 <= other < 5:
                    row[fingers[other]] = _FINGER * _NEIGHBOUR
            row[8 + 4 * finger + min(joint, 2)] = 0.35  # the two last joints as one
    factors[names.index("wrist_flexion"), whole] = -0.4
    for row_index in range(N_JOINTS, N_POSE):
        factors[row_index, 8 + row_index] = 0.9
    normed: NDArray[np.float64] = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    return normed


_JOINT_FACTORS = _joint_factors()
