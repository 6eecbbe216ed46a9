"""Boards of other makers: one source of blocks for all of them, with a dialect for each kind of board.

A dialect knows how a kind of board is greeted, started and stopped, and the layout of its frames. Most such boards have
no CRC, no clock and no boot_id. So time is counted in samples. A reopened line or a restarted counter begins a new
stream with a new `boot_id`. Damage is only noticed where it changes fixed bits of the layout.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.arrivals import ArrivalRate
from cpep_bridge.byte_stream import ByteStream, LineLost, RecordingOver, Stopped, WrongDevice
from cpep_bridge.conversation import Conversation, quoted
from cpep_bridge.counter_loss import CounterLedger
from cpep_bridge.fixed_frames import PacketDecoder, Packets
from cpep_bridge.pace import Pace
from cpep_bridge.patience import Patience, Restarts
from cpep_edge.blocks import Block, LinkCounts, StreamInfo
from cpep_edge.errors import LinkError, LinkTimeout

_BACKLOG_AFTER_S = 0.1  # after so long without a read, more bytes may wait than one read returns
_BACKLOG_BYTES = 1 << 22
_START_AGAIN_S = 1.0  # after so long without a sample, repeat START: a board that is booting does not hear it
_SHOWN_BYTES = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BoardStream:
    """The stream that a board will send."""

    info: StreamInfo
    decoder: PacketDecoder
    counter_modulus: int | None  # None: frames are not numbered
    n_samples: int  # per frame
    uv_per_count: float | None  # None: unknown; samples stay counts


class Dialect(Protocol):
    """The commands and frames of one kind of board."""

    @property
    def boot_s(self) -> float:
        """Time from opening the board's port until it listens."""
        ...

    def meet(self, talk: Conversation) -> BoardStream:
        """Identify the board and describe its stream. Raises LinkError when it is not a board of this kind."""
        ...

    def start(self, talk: Conversation) -> None: ...

    def stop(self, talk: Conversation) -> None: ...


class Board:
    """A board as a BlockSource.

    open_port: opens the line to the board
    timeout_s: longest time without an answer, or without a sample while it should stream
    reconnect_s: how long to try to resume a broken stream; 0 gives up at once
    boot_s: additional time after the port was opened, because many boards restart then
    bauds: speeds to try; the line is opened at the first
    """

    def __init__(
        self,
        open_port: Callable[[], ByteStream],
        dialect: Dialect,
        *,
        timeout_s: float = 2.0,
        reconnect_s: float = 0.0,
        boot_s: float = 0.0,
        bauds: Sequence[int] = (),
    ) -> None:
        self._patience = Patience(timeout_s, reconnect_s, boot_s)
        self._open_port = self._patience.opener(open_port)
        self._dialect = dialect
        self._bauds = bauds
        self._talk: Conversation | None = None
        self._stream: BoardStream | None = None
        self._ledger: CounterLedger | None = None
        self._rate: ArrivalRate | None = None
        self._scale = np.float32(1)
        self._frames = self._bytes = self._reconnects = self._past_corrupt = 0
        self._boot_id = 0  # counts the streams, because a board sends no boot_id
        self._restarts = Restarts()  # of the counter
        self._pace = Pace()
        self._read_s = 0.0  # when the last read ended
        self._start_again_s = 0.0
        self._first = b""  # bytes received before the first sample, for the error message when there is none

    def __enter__(self) -> "Board":
        self._meet(self._patience.timeout_s + self._patience.boot_s)
        return self

    def __exit__(self, *exc: object) -> None:
        talk = self._opened()
        self._patience.leave()
        with contextlib.suppress(LinkError):  # a board that is gone needs no stop
            self._dialect.stop(talk)
        talk.line.close()

    def stop(self) -> None:
        """End the iteration soon, also while nothing arrives; may be called from any thread."""
        self._patience.stop()

    @property
    def info(self) -> StreamInfo:
        """The stream that the board will send. Raises ValueError before it was opened."""
        return self._met().info

    @property
    def counts(self) -> LinkCounts:
        """Counts of the link so far; `frames` counts those whose samples were passed on in blocks."""
        if self._stream is None or self._ledger is None:
            return LinkCounts()
        ledger = self._ledger
        return LinkCounts(
            frames=self._frames,
            bytes=self._bytes,
            lost_frames=ledger.lost_frames,
            lost_samples=ledger.lost_frames * self._stream.n_samples,
            corrupt_frames=self._past_corrupt + self._stream.decoder.n_corrupt,
            duplicate_frames=ledger.duplicate_frames,
            late_frames=ledger.late_frames,
            reconnects=self._reconnects,
            heard_hz=0.0 if self._rate is None else self._rate.heard_hz,
        )

    def __iter__(self) -> Iterator[Block]:
        """Start the stream and yield its blocks, until stop(), the end of a recording, or an error."""
        self._start()
        while True:
            try:
                try:
                    yield from self._round()
                except RecordingOver:
                    return
                except (LineLost, LinkTimeout) as error:
                    self._reconnect(error)
            except Stopped:
                return

    def _opened(self) -> Conversation:
        if self._talk is None:
            raise ValueError("the board was not opened: use it in a with statement")
        return self._talk

    def _met(self) -> BoardStream:
        if self._stream is None:
            raise ValueError("the board was not opened: use it in a with statement")
        return self._stream

    def _meet(self, timeout_s: float) -> None:
        line = self._open_port()
        try:
            talk = Conversation(line, timeout_s, self._bauds)
            stream = self._dialect.meet(talk)
        except BaseException:
            line.close()
            raise
        if self._stream is not None:
            self._past_corrupt += self._stream.decoder.n_corrupt
        self._talk, self._stream = talk, stream
        self._scale = np.float32(stream.uv_per_count or 1)

    def _start(self) -> None:
        self._dialect.start(self._opened())
        stream = self._met()
        frame_s = stream.n_samples / stream.info.sample_rate_hz
        if self._ledger is None:
            self._ledger = CounterLedger(stream.counter_modulus, frame_s)
            self._rate = ArrivalRate(stream.info)
        self._ledger.restart()
        self._pace = Pace(frame_s)
        self._read_s = time.monotonic()
        self._start_again_s = self._read_s + _START_AGAIN_S
        self._first = b""

    def _round(self) -> Iterator[Block]:
        talk, began_s = self._opened(), time.monotonic()
        self._pace.rest()
        data = talk.rest or talk.line.read(min(self._patience.left_s, _START_AGAIN_S))
        talk.rest = b""
        host_t_s = time.monotonic()
        if host_t_s - self._read_s > _BACKLOG_AFTER_S:
            data += _backlog(talk.line)
            host_t_s = time.monotonic()
        self._read_s = host_t_s
        self._bytes += len(data)
        sampled = False
        for block in self._blocks(self._met().decoder.feed(data), host_t_s):
            sampled = True
            self._patience.sampled()
            yield block
        if not sampled:  # bytes without a sample count as silence
            self._wait_on(data, began_s)
        if self._ledger is not None:
            self._pace.note(self._ledger.next_number, host_t_s)

    def _wait_on(self, data: bytes, began_s: float) -> None:
        """Note that the round since `began_s` brought no sample. Repeat START to a board that never sent one.

        Raises LinkTimeout when the silence has lasted too long.
        """
        now_s, talk = time.monotonic(), self._opened()
        self._patience.silent_s += now_s - began_s
        self._first = (self._first + data)[:_SHOWN_BYTES]
        if not self._patience.left_s:
            raise self._silence()
        if self._patience.is_booting and now_s >= self._start_again_s:
            talk.next_speed()
            self._dialect.start(talk)
            self._start_again_s = now_s + _START_AGAIN_S

    def _silence(self) -> LinkTimeout:
        line, ago, counts = self._opened().line, f"{self._patience.timeout_s:g} s", self.counts
        if self._patience.is_booting and self._first:
            return LinkTimeout(
                f"the device on {line.name} is not a {self.info.name}, or runs at another speed: nothing that it "
                f"sent is a sample, beginning with {quoted(self._first)}"
            )
        if self._patience.is_booting:
            return LinkTimeout(
                f"the board on {line.name} sent nothing in {ago}: is it switched on, and is this its port?"
            )
        damaged = f" ({counts.corrupt_frames} damaged frames so far)" if counts.corrupt_frames else ""
        repeated = f" ({counts.duplicate_frames} repeated frames so far)" if counts.duplicate_frames else ""
        return LinkTimeout(
            f"the board on {line.name} stopped sending {ago} ago{damaged}{repeated}: check its battery and the cable"
        )

    def _blocks(self, packets: Packets, host_t_s: float) -> Iterator[Block]:
        """The samples of one read, in one block per stretch without a loss."""
        if self._ledger is None or self._rate is None or not len(packets.values):
            return
        for part in self._ledger.accept(packets.counters, len(packets.values), host_t_s, packets.stamps_s):
            if part.is_new_stream:
                self._boot_id += 1
                self._rate.restart()
                self._note_restart(host_t_s)
            numbers, values = part.numbers, packets.values[part.start : part.start + len(part.numbers)]
            stamps_s = None if packets.stamps_s is None else packets.stamps_s[part.start : part.start + len(numbers)]
            if not (numbers[0] >= 0 and numbers[-1] - numbers[0] == len(numbers) - 1 and len(numbers) <= 2):
                kept = numbers >= 0  # the general case; up to two frames in order need no filter
                values, numbers = values[kept], numbers[kept]
                stamps_s = None if stamps_s is None else stamps_s[kept]
            starts = [0] if len(numbers) <= 1 else np.flatnonzero(np.diff(numbers, prepend=-2) != 1).tolist()
            for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True):
                if stop > start:
                    self._frames += stop - start
                    stamp_s = None if stamps_s is None else float(stamps_s[start])
                    yield self._block(values[start:stop], int(numbers[start]), host_t_s, stamp_s)
            self._rate.add(self._ledger.next_number * self._met().n_samples, host_t_s)

    def _note_restart(self, host_t_s: float) -> None:
        """Log a restart of the counter. Raises WrongDevice when restarts are too frequent."""
        if self._restarts.too_many(host_t_s):
            raise WrongDevice(
                f"the counter of the board on {self._opened().line.name} leaps all the time: it is no "
                f"{self.info.name}, or its profile has the wrong place, byte order, modulus or kind of counter"
            )
        if self._restarts.is_first:
            _log.warning("%s restarted its counter, as after a reset; a new stream begins", self.info.name)

    def _block(self, values: NDArray[np.float32], number: int, host_t_s: float, stamp_s: float | None) -> Block:
        stream = self._met()
        sample_index = number * stream.n_samples
        return Block(
            samples_uv=values.reshape(-1, stream.info.n_channels) * self._scale,
            sample_index=sample_index,
            device_t_s=sample_index / stream.info.sample_rate_hz if stamp_s is None else stamp_s,
            host_t_s=host_t_s,
            boot_id=self._boot_id,
        )

    def _reconnect(self, error: LinkError) -> None:
        """Reopen a broken line and greet the board. Raises LinkError when it stays away or another device answers."""
        was = self.info

        def attempt(left_s: float) -> None:
            self._opened().line.close()
            self._meet(left_s)
            check_same(was, self.info, self._opened().line.name)
            self._reconnects += 1
            self._boot_id += 1
            self._patience.opened()
            self._start()

        self._patience.broke(error)
        self._opened().line.close()  # before waiting, so that the device can get the same path again
        self._patience.reopen(error, attempt)


def check_same(was: StreamInfo, now: StreamInfo, port: str) -> None:
    """Raises WrongDevice when the device that came back is another one, or its stream has changed."""
    if was.serial_number and now.serial_number != was.serial_number:
        raise WrongDevice(
            f"another device is on {port} now: serial number {now.serial_number or 'none'} instead of "
            f"{was.serial_number}: put the first one back, or start anew"
        )
    if (now.n_channels, now.sample_rate_hz) != (was.n_channels, was.sample_rate_hz):
        raise WrongDevice(
            f"the board on {port} came back with {now.n_channels} channels at {now.sample_rate_hz:g} Hz instead of "
            f"{was.n_channels} at {was.sample_rate_hz:g} Hz: start anew"
        )


def _backlog(line: ByteStream) -> bytes:
    """The bytes waiting on a line that was not read for a while."""
    waiting = b""
    while len(waiting) < _BACKLOG_BYTES and (data := line.read(0.0)):
        waiting += data
    return waiting
