"""Boards that other people make: one source of blocks for all of them, told apart by their dialects.

A dialect knows how a kind of board is greeted, started and stopped, and what its frames look like. Such boards have no
CRC, no clock and no boot_id. So time is counted in samples, a new line is a new stream with a new `boot_id`, and a
damaged sample can only be noticed where the layout has fixed bits.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.byte_stream import ByteStream, LineLost, RecordingOver
from cpep_bridge.conversation import Conversation
from cpep_bridge.counter_loss import CounterLedger
from cpep_bridge.fixed_frames import PacketDecoder, Packets
from cpep_bridge.pace import Pace
from cpep_bridge.reopening import stayed_away, waits_s
from cpep_edge.blocks import Block, LinkCounts, StreamInfo
from cpep_edge.errors import LinkError, LinkTimeout

_BACKLOG_AFTER_S = 0.1  # between two reads, more may wait than one read takes
_BACKLOG_BYTES = 1 << 22

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BoardStream:
    """What a board that was met will send."""

    info: StreamInfo
    decoder: PacketDecoder
    counter_modulus: int | None  # None: frames are not numbered
    n_samples: int  # in a frame
    uv_per_count: float | None  # None: the board does not say; samples stay counts


class Dialect(Protocol):
    """How to talk to one kind of board."""

    def meet(self, talk: Conversation) -> BoardStream:
        """Find out what is there. Raises LinkError when it is not such a board."""
        ...

    def start(self, talk: Conversation) -> None: ...

    def stop(self, talk: Conversation) -> None: ...


class Board:
    """A board as a BlockSource.

    open_port: opens the line to it
    timeout_s: how long it may be silent while it should answer or stream
    reconnect_s: how long to try to open a line anew that broke in mid-stream, 0 gives up at once
    """

    def __init__(
        self,
        open_port: Callable[[], ByteStream],
        dialect: Dialect,
        *,
        timeout_s: float = 2.0,
        reconnect_s: float = 0.0,
    ) -> None:
        self._open_port = open_port
        self._dialect = dialect
        self._timeout_s = timeout_s
        self._reconnect_s = reconnect_s
        self._talk: Conversation | None = None
        self._stream: BoardStream | None = None
        self._ledger: CounterLedger | None = None
        self._scale = np.float32(1)
        self._frames = self._bytes = self._reconnects = self._past_corrupt = 0
        self._pace = Pace()
        self._read_s = 0.0  # when the last read ended

    def __enter__(self) -> "Board":
        self._meet()
        return self

    def __exit__(self, *exc: object) -> None:
        talk = self._opened()
        with contextlib.suppress(LinkError):  # a board that is gone has stopped too
            self._dialect.stop(talk)
        talk.line.close()

    @property
    def info(self) -> StreamInfo:
        """The stream that the board will send. Raises ValueError before it was opened."""
        return self._met().info

    @property
    def counts(self) -> LinkCounts:
        """What the wire did so far; `frames` are those whose samples are in blocks."""
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
        )

    def __iter__(self) -> Iterator[Block]:
        """Start the stream and yield its blocks, until the one who iterates has enough."""
        self._start()
        while True:
            try:
                yield from self._round()
            except RecordingOver:
                return
            except (LineLost, LinkTimeout) as error:
                self._reconnect(error)

    def _opened(self) -> Conversation:
        if self._talk is None:
            raise ValueError("the board was not opened: use it in a with statement")
        return self._talk

    def _met(self) -> BoardStream:
        if self._stream is None:
            raise ValueError("the board was not opened: use it in a with statement")
        return self._stream

    def _meet(self) -> None:
        line = self._open_port()
        try:
            talk = Conversation(line, self._timeout_s)
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
        self._ledger.restart()
        self._pace = Pace(frame_s)
        self._read_s = time.monotonic()

    def _round(self) -> Iterator[Block]:
        line = self._opened().line
        self._pace.rest()
        data = self._opened().rest or line.read(self._timeout_s)
        self._opened().rest = b""
        host_t_s = time.monotonic()
        if not data:
            raise LinkTimeout(
                f"the board on {line.name} stopped sending {self._timeout_s:g} s ago: check its battery and the cable"
            )
        if host_t_s - self._read_s > _BACKLOG_AFTER_S:
            data += _backlog(line)
            host_t_s = time.monotonic()
        self._read_s = host_t_s
        self._bytes += len(data)
        yield from self._blocks(self._met().decoder.feed(data), host_t_s)
        if self._ledger is not None:
            self._pace.note(self._ledger.next_number, host_t_s)

    def _blocks(self, packets: Packets, host_t_s: float) -> Iterator[Block]:
        """The samples of one read, in as few blocks as losses allow."""
        if self._ledger is None or not len(packets.values):
            return
        numbers = self._ledger.accept(packets.counters, len(packets.values), host_t_s)
        if numbers[0] >= 0 and numbers[-1] - numbers[0] == len(numbers) - 1 and len(numbers) <= 2:  # the usual case
            self._frames += len(numbers)
            yield self._block(packets.values, int(numbers[0]), host_t_s)
            return
        kept = numbers >= 0
        values, numbers = packets.values[kept], numbers[kept]
        self._frames += len(numbers)
        if not len(numbers):
            return
        starts = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
        for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True):
            yield self._block(values[start:stop], int(numbers[start]), host_t_s)

    def _block(self, values: NDArray[np.float32], number: int, host_t_s: float) -> Block:
        stream = self._met()
        sample_index = number * stream.n_samples
        return Block(
            samples_uv=values.reshape(-1, stream.info.n_channels) * self._scale,
            sample_index=sample_index,
            device_t_s=sample_index / stream.info.sample_rate_hz,
            host_t_s=host_t_s,
            boot_id=self._reconnects,
        )

    def _reconnect(self, error: LinkError) -> None:
        """Greet the board anew on a line that broke. Raises LinkError when it stays away or another one answers."""
        self._opened().line.close()
        was = self.info
        deadline_s = time.monotonic() + self._reconnect_s
        for wait_s in waits_s():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise stayed_away(error, self._reconnect_s)
            time.sleep(min(wait_s, left_s))
            with contextlib.suppress(LinkError):
                self._meet()
                break
        if (self.info.n_channels, self.info.sample_rate_hz) != (was.n_channels, was.sample_rate_hz):
            raise LinkError(
                f"the board on {self._opened().line.name} came back with {self.info.n_channels} channels at "
                f"{self.info.sample_rate_hz:g} Hz instead of {was.n_channels} at {was.sample_rate_hz:g} Hz: start anew"
            )
        self._reconnects += 1
        _log.warning("%s came back; its stream begins anew", self.info.name)
        self._start()


def _backlog(line: ByteStream) -> bytes:
    """What waits on a line that was not read for a while."""
    waiting = b""
    while len(waiting) < _BACKLOG_BYTES and (data := line.read(0.0)):
        waiting += data
    return waiting
