"""Devices that other software reads: samples come from a feed (`lsl_feed`, `brainflow_feed`) rather than from a line.

Not every feed has a reliable counter. So losses are found by the clock, as for boards without a counter: samples that
are a quarter of a second late and do not arrive within another half second count as lost.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.arrivals import ArrivalRate
from cpep_bridge.boards import check_same
from cpep_bridge.byte_stream import Stopped
from cpep_bridge.counter_loss import CounterLedger
from cpep_bridge.patience import HEARD_S, Patience
from cpep_edge.blocks import LARGEST_SAMPLE, Block, LinkCounts, StreamInfo
from cpep_edge.errors import LinkError, LinkTimeout

_PIECE_S = 0.02


@dataclass(frozen=True, slots=True)
class Fed:
    """The samples of one pull from a feed."""

    values: NDArray[np.float32]  # (n_samples, n_channels), in the unit of the stream
    host_t_s: float  # time.monotonic() when the last sample had arrived
    stamps_s: NDArray[np.float64] | None = None  # (n_samples,), by the device's own clock, if it has one


class Feed(Protocol):
    """An open connection to a device."""

    @property
    def info(self) -> StreamInfo: ...

    def pull(self, timeout_s: float) -> Fed | None:
        """Wait for samples and return those that arrived; None after `timeout_s`. Raises LinkError when it ended."""
        ...

    def close(self) -> None: ...


class FedSource:
    """A feed as a BlockSource.

    open_feed: opens the feed within so many seconds; raises LinkError
    timeout_s, reconnect_s: as in `cpep_bridge.boards.Board`
    """

    def __init__(
        self, name: str, open_feed: Callable[[Patience, float], Feed], *, timeout_s: float, reconnect_s: float
    ) -> None:
        self._name, self._open_feed = name, open_feed
        self._patience = Patience(timeout_s, reconnect_s)
        self._feed: Feed | None = None
        self._ledger: CounterLedger | None = None
        self._rate: ArrivalRate | None = None
        self._n_bytes = self._n_damaged = self._reconnects = self._boot_id = 0

    def __enter__(self) -> "FedSource":
        self._feed = self._open_feed(self._patience, self._patience.timeout_s)
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened().close()

    def stop(self) -> None:
        """End the iteration soon; may be called from any thread."""
        self._patience.stop()

    @property
    def info(self) -> StreamInfo:
        """The description of the stream. Raises ValueError before the source was opened."""
        return self._opened().info

    @property
    def counts(self) -> LinkCounts:
        """The counts so far; each sample counts as a frame."""
        ledger = self._ledger
        if ledger is None or self._rate is None:
            return LinkCounts()
        return LinkCounts(
            frames=ledger.next_number - ledger.lost_frames,
            bytes=self._n_bytes,
            lost_frames=ledger.lost_frames,
            lost_samples=ledger.lost_frames,
            corrupt_frames=self._n_damaged,
            reconnects=self._reconnects,
            heard_hz=self._rate.heard_hz,
        )

    def __iter__(self) -> Iterator[Block]:
        """The blocks, until stop() or an error."""
        info = self.info
        self._ledger, self._rate = CounterLedger(None, 1 / info.sample_rate_hz), ArrivalRate(info)
        while True:
            try:
                try:
                    yield from self._round(self._ledger, self._rate)
                except LinkError as error:
                    if isinstance(error, Stopped):
                        raise
                    self._reconnect(error, self._ledger, self._rate)
            except Stopped:
                return

    def _round(self, ledger: CounterLedger, rate: ArrivalRate) -> Iterator[Block]:
        self._patience.check()
        wait_s = min(HEARD_S, self._patience.left_s)
        fed = self._opened().pull(wait_s)
        if fed is None or not len(fed.values):
            self._patience.silent_s += wait_s
            if not self._patience.left_s:
                raise LinkTimeout(
                    f"{self._name} sent no sample for {self._patience.timeout_s:g} s: is the device on, and streaming?"
                )
            return
        self._patience.sampled()
        self._n_bytes += fed.values.nbytes
        good = (np.abs(fed.values) <= LARGEST_SAMPLE).all(axis=1)  # False for NaN too
        self._n_damaged += int(np.count_nonzero(~good))
        numbers = self._numbers(fed, ledger)
        rate.add(ledger.next_number, fed.host_t_s)
        edges = np.flatnonzero(np.diff(numbers, prepend=-2) != 1).tolist()
        edges = sorted({*edges, *np.flatnonzero(np.diff(good, prepend=good[0])).tolist()})
        for start, stop in zip(edges, [*edges[1:], len(good)], strict=True):
            if good[start]:
                number = int(numbers[start])
                device_s = number / self.info.sample_rate_hz if fed.stamps_s is None else float(fed.stamps_s[start])
                yield Block(fed.values[start:stop], number, device_s, fed.host_t_s, self._boot_id)

    def _numbers(self, fed: Fed, ledger: CounterLedger) -> NDArray[np.int64]:
        """The numbers of the samples of one pull; with time stamps, found piece by piece by those."""
        n_samples = len(fed.values)
        if fed.stamps_s is None:
            return ledger.accept(None, n_samples, fed.host_t_s)[0].numbers
        size = max(1, round(_PIECE_S * self.info.sample_rate_hz))
        stops = [*range(size, n_samples, size), n_samples]
        pieces = [
            ledger.accept(None, stop - start, float(fed.stamps_s[stop - 1]))[0].numbers
            for start, stop in zip([0, *stops[:-1]], stops, strict=True)
        ]
        return np.concatenate(pieces)

    def _reconnect(self, error: LinkError, ledger: CounterLedger, rate: ArrivalRate) -> None:
        was = self.info

        def attempt(left_s: float) -> None:
            self._opened().close()
            self._feed = self._open_feed(self._patience, left_s)
            check_same(was, self.info, self._name)
            self._reconnects += 1
            self._boot_id += 1
            self._patience.opened()
            ledger.restart()
            rate.restart()

        self._patience.reopen(error, attempt)

    def _opened(self) -> Feed:
        if self._feed is None:
            raise ValueError("the source was not opened: use it in a with statement")
        return self._feed
