"""The firmware as a process on a pty: it must pass the driver's tests, and some of the simulator's, unchanged."""

import os
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cpep_bridge import firmware
from cpep_bridge.devices import open_source
from cpep_bridge.firmware import FirmwareBand, build_firmware
from cpep_bridge.frames import Identify, Ping, SampleFormat, Start, Stop, encode_frame
from cpep_bridge.transports import open_stream
from cpep_edge.errors import ArtifactError, DataError, LinkError
from tests.firmware_bridge import test_band as band_suite
from tests.firmware_bridge import test_simulator as simulator_suite
from tests.firmware_bridge.compiler import needs_compiler

pytestmark = needs_compiler

RATE_HZ = 2_000.0
SANITIZED = "cpep-band-sanitized"


@pytest.fixture(params=[firmware.PROGRAM, SANITIZED], autouse=True)
def program(request, monkeypatch) -> Path:
    """The firmware in place of the simulator, with and without sanitizers."""
    built = build_firmware(request.param)
    for suite in (band_suite, simulator_suite):
        monkeypatch.setattr(suite, "SimulatedBand", partial(FirmwareBand, program=built))
    return built


test_a_clean_link_delivers_every_sample_exactly = band_suite.test_a_clean_link_delivers_every_sample_exactly
test_the_hosts_counts_are_what_the_band_did = band_suite.test_what_the_band_lost_and_damaged_is_what_the_host_counts
test_frames_that_a_stalled_reader_made_the_band_drop = (
    band_suite.test_frames_that_a_stalled_reader_made_the_band_drop_are_counted
)
test_over_tcp_every_sample_arrives_too = band_suite.test_over_tcp_every_sample_arrives_too
test_telemetry_round_trips_and_the_clock = band_suite.test_telemetry_round_trips_and_the_clock_are_there_during_a_stream
test_a_host_that_leaves = band_suite.test_a_host_that_leaves_stops_the_band_and_the_next_one_starts_at_zero
test_a_crashed_host = band_suite.test_a_band_that_a_crashed_host_left_streaming_is_taken_over
test_a_restart = band_suite.test_a_restart_of_the_band_shows_as_a_new_boot_id_and_a_stream_from_zero
test_unplugged = band_suite.test_a_band_that_is_unplugged_mid_stream_is_reported
test_real_time = simulator_suite.test_in_real_time_half_a_second_of_emg_takes_half_a_second
test_sessions = simulator_suite.test_a_session_is_played_from_its_file
test_link = simulator_suite.test_the_link_leads_to_the_port_and_goes_with_it
test_link_in_the_way = simulator_suite.test_a_file_in_the_place_of_the_link_is_left_alone
test_nobody_reads = simulator_suite.test_a_band_that_nobody_reads_keeps_time_and_drops


def test_garbage_and_overlong_commands_do_not_disturb_a_stream(program, emg_uv):
    rng = np.random.default_rng(9)
    with FirmwareBand([emg_uv], RATE_HZ, once=True, lossless=True, program=program) as band:
        with open_source(band.port) as source:
            stream = iter(source)
            blocks = [next(stream)]
            side_door = os.open(band.port, os.O_WRONLY | os.O_NOCTTY)
            for size_bytes in (1, 63, 64, 65, 1_000, 2_000):
                noise = rng.integers(0, 256, size_bytes, np.uint8).tobytes()
                os.write(side_door, noise + b"\0" + b"\x05" * size_bytes + encode_frame(Ping(7))[:-2] + b"\0")
            os.close(side_door)
            blocks += stream
        assert band.wait(60.0)

    np.testing.assert_array_equal(band_suite.laid_out(blocks, len(emg_uv)), band_suite.quantised(emg_uv))
    assert source.counts.lost_samples == 0


def test_the_same_seed_harms_the_same_frames(program, emg_uv):
    def harmed(seed: int) -> object:
        faults = {"loss": 0.1, "corrupt": 0.1, "duplicate": 0.1}
        with FirmwareBand(
            [emg_uv], RATE_HZ, once=True, lossless=True, speed=50, seed=seed, program=program, **faults
        ) as band:
            with open_source(band.port) as source:
                for _ in source:
                    pass
        return band.sent

    assert harmed(5) == harmed(5) != harmed(6)


def test_on_standard_input_and_output_it_speaks_too(program):
    asked = b"\0" + encode_frame(Identify(1)) + encode_frame(Start(2)) + encode_frame(Stop(3))
    with subprocess.Popen([program, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(asked)
        process.stdin.flush()
        time.sleep(0.2)
        process.stdin.close()
        received = band_suite.FrameDecoder().feed(process.stdout.read())

    assert [type(frame).__name__ for frame in received][:4] == ["Info", "Info", "Ack", "Ack"]
    assert process.returncode == 0


def test_noise_streams_on_a_terminal_line(program):
    near, far = os.openpty()  # in place of a serial port: opened by its name
    with subprocess.Popen([program, "--port", os.ttyname(far), "--baud", "921600"]) as process:
        try:
            decoder = band_suite.FrameDecoder()
            received = decoder.feed(os.read(near, 4_096))  # after its greeting the terminal is in raw mode
            os.write(near, b"\0" + encode_frame(Start(1)))
            while len(received) < 30:
                received += decoder.feed(os.read(near, 4_096))
        finally:
            process.terminate()
    os.close(near)
    os.close(far)

    info = received[0]
    assert isinstance(info, band_suite.Info)
    assert info.baud == 921_600
    counts = np.concatenate([frame.counts() for frame in received if isinstance(frame, band_suite.Data)])
    assert counts.std() > 10
    assert decoder.counts.corrupt_frames == 0


def test_a_command_line_that_makes_no_sense_is_refused(program, tmp_path):
    def complaint(*words: str) -> str:
        ran = subprocess.run([program, *words], capture_output=True, text=True, check=False)
        assert ran.returncode != 0
        return ran.stderr

    assert "--loss must be a number from 0 to 1, not 1.5" in complaint("--loss", "1.5")
    assert "limit is 1024 bytes" in complaint("--samples", "40")
    assert "--format must be i16 or i24, not i32" in complaint("--format", "i32")
    assert "No such file" in complaint("--input", str(tmp_path / "none"))
    (tmp_path / "odd").write_bytes(bytes(33))
    assert "not a whole number of samples" in complaint("--input", str(tmp_path / "odd"))
    assert "no such baud rate" in complaint("--port", "/dev/null", "--baud", "12345")


def test_what_the_program_refuses_is_a_link_error(program, emg_uv):
    with pytest.raises(LinkError, match="limit is 1024 bytes"):
        FirmwareBand([emg_uv], RATE_HZ, n_samples=40, program=program).start()


def test_a_number_that_is_none_shows_on_starting(program, emg_uv):
    emg_uv[100, 3] = np.nan

    with pytest.raises(DataError, match="NaN"):
        FirmwareBand([emg_uv], RATE_HZ, program=program).start()


def test_a_band_dies_with_the_process_that_started_it(program):
    with subprocess.Popen([program, "--control"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"/dev/")
        process.stdin.close()
        assert process.wait(60.0) == 0


def test_building_without_a_compiler_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ArtifactError, match="needs make: run 'sudo apt install build-essential'"):
        build_firmware(build_dir=tmp_path / "build")


def test_a_build_is_kept_for_the_same_sources(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = build_firmware("libcpep-band.so")
    built_s = first.stat().st_mtime

    assert build_firmware("libcpep-band.so") == first
    assert first.stat().st_mtime == built_s
    assert sorted(path.name for path in first.parent.iterdir()) == ["libcpep-band.so"]


def test_the_line_is_given_back_to_the_next_host(program, emg_uv):
    with FirmwareBand([emg_uv], RATE_HZ, sample_format=SampleFormat.I24, program=program) as band:
        for _ in range(3):
            line = open_stream(band.port)
            line.close()
        with open_source(band.port) as source:
            assert next(iter(source)).sample_index == 0
