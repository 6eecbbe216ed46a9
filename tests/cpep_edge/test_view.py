"""The terminal view at every size, with and without a link."""

import io
import re
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from cpep_edge.blocks import LinkCounts
from cpep_edge.cli.view import ScreenView, render
from cpep_edge.decisions import Decision
from cpep_edge.live_loop import Live
from cpep_edge.live_stats import Change, LiveStats
from cpep_edge.live_view import LiveView
from cpep_edge.sinks import SinkCounts
from tests.cpep_edge.fake_stream import HOP_MS, LevelRecogniser, ListSource, cut


@pytest.fixture
def view() -> LiveView:
    """The view of a finished run: half a second low, then high."""
    recogniser = LevelRecogniser()
    signal = np.concatenate([np.zeros(600), np.ones(600)])
    loop = Live(ListSource(cut(signal), recogniser=recogniser), recogniser, hop_ms=HOP_MS)
    view = LiveView("tiny.cpep", recogniser, loop, None)
    for decision in loop:
        view.stats.add(decision)
    return view


@dataclass
class Page:
    url: str = "http://192.0.2.7:8765/?token=abcdefghijklmnopqrstuv"
    code: str = "▀▄█\n" * 8
    n_viewers: int = 1


def screen(view: LiveView, width: int, height: int, page: Page | None = None) -> list[str]:
    return drawn(ScreenView(view, page).render(), width, height)


def drawn(what: object, width: int = 80, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, record=True)
    console.print(what)
    return console.export_text().splitlines()


NOTHING_YET = LiveStats().summary(
    SimpleNamespace(n_skipped_hops=0, n_rest_hops=0, n_suppressed_hops=0, n_resets=0), LinkCounts()
)


def test_the_page_names_the_gesture_and_draws_every_channel(view):
    text = screen(view, 100, 40)
    assert any("High" in line for line in text)
    rows = [line for line in text if line.strip("│ ").startswith(("1 ", "2 "))]
    assert len(rows) == 2
    assert any("of EMG" in line for line in text)


@pytest.mark.parametrize(("width", "height"), [(100, 17), (50, 16), (49, 40), (100, 5), (10, 2), (1, 1)])
def test_a_small_terminal_gets_what_fits(view, width, height):
    text = screen(view, width, height, Page())
    assert all(len(line) <= width for line in text)
    if width >= 50:
        assert any("High" in line for line in text)
        assert len(text) <= height


def test_a_lost_link_is_said(view):
    view.loop.engine.last_block_s -= 7.0
    assert any("no signal for 7 s" in line for line in screen(view, 80, 40))


def test_at_80_by_24_sixteen_channels_fold_and_address_and_sinks_stay_in_sight():
    cells = [np.linspace(0, 3, 16, dtype=np.float32)] * 70
    sinks = (SinkCounts("udp://127.0.0.1:9000", sent=7), SinkCounts("lsl", failures=2, dropped=5))
    changes = [Change("PowerGrip", 3.25), Change("unknown", 61.0)]
    text = drawn(
        render("tiny.cpep", None, changes, NOTHING_YET, cells=cells, sinks=sinks, url=Page.url, width=78, height=24)
    )
    assert len(text) <= 24
    rows = [line.strip("│ ").split()[0] for line in text if re.match(r"│ +\d+-\d+ ", line)]
    assert rows == [f"{first}-{first + 1}" for first in range(1, 16, 2)]
    sinks_read = ("udp://127.0.0.1:9000 7 sent", "lsl 2 failed, 5 dropped")
    for words in (Page.url, *sinks_read, "3.2 s  Power grip", "no gesture"):
        assert any(words in line for line in text), words


def test_the_code_for_a_phone_stands_there_until_somebody_looks(view):
    assert sum("▀▄█" in line for line in screen(view, 80, 24, Page(n_viewers=0))) == 8
    assert not any("▀▄█" in line for line in screen(view, 80, 24, Page(n_viewers=1)))


def test_what_is_rejected_has_no_share_to_boast_of():
    last = Decision(100, 1.0, "unknown", False, "unknown", 1.0, 0.1, False, False, 1.0)
    text = "".join(drawn(render("tiny.cpep", last, [], NOTHING_YET)))
    assert "no gesture" in text
    assert "100%" not in text
