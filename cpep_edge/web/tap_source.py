"""The signal of a run, as a source that an action of the page reads."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from cpep_edge.blocks import Block, LinkCounts, Relayed, StreamInfo
from cpep_edge.live_loop import Live

_QUEUED = 2_000  # blocks that an action may lag behind
_LOOK_S = 0.25  # how often an action without samples checks whether it is to end


class TapSource:
    """The blocks of a run, for a function that takes a source. It ends when stopped, or when the device is gone."""

    def __init__(self, loop: Live, is_gone: Callable[[], bool]) -> None:
        self._loop, self._is_gone = loop, is_gone
        self._queue, self._ended = queue.Queue[Block](_QUEUED), threading.Event()

    @property
    def info(self) -> StreamInfo:
        return self._loop.source.info

    @property
    def counts(self) -> LinkCounts:
        return self._loop.source.counts

    def __enter__(self) -> "TapSource":
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def __iter__(self) -> Iterator[Block]:
        while not self._ended.is_set():
            try:
                yield self._queue.get(timeout=_LOOK_S)
            except queue.Empty:
                if self._is_gone():
                    return

    def put(self, block: Block) -> None:
        """Take a block. If the queue is full the block is lost, which a reader can see by the gap in sample indices."""
        with suppress(queue.Full):
            self._queue.put_nowait(block)

    def stop(self) -> None:
        self._ended.set()

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped."""
        return self._ended.is_set()


class CountingDown(Relayed):
    """A source that shows a countdown, in time of the samples that are read from it."""

    def __init__(self, source: TapSource, show: Callable[[float], None]) -> None:
        super().__init__(source)
        self._show, self._left_s = show, 0.0

    def begin(self, seconds: float) -> None:
        self._left_s = seconds

    def __iter__(self) -> Iterator[Block]:
        for block in self._source:
            self._left_s = max(0.0, self._left_s - len(block.samples_uv) / self.info.sample_rate_hz)
            self._show(self._left_s)
            yield block
