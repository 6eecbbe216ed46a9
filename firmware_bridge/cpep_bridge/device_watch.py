"""The state of the device for a viewer while it streams: the signal quality of each electrode, and the battery."""

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

TAIL_S = 2.0  # of signal that is judged: hum is told from muscle by a hertz
AGAIN_S = 2.0  # between two judgements, however many ask


@dataclass(frozen=True, slots=True)
class Electrode:
    """One channel as the device numbers it."""

    rms: float  # without the offset, in the stream's unit
    fault: str  # what is wrong with it, in words; empty where nothing is


class DeviceWatch:
    """A tap of a live run that keeps the newest raw signal, and judges it when somebody asks."""

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
        """Decisions say nothing of the device."""

    def electrodes(self) -> tuple[Electrode, ...]:
        """Each channel, at most two seconds ago; none before there is enough signal."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._judged_s < AGAIN_S or self._n_samples < self._n_kept:
                return self._electrodes
            self._judged_s, signal = now_s, np.concatenate(self._blocks)
        missing = self._source.info.missing  # known to carry nothing of their own: no fault
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
        """Charge of the battery; None where the device does not tell it."""
        device = self._source.device if isinstance(self._source, ChosenPort) else self._source
        if isinstance(device, Band) and (told := device.take_telemetry()):
            self._battery_percent = told[-1].charge_percent if told[-1].battery_mv else None
        return self._battery_percent
