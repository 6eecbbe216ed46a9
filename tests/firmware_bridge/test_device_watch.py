"""The state of electrodes and battery, as shown to a viewer."""

import time

import numpy as np

from cpep_bridge.device_watch import TAIL_S, DeviceWatch
from cpep_bridge.devices import open_source
from cpep_bridge.simulator import SimulatedBand
from cpep_edge.blocks import Block

RATE_HZ = 1000.0


def test_each_electrode_is_judged_by_its_newest_signal():
    rng = np.random.default_rng(0)
    n = round(3 * TAIL_S * RATE_HZ)
    signal = rng.normal(0, 30, (n, 4)).astype(np.float32)
    signal[-round(TAIL_S * RATE_HZ) :, 1] = 7.0  # torn off at the end
    signal[:, 2] += 200 * np.sin(2 * np.pi * 50 * np.arange(n) / RATE_HZ)
    signal[: n // 2, 3] = 0.0  # flat, but long ago
    with SimulatedBand([signal], RATE_HZ) as band, open_source(band.port) as source:
        watch = DeviceWatch(source)
        assert watch.electrodes() == ()
        for start in range(0, n, 100):
            watch.block(Block(signal[start : start + 100], start, start / RATE_HZ, time.monotonic()))
        assert [electrode.fault for electrode in watch.electrodes()] == ["", "flat", "50 Hz hum", ""]
        assert sum(map(len, watch._blocks)) < 1.1 * TAIL_S * RATE_HZ  # memory is bounded


def test_the_charge_is_what_the_band_tells_and_none_before():
    with SimulatedBand([np.zeros((2000, 4), np.float32)], RATE_HZ) as band, open_source(band.port) as source:
        watch = DeviceWatch(source)
        assert watch.battery_percent() is None
        for block in source:
            if watch.battery_percent() is not None:
                break
            watch.block(block)
        assert watch.battery_percent() == 80
