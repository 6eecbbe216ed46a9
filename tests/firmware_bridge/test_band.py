"""The driver with a simulated band, over a real pty, over TCP, and over a faulty line in memory."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import islice
from zlib import crc32

import numpy as np
import pytest
from cobs import cobs
from numpy.typing import NDArray

from cpep_bridge.band import Band
from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.devices import LinkOptions, open_source
from cpep_bridge.dialogue import Dialogue
from cpep_bridge.frames import (
    Ack,
    Calibrate,
    Data,
    DeviceFrame,
    End,
    Frame,
    Identify,
    Info,
    Log,
    Nak,
    Prediction,
    SampleFormat,
    Start,
    Telemetry,
    encode_frame,
)
from cpep_bridge.playback import Playback
from cpep_bridge.simulated_device import SimulatedDevice
from cpep_bridge.simulator import SimulatedBand
from cpep_bridge.transports import open_stream
from cpep_edge.errors import LinkError, LinkTimeout
from tests.firmware_bridge.blocks_in_memory import laid_out
from tests.firmware_bridge.scripted import answers, scripted

RATE_HZ = 2_000.0
UV_PER_COUNT = 0.25
INFO = Info(0, 1, UV_PER_COUNT, RATE_HZ, 0, 0, 10, 16, 0, 0, bytes(range(16)), "band in memory", "1", "1")


class LineInMemory:
    """A ByteStream to a simulated band; `tamper` may change the frames on their way to the host."""

    name = "memory"

    def __init__(self, device: SimulatedDevice, tamper: Callable[[list[Frame]], list[Frame]] = list) -> None:
        self.device, self._tamper = device, tamper
        self._decoder, self._answers = FrameDecoder(), list[Frame]()

    def write(self, data: bytes) -> None:
        for command in self._decoder.feed(data):
            self._answers += self.device.answer(command, time.monotonic())

    def read(self, timeout_s: float) -> bytes:
        frames, self._answers = self._answers, []
        while not frames and self.device.wait_s(time.monotonic()) <= 0:
            frames.append(self.device.next_frame(time.monotonic()))
        if not frames:
            time.sleep(min(timeout_s, 0.01))
        return b"".join(encode_frame(frame) for frame in self._tamper(frames))

    def close(self) -> None:
        pass


def device_playing(emg_uv: NDArray[np.float32], clock_speed: float = 50.0, info: Info = INFO) -> SimulatedDevice:
    return SimulatedDevice(info, Playback([emg_uv], RATE_HZ), clock_speed, repeat=False)


def quantised(emg_uv: NDArray[np.float32]) -> NDArray[np.float32]:
    return (np.rint(emg_uv / UV_PER_COUNT) * UV_PER_COUNT).astype(np.float32)


@pytest.mark.parametrize("sample_format", list(SampleFormat))
def test_a_clean_link_delivers_every_sample_exactly(emg_uv, sample_format):
    with SimulatedBand([emg_uv], RATE_HZ, once=True, lossless=True, sample_format=sample_format) as simulated:
        with open_source(simulated.port) as source:
            blocks = list(source)
        assert simulated.wait(60.0)

    np.testing.assert_array_equal(laid_out(blocks, len(emg_uv)), quantised(emg_uv))
    assert (source.counts.frames, source.counts.lost_samples, source.counts.corrupt_frames) == (101, 0, 0)
    assert (source.info.n_channels, source.info.sample_rate_hz, source.info.unit) == (16, RATE_HZ, "uV")


def test_what_the_band_lost_and_damaged_is_what_the_host_counts(emg_uv):
    segments = [emg_uv] * 6
    with SimulatedBand(
        segments, RATE_HZ, speed=10, lossless=True, loss=0.05, corrupt=0.05, duplicate=0.05, once=True, seed=4
    ) as simulated:
        with open_source(simulated.port) as source:
            blocks = list(source)
        simulated.wait(60.0)
    signal, truth = laid_out(blocks, simulated.sent.samples), quantised(np.concatenate(segments))
    received = ~np.isnan(signal[:, 0])

    assert simulated.sent.injected_losses > 5
    assert simulated.sent.corrupted > 5
    assert simulated.sent.overruns == 0
    np.testing.assert_array_equal(signal[received], truth[received])
    assert np.count_nonzero(~received) == source.counts.lost_samples == simulated.sent.lost_samples
    assert source.counts.lost_frames == simulated.sent.lost_frames
    assert source.counts.duplicate_frames == simulated.sent.duplicated
    assert source.counts.corrupt_frames >= simulated.sent.corrupted
    assert source.counts.frames == simulated.sent.frames - simulated.sent.lost_frames


def test_frames_that_a_stalled_reader_made_the_band_drop_are_counted(emg_uv):
    with SimulatedBand([emg_uv] * 16, RATE_HZ, speed=10, once=True) as simulated:
        with open_source(simulated.port) as source:
            blocks = [block for n, block in enumerate(source) if n != 5 or time.sleep(0.3) is None]
        simulated.wait(60.0)

    assert simulated.sent.overruns > 10
    assert source.counts.lost_samples == simulated.sent.lost_samples
    assert sum(len(block.samples_uv) for block in blocks) + source.counts.lost_samples == simulated.sent.samples
    assert any(block.flags & 1 for block in blocks)


def test_over_tcp_every_sample_arrives_too(emg_uv, relay):
    with SimulatedBand([emg_uv], RATE_HZ, once=True, speed=2, lossless=True) as simulated:
        with open_source(relay(simulated.port)) as source:
            blocks = list(source)

    np.testing.assert_array_equal(laid_out(blocks, len(emg_uv)), quantised(emg_uv))


def test_telemetry_round_trips_and_the_clock_are_there_during_a_stream(emg_uv):
    with SimulatedBand([emg_uv], RATE_HZ, once=True) as simulated, Band(lambda: open_stream(simulated.port)) as band:
        blocks = list(band)

    line = band.clock.line
    assert [telemetry.battery_mv > 0 for telemetry in band.take_telemetry()] == [True]
    assert 0 < band.clock.round_trip_s < 2  # checks only the unit, because a busy machine is slow
    ends_s = [line.host_s(block.device_t_s + len(block.samples_uv) / RATE_HZ) for block in blocks]
    delays_s = [block.host_t_s - end_s for block, end_s in zip(blocks, ends_s, strict=True)]
    assert -0.01 < np.median(delays_s) < 1


def test_a_host_that_leaves_stops_the_band_and_the_next_one_starts_at_zero(emg_uv):
    with SimulatedBand([emg_uv], RATE_HZ) as simulated:
        with open_source(simulated.port) as source:
            next(iter(source))
        frames_after_stop = simulated.sent.frames
        time.sleep(0.1)
        assert simulated.sent.frames == frames_after_stop
        with open_source(simulated.port) as source:
            assert next(iter(source)).sample_index == 0


def test_a_band_that_a_crashed_host_left_streaming_is_taken_over(emg_uv):
    with SimulatedBand([emg_uv], RATE_HZ) as simulated:
        crashed = open_stream(simulated.port)
        crashed.write(encode_frame(Start(1)))
        time.sleep(0.1)
        crashed.close()
        with open_source(simulated.port) as source:
            block = next(iter(source))

    np.testing.assert_array_equal(block.samples_uv, quantised(emg_uv[: len(block.samples_uv)]))
    assert (block.sample_index, source.counts.corrupt_frames) == (0, 0)


def test_a_restart_of_the_band_shows_as_a_new_boot_id_and_a_stream_from_zero(emg_uv):
    with SimulatedBand([emg_uv], RATE_HZ, once=True, lossless=True) as simulated:
        with open_source(simulated.port) as source:
            stream = iter(source)
            first = next(stream)
            simulated.reboot()
            rest = list(stream)

    again = [block for block in rest if block.boot_id != first.boot_id]
    np.testing.assert_array_equal(laid_out(again, len(emg_uv)), quantised(emg_uv))
    assert source.counts.lost_samples == 0


def test_a_band_that_restarted_is_calibrated_again_before_its_stream_begins(emg_uv, monkeypatch):
    heard: list[Frame] = []
    answer = SimulatedDevice.answer

    def with_an_engine(device: SimulatedDevice, frame: Frame, now_s: float) -> list[DeviceFrame]:
        if isinstance(frame, Calibrate | Start):
            heard.append(frame)
        return [Ack(frame.seq, frame.TYPE)] if isinstance(frame, Calibrate) else answer(device, frame, now_s)

    monkeypatch.setattr(SimulatedDevice, "answer", with_an_engine)
    gains = np.linspace(0.5, 2, 16, dtype=np.float32)
    with SimulatedBand([emg_uv], RATE_HZ, once=True, lossless=True) as simulated:
        with Band(lambda: open_stream(simulated.port)) as source:
            source.calibrate(gains, turn=-2)
            stream = iter(source)
            next(stream)
            simulated.reboot()
            list(stream)

    told = [frame for frame in heard if isinstance(frame, Calibrate)]
    assert [type(frame) for frame in heard] == [Calibrate, Start, Calibrate, Start]
    assert {(frame.turn, frame.gains) for frame in told} == {(14, gains.tobytes())}


def test_a_simulated_band_says_that_it_has_no_engine_to_calibrate(emg_uv):
    with SimulatedBand([emg_uv], RATE_HZ) as simulated, Band(lambda: open_stream(simulated.port)) as source:
        with pytest.raises(LinkError, match="refused CALIBRATE: a simulated band has no engine"):
            source.calibrate(np.ones(16, np.float32))


def test_a_frame_that_comes_late_is_dropped_and_counted(emg_uv):
    held: list[Frame] = []

    def swap(frames: list[Frame]) -> list[Frame]:
        if held:
            return [*frames, held.pop()]
        if any(isinstance(frame, Data) and frame.seq == 7 for frame in frames) and not swapped:
            swapped.append(True)
            held.extend(frames)
            return []
        return frames

    swapped: list[bool] = []
    with Band(lambda: LineInMemory(device_playing(emg_uv), swap)) as band:
        signal = laid_out(list(band), len(emg_uv))

    assert np.flatnonzero(np.isnan(signal[:, 0])).tolist() == list(range(70, 80))
    assert (band.counts.late_frames, band.counts.lost_samples, band.counts.lost_frames) == (1, 10, 1)


def test_samples_that_come_in_one_read_with_the_answer_to_start_are_kept(emg_uv):
    held: list[Frame] = []

    def hold_back(frames: list[Frame]) -> list[Frame]:
        held.extend(frames)
        if len(held) < 3 and any(isinstance(frame, Ack) and frame.command == Start.TYPE for frame in held):
            return []
        together = held.copy()
        held.clear()
        return together

    with Band(lambda: LineInMemory(device_playing(emg_uv), hold_back)) as band:
        blocks = list(band)

    assert len(blocks[0].samples_uv) == 20
    np.testing.assert_array_equal(laid_out(blocks, len(emg_uv)), quantised(emg_uv))


def test_a_lost_end_is_asked_for_again(emg_uv):
    dropped: list[End] = []

    def lose_end(frames: list[Frame]) -> list[Frame]:
        ends = [frame for frame in frames if isinstance(frame, End)]
        if not ends or dropped:
            return frames
        dropped.extend(ends)
        return []

    with Band(lambda: LineInMemory(device_playing(emg_uv), lose_end)) as band:
        blocks = list(band)

    assert dropped
    np.testing.assert_array_equal(laid_out(blocks, len(emg_uv)), quantised(emg_uv))


def test_frames_lost_at_the_very_end_are_counted(emg_uv):
    def lose_tail(frames: list[Frame]) -> list[Frame]:
        return [frame for frame in frames if not (isinstance(frame, Data) and frame.seq >= 98)]

    with Band(lambda: LineInMemory(device_playing(emg_uv), lose_tail)) as band:
        blocks = list(band)

    assert sum(len(block.samples_uv) for block in blocks) == 980
    assert (band.counts.lost_frames, band.counts.lost_samples) == (3, 23)


def test_data_of_another_shape_than_info_said_never_become_samples(emg_uv):
    def widen(frames: list[Frame]) -> list[Frame]:
        stray = Data(50, 500, 0, 10, 8, 0, 0, bytes(160))
        return [stray if isinstance(frame, Data) and frame.seq == 50 else frame for frame in frames]

    with Band(lambda: LineInMemory(device_playing(emg_uv), widen)) as band:
        blocks = list(band)

    assert sum(len(block.samples_uv) for block in blocks) == 993
    assert (band.counts.lost_samples, band.counts.corrupt_frames) == (10, 1)


def test_a_band_that_falls_silent_is_reported_with_where_it_stopped(emg_uv):
    def mute(frames: list[Frame]) -> list[Frame]:
        return [frame for frame in frames if not isinstance(frame, Data | End) or frame.seq < 10]

    with Band(lambda: LineInMemory(device_playing(emg_uv, 1.0), mute), timeout_s=0.6) as band:
        with pytest.raises(LinkTimeout, match=r"stopped sending 0.6 s ago, after sample 100: check its battery"):
            list(band)


def test_the_time_that_a_consumer_takes_is_not_the_bands_silence(emg_uv):
    with Band(lambda: LineInMemory(device_playing(emg_uv)), timeout_s=0.4) as band:
        blocks = [block for n, block in enumerate(band) if n != 3 or time.sleep(0.7) is None]

    assert sum(len(block.samples_uv) for block in blocks) == len(emg_uv)


def test_a_band_that_is_unplugged_mid_stream_is_reported(emg_uv):
    with SimulatedBand([emg_uv], RATE_HZ) as simulated, open_source(simulated.port) as source:
        stream = iter(source)
        next(stream)
        simulated.stop()
        with pytest.raises(LinkError, match="is gone"):
            list(stream)


def test_a_port_where_nothing_answers_is_reported_within_the_timeout(pty_port):
    with pytest.raises(LinkTimeout, match=r"nothing on /dev/pts/\d+ answered within 0.4 s: is the band switched on"):
        open_source(pty_port.path, link=LinkOptions(timeout_s=0.4)).__enter__()
    open_stream(pty_port.path).close()  # the port is free again


def described_as(**changed: float) -> Callable[[Frame], bytes]:
    return lambda frame: encode_frame(replace(INFO, seq=frame.seq, **changed))


OTHER_VERSION = b"\x09\x01\x00\x00"
IMPOSSIBLE = "describes an impossible stream: .*update"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda _: b"$GPGGA,123519,N*47\r\n", r"is not a cpep band.*baud.*beginning with '\$GPGGA,123519,N\*47"),
        (lambda _: b"\xff\xfe\x00\x80" * 20, "is not a cpep band.*baud.*beginning with the bytes ff fe 00 80"),
        (
            lambda _: cobs.encode(OTHER_VERSION + crc32(OTHER_VERSION).to_bytes(4, "little")) + b"\0",
            "speaks protocol version 9, this program version 1",
        ),
        (described_as(n_samples=0), IMPOSSIBLE),
        (described_as(n_channels=0), IMPOSSIBLE),
        (described_as(sample_rate_hz=0.0), IMPOSSIBLE),
        (described_as(uv_per_count=np.nan), IMPOSSIBLE),
        (described_as(sample_format=9), IMPOSSIBLE),
        (lambda _: encode_frame(End(0, 0, 0)), "did not answer IDENTIFY"),
    ],
)
def test_what_is_no_band_or_describes_no_stream_is_refused_with_what_it_said(reply, said):
    with scripted(answers(reply)) as port, pytest.raises(LinkError, match=said):
        open_source(port.path, link=LinkOptions(timeout_s=0.4)).__enter__()


def test_a_refused_start_repeats_the_bands_reason():
    def refuse(frame: Frame) -> bytes:
        if isinstance(frame, Identify):
            return encode_frame(replace(INFO, seq=frame.seq))
        return encode_frame(Nak(frame.seq, frame.TYPE, 3, "battery too low"))

    with scripted(answers(refuse)) as port, open_source(port.path, link=LinkOptions(timeout_s=60.0)) as source:
        with pytest.raises(LinkError, match="START: battery too low"):
            next(iter(source))


def test_before_opening_there_is_no_info():
    with pytest.raises(ValueError, match="not opened"):
        _ = open_source("/dev/null").info


def test_numbers_that_cannot_be_and_texts_that_obey_nobody_stop_at_the_edge(pty_port):
    escape = "band\x1b]0;OWNED\x07[/nope]\n"
    frames = [
        Telemetry(1, 0, 3_900, 0, 80, float("nan"), 0, 0),
        Prediction(2, 0, 100, 1, float("inf"), 10, 10),
        Prediction(3, 0, 100, 1, 5.0, 10, 10),
        Prediction(4, 0, 100, 1, 0.5, 10, 10),
        Log(5, 0, 30, escape),
    ]
    pty_port.put(b"")
    with closing(open_stream(pty_port.path)) as line:
        dialogue = Dialogue(line)
        pty_port.put(b"\0" + b"".join(encode_frame(frame) for frame in frames))
        arrived = [frame for _ in range(3) for frame in dialogue.receive(0.2).frames]

    assert [frame.seq for frame in arrived] == [4, 5]
    assert dialogue.decoder.counts.corrupt_frames == 3
    assert isinstance(arrived[1], Log)
    assert arrived[1].text.isprintable()
    assert arrived[1].text.count("\N{REPLACEMENT CHARACTER}") == 3


def test_a_band_that_counts_anew_without_saying_so_begins_a_new_stream(emg_uv):
    """The restart is recognised because the counter starts over while the clock goes on."""
    restarted = list[int]()

    def count_anew(frames: list[Frame]) -> list[Frame]:
        changed = list[Frame]()
        for frame in frames:
            if isinstance(frame, Data) and frame.sample_index >= 300 and len(restarted) < 20:
                restarted.append(frame.sample_index)
                frame = replace(frame, sample_index=frame.sample_index - 300 + 2_000_000)
            changed.append(frame)
        return changed

    with Band(lambda: LineInMemory(device_playing(emg_uv), count_anew)) as band:
        blocks = list(islice(band, 60))

    assert restarted
    assert band.counts.lost_samples < 100  # not 1000 s of samples
    assert sum(block.sample_index == 0 for block in blocks) >= 2
