"""What `devices` and `doctor` see, and what they say to do about it."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from cpep_bridge.channel_health import assess_channels
from cpep_bridge.doctor import examine_device, examine_latency, examine_packages
from cpep_bridge.ports import find_ports
from cpep_bridge.pty_port import PtyPort
from cpep_bridge.simulator import SimulatedBand
from cpep_edge.cli import app
from cpep_edge.session import Session

RATE_HZ = 2_000.0


def test_each_kind_of_sick_channel_is_told_from_healthy_emg() -> None:
    rng, time_s = np.random.default_rng(0), np.arange(6_000) / RATE_HZ
    samples = rng.normal(0, 40, (6_000, 6)).astype(np.float32) + 300
    samples[:, 1] = 17.0
    samples[:, 2] = np.clip(60 * samples[:, 2] - 18_000, -4_000, 4_000)
    samples[:, 3] += 200 * np.sin(2 * np.pi * 50 * time_s)
    samples[:, 4] += 200 * np.sin(2 * np.pi * 60.1 * time_s)
    health = assess_channels(samples, RATE_HZ)

    assert [channel.flat for channel in health] == [False, True, False, False, False, False]
    assert [channel.saturated for channel in health] == [False, False, True, False, False, False]
    assert [channel.hum_hz for channel in health] == [None, None, None, 50.0, 60.0, None]
    assert health[0].rms == pytest.approx(40, rel=0.1)


def test_the_doctor_names_sick_channels_and_what_to_do(emg_uv: NDArray[np.float32]) -> None:
    emg_uv[:, 5] = 0
    with SimulatedBand([emg_uv], RATE_HZ) as band:
        findings = list(examine_device(band.port, "cpep", 0.6))
    said = {finding.about: (finding.state, finding.said) for finding in findings}

    assert said["channel 5"] == ("bad", "is flat: it is not connected, or switched off")
    assert "electrodes" not in said
    assert findings[0].said.startswith("cpep simulated band answers: 16 channels at 2000 Hz")
    assert any("samples arrive at" in finding.said for finding in findings)


def test_the_doctor_finds_nothing_wrong_with_a_healthy_band(emg_uv: NDArray[np.float32]) -> None:
    with SimulatedBand([emg_uv], RATE_HZ) as band:
        findings = list(examine_device(band.port, "cpep", 0.6))

    assert {finding.state for finding in findings} <= {"good", "note"}
    assert findings[-1].said.startswith("16 channels are alive")


def test_a_port_where_nothing_answers_is_the_finding(pty_port: PtyPort) -> None:
    (finding,) = examine_device(pty_port.path, "cpep", 0.5)

    assert finding.state == "bad"
    assert "is the band switched on" in finding.said


def test_a_slow_latency_timer_is_named_with_the_command_that_cures_it(tmp_path: Path) -> None:
    timer = tmp_path / "ttyUSB0" / "latency_timer"
    timer.parent.mkdir()
    timer.write_text("16\n")
    (finding,) = examine_latency("/dev/ttyUSB0", tmp_path)
    timer.write_text("1\n")
    (cured,) = examine_latency("/dev/ttyUSB0", tmp_path)

    assert finding.state == "note"
    assert "holds bytes back for 16 ms" in finding.said
    assert f"echo 1 | sudo tee {timer}" in finding.said
    assert cured.state == "good"
    assert list(examine_latency("/dev/ttyACM0", tmp_path)) == []


def test_packages_that_a_device_needs_are_named_with_their_versions() -> None:
    findings = {finding.about: finding for finding in examine_packages()}

    assert findings["pyserial"].state == "good"
    assert findings["numpy"].said == np.__version__


def test_a_band_is_listed_with_what_it_says_and_a_silent_port_with_why(
    pty_port: PtyPort, emg_uv: NDArray[np.float32]
) -> None:
    with SimulatedBand([emg_uv], RATE_HZ) as band:
        found = {port.port: port for port in find_ports([band.port, pty_port.path], timeout_s=0.3)}

    assert found[band.port].band == "cpep simulated band"
    assert (found[band.port].n_channels, found[band.port].serial_number) == (16, "SIM-0001")
    assert "nothing on" in found[pty_port.path].problem


def test_the_commands_of_the_link_work_from_end_to_end(tmp_path: Path, emg_uv: NDArray[np.float32]) -> None:
    runner = CliRunner()
    with SimulatedBand([emg_uv], RATE_HZ) as band:
        band_port = band.port
        listed = runner.invoke(app, ["devices", "--port", band.port, "--json"])
        checked = runner.invoke(app, ["doctor", "--port", band.port, "--seconds", "1", "--json"])
        out = tmp_path / "one.hdf5"
        options = ["--port", band.port, "--out", str(out), "--seconds", "0.4", "--user", "anna", "--stage", "rest"]
        recorded = runner.invoke(app, ["record", *options, "--json"])
    soaked = runner.invoke(app, ["soak", "--seconds", "1", "--out", str(tmp_path), "--json"])

    assert {port["port"]: port["band"] for port in json.loads(listed.stdout)["ports"]}[
        band_port
    ] == "cpep simulated band"
    assert json.loads(checked.stdout)["healthy"] is True
    assert json.loads(recorded.stdout)["recorded"][0]["n_samples"] == 800
    assert json.loads(soaked.stdout)["passed"] is True
    assert (tmp_path / "soak.md").read_text().startswith("# Soak run: 1 s of signal, passed")
    with Session(out) as session:
        assert (session.meta.user, session.n_samples) == ("anna", 800)
