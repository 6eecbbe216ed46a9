"""The API of `import cpep_edge`, as a program uses it: a taught bundle, a simulated band on a pty, no torch."""

import inspect
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

import cpep_edge
from cpep_bridge.simulator import SimulatedBand
from cpep_edge.cli.live import live as live_command
from cpep_edge.session import SessionMeta, write_session
from tests.cpep_edge.arm import Arm
from tests.processes import python

ROOT = Path(__file__).parents[2]
RATE_HZ, N_CHANNELS = 500.0, 6
GESTURES = ("Fist", "Open")


@pytest.fixture(scope="module")
def arm() -> Arm:
    return Arm(seed=3, n_channels=N_CHANNELS, rate_hz=RATE_HZ)


@pytest.fixture(scope="module")
def bundle(arm, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("front") / "mine.cpep"
    arm.teach(path, GESTURES)
    return path


@pytest.fixture(scope="module")
def worn(arm, bundle) -> np.ndarray:
    """Two seconds of rest and of each gesture, from the arm that taught the bundle."""
    return np.concatenate([arm.make(name, 2.0) for name in ("Rest", *GESTURES)])


def in_root(*words: object) -> subprocess.CompletedProcess[str]:
    return python(*words, timeout=120, cwd=ROOT)


def test_importing_is_light_and_every_promised_name_is_there():
    code = (
        "import sys, cpep_edge\n"
        "heavy = {'numpy', 'scipy', 'h5py', 'torch', 'hnswlib', 'serial', 'pydantic', 'typer'} & set(sys.modules)\n"
        "print(sorted(heavy), [name for name in cpep_edge.__all__ if getattr(cpep_edge, name, None) is None])"
    )
    answer = in_root("-c", code)
    assert (answer.stdout, answer.stderr) == ("[] []\n", "")
    with pytest.raises(AttributeError, match="has no attribute 'recognize'"):
        _ = cpep_edge.recognize


@pytest.mark.parametrize("gesture", ["Rest", *GESTURES])
def test_a_window_is_taken_for_the_gesture_that_was_made(gesture, arm, bundle):
    recogniser = cpep_edge.load(str(bundle))
    assert set(recogniser.gestures) == {"Rest", *GESTURES}
    answer = recogniser.recognise(arm.make(gesture, 1.0))
    assert answer.gesture == gesture
    assert answer.confidence == answer.shares[gesture] == max(answer.shares.values())
    assert sum(answer.shares.values()) == pytest.approx(1)
    assert np.linalg.norm(answer.embedding) == pytest.approx(1)


def test_a_window_may_be_a_list_and_its_newest_part_counts(arm, bundle):
    recogniser = cpep_edge.load(bundle)
    signal = np.concatenate([arm.make("Fist", 2.0), arm.make("Open", 1.0)])
    assert recogniser.recognise(signal.tolist()).gesture == "Open"


@pytest.mark.parametrize("shape", [(6, 500), (500, 5), (500,), (10, 6)])
def test_a_window_of_another_shape_is_refused_by_name(shape, bundle):
    with pytest.raises(ValueError, match=re.escape(f"window has shape {shape}; it must be (n_samples, 6)")):
        cpep_edge.load(bundle).recognise(np.zeros(shape))


def test_a_window_that_is_not_finite_is_refused(bundle):
    window = np.zeros((500, N_CHANNELS))
    window[7, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        cpep_edge.load(bundle).recognise(window)


def test_a_band_gives_its_samples_in_rows(worn):
    with SimulatedBand([worn], RATE_HZ, speed=8, once=True, uv_per_count=0.1, lossless=True) as simulated:
        with cpep_edge.open_band(simulated.port) as band:
            assert (band.info.n_channels, band.info.sample_rate_hz, band.info.unit) == (N_CHANNELS, RATE_HZ, "uV")
            blocks = list(band)
    assert all(isinstance(block, cpep_edge.Block) for block in blocks)
    assert np.concatenate([block.samples_uv for block in blocks]) == pytest.approx(worn, abs=0.051)


def test_decisions_follow_the_wearer_and_go_where_they_are_sent(worn, bundle, tmp_path):
    sink, mapping, said = tmp_path / "decisions.jsonl", tmp_path / "map.toml", []
    mapping.write_text('[gesture.Fist]\nkey = "space"\n', encoding="utf-8")
    with SimulatedBand([worn], RATE_HZ, once=True, lossless=True) as band:
        run = cpep_edge.live(bundle, band.port, sinks=[str(sink)], mapping=mapping, dry_run=said.append)
        decided = [decision.gesture for decision in run if decision.changed]
    assert [name for name in decided if name != "unknown"][-2:] == list(GESTURES)
    assert run.summary().n_changes == len(decided)
    assert len(sink.read_text().splitlines()) == run.summary().n_decisions
    assert len(said) == 1
    assert "space" in said[0]


def test_leaving_the_loop_closes_the_band(worn, bundle):
    with SimulatedBand([worn], RATE_HZ, speed=4, lossless=True) as band:
        for _ in range(2):  # a port that was left open could not be opened again
            for decision in cpep_edge.live(bundle, band.port, timeout_s=5.0):
                assert isinstance(decision, cpep_edge.Decision)
                break


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"bundle": "none.cpep"}, "ArtifactError", "there is no such bundle"),
        ({"device": "toaster"}, "ConfigError", "there is no driver for device 'toaster'"),
        ({"profile": "none.json"}, "ArtifactError", "there is no such profile"),
        ({"wake": "Wave"}, "ConfigError", "Wave cannot wake the band"),
        ({"min_confidence": 2.0}, "ConfigError", "between 0 and 1"),
        ({"sinks": ["pigeon://loft"]}, "ConfigError", "is not a sink"),
        ({"sinks": ["log.jsonl", "log.jsonl"]}, "ConfigError", "sent to log.jsonl twice"),
        ({"hop_ms": 1e9}, "ConfigError", "a hop of 1e.09 ms is not possible"),
        ({"mapping": "none.toml"}, "ConfigError", "none.toml"),
        ({"device_config": "none.toml"}, "ConfigError", "none.toml"),
        ({"on_device": True, "wake": "Fist"}, "ConfigError", "the band decides by itself"),
    ],
)
def test_what_cannot_be_is_said_when_live_is_called_not_when_it_runs(wrong, error, said, bundle):
    options = {"bundle": bundle, "port": "/dev/null", **wrong}
    with pytest.raises(getattr(cpep_edge.errors, error), match=said):
        cpep_edge.live(**options)


@pytest.mark.parametrize("wrong", [{"hop_ms": 0.0}, {"seconds": -1.0}, {"hop_ms": float("nan")}])
def test_a_time_that_cannot_be_is_the_callers_slip(wrong, bundle):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be at least"):
        cpep_edge.live(bundle, "/dev/null", **wrong)


def test_live_takes_all_that_the_command_takes():
    """Except the options for a terminal: JSON lines on stdout, sinks as text, and opening the browser."""
    command = set(inspect.signature(live_command).parameters)
    shared = command - {"json_lines", "open_page", "sink"}
    assert set(inspect.signature(cpep_edge.live).parameters) == shared | {"sinks"}


def test_the_examples_run_on_a_simulated_band(worn, bundle, tmp_path):
    with SimulatedBand([worn], RATE_HZ, once=True, lossless=True) as band:
        answer = in_root("examples/gestures.py", bundle, band.port)
        assert (answer.returncode, answer.stderr) == (0, "")
        told = [line.split()[2] for line in answer.stdout.splitlines()]
        assert [name for name in told if name != "unknown"][-2:] == list(GESTURES)
    with SimulatedBand([worn], RATE_HZ, speed=2, once=True, lossless=True) as band:
        answer = in_root("examples/signal_levels.py", band.port)
        assert (answer.returncode, answer.stderr) == (0, "")
        head, *levels = answer.stdout.splitlines()
        assert f"{N_CHANNELS} channels at 500 Hz" in head
        assert len(levels) in (5, 6)  # of six seconds; the last is printed only if a block ends it
        assert all(line.endswith("uV, 0 samples lost") for line in levels)
    recording, time_s = tmp_path / "session.hdf5", np.arange(len(worn)) / RATE_HZ
    meta = SessionMeta("s", "me", "", "right", 0.0, float(time_s[-1]), N_CHANNELS, RATE_HZ, "session")
    write_session(recording, meta, time_s, worn, np.zeros((len(worn), 20), np.float32))
    answer = in_root("examples/recognise_recording.py", bundle, recording)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert [line.split()[2] for line in answer.stdout.splitlines()] == ["Rest"] * 2 + ["Fist"] * 2 + ["Open"] * 2


def test_the_readmes_program_works_as_pasted(arm, worn, bundle, tmp_path):
    from cpep_edge.calibration import calibrate, save_profile
    from cpep_edge.recogniser import Recogniser

    with SimulatedBand([worn], RATE_HZ, speed=8, lossless=True) as band, cpep_edge.open_band(band.port) as source:
        save_profile(calibrate(source, Recogniser(cpep_edge.Bundle(bundle)), 6.0), tmp_path / "profile.json")
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)
    with SimulatedBand([worn], RATE_HZ, once=True, lossless=True) as band:
        for pasted, here in (("my.cpep", bundle), ("/dev/ttyACM0", band.port), ("profile.json", tmp_path)):
            assert pasted in program
            program = program.replace(pasted, str(here / pasted if here == tmp_path else here))
        answer = in_root("-c", program)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert set(answer.stdout.split()) >= set(GESTURES)


@pytest.mark.parametrize("example", sorted(file.name for file in (ROOT / "examples").glob("*.py")))
def test_an_example_without_arguments_says_how_it_is_called(example):
    answer = in_root(f"examples/{example}")
    assert answer.returncode != 0
    assert f"{example} " in answer.stderr
    assert "Traceback" not in answer.stderr
