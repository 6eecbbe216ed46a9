"""The terminal view at every size, with and without a link."""

import io

import numpy as np
import pytest
from rich.console import Console

from cpep_edge.cli.view import ScreenView
from cpep_edge.live_loop import Live
from cpep_edge.live_view import LiveView
from tests.cpep_edge.fake_stream import HOP_MS, LevelRecogniser, ListSource, cut


@pytest.fixture
def view() -> LiveView:
    """A run that is over: half a second low, then high."""
    recogniser = LevelRecogniser()
    signal = np.concatenate([np.zeros(600), np.ones(600)])
    loop = Live(ListSource(cut(signal), pause_s=0.0005), recogniser, hop_ms=HOP_MS)
    view = LiveView("tiny.cpep", recogniser, loop, None)
    for decision in loop:
        view.stats.add(decision)
    return view


def screen(view: LiveView, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, record=True)
    console.print(ScreenView(view).render())
    return console.export_text().splitlines()


def test_the_page_names_the_gesture_and_draws_every_channel(view: LiveView) -> None:
    text = screen(view, 100, 40)
    assert any("High" in line for line in text)
    rows = [line for line in text if line.strip("│ ").startswith(("1 ", "2 "))]
    assert len(rows) == 2
    assert any("of EMG" in line for line in text)


@pytest.mark.parametrize(("width", "height"), [(100, 17), (50, 16), (49, 40), (100, 5), (10, 2), (1, 1)])
def test_a_small_terminal_gets_what_fits(view: LiveView, width: int, height: int) -> None:
    text = screen(view, width, height)
    assert all(len(line) <= width for line in text)
    if width >= 50:
        assert any("High" in line for line in text)
        assert len(text) <= height + 1


def test_a_lost_link_is_said(view: LiveView) -> None:
    assert view._loop.engine.last_block_s is not None
    view._loop.engine.last_block_s -= 7.0
    assert any("no signal for 7 s" in line for line in screen(view, 80, 40))
