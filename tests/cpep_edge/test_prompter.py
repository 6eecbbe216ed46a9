"""The display of a lesson, on terminals of all kinds."""

import io
from typing import Any

import pytest
from rich.console import Console

from cpep_edge.cli.prompter import Prompter
from cpep_edge.lesson import Cue
from cpep_edge.names import UNKNOWN

REST = Cue("ready", "WristFlexion", 2, 2.5, 3, 15, "WristFlexion again: nothing moved: it looks like rest")
NOW = Cue("make", "WristFlexion", 2, 3.0, 3, 15)


def shown(cues: list[Cue], encoding: str = "utf-8", **terminal: Any) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    usual = {"force_terminal": True, "width": 80, "height": 24, "highlight": False, "_environ": {}}
    with Prompter(Console(file=file, **{**usual, **terminal})) as show:
        for cue in cues:
            show(cue)
    file.seek(0)
    return file.read()


def has_picture(text: str) -> bool:
    return any("\u2800" < char <= "\u28ff" for char in text)


def test_a_terminal_shows_the_hand_its_name_the_countdown_and_why_it_is_asked_for_again():
    text = shown([REST])
    assert has_picture(text)
    for words in ("4 of 15", "next comes", "Wrist flexion", "3 s", "nothing moved"):
        assert words in text
    assert "now make" in shown([NOW])


@pytest.mark.parametrize(
    "terminal",
    [{"width": 60}, {"height": 12}, {"_environ": {"TERM": "dumb"}}, {"encoding": "ascii"}],
    ids=["narrow", "low", "dumb", "ascii"],
)
def test_a_terminal_that_has_no_room_or_no_braille_gets_a_line(terminal):
    text = shown([NOW], **terminal)
    assert "4/15  NOW: WristFlexion  (3 s)" in text
    assert not has_picture(text)


def test_a_gesture_that_nobody_can_draw_has_its_name_and_countdown():
    text = shown([Cue("make", "Zack", 1, 3.0, 0, 6)])
    assert "Zack" in text
    assert not has_picture(text)


def test_a_file_gets_a_line_for_each_thing_to_do():
    text = shown([REST, Cue("ready", "WristFlexion", 2, 0.4, 3, 15), NOW], force_terminal=False)
    assert text.splitlines() == ["  4/15  rest; next: WristFlexion  (3 s)", "  4/15  NOW: WristFlexion  (3 s)"]


def test_other_movements_are_asked_for_in_words():
    other = Cue("make", UNKNOWN, 1, 6.0, 2, 9)
    assert all(words in shown([other]) for words in ("anything else", "reach, type, scratch", "none of the gestures"))
    assert "3/9  NOW: anything else: reach, type, scratch  (6 s)" in shown([other], width=60)
