"""What a page may do with a run, by its protocol: who may, one thing at a time, refusals in words."""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.bundle import Bundle
from cpep_edge.live_loop import Live
from cpep_edge.live_view import LiveView
from cpep_edge.personal import Repetition, design_reading
from cpep_edge.recogniser import Recogniser
from cpep_edge.taught import fit_taught, write_taught

pytest.importorskip("starlette")
client = pytest.importorskip("websockets.sync.client")

from cpep_bridge.devices import open_source  # noqa: E402 - after the skips
from cpep_bridge.simulator import SimulatedBand  # noqa: E402
from cpep_edge.web.acting import Acting  # noqa: E402
from cpep_edge.web.server import ViewServer  # noqa: E402
from tests.cpep_edge.test_web import messages_until, stream_url  # noqa: E402

RATE_HZ, N_CHANNELS = 500.0, 4
STRONG = {"Rest": (0, 0, 0, 0), "Fist": (60, 5, 5, 20), "Open": (5, 60, 20, 5)}  # microvolts a channel


def made(name: str, seconds: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (round(seconds * RATE_HZ), N_CHANNELS))
    return (noise * (2 + np.array(STRONG[name]))).astype(np.float32)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[ViewServer, Acting, Live]]:
    """A taught bundle that runs on a simulated band whose wearer makes a fist, rests, and opens the hand."""
    repetitions = [Repetition(name, n, made(name, 2.5, 10 * n + len(name))) for n in (1, 2, 3) for name in STRONG]
    path = tmp_path / "mine.cpep"
    write_taught(path, fit_taught(repetitions, "Rest", design_reading(N_CHANNELS, RATE_HZ)), repetitions, "a test")
    opened = Bundle.open(path)
    recogniser = Recogniser(opened)
    signal = np.concatenate([made(name, 2.0, 99) for name in ("Fist", "Rest", "Open", "Rest")])
    with SimulatedBand([signal], RATE_HZ) as band, open_source(band.port) as source:
        taps: list[Acting] = []
        loop = Live(source, recogniser, taps=taps)
        view = LiveView("mine.cpep", recogniser, loop, None)
        taps.append(Acting(opened, recogniser, view))
        with ViewServer(view, port=0, acting=taps[0]) as server:
            import threading

            thread = threading.Thread(target=lambda: [view.stats.add(decision) for decision in loop])
            thread.start()
            try:
                yield server, taps[0], loop
            finally:
                taps[0].close()
                source.stop()
                thread.join()


def ask(server: ViewServer, name: str, asked: object, **changed: str | None) -> tuple[int, dict[str, object]]:
    """What the server answers to a page that asks for an action; `changed` headers lie, or are left out where None."""
    origin = server.url.rstrip("/")
    headers = {"x_cpep_act": server._act_token, "origin": origin, "content_type": "application/json", **changed}
    told = {key.replace("_", "-"): value for key, value in headers.items() if value is not None}
    request = urllib.request.Request(f"{server.url}act/{name}", json.dumps(asked).encode(), told)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def told(acting: Acting, seconds: float = 60.0) -> str:
    """How an action ended, once it has."""
    end_s = time.monotonic() + seconds
    while acting.doing is not None and time.monotonic() < end_s:
        time.sleep(0.05)
    assert acting.doing is None
    return acting.told


def test_only_the_page_of_this_run_may_act(page: tuple[ViewServer, Acting, Live]) -> None:
    server, acting, _ = page
    with client.connect(stream_url(server), proxy=None) as connection:
        assert messages_until(connection, "about")["act_token"] == server._act_token
    for lie in (
        {"x_cpep_act": "guess"},
        {"x_cpep_act": None},
        {"origin": "http://elsewhere.example"},
        {"origin": None},  # no browser's page: those say where they come from
        {"host": "elsewhere.example"},
    ):
        status, answer = ask(server, "calibrate", {}, **lie)
        assert (status, answer["error"]) == (403, "only the page that this run serves may do that")
    assert acting.doing is None


@pytest.mark.parametrize(
    ("name", "asked", "says"),
    [
        ("fly", {}, "a page cannot fly"),
        ("calibrate", {"seconds": 1e9}, "calibrate: seconds: Input should be less than"),
        ("calibrate", {"second": 3}, "calibrate: second: Extra inputs"),
        ("calibrate", [1], "no JSON object"),
        ("record", {"gesture": "../etc/passwd"}, "goes into a file's name"),
        ("teach", {"gestures": ["Fist"]}, "at least 2"),
        ("gates", {"min_confidence": 2}, "gates: min_confidence"),
        ("forget", {"gesture": "Nothing"}, "has no gesture Nothing"),
        ("rename", {"gesture": "Nothing", "called": "x"}, "has no gesture Nothing"),
        ("rename", {"gesture": "Fist", "called": "Open"}, "Open reads Open already"),
        ("rename", {"gesture": "Fist", "called": "a\u202eb"}, "printable"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(
    page: tuple[ViewServer, Acting, Live], name: str, asked: object, says: str
) -> None:
    status, answer = ask(page[0], name, asked)
    assert status == 409
    assert re.search(says, str(answer["error"]))


def test_one_thing_is_done_at_a_time_and_what_is_stopped_leaves_nothing_changed(
    page: tuple[ViewServer, Acting, Live],
) -> None:
    server, acting, loop = page
    before = loop.engine
    assert ask(server, "calibrate", {"rest_s": 5, "seconds": 60})[0] == 200
    status, answer = ask(server, "record", {"gesture": "Fist"})
    assert (status, answer["error"]) == (409, "busy: somebody lets the page calibrate; stop it first")
    assert ask(server, "stop", {})[0] == 200
    assert acting.doing is None
    assert loop.engine is before


def test_a_recording_made_from_the_page_is_the_band_s_and_can_be_downloaded(
    page: tuple[ViewServer, Acting, Live], tmp_path: Path
) -> None:
    from cpep_edge.session import Session

    server, acting, _ = page
    assert ask(server, "record", {"gesture": "Fist", "seconds": 1})[0] == 200
    assert "recorded 1.0 s" in told(acting)
    url = f"{server.url}download/Fist-1.hdf5"
    with urllib.request.urlopen(f"{url}?act={server._act_token}", timeout=20) as answer:
        (tmp_path / "got.hdf5").write_bytes(answer.read())
    with Session(tmp_path / "got.hdf5") as session:
        assert (session.meta.num_channels, session.meta.sample_rate) == (N_CHANNELS, RATE_HZ)
    for wrong in (url, f"{server.url}download/manifest.json?act={server._act_token}"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(wrong, timeout=20)
        assert refused.value.code in (403, 404)
        refused.value.close()


def test_thresholds_are_shown_on_what_was_before_they_count(page: tuple[ViewServer, Acting, Live]) -> None:
    server, acting, loop = page
    end_s = time.monotonic() + 60
    while len(acting._votes) < 60 and time.monotonic() < end_s:
        time.sleep(0.05)
    _, lax = ask(server, "gates", {"min_confidence": 0.0})
    _, strict = ask(server, "gates", {"min_confidence": 1.0, "debounce_ms": 5000})
    assert len(strict["changes"]) < len(lax["changes"])  # type: ignore[arg-type]
    assert loop.engine.spec.min_vote_share == loop.engine._recogniser.manifest.decision.min_vote_share
    assert ask(server, "gates", {"min_confidence": 0.87, "apply": True})[0] == 200
    assert loop.engine.spec.min_vote_share == 0.87
    with client.connect(stream_url(server), proxy=None) as connection:
        assert messages_until(connection, "about")["min_vote_share"] == 0.87


def test_a_gesture_that_is_renamed_reads_so_at_once_and_keeps_its_label(page: tuple[ViewServer, Acting, Live]) -> None:
    server, acting, loop = page
    assert ask(server, "gates", {"min_confidence": 0.87, "apply": True})[0] == 200
    assert ask(server, "rename", {"gesture": "Fist", "called": "Play music"})[0] == 200
    with client.connect(stream_url(server), proxy=None) as connection:
        about = messages_until(connection, "about")
    assert {"label": "Fist", "name": "Play music", "kind": "taught"} in about["gestures"]
    assert about["min_vote_share"] == 0.87  # what was chosen on the page stays
    assert loop.engine.donning.level_uv is not None
    assert Bundle(acting.folder.parent / "mine.cpep").manifest.shown("Fist") == "Play music"


def test_a_signed_bundle_is_not_changed_by_a_page_that_has_no_key(page: tuple[ViewServer, Acting, Live]) -> None:
    server, acting, _ = page
    acting._bundle.manifest = acting._bundle.manifest.model_copy(update={"signer": "0" * 16})
    for name, asked in (("rename", {"gesture": "Fist", "called": "x"}), ("forget", {"gesture": "Fist"})):
        status, answer = ask(server, name, asked)
        assert (status, "is signed" in str(answer["error"])) == (409, True)


def test_a_calibration_from_the_page_is_used_at_once_and_kept(page: tuple[ViewServer, Acting, Live]) -> None:
    from cpep_edge.calibration import load_profile

    server, acting, loop = page
    assert ask(server, "calibrate", {"rest_s": 0, "seconds": 4})[0] == 200
    assert "calibrated" in told(acting)
    profile = load_profile(acting.folder / "profile.json")
    assert np.array_equal(loop.engine.donning.level_uv, np.array(profile.level_uv, np.float32))
    with client.connect(stream_url(server), proxy=None) as connection:
        assert messages_until(connection, "about")["calibrated"] == "calibrated"
