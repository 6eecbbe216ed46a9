"""The rate at which samples really arrive, compared with the announced one; the tests set all clocks."""

import logging
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from cpep_bridge.arrivals import ArrivalRate
from cpep_bridge.heard_rate import AtPromisedRate
from cpep_edge.blocks import Block, LinkCounts, StreamInfo
from tests.firmware_bridge.blocks_in_memory import BlocksInMemory

INFO = StreamInfo("band", 8, 1_000.0, has_clock=True)


@pytest.mark.parametrize(
    ("arriving_hz", "stamped_hz", "heard_hz"),
    [
        (1_000.0, 1_000.0, 1_000.0),
        (8_000.0, 1_000.0, 0.0),  # a recording played eight times as fast
        (400.0, 1_000.0, 0.0),
        (1_250.0, 1_000.0, 1_250.0),  # too close to the rate for that, so the device's clock is wrong
        (8_000.0, 8_000.0, 8_000.0),  # both clocks agree
        (8_000.0, None, 8_000.0),  # there is only one clock
    ],
)
def test_two_clocks_tell_a_wrong_rate_from_a_recording_that_is_played_faster(caplog, arriving_hz, stamped_hz, heard_hz):
    rate = ArrivalRate(INFO)
    for end_index in range(10, round(12 * arriving_hz), 10):
        stamp_s = None if stamped_hz is None else 100 + end_index / stamped_hz
        rate.add(end_index, 5_000 + end_index / arriving_hz, stamp_s)

    assert rate.heard_hz == pytest.approx(heard_hz, rel=0.01)
    assert ("promised" in caplog.text) == (heard_hz not in (0.0, 1_000.0))
    assert all(record.levelno == logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("seed", range(20))
def test_a_host_that_stalls_at_the_start_invents_no_rate(caplog, seed):
    rng = np.random.default_rng(seed)
    stalls = [(start_s, start_s + rng.uniform(0.3, 1.5)) for start_s in rng.uniform(0, 4, 3)]
    rate = ArrivalRate(INFO)
    for end_index in range(20, 20_000, 20):
        host_s = end_index / INFO.sample_rate_hz
        for start_s, end_s in sorted(stalls):
            host_s = end_s if start_s < host_s < end_s else host_s
        rate.add(end_index, 5_000 + host_s)

    assert rate.heard_hz in (0.0, pytest.approx(1_000.0, rel=0.01))
    assert not caplog.records


@pytest.mark.parametrize("other_hz", [500.0, 2_000.0])
def test_a_rate_that_changes_on_the_way_is_said(caplog, other_hz):
    rate, host_s = ArrivalRate(INFO), 5_000.0
    for end_index in range(10, 60_000, 10):
        host_s += 10 / (1_000.0 if end_index <= 20_000 else other_hz)
        rate.add(end_index, host_s)
    assert rate.heard_hz == pytest.approx(other_hz, rel=0.01)
    assert f"samples came at 1000 Hz before, and at {other_hz:g} Hz now: record again" in caplog.text


@pytest.mark.parametrize(("waited_s", "catching_up"), [(2.0, 4.0), (6.0, 2.0), (15.0, 1.5)])
def test_what_waited_while_the_host_was_busy_is_no_rate_for_long(caplog, waited_s, catching_up):
    rate, heard = ArrivalRate(INFO), []
    for end_index in range(20, 90_000, 20):
        taken_s = end_index / INFO.sample_rate_hz
        rate.add(end_index, 5_000 + max(taken_s, waited_s + taken_s / catching_up))
        heard.append(rate.heard_hz)

    caught_up = round(waited_s / (1 - 1 / catching_up) * INFO.sample_rate_hz) // 20
    assert all(hz in (0.0, pytest.approx(1_000.0, rel=0.01)) for hz in heard[caught_up + 25_000 // 20 :])
    assert heard[-1] == pytest.approx(1_000.0, rel=0.01)
    assert "record again" not in caplog.text
    if waited_s / (1 - 1 / catching_up) - waited_s < 9:
        assert all(hz in (0.0, pytest.approx(1_000.0, rel=0.01)) for hz in heard)


class _Heard(BlocksInMemory):
    """A source of blocks whose real rate is known only from block `known_from` on."""

    def __init__(self, blocks: list[Block], info: StreamInfo, heard_hz: float, known_from: int) -> None:
        super().__init__(blocks, info=info)
        self._heard_hz, self._known_from = heard_hz, known_from

    def __iter__(self) -> Iterator[Block]:
        for number, block in enumerate(self._blocks):
            self.counts = LinkCounts(heard_hz=self._heard_hz if number >= self._known_from else 0.0)
            yield block


def tone(rate_hz: float, n_samples: int) -> list[Block]:
    wave = np.sin(2 * np.pi * 40 * np.arange(n_samples) / rate_hz).astype(np.float32)[:, None]
    return [Block(wave[n : n + 20], n, n / rate_hz, 0.0) for n in range(0, n_samples, 20)]


@pytest.mark.parametrize("rate_hz", [400.0, 404.3, 625.0, 1_000.0])
def test_a_stream_at_another_rate_is_brought_to_the_promised_one_once_that_is_known(rate_hz):
    info = StreamInfo("board", 1, 500.0)
    blocks = list(AtPromisedRate(_Heard(tone(rate_hz, 4_000), info, rate_hz, 50)))
    before = [block for block in blocks if block.boot_id == 0]
    after = [block for block in blocks if block.boot_id]

    assert len(before) == 50
    assert all(one.sample_index + len(one.samples_uv) == two.sample_index for one, two in pairwise(after))
    signal = np.concatenate([block.samples_uv for block in after])[500:1_500, 0]  # two seconds at the announced rate
    assert np.argmax(np.abs(np.fft.rfft(signal))) == pytest.approx(80, abs=1)  # 40 Hz


def test_a_rate_that_was_no_rate_is_given_up():
    info = StreamInfo("board", 1, 500.0)
    source = _Heard(tone(500.0, 4_000), info, 900.0, 50)
    stream = iter(AtPromisedRate(source))
    taken = [next(stream) for _ in range(100)]
    source._heard_hz = 501.0
    taken += stream
    boots = [block.boot_id for block in taken]
    assert boots == sorted(boots)
    assert len(set(boots)) == 3
    original = {block.sample_index: block for block in tone(500.0, 4_000)}
    assert all(
        np.array_equal(one.samples_uv, original[one.sample_index].samples_uv)
        for one in taken
        if one.boot_id != boots[60]
    )


@pytest.mark.parametrize(("heard_hz", "has_clock"), [(0.0, False), (508.0, False), (400.0, True)])
def test_a_stream_at_about_its_rate_and_one_with_a_clock_stay_as_they_are(heard_hz, has_clock):
    blocks = tone(500.0, 400)
    info = StreamInfo("board", 1, 500.0, has_clock=has_clock)
    assert list(AtPromisedRate(_Heard(blocks, info, heard_hz, 0))) == blocks
