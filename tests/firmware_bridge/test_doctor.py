"""What `devices` and `doctor` find, and what they advise."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from cpep_bridge.board_models import SimulatedCyton
from cpep_bridge.board_profile import find_profile
from cpep_bridge.channel_health import assess_channels
from cpep_bridge.devices import LinkOptions
from cpep_bridge.doctor import (
    Finding,
    _line,
    examine,
    examine_bundle,
    examine_device,
    examine_latency,
    examine_packages,
)
from cpep_bridge.fixed_frames import FrameLayout, pack_frame
from cpep_bridge.frames import Info
from cpep_bridge.ports import find_ports
from cpep_bridge.simulator import SimulatedBand
from cpep_edge.donning import doubled_channels
from tests.firmware_bridge.scripted import Stream

RATE_HZ = 2_000.0


def examined(emg_uv: NDArray[np.float32]) -> list[Finding]:
    """The doctor's findings for a band that sends this signal."""
    with SimulatedBand([emg_uv], RATE_HZ, lossless=True) as band:
        return list(examine_device(band.port, "cpep", 0.6))


def test_each_kind_of_sick_channel_is_told_from_healthy_emg():
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
    assert not any(channel.stuck for channel in health)


@pytest.mark.parametrize("hum_uv", [2.0, 8.0, 15.0, 60.0])
def test_a_resting_arm_in_a_room_with_mains_is_not_sick(hum_uv):
    rng, time_s = np.random.default_rng(1), np.arange(6_000) / RATE_HZ
    rest = rng.normal(0, 1.5, (6_000, 1)) + hum_uv * np.sqrt(2) * np.sin(2 * np.pi * 50 * time_s)[:, None]
    (channel,) = assess_channels(rest.astype(np.float32), RATE_HZ)

    assert channel.hum_share > 0.5
    assert channel.hum_rms == pytest.approx(hum_uv, rel=0.1)
    assert (channel.hum_hz is not None) == (hum_uv > 20)


@pytest.mark.parametrize("step_uv", [0.02, 0.25, 3.0])
def test_a_channel_that_flickers_by_a_count_is_stuck_and_a_quiet_one_is_not(step_uv):
    rng = np.random.default_rng(2)
    stuck = 1_200 + step_uv * (rng.random(6_000) < 0.1)
    quiet = step_uv * np.rint(rng.normal(0, 2.0, 6_000))
    health = assess_channels(np.stack([stuck, quiet], axis=1).astype(np.float32), RATE_HZ)

    assert [channel.stuck for channel in health] == [True, False]
    assert not any(channel.flat or channel.saturated for channel in health)


def test_the_doctor_ends_with_what_to_do_next(emg_uv, pty_port):
    with SimulatedBand([emg_uv], RATE_HZ, lossless=True) as band:
        *_, healthy = examine(band.port, "cpep", 0.6)
    *_, silent = examine(pty_port.path, "chords", 0.6, options=LinkOptions(timeout_s=0.3))
    *_, alone = examine(None)

    assert f"'cpep-edge record --port {band.port}" in healthy.said
    assert f"'cpep-edge doctor --port {pty_port.path} --device chords' again" in silent.said
    assert "cpep-edge devices" in alone.said
    assert [one.about for one in (healthy, silent, alone)] == ["next"] * 3


@pytest.mark.parametrize(
    ("device", "greeting", "asked"),
    [("cpep", b"Hello from ESP32, type h for help\r\n", None), ("chords", b"UNO-R4\r\n", b"WHORU\n")],
)
def test_devices_asks_in_every_drivers_way_and_shows_text_as_text(play, device, greeting, asked):
    def say(heard: bytes, now_s: float) -> bytes:
        return greeting if heard and (asked is None or asked in heard) else b""

    (found,) = find_ports([play(say)], timeout_s=0.8)

    if asked is None:
        assert "it sent 'Hello from ESP32, type h for help" in found.problem
    else:
        assert found.device == device
        assert found.n_channels == 6


def test_devices_finds_a_cyton(play):
    board = SimulatedCyton()

    (found,) = find_ports([play(lambda heard, now_s: board.answer(heard)[0])], timeout_s=0.8)

    assert (found.device, found.band, found.n_channels) == ("cyton", "OpenBCI Cyton", 8)


def test_a_board_that_streams_by_itself_is_known_by_its_frames(play):
    profile = find_profile("neuropawn-knight")
    assert isinstance(profile.layout, FrameLayout)
    layout = profile.layout
    stream = Stream(125.0, lambda number: pack_frame(layout, number, np.zeros((1, 8), np.float32)))

    (found,) = find_ports([play(lambda heard, now_s: stream.due(now_s))], timeout_s=0.8)

    assert (found.device, found.n_channels) == ("neuropawn-knight", 8)


def test_the_doctor_names_sick_channels_and_what_to_do(emg_uv):
    emg_uv[:, 5] = 0
    findings = examined(emg_uv)
    said = {finding.about: (finding.state, finding.said) for finding in findings}

    assert said["channel 5"] == ("bad", "is flat: it is not connected, or it is switched off")
    assert "electrodes" not in said
    assert findings[0].said.startswith("cpep simulated band answers: 16 channels at 2000 Hz")
    assert any("samples arrive at" in finding.said for finding in findings)


def test_channels_that_a_device_config_leaves_empty_or_gives_twice_are_no_fault(emg_uv, tmp_path):
    config = tmp_path / "fit.toml"
    config.write_text(f"channels = {[*range(13), -1, -1, 3]}\n")
    with SimulatedBand([emg_uv], RATE_HZ, lossless=True) as band:
        *findings, step = examine(band.port, "cpep", 0.6, config=config)
    said = [(one.state, one.said) for one in findings if one.about == "electrodes"]

    assert said[0] == ("note", "the device config gives no electrode of their own to channels 13, 14, 15")
    assert said[1][1].startswith("13 channels have a signal")
    assert not [one for one in findings if one.about.startswith("channel ")]
    assert f"--device-config {config}" in step.said


def test_the_doctor_names_two_channels_that_carry_one_signal(emg_uv):
    emg_uv[:, 9] = emg_uv[:, 4] + 120  # another offset
    findings = examined(emg_uv)
    bad = {finding.about: finding.said for finding in findings if finding.state == "bad"}

    assert list(bad) == ["channel 9"]
    assert bad["channel 9"].startswith("carries the same signal as channel 4")


def test_hum_that_all_channels_share_does_not_make_them_one():
    rng, time_s = np.random.default_rng(4), np.arange(6_000) / RATE_HZ
    samples = rng.normal(0, 3, (6_000, 4)) + 400 * np.sin(2 * np.pi * 50 * time_s)[:, None]

    assert doubled_channels(samples.astype(np.float32)) == []


def test_the_doctor_finds_nothing_wrong_with_a_healthy_band(emg_uv):
    findings = examined(emg_uv)

    assert {finding.state for finding in findings} <= {"good", "note"}
    assert any(finding.said.startswith("16 channels have a signal") for finding in findings)


def test_a_port_where_nothing_answers_is_the_finding(play):
    (finding,) = examine_device(play(lambda heard, now_s: b""), "cpep", 0.5)

    assert finding.state == "bad"
    assert "is the band switched on" in finding.said


def test_a_slow_latency_timer_is_named_with_the_command_that_cures_it(tmp_path):
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


def test_packages_that_a_device_needs_are_named_with_their_versions():
    findings = {finding.about: finding for finding in examine_packages()}

    assert findings["pyserial"].state == "good"
    assert findings["numpy"].said == np.__version__


def test_a_band_is_listed_with_what_it_says_and_a_silent_port_with_why(pty_port, emg_uv):
    with SimulatedBand([emg_uv], RATE_HZ, lossless=True) as band:
        found = {port.port: port for port in find_ports([band.port, pty_port.path], timeout_s=0.8)}

    assert found[band.port].band == "cpep simulated band"
    assert (found[band.port].n_channels, found[band.port].serial_number) == (16, "SIM-0001")
    assert "nothing on" in found[pty_port.path].problem


def test_a_serial_line_is_judged_by_how_much_of_it_the_stream_takes():
    easy = Info(0, 1, 0.25, RATE_HZ, 921_600, 0, 10, 16, 0, 0, bytes(range(16)), "band", "1", "1")
    tight = replace(easy, baud=694_500)

    assert _line("/dev/ttyUSB0", easy).said == "its line runs at 921600 baud, of which the stream takes 75%"
    assert (_line("/dev/ttyUSB0", easy).state, _line("/dev/ttyUSB0", tight).state) == ("good", "note")


def test_a_bundle_that_is_none_is_the_finding(tmp_path):
    (finding,) = examine_bundle(tmp_path)

    assert finding.state == "bad"
    assert "manifest.json" in finding.said


@pytest.mark.executorch
def test_a_bundle_whose_encoder_runs_here_is_good_and_one_whose_library_was_touched_is_not(tiny_bundle, tmp_path):
    copy = tmp_path / "touched.cpep"
    shutil.copytree(tiny_bundle, copy)
    program = copy / "encoder.pte"
    program.write_bytes(program.read_bytes()[:-1] + b"!")
    (good,), (bad,) = examine_bundle(tiny_bundle), examine_bundle(copy)

    assert (good.state, bad.state) == ("good", "bad")
    assert "its encoder runs here with" in good.said
    assert "encoder.pte" in bad.said
