"""The live loop: blocks of samples in, decisions out.

`LiveEngine` processes the data and has no threads: `ingest` filters a block into the ring, `step` decides on the newest
due window. `Live` runs the two in two threads, so that slow inference never stalls the reader: it skips older windows
instead, which are counted. Windows end at whole multiples of the hop, counted in device samples, so a replay of the
same samples gives the same decisions however they are cut into blocks. Views read the engine at their own pace and
never delay it; a consumer that must not miss anything is a `Tap`.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cpep_edge.blocks import INTERPOLATED_GAP_S, RATE_TOLERANCE, Block, BlockSource, StreamInfo
from cpep_edge.decisions import LONGEST_MS, Decider, Decision
from cpep_edge.donning import LEVEL_STRETCH_S, Donning
from cpep_edge.errors import ConfigError
from cpep_edge.head import Drift
from cpep_edge.manifest import DecisionSpec, HeadSpec, Manifest
from cpep_edge.names import UNKNOWN
from cpep_edge.recogniser import Recogniser, Recognition, head_input
from cpep_edge.ring import MirroredRing

KEPT_S = 3.0  # least signal in the ring: a source may send more than a second at once, however short windows are
RESET_GAP_S = 2.0  # a longer loss resets the state; from `INTERPOLATED_GAP_S` up, decisions wait for a clean window
_NEXT_BLOCK_S = 0.1  # time in which the reader usually gets a block and sees that it should end
_LEAVE_S = 0.6  # time for the reader to end; after that it is abandoned, as when an address does not answer
LEAST_ELECTRODES = 2  # needed for a covariance


@dataclass(frozen=True, slots=True)
class _Hop:
    """A window that became due, with all that `step` needs, so that the two threads share only the ring."""

    end_index: int
    device_t_s: float
    arrived_s: float
    epoch: int  # number of restarts of the stream so far
    interpolated: bool


class Tap(Protocol):
    """Receives every block and decision of a live run. Its methods must return at once, or they delay the run."""

    def block(self, block: Block) -> None:
        """Called from the reader's thread when samples arrive."""
        ...

    def decision(self, decision: Decision) -> None:
        """Called with each decision, from the thread that iterates."""
        ...


class LiveEngine:
    """One stream's filter, ring, recogniser and decision state.

    `ingest` and `step` may be called from two threads, each always from the same one.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        info: StreamInfo,
        *,
        hop_ms: float | None = None,
        donning: Donning | None = None,
        spec: DecisionSpec | None = None,
    ) -> None:
        """hop_ms: time between two windows; None: the bundle's
        donning: result of the wearer's calibration; None: the bundle's usual one
        spec: decision settings; None: the bundle's

        Raises ConfigError when the stream is not what the bundle was made for.
        """
        manifest = recogniser.manifest
        check_stream(info, manifest)
        self._recogniser = recogniser
        self._rate_hz = manifest.preprocessing.sample_rate_hz
        self._window_samples = manifest.window_samples
        self.spec = spec or manifest.decision
        self.hop_ms = hop_ms or self.spec.hop_ms
        if not self.hop_ms <= LONGEST_MS:
            raise ConfigError(f"a hop of {self.hop_ms:g} ms is not possible: give 5 to {LONGEST_MS:g}")
        a_token = 1 if manifest.front_end is None else manifest.front_end.hop_samples
        self._hop_samples = a_token * max(1, round(self.hop_ms * 1e-3 * self._rate_hz / a_token))
        self._stretch_samples = round(LEVEL_STRETCH_S * self._rate_hz)
        self.donning = donning = (donning or manifest.usual_donning).lacking(info.missing)
        self._head = recogniser.on_arm(donning)
        self._drift: Drift | None = None
        self._head_spec: HeadSpec | None = None
        if self.spec.adapt:
            self._head_spec = manifest.head
            if self._head is None or not (manifest.head and manifest.head.answers):
                raise ConfigError(f"{manifest.name} cannot adapt while it is worn: it has no head that answers")
            self._drift = Drift(self._head, self._hop_samples / self._rate_hz, manifest.other_movements)
        self._stream = recogniser.stream(donning)
        self._live_channels = [place for place in range(info.n_channels) if place not in self._stream.donning.dead]
        kept = max(4 * self._window_samples, round(KEPT_S * self._rate_hz))
        self._ring = MirroredRing(info.n_channels, kept)
        self._front_end, (n_inputs, self._n_steps) = manifest.front_end, manifest.input_shape
        self._tokens = None if self._front_end is None else MirroredRing(n_inputs, 4 + kept // a_token)
        hop_ms = self._hop_samples / self._rate_hz * 1e3
        self._decider = Decider(self.spec, manifest.gesture_names, hop_ms)
        self._pending: deque[_Hop] = deque()
        self._n_pending_most = 1 + kept // self._hop_samples  # older windows have left the ring
        self._boot_id: int | None = None
        self._epoch = self._decided_epoch = 0
        self._last_sample: NDArray[np.float32] | None = None
        self._first_index = self._clean_from = self._interpolated_until = 0
        self._n_late_hops = self._n_dropped_hops = 0  # each is written by only one thread
        self.n_suppressed_hops = 0
        self.n_resets = 0
        self.n_rest_hops = 0  # in which the encoder did not run
        self.last_block_s: float | None = None  # when the newest samples arrived, time.monotonic()
        self.recognition: Recognition | None = None  # of the newest window; None before the first, and at rest

    def decide_by(self, spec: DecisionSpec) -> None:
        """Use other decision settings from the next window on. Raises ConfigError when they do not fit the bundle."""
        gestures = self._recogniser.manifest.gesture_names
        self._decider = Decider(spec, gestures, self._hop_samples / self._rate_hz * 1e3)
        self.spec = spec

    @property
    def n_skipped_hops(self) -> int:
        """Number of due windows that were not decided on, because a newer one was due or their samples were gone."""
        return self._n_late_hops + self._n_dropped_hops

    def signal(self, after_index: int, n_most: int) -> tuple[int, NDArray[np.float32]]:
        """The newest filtered samples, for views; may be called from any thread.

        after_index: what the caller has already seen
        returns: one past the newest sample, and at most `n_most` samples that end there, (n_channels, n_samples)
        """
        end_index = self._ring.end_index
        n_samples = min(end_index - max(after_index, self._first_index), n_most, 3 * self._window_samples)
        window = self._ring.window(end_index, n_samples) if n_samples > 0 else None
        return end_index, np.empty((self._ring.n_channels, 0), np.float32) if window is None else window

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
        self.last_block_s = block.host_t_s
        return self._schedule(block, previous_end)

    def step(self, newest: bool = True) -> Decision | None:
        """Decide on a due window; None when none is due or its samples are no longer in the ring.

        newest: skip to the newest due window; False: take the oldest, as a replay does
        """
        hop = self._take()
        while newest and (newer := self._take()) is not None:
            hop = newer
            self._n_late_hops += 1
        if hop is None:
            return None
        window = self._window(hop.end_index)
        if window is None or hop.epoch != self._epoch:
            self._n_late_hops += 1
            return None
        return self._decide(hop, window)

    @property
    def next_due(self) -> int | None:
        """End of the oldest due window, in device samples; None when none is due."""
        return self._pending[0].end_index if self._pending else None

    def skip(self) -> None:
        """Skip the oldest due window, as the recorded run did."""
        if self._take() is not None:
            self._n_late_hops += 1

    def _take(self) -> _Hop | None:
        try:
            return self._pending.popleft()
        except IndexError:  # do not check the length first: the other thread could empty the queue in between
            return None

    def _window(self, end_index: int) -> NDArray[np.float32] | None:
        """The encoder's input for the window that ends at `end_index`; None when the rings do not hold it."""
        if self._tokens is None or self._front_end is None:
            return self._ring.window(end_index, self._window_samples)
        return self._tokens.window(end_index // self._front_end.hop_samples, self._n_steps)

    def _decide(self, hop: _Hop, window: NDArray[np.float32]) -> Decision:
        if hop.epoch != self._decided_epoch:
            self._decider.reset()
            self._decided_epoch = hop.epoch
        if self._at_rest(hop.end_index):
            self.n_rest_hops += 1
            self.recognition = None
            window_gesture, confidence, similarity = self.spec.rest_gesture or UNKNOWN, 1.0, 0.0
        else:
            head = self._head if self._drift is None else self._drift.head
            self.recognition = self._recogniser.recognise(window, head)
            if self._drift is not None and self._head_spec is not None:
                self._drift.follow(head_input(self._head_spec, window, self.recognition.embedding))
            vote = self.recognition.vote
            window_gesture, confidence, similarity = self._decider.accept(vote), vote.share, vote.similarity
        changed = self._decider.update(None if self.recognition is None else self.recognition.vote)
        return Decision(
            sample_index=hop.end_index,
            device_t_s=hop.device_t_s,
            gesture=self._decider.gesture,
            changed=changed,
            window_gesture=window_gesture,
            confidence=confidence,
            similarity=similarity,
            at_rest=self.recognition is None,
            interpolated=hop.interpolated,
            delay_ms=(time.monotonic() - hop.arrived_s) * 1e3,
        )

    def _at_rest(self, end_index: int) -> bool:
        """Whether the last 0.1 s before `end_index` is below the rest level."""
        if not self.spec.rest_level:
            return False
        stretch = self._ring.window(end_index, self._stretch_samples)
        return stretch is not None and level(stretch[self._live_channels]) < self.spec.rest_level

    def _restart(self, block: Block) -> None:
        if self._boot_id is not None:
            self.n_resets += 1
        self._boot_id = block.boot_id
        self._epoch += 1
        self._stream.reset(block.sample_index)
        self._ring.restart(block.sample_index)
        self._first_index = self._clean_from = self._interpolated_until = block.sample_index
        if self._tokens is not None and self._front_end is not None:
            hop = self._front_end.hop_samples
            first_block = -(-block.sample_index // hop) * hop
            self._tokens.restart((first_block + self._front_end.span_samples) // hop - 1)
            self._first_index = self._clean_from = first_block

    def _fill(self, block: Block) -> None:
        """Interpolate lost samples linearly, which disturbs the filter least.

        With an electrode offset, zeros would make the filter ring for 100 ms.
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
            part = samples_uv[start : start + self._window_samples]
            scaled = self._stream.scaled(part)
            if self._tokens is not None:
                self._tokens.write(self._stream.steps(scaled))  # first: samples make a window due
            self._ring.write(scaled)

    def _schedule(self, block: Block, previous_end: int) -> bool:
        """Queue a window for every multiple of the hop since `previous_end` that ends a clean window."""
        due = False
        first = (previous_end // self._hop_samples + 1) * self._hop_samples
        for end_index in range(first, self._ring.end_index + 1, self._hop_samples):
            start_index = end_index - self._window_samples
            if start_index < self._clean_from:
                self.n_suppressed_hops += start_index >= self._first_index
                continue
            device_t_s = round(block.device_t_s + (end_index - block.sample_index) / self._rate_hz, 6)  # whole us
            interpolated = start_index < self._interpolated_until
            if len(self._pending) >= self._n_pending_most and self._take() is not None:
                self._n_dropped_hops += 1
            self._pending.append(_Hop(end_index, device_t_s, block.host_t_s, self._epoch, interpolated))
            due = True
        return due


def level(scaled: NDArray[np.float32]) -> float:
    """The level of all channels together: the RMS of preprocessed signal, (n_channels, n_samples)."""
    return float(np.sqrt(np.mean(np.square(scaled))))


def expected_stream(manifest: Manifest) -> StreamInfo:
    """The stream that a device must send for a bundle, for use before a device is connected."""
    return StreamInfo("no device", manifest.n_channels, manifest.preprocessing.sample_rate_hz, manifest.unit)


def check_stream(info: StreamInfo, manifest: Manifest) -> None:
    """Raises ConfigError when a stream's channels, rate or unit are not what the bundle was made for.

    The message ends with the lines of a device config that would make the stream fit.
    """
    n_channels, rate_hz = manifest.n_channels, manifest.preprocessing.sample_rate_hz
    if info.n_channels != n_channels:
        raise ConfigError(
            f"{info.name} has {info.n_channels} channels, but {manifest.name} was trained on {n_channels}; "
            f"export a bundle trained on {info.n_channels} channels, use the band it was made for, "
            f"or say which channel goes where{_device_config(info, n_channels, rate_hz)}"
        )
    n_own = n_channels - len(info.missing)
    if n_own < LEAST_ELECTRODES:
        raise ConfigError(
            f"{info.name} has an electrode of its own for {n_own} of the {n_channels} channels of {manifest.name}, and "
            f"{LEAST_ELECTRODES} are the least: name more of them in the device config"
        )
    if abs(info.sample_rate_hz / rate_hz - 1) > RATE_TOLERANCE:
        raise ConfigError(
            f"{info.name} samples at {info.sample_rate_hz:g} Hz, but {manifest.name} was trained at {rate_hz:g} Hz; "
            f"export a bundle trained at {info.sample_rate_hz:g} Hz, use the band it was made for, "
            f"or have it resampled{_device_config(info, n_channels, rate_hz)}"
        )
    if info.unit != manifest.unit and manifest.unit == "count":
        raise ConfigError(
            f"{info.name} sends microvolts, but {manifest.name} was taught on a band that sends counts; use that band"
        )
    if info.unit != manifest.unit:
        raise ConfigError(
            f"{info.name} does not say what a {info.unit} is in microvolts, but {manifest.name} was trained on those; "
            f"say what its amplifier makes of one{_device_config(info, n_channels, rate_hz)}"
        )


def _device_config(info: StreamInfo, n_channels: int, rate_hz: float) -> str:
    """The end of an error message: a config that makes the stream fit, with values that the user must check."""
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
    """A source and an engine in two threads: iterate to get decisions as they are made.

    The reader thread ends with the iteration. An exception of the source is raised from the iteration.
    """

    def __init__(
        self,
        source: BlockSource,
        recogniser: Recogniser,
        *,
        hop_ms: float | None = None,
        seconds: float | None = None,
        donning: Donning | None = None,
        spec: DecisionSpec | None = None,
        taps: Sequence[Tap] = (),
    ) -> None:
        """source: opened; seconds: stop after this much signal, None: at the end of the source."""
        self.source = source
        self._max_samples = None if seconds is None else round(seconds * source.info.sample_rate_hz)
        self._hop_ms = hop_ms
        self.renew(recogniser, donning, spec)
        self._taps = taps
        self._wake = threading.Condition()
        self._due = self._stopping = False
        self.stopped = False  # the reader has ended
        self._error: BaseException | None = None

    def renew(self, recogniser: Recogniser, donning: Donning | None, spec: DecisionSpec | None) -> None:
        """Use another bundle, calibration or device from the next block on; may be called from any thread."""
        self.engine = LiveEngine(recogniser, self.source.info, hop_ms=self._hop_ms, donning=donning, spec=spec)

    def __iter__(self) -> Iterator[Decision]:
        reader = threading.Thread(target=self._read, name="reader", daemon=True)
        reader.start()
        try:
            while self._wait():
                decision = self.engine.step()
                if decision is not None:
                    for tap in self._taps:
                        tap.decision(decision)
                    yield decision
        finally:
            self._stopping = True
            reader.join(_NEXT_BLOCK_S)
            if reader.is_alive():  # it is waiting for a block
                self.source.stop()
                reader.join(_LEAVE_S)
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
        n_samples = 0
        try:
            for block in self.source:
                for tap in self._taps:
                    tap.block(block)
                if self.engine.ingest(block):
                    self._set(due=True)
                n_samples += len(block.samples_uv)
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
