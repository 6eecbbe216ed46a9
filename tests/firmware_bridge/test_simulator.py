"""The simulated band keeps its rate, reports truly what it sent, and does not wait unless told to."""

import os
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from cpep_bridge.devices import LinkOptions, open_source
from cpep_bridge.frames import (
    UNCHANGED_FORMAT,
    Ack,
    BenchCommand,
    Config,
    Data,
    DataFlag,
    Identify,
    Info,
    Nak,
    Ping,
    Pong,
    SampleFormat,
    Start,
    Telemetry,
)
from cpep_bridge.playback import Playback
from cpep_bridge.simulated import SentCounts
from cpep_bridge.simulated_device import SimulatedDevice
from cpep_bridge.simulator import SimulatedBand
from cpep_edge.errors import DataError, LinkError
from cpep_edge.session import Session, SessionMeta, write_session
from tests.waiting import wait

RATE_HZ = 2_000.0
INFO = Info(0, 1, 0.25, RATE_HZ, 0, 0, 10, 16, 0, 0, bytes(range(16)), "band", "1", "1")


def run_once(emg_uv: NDArray[np.float32], **options: float) -> SentCounts:
    with SimulatedBand([emg_uv], RATE_HZ, once=True, lossless=True, **options) as band:
        with open_source(band.port) as source:
            for _ in source:
                pass
        band.wait(60.0)
    return band.sent


def test_the_same_seed_harms_the_same_frames_at_any_speed(emg_uv):
    slow = run_once(emg_uv, seed=5, loss=0.1, corrupt=0.1, duplicate=0.1, speed=2.0)
    fast = run_once(emg_uv, seed=5, loss=0.1, corrupt=0.1, duplicate=0.1, speed=100.0)

    assert slow == fast
    assert slow != run_once(emg_uv, seed=6, loss=0.1, corrupt=0.1, duplicate=0.1, speed=100.0)


@pytest.mark.parametrize(("clock_speed", "seconds"), [(1.0, 100.0), (4.0, 25.0), (1.0001, 99.99)])
def test_frames_fall_due_at_the_pace_of_the_devices_clock(emg_uv, clock_speed, seconds):
    device = SimulatedDevice(INFO, Playback([emg_uv], RATE_HZ), clock_speed, repeat=True)
    device.answer(Start(1), now_s=500.0)
    for _ in range(20_000):  # 200 000 samples, 100 s of the device's clock
        frame = device.next_frame(500.0)

    assert isinstance(frame, Data)
    assert (frame.sample_index, frame.t_us) == (199_990, 99_995_000)
    assert device.wait_s(500.0) == pytest.approx(seconds, abs=0.006)


def test_in_real_time_half_a_second_of_emg_takes_half_a_second(emg_uv):
    with SimulatedBand([emg_uv], RATE_HZ, once=True) as band, open_source(band.port) as source:
        stream = iter(source)
        started_s = next(stream).host_t_s
        *_, last = stream

    assert last.host_t_s - started_s == pytest.approx(0.5, abs=0.2)


def test_segments_are_played_back_to_back_and_over_again(emg_uv):
    packets = Playback([emg_uv[:13], emg_uv[13:20]], RATE_HZ).packets(10, SampleFormat.I16, 0.25, repeat=True)
    counts = np.concatenate([np.frombuffer(next(packets).samples, "<i2").reshape(-1, 16) for _ in range(4)])

    np.testing.assert_array_equal(counts, np.rint(np.tile(emg_uv[:20], (2, 1)) / 0.25))


def test_a_session_is_played_from_its_file(tmp_path, emg_uv):
    time_s = np.arange(len(emg_uv)) / RATE_HZ
    meta = SessionMeta("s", "u", "rest", "left", 0.0, float(time_s[-1]), 16, RATE_HZ, "one")
    write_session(tmp_path / "one.hdf5", meta, time_s, emg_uv)
    with Session(tmp_path / "one.hdf5") as session:
        with SimulatedBand([session], RATE_HZ, once=True, speed=4, lossless=True) as band:
            with open_source(band.port) as source:
                received = np.concatenate([block.samples_uv for block in source])
            band.wait(60.0)
        with pytest.raises(DataError, match="sampled at 2000 Hz, but the band runs at 1000 Hz"):
            SimulatedBand([session], 1_000.0)

    np.testing.assert_allclose(received, emg_uv, atol=0.126)


def test_what_exceeds_the_converters_range_is_clipped_and_flagged():
    emg_uv = np.zeros((20, 2), np.float32)
    emg_uv[15, 1] = -1e6
    first, second = Playback([emg_uv], RATE_HZ).packets(10, SampleFormat.I16, 0.25, repeat=False)

    assert (first.flags, second.flags) == (0, DataFlag.SATURATION)
    assert np.frombuffer(second.samples, "<i2").min() == -32_767


def test_the_link_leads_to_the_port_and_goes_with_it(tmp_path, emg_uv):
    link = tmp_path / "band"
    link.symlink_to("/dev/pts/a-stale-one")
    with SimulatedBand([emg_uv], RATE_HZ, link=link) as band:
        assert os.readlink(link) == band.port
        with open_source(str(link)) as source:
            assert source.info.n_channels == 16

    assert not link.is_symlink()


def test_a_file_in_the_place_of_the_link_is_left_alone(tmp_path, emg_uv):
    (tmp_path / "band").write_text("precious")

    with pytest.raises(LinkError, match="exists and is not a link to a simulated port"):
        SimulatedBand([emg_uv], RATE_HZ, link=tmp_path / "band").start()
    assert (tmp_path / "band").read_text() == "precious"


def test_a_band_that_nobody_reads_keeps_time_and_drops(emg_uv):
    with SimulatedBand([emg_uv], RATE_HZ, speed=10) as band, open_source(band.port) as source:
        began_s, began = next(iter(source)).host_t_s, band.sent.frames

        def due() -> float:
            return (time.monotonic() - began_s) * 10 * 200

        wait(lambda: band.sent.overruns >= 1_000 and band.sent.frames - began >= 0.7 * due())
        assert band.sent.frames - began < due() + 2_000  # after a delay on a busy machine it catches up


def test_commands_are_answered_by_their_number(emg_uv):
    device = SimulatedDevice(INFO, Playback([emg_uv], RATE_HZ), 1.0, repeat=True)

    assert device.answer(Ping(9), 1.0)[0] == Pong(9, 0, 0)
    assert [type(frame) for frame in device.answer(Identify(10), 1.0)] == [Info]
    assert device.answer(Config(11, 0.0, 20, UNCHANGED_FORMAT), 1.0) == [Ack(11, Config.TYPE)]
    assert device.info.n_samples == 20
    refused = device.answer(Config(12, 0.0, 255, SampleFormat.I24), 1.0) + device.answer(BenchCommand(13, 5), 1.0)
    refused += device.answer(Start(14), 1.0)[1:] + device.answer(Config(15, 0.0, 10, 0), 1.0)
    assert [(frame.seq, frame.code) for frame in refused if isinstance(frame, Nak)] == [(12, 2), (13, 1), (15, 3)]


def test_impossible_options_are_a_callers_slip(emg_uv):
    with pytest.raises(ValueError, match="speed must be a positive number"):
        SimulatedBand([emg_uv], RATE_HZ, speed=0)
    with pytest.raises(ValueError, match="loss must be a probability"):
        SimulatedBand([emg_uv], RATE_HZ, loss=1.5)
    with pytest.raises(ValueError, match="the limit is 1024"):
        SimulatedBand([emg_uv], RATE_HZ, n_samples=40)
    with pytest.raises(ValueError, match="nothing to play"):
        SimulatedBand([], RATE_HZ)
    with pytest.raises(DataError, match="segment 1 has 3 channels, the first one 16"):
        SimulatedBand([emg_uv, emg_uv[:, :3]], RATE_HZ)


def test_a_number_that_is_none_in_the_recording_surfaces_when_the_band_is_stopped(emg_uv):
    emg_uv[100, 3] = np.nan
    band = SimulatedBand([emg_uv], RATE_HZ)
    band.start()
    line = open_source(band.port, link=LinkOptions(timeout_s=0.3))

    with line as source, pytest.raises(LinkError):
        next(iter(source))
    with pytest.raises(DataError, match="NaN"):
        band.stop()


def test_an_idle_band_tells_its_battery_behind_a_pong_once_a_second_at_most(emg_uv):
    device = SimulatedDevice(INFO, Playback([emg_uv], RATE_HZ), 1.0, repeat=True)

    answers = [device.answer(Ping(number), 0.25 * number) for number in range(12)]

    assert all(isinstance(answer[0], Pong) for answer in answers)
    assert [number for number, answer in enumerate(answers) if isinstance(answer[-1], Telemetry)] == [0, 4, 8]
    assert device.telemetry(60.0) is None  # no host asked for it
