"""Template poses for recordings whose pose was not tracked: the assumed pose of each gesture, not a measured one.

They cover the eleven gestures of the 3DC armband set, each as the joint angles of a hand that makes it. Six of them
differ only in the wrist, which is not among the 20 joints of emg2pose, so a template has three more angles: wrist
flexion, ulnar deviation and pronation. No template is measured, and every figure that uses them says so.

Training on other gestures takes made-up angles for those without a template (`gesture_poses`).

Angles are in radians, zero is the straight hand with the thumb beside the palm, flexion is positive.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from cpep_edge.errors import DataError
from cpep_edge.session import N_JOINTS

_THUMB = {  # CMC flexion, CMC abduction, MCP flexion, IP flexion
    "rest": (0.15, 0.30, 0.20, 0.20),
    "out": (-0.20, 0.70, 0.00, -0.10),
    "fist": (0.55, 0.45, 0.75, 0.75),
    "opposed": (0.50, 0.70, 0.40, 0.35),
}
_FINGER = {  # MCP flexion, PIP flexion, DIP flexion
    "rest": (0.35, 0.45, 0.20),
    "straight": (-0.10, 0.05, 0.00),
    "fist": (1.40, 1.65, 0.90),
    "pinch": (0.75, 0.90, 0.35),
    "curled": (1.10, 1.30, 0.60),
}
_SPREAD_RAD = (0.20, 0.02, -0.15, -0.28)  # MCP abduction of an open hand, index to pinky


def _hand(thumb: str, fingers: tuple[str, str, str, str], wrist: tuple[float, float, float] = (0, 0, 0)) -> list[float]:
    spread = fingers == ("straight",) * 4
    angles = list(_THUMB[thumb])
    for number, finger in enumerate(fingers):
        angles += [_SPREAD_RAD[number] if spread else 0.0, *_FINGER[finger]]
    return [*angles, *wrist]


_REST = ("rest",) * 4
TEMPLATES: dict[str, list[float]] = {
    "NoMotion": _hand("rest", _REST),
    "RadialDeviation": _hand("rest", _REST, (0.0, -0.35, 0.0)),
    "WristFlexion": _hand("rest", _REST, (1.0, 0.0, 0.0)),
    "UlnarDeviation": _hand("rest", _REST, (0.0, 0.50, 0.0)),
    "WristExtension": _hand("rest", _REST, (-0.9, 0.0, 0.0)),
    "Supination": _hand("rest", _REST, (0.0, 0.0, -1.1)),
    "Pronation": _hand("rest", _REST, (0.0, 0.0, 1.1)),
    "PowerGrip": _hand("fist", ("fist",) * 4, (-0.2, 0.0, 0.0)),
    "OpenHand": _hand("out", ("straight",) * 4, (-0.1, 0.0, 0.0)),
    "ChuckGrip": _hand("opposed", ("pinch", "pinch", "curled", "curled")),
    "PinchGrip": _hand("opposed", ("pinch", "straight", "rest", "rest")),
}

# Other common names of the same gestures, without case, blanks and punctuation.
_SAME_AS = {
    **{name.lower(): name for name in TEMPLATES},
    **dict.fromkeys(("rest", "relax", "relaxed", "neutral", "none"), "NoMotion"),
    **dict.fromkeys(("fist", "grip", "close", "closehand", "handclose"), "PowerGrip"),
    **dict.fromkeys(("open", "handopen", "flat", "spread", "fingersspread"), "OpenHand"),
    **dict.fromkeys(("pinch", "ok"), "PinchGrip"),
    **dict.fromkeys(("flexion", "wavein"), "WristFlexion"),
    **dict.fromkeys(("extension", "waveout"), "WristExtension"),
}
_MADE_UP_SD_RAD = 0.6  # of each made-up angle for a gesture without a template; large, to be far from all others
_PERSON_SD_RAD = 0.10  # difference between two repetitions of a gesture
_DRIFT_SD_RAD = 0.05  # drift of a held pose
_DRIFT_HZ = 0.5
_KNOT_RATE_HZ = 10.0


def template_poses(gesture: str, n_samples: int, sample_rate_hz: float, name: str) -> NDArray[np.float32]:
    """Draw one repetition of a gesture around its template: an offset held throughout, and a slow drift.

    name: seeds the random draw, so that a recording always gets the same poses
    returns: (n_samples, 23) radians
    Raises DataError for a gesture without a template.
    """
    if gesture not in TEMPLATES:
        raise DataError(
            f"there is no pose template for stage {gesture}; there are {', '.join(TEMPLATES)}, and "
            "pose.source=gestures takes any name"
        )
    return _around(np.array(TEMPLATES[gesture]), n_samples, sample_rate_hz, f"{gesture} {name}")


def gesture_poses(gesture: str, n_samples: int, sample_rate_hz: float, name: str) -> NDArray[np.float32]:
    """Like `template_poses` for any gesture: one without a template gets angles made up from its name.

    Made-up angles work as a training target, but they do not show what the hand looks like.
    """
    plain = "".join(filter(str.isalnum, gesture.lower()))
    if plain in _SAME_AS:
        pose = np.array(TEMPLATES[_SAME_AS[plain]])
    else:
        pose = np.random.default_rng(_seed(gesture)).normal(0, _MADE_UP_SD_RAD, N_JOINTS + 3)
    return _around(pose, n_samples, sample_rate_hz, f"{gesture} {name}")


def _around(pose: NDArray[np.float64], n_samples: int, sample_rate_hz: float, drawn_for: str) -> NDArray[np.float32]:
    rng = np.random.default_rng(_seed(drawn_for))
    held = pose + rng.normal(0, _PERSON_SD_RAD, len(pose))
    poses: NDArray[np.float32] = (held + _drift(n_samples, sample_rate_hz, len(pose), rng)).astype(np.float32)
    return poses


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _drift(n_samples: int, sample_rate_hz: float, n_angles: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Low-passed noise with the drift's standard deviation, (n_samples, n_angles), interpolated from coarse draws."""
    n_knots = int(np.ceil(n_samples / sample_rate_hz * _KNOT_RATE_HZ)) + 2
    warm_up = round(2 / _DRIFT_HZ * _KNOT_RATE_HZ)  # discard the filter's transient
    sos = signal.butter(2, _DRIFT_HZ, fs=_KNOT_RATE_HZ, output="sos")
    knots = signal.sosfilt(sos, rng.standard_normal((warm_up + n_knots, n_angles)), axis=0)[warm_up:]
    knots *= _DRIFT_SD_RAD / np.sqrt(2 * _DRIFT_HZ / _KNOT_RATE_HZ)  # white noise loses power outside the band
    at = np.arange(n_samples) / sample_rate_hz * _KNOT_RATE_HZ
    return np.column_stack([np.interp(at, np.arange(n_knots), knot) for knot in knots.T])


if {len(angles) for angles in TEMPLATES.values()} != {N_JOINTS + 3}:  # catches a mistake in the table above
    raise AssertionError("a pose template has not 20 joints and 3 wrist angles")
