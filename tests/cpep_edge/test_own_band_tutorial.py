"""Follow the tutorial word for word with a simulated home-made band: all its files, commands and programs."""

import re
from pathlib import Path

import pytest

from tests.cpep_edge.arm import Arm
from tests.cpep_edge.line_band import LineBand
from tests.processes import environment, start

pytestmark = pytest.mark.slow

TUTORIAL = Path(__file__).parents[2] / "docs" / "own-band.md"
PORT = "/dev/ttyACM0"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), flags=re.S)


def run(words: list[str], folder: Path, band: LineBand, gestures: tuple[str, ...] = ()) -> tuple[str, str]:
    """Run in the tutorial's folder; the wearer follows stderr, or makes these gestures in turn."""
    with start(*words, cwd=folder, env=environment(OMP_NUM_THREADS="1")) as done:
        said = []
        for line in done.stderr:
            said.append(line)
            asked = re.search(r"NOW: (\w+)", line)
            if asked or "rest" in line:
                band.does(asked[1] if asked else "Rest")
            elif line.startswith("for ") and gestures:
                band.does_in_turn(gestures)
        out = done.stdout.read()
    assert done.returncode == 0, (words, out, said)
    return out, "".join(said)


def test_the_tutorial_leads_to_a_program_that_prints_gestures(tmp_path):
    (profile,), (program,) = blocks("toml"), blocks("python")
    (tmp_path / "my-band.toml").write_text(profile, encoding="utf-8")
    commands = [line.split() for block in blocks("sh") for line in block.splitlines() if line.startswith("cpep-edge")]
    assert [command[1] for command in commands] == ["doctor", "teach", "teach", "calibrate", "live"]
    gestures = ("Fist", "Open", "Point")
    with LineBand(Arm(seed=1, rate_hz=250.0)) as band:

        def cpep_edge(words: list[str], *more: str) -> tuple[str, str]:
            named = [band.port if word == PORT else word for word in words[1:]]
            return run(["-m", "cpep_edge", *named, *more], tmp_path, band, gestures)

        doctor, first, again, calibrate, live = commands
        out, _ = cpep_edge(doctor)
        assert "channels have a signal" in out
        out, _ = cpep_edge(first, "--seconds", "1")
        assert "taught Fist, Open, Point and rest, and what is not a gesture, from 12 repetitions" in out
        out, _ = cpep_edge(again)
        assert "from 13 repetitions" in out
        band.turn(1)
        out, said = cpep_edge(calibrate)
        assert "the band is turned" in said
        assert (tmp_path / "profile.json").is_file()
        band.does("Rest")
        out, _ = cpep_edge(live)
        assert re.search(r"windows of Rest\s+\d", out)
        band.does_in_turn(("Rest", *gestures), seconds=2.0)
        out, _ = run(["-c", program.replace(PORT, band.port)], tmp_path, band)
    assert set(out.split()) >= {"Rest", "Fist", "Open", "Point"}
