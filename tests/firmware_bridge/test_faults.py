"""Faults of a link, one by one: the rows of the table in docs/bands.md."""

import time
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, product

import numpy as np
import pytest
from numpy.typing import NDArray

from cpep_bridge.band import Band
from cpep_bridge.board_models import SimulatedCyton
from cpep_bridge.counter_loss import CounterLedger
from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.devices import LinkOptions, open_source
from cpep_bridge.dialogue import Dialogue
from cpep_bridge.frames import Data, Info, SampleFormat, encode_frame
from cpep_bridge.line_rate import check_baud, stream_bytes_per_s
from cpep_bridge.lost_samples import StreamLedger
from cpep_bridge.pty_port import PtyPort
from cpep_bridge.reopening import Reopener, UsbIdentity, find_device, identity_of, named_identity, waits_s
from cpep_bridge.simulated import SentCounts
from cpep_bridge.simulated_boards import SimulatedBoard
from cpep_bridge.simulator import SimulatedBand
from cpep_bridge.soak import Harm, soak, to_markdown
from cpep_bridge.transports import open_stream
from cpep_edge.blocks import Block, LinkCounts
from cpep_edge.errors import LinkError, LinkTimeout
from tests.firmware_bridge.scripted import answers, scripted

RATE_HZ = 2_000.0
UV_PER_COUNT = 0.25
INFO = Info(0, 1, 0.25, RATE_HZ, 115_200, 0, 10, 16, 0, 0, bytes(range(16)), "band", "1", "1")


def truth_of(emg_uv: NDArray[np.float32], sample_index: int, n_samples: int) -> NDArray[np.float32]:
    """The samples from `sample_index` on of a band that repeats `emg_uv`."""
    place = (sample_index + np.arange(n_samples)) % len(emg_uv)
    return (np.rint(emg_uv[place] / UV_PER_COUNT) * UV_PER_COUNT).astype(np.float32)


def all_true(blocks: list[Block], emg_uv: NDArray[np.float32]) -> bool:
    return all(
        np.array_equal(block.samples_uv, truth_of(emg_uv, block.sample_index, len(block.samples_uv)))
        for block in blocks
    )


def through_harm(emg_uv: NDArray[np.float32], **harm: float) -> tuple[list[Block], LinkCounts, SentCounts]:
    """Send five seconds of signal over a link with one kind of fault."""
    with SimulatedBand(
        [emg_uv] * 10, RATE_HZ, speed=10, once=True, lossless=True, seed=9, **harm
    ) as band:  # fmt: skip
        with open_source(band.port) as source:
            blocks = list(source)
        band.wait(60.0)
        return blocks, source.counts, band.sent


@pytest.mark.parametrize("harm", ["corrupt", "cut", "loss", "reorder"])
def test_frames_that_are_harmed_are_lost_and_counted_and_no_others(emg_uv, harm):
    blocks, counts, sent = through_harm(emg_uv, **{harm: 0.05})
    received = sum(len(block.samples_uv) for block in blocks)

    assert sent.lost_frames > 30
    assert counts.lost_frames == sent.lost_frames
    assert counts.lost_samples == sent.lost_samples == sent.samples - received
    assert counts.late_frames == sent.reordered
    assert all_true(blocks, emg_uv)


def test_frames_that_come_twice_are_passed_on_once(emg_uv):
    blocks, counts, sent = through_harm(emg_uv, duplicate=0.05)

    assert counts.duplicate_frames == sent.duplicated > 30
    assert counts.lost_samples == 0
    assert sum(len(block.samples_uv) for block in blocks) == sent.samples


def test_bytes_lost_anywhere_cost_the_frames_they_touch_and_those_whose_delimiter_is_gone():
    rng = np.random.default_rng(6)
    frames = [Data(n, 10 * n, 5_000 * n, 10, 16, SampleFormat.I16, 0, rng.bytes(320)) for n in range(400)]
    wires = [encode_frame(frame) for frame in frames]
    stops = 1 + np.cumsum([len(wire) for wire in wires])
    kept = np.ones(stops[-1], bool)
    for start in rng.integers(1, len(kept) - 200, 40):
        kept[start : start + rng.integers(1, 200)] = False
    decoded = FrameDecoder().feed((np.frombuffer(b"\0" + b"".join(wires), np.uint8)[kept]).tobytes())
    whole = [
        n for n, (wire, stop) in enumerate(zip(wires, stops, strict=True)) if kept[stop - len(wire) - 1 : stop].all()
    ]

    assert 300 < len(whole) < 380
    assert decoded == [frames[n] for n in whole]


def test_garbage_before_the_first_frame_is_skipped_and_is_no_damage(emg_uv):
    noise = np.random.default_rng(1).bytes(3_000).replace(b"\0", b"\1")
    with SimulatedBand([emg_uv], RATE_HZ, once=True, lossless=True, garbage=noise) as band:
        with Band(lambda: open_stream(band.port)) as source:
            blocks = list(source)

    assert sum(len(block.samples_uv) for block in blocks) == len(emg_uv)
    assert source.counts.corrupt_frames <= 1  # noise longer than a frame may count as one


def test_a_band_that_stalls_goes_on_where_it_is_and_what_it_dropped_is_counted(emg_uv):
    with SimulatedBand([emg_uv] * 10, RATE_HZ, speed=10, once=True) as band:
        with open_source(band.port) as source:
            stream = iter(source)
            blocks = list(islice(stream, 20))
            band.stall(0.2)
            blocks += stream
        band.wait(60.0)

    assert source.counts.lost_samples == band.sent.lost_samples
    assert sum(len(block.samples_uv) for block in blocks) + source.counts.lost_samples == band.sent.samples
    assert all_true(blocks, emg_uv)


def test_a_band_that_was_unplugged_and_comes_back_on_another_node_goes_on_in_its_stream(tmp_path, emg_uv):
    link = tmp_path / "band"
    with SimulatedBand([emg_uv] * 20, RATE_HZ, speed=10, once=True, link=link) as band:
        first_port = band.port
        with open_source(str(link), link=LinkOptions(reconnect_s=5.0)) as source:
            stream = iter(source)
            blocks = list(islice(stream, 20))
            band.unplug(0.3)
            blocks += stream
        band.wait(60.0)

    assert band.port != first_port
    assert source.counts.reconnects == 1
    assert band.sent.samples == 20 * len(emg_uv)  # the stream went on to its end
    assert band.sent.unplugged > 100
    assert 0 <= source.counts.lost_frames - band.sent.lost_frames < 120  # frames in the pty were lost with it
    assert sum(len(block.samples_uv) for block in blocks) + source.counts.lost_samples == band.sent.samples
    assert {block.boot_id for block in blocks} == {blocks[0].boot_id}
    assert all_true(blocks, emg_uv)


def test_frames_of_a_stream_that_goes_on_are_kept_while_the_band_is_asked_who_it_is(pty_port):
    before, after = (Data(n, 0, 0, 1, 1, 0, 0, b"ab") for n in (1, 2))
    with closing(open_stream(pty_port.path)) as line:
        dialogue = Dialogue(line)
        pty_port.put(b"\0" + b"".join(encode_frame(frame) for frame in (before, replace(INFO, seq=1), after)))
        dialogue.identify(1.0, keep=True)

        assert dialogue.receive(0.1).frames == [before]
        assert dialogue.receive(0.1).frames == [after]


def test_a_band_that_restarted_while_it_was_away_begins_a_new_stream(tmp_path, emg_uv):
    link = tmp_path / "band"
    with SimulatedBand([emg_uv], RATE_HZ, link=link, seed=1) as band:
        source = open_source(str(link), link=LinkOptions(reconnect_s=5.0))
        with source:
            stream = iter(source)
            first = next(stream)
            band.stop()
            with SimulatedBand([emg_uv], RATE_HZ, link=link, seed=2):
                again = next(block for block in stream if block.boot_id != first.boot_id)

    assert again.sample_index == 0
    assert source.counts.reconnects == 1


def test_samples_flow_again_after_every_hang_up_whatever_the_band_does_around_it(tmp_path, emg_uv):
    link = tmp_path / "band"
    with SimulatedBand([emg_uv], RATE_HZ, link=link, seed=3) as band:
        with open_source(str(link), link=LinkOptions(reconnect_s=20.0)) as source:
            stream = iter(source)
            boots = {next(stream).boot_id}
            for n_reconnects, (restarts, stalls) in enumerate(product((False, True), repeat=2), start=1):
                if restarts:
                    band.reboot()
                if stalls:
                    band.stall(0.3)
                band.unplug(0.2)
                while source.counts.reconnects < n_reconnects:
                    boots.add(next(stream).boot_id)
                boots.add(next(stream).boot_id)

    assert source.counts.reconnects == 4
    assert len(boots) == 3


def test_a_band_that_stays_away_is_given_up_after_the_time_that_was_set(tmp_path, emg_uv):
    link = tmp_path / "band"
    with SimulatedBand([emg_uv], RATE_HZ, link=link) as band:
        with open_source(str(link), link=LinkOptions(reconnect_s=0.5)) as source:
            stream = iter(source)
            next(stream)
            band.stop()
            started_s = time.monotonic()
            with pytest.raises(LinkError, match=r"is gone: .*; it did not come back within 0.5 s"):
                list(stream)
    assert time.monotonic() - started_s > 0.4


def test_a_board_that_was_unplugged_begins_a_new_stream(tmp_path):
    link, model = tmp_path / "board", SimulatedCyton()
    emg_uv = np.zeros((100, 8), np.float32)
    with SimulatedBoard(model, [emg_uv], link=link, speed=4) as board:
        with open_source(str(link), device="cyton", link=LinkOptions(reconnect_s=5.0)) as source:
            stream = iter(source)
            first = next(stream)
            board.stop()
            with SimulatedBoard(model, [emg_uv], link=link, speed=4):
                again = next(stream)

    assert (first.sample_index, again.sample_index) == (0, 0)
    assert again.boot_id != first.boot_id
    assert source.counts.reconnects == 1


def test_attempts_back_off_from_a_tenth_of_a_second_to_two_seconds():
    assert list(islice(waits_s(), 7)) == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


@dataclass
class ListedPort:
    """A serial port as pyserial lists it."""

    device: str
    vid: int | None
    pid: int | None
    serial_number: str | None


def test_a_usb_device_is_found_again_by_what_it_is_not_where_it_was():
    with closing(PtyPort()) as before, closing(PtyPort()) as after:
        listed = [ListedPort(before.path, 0x0403, 0x6015, "DM00"), ListedPort("/dev/ttyS0", None, None, None)]
        reopen = Reopener(before.path, 921_600, lambda: listed)
        with closing(reopen()) as line:
            assert line.name == before.path
        listed[0] = ListedPort(after.path, 0x0403, 0x6015, "DM00")
        with closing(reopen()) as line:
            assert line.name == after.path
        with closing(Reopener("0403:6015:DM00", 921_600, lambda: listed)()) as line:
            assert line.name == after.path
        listed.clear()
        with pytest.raises(LinkError, match="no device 0403:6015:DM00 is connected"):
            Reopener("0403:6015:DM00", 921_600, lambda: listed)()


def test_devices_that_cannot_be_told_apart_are_found_by_their_path():
    twins = [ListedPort(f"/dev/ttyUSB{n}", 0x1A86, 0x7523, None) for n in (1, 0)]

    assert identity_of("/dev/ttyUSB1", twins) is None
    assert named_identity("1a86:7523") == UsbIdentity(0x1A86, 0x7523, None)
    assert find_device(UsbIdentity(0x1A86, 0x7523, None), twins) == "/dev/ttyUSB0"
    assert named_identity("/dev/ttyUSB0") is named_identity("socket://10.0.0.1:7000") is None


@pytest.mark.parametrize("drift_ppm", [-100.0, 100.0])
def test_drift_of_the_bands_clock_is_never_taken_for_a_loss(emg_uv, drift_ppm):
    blocks, counts, sent = through_harm(emg_uv, drift_ppm=drift_ppm)

    assert sum(len(block.samples_uv) for block in blocks) == sent.samples
    assert counts.lost_samples == 0
    assert np.diff([block.device_t_s for block in blocks]).min() > 0


def test_a_device_that_stops_answering_is_said_so(emg_uv):
    with SimulatedBand([emg_uv], RATE_HZ) as band, open_source(band.port, link=LinkOptions(timeout_s=2.0)) as source:
        stream = iter(source)
        next(stream)
        band.stall(600.0)
        with pytest.raises(LinkTimeout, match=r"stopped sending 2 s ago, after sample \d+: check its battery"):
            list(stream)
        band.stop()


def test_a_line_too_slow_for_the_stream_is_refused_with_the_arithmetic():
    assert stream_bytes_per_s(INFO) == pytest.approx(69_400)
    with pytest.raises(
        LinkError,
        match=r"runs at 115200 baud, which carries 11.5 kB/s, but the stream is 69.4 kB/s "
        r"\(694000 bits/s at 10 bits a byte\): set the device to 921600 baud",
    ):
        check_baud(stream_bytes_per_s(INFO), INFO.baud, "/dev/ttyUSB0")
    check_baud(stream_bytes_per_s(INFO), 921_600, "/dev/ttyUSB0")
    check_baud(stream_bytes_per_s(INFO), 0, "/dev/ttyACM0")
    i24 = replace(INFO, sample_format=1)
    with pytest.raises(LinkError, match="set the device to 1500000 baud"):
        check_baud(stream_bytes_per_s(i24), 921_600, "/dev/ttyUSB0")


def test_a_band_on_a_slow_line_is_refused_before_it_streams():
    with scripted(answers(lambda frame: encode_frame(replace(INFO, seq=frame.seq)))) as port:
        with pytest.raises(LinkError, match=r"115200 baud, which carries 11.5 kB/s"):
            open_source(port.path, link=LinkOptions(timeout_s=60.0)).__enter__()
        open_stream(port.path).close()  # the port is free again


def test_after_a_while_of_all_of_it_every_sample_is_accounted_for_and_none_is_wrong():
    harm = Harm(unplug_every_s=15.0, unplugged_s=2.0, band_stall_every_s=13.0, band_stalled_s=2.0,
                reader_stall_every_s=17.0, reader_stalled_s=2.0, board_reset_every_s=2.0)  # fmt: skip
    report = soak(40.0, harm=harm, speed=5.0, minute_s=10.0, seed=5)  # the last unplugging is well before the end

    assert report.faults == []
    assert (report.unaccounted_samples, report.wrong_samples) == (0, 0)
    assert report.counts.reconnects >= 2
    assert min(report.sent.injected_losses, report.sent.cut, report.sent.reordered, report.sent.unplugged) > 5
    assert report.sent.noisy > 5
    assert report.counts.corrupt_frames >= 2 * report.sent.noisy
    assert report.board.streams_begun_anew == report.board.resets >= 2
    assert report.board.counts.lost_samples >= report.board.sent.injected_losses - 2 > 0
    assert "passed" in to_markdown(report)


def test_a_soak_run_would_notice_a_wrong_sample_and_a_lost_count(monkeypatch):
    accept, n_accepted = StreamLedger.accept, 0

    def forgetful(self: StreamLedger, seq: int, sample_index: int, n_samples: int) -> int | None:
        nonlocal n_accepted
        index = accept(self, seq, sample_index, n_samples)
        n_accepted += index is not None
        return None if n_accepted == 40 else index  # not by seq, because the full line may drop that frame

    monkeypatch.setattr(StreamLedger, "accept", forgetful)
    report = soak(4.0, speed=10.0, minute_s=1.0)

    assert report.unaccounted_samples == 10
    assert any("neither received nor counted" in fault for fault in report.faults)


def test_a_soak_run_would_notice_a_counter_that_is_not_seen_to_begin_anew(monkeypatch):
    monkeypatch.setattr(CounterLedger, "_leap", lambda ledger, steps, host_t_s: None)
    report = soak(40.0, harm=Harm(board_reset_every_s=0.1), speed=10.0, minute_s=1.0)

    assert any("began anew" in fault for fault in report.faults)
