"""Choosing a device during a run: a suitable one is used, and an unsuitable one changes nothing."""

import itertools
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from cpep_bridge.chosen_port import ChosenPort
from cpep_bridge.devices import open_source
from cpep_bridge.simulator import SimulatedBand
from cpep_edge.blocks import Block, LinkCounts, StreamInfo
from cpep_edge.errors import ConfigError, LinkError
from tests.waiting import wait

RATE_HZ = 500.0
WANTED = StreamInfo("no device", 2, RATE_HZ)

PATIENCE_S = 20.0


def band(value: float, n_channels: int = 2) -> SimulatedBand:
    return SimulatedBand([np.full((1000, n_channels), value, np.float32)], RATE_HZ)


def fits(info: StreamInfo) -> None:
    if info.n_channels != WANTED.n_channels:
        raise ConfigError(f"{info.name} has {info.n_channels} channels")


@contextmanager
def read(*, waits: bool) -> Iterator[tuple[ChosenPort, "queue.Queue[Block | Exception | None]"]]:
    """A source without a device, and a queue of what a reader gets: blocks, then the source's error or None."""
    source = ChosenPort(WANTED, lambda port, device: open_source(port, device=device), fits, waits=waits)
    got: queue.Queue[Block | Exception | None] = queue.Queue()

    def run() -> None:
        try:
            for block in source:
                got.put(block)
            got.put(None)
        except LinkError as error:
            got.put(error)

    with source:
        reader = threading.Thread(target=run)
        reader.start()
        try:
            yield source, got
        finally:
            source.stop()
            reader.join(PATIENCE_S)
            assert not reader.is_alive()


def block_of(got: "queue.Queue[Block | Exception | None]", value: float) -> Block:
    """The next block with this value."""
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        block = got.get(timeout=PATIENCE_S)
        assert isinstance(block, Block)
        if (block.samples_uv == value).all():
            return block
    pytest.fail(f"no block of {value} came")


def test_another_device_takes_over_as_a_new_stream_and_the_old_one_is_let_go():
    with band(1.0) as one, band(2.0) as two, read(waits=True) as (source, got):
        assert (source.info, source.counts.frames) == (WANTED, 0)
        source.choose(one.port, "cpep")
        first = block_of(got, 1.0)
        source.choose(two.port, "cpep")
        assert block_of(got, 2.0).boot_id != first.boot_id
        assert source.port == two.port
        source.choose(one.port, "cpep")  # the port is free again
        block_of(got, 1.0)


def test_a_device_that_does_not_fit_or_does_not_answer_leaves_the_present_one_as_it_was():
    with band(1.0) as one, band(3.0, n_channels=3) as wide, read(waits=True) as (source, got):
        source.choose(one.port, "cpep")
        for port, says in ((wide.port, "has 3 channels"), ("/dev/none", "none"), (one.port, "connected already")):
            with pytest.raises((ConfigError, LinkError), match=says):
                source.choose(port, "cpep")
        assert source.port == one.port
        seen = source.counts.frames
        while source.counts.frames == seen:
            block_of(got, 1.0)
        with open_source(wide.port):  # the port was released
            pass


class Plugged:
    """A device whose blocks have one value and whose boot number is always 0; it records whether it was closed."""

    def __init__(self, value: float, n_channels: int = 2) -> None:
        self.info, self.counts = StreamInfo(f"device {value}", n_channels, RATE_HZ, has_clock=True), LinkCounts()
        self._value, self.is_closed, self._stopping = value, False, threading.Event()

    def __enter__(self) -> "Plugged":
        return self

    def __exit__(self, *exc: object) -> None:
        self.is_closed = True

    def __iter__(self) -> Iterator[Block]:
        for start in itertools.count(0, 10):
            if self._stopping.wait(0.005):
                return
            yield Block(np.full((10, 2), self._value, np.float32), start, start / RATE_HZ, 0.0)

    def stop(self) -> None:
        self._stopping.set()


def test_two_devices_that_count_alike_are_two_streams_and_what_is_not_taken_is_closed():
    devices = {"one": Plugged(1.0), "two": Plugged(2.0), "wide": Plugged(3.0, n_channels=3)}
    source, found = ChosenPort(WANTED, lambda port, _: devices[port], fits, waits=True), []
    source.choose("one", "")
    for block in source:
        found.append((float(block.samples_uv[0, 0]), block.boot_id))
        if len(found) == 3:
            with pytest.raises(ConfigError, match="has 3 channels"):
                source.choose("wide", "")
            assert devices["wide"].is_closed
            assert not devices["one"].is_closed
            source.choose("two", "")
        if len(found) == 6:
            source.stop()
    values, boots = zip(*found, strict=True)
    assert (values[0], values[-1]) == (1.0, 2.0)
    assert len({*found}) == len({*boots}) == 2
    assert devices["one"].is_closed


def test_one_that_vanishes_is_waited_for_where_the_run_began_without_and_ends_it_elsewhere():
    with band(1.0) as one, band(2.0) as two, read(waits=True) as (source, got):
        source.choose(one.port, "cpep")
        block_of(got, 1.0)
        one.unplug(600)
        wait(lambda: source.device is None)
        assert source.problem
        assert source.port == ""
        source.choose(two.port, "cpep")
        block_of(got, 2.0)
        assert source.problem == ""
    with band(1.0) as one, read(waits=False) as (source, got):
        source.choose(one.port, "cpep")
        block_of(got, 1.0)
        one.unplug(600)
        while isinstance(last := got.get(timeout=PATIENCE_S), Block):
            pass
        assert isinstance(last, LinkError)
