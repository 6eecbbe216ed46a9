"""The page of a live run in a real browser."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.donning import Donning
from cpep_edge.hand import HandPoses
from cpep_edge.hand_shapes import shape_of
from tests.cpep_edge.test_web import FLAT, HAND, TIMEOUT_S, Feeder, served

pytestmark = pytest.mark.slow


def test_in_a_browser_the_hand_moves_the_gesture_is_named_and_a_lost_link_heals(browser):
    with served() as (source, server):
        browser.get(server.url)
        see(browser, "document.body.dataset.link", lambda link: link in ("live", "silent"))
        with Feeder(source, 0.0) as feeder:
            see(browser, GESTURE, lambda name: name == "Low")
            flat = picture(browser)
            feeder.value = 1.0
            see(browser, GESTURE, lambda name: name == "High")
            see(browser, HAND_PICTURE, lambda now: now != flat)
            see(browser, "document.body.dataset.link", lambda link: link == "live")
        see(browser, "document.body.dataset.link", lambda link: link == "silent")
        assert "no signal from the band" in browser.execute_script("return document.getElementById('link').textContent")
        with Feeder(source, 1.0):
            see(browser, "document.body.dataset.link", lambda link: link == "live")
            check_keys(browser)
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    see(browser, "document.body.dataset.link", lambda link: link == "gone")
    faults = [entry["message"] for entry in browser.get_log("browser") if "WebSocket" not in entry["message"]]
    assert faults == []


SIZES = {  # width, height, device pixels per CSS pixel
    "full HD": (1920, 1080, 1),
    "short laptop": (1280, 560, 1),
    "laptop at 200 %": (640, 400, 2),
    "phone": (390, 844, 2),
    "phone across": (844, 390, 2),
    "narrow": (360, 640, 2),
}
OVERLAPS = """
const boxes = [...document.querySelectorAll("header, section, footer")].map((part) => part.getBoundingClientRect());
return boxes.some((a, i) => boxes.some((b, j) => i < j && a.left < b.right - 1 && b.left < a.right - 1
  && a.top < b.bottom - 1 && b.top < a.bottom - 1));
"""
CUT_OFF = """
return [...document.querySelectorAll("header *, section *, footer *")].filter((part) => {
  const box = part.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1);
}).map((part) => part.outerHTML.slice(0, 80));
"""
DRAWN_AT_THE_EDGE = """
const hand = document.getElementById("hand"), { width } = hand;
return hand.getContext("2d").getImageData(0, 0, width, 2).data.some((value) => value > 0);
"""


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
@pytest.mark.parametrize("size", SIZES)
def test_at_every_size_nothing_overlaps_or_is_cut_off_and_axe_finds_no_fault(browser, size, scheme):
    open_hand = shape_of("Open hand")
    with served(hand=HandPoses(HAND.embedding, np.stack([FLAT, open_hand[:20]]), rest_rad=FLAT)) as (source, server):
        with shown_at(browser, *SIZES[size], scheme), Feeder(source, 1.0):
            browser.get(server.url)
            see(browser, GESTURE, lambda name: name == "High")
            see(browser, HAND_PICTURE, lambda now: now == picture(browser))
            assert not browser.execute_script(OVERLAPS)
            assert browser.execute_script(CUT_OFF) == []
            assert not browser.execute_script(DRAWN_AT_THE_EDGE)  # the open hand's fingertips fit in
            assert axe_faults(browser) == []


def test_axe_finds_no_fault_without_a_signal_while_held_with_help_and_after_the_end(browser):
    with served() as (source, server):
        browser.get(server.url)
        see(browser, "document.body.dataset.link", lambda link: link == "silent")
        assert axe_faults(browser) == []
        with Feeder(source, 1.0):
            see(browser, GESTURE, lambda name: name == "High")
            browser.find_element("id", "pause").click()
            assert axe_faults(browser) == []
            browser.find_element("id", "keys").click()
            assert axe_faults(browser) == []
    see(browser, "document.body.dataset.link", lambda link: link == "gone")
    assert axe_faults(browser) == []


def test_a_page_that_was_left_open_goes_on_with_the_next_run(browser):
    names = "[...document.querySelectorAll('#shares .name')].map((name) => name.textContent)"
    with served() as (_, server):
        browser.get(server.url)
        see(browser, names, lambda shown: shown == ["Low", "High"])
        port = server.port
    see(browser, "document.body.dataset.link", lambda link: link == "gone")
    with served(names=("Rest", "PowerGrip"), port=port) as (source, server), Feeder(source, 1.0):
        assert server.port == port
        see(browser, names, lambda shown: shown == ["Rest", "Power grip"])
        see(browser, GESTURE, lambda name: name == "Power grip")
        see(browser, "document.body.dataset.link", lambda link: link == "live")


def test_a_browser_without_websocket_is_told_so(browser):
    gone = {"source": "delete window.WebSocket"}
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", gone)
    try:
        with served() as (_, server):
            browser.get(server.url)
            see(browser, "document.getElementById('link').textContent",
                lambda text: text == "this browser has no WebSocket: open the page in another one")  # fmt: skip
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_the_page_says_whether_the_run_is_calibrated_and_which_gestures_are_zero_shot(browser):
    heads = "[...document.querySelectorAll('#shares h3')].map((head) => head.textContent)"
    with served() as (source, server), Feeder(source, 1.0):
        browser.get(server.url)
        see(browser, CALIBRATED, lambda text: text == "not calibrated")
        see(browser, GESTURE, lambda name: name == "High")
        see(browser, heads, lambda told: told == ["Trained on other people", "Zero-shot, by pose alone"])
        see(browser, "document.querySelector('#shares .decided').textContent", lambda text: text == "High100 %")
    with served(donning=Donning(level_uv=np.ones(2, np.float32))) as (_, server):
        browser.get(server.url)
        see(browser, CALIBRATED, lambda text: text == "calibrated")


def test_what_was_chosen_is_remembered_and_arrows_belong_to_what_has_the_focus(browser):
    from selenium.webdriver.common.keys import Keys

    gain, span = "document.getElementById('gain').textContent", "document.getElementById('span').textContent"
    with served() as (source, server), Feeder(source, 1.0):
        browser.get(server.url)
        see(browser, GESTURE, lambda name: name == "High")
        strips, hand = browser.find_element("id", "strips"), browser.find_element("id", "hand")
        before = picture(browser)
        strips.send_keys(Keys.ARROW_UP, Keys.ARROW_RIGHT)
        see(browser, f"[{gain}, {span}]", lambda now: now == ["2", "12"])
        assert picture(browser) == before  # the hand did not turn
        hand.send_keys(Keys.ARROW_LEFT)
        see(browser, HAND_PICTURE, lambda now: now != before)
        see(browser, f"[{gain}, {span}]", lambda now: now == ["2", "12"])
        theme = browser.execute_script("return document.documentElement.dataset.theme")
        browser.find_element("id", "theme").click()
        browser.get(server.url)
        see(browser, f"[{gain}, {span}, document.documentElement.dataset.theme === '{theme}']",
            lambda now: now == ["2", "12", False])  # fmt: skip
        browser.execute_script("localStorage.clear()")


def test_a_bundle_without_poses_draws_the_hand_by_name_or_none_but_never_an_empty_panel(browser):
    with served(hand=None, names=("Rest", "PowerGrip")) as (source, server), Feeder(source, 0.0) as feeder:
        browser.get(server.url)
        see(browser, GESTURE, lambda name: name == "Rest")
        flat = picture(browser)
        feeder.value = 1.0
        see(browser, GESTURE, lambda name: name == "Power grip")
        see(browser, HAND_PICTURE, lambda now: now != flat)
    with served(hand=None, names=("Rest", "Zack")) as (source, server), Feeder(source, 1.0):
        browser.get(server.url)
        see(browser, GESTURE, lambda name: name == "Zack")
        see(browser, "document.getElementById('hand').checkVisibility()", lambda visible: visible is False)


CALIBRATED = "document.getElementById('calibrated').textContent"
GESTURE = "document.getElementById('gesture').textContent"
HAND_PICTURE = "document.getElementById('hand').toDataURL()"


@contextmanager
def shown_at(browser, width: int, height: int, scale: int, scheme: str) -> Iterator[None]:
    """Emulate a screen size and a colour scheme: light, dark or print."""
    size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": "dark" if scheme == "dark" else "light"}]
    media = {"media": "print" if scheme == "print" else "", "features": features}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    yield
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def axe_faults(browser) -> list[tuple[str, str]]:
    """The faults that axe-core finds on the current page: each rule, and the first element that breaks it."""
    axe = Path(pytest.importorskip("axe_core_python").__file__).parent / "axe.min.js"
    browser.execute_script(axe.read_text(encoding="utf-8"))
    asked = "const tell = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(tell)"
    found = browser.execute_async_script(asked)
    return [(fault["id"], fault["nodes"][0]["html"]) for fault in found["violations"]]


def check_keys(browser) -> None:
    from selenium.webdriver.common.keys import Keys

    body = browser.find_element("tag name", "body")
    theme = browser.execute_script("return document.documentElement.dataset.theme")
    body.send_keys("t")
    see(browser, "document.documentElement.dataset.theme", lambda now: now != theme)
    body.send_keys(" ")
    see(browser, "document.getElementById('pause').getAttribute('aria-pressed')", lambda held: held == "true")
    body.send_keys(" ")
    body.send_keys("?")
    see(browser, "document.getElementById('help').open", bool)
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    see(browser, "document.getElementById('help').open", lambda is_open: not is_open)


def picture(browser) -> str:
    """The drawn hand, once it no longer moves."""
    last = ""
    for _ in range(50):
        now = browser.execute_script(f"return {HAND_PICTURE}")
        if now == last:
            break
        last = now
    return last


def see(browser, expression: str, holds: Callable[[object], bool]) -> None:
    """Evaluate an expression until it holds; if it never does, the failure shows its last value."""
    end_s, last = time.monotonic() + TIMEOUT_S, None
    while time.monotonic() < end_s:
        last = browser.execute_script(f"return {expression}")
        if holds(last):
            return
    pytest.fail(f"{expression} stayed at {str(last)[:80]}")
