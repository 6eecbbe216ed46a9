"""The page of a live run, by its protocol and in a real browser."""

import http.client
import json
import queue
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.blocks import Block, LinkCounts
from cpep_edge.donning import Donning
from cpep_edge.errors import CpepError
from cpep_edge.hand import HandPoses
from cpep_edge.hand_shapes import shape_of
from cpep_edge.live_loop import Live
from cpep_edge.live_view import LiveView
from tests.cpep_edge.fake_stream import HOP_MS, INFO, LevelRecogniser, cut

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
client = pytest.importorskip("websockets.sync.client")
ConnectionClosed = pytest.importorskip("websockets.exceptions").ConnectionClosed

from cpep_edge.web import connections  # noqa: E402 - after the skips
from cpep_edge.web.server import MOST_VIEWERS, PORTS_TRIED, ViewServer  # noqa: E402

TIMEOUT_S = 40.0
FLAT, BENT = np.zeros(20, np.float32), np.full(20, 1.0, np.float32)
HAND = HandPoses(np.eye(2, dtype=np.float32), np.stack([FLAT, BENT]), rest_rad=FLAT)


class FedSource:
    """A band that sends what it is given, when it is given it, and is silent in between."""

    def __init__(self) -> None:
        self.info, self.counts = INFO, LinkCounts()
        self._blocks: queue.Queue[Block | None] = queue.Queue()
        self._next_index = 0

    def __enter__(self) -> "FedSource":
        return self

    def __exit__(self, *exc: object) -> None: ...

    def __iter__(self) -> Iterator[Block]:
        while (block := self._blocks.get()) is not None:
            yield replace(block, host_t_s=time.monotonic())

    def feed(self, value: float, n_samples: int = 400) -> None:
        for block in cut(np.full(n_samples, value), 10, first=self._next_index):
            self._blocks.put(block)
        self._next_index += n_samples

    def end(self) -> None:
        self._blocks.put(None)


@contextmanager
def running(
    hand: HandPoses | None = HAND, donning: Donning | None = None, names: tuple[str, str] = ("Low", "High")
) -> Iterator[tuple[FedSource, LiveView]]:
    source, recogniser = FedSource(), LevelRecogniser(names=names)
    loop = Live(source, recogniser, hop_ms=HOP_MS, donning=donning)
    view = LiveView("tiny.cpep  ·  test band", recogniser, loop, hand)

    def run() -> None:
        for decision in loop:
            view.stats.add(decision)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield source, view
    finally:
        source.end()
        thread.join()


@contextmanager
def served(
    hand: HandPoses | None = HAND,
    donning: Donning | None = None,
    names: tuple[str, str] = ("Low", "High"),
    **options: object,
) -> Iterator[tuple[FedSource, ViewServer]]:
    with running(hand, donning, names) as (source, view), ViewServer(view, **{"port": 0, **options}) as server:  # type: ignore[arg-type]
        yield source, server


def stream_url(server: ViewServer) -> str:
    return server.url.replace("http", "ws").replace("/?", "/live?") + ("" if "?" in server.url else "live")


def messages_until(connection, kind: str) -> dict:  # type: ignore[no-untyped-def,type-arg]
    """The next message of a kind, others thrown away."""
    end_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end_s:
        message = connection.recv(timeout=TIMEOUT_S)
        if isinstance(message, str) and json.loads(message)["type"] == kind:
            return json.loads(message)
    pytest.fail(f"no message {kind} came")


def wait_for_silence(connection, silent: bool) -> bool:  # type: ignore[no-untyped-def]
    return any(messages_until(connection, "health")["silent"] is silent for _ in range(40))


def status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def handshake(server: ViewServer, host: str, origin: str | None) -> int:
    """What the server answers to a browser that asks for the stream under this name."""
    connection = http.client.HTTPConnection("127.0.0.1", server._socket.getsockname()[1], timeout=TIMEOUT_S)
    connection.putrequest("GET", "/live", skip_host=True)
    headers = {"Host": host, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers |= {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="} | ({} if origin is None else {"Origin": origin})
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse().status
    connection.close()
    return answer


def is_refused(url: str, **options: object) -> bool:
    try:
        with client.connect(url, proxy=None, **options) as connection:
            connection.recv(timeout=TIMEOUT_S)
    except Exception as error:
        return "403" in str(error)
    return False


def test_a_browser_is_told_the_run_the_decisions_and_the_signal() -> None:
    with served() as (source, server), client.connect(stream_url(server), proxy=None) as connection:
        about = messages_until(connection, "about")
        assert (about["n_channels"], about["calibrated"]) == (2, "not calibrated")
        assert [(gesture["label"], gesture["kind"]) for gesture in about["gestures"]] == [
            ("Low", "trained"),
            ("High", "zero-shot"),
        ]
        first: list[int] = []
        strokes: list[np.ndarray] = []
        decision = None
        with Feeder(source, 1.0):
            while decision is None or decision["gesture"] != "High" or sum(map(len, strokes)) < 40:
                message = connection.recv(timeout=TIMEOUT_S)
                if isinstance(message, bytes):
                    first.append(int(np.frombuffer(message[:4], np.uint32)[0]))
                    strokes.append(np.frombuffer(message[4:], np.int8).reshape(-1, 2, 2))
                elif json.loads(message)["type"] == "decision":
                    decision = json.loads(message)
        assert np.allclose(decision["hand_rad"], BENT, atol=0.01)
        assert decision["shares"] == [0.0, 1.0]
        drawn = np.concatenate(strokes)
        ends = [number + len(part) for number, part in zip(first, strokes, strict=True)]
        assert all(end <= begin for end, begin in zip(ends, first[1:], strict=False))  # each stroke once at most
        assert np.array_equal(np.unique(drawn[:, :, 1]), [round(127 / 6)])


def test_two_browsers_see_the_same_and_one_that_leaves_troubles_nobody() -> None:
    with served() as (source, server), Feeder(source, 1.0):
        with client.connect(stream_url(server), proxy=None) as stays:
            with client.connect(stream_url(server), proxy=None) as leaves:
                assert messages_until(leaves, "decision")["window_gesture"] == "High"
                assert messages_until(stays, "decision")["window_gesture"] == "High"
                assert server.n_viewers == 2
            for _ in range(5):
                messages_until(stays, "decision")
            assert server.n_viewers == 1


def test_a_silent_band_is_told_and_so_is_its_return() -> None:
    with served() as (source, server), client.connect(stream_url(server), proxy=None) as connection:
        assert wait_for_silence(connection, True)
        with Feeder(source, 1.0):
            assert wait_for_silence(connection, False)
        assert wait_for_silence(connection, True)


def test_scripts_of_other_pages_and_names_of_other_machines_are_refused() -> None:
    with served() as (_, server):
        host = server.url.removeprefix("http://").rstrip("/")
        assert handshake(server, host, origin=f"http://{host}") == 101
        assert handshake(server, host, origin=None) == 101  # no browser: those always say
        assert handshake(server, host, origin="http://elsewhere.example") == 403
        assert handshake(server, "elsewhere.example", origin="http://elsewhere.example") == 403
        assert status(server.url) == 200
        assert status(server.url, Host="elsewhere.example") == 403


def test_nothing_but_the_page_is_served() -> None:
    with served() as (_, server):
        for name in ("live.css", "hand.js", "icon.svg"):
            assert status(server.url + name) == 200
        for name in ("server.py", "__init__.py", "..%2fserver.py", "%2e%2e/server.py", "nothing.js"):
            assert status(server.url + name) == 404


def test_other_machines_need_the_token_that_was_printed() -> None:
    with served(host="0.0.0.0") as (_, server):
        assert server.token is not None
        port = server._socket.getsockname()[1]
        for token, code in (("", 403), ("?token=guess", 403), (f"?token={server.token}", 200)):
            assert status(f"http://127.0.0.1:{port}/{token}") == code
        assert is_refused(f"ws://127.0.0.1:{port}/live")
        assert is_refused(f"ws://127.0.0.1:{port}/live?token=x")
        assert not is_refused(f"ws://127.0.0.1:{port}/live?token={server.token}")
        assert f"?token={server.token}" in server.url


def test_more_browsers_than_there_is_room_for_are_refused() -> None:
    with served() as (_, server):
        server.n_viewers = MOST_VIEWERS
        assert is_refused(stream_url(server))
        server.n_viewers = 0


def test_a_port_that_is_taken_gives_way_to_the_next_free_one() -> None:
    with served() as (_, server), running() as (_, view):
        with ViewServer(view, port=server.port) as other:
            assert server.port < other.port < server.port + PORTS_TRIED
            assert status(other.url) == 200


def test_an_address_that_cannot_be_had_is_said_in_one_sentence() -> None:
    with running() as (_, view), pytest.raises(CpepError, match="choose another --web-port"):
        ViewServer(view, host="192.0.2.1")


@pytest.mark.slow
def test_in_a_browser_the_hand_moves_the_gesture_is_named_and_a_lost_link_heals(browser) -> None:  # type: ignore[no-untyped-def]
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


SIZES = {  # width, height, pixels a pixel
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


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
@pytest.mark.parametrize("size", SIZES)
def test_at_every_size_nothing_overlaps_or_is_cut_off_and_axe_finds_no_fault(browser, size: str, scheme: str) -> None:  # type: ignore[no-untyped-def]
    open_hand = shape_of("Open hand")
    assert open_hand is not None
    with served(hand=HandPoses(HAND.embedding, np.stack([FLAT, open_hand[:20]]), rest_rad=FLAT)) as (source, server):
        with shown_at(browser, *SIZES[size], scheme), Feeder(source, 1.0):
            browser.get(server.url)
            see(browser, GESTURE, lambda name: name == "High")
            see(browser, HAND_PICTURE, lambda now: now == picture(browser))
            assert not browser.execute_script(OVERLAPS)
            assert browser.execute_script(CUT_OFF) == []
            assert not browser.execute_script(DRAWN_AT_THE_EDGE)  # the open hand's fingertips are inside
            assert axe_faults(browser) == []


@pytest.mark.slow
def test_axe_finds_no_fault_without_a_signal_while_held_with_help_and_after_the_end(browser) -> None:  # type: ignore[no-untyped-def]
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


@pytest.mark.slow
def test_a_page_that_was_left_open_goes_on_with_the_next_run(browser) -> None:  # type: ignore[no-untyped-def]
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


@pytest.mark.slow
def test_a_browser_without_websocket_is_told_so(browser) -> None:  # type: ignore[no-untyped-def]
    gone = {"source": "delete window.WebSocket"}
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", gone)
    try:
        with served() as (_, server):
            browser.get(server.url)
            see(browser, "document.getElementById('link').textContent",
                lambda text: text == "this browser has no WebSocket: open the page in another one")  # fmt: skip
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


@pytest.mark.slow
def test_the_page_says_whether_the_run_is_calibrated_and_which_gestures_are_zero_shot(browser) -> None:  # type: ignore[no-untyped-def]
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


@pytest.mark.slow
def test_what_was_chosen_is_remembered_and_arrows_belong_to_what_has_the_focus(browser) -> None:  # type: ignore[no-untyped-def]
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


@pytest.mark.slow
def test_a_bundle_without_poses_draws_the_hand_by_name_or_none_but_never_an_empty_panel(browser) -> None:  # type: ignore[no-untyped-def]
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


class Feeder:
    """Feeds a source as a band would, while `with` lasts; `value` may be changed meanwhile."""

    def __init__(self, source: FedSource, value: float) -> None:
        self.value = value
        self._source, self._stopping = source, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Feeder":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(0.05):
            self._source.feed(self.value, 50)


@contextmanager
def shown_at(browser, width: int, height: int, scale: int, scheme: str) -> Iterator[None]:  # type: ignore[no-untyped-def]
    """A screen, and whether it asks for light or dark or is paper."""
    size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": "dark" if scheme == "dark" else "light"}]
    media = {"media": "print" if scheme == "print" else "", "features": features}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    yield
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def axe_faults(browser) -> list[tuple[str, str]]:  # type: ignore[no-untyped-def]
    """What axe-core finds wrong with the page as it stands: the rule, and the first element that breaks it."""
    axe = Path(pytest.importorskip("axe_core_python").__file__).parent / "axe.min.js"
    browser.execute_script(axe.read_text(encoding="utf-8"))
    asked = "const tell = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(tell)"
    found = browser.execute_async_script(asked)
    return [(fault["id"], fault["nodes"][0]["html"]) for fault in found["violations"]]


def check_keys(browser) -> None:  # type: ignore[no-untyped-def]
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


def picture(browser) -> str:  # type: ignore[no-untyped-def]
    """The drawn hand, once it stands still."""
    last = ""
    for _ in range(50):
        now = browser.execute_script(f"return {HAND_PICTURE}")
        if now == last:
            break
        last = now
    return last


def see(browser, expression: str, holds: Callable[[object], bool]) -> None:  # type: ignore[no-untyped-def]
    """Ask the page until an expression holds; what it was last is told when it never does."""
    end_s, last = time.monotonic() + TIMEOUT_S, None
    while time.monotonic() < end_s:
        last = browser.execute_script(f"return {expression}")
        if holds(last):
            return
    pytest.fail(f"{expression} stayed at {str(last)[:80]}")


@contextmanager
def raw(server: ViewServer, sent: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server._socket.getsockname()[1]), timeout=TIMEOUT_S) as connection:
        connection.sendall(sent)
        yield connection


def is_closed(connection: socket.socket) -> bool:
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return True


@pytest.mark.parametrize(
    "host", ["[::1", "127.0.0.1:99999", "[", "127.0.0.1:x", "", "\x7f", "a" * 5000, "[::ffff:1.2.3.4", "::1]"]
)
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with served() as (_, server):
        assert handshake(server, host, None) in (403, 400)
        with raw(server, f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()) as connection:
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.split()[1] in (b"403", b"400")


@pytest.mark.parametrize("name", ["x" * 5000, "%00", "a%00.html", "..%2fserver.py", "%2e%2e", ".", "index.html%20"])
def test_a_name_that_is_no_page_is_no_page(name: str) -> None:
    with served() as (_, server):
        assert status(f"http://127.0.0.1:{server._socket.getsockname()[1]}/{name}") == 404


def test_connections_that_ask_for_nothing_end_and_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "OPENING_S", 0.5)
    monkeypatch.setattr(connections, "MOST_OF_ONE_ADDRESS", 4)
    with served(host="127.0.0.1", token="secret") as (_, server), ExitStack() as stack:
        slow = [stack.enter_context(raw(server, b"GET / HTTP/1.1\r\n")) for _ in range(4)]
        fifth = stack.enter_context(raw(server))
        assert is_closed(fifth)  # at once: nothing of it was read
        assert all(is_closed(connection) for connection in slow)  # after half a second
        assert status(server.url) == 200  # and whoever has the token looks on


def test_the_connections_of_a_viewer_are_not_those_that_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "OPENING_S", 0.3)
    monkeypatch.setattr(connections, "MOST_OF_ONE_ADDRESS", 2)
    with served() as (_, server), ExitStack() as stack:
        viewers = [stack.enter_context(client.connect(stream_url(server), proxy=None)) for _ in range(4)]
        for viewer in viewers:
            messages_until(viewer, "about")
        for viewer in viewers:  # later than the time to become one
            assert all(messages_until(viewer, "health") for _ in range(2))


def test_all_connections_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
    with served() as (_, server), ExitStack() as stack:
        for _ in range(3):
            messages_until(stack.enter_context(client.connect(stream_url(server), proxy=None)), "about")
        assert is_closed(stack.enter_context(raw(server)))


def test_many_who_ask_at_once_get_no_more_places_than_there_are() -> None:
    with served() as (_, server):
        admitted: list[object] = []

        def look() -> None:
            try:
                with client.connect(stream_url(server), proxy=None) as connection:
                    messages_until(connection, "about")
                    admitted.append(connection)
                    done.wait(TIMEOUT_S)
            except Exception:
                refused.release()

        done, refused = threading.Event(), threading.Semaphore(0)
        lookers = [threading.Thread(target=look) for _ in range(MOST_VIEWERS + 6)]
        for looker in lookers:
            looker.start()
        for _ in range(6):
            assert refused.acquire(timeout=TIMEOUT_S)
        done.set()
        for looker in lookers:
            looker.join()
    assert len(admitted) == MOST_VIEWERS


def test_what_a_browser_sends_is_small_or_ends_its_stream() -> None:
    with served() as (_, server), client.connect(stream_url(server), proxy=None) as connection:
        connection.send("x" * 100_000)
        with pytest.raises(ConnectionClosed):
            for _ in range(10_000):
                connection.recv(timeout=TIMEOUT_S)


def test_bytes_that_are_no_text_end_a_stream_and_leave_the_terminal_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with served() as (_, server), client.connect(stream_url(server), proxy=None) as connection:
        connection.socket.sendall(b"\x81\x82\0\0\0\0\xff\xfe")
        with pytest.raises(ConnectionClosed):
            for _ in range(10_000):
                connection.recv(timeout=TIMEOUT_S)
    assert capfd.readouterr().err == ""


def test_the_terminal_shows_the_address_as_a_code_that_a_camera_reads() -> None:
    segno = pytest.importorskip("segno")
    with served(host="0.0.0.0") as (_, server):
        rows = server.code.splitlines()
        modules = [list(row) for row in segno.make(server.url, error="l").matrix]
    dark = [[(letter in " ▄", letter in " ▀") for letter in row] for row in rows]
    halves = [[pair[half] for pair in row] for row in dark for half in (0, 1)]
    n = len(modules)
    assert [[int(one) for one in row[2 : 2 + n]] for row in halves[1 : 1 + n]] == modules
    quiet = halves[:1] + halves[1 + n :] + [row[:2] + row[2 + n :] for row in halves]
    assert not any(one for row in quiet for one in row)
