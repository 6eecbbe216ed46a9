"""What a simulated wearer is asked to do: sixteen gesture stages, and how a hand moves through one.

A stage is one recording with one label. Most stages hold a single gesture again and again, as the 3DC recordings do;
between two holds the hand eases back part of the way to rest for a moment. One walks through several gestures. The
names are those of emg2pose where such a stage exists there (Salter et al. 2024); a name of ours says the gesture in
plain words. The poses are ours: emg2pose's stages are freer, longer mixtures.

Four stages are held out of training. Each combines finger states that training shows in other combinations (a straight
little finger, a pinch, bent knuckles, a thumb held out), as the held-out stages of emg2pose do. They were
picked from a dozen candidates, on simulated people of other seeds, as four that a regression from EMG to pose tells
apart; figures of zero-shot reading on them say whether the pipeline works, not how it does on people.

Assumptions: point-to-point movements follow a minimum-jerk path (Flash & Hogan 1985) of 0.25 to 0.5 s. People differ in
how they form a gesture, and vary from hold to hold; how much was chosen so that a gesture of simulated people is as
hard to classify as one of real people, within a wearing and with a new person (`benchmarks/measure_realism.py`).
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_edge.events import Label
from cpep_train.hand_model import N_POSE, Hand

TRANSITION_S = (0.25, 0.5)  # from one hold to the next
HOLD_S = (1.5, 4.0)
CHAIN_HOLD_S = (0.8, 1.8)  # where a stage walks through several poses
PROMPT_HOLD_S = (1.0, 2.0)  # where a wearer makes gesture after gesture as asked
PROMPT_REST_S = (1.5, 3.0)  # and rests between two
EASE_S = (0.1, 0.25)  # how long the hand stays eased off between two holds
EASE_DEPTH = (0.3, 0.7)  # how far back toward rest it goes
USER_SPREAD_RAD = 0.03  # sd of a wearer's own way to form a gesture, each joint
_HOLD_SPREAD_RAD = 0.022  # sd between two holds of the same wearer, each joint
_HOLD_EFFORT_SPREAD = 0.25  # of the logarithm of how firmly one hold is held
TREMOR_RAD = 0.01  # sd of slow wandering within a hold, each joint

_Finger = tuple[float, float, float, float]  # MCP abduction (toward the thumb), MCP, PIP and DIP flexion, rad


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One gesture label: the poses it goes through and whether training may see it."""

    name: str
    keys_rad: NDArray[np.float64]  # (n_keys, 23)
    effort: float = 1.0  # how firmly it is held, relative to the other stages
    held_out: bool = False

    @property
    def is_chain(self) -> bool:
        """Whether the stage walks through several poses."""
        return len(self.keys_rad) > 1


@dataclass(frozen=True, slots=True)
class Style:
    """How one wearer forms the gestures; drawn once a wearer."""

    habit: int  # seed of how each gesture is formed
    effort: float  # multiplies the torque of every gesture
    spread_rad: float = USER_SPREAD_RAD

    def offset_rad(self, stage: Stage) -> NDArray[np.float64]:
        """What this wearer adds to every key of a stage, (23,)."""
        rng = np.random.default_rng((self.habit, zlib.crc32(stage.name.encode())))
        return rng.normal(0, self.spread_rad, N_POSE)


@dataclass(frozen=True, slots=True)
class Motion:
    """One recording's movement."""

    poses_rad: NDArray[np.float64]  # (n, 23), inside the joints' ranges
    effort: NDArray[np.float64]  # (n,), how firmly the hand is held


def draw_style(rng: np.random.Generator) -> Style:
    """Draw a wearer's way to form the gestures."""
    return Style(habit=int(rng.integers(1 << 62)), effort=float(rng.lognormal(0, 0.15)))


def move(stage: Stage, style: Style, hand: Hand, n_poses: int, rate_hz: float, rng: np.random.Generator) -> Motion:
    """Move one wearer's hand through a stage.

    returns: `n_poses` poses, `rate_hz` a second; most of the time is spent in the gesture
    """
    return travel(*_waypoints(stage, style, n_poses / rate_hz, rng), hand, n_poses, rate_hz, rng)


def hold(stage: Stage, style: Style, hand: Hand, n_poses: int, rate_hz: float, rng: np.random.Generator) -> Motion:
    """Hold a stage's first pose once, without the way there."""
    held_rad, firmness = _hold(stage, stage.keys_rad[0], style, rng)
    return Motion(hand.clip(held_rad + _tremor(n_poses, rate_hz, rng)), np.full(n_poses, firmness))


def move_prompted(
    stages: Sequence[Stage], style: Style, hand: Hand, rate_hz: float, rng: np.random.Generator
) -> tuple[Motion, tuple[Label, ...]]:
    """Move one wearer's hand through gestures as they are asked for, with rest before, between and after.

    stages: of one pose each, in order
    returns: the movement, `rate_hz` poses a second, and when each gesture was made: from when the hand starts to move
        until it starts to let go
    """
    rest = STAGES[0]
    points_rad, effort, times_s, labels = [], [], [], []
    time_s = 0.0
    for stage in (rest, *(one for asked in stages for one in (asked, rest))):
        way_s = rng.uniform(*TRANSITION_S)
        end_s = time_s + way_s + rng.uniform(*(PROMPT_REST_S if stage is rest else PROMPT_HOLD_S))
        held_rad, firmness = _hold(stage, stage.keys_rad[0], style, rng)
        points_rad.append(held_rad)
        effort.append(firmness)
        times_s.append((time_s, way_s))
        if stage is not rest:
            labels.append(Label(stage.name, time_s, end_s))
        time_s = end_s
    n_poses = int(time_s * rate_hz)
    way = np.array(points_rad), np.array(effort), np.array(times_s)
    return travel(*way, hand, n_poses, rate_hz, rng), tuple(labels)


def travel(
    points_rad: NDArray[np.float64],
    point_effort: NDArray[np.float64],
    times_s: NDArray[np.float64],
    hand: Hand,
    n_poses: int,
    rate_hz: float,
    rng: np.random.Generator,
) -> Motion:
    """The movement from point to point, as `_waypoints` gives them."""
    time_s = np.arange(n_poses) / rate_hz
    arrival = np.searchsorted(times_s[1:, 0], time_s, side="right")  # the waypoint whose way or stay holds this moment
    start_s, way_s = times_s[arrival, 0], times_s[arrival, 1]
    progress = minimum_jerk((time_s - start_s) / way_s)[:, None]
    before = np.maximum(arrival - 1, 0)
    poses_rad = points_rad[before] + progress * (points_rad[arrival] - points_rad[before])
    effort = point_effort[before] + progress[:, 0] * (point_effort[arrival] - point_effort[before])
    return Motion(hand.clip(poses_rad + _tremor(n_poses, rate_hz, rng)), effort)


def minimum_jerk(progress: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the way done at a share of the time, both 0 to 1; outside it rests at the ends."""
    s = np.clip(progress, 0, 1)
    return s**3 * (10 - 15 * s + 6 * s**2)


def _waypoints(
    stage: Stage, style: Style, duration_s: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Poses to reach, how firmly to hold them, and (start, seconds of movement) of each, until `duration_s` is full."""
    points_rad: list[NDArray[np.float64]] = []
    effort: list[float] = []
    times_s: list[tuple[float, float]] = []
    stay_range_s = CHAIN_HOLD_S if stage.is_chain else HOLD_S
    time_s, key_index = 0.0, int(rng.integers(len(stage.keys_rad)))
    while time_s < duration_s:
        key_rad = stage.keys_rad[key_index % len(stage.keys_rad)]
        held_rad, firmness = _hold(stage, key_rad, style, rng)
        stays = [(held_rad, firmness, rng.uniform(*stay_range_s))]
        if not stage.is_chain:
            eased_rad = held_rad + rng.uniform(*EASE_DEPTH) * (REST_RAD - held_rad)
            stays.append((eased_rad, 0.5 * firmness, rng.uniform(*EASE_S)))
        for point_rad, point_effort, stay_s in stays:
            way_s = rng.uniform(*TRANSITION_S)
            points_rad.append(point_rad)
            effort.append(point_effort)
            times_s.append((time_s, way_s))
            time_s += way_s + stay_s
        key_index += 1
    return np.array(points_rad), np.array(effort), np.array(times_s)


def _hold(
    stage: Stage, key_rad: NDArray[np.float64], style: Style, rng: np.random.Generator
) -> tuple[NDArray[np.float64], float]:
    """One hold of a wearer: the pose, (23,), and how firmly it is held."""
    depth = rng.uniform(0.85, 1.1)
    held_rad = (
        REST_RAD + depth * (key_rad + style.offset_rad(stage) - REST_RAD) + rng.normal(0, _HOLD_SPREAD_RAD, N_POSE)
    )
    return held_rad, stage.effort * style.effort * float(rng.lognormal(0, _HOLD_EFFORT_SPREAD))


def _tremor(n_poses: int, rate_hz: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Slow wandering of every joint: noise at two points a second, joined by straight lines, (n_poses, 23)."""
    n_points = int(n_poses / rate_hz * 2) + 2
    points_rad = rng.normal(0, TREMOR_RAD, (n_points, N_POSE))
    at = np.arange(n_poses) / rate_hz * 2
    left = at.astype(int)
    share = (at - left)[:, None]
    wander_rad: NDArray[np.float64] = (1 - share) * points_rad[left] + share * points_rad[left + 1]
    return wander_rad


def _pose(
    thumb: _Finger,  # CMC flexion, CMC abduction, MCP flexion, IP flexion
    index: _Finger,
    middle: _Finger,
    ring: _Finger,
    pinky: _Finger,
    wrist: tuple[float, float, float] = (0.0, 0.0, -0.2),  # pronation, radial deviation, flexion
) -> NDArray[np.float64]:
    return np.array([*thumb, *index, *middle, *ring, *pinky, *wrist])


# Finger states that the stages are put together from. The relaxed hand: Carpinella et al. 2006, fingers half curled,
# the wrist slightly extended.
_RELAXED_THUMB = (0.10, 0.15, 0.15, 0.15)
_RELAXED = (0.0, 0.45, 0.55, 0.25)
_BENT = (0.0, 1.35, 1.45, 0.90)  # into the palm
_HALF_BENT = (0.0, 0.75, 0.90, 0.45)
_PINCHING = (0.0, 0.85, 0.75, 0.40)
_FLAT_AT_KNUCKLES = (0.0, 1.30, 0.15, 0.10)  # bent at the knuckles, straight beyond
_CLAWED = (0.0, 0.10, 1.25, 0.85)
_THUMB_OUT = (-0.45, 0.50, -0.25, -0.25)
_THUMB_OVER_FINGERS = (0.45, 0.35, 0.50, 0.70)
_THUMB_ACROSS = (0.70, -0.10, 0.65, 0.90)
_THUMB_PINCHING = (0.35, 0.60, 0.25, 0.35)


def _straight(abduction_rad: float = 0.0) -> _Finger:
    return (abduction_rad, 0.05, 0.05, 0.05)


REST_RAD = _pose(_RELAXED_THUMB, _RELAXED, _RELAXED, _RELAXED, _RELAXED)


def _one_unlike(thumb: _Finger, one: _Finger, others: _Finger) -> list[NDArray[np.float64]]:
    """Four poses: each finger in turn unlike the others, from index to little finger."""
    shapes = ([one if finger == odd else others for finger in range(4)] for odd in range(4))
    return [_pose(thumb, index, middle, ring, pinky) for index, middle, ring, pinky in shapes]


_POINTING = _one_unlike(_THUMB_OVER_FINGERS, _straight(), _BENT)
_WIGGLING = _one_unlike(_THUMB_OUT, _BENT, _straight())

# Moving fingers takes little torque against the relaxed hand's springs; people press them all the same, pinches most.
STAGES: tuple[Stage, ...] = (
    Stage("Rest", REST_RAD[None], effort=0.1),
    Stage("GraspPunchCloseFar", _pose(_THUMB_OVER_FINGERS, _BENT, _BENT, _BENT, _BENT)[None], effort=1.5),
    Stage(
        "FingerAbductionSeries",
        _pose(_THUMB_OUT, _straight(0.24), _straight(0.05), _straight(-0.15), _straight(-0.24))[None],
        effort=2.25,
    ),
    Stage("PokePinchCloseFar", _POINTING[0][None], effort=3),
    Stage("ThumbsUpDownThumbRotationsCWCCWP", _pose(_THUMB_OUT, _BENT, _BENT, _BENT, _BENT)[None], effort=2.25),
    Stage("HandClawGraspFlicks", _pose(_THUMB_OUT, _CLAWED, _CLAWED, _CLAWED, _CLAWED)[None], effort=2.25),
    Stage(
        "FingerPinchesSingleFingerPinchesMultiple",
        _pose(_THUMB_PINCHING, _PINCHING, _PINCHING, _HALF_BENT, _HALF_BENT)[None],
        effort=3.75,
    ),
    Stage(
        "IndexPinchesMiddlePinchesThumbswipes",
        _pose(_THUMB_PINCHING, _PINCHING, _BENT, _BENT, _BENT)[None],
        effort=3.75,
    ),
    Stage(
        "FingerTouchPalmClapmrburns",
        _pose(_RELAXED_THUMB, *(_FLAT_AT_KNUCKLES,) * 4)[None],
        effort=3.75,
    ),
    Stage("ThumbsSwipesWholeHand", _pose(_THUMB_ACROSS, *(_straight(),) * 4)[None], effort=2.25),
    # The wrist is no part of a session's pose, but bending it straightens the fingers: tenodesis (Su et al. 2005).
    Stage(
        "WristFlexionAbduction",
        _pose(_RELAXED_THUMB, *((0.0, 0.15, 0.25, 0.10),) * 4, wrist=(0, 0, 0.70))[None],
        effort=1.5,
    ),
    Stage("CountingUpDownFingerWigglingSpreading", np.array([*_POINTING[1:], *_WIGGLING]), effort=2.25),
    Stage("OK", _pose(_THUMB_PINCHING, _PINCHING, *(_straight(),) * 3)[None], effort=3.75, held_out=True),
    Stage(
        "Peace",
        _pose(_THUMB_OVER_FINGERS, _straight(0.15), _straight(-0.1), _BENT, _BENT)[None],
        effort=3,
        held_out=True,
    ),
    Stage("ILoveYou", _pose(_THUMB_OUT, _straight(), _BENT, _BENT, _straight())[None], effort=3, held_out=True),
    Stage("Beak", _pose(_THUMB_PINCHING, *(_FLAT_AT_KNUCKLES,) * 4)[None], effort=3.75, held_out=True),
)

# Set apart: neither trained on nor tested, for choices that a gesture never trained on has to make
# (`cpep_train.seen_penalty`).
VALIDATION_STAGES: tuple[Stage, ...] = (
    Stage("Gun", _pose(_THUMB_OUT, _straight(), _BENT, _BENT, _BENT)[None], effort=3, held_out=True),
    Stage(
        "Three",
        _pose(_THUMB_OUT, _straight(0.15), _straight(), _BENT, _BENT)[None],
        effort=3,
        held_out=True,
    ),
    Stage("Four", _pose(_THUMB_ACROSS, *(_straight(),) * 3, _BENT)[None], effort=3, held_out=True),
    Stage(
        "MiddlePinch",
        _pose(_THUMB_PINCHING, _straight(), _PINCHING, _straight(), _straight())[None],
        effort=3.75,
        held_out=True,
    ),
)

# The finger movements of Ninapro (exercise A), one finger at a time from the relaxed hand.
_EXTENDED = (0.0, -0.2, 0.0, 0.0)
FINGER_MOVEMENTS: tuple[Stage, ...] = (
    Stage("Rest", REST_RAD[None], effort=0.1),
    *(
        Stage(f"{name}{way}", shapes[number][None], effort=1.8)
        for way, shapes in (
            ("Flexion", _one_unlike(_RELAXED_THUMB, _BENT, _RELAXED)),
            ("Extension", _one_unlike(_RELAXED_THUMB, _EXTENDED, _RELAXED)),
        )
        for number, name in enumerate(("Index", "Middle", "Ring", "LittleFinger"))
    ),
    *(
        Stage(name, _pose(thumb, *(_RELAXED,) * 4)[None], effort=1.8)
        for name, thumb in (
            ("ThumbAdduction", (0.10, -0.25, 0.15, 0.15)),
            ("ThumbAbduction", (0.10, 0.70, 0.15, 0.15)),
            ("ThumbFlexion", (0.50, 0.15, 0.70, 0.80)),
            ("ThumbExtension", (-0.45, 0.20, -0.25, -0.25)),
        )
    ),
)

# Gestures of the real sets that simulated people are compared with, by the names of `cpep_train.import_3dc`; a fist is
# the power grip. The wrist is pressed towards the end of its range.
_OPEN = (_THUMB_OUT, _straight(0.15), _straight(0.03), _straight(-0.09), _straight(-0.15))
_HAND_AT_REST = (_RELAXED_THUMB, _RELAXED, _RELAXED, _RELAXED, _RELAXED)
WRIST_AND_GRIPS: tuple[Stage, ...] = (
    Stage("NoMotion", REST_RAD[None], effort=0.1),
    Stage("RadialDeviation", _pose(*_HAND_AT_REST, wrist=(0, 0.40, -0.2))[None]),
    Stage("WristFlexion", _pose(*_HAND_AT_REST, wrist=(0, 0, 0.75))[None]),
    Stage("UlnarDeviation", _pose(*_HAND_AT_REST, wrist=(0, -0.17, -0.2))[None], effort=2.0),
    Stage("WristExtension", _pose(*_HAND_AT_REST, wrist=(0, 0, -0.75))[None]),
    Stage("Supination", _pose(*_HAND_AT_REST, wrist=(-0.9, 0, -0.2))[None], effort=2.0),
    Stage("Pronation", _pose(*_HAND_AT_REST, wrist=(0.9, 0, -0.2))[None]),
    Stage("PowerGrip", STAGES[1].keys_rad),
    Stage("OpenHand", _pose(*_OPEN)[None]),
    Stage("ChuckGrip", _pose(_THUMB_PINCHING, _PINCHING, _PINCHING, _HALF_BENT, _HALF_BENT)[None], effort=2.0),
    Stage("PinchGrip", _pose(_THUMB_PINCHING, _PINCHING, *(_RELAXED,) * 3)[None], effort=2.0),
)
