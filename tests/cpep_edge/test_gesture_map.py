"""The map from gestures to actions."""

import socket
from pathlib import Path

import pytest

from cpep_edge.decisions import Decision
from cpep_edge.errors import ConfigError
from cpep_edge.gesture_map import MapSink, load_map
from cpep_edge.lesson import DEFAULT_GESTURES


def decided(gesture: str, *, changed: bool = True) -> Decision:
    return Decision(100, 1.5, gesture, changed, gesture, 0.9, 0.9, False, False, 1.0)


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "map.toml").write_text(text)
    return tmp_path / "map.toml"


def test_the_example_fits_the_gestures_that_teach_begins_with():
    path = Path(__file__).parents[2] / "examples" / "map.toml"
    assert set(load_map(path, DEFAULT_GESTURES).gesture) == set(DEFAULT_GESTURES)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[gesture.Zack]\nkey = 'a'", "has no gesture Zack, it has Fist, Open"),
        ("[gesture.Fist]", "Fist does nothing"),
        ("[gesture.Fist]\nmouse = 'up'", "gesture.Fist.mouse"),
        ("[gesture.Fist]\nmidi = {note = 200}", "gesture.Fist.midi.note"),
        ("[gesture.Fist]\nosc = {address = 'light'}", "gesture.Fist.osc.address"),
        ("[gesture.Fist]\nkee = 'a'", "gesture.Fist.kee"),
        ("gesture = 3", "map .*: gesture"),
        ("[", "cannot be read"),
    ],
)
def test_a_map_that_cannot_be_is_told_where(tmp_path, text, says):
    with pytest.raises(ConfigError, match=says):
        load_map(written(tmp_path, text), ["Fist", "Open"])


def test_a_dry_run_says_each_gesture_once_and_does_nothing(tmp_path):
    path = written(tmp_path, "[gesture.Fist]\nkey = 'space'\nmidi = {note = 60}")
    said: list[str] = []
    sink = MapSink(load_map(path, ["Fist", "Open"]), said.append)
    for decision in (decided("Fist"), decided("Fist", changed=False), decided("Open"), decided("Fist")):
        sink.decision(decision)
    sink.close()
    assert [line.split("s  ")[1] for line in said] == ["Fist: press space, MIDI note 60 on channel 1"] * 2


def test_an_osc_message_goes_out_when_the_gesture_is_decided_on(tmp_path):
    message = pytest.importorskip("pythonosc.osc_message").OscMessage
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(10)
        text = f"[gesture.Fist]\nosc = {{address = '/light', value = 2.5}}\n[osc]\nport = {listener.getsockname()[1]}"
        sink = MapSink(load_map(written(tmp_path, text), ["Fist"]))
        sink.decision(decided("Fist"))
        heard = message(listener.recv(1000))
        sink.close()
    assert (heard.address, heard.params) == ("/light", [2.5])
