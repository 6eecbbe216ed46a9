"""`cpep-edge teach` and later commands, as a user runs them, with a simulated home-made band and its wearer."""

import json
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest

from cpep_edge.blocks import Block
from cpep_edge.cli.teach import _Meanwhile
from cpep_edge.errors import LinkError
from tests.cpep_edge.arm import Arm
from tests.cpep_edge.line_band import LineBand
from tests.processes import environment, start

pytestmark = pytest.mark.slow


def obey(
    band: LineBand, *words: object, seen: Callable[["subprocess.Popen[str]", str], None] = lambda process, line: None
) -> tuple[int, str, list[str]]:
    """Run a command with a wearer who follows stderr; returns exit status, stdout and the lines of stderr."""
    with start("-m", "cpep_edge", *words, env=environment(OMP_NUM_THREADS="1")) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            asked = re.search(r"NOW: (\w+)", line)
            band.does(asked[1] if asked else "Rest")
            seen(process, line)
        out = process.stdout.read()
    return process.returncode, out, lines


def test_teach_leads_a_wearer_goes_live_and_says_what_comes_next(tmp_path):
    with LineBand(Arm(seed=1, rate_hz=250.0)) as band:
        profile, mine = band.profile(tmp_path), tmp_path / "mine.cpep"
        options = ("--gestures", "Fist,Open", "--repetitions", 2, "--seconds", 4)
        status, out, said = obey(band, "teach", mine, "--port", band.port, "--device", profile, *options)
    assert status == 0, said
    asked = [line for line in said if "NOW" in line]
    assert [re.sub(r".*NOW: (\w+).*\n", r"\1", line) for line in asked] == 2 * ["Fist", "Open", "anything"]
    assert "taught Fist, Open and rest, and what is not a gesture, from 6 repetitions" in out
    assert "on repetitions that it was not taught with, it recognises" in out
    assert re.search(r"decisions\s+\d\d", out)  # it recognised for four seconds
    assert f"after putting the band on again, first run: cpep-edge calibrate {mine}" in "".join(said)


def test_ctrl_c_and_an_unplugged_band_lose_nothing_and_the_same_command_goes_on(tmp_path):
    with LineBand(Arm(seed=1, rate_hz=250.0)) as band:
        command = ("teach", tmp_path / "mine.cpep", "--port", band.port, "--device", band.profile(tmp_path),
                   "--gestures", "Fist,Open", "--repetitions", 2, "--no-others", "--no-live", "--json")  # fmt: skip

        interrupted: list[str] = []

        def interrupt(process: "subprocess.Popen[str]", line: str) -> None:
            if "3/4  rest" in line and not interrupted:
                interrupted.append(line)
                process.send_signal(signal.SIGINT)

        status, _, _ = obey(band, *command, seen=interrupt)
        assert status == 0
        assert not (tmp_path / "mine.cpep").exists()
        status, _, said = obey(
            band, *command, "--reconnect-s", 0, seen=lambda process, line: band.switch(on="NOW" not in line)
        )
        assert status == 1
        assert "going on: " in said[0]
        assert said[-1].startswith("error: ")
        band.switch(on=True)
        status, out, said = obey(band, *command)
        assert status == 0, said
    assert json.loads(out)["gestures"] == ["Rest", "Fist", "Open"]
    assert [line[2:5] for line in said if "NOW" in line] == ["1/2", "2/2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--gestures", "Fist"), "error: Fist alone is not enough: give two gestures or more"),
        (("--gestures", "Fist,,Open"), "error: 'Fist,,Open' has a name that is empty"),
        (("--gestures", "missing.toml"), "error: list of gestures missing.toml cannot be read"),
        (("--again", "Fist"), "error: nothing was taught for .*mine.cpep yet"),
    ],
)
def test_a_bad_wish_ends_in_one_sentence_before_anything_is_asked(tmp_path, arguments, said):
    with LineBand(Arm(seed=1, rate_hz=250.0)) as band:
        band_options = ("--port", band.port, "--device", band.profile(tmp_path))
        status, _, lines = obey(band, "teach", tmp_path / "mine.cpep", *band_options, *arguments)
    assert status == 1
    (line,) = lines
    assert re.match(said, line)
    assert not (tmp_path / "mine.recordings").exists()


class SilentBand:
    """A source that is silent until it is stopped, or that fails at once."""

    def __init__(self, *, breaks: bool) -> None:
        self._breaks, self.waits, self.stopped = breaks, threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[Block]:
        self.waits.set()
        if self._breaks:
            raise LinkError("the band stopped sending")
        self.stopped.wait()
        return
        yield

    def stop(self) -> None:
        self.stopped.set()


def test_nobody_waits_for_a_band_that_is_silent_while_its_wearer_is_told_what_was_taught():
    band = SilentBand(breaks=False)
    with _Meanwhile(band, iter(band)) as meanwhile:
        band.waits.wait()
    assert not band.stopped.is_set()
    meanwhile.end()
    with pytest.raises(KeyboardInterrupt), _Meanwhile(band := SilentBand(breaks=False), iter(band)):
        raise KeyboardInterrupt
    assert band.stopped.is_set()


def test_a_band_that_broke_during_the_fit_is_an_error_when_it_is_read_on():
    band = SilentBand(breaks=True)
    with _Meanwhile(band, iter(band)) as meanwhile:
        band.waits.wait()
    with pytest.raises(LinkError, match="the band stopped sending"):
        next(meanwhile.read_on())
