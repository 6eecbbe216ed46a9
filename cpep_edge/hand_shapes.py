"""Hand shapes chosen by a gesture's name, for display when a bundle contains no recorded pose of the gesture.

A shape is 23 angles in radians: the 20 joints of `cpep_edge.session.JOINT_NAMES`, then wrist flexion, ulnar deviation
and pronation. Zero is the straight hand with the thumb beside the palm. None of the angles is measured.
"""

import re

import numpy as np
from numpy.typing import NDArray

from cpep_edge.names import shown_name

N_JOINTS = 20  # in the order of `cpep_edge.session.JOINT_NAMES`
N_WRIST = 3

_THUMB = {  # CMC flexion, CMC abduction, MCP flexion, IP flexion
    "rest": (0.15, 0.30, 0.20, 0.20),
    "out": (-0.20, 0.70, 0.00, -0.10),
    "up": (-0.40, 0.35, -0.20, -0.20),
    "over": (0.60, 0.45, 0.75, 0.75),
    "across": (0.75, 0.05, 0.65, 0.85),
    "opposed": (0.50, 0.75, 0.40, 0.35),
}
_FINGER = {  # MCP flexion, PIP flexion, DIP flexion
    "rest": (0.35, 0.45, 0.20),
    "straight": (-0.05, 0.05, 0.00),
    "bent": (1.40, 1.65, 0.90),
    "pinch": (0.75, 0.90, 0.35),
    "claw": (0.10, 1.25, 0.85),
    "flat": (1.25, 0.15, 0.10),
}
_SPREAD_RAD = (0.20, 0.02, -0.15, -0.28)  # MCP abduction of an open hand, index to little finger
_REST = ("rest",) * 4
_BENT = ("bent",) * 4
_STRAIGHT = ("straight",) * 4


def _hand(
    thumb: str, fingers: tuple[str, ...] = _REST, wrist: tuple[float, float, float] = (0, 0, 0), *, spread: bool = False
) -> NDArray[np.float32]:
    angles = list(_THUMB[thumb])
    for finger, sideways in zip(fingers, _SPREAD_RAD, strict=True):
        angles += [sideways if spread else 0.0, *_FINGER[finger]]
    return np.array([*angles, *wrist], np.float32)


REST_SHAPE = _hand("rest")

# The first pattern that is found in a gesture's name, in lower case, decides.
_SHAPES: tuple[tuple[str, NDArray[np.float32]], ...] = (
    (r"\b(rest|relax\w*|idle|neutral|no (motion|movement))\b", REST_SHAPE),
    (r"\b(radial\w*)\b", _hand("rest", wrist=(0.0, -0.35, 0.0))),
    (r"\b(ulnar\w*)\b", _hand("rest", wrist=(0.0, 0.50, 0.0))),
    (r"\b(supinat\w*|palm up)\b", _hand("rest", wrist=(0.0, 0.0, -1.0))),
    (r"\b(pronat\w*|palm down)\b", _hand("rest", wrist=(0.0, 0.0, 1.0))),
    (r"\b(wrist (extension|extend\w*|up|out)|extension of the wrist|wave out)\b", _hand("rest", wrist=(-0.9, 0, 0))),
    (r"\b(wrist (flexion|flex\w*|down|in)|bent wrist|wave in)\b", _hand("rest", wrist=(1.0, 0.0, 0.0))),
    (r"\b(two|three)[- ]finger\w* pinch\b|\b(chuck|tripod)\b", _hand("opposed", ("pinch", "pinch", "rest", "rest"))),
    (r"\bok(ay)?\b", _hand("opposed", ("pinch", *_STRAIGHT[1:]), spread=True)),
    (r"\bbeak\b", _hand("opposed", ("flat",) * 4)),
    (r"\bflat\b", _hand("rest", ("flat",) * 4)),
    (r"\bthumbs? (up|out|extension)\b", _hand("up", _BENT)),
    (r"\bthumbs? (across|in|flexion|swipe\w*)\b", _hand("across", _STRAIGHT)),
    (r"\b(pinch\w*|tap|key)\b", _hand("opposed", ("pinch", "bent", "bent", "bent"))),
    (r"\b(i love you|ily)\b", _hand("up", ("straight", "bent", "bent", "straight"), spread=True)),
    (r"\b(call\w*|phone|shaka|hang loose)\b", _hand("up", ("bent", "bent", "bent", "straight"), spread=True)),
    (r"\b(rock|horns)\b", _hand("over", ("straight", "bent", "bent", "straight"), spread=True)),
    (r"\b(peace|victory|scissors|two)\b", _hand("over", ("straight", "straight", "bent", "bent"), spread=True)),
    (r"\bthree\b", _hand("over", ("straight", "straight", "straight", "bent"), spread=True)),
    (r"\bfour\b", _hand("across", _STRAIGHT, spread=True)),
    (r"\b(point\w*|index|one)\b", _hand("over", ("straight", "bent", "bent", "bent"))),
    (r"\bclaw\b", _hand("out", ("claw",) * 4)),
    (r"\b(fist|grip|grasp|close\w*|clench\w*|squeeze|hook|power)\b", _hand("over", _BENT)),
    (r"\b(open\w*|spread\w*|splay\w*|abduct\w*|five|stop|paper)\b", _hand("out", _STRAIGHT, spread=True)),
)


def shape_of(label: str) -> NDArray[np.float32] | None:
    """The hand shape for a gesture's name, (23,) radians; None when no pattern is found in the name."""
    name = shown_name(label).lower()
    return next((shape for pattern, shape in _SHAPES if re.search(pattern, name)), None)
