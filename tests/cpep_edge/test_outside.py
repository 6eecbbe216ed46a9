"""Text from outside is neither markup nor an escape code, wherever it is shown."""

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cpep_edge.blocks import LinkCounts
from cpep_edge.cli import output
from cpep_edge.cli.view import render
from cpep_edge.decisions import Decision
from cpep_edge.errors import CpepError
from cpep_edge.live_stats import Change, LiveSummary
from cpep_edge.outside import printable, user_folder
from cpep_edge.trusted_keys import configured_key
from cpep_edge.vouched import remember, remembers

ESCAPES = "band\x1b]0;OWNED\x1b\\\x1b]52;c;ZWNo\x07\x9b31m\nERROR fake\r\u202egnp"
MARKUPS = ["[/nope]", "[link=https://evil.example]click[/link]", "[bold]", ":smile:"]
SUMMARY = LiveSummary(0, 0, 0, {}, None, None, None, 0, 0, 0, 0, LinkCounts())
DECISION = Decision(0, 0.0, "Fist", True, "Fist", 0.5, 0.5, False, False, 1.0)


@given(st.text())
def test_what_is_shown_is_one_line_of_visible_letters(text):
    shown = printable(text)

    assert all(letter.isprintable() or letter.isspace() for letter in shown)
    assert not set("\x1b\x07\x9b\n\r\u2028\u202e\u200b\x00") & set(shown)
    assert len(shown) <= 200


def test_letters_of_any_language_stay():
    assert printable("手のひら Größe αβγ 👍") == "手のひら Größe αβγ 👍"


@pytest.mark.parametrize("text", [ESCAPES, *MARKUPS])
def test_the_screen_shows_names_as_they_are_and_obeys_none(text):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    console.print(render(text, replace(DECISION, gesture=text), [Change(text, 1.0)], SUMMARY))
    shown = console.file.getvalue()

    assert "\x1b]" not in shown
    assert "\nERROR" not in shown
    if text in MARKUPS:
        assert shown.count(text) == 3


@pytest.mark.parametrize("text", [ESCAPES, *MARKUPS])
def test_tables_and_lines_show_names_as_they_are_and_obey_none(text, monkeypatch, capsys):
    output.print_table(text, (text, ""), [(text, "1")])
    output.stdout.print(printable(text))
    shown = capsys.readouterr().out

    assert "\x1b" not in shown
    assert "\nERROR" not in shown
    if text in MARKUPS:
        assert text in shown


def test_a_user_without_a_home_has_no_folders_but_those_that_are_named(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user ID without an account
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert user_folder("XDG_STATE_HOME", ".local", "state") is None

    monkeypatch.setenv("XDG_STATE_HOME", "/var/lib/x")
    assert str(user_folder("XDG_STATE_HOME", ".local")) == "/var/lib/x"


def test_a_user_without_a_home_may_look_at_bundles_and_nothing_is_remembered(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "CPEP_EDGE_KEY"):
        monkeypatch.delenv(variable, raising=False)

    assert configured_key(None) is None
    assert not remembers("may run", "0" * 64)
    with pytest.raises(CpepError, match="set XDG_STATE_HOME to a folder"):
        remember("may run", "0" * 64)


@pytest.mark.parametrize("there", [False, True])
def test_a_home_that_cannot_be_written_to_is_said_with_the_way_out(there, tmp_path, monkeypatch):
    home = tmp_path / "home"
    if there:  # another user's folder, or a read-only disk
        (home / "cpep-edge").mkdir(parents=True)
        monkeypatch.setattr("os.access", lambda path, mode: False)
    else:
        home.write_text("a file in the place of the folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(home))

    with pytest.raises(CpepError, match=r"cannot write .*bundles.json: .*; set XDG_STATE_HOME to a folder"):
        remember("may run", "0" * 64)
