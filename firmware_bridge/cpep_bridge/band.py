"""The driver of the cpep wristband: a source of blocks in microvolts, with an exact count of what did not arrive."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.arrivals import ArrivalRate
from cpep_bridge.byte_stream import ByteStream, LineLost, RecordingOver, Stopped, WrongDevice
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
from cpep_bridge.lost_samples import StreamLedger
from cpep_bridge.pace import Pace
from cpep_bridge.patience import Patience, Restarts
from cpep_edge.blocks import Block, LinkCounts, StreamInfo
from cpep_edge.device_clock import DeviceClock
from cpep_edge.errors import LinkError, LinkTimeout

PING_EVERY_S = 1.0

_WITNESSES_AGREE_S = 0.5  # largest difference between the band's counter and clock from one frame to the next
_PROBE_EVERY_S = 0.5  # after so much silence, IDENTIFY is sent: the band may have restarted, or its END was lost
_LEAVE_S = 0.3  # how long to wait for the answer to STOP on closing
_KEPT_PINGS = 8
_KEPT = 1024  # predictions, and telemetry frames, kept until they are taken
_PONG_S = 0.05  # a PONG that took longer is of little use to fit the clock

_log = logging.getLogger(__name__)


class Band:
    """A wristband that speaks the protocol of `frames`, from `with` to the end of its stream.

    open_port: opens the line to the band; a function, because a broken line must be opened again
    timeout_s: longest time without an answer, or without a sample while it should stream
    reconnect_s: how long to try to resume a broken stream; 0 gives up at once
    boot_s: additional time to answer after the port was opened

    Entering identifies the band, iterating starts its stream. Both raise LinkError, or LinkTimeout when the band is
    silent. When a broken line comes back and the band did not restart, the stream continues and the samples sent in
    between are counted exactly as lost. Another band in its place is refused. The line is only read by the iteration,
    so a slow consumer makes the band drop frames, which are then counted as lost. Samples in transit when the iteration
    is left are not counted.
    """

    def __init__(
        self,
        open_port: Callable[[], ByteStream],
        *,
        timeout_s: float = 2.0,
        reconnect_s: float = 0.0,
        boot_s: float = 0.0,
    ) -> None:
        self._patience = Patience(timeout_s, reconnect_s, boot_s)
        self._open_port = self._patience.opener(open_port)
        self._timeout_s = timeout_s
        self._decoder = FrameDecoder()
        self._dialogue: Dialogue | None = None
        self._identity: Info | None = None
        self._uv_per_count = np.float32(0)
        self._streaming = False
        self._begun = False  # whether the band acknowledged START since its last boot
        self._ledger = StreamLedger()
        self._frames = 0  # DATA frames whose samples were passed on
        self._misfits = 0  # DATA frames that contradict INFO
        self._restarts = Restarts()  # of the sample counter, without an INFO
        self._reconnects = 0
        self._rate: ArrivalRate | None = None
        self._next_t_us: float | None = None  # expected time of the next sample, device clock
        self._pace = Pace()
        self._pings: dict[int, float] = {}  # time of sending by seq
        self._ping_due_s = 0.0
        self._probe_after_s = _PROBE_EVERY_S  # of silence
        self.clock = DeviceClock()  # since the band's last boot
        self._telemetry: deque[Telemetry] = deque(maxlen=_KEPT)
        self._predictions: deque[Prediction] = deque(maxlen=_KEPT)
        self._calibration: tuple[NDArray[np.float32], int] | None = None  # gains and turn, sent again after a restart

    def __enter__(self) -> "Band":
        self._dialogue, identity = self._meet(self._timeout_s + self._patience.boot_s, stop=True)
        try:
            self._know(identity)
        except BaseException:
            self._dialogue.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        dialogue = self._opened()
        self._patience.leave()
        with contextlib.suppress(LinkError):  # a band that is gone needs no stop
            if self._streaming:
                dialogue.order(Stop, _LEAVE_S)
            else:
                dialogue.send(Stop)
        self._streaming = False
        dialogue.close()

    @property
    def identity(self) -> Info:
        """The INFO of the band. Raises ValueError before it was opened."""
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
            has_clock=True,
        )

    @property
    def counts(self) -> LinkCounts:
        """Counts of the link so far; `frames` counts those whose samples were passed on in blocks."""
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
            heard_hz=0.0 if self._rate is None else self._rate.heard_hz,
        )

    def __iter__(self) -> Iterator[Block]:
        """Start the stream and yield its blocks until the band ends it."""
        self._begin()
        while self._streaming:
            try:
                try:
                    yield from self._round()
                except RecordingOver:
                    return
                except (LineLost, LinkTimeout) as error:
                    self._reconnect(error)
            except Stopped:
                return

    def stop(self) -> None:
        """End the iteration soon, also while nothing arrives; may be called from any thread."""
        self._patience.stop()

    def take_predictions(self) -> list[Prediction]:
        """The predictions of the band's own engine since the last call, oldest first."""
        taken = list(self._predictions)
        self._predictions.clear()
        return taken

    def calibrate(self, gains: NDArray[np.float32], turn: int = 0) -> None:
        """Set the wearer's calibration of the band's own engine, before the stream begins; repeated after a restart.

        gains: (n_channels,), additional factor of each channel of the model
        turn: by how many electrodes the band is turned, as `cpep_edge.calibration` finds it
        Raises LinkError when the band has no engine that can be calibrated.
        """
        self._calibration = gains, turn % self.identity.n_channels
        self._opened().calibrate(*self._calibration, self._timeout_s)

    def bench(self, n_runs: int = 200, timeout_s: float = 60.0) -> BenchResult:
        """Let the band time inferences of its own engine; it first checks the results of its golden inputs.

        Raises LinkError when the band has no engine, streams, or gives wrong results for its golden inputs.
        """
        result, earlier = self._opened().bench(n_runs, timeout_s)
        self._note_all(earlier)
        return result

    def rest(self, seconds: float, ask_every_s: float = PING_EVERY_S) -> None:
        """Wait with an idle band, and PING it regularly, so that it sends TELEMETRY behind a PONG when that is due.

        Raises LinkError when the line breaks.
        """
        dialogue, end_s = self._opened(), time.monotonic() + seconds
        while (now_s := time.monotonic()) < end_s:
            dialogue.send(Ping)
            ask_s = min(now_s + ask_every_s, end_s)
            while (wait_s := ask_s - time.monotonic()) > 0:
                self._note_all([dialogue.receive(wait_s)])

    def take_telemetry(self) -> list[Telemetry]:
        """The TELEMETRY frames since the last call, oldest first."""
        taken = list(self._telemetry)
        self._telemetry.clear()
        return taken

    def _note_all(self, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            for frame in arrival.frames:
                self._note(frame, arrival.host_t_s)

    def _round(self) -> Iterator[Block]:
        began_s = time.monotonic()
        if not self._awaits_pong():  # a PONG is read at once, because its arrival time matters
            self._pace.rest()
        arrival = self._opened().receive(self._wait_s(time.monotonic()))
        sampled = False
        for block in self._blocks(arrival):
            sampled = True
            yield block
        if sampled:
            self._patience.sampled()
            if self._rate is not None:
                stamp_s = None if self._next_t_us is None else self._next_t_us / 1e6
                self._rate.add(self._ledger.next_index, arrival.host_t_s, stamp_s)
            self._probe_after_s = _PROBE_EVERY_S
        else:  # bytes without a sample count as silence
            self._patience.silent_s += time.monotonic() - began_s
        self._pace.note(self._ledger.next_index // self.identity.n_samples, arrival.host_t_s)
        if self._streaming:
            self._watch(arrival.host_t_s)

    def _awaits_pong(self) -> bool:
        return bool(self._pings) and time.monotonic() < self._ping_due_s - PING_EVERY_S + _PONG_S

    def _meet(self, timeout_s: float, stop: bool) -> tuple[Dialogue, Info]:
        """Open the line and identify the band.

        stop: send STOP first, so that a stream that an earlier host left running does not hide the answer
        """
        line = self._open_port()
        try:
            dialogue = Dialogue(line, self._decoder)
            if stop:
                dialogue.send(Stop)
            return dialogue, dialogue.identify(timeout_s, keep=not stop)
        except BaseException:
            line.close()
            raise

    def _reconnect(self, error: LinkError) -> None:
        """Reopen a broken line and continue the band's stream. Raises LinkError when the band stays away."""

        def attempt(left_s: float) -> None:
            self._opened().close()
            self._dialogue, identity = self._meet(min(self._timeout_s, left_s), stop=False)
            self._resume(identity)

        self._patience.broke(error)
        self._opened().close()  # before waiting, so that the device can get the same path again
        self._patience.reopen(error, attempt)

    def _resume(self, identity: Info) -> None:
        """Continue with the band that answered on the reopened line."""
        self._check_same(identity)
        self._reconnects += 1
        self._patience.opened()
        self._probe_after_s = _PROBE_EVERY_S
        self._pings.clear()
        if identity.boot_id != self.identity.boot_id or not self._begun:
            self._restart(identity)
        elif not identity.state:
            self._opened().send(Stop)  # its stream has ended: the answer repeats END, which tells where

    def _check_same(self, said: Info) -> None:
        """Raises WrongDevice when another band answers, or its stream has changed."""
        was, port = self.identity, self._opened().port
        if said.serial_number != was.serial_number:
            raise WrongDevice(
                f"another band is on {port} now: serial number {said.serial_number or 'none'} instead of "
                f"{was.serial_number or 'none'}: put the first one back, or start anew"
            )
        if (said.n_channels, said.sample_rate_hz) != (was.n_channels, was.sample_rate_hz):
            raise WrongDevice(
                f"the band on {port} restarted with {said.n_channels} channels at {said.sample_rate_hz:g} Hz instead "
                f"of {was.n_channels} at {was.sample_rate_hz:g} Hz: start anew"
            )

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
        self._begun = False
        self._opened().order(Start, self._timeout_s)
        self._begun = True
        self._next_t_us = None
        self._ledger.restart()
        self._rate = self._rate or ArrivalRate(self.info)
        self._rate.restart()
        self._pace = Pace(self.identity.n_samples / self.identity.sample_rate_hz)
        self._streaming = True
        self._probe_after_s = _PROBE_EVERY_S

    def _wait_s(self, now_s: float) -> float:
        probe_s = self._probe_after_s - self._patience.silent_s
        return max(0.0, min(self._patience.left_s, probe_s, self._ping_due_s - now_s))

    def _watch(self, now_s: float) -> None:
        """Do what is due: send PING, send IDENTIFY to a silent band, or give up."""
        dialogue = self._opened()
        if not self._patience.left_s:
            raise self._silence()
        if self._patience.silent_s >= self._probe_after_s:
            dialogue.send(Identify)
            self._probe_after_s = self._patience.silent_s + _PROBE_EVERY_S
        if now_s >= self._ping_due_s:
            self._pings[dialogue.send(Ping)] = time.monotonic()
            self._ping_due_s = now_s + PING_EVERY_S
            if len(self._pings) > _KEPT_PINGS:
                del self._pings[next(iter(self._pings))]

    def _silence(self) -> LinkTimeout:
        corrupt = self._opened().decoder.counts.corrupt_frames + self._misfits
        noise = f" ({corrupt} damaged frames so far)" if corrupt else ""
        port, ago = self._opened().port, f"{self._timeout_s:g} s"
        if not self._frames:
            return LinkTimeout(f"the band on {port} answers, but sent no sample in {ago}{noise}: switch it off and on")
        return LinkTimeout(
            f"the band on {port} stopped sending {ago} ago, after sample {self._ledger.next_index}{noise}: "
            "check its battery and the cable"
        )

    def _blocks(self, arrival: Arrival) -> Iterator[Block]:
        """The samples of one read, in one block per stretch without a loss or a change of flags."""
        run: list[Data] = []
        run_index = next_index = 0  # of the run's first sample, and one past its last
        restarted: Info | None = None
        counted_anew = False
        for frame in arrival.frames:
            if isinstance(frame, Data):
                if self._contradicts_itself(frame):
                    counted_anew = True
                    break
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
                break  # the rest belongs to no stream that was started
            else:
                self._note(frame, arrival.host_t_s)
        if run:
            self.clock.add_arrival(run[-1].t_us / 1e6 + self._duration_s(run[-1]), arrival.host_t_s)
            yield self._block(run, run_index, arrival.host_t_s)
        if restarted is not None:
            self._restart(restarted)
        elif counted_anew:
            if self._restarts.too_many(arrival.host_t_s):
                raise WrongDevice(
                    f"the frames of the band on {self._opened().port} contradict themselves all the time: t_us and "
                    "sample_index count different times, see PROTOCOL.md"
                )
            if self._restarts.is_first:
                _log.warning("%s restarted its counter without a message; a new stream begins", self.identity.model)
            self._begin()

    def _contradicts_itself(self, frame: Data) -> bool:
        """Whether the time passed by a frame's sample_index differs from that by its t_us."""
        if not self._streaming or self._next_t_us is None or not self._fits(frame):
            return False
        counted_s = self._ledger.ahead(frame.sample_index) / self.identity.sample_rate_hz
        return abs(counted_s - (frame.t_us - self._next_t_us) / 1e6) > _WITNESSES_AGREE_S

    def _fits(self, frame: Data) -> bool:
        """Whether a frame has the channels and format of INFO."""
        identity = self.identity
        return frame.n_channels == identity.n_channels and frame.sample_format == identity.sample_format

    def _accept(self, frame: Data) -> int | None:
        """The unwrapped index of the frame's first sample; None when the frame must be dropped."""
        if not self._fits(frame):
            self._misfits += 1
            return None
        if not self._streaming or not frame.n_samples:
            return None
        index = self._ledger.accept(frame.seq, frame.sample_index, frame.n_samples)
        if index is not None:
            self._frames += 1
            self._next_t_us = frame.t_us + 1e6 * self._duration_s(frame)
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
                self._opened().send(Stop)  # its END was lost; the answer to STOP repeats it
            case End(seq, _, sample_index) if self._streaming:
                self._ledger.finish(seq, sample_index)
                self._streaming = False

    def _restart(self, said: Info) -> None:
        """Start a new stream with a band that restarted; what it lost before the restart cannot be counted."""
        self._check_same(said)
        _log.warning("%s restarted; a new stream begins", said.model)
        self._begun = False
        self._know(said)
        self.clock = DeviceClock()
        self._pings.clear()
        if self._calibration is not None:
            self._opened().calibrate(*self._calibration, self._timeout_s)
        self._begin()
