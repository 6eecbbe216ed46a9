"""The driver of our own wristband: a source of blocks in microvolts, and an exact account of what did not arrive."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.byte_stream import ByteStream, LineLost, RecordingOver
from cpep_bridge.clock import DeviceClock
from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.dialogue import Arrival, Dialogue
from cpep_bridge.frames import (
    BenchResult,
    Data,
    End,
    Frame,
    Identify,
    Info,
    Log,
    Nak,
    Ping,
    Pong,
    Prediction,
    Start,
    Stop,
    Telemetry,
    samples_to_uv,
)
from cpep_bridge.line_rate import check_baud, check_info, stream_bytes_per_s
from cpep_bridge.loss import StreamLedger
from cpep_bridge.pace import Pace
from cpep_bridge.reopening import stayed_away, waits_s
from cpep_edge.blocks import Block, LinkCounts, StreamInfo
from cpep_edge.errors import LinkError, LinkTimeout

PING_EVERY_S = 1.0

_PROBE_EVERY_S = 0.5  # of silence the band is asked who it is: it may have restarted, or ended unheard
_LEAVE_S = 0.3  # for the answer to STOP on closing
_KEPT_PINGS = 8
_KEPT = 1024  # predictions and readings of the battery, until they are taken
_PONG_S = 0.05  # a PONG that took longer tells little of the clock

_log = logging.getLogger(__name__)


class Band:
    """A wristband that speaks the protocol of `frames`, from `with` to the end of its stream.

    open_port: opens the line to it; a function, because a line that broke must be opened anew
    timeout_s: how long the band may be silent while it should answer or stream
    reconnect_s: how long to try to open a line anew that broke in mid-stream, 0 gives up at once

    Entering asks the band who it is, iterating starts its stream. Both raise LinkError, or LinkTimeout when the band is
    silent. A line that broke and came back goes on in the same stream if the band did not restart: what it sent
    meanwhile is counted as lost, to the sample. Nothing reads the line between two blocks but the iteration: a slow
    consumer makes the band drop frames, which are then counted as lost. Samples that were on their way when the
    iteration was left are not accounted for.
    """

    def __init__(
        self, open_port: Callable[[], ByteStream], *, timeout_s: float = 2.0, reconnect_s: float = 0.0
    ) -> None:
        self._open_port = open_port
        self._timeout_s = timeout_s
        self._reconnect_s = reconnect_s
        self._decoder = FrameDecoder()
        self._dialogue: Dialogue | None = None
        self._identity: Info | None = None
        self._uv_per_count = np.float32(0)
        self._streaming = False
        self._ledger = StreamLedger()
        self._frames = 0  # DATA frames whose samples were passed on
        self._misfits = 0  # DATA frames that contradict INFO
        self._reconnects = 0
        self._pace = Pace()
        self._pings: dict[int, float] = {}  # when they were sent, by seq
        self._ping_due_s = 0.0
        self._silent_s = 0.0  # spent waiting since the last DATA frame; a slow consumer's time is not the band's
        self._probe_after_s = _PROBE_EVERY_S  # of silence
        self.clock = DeviceClock()  # of this boot of the band
        self._telemetry: deque[Telemetry] = deque(maxlen=_KEPT)
        self._predictions: deque[Prediction] = deque(maxlen=_KEPT)
        self._calibration: tuple[NDArray[np.float32], int] | None = None  # gains and turn, told again after a restart

    def __enter__(self) -> "Band":
        self._dialogue, identity = self._meet(stop=True)
        try:
            self._know(identity)
        except BaseException:
            self._dialogue.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        dialogue = self._opened()
        with contextlib.suppress(LinkError):  # a band that is gone has stopped too
            if self._streaming:
                dialogue.order(Stop, _LEAVE_S)
            else:
                dialogue.send(Stop)
        self._streaming = False
        dialogue.close()

    @property
    def identity(self) -> Info:
        """What the band said about itself. Raises ValueError before it was opened."""
        if self._identity is None:
            raise ValueError("the band was not opened: use it in a with statement")
        return self._identity

    @property
    def info(self) -> StreamInfo:
        """The stream that the band will send. Raises ValueError before it was opened."""
        identity = self.identity
        return StreamInfo(
            name=identity.model,
            n_channels=identity.n_channels,
            sample_rate_hz=identity.sample_rate_hz,
            serial_number=identity.serial_number,
            firmware=identity.firmware,
        )

    @property
    def counts(self) -> LinkCounts:
        """What the wire did so far; `frames` are those whose samples are in blocks."""
        decoder = self._decoder.counts
        return LinkCounts(
            frames=self._frames,
            bytes=decoder.bytes,
            lost_frames=self._ledger.lost_frames,
            lost_samples=self._ledger.lost_samples,
            corrupt_frames=decoder.corrupt_frames + self._misfits,
            duplicate_frames=self._ledger.duplicate_frames,
            late_frames=self._ledger.late_frames,
            reconnects=self._reconnects,
        )

    def __iter__(self) -> Iterator[Block]:
        """Start the stream and yield its blocks until the band ends it."""
        self._begin()
        while self._streaming:
            try:
                yield from self._round()
            except RecordingOver:
                return
            except (LineLost, LinkTimeout) as error:
                self._reconnect(error)

    def take_predictions(self) -> list[Prediction]:
        """What the band's own engine said since the last call, oldest first."""
        taken = list(self._predictions)
        self._predictions.clear()
        return taken

    def calibrate(self, gains: NDArray[np.float32], turn: int = 0) -> None:
        """Fit the band's own engine to its wearer, before the stream begins; a band that restarts is told again.

        gains: (n_channels,), what each channel of the model is multiplied by beyond its usual scale
        turn: electrodes by which the band sits turned, as `cpep_edge.calibration` finds it
        Raises LinkError when the band has no engine that can be calibrated.
        """
        self._calibration = gains, turn % self.identity.n_channels
        self._opened().calibrate(*self._calibration, self._timeout_s)

    def bench(self, n_runs: int = 200, timeout_s: float = 60.0) -> BenchResult:
        """Let the band time inferences of its own engine, after it has checked that its golden inputs come out right.

        Raises LinkError when the band has no engine, streams, or its golden inputs come out wrong.
        """
        result, earlier = self._opened().bench(n_runs, timeout_s)
        self._note_all(earlier)
        return result

    def rest(self, seconds: float, ask_every_s: float = PING_EVERY_S) -> None:
        """Let a band that does not stream idle; each time it is asked, TELEMETRY follows its answer, when due.

        Raises LinkError when the line breaks.
        """
        dialogue, end_s = self._opened(), time.monotonic() + seconds
        while (now_s := time.monotonic()) < end_s:
            dialogue.send(Ping)
            ask_s = min(now_s + ask_every_s, end_s)
            while (wait_s := ask_s - time.monotonic()) > 0:
                self._note_all([dialogue.receive(wait_s)])

    def take_telemetry(self) -> list[Telemetry]:
        """What the band said of its battery since the last call, oldest first."""
        taken = list(self._telemetry)
        self._telemetry.clear()
        return taken

    def _note_all(self, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            for frame in arrival.frames:
                self._note(frame, arrival.host_t_s)

    def _round(self) -> Iterator[Block]:
        if not self._awaits_pong():  # it is never kept waiting
            self._pace.rest()
        asked_s = time.monotonic()
        arrival = self._opened().receive(self._wait_s(asked_s))
        self._silent_s += max(0.0, arrival.host_t_s - asked_s)
        yield from self._blocks(arrival)
        self._pace.note(self._ledger.next_index // self.identity.n_samples, arrival.host_t_s)
        if self._streaming:
            self._watch(arrival.host_t_s)

    def _awaits_pong(self) -> bool:
        return bool(self._pings) and time.monotonic() < self._ping_due_s - PING_EVERY_S + _PONG_S

    def _meet(self, stop: bool) -> tuple[Dialogue, Info]:
        """Open the line and ask who is there.

        stop: first, for a stream that an earlier host left running must not drown the answer
        """
        line = self._open_port()
        try:
            dialogue = Dialogue(line, self._decoder)
            if stop:
                dialogue.send(Stop)
            return dialogue, dialogue.identify(self._timeout_s, keep=not stop)
        except BaseException:
            line.close()
            raise

    def _reconnect(self, error: LinkError) -> None:
        """Meet the band again on a line that broke, and go on in its stream. Raises LinkError when it stays away."""
        self._opened().close()
        deadline_s = time.monotonic() + self._reconnect_s
        for wait_s in waits_s():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise stayed_away(error, self._reconnect_s)
            time.sleep(min(wait_s, left_s))
            with contextlib.suppress(LinkError):
                self._dialogue, identity = self._meet(stop=False)
                break
        self._reconnects += 1
        self._silent_s, self._probe_after_s = 0.0, _PROBE_EVERY_S
        self._pings.clear()
        if identity.boot_id != self.identity.boot_id:
            self._restart(identity)
        elif not identity.state:
            self._opened().send(Stop)  # its stream ended meanwhile: END says where

    def _opened(self) -> Dialogue:
        if self._dialogue is None:
            raise ValueError("the band was not opened: use it in a with statement")
        return self._dialogue

    def _know(self, identity: Info) -> None:
        check_info(identity, self._opened().port)
        check_baud(stream_bytes_per_s(identity), identity.baud, self._opened().port)
        self._identity = identity
        self._uv_per_count = np.float32(identity.uv_per_count)

    def _begin(self) -> None:
        self._opened().order(Start, self._timeout_s)
        self._ledger.restart()
        self._pace = Pace(self.identity.n_samples / self.identity.sample_rate_hz)
        self._streaming = True
        self._silent_s, self._probe_after_s = 0.0, _PROBE_EVERY_S

    def _wait_s(self, now_s: float) -> float:
        silence_s = min(self._timeout_s, self._probe_after_s) - self._silent_s
        return max(0.0, min(silence_s, self._ping_due_s - now_s))

    def _watch(self, now_s: float) -> None:
        """What time asks for: a ping, a question to a silent band, or giving it up."""
        dialogue = self._opened()
        if self._silent_s >= self._timeout_s:
            raise self._silence()
        if self._silent_s >= self._probe_after_s:
            dialogue.send(Identify)
            self._probe_after_s += _PROBE_EVERY_S
        if now_s >= self._ping_due_s:
            self._pings[dialogue.send(Ping)] = time.monotonic()
            self._ping_due_s = now_s + PING_EVERY_S
            if len(self._pings) > _KEPT_PINGS:
                del self._pings[next(iter(self._pings))]

    def _silence(self) -> LinkTimeout:
        corrupt = self._opened().decoder.counts.corrupt_frames
        noise = f" ({corrupt} damaged frames so far)" if corrupt else ""
        return LinkTimeout(
            f"the band on {self._opened().port} stopped sending {self._timeout_s:g} s ago, after sample "
            f"{self._ledger.next_index}{noise}: check its battery and the cable"
        )

    def _blocks(self, arrival: Arrival) -> Iterator[Block]:
        """The samples of one read, in as few blocks as losses and flags allow."""
        run: list[Data] = []
        run_index = next_index = 0  # of the run's first sample, and of the one past its last
        restarted: Info | None = None
        for frame in arrival.frames:
            if isinstance(frame, Data):
                index = self._accept(frame)
                if index is None:
                    continue
                if run and (index != next_index or frame.flags != run[0].flags):
                    yield self._block(run, run_index, arrival.host_t_s)
                    run = []
                run_index = run_index if run else index
                run.append(frame)
                next_index = index + frame.n_samples
            elif isinstance(frame, Info) and frame.boot_id != self.identity.boot_id:
                restarted = frame
                break  # what follows belongs to no stream that was started
            else:
                self._note(frame, arrival.host_t_s)
        if run:
            self.clock.add_arrival(run[-1].t_us / 1e6 + self._duration_s(run[-1]), arrival.host_t_s)
            yield self._block(run, run_index, arrival.host_t_s)
        if restarted is not None:
            self._restart(restarted)

    def _accept(self, frame: Data) -> int | None:
        """The unwrapped index of the frame's first sample, None when it is to be dropped."""
        identity = self.identity
        if frame.n_channels != identity.n_channels or frame.sample_format != identity.sample_format:
            self._misfits += 1
            return None
        if not self._streaming or not frame.n_samples:
            return None
        index = self._ledger.accept(frame.seq, frame.sample_index, frame.n_samples)
        if index is not None:
            self._frames += 1
            self._silent_s, self._probe_after_s = 0.0, _PROBE_EVERY_S
        return index

    def _block(self, run: list[Data], sample_index: int, host_t_s: float) -> Block:
        samples = run[0].samples if len(run) == 1 else b"".join([frame.samples for frame in run])
        return Block(
            samples_uv=samples_to_uv(samples, run[0].n_channels, run[0].sample_format, self._uv_per_count),
            sample_index=sample_index,
            device_t_s=run[0].t_us / 1e6,
            host_t_s=host_t_s,
            boot_id=self.identity.boot_id,
            flags=run[0].flags,
        )

    def _duration_s(self, frame: Data) -> float:
        return frame.n_samples / self.identity.sample_rate_hz

    def _note(self, frame: Frame, host_t_s: float) -> None:
        match frame:
            case Telemetry():
                self._telemetry.append(frame)
            case Prediction():
                self._predictions.append(frame)
            case Pong(seq, t_rx_us, t_tx_us) if seq in self._pings:
                self.clock.add_round_trip(self._pings.pop(seq), t_rx_us / 1e6, t_tx_us / 1e6, host_t_s)
            case Log():
                _log.log(frame.level, "%s says: %s", self.identity.model, frame.text)
            case Nak():
                _log.warning("%s refused command 0x%02x: %s", self.identity.model, frame.command, frame.text)
            case Info(state=0) if self._streaming:
                self._opened().send(Stop)  # its END was not heard; it says it again
            case End(seq, _, sample_index) if self._streaming:
                self._ledger.finish(seq, sample_index)
                self._streaming = False

    def _restart(self, said: Info) -> None:
        """Go on after the band lost its memory; what it sent in vain before that, nobody knows any more."""
        was = self.identity
        if (said.n_channels, said.sample_rate_hz) != (was.n_channels, was.sample_rate_hz):
            raise LinkError(
                f"the band on {self._opened().port} restarted with {said.n_channels} channels at "
                f"{said.sample_rate_hz:g} Hz instead of {was.n_channels} at {was.sample_rate_hz:g} Hz: start anew"
            )
        _log.warning("%s restarted; its stream begins anew", said.model)
        self._know(said)
        self.clock = DeviceClock()
        self._pings.clear()
        if self._calibration is not None:
            self._opened().calibrate(*self._calibration, self._timeout_s)
        self._begin()
