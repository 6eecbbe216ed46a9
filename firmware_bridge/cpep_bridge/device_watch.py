"""The state of a streaming device, for a viewer: the signal quality of each electrode, and the battery."""

import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.band import Band
from cpep_bridge.channel_health import assess_channels
from cpep_bridge.chosen_port import ChosenPort
from cpep_edge.blocks import Block, BlockSource
from cpep_edge.decisions import Decision

TAIL_S = 2.0  # length of the judged signal; resolves under 1 Hz, which is needed to tell hum from muscle
AGAIN_S = 2.0  # least time between two judgements, however many callers ask


@dataclass(frozen=True, slots=True)
class Electrode:
    """The signal quality of one channel."""

    rms: float  # without the offset, in the stream's unit
    fault: str  # in words; empty when the channel is good


class DeviceWatch:
    """A tap of a live run that keeps the newest raw signal and judges it on request."""

    def __init__(self, source: BlockSource) -> None:
        self._source = source
        self._n_kept = round(TAIL_S * source.info.sample_rate_hz)
        self._lock = threading.Lock()
        self._blocks: deque[NDArray[np.float32]] = deque()
        self._n_samples = 0
        self._judged_s = float("-inf")
        self._electrodes: tuple[Electrode, ...] = ()
        self._battery_percent: int | None = None

    def block(self, block: Block) -> None:
        """Keep the newest seconds."""
        with self._lock:
            self._blocks.append(block.samples_uv)
            self._n_samples += len(block.samples_uv)
            while self._n_samples - len(self._blocks[0]) >= self._n_kept:
                self._n_samples -= len(self._blocks.popleft())

    def decision(self, decision: Decision) -> None:
        """Ignored: decisions do not describe the device."""

    def electrodes(self) -> tuple[Electrode, ...]:
        """The quality of each channel, at most `AGAIN_S` old; empty until there is enough signal."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._judged_s < AGAIN_S or self._n_samples < self._n_kept:
                return self._electrodes
            self._judged_s, signal = now_s, np.concatenate(self._blocks)
        missing = self._source.info.missing  # channels known to have no electrode of their own: not faulty
        floor = {"hum_floor": 0.0} if self._source.info.unit != "uV" else {}
        self._electrodes = tuple(
            Electrode(
                one.rms,
                "" if one.channel in missing
                else "flat" if one.flat
                else "stuck" if one.stuck
                else "clipped" if one.saturated
                else f"{one.hum_hz:g} Hz hum" if one.hum_hz
                else "",
            )
            for one in assess_channels(signal, self._source.info.sample_rate_hz, **floor)
        )  # fmt: skip
        return self._electrodes

    def battery_percent(self) -> int | None:
        """Charge of the battery; None when the device does not report it."""
        device = self._source.device if isinstance(self._source, ChosenPort) else self._source
        if isinstance(device, Band) and (told := device.take_telemetry()):
            self._battery_percent = told[-1].charge_percent if told[-1].battery_mv else None
        return self._battery_percent
