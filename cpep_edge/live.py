"""The live loop: blocks of samples in, decisions out.

`LiveEngine` holds the way of the data and no threads: `ingest` filters a block into the ring, `step` decides on the
newest due window. `Live` runs the two in two threads, so that slow inference never stalls the reader: it skips hops
instead, the newest wins, and the skips are counted. Windows end at whole multiples of the hop, counted in device
samples, so that a replay of the same samples gives the same decisions however they were cut into blocks.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_edge.blocks import Block, BlockSource, StreamInfo
from cpep_edge.bundle import Manifest
from cpep_edge.decisions import Debouncer, Decision
from cpep_edge.errors import ConfigError
from cpep_edge.recogniser import Recogniser
from cpep_edge.ring import MirroredRing

INTERPOLATED_GAP_S = 0.010  # a shorter loss is filled in and the windows with it are flagged
RESET_GAP_S = 2.0  # after a longer loss everything starts anew; between the two, decisions wait for a clean window
DEFAULT_HOP_MS = 100.0
RATE_TOLERANCE = 1e-3  # clocks drift by tens of ppm; another rate is another device


@dataclass(frozen=True, slots=True)
class _Hop:
    """A window that became due, with all that `step` must know, so that the two threads share nothing but the ring."""

    end_index: int
    device_t_s: float
    arrived_s: float
    epoch: int  # counts restarts of the stream
    interpolated: bool


class LiveEngine:
    """One stream's filter, ring, recogniser and decision state.

    `ingest` and `step` may be called from two threads, each always from the same one.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        info: StreamInfo,
        hop_ms: float = DEFAULT_HOP_MS,
        level_uv: NDArray[np.float32] | None = None,
    ) -> None:
        """level_uv: (n_channels,), of the session's calibration, where there was one.

        Raises ConfigError when the stream is not what the bundle was made for.
        """
        manifest = recogniser.manifest
        check_stream(info, manifest)
        self._recogniser = recogniser
        self._rate_hz = manifest.preprocessing.sample_rate_hz
        self._window_samples = manifest.encoder.window_samples
        self._hop_samples = max(1, round(hop_ms * 1e-3 * self._rate_hz))
        self._preprocess = recogniser.preprocessor(level_uv)
        self._ring = MirroredRing(info.n_channels, 4 * self._window_samples)
        self._debouncer = Debouncer(manifest.decision, tuple(gesture.name for gesture in manifest.gestures))
        self._pending: deque[_Hop] = deque()
        self._boot_id: int | None = None
        self._epoch = self._decided_epoch = 0
        self._last_sample: NDArray[np.float32] | None = None
        self._first_index = self._clean_from = self._interpolated_until = 0
        self.n_skipped_hops = 0
        self.n_suppressed_hops = 0
        self.n_resets = 0

    def ingest(self, block: Block) -> bool:
        """Filter a block into the ring; returns whether a window became due."""
        lost = block.sample_index - self._ring.end_index
        if self._boot_id != block.boot_id or lost < 0 or lost > RESET_GAP_S * self._rate_hz:
            self._restart(block)
        previous_end = self._ring.end_index
        if previous_end < block.sample_index:
            self._fill(block)
        self._append(block.samples_uv)
        self._last_sample = block.samples_uv[-1]
        return self._schedule(block, previous_end)

    def step(self, newest: bool = True) -> Decision | None:
        """Decide on a due window; None when none is due or its samples are no longer there.

        newest: skip what is late; False takes hop by hop, as a replay does
        """
        if not self._pending:
            return None
        hop = self._pending.popleft()
        while newest and self._pending:
            hop = self._pending.popleft()
            self.n_skipped_hops += 1
        window = self._ring.window(hop.end_index, self._window_samples)
        if window is None or hop.epoch != self._epoch:
            self.n_skipped_hops += 1
            return None
        return self._decide(hop, window)

    def _decide(self, hop: _Hop, window: NDArray[np.float32]) -> Decision:
        if hop.epoch != self._decided_epoch:
            self._debouncer.reset()
            self._decided_epoch = hop.epoch
        vote = self._recogniser.recognise(window).vote
        window_gesture = self._debouncer.accept(vote)
        changed = self._debouncer.update(window_gesture)
        return Decision(
            sample_index=hop.end_index,
            device_t_s=hop.device_t_s,
            gesture=self._debouncer.gesture,
            changed=changed,
            window_gesture=window_gesture,
            confidence=vote.share,
            similarity=vote.similarity,
            interpolated=hop.interpolated,
            delay_ms=(time.monotonic() - hop.arrived_s) * 1e3,
        )

    def _restart(self, block: Block) -> None:
        if self._boot_id is not None:
            self.n_resets += 1
        self._boot_id = block.boot_id
        self._epoch += 1
        self._preprocess.reset()
        self._ring.restart(block.sample_index)
        self._first_index = self._clean_from = self._interpolated_until = block.sample_index

    def _fill(self, block: Block) -> None:
        """Draw a line across lost samples: it disturbs the filter least.

        Zeros in their place would ring for 100 ms under an electrode offset.
        """
        lost = block.sample_index - self._ring.end_index
        before = block.samples_uv[0] if self._last_sample is None else self._last_sample
        share = (np.arange(1, lost + 1, dtype=np.float32) / (lost + 1))[:, None]
        self._append(before + share * (block.samples_uv[0] - before))
        self._interpolated_until = block.sample_index
        if lost > INTERPOLATED_GAP_S * self._rate_hz:
            self._clean_from = block.sample_index

    def _append(self, samples_uv: NDArray[np.float32]) -> None:
        for start in range(0, len(samples_uv), self._window_samples):
            self._ring.write(self._preprocess(samples_uv[start : start + self._window_samples]))

    def _schedule(self, block: Block, previous_end: int) -> bool:
        """Note every multiple of the hop reached since `previous_end` that ends a clean window."""
        due = False
        first = (previous_end // self._hop_samples + 1) * self._hop_samples
        for end_index in range(first, self._ring.end_index + 1, self._hop_samples):
            start_index = end_index - self._window_samples
            if start_index < self._clean_from:
                self.n_suppressed_hops += start_index >= self._first_index
                continue
            device_t_s = round(block.device_t_s + (end_index - block.sample_index) / self._rate_hz, 6)  # counts in us
            interpolated = start_index < self._interpolated_until
            self._pending.append(_Hop(end_index, device_t_s, block.host_t_s, self._epoch, interpolated))
            due = True
        return due


def check_stream(info: StreamInfo, manifest: Manifest) -> None:
    """Raises ConfigError when a stream's channels, rate or unit are not what the bundle was made for.

    The sentence ends in the lines of a device config that would make the stream fit.
    """
    n_channels, rate_hz = manifest.encoder.n_channels, manifest.preprocessing.sample_rate_hz
    if info.n_channels != n_channels:
        raise ConfigError(
            f"{info.name} has {info.n_channels} channels, but {manifest.name} was trained on {n_channels}; "
            f"export a bundle trained on {info.n_channels} channels, use the band it was made for, "
            f"or say which channel goes where{_device_config(info, n_channels, rate_hz)}"
        )
    if abs(info.sample_rate_hz / rate_hz - 1) > RATE_TOLERANCE:
        raise ConfigError(
            f"{info.name} samples at {info.sample_rate_hz:g} Hz, but {manifest.name} was trained at {rate_hz:g} Hz; "
            f"export a bundle trained at {info.sample_rate_hz:g} Hz, use the band it was made for, "
            f"or have it resampled{_device_config(info, n_channels, rate_hz)}"
        )
    if info.unit != "uV":
        raise ConfigError(
            f"{info.name} does not say what a {info.unit} is in microvolts, but {manifest.name} was trained on those; "
            f"say what its amplifier makes of one{_device_config(info, n_channels, rate_hz)}"
        )


def _device_config(info: StreamInfo, n_channels: int, rate_hz: float) -> str:
    """The end of a sentence: the config that makes a stream fit, as far as anybody but the user can know it."""
    lines = []
    if info.n_channels != n_channels:
        order = [channel if channel < info.n_channels else -1 for channel in range(n_channels)]
        lines.append(f"channels = {order}  # the device's channel for each of the model's; -1 where it has none")
    if abs(info.sample_rate_hz / rate_hz - 1) > RATE_TOLERANCE:
        lines.append(f"sample_rate_hz = {float(rate_hz)}")
    if info.unit != "uV":
        lines.append("uv_per_count = 1.0  # microvolts at the electrode")
    return " in a file for --device-config:\n" + "\n".join(lines)


class Live:
    """A source and an engine in two threads: iterate to get decisions as they fall.

    The reader thread ends with the iteration. What the source raised is raised to the one who iterates.
    """

    def __init__(
        self,
        source: BlockSource,
        recogniser: Recogniser,
        hop_ms: float = DEFAULT_HOP_MS,
        *,
        seconds: float | None = None,
        level_uv: NDArray[np.float32] | None = None,
    ) -> None:
        """source: opened; seconds: of signal after which to stop, None goes on to the source's end."""
        self.source = source
        self._max_samples = None if seconds is None else round(seconds * source.info.sample_rate_hz)
        self.engine = LiveEngine(recogniser, source.info, hop_ms, level_uv)
        self._wake = threading.Condition()
        self._due = self._stopping = False
        self.stopped = False  # the reader has ended
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[Decision]:
        reader = threading.Thread(target=self._read, name="reader", daemon=True)
        reader.start()
        try:
            while self._wait():
                decision = self.engine.step()
                if decision is not None:
                    yield decision
        finally:
            self._stopping = True
            reader.join()
        if self._error is not None:
            raise self._error

    def _wait(self) -> bool:
        """Sleep until a window is due; False once the source has ended and nothing is due."""
        with self._wake:
            while not self._due and not self.stopped:
                self._wake.wait()
            due, self._due = self._due, False
            return due

    def _read(self) -> None:
        first_index: int | None = None
        try:
            for block in self.source:
                first_index = block.sample_index if first_index is None else first_index
                if self.engine.ingest(block):
                    self._set(due=True)
                n_samples = block.sample_index + len(block.samples_uv) - first_index
                if self._stopping or (self._max_samples is not None and n_samples >= self._max_samples):
                    break
        except BaseException as error:
            self._error = error
        self._set(stopped=True)

    def _set(self, due: bool = False, stopped: bool = False) -> None:
        with self._wake:
            self._due = self._due or due
            self.stopped = self.stopped or stopped
            self._wake.notify()
