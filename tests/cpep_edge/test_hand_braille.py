"""The hand in braille dots: it is the page's hand, and its pose agrees with the gesture's name."""

import re
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import cpep_edge
from cpep_edge import hand_braille
from cpep_edge.hand_braille import COLUMNS, LINES, hand_in_braille
from cpep_edge.hand_shapes import REST_SHAPE, shape_of


def dots(name: str) -> NDArray[np.bool_]:
    """The dots of the picture, read back from its characters."""
    shape = shape_of(name)
    assert shape is not None
    codes = np.array([[ord(char) - 0x2800 for char in line] for line in hand_in_braille(shape)])
    assert codes.shape == (LINES, COLUMNS)
    found = np.zeros((4 * LINES, 2 * COLUMNS), bool)
    for number, (line, column) in enumerate([(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1)]):
        found[line::4, column::2] = codes >> number & 1  # in Unicode's order of dots
    return found


def most_apart(picture: NDArray[np.bool_], lines: slice) -> int:
    """The largest number of separate runs of dots on one of these lines."""
    return max(sum(bool(on) for on, _ in groupby(line.tolist())) for line in picture[lines])


@pytest.mark.parametrize(("name", "n_fingers"), [("Open", 4), ("Peace", 2), ("Point", 1), ("Fist", 0), ("ThumbsUp", 0)])
def test_as_many_fingers_stand_up_as_the_name_says(name, n_fingers):
    assert most_apart(dots(name), slice(0, 20)) == n_fingers


def test_a_thumb_sticks_out_to_the_right_of_a_right_hand_and_the_wrist_bends_to_the_little_finger():
    rest = shape_of("Rest")
    assert rest is not None
    assert np.flatnonzero(dots("ThumbsUp").any(axis=0)).max() > np.flatnonzero(dots("Fist").any(axis=0)).max() + 10
    assert np.flatnonzero(dots("UlnarDeviation").any(axis=0)).min() < np.flatnonzero(dots("Rest").any(axis=0)).min()


def test_fingers_bend_towards_the_eye_and_lie_over_the_palm():
    """A right hand, palm to the viewer: fingers bent forward are drawn over it, with a gap; bent back, under it."""
    fist, palm = dots("Fist"), np.s_[22:38, 20:44]
    shape = shape_of("Fist")
    assert shape is not None
    back = [ord(char) - 0x2800 for line in hand_in_braille(-shape)[22 // 4 : 38 // 4] for char in line[10:22]]
    assert fist[palm].mean() < 0.9
    assert np.bitwise_count(back).sum() > 1.1 * fist[20:36, 20:44].sum()


def test_no_two_gestures_that_are_taught_by_default_look_alike():
    names = ("Fist", "Open", "Point", "WristFlexion", "WristExtension", "Pronation", "Supination", "Rest")
    assert len({dots(name).tobytes() for name in names}) == len(names)


def test_angles_of_the_fingers_alone_will_do():
    assert hand_in_braille(REST_SHAPE[:20]) == hand_in_braille(REST_SHAPE)


def test_its_bones_are_those_of_the_page():
    script = (Path(cpep_edge.__file__).parent / "web/page/hand.js").read_text(encoding="utf-8")
    numbers = r"-?\d+(?:\.\d+)?"
    fingers = script[script.index("const FINGERS") : script.index("const PALM")]
    of_page = [[float(x) for x in re.findall(numbers, line.split("//")[0])] for line in fingers.splitlines()]
    of_page = [line for line in of_page if len(line) > 3]
    thumb = [*hand_braille._THUMB_BASE, *hand_braille._THUMB_BONES, *hand_braille._THUMB_RADII]
    ours = [[*base, splay, *bones, *radii] for base, splay, bones, radii in hand_braille._FINGERS]
    assert of_page == [*ours, thumb]
