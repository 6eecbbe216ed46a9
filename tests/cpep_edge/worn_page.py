"""A page that acts on a run, and a wearer who follows its cues."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.blocks import Block, BlockSource, LinkCounts, StreamInfo
from cpep_edge.bundle import Bundle
from cpep_edge.errors import LinkError
from cpep_edge.live_loop import Live
from cpep_edge.live_view import LiveView
from cpep_edge.personal import Repetition, design_reading
from cpep_edge.recogniser import Recogniser
from cpep_edge.taught import fit_taught, write_taught

pytest.importorskip("websockets.sync.client")

from cpep_edge.web.acting import Acting  # noqa: E402
from cpep_edge.web.server import ViewServer  # noqa: E402

RATE_HZ, N_CHANNELS = 500.0, 4
STRONG = {  # microvolts per channel
    "Rest": (0, 0, 0, 0),
    "Fist": (60, 5, 5, 20),
    "Open": (5, 60, 20, 5),
    "WristExtension": (60, 5, 5, 5),
    "WristFlexion": (5, 60, 5, 5),
    "Radial": (5, 5, 60, 5),
    "Ulnar": (5, 5, 5, 60),
}
HAND, WRIST = ("Rest", "Fist", "Open"), ("Rest", "WristExtension", "WristFlexion", "Radial", "Ulnar")


def made(name: str, seconds: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (round(seconds * RATE_HZ), N_CHANNELS))
    return (noise * (2 + np.array(STRONG[name]))).astype(np.float32)


class Wearer:
    """A band whose wearer follows the page's cues, by default three times as fast as people, and otherwise rests."""

    def __init__(self, speed: float = 3.0) -> None:
        self._speed = speed
        self.info, self.counts = StreamInfo("wearer", N_CHANNELS, RATE_HZ), LinkCounts()
        self.asked: Callable[[], str] = lambda: "Rest"
        self.is_gone = False
        self._stopping = threading.Event()

    def __enter__(self) -> "Wearer":
        self._stopping.clear()
        return self

    def __exit__(self, *exc: object) -> None: ...

    def stop(self) -> None:
        self._stopping.set()

    def __iter__(self) -> Iterator[Block]:
        noise = np.random.default_rng(99)
        began_s, at = time.monotonic(), 0
        while not self._stopping.wait(0.02):
            if self.is_gone:
                raise LinkError("the wearer left with the band")
            n = round(self._speed * (time.monotonic() - began_s) * RATE_HZ) - at
            strong = 2 + np.array(STRONG.get(self.asked(), STRONG["Rest"]))
            samples = (noise.normal(0, 1, (n, N_CHANNELS)) * strong).astype(np.float32)
            yield Block(samples, at, at / RATE_HZ, time.monotonic())
            at += n


def mine(folder: Path, gestures: tuple[str, ...] = HAND) -> Bundle:
    """A bundle that was taught these gestures."""
    repetitions = [Repetition(name, n, made(name, 2.5, 10 * n + len(name))) for n in (1, 2, 3) for name in gestures]
    path = folder / "mine.cpep"
    write_taught(path, fit_taught(repetitions, "Rest", design_reading(N_CHANNELS, RATE_HZ)), repetitions, "a test")
    return Bundle.open(path)


@contextmanager
def running(bundle: Bundle, source: BlockSource, **options: object) -> Iterator[tuple[ViewServer, Acting, Live]]:
    """Run the live loop of a bundle on an open source, with a page that may act."""
    recogniser = Recogniser(bundle)
    taps: list[Acting] = []
    loop = Live(source, recogniser, taps=taps)
    view = LiveView("mine.cpep", recogniser, loop, None)
    taps.append(Acting(bundle, recogniser, view, **options))
    with ViewServer(view, port=0, acting=taps[0]) as server:
        thread = threading.Thread(target=lambda: [view.stats.add(decision) for decision in loop])
        thread.start()
        try:
            yield server, taps[0], loop
        finally:
            taps[0].close()
            source.stop()
            thread.join()


def ask(server: ViewServer, name: str, asked: object, **changed: str | None) -> tuple[int, dict[str, object]]:
    """Request an action as a page does; returns status and answer. changed: headers to replace; None: omit it."""
    origin = server.url.rstrip("/")
    headers = {"x_cpep_act": server._act_token, "origin": origin, "content_type": "application/json", **changed}
    told = {key.replace("_", "-"): value for key, value in headers.items() if value is not None}
    content = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    request = urllib.request.Request(f"{server.url}act/{name}", content, told)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
