"""A hand in braille dots, for terminals: the hand that the web page draws, from the same angles.

The bones and their rotations are those of `web/page/hand.js`, for a right hand, in centimetres: x points to the thumb,
y along the middle finger, z out of the palm towards the viewer. Nearer parts are painted over farther ones, with a gap
around them, so that fingers can be told apart in front of the palm.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cpep_edge.hand_shapes import N_WRIST

COLUMNS, LINES = 32, 16  # of a picture, in characters of two by four dots

_FINGERS = (  # base of the finger, its splay at rest, lengths of its bones, radii at their ends
    ((2.5, 8.7, 0.0), 0.10, (4.3, 2.7, 2.1), (0.95, 0.84, 0.74, 0.60)),
    ((0.5, 9.1, 0.1), 0.01, (4.8, 3.1, 2.2), (0.97, 0.86, 0.75, 0.62)),
    ((-1.5, 8.6, 0.0), -0.07, (4.4, 2.9, 2.2), (0.92, 0.82, 0.72, 0.58)),
    ((-3.3, 7.6, -0.2), -0.16, (3.5, 2.1, 1.9), (0.82, 0.72, 0.64, 0.52)),
)
_THUMB_BASE, _THUMB_BONES, _THUMB_RADII = (2.4, 2.4, 0.6), (4.3, 3.3, 2.7), (1.25, 1.05, 0.92, 0.70)
_PALM = (  # bones of the palm, each from the wrist to a finger
    *(((x, 1.2, 0.0), base, 1.35, 1.1) for x, (base, *_) in zip((1.3, 0.4, -0.5, -1.3), _FINGERS, strict=True)),
    ((1.2, 1.4, 0.2), (2.6, 5.6, 0.3), 1.4, 1.2),
)
_FOREARM = ((0.0, 0.6, 0.0), (0.0, -9.0, -0.4), 2.25, 2.55)
_CENTRE = np.array([0.1, 6.9, 0.6])
_EYE_CM = 46.0
_YAW, _PITCH = -0.42, 0.1
_SEEN_CM = 25.0  # height of the picture
_GAP_DOTS = 1.1
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character, by line and column

Vector = NDArray[np.float64]
_Bone = tuple[Vector, Vector, float, float]  # start, end, and the radii there


def hand_in_braille(angles_rad: NDArray[np.float32], columns: int = COLUMNS, lines: int = LINES) -> list[str]:
    """Draw a hand.

    angles_rad: (20,) or (23,), in the order of `cpep_edge.hand_shapes`
    returns: `lines` texts of `columns` characters
    """
    angles = np.zeros(20 + N_WRIST)
    angles[: len(angles_rad)] = angles_rad
    owner = np.zeros((4 * lines, 2 * columns), int)  # part at each dot: 0 none, 1 palm and forearm, from 2 the fingers
    scale = len(owner) / _SEEN_CM
    y, x = np.indices(owner.shape) + 0.5
    for number, bones in sorted(_groups(angles), key=lambda group: _depth(group[1])):
        inside, about = np.zeros(owner.shape, bool), np.zeros(owner.shape, bool)
        for start, end, *radii in bones:
            near = [_EYE_CM / (_EYE_CM - point[2]) for point in (start, end)]
            (ax, bx), (ay, by) = (
                [middle + sign * scale * point[axis] * size for point, size in zip((start, end), near, strict=True)]
                for axis, sign, middle in ((0, 1, columns), (1, -1, 0.55 * len(owner)))
            )
            a_radius, b_radius = (scale * radius * size for radius, size in zip(radii, near, strict=True))
            length2 = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-9)
            along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length2, 0, 1)
            distance = np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay))
            radius = a_radius + along * (b_radius - a_radius)
            inside |= distance <= radius
            about |= distance <= radius + _GAP_DOTS
        owner[about & (owner != number)] = 0
        owner[inside] = number
    weight = np.tile(_DOTS, (lines, columns))
    codes = ((owner > 0) * weight).reshape(lines, 4, columns, 2).sum(axis=(1, 3))
    return ["".join(chr(0x2800 + code) for code in line) for line in codes.tolist()]


def _groups(angles: Vector) -> Iterator[tuple[int, list[_Bone]]]:
    """Groups of bones that are painted together, in the viewer's coordinates, each with the number of its part.

    The first is forearm and palm; each bone of a finger is a group.
    """
    flexion, deviation, pronation = angles[20:]

    def seen(point: Vector) -> Vector:
        return _turned(_bent(point, flexion, deviation), pronation)

    wrist, elbow = (_turned(np.array(point), pronation) for point in _FOREARM[:2])
    yield (
        1,
        [(wrist, elbow, *_FOREARM[2:]), *((seen(np.array(a)), seen(np.array(b)), ra, rb) for a, b, ra, rb in _PALM)],
    )
    for number, (points, radii) in enumerate(_finger_points(angles), start=2):
        at = [seen(point) for point in points]
        for bone in range(3):
            yield number, [(at[bone], at[bone + 1], radii[bone], radii[bone + 1])]


def _depth(bones: list[_Bone]) -> float:
    return float(np.mean([start[2] + end[2] for start, end, *_ in bones[-5:]]))  # the palm's bones, not the forearm


def _finger_points(angles: Vector) -> Iterator[tuple[list[Vector], tuple[float, ...]]]:
    flexion, abduction, *flexions = angles[:4]
    along = _unit(np.array([0.66, 0.72, 0.22]))  # direction of the thumb with all angles zero
    across = np.array([-0.82, 0.18, 0.54])  # direction in which flexion moves it
    across = _unit(across - (across @ along) * along)
    outwards = np.cos(abduction - 0.2) * along - np.sin(abduction - 0.2) * np.cross(across, along)
    points, bend = [np.array(_THUMB_BASE)], 0.0
    for angle, length in zip((flexion, *flexions), _THUMB_BONES, strict=True):
        bend += angle
        points.append(points[-1] + length * (np.cos(bend) * outwards + np.sin(bend) * across))
    yield points, _THUMB_RADII
    for number, (base, splay, bones, radii) in enumerate(_FINGERS):
        sideways, *flexions = angles[4 + 4 * number : 8 + 4 * number]
        side, bend, points = splay + sideways, 0.06, [np.array(base)]
        for angle, length in zip(flexions, bones, strict=True):
            bend += angle
            way = np.array([np.sin(side) * np.cos(bend), np.cos(side) * np.cos(bend), np.sin(bend)])
            points.append(points[-1] + length * way)
        yield points, radii


def _bent(point: Vector, flexion: float, deviation: float) -> Vector:
    """A point of the hand after wrist flexion (towards the palm) and deviation (towards the little finger)."""
    x, y, z = point
    y, z = y * np.cos(flexion) - z * np.sin(flexion), y * np.sin(flexion) + z * np.cos(flexion)
    return np.array([x * np.cos(deviation) - y * np.sin(deviation), x * np.sin(deviation) + y * np.cos(deviation), z])


def _turned(point: Vector, pronation: float) -> Vector:
    """A point in the viewer's coordinates, relative to the picture's centre."""
    x, y, z = point - _CENTRE
    yaw = _YAW - pronation
    x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
    return np.array([x, y * np.cos(_PITCH) - z * np.sin(_PITCH), z * np.cos(_PITCH) + y * np.sin(_PITCH)])


def _unit(vector: Vector) -> Vector:
    unit: Vector = vector / np.linalg.norm(vector)
    return unit
