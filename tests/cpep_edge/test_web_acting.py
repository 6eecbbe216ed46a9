"""A page's actions on a run, by its protocol: who may act, one action at a time, and clear refusals."""

import csv
import json
import re
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest

from cpep_edge.blocks import BlockSource
from cpep_edge.bundle import Bundle
from cpep_edge.lesson import Timing
from cpep_edge.live_loop import Live, check_stream, expected_stream
from cpep_edge.names import UNKNOWN
from cpep_edge.session import Session

pytest.importorskip("starlette")
client = pytest.importorskip("websockets.sync.client")

from cpep_bridge.chosen_port import ChosenPort  # noqa: E402 - after the skips
from cpep_bridge.devices import open_source  # noqa: E402
from cpep_bridge.simulator import SimulatedBand  # noqa: E402
from cpep_edge.web.acting import Acting  # noqa: E402
from cpep_edge.web.server import ViewServer  # noqa: E402
from tests.cpep_edge.test_web import messages_until, stream_url  # noqa: E402
from tests.cpep_edge.test_web_browser import GESTURE, axe_faults, see  # noqa: E402
from tests.cpep_edge.worn_page import N_CHANNELS, RATE_HZ, WRIST, Wearer, ask, made, mine, running  # noqa: E402
from tests.processes import invoke, start  # noqa: E402
from tests.waiting import wait  # noqa: E402

Page = tuple[ViewServer, Acting, Live]


@pytest.fixture
def wearer() -> Wearer:
    return Wearer()


@pytest.fixture
def page(tmp_path, wearer) -> Iterator[Page]:
    bundle = mine(tmp_path)

    def open_port(port: str, device: str) -> BlockSource:
        return wearer if port == "wearer" else open_source(port, device=device)

    with ChosenPort(
        expected_stream(bundle.manifest), open_port, lambda info: check_stream(info, bundle.manifest), waits=True
    ) as chosen:
        chosen.choose("wearer", "cpep")
        timing = Timing(first_rest_s=3.0, rest_s=2.5, make_s=2.5)
        with running(bundle, chosen, chosen=chosen, timing=timing) as page:
            acting = page[1]
            wearer.asked = lambda: (  # "Radial" is the wearer's other movement
                doing.gesture or "Radial" if (doing := acting.doing) is not None and doing.now else "Rest"
            )
            yield page


def told(acting: Acting) -> str:
    """Wait until an action ends; returns its result as text."""
    wait(lambda: acting.doing is None)
    return acting.told


def watch(acting: Acting) -> set[tuple[str, bool, int]]:
    """All cues until the action ends: the gesture, whether to make it now, and the number of repetitions done."""
    seen = set()
    while (doing := acting.doing) is not None:
        seen.add((doing.gesture, doing.now, doing.n_done))
        time.sleep(0.02)
    return seen


def test_only_the_page_of_this_run_may_act(page):
    server, acting, _ = page
    with client.connect(stream_url(server), proxy=None) as connection:
        assert messages_until(connection, "about")["act_token"] == server._act_token
    for lie in (
        {"x_cpep_act": "guess"},
        {"x_cpep_act": None},
        {"origin": "http://elsewhere.example"},
        {"origin": None},  # not from a browser, because those send an origin
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
        ("calibrate", [1], "not a JSON object"),
        ("record", {"gestures": ["Fist", "../etc/passwd"]}, "'../etc/passwd' is used in a file name"),
        ("record", {"gestures": []}, "record: gestures"),
        ("record", {"gestures": ["Fist", "unknown"]}, "what no gesture is called"),
        ("record", {"gestures": ["\ud800"]}, "not a name for a gesture"),
        ("calibrate", b"[" * 9_000, "nested too deeply"),
        ("calibrate", b'{"seconds": NaN}', "not a number of JSON|NaN"),
        ("connect", {}, "connect: port: Field required"),
        ("test", {"game": "targets"}, "two pairs of opposite gestures are needed, .* has 1"),
        ("test", {"game": "chess"}, "test: game"),
        ("teach", {"gestures": ["Fist"]}, "at least 2"),
        ("gates", {"min_confidence": 2}, "gates: min_confidence"),
        ("forget", {"gesture": "Nothing"}, "has no gesture Nothing"),
        ("rename", {"gesture": "Nothing", "called": "x"}, "has no gesture Nothing"),
        ("rename", {"gesture": "Fist", "called": "Open"}, "already shown as Open"),
        ("rename", {"gesture": "Fist", "called": "a\u202eb"}, "printable"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(page, name, asked, says):
    status, answer = ask(page[0], name, asked)
    assert status == 409
    assert re.search(says, str(answer["error"]))


def test_one_thing_is_done_at_a_time_and_what_is_stopped_leaves_nothing_changed(page):
    server, acting, loop = page
    before = loop.engine
    assert ask(server, "calibrate", {"rest_s": 5, "seconds": 60})[0] == 200
    status, answer = ask(server, "record", {"gestures": ["Fist"]})
    assert (status, answer["error"]) == (409, "busy: somebody lets the page calibrate; stop it first")
    assert ask(server, "stop", {})[0] == 200
    assert acting.doing is None
    assert loop.engine is before


def test_what_is_recorded_by_prompts_is_a_corpus_that_can_be_downloaded(page, tmp_path):
    server, acting, _ = page
    asked = {"gestures": ["Fist", "Open"], "seconds": 1, "rest_s": 0.5, "repetitions": 2}
    assert ask(server, "record", asked)[0] == 200
    seen = watch(acting)
    assert re.search(r"recorded 4 of 4, 4\.0 s", acting.told)
    for cue in (("Fist", False, 0), ("Fist", True, 0), ("Open", True, 1), ("Fist", True, 2), ("Open", True, 3)):
        assert cue in seen
    names = acting.state()["recordings"]
    assert isinstance(names, list)
    assert len(names) == 5
    for name in names:
        url = f"{server.url}download/{name}?act={server._act_token}"
        with urllib.request.urlopen(url, timeout=120) as answer:
            (tmp_path / name).write_bytes(answer.read())
    rows = list(csv.DictReader((tmp_path / "metadata.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["stage"], row["split"]) for row in rows] == [
        ("Fist", "train"),
        ("Open", "train"),
        ("Fist", "test"),
        ("Open", "test"),
    ]
    for row in rows:
        with Session(tmp_path / f"{row['filename']}.hdf5") as session:
            assert (session.meta.num_channels, session.n_samples) == (N_CHANNELS, RATE_HZ)
    for wrong in (f"{server.url}download/{names[0]}", f"{server.url}download/manifest.json?act={server._act_token}"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(wrong, timeout=120)
        assert refused.value.code in (403, 404)
        refused.value.close()


def test_a_prompt_that_is_stopped_in_the_middle_is_not_kept(page):
    server, acting, _ = page
    assert ask(server, "record", {"gestures": ["Fist"], "seconds": 60, "rest_s": 0})[0] == 200
    wait(lambda: acting.doing is not None and acting.doing.now)
    assert ask(server, "stop", {})[0] == 200
    assert acting.told.startswith("stopped; recorded 0 of 1")
    assert list((acting.folder / "recordings").iterdir()) == []  # nor a journal


def test_another_device_is_connected_and_the_calibration_of_the_first_does_not_count_for_it(page):
    server, acting, loop = page
    before = loop.engine
    signal = made("Fist", 2.0, 98)
    wide = SimulatedBand([np.zeros((500, 9), np.float32)], RATE_HZ)
    with SimulatedBand([signal], RATE_HZ, serial_number="SIM-0002") as other, wide:
        assert ask(server, "connect", {"port": wide.port})[0] == 200
        assert "has 9 channels, but mine was trained on 4" in told(acting)
        assert loop.engine is before
        assert ask(server, "connect", {"port": other.port})[0] == 200
        assert "which is another than before" in told(acting)
        assert acting.state()["port"] == other.port
        wait(lambda: loop.engine.last_block_s is not None)
        with client.connect(stream_url(server), proxy=None) as connection:
            assert other.port in str(messages_until(connection, "about")["title"])


def test_a_device_that_vanishes_while_it_is_taught_loses_nothing_and_the_lesson_goes_on(page, wearer):
    server, acting, loop = page
    lesson = {"gestures": ["Fist", "Open"], "repetitions": 1}
    assert ask(server, "teach", lesson)[0] == 200
    kept = acting.folder / "taught-1.recordings"
    wait(lambda: len(list(kept.glob("*.hdf5"))) >= 1)
    wearer.is_gone = True
    assert re.search("the device is gone; .* keeps what was recorded", told(acting))
    assert (acting.state()["port"], acting.state()["lost"]) == ("", "the wearer left with the band")
    n_kept = len(list(kept.glob("*.hdf5")))
    status, answer = ask(server, "teach", lesson)
    assert (status, answer["error"]) == (409, "no device is connected: choose one first")
    wearer.is_gone = False
    assert ask(server, "connect", {"port": "wearer"})[0] == 200
    assert told(acting) == "connected to wearer on wearer"  # the same device, so its calibration counts
    assert ask(server, "teach", lesson)[0] == 200
    assert told(acting).startswith("taught Rest, Fist, Open")
    assert len(list(kept.glob("*.hdf5"))) > n_kept
    assert [gesture.name for gesture in loop.engine._recogniser.manifest.gestures] == ["Rest", "Fist", "Open", UNKNOWN]
    assert ask(server, "teach", {"gestures": ["Fist", "Point"]})[0] == 200  # other gestures: the first bundle is kept
    wait(lambda: acting.doing is not None and acting.doing.n_steps == 9)
    assert ask(server, "stop", {})[0] == 200
    assert (acting.folder / "taught-1.cpep").is_dir()


def test_a_run_that_is_recorded_is_not_changed_from_the_page(tmp_path, wearer):
    with running(mine(tmp_path), wearer, is_recorded=True) as (server, _, loop):
        before = loop.engine, loop.engine.spec
        for name, asked in (
            ("calibrate", {}),
            ("teach", {"gestures": ["A", "B"]}),
            ("gates", {"min_confidence": 0.9, "apply": True}),
            ("forget", {"gesture": "Fist"}),
        ):
            status, answer = ask(server, name, asked)
            assert (status, "this run is being recorded" in str(answer["error"])) == (409, True)
        assert (loop.engine, loop.engine.spec) == before
        assert ask(server, "gates", {"min_confidence": 0.9})[0] == 200  # a preview is allowed


def test_thresholds_are_shown_on_what_was_before_they_count(page, wearer):
    server, _, loop = page
    wearer.asked = lambda: ("Fist", "Rest")[int(2 * time.monotonic()) % 2]

    def decided(**gates: float) -> int:
        return len(ask(server, "gates", gates)[1]["changes"])

    wait(lambda: decided(min_confidence=0.0) >= 3)
    assert decided(min_confidence=1.0, debounce_ms=5000) < 3
    assert loop.engine.spec.min_vote_share == loop.engine._recogniser.manifest.decision.min_vote_share
    assert ask(server, "gates", {"min_confidence": 0.87, "apply": True})[0] == 200
    assert loop.engine.spec.min_vote_share == 0.87
    with client.connect(stream_url(server), proxy=None) as connection:
        assert messages_until(connection, "about")["min_vote_share"] == 0.87


def test_a_gesture_that_is_renamed_reads_so_at_once_and_keeps_its_label(page):
    server, acting, loop = page
    assert ask(server, "gates", {"min_confidence": 0.87, "apply": True})[0] == 200
    assert ask(server, "rename", {"gesture": "Fist", "called": "Play music"})[0] == 200
    with client.connect(stream_url(server), proxy=None) as connection:
        about = messages_until(connection, "about")
    assert {"label": "Fist", "name": "Play music", "kind": "taught"} in about["gestures"]
    assert about["min_vote_share"] == 0.87  # the page's choice is kept
    assert loop.engine.donning.level_uv is not None
    assert Bundle(acting.folder.parent / "mine.cpep").manifest.shown("Fist") == "Play music"


def test_a_signed_bundle_is_not_changed_by_a_page_that_has_no_key(page):
    server, acting, _ = page
    acting._bundle.manifest = acting._bundle.manifest.model_copy(update={"signer": "0" * 16})
    for name, asked in (("rename", {"gesture": "Fist", "called": "x"}), ("forget", {"gesture": "Fist"})):
        status, answer = ask(server, name, asked)
        assert (status, "is signed" in str(answer["error"])) == (409, True)


def test_a_calibration_from_the_page_is_used_at_once_and_kept(page):
    from cpep_edge.calibration import load_profile

    server, acting, loop = page
    assert ask(server, "calibrate", {"rest_s": 0, "seconds": 4})[0] == 200
    assert "calibrated" in told(acting)
    profile = load_profile(acting.folder / "profile.json")
    assert np.array_equal(loop.engine.donning.level_uv, np.array(profile.level_uv, np.float32))
    with client.connect(stream_url(server), proxy=None) as connection:
        assert messages_until(connection, "about")["calibrated"] == "calibrated"


def test_live_without_a_port_waits_until_a_device_is_chosen_on_the_page(tmp_path):
    live = ("live", mine(tmp_path).path)
    refused = invoke(*live)
    assert (refused.exit_code, "give --port, or --web" in refused.stderr) == (2, True)
    options = ("--web", "--web-port", "0", "--seconds", "1", "--json")
    signal = [made("Fist", 2.0, 96)]
    with start("-m", "cpep_edge", *live, *options) as run, SimulatedBand(signal, RATE_HZ) as band:
        url = next(line.split()[1] for line in run.stderr if line.startswith("open "))
        with client.connect(url.replace("http", "ws") + "live", proxy=None) as connection:
            headers = {"x-cpep-act": messages_until(connection, "about")["act_token"], "origin": url.rstrip("/")}
            assert messages_until(connection, "state")["port"] == ""
        body = json.dumps({"port": band.port}).encode()
        request = urllib.request.Request(f"{url}act/connect", body, headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert answer.status == 200
        out, _ = run.communicate(timeout=120)
    assert run.returncode == 0
    assert any(json.loads(line).get("gesture") == "Fist" for line in out.splitlines())


DOING = "document.getElementById('doing').checkVisibility()"
WANTED = "document.getElementById('wanted').textContent"
TOLD = "document.getElementById('told').textContent"


def do(browser, name: str, **typed: str) -> None:
    """Open the dialog, fill in one of its forms, and submit it."""
    browser.find_element("id", "act").click()
    form = browser.find_element("css selector", f"form[data-act={name}]")
    for field, text in typed.items():
        element = form.find_element("name", field)
        browser.execute_script("arguments[0].value = ''", element)
        element.send_keys(text)
    form.find_element("css selector", "button:not([type])").click()


@pytest.mark.slow
def test_in_a_browser_one_connects_calibrates_records_teaches_renames_and_downloads(browser, page, tmp_path):
    server, acting, loop = page
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.get(server.url)
    see(browser, GESTURE, lambda name: name == "Rest")
    browser.execute_script("""
        window.beeps = 0;
        const make = AudioContext.prototype.createOscillator;
        AudioContext.prototype.createOscillator = function () { window.beeps += 1; return make.call(this); };
    """)
    browser.find_element("id", "act").click()
    assert axe_faults(browser) == []
    browser.find_element("id", "beep").click()
    browser.find_element("css selector", "#actions form[method=dialog] button").click()
    begun = browser.execute_script("return window.beeps")
    spec = loop.engine.spec
    do(browser, "gates")
    see(browser, "document.getElementById('actions').open", lambda is_open: not is_open)
    assert loop.engine.spec == spec  # no slider was moved

    do(browser, "connect", port="wearer")
    see(browser, TOLD, lambda text: text == "the device on wearer is connected already")

    do(browser, "calibrate", rest_s="2", seconds="6")
    see(browser, DOING, bool)
    see(browser, TOLD, lambda text: str(text).startswith("calibrated; the profile is"))
    see(browser, "document.getElementById('calibrated').textContent", lambda text: text == "calibrated")

    do(browser, "record", gestures="Fist, Open", seconds="2", rest_s="2")
    see(browser, f"[{WANTED}, document.getElementById('shape').checkVisibility()]", lambda now: now == ["Open", True])
    assert axe_faults(browser) == []
    see(browser, TOLD, lambda text: str(text).startswith("recorded 2 of 2"))
    assert browser.execute_script("return window.beeps") - begun == 3  # one for moving, two for the gestures

    do(browser, "teach", gestures="Fist, Open", repetitions="2")
    see(browser, WANTED, lambda text: text == "Fist")
    browser.find_element("id", "stop").click()
    see(browser, TOLD, lambda text: "keeps what was recorded, and teaching them again goes on" in str(text))
    assert axe_faults(browser) == []
    do(browser, "teach", gestures="Fist, Open", repetitions="2")
    see(browser, TOLD, lambda text: str(text).startswith("taught Rest, Fist, Open, "))
    see(browser, "document.getElementById('calibrated').textContent", lambda text: text == "as taught")

    from selenium.webdriver.common.keys import Keys

    browser.find_element("id", "act").click()
    name = browser.find_element("css selector", "#known input[aria-label='How Fist reads']")
    name.send_keys(Keys.CONTROL, "a", Keys.NULL, "Play")  # `clear` would commit the change and so rename
    shown = "[...document.querySelectorAll('#shares .name')].map((name) => name.textContent)"
    acting.act("rename", {"gesture": "Open", "called": "Flat hand"})  # someone else, meanwhile
    see(browser, shown, lambda names: names == ["Rest", "Fist", "Flat hand", "no gesture"])
    name.send_keys(" music\n")
    see(browser, shown, lambda names: names == ["Rest", "Play music", "Flat hand", "no gesture"])
    for text, file in (("Download the bundle", "bundle.zip"), ("user_page_Fist_1.hdf5", "user_page_Fist_1.hdf5")):
        browser.find_element("link text", text).click()
        wait((tmp_path / file).is_file)
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        archive.extractall(tmp_path / "got")
    assert Bundle(tmp_path / "got" / "taught-1.cpep").manifest.shown("Fist") == "Play music"
    with Session(tmp_path / "user_page_Fist_1.hdf5") as session:
        assert session.n_samples == 2 * RATE_HZ
    assert [entry["message"] for entry in browser.get_log("browser") if "409" not in entry["message"]] == []
    browser.execute_script("localStorage.clear()")


@pytest.mark.slow
def test_in_a_browser_a_wearer_who_does_what_is_asked_wins_the_test_and_one_who_rests_does_not(browser, page, wearer):
    server, acting, _ = page
    browser.get(server.url)
    see(browser, GESTURE, lambda name: name == "Rest")
    do(browser, "test", rounds="2")
    see(browser, f"[{WANTED}, document.getElementById('shape').checkVisibility()]",
        lambda now: isinstance(now, list) and now[0] in ("Fist", "Open") and now[1])  # fmt: skip
    see(browser, "document.getElementById('held').value", lambda share: share > 0)
    assert axe_faults(browser) == []
    see(browser, TOLD, lambda text: str(text).startswith("4 of 4 held, in "))
    assert browser.execute_script(f"return {TOLD}").endswith("; 0 false")
    wearer.asked = lambda: "Rest"
    do(browser, "test", rounds="1")
    see(browser, TOLD, lambda text: text == "0 of 2 held; 0 false")
    kept = [json.loads(line) for line in (acting.folder / "tests.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(score["n_hits"], score["n_asked"], score["bundle"]) for score in kept] == [(4, 4, "mine"), (0, 2, "mine")]
    assert "Rings need two pairs" in browser.execute_script("return document.getElementById('axes').textContent")


def steered(acting: Acting) -> str:
    """The gesture that moves the point of a game towards its target."""
    game = None if acting.doing is None else acting.doing.game
    if game is None:
        return "Rest"
    (x, y), target = game["cursor"], game["target"]
    dx, dy = target["x"] - x, target["y"] - y
    if abs(dx) > 0.06:
        return "WristExtension" if dx > 0 else "WristFlexion"
    return ("Radial" if dy > 0 else "Ulnar") if abs(dy) > 0.06 else "Rest"


@pytest.mark.slow
def test_in_a_browser_a_point_is_driven_into_rings_by_two_pairs_of_gestures(browser, tmp_path):
    wearer = Wearer(speed=1.0)
    with running(mine(tmp_path, WRIST), wearer) as (server, acting, _):
        wearer.asked = lambda: steered(acting)
        browser.get(server.url)
        see(browser, GESTURE, lambda name: name == "Rest")
        browser.find_element("id", "act").click()
        browser.find_element("css selector", "#actions option[value=targets]").click()
        browser.find_element("css selector", "#actions form[method=dialog] button").click()
        do(browser, "test", rounds="1")
        see(browser, "document.getElementById('arena').checkVisibility()", bool)
        assert axe_faults(browser) == []
        see(browser, TOLD, lambda text: re.match(r"4 of 4 targets reached, \d\.\d\d bit/s", str(text)) is not None)


@pytest.mark.slow
def test_in_a_browser_two_people_who_act_at_once_are_told_and_a_device_that_vanishes_is_said(browser, page, wearer):
    server, acting, _ = page
    browser.get(server.url)
    see(browser, GESTURE, lambda name: name == "Rest")
    assert ask(server, "record", {"gestures": ["Fist"], "seconds": 600})[0] == 200  # someone else
    see(browser, DOING, bool)
    do(browser, "calibrate")
    refused = "document.getElementById('refused').textContent"
    see(browser, refused, lambda text: text == "busy: somebody lets the page record; stop it first")
    assert axe_faults(browser) == []
    browser.find_element("css selector", "#actions form[method=dialog] button").click()
    wearer.is_gone = True
    see(browser, "document.getElementById('link').textContent",
        lambda text: text == "the wearer left with the band; choose a device with Do")  # fmt: skip
    see(browser, TOLD, lambda text: str(text).startswith("the device is gone; recorded 0 of 1"))
    assert axe_faults(browser) == []
    wearer.is_gone = False
    do(browser, "connect", port="wearer")
    see(browser, "document.body.dataset.link", lambda link: link == "live")
