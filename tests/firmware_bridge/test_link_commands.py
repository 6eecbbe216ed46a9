"""The commands `simulate`, `record`, `devices`, `doctor` and `soak`, as a user runs them."""

import json
from pathlib import Path

import numpy as np
import pytest

from cpep_bridge.devices import open_source
from cpep_bridge.simulator import SimulatedBand
from cpep_edge.session import Session, SessionMeta, write_session
from tests.firmware_bridge.compiler import needs_compiler
from tests.processes import invoke, simulated

RATE_HZ = 2_000.0


@pytest.fixture
def session(tmp_path, emg_uv) -> Path:
    """A recorded session, in whole counts of the band."""
    path, time_s = tmp_path / "played.hdf5", np.arange(len(emg_uv)) / RATE_HZ
    meta = SessionMeta("s", "u", "rest", "left", 0.0, float(time_s[-1]), 16, RATE_HZ, "played")
    write_session(path, meta, time_s, np.rint(emg_uv * 4) / 4)
    return path


def test_the_commands_of_the_link_work_from_end_to_end(tmp_path, emg_uv):
    out = tmp_path / "one.hdf5"
    with SimulatedBand([emg_uv], RATE_HZ) as band:
        port = band.port
        listed = invoke("devices", "--port", port, "--json")
        checked = invoke("doctor", "--port", band.port, "--seconds", "1", "--json")
        options = ("--out", out, "--seconds", "0.4", "--user", "anna", "--stage", "rest", "--json")
        recorded = invoke("record", "--port", band.port, *options)
    soaked = invoke("soak", "--seconds", "1", "--out", tmp_path, "--json")

    assert {found["port"]: found["band"] for found in json.loads(listed.stdout)["ports"]}[port] == "cpep simulated band"
    assert json.loads(checked.stdout)["healthy"] is True
    assert json.loads(recorded.stdout)["recorded"][0]["n_samples"] == 800
    assert json.loads(soaked.stdout)["passed"] is True
    assert (tmp_path / "soak.md").read_text().startswith("# Soak run: 1 s of signal, passed")
    with Session(out) as session:
        assert (session.meta.user, session.n_samples) == ("anna", 800)


@needs_compiler
def test_simulate_plays_a_session_through_the_firmware(session):
    with simulated(str(session), "--firmware", "--once") as (port, process):
        with open_source(port) as source:
            received = np.concatenate([block.samples_uv for block in source])
            said = source.info.firmware
        _, reported = process.communicate(timeout=120)

    with Session(session) as played:
        np.testing.assert_array_equal(received, played.emg())
    assert "simulator" not in said
    assert process.returncode == 0
    assert "sent 101 frames, of which 0 were lost" in reported


def test_simulate_says_that_a_board_of_another_maker_runs_no_firmware_of_ours(session):
    answer = invoke("simulate", session, "--device", "chords", "--firmware")

    assert "a chords does not run the band's firmware" in str(answer.exception)


def test_what_record_keeps_raw_is_recorded_again_to_the_same_samples(tmp_path, session):
    raw = tmp_path / "line.pcap"
    with simulated(str(session), "--loss", "0.05", "--corrupt", "0.05") as (port, _):
        first = invoke("record", "--port", port, "--out", tmp_path / "first.hdf5", "--seconds", "0.3", "--raw", raw)
    again = invoke("record", "--port", f"file://{raw}", "--out", tmp_path / "again.hdf5", "--seconds", "0.3")

    assert (first.exit_code, again.exit_code) == (0, 0)
    with Session(tmp_path / "first.hdf5") as one, Session(tmp_path / "again.hdf5") as two:
        np.testing.assert_array_equal(one.emg(), two.emg())
        assert one.n_samples == 600
        assert one.gaps()  # both lost some samples
