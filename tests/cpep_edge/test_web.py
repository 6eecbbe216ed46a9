"""The page of a live run: its protocol."""

import asyncio
import http.client
import json
import queue
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from unittest.mock import Mock

import numpy as np
import pytest

from cpep_edge.blocks import Block, LinkCounts
from cpep_edge.decisions import Decision
from cpep_edge.donning import Donning
from cpep_edge.errors import CpepError
from cpep_edge.hand import HandPoses
from cpep_edge.live_loop import Live
from cpep_edge.live_view import LiveView
from tests.cpep_edge.fake_stream import HOP_MS, INFO, LevelRecogniser, cut

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
client = pytest.importorskip("websockets.sync.client")
ConnectionClosed = pytest.importorskip("websockets.exceptions").ConnectionClosed

from cpep_edge.web import connections, server  # noqa: E402 - after the skips
from cpep_edge.web.server import MOST_VIEWERS, PORTS_TRIED, ViewServer  # noqa: E402

TIMEOUT_S = 40.0
FLAT, BENT = np.zeros(20, np.float32), np.full(20, 1.0, np.float32)
HAND = HandPoses(np.eye(2, dtype=np.float32), np.stack([FLAT, BENT]), rest_rad=FLAT)


class FedSource:
    """A band that sends blocks as soon as it gets them, and is silent in between."""

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


class Feeder:
    """Feeds a source like a band during a `with` block; `value` may be changed meanwhile."""

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
    with running(hand, donning, names) as (source, view), ViewServer(view, **{"port": 0, **options}) as server:
        yield source, server


def stream_url(server: ViewServer) -> str:
    return server.url.replace("http", "ws").replace("/?", "/live?") + ("" if "?" in server.url else "live")


def messages_until(connection, kind: str) -> dict:
    """The next message of a kind; others are discarded."""
    end_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end_s:
        message = connection.recv(timeout=TIMEOUT_S)
        if isinstance(message, str) and json.loads(message)["type"] == kind:
            return json.loads(message)
    pytest.fail(f"no message {kind} came")


def wait_for_silence(connection, silent: bool) -> bool:
    return any(messages_until(connection, "health")["silent"] is silent for _ in range(40))


def status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def handshake(server: ViewServer, host: str, origin: str | None) -> int:
    """The server's status for a browser that requests the stream with this host name and origin."""
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


def test_a_browser_is_told_the_run_the_decisions_and_the_signal():
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
        assert all(end <= begin for end, begin in zip(ends, first[1:], strict=False))  # no stroke twice
        assert np.array_equal(np.unique(drawn[:, :, 1]), [round(127 / 6)])


@pytest.mark.parametrize("decides", [True, False])
def test_signal_comes_with_a_decision_where_one_comes_and_by_itself_otherwise(decides, monkeypatch):
    """Each separate message makes a browser redraw everything."""
    monkeypatch.setattr(server, "TICK_S", 0.0)
    view, ticks, sent = Mock(generation=0), count(), []
    tick = 0
    view.health.return_value = view.about.return_value = {}
    view.changes_after.return_value, view.hand_rad.return_value, view.shares.return_value = (0, []), None, []
    view.strips.side_effect = lambda first, most: (first, np.zeros((3, 1, 2), np.float32))
    decision = Decision(0, 0.0, "Fist", False, "Fist", 1.0, 1.0, False, False, 1.0)

    def newest(_: Mock) -> Decision | None:  # called once per tick
        nonlocal tick
        tick = next(ticks)
        return replace(decision, sample_index=(tick + 1) // 2) if decides else None  # a new one every other tick

    type(view.stats).last, view.stats.run_s = property(newest), 0.0
    with ViewServer(view, port=0) as page:

        async def collect() -> None:
            async for message in page._messages():
                sent.append((tick, "signal" if isinstance(message, bytes) else json.loads(message)["type"]))
                if tick >= 60:
                    return

        asyncio.run(asyncio.wait_for(collect(), TIMEOUT_S))
    signal, decided = (
        [at for at, kind in sent if kind == wanted and 10 < at < 60] for wanted in ("signal", "decision")
    )
    assert len(signal) > 10
    assert (signal == decided) if decides else not decided


def test_two_browsers_see_the_same_and_one_that_leaves_troubles_nobody():
    with served() as (source, server), Feeder(source, 1.0):
        with client.connect(stream_url(server), proxy=None) as stays:
            with client.connect(stream_url(server), proxy=None) as leaves:
                assert messages_until(leaves, "decision")["window_gesture"] == "High"
                assert messages_until(stays, "decision")["window_gesture"] == "High"
                assert server.n_viewers == 2
            for _ in range(5):
                messages_until(stays, "decision")
            assert server.n_viewers == 1


def test_a_silent_band_is_told_and_so_is_its_return():
    with served() as (source, server), client.connect(stream_url(server), proxy=None) as connection:
        assert wait_for_silence(connection, True)
        with Feeder(source, 1.0):
            assert wait_for_silence(connection, False)
        assert wait_for_silence(connection, True)


def test_scripts_of_other_pages_and_names_of_other_machines_are_refused():
    with served() as (_, server):
        host = server.url.removeprefix("http://").rstrip("/")
        assert handshake(server, host, origin=f"http://{host}") == 101
        assert handshake(server, host, origin=None) == 101  # not a browser, because those always send it
        assert handshake(server, host, origin="http://elsewhere.example") == 403
        assert handshake(server, "elsewhere.example", origin="http://elsewhere.example") == 403
        assert status(server.url) == 200
        assert status(server.url, Host="elsewhere.example") == 403


NO_PAGES = (
    "server.py", "__init__.py", "nothing.js", "..%2fserver.py", "%2e%2e/server.py", "%2e%2e", ".", "index.html%20",
    "%00", "a%00.html", "x" * 5000,
)  # fmt: skip


def test_nothing_but_the_page_is_served():
    with served() as (_, server):
        for name in ("live.css", "hand.js", "icon.svg"):
            assert status(server.url + name) == 200
        for name in NO_PAGES:
            assert status(server.url + name) == 404


def test_other_machines_need_the_token_that_was_printed():
    with served(host="0.0.0.0") as (_, server):
        assert server.token is not None
        port = server._socket.getsockname()[1]
        for token, code in (("", 403), ("?token=guess", 403), (f"?token={server.token}", 200)):
            assert status(f"http://127.0.0.1:{port}/{token}") == code
        assert is_refused(f"ws://127.0.0.1:{port}/live")
        assert is_refused(f"ws://127.0.0.1:{port}/live?token=x")
        assert not is_refused(f"ws://127.0.0.1:{port}/live?token={server.token}")
        assert f"?token={server.token}" in server.url


def test_more_browsers_than_there_is_room_for_are_refused():
    with served() as (_, server):
        server.n_viewers = MOST_VIEWERS
        assert is_refused(stream_url(server))
        server.n_viewers = 0


def test_a_port_that_is_taken_gives_way_to_the_next_free_one():
    with served() as (_, server), running() as (_, view):
        with ViewServer(view, port=server.port) as other:
            assert server.port < other.port < server.port + PORTS_TRIED
            assert status(other.url) == 200


def test_an_address_that_cannot_be_had_is_said_in_one_sentence():
    with running() as (_, view), pytest.raises(CpepError, match="choose another --web-port"):
        ViewServer(view, host="192.0.2.1")


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
def test_a_host_that_is_none_is_refused(host):
    with served() as (_, server):
        assert handshake(server, host, None) in (403, 400)
        with raw(server, f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()) as connection:
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.split()[1] in (b"403", b"400")


def test_connections_that_ask_for_nothing_end_and_are_few(monkeypatch):
    monkeypatch.setattr(connections, "OPENING_S", 0.5)
    monkeypatch.setattr(connections, "MOST_OF_ONE_ADDRESS", 4)
    with served(host="127.0.0.1", token="secret") as (_, server), ExitStack() as stack:
        slow = [stack.enter_context(raw(server, b"GET / HTTP/1.1\r\n")) for _ in range(4)]
        fifth = stack.enter_context(raw(server))
        assert is_closed(fifth)  # at once, because it sent nothing
        assert all(is_closed(connection) for connection in slow)  # after half a second
        assert status(server.url) == 200  # and with the token the page still works


def test_the_connections_of_a_viewer_are_not_those_that_are_counted(monkeypatch):
    monkeypatch.setattr(connections, "OPENING_S", 0.3)
    monkeypatch.setattr(connections, "MOST_OF_ONE_ADDRESS", 2)
    with served() as (_, server), ExitStack() as stack:
        viewers = [stack.enter_context(client.connect(stream_url(server), proxy=None)) for _ in range(4)]
        for viewer in viewers:
            messages_until(viewer, "about")
        for viewer in viewers:  # after the time limit for new connections
            assert all(messages_until(viewer, "health") for _ in range(2))


def test_all_connections_together_are_bounded(monkeypatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
    with served() as (_, server), ExitStack() as stack:
        for _ in range(3):
            messages_until(stack.enter_context(client.connect(stream_url(server), proxy=None)), "about")
        assert is_closed(stack.enter_context(raw(server)))


def test_many_who_ask_at_once_get_no_more_places_than_there_are():
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


NO_UTF_8 = b"\x81\x82\0\0\0\0\xff\xfe"  # a text frame with invalid UTF-8


@pytest.mark.parametrize(
    "send",
    [lambda connection: connection.send("x" * 100_000), lambda connection: connection.socket.sendall(NO_UTF_8)],
    ids=["too large", "no text"],
)
def test_what_a_browser_should_not_send_ends_its_stream_and_leaves_the_terminal_alone(send, capfd):
    with served() as (_, server), client.connect(stream_url(server), proxy=None) as connection:
        send(connection)
        with pytest.raises(ConnectionClosed):
            for _ in range(10_000):
                connection.recv(timeout=TIMEOUT_S)
    assert capfd.readouterr().err == ""


def test_the_terminal_shows_the_address_as_a_code_that_a_camera_reads():
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
