"""Send decisions to sinks: files, the network, other programs.

A `Sink` takes decisions, and samples if it wants them. It may be slow, block or fail, because it runs in its own thread
behind a queue (`SinkTap`). When the queue is full, the oldest entry is dropped and counted. When a call fails, its
entry is dropped and counted, and the sink is closed and opened again after a pause. So a sink can never delay the live
loop, and every entry is counted as either sent or dropped.

Addresses: `FILE.jsonl` or `-`, `udp://host:port`, `osc://host:port[/prefix]`, `ws://host:port/path`, `lsl` or
`lsl://name`. `osc`, `ws` and `lsl` need the extra `[sinks]`. Each decision is sent as one JSON object, in the schema of
`live --json`.
"""

import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from cpep_edge.addresses import without_secrets
from cpep_edge.blocks import Block, StreamInfo
from cpep_edge.decisions import Decision
from cpep_edge.errors import ConfigError
from cpep_edge.outside import printable
from cpep_edge.sink_kinds import (
    CLOSE_S,
    STDOUT,
    JsonLinesSink,
    OpenSink,
    Sink,
    UdpSink,
    decision_json,
    lsl_sink,
    osc_sink,
    websocket_sink,
)

__all__ = ["OpenSink", "Sink", "SinkCounts", "SinkTap", "UdpSink", "close_sinks", "decision_json", "parse_sink"]

QUEUE_LENGTH = 512  # entries; a few seconds of blocks
_RETRY_S = (0.2, 0.5, 1.0, 2.0)  # pauses before a failed sink is opened again; the last one repeats
_OSC_PREFIX = re.compile(r"(/[!-~]+)*")  # printable ASCII
_OSC_RESERVED = frozenset("#*,?[]{} ")


@dataclass(frozen=True, slots=True)
class SinkCounts:
    """What happened to a sink's entries. Once it is closed, `sent` and `dropped` add up to all of them."""

    address: str
    sent: int = 0
    dropped: int = 0  # the queue was full, the sink could not be reached, or a call failed
    failures: int = 0  # failed calls and failed attempts to open it
    last_error: str = ""


class SinkTap:
    """A sink behind a queue, in its own thread. It is a `cpep_edge.live_loop.Tap`."""

    def __init__(self, address: str, open_sink: OpenSink, info: StreamInfo, queue_length: int = QUEUE_LENGTH) -> None:
        """Start the thread, which opens the sink."""
        self._open_sink, self._info = open_sink, info
        self._queue: deque[Decision | Block] = deque()
        self._queue_length = queue_length
        self._changed = threading.Condition()
        self._stop_s: float | None = None  # time.monotonic() at which to give up; None until asked to stop
        self._secret = address
        self._in_hand = self._closed = False  # an entry is being sent; no entry is accepted any more
        self._taken_s = 0.0  # when the entry in hand was taken
        self._counts = SinkCounts(without_secrets(address))
        self._wants_samples: bool | None = None  # None: unknown, as the sink was never open yet
        self._thread = threading.Thread(target=self._run, name=f"sink {self._counts.address}", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> SinkCounts:
        """The counts so far."""
        with self._changed:
            return self._counts

    def decision(self, decision: Decision) -> None:
        """Queue a decision; returns at once."""
        self._put(decision)

    def block(self, block: Block) -> None:
        """Queue samples if the sink wants them; returns at once."""
        if self._wants_samples is not False:
            self._put(block)

    def finish(self) -> None:
        """Ask the sink to end; returns at once. Queued entries are still sent, for at most half a second. A sink that
        has already hung for longer sends none.
        """
        with self._changed:
            if self._stop_s is None:
                now_s = time.monotonic()
                hangs = self._in_hand and now_s - self._taken_s > CLOSE_S
                self._stop_s = now_s if hangs else now_s + CLOSE_S
            self._changed.notify()

    def close(self) -> bool:
        """Finish, and wait for the thread; returns False when the sink hangs, and its thread is then left running."""
        self.finish()
        self._thread.join(max(0.0, (self._stop_s or 0.0) - time.monotonic()))
        with self._changed:
            self._closed = True
            self._drop(*self._queue)
            self._drop_in_hand()
            self._queue.clear()
            return not self._thread.is_alive()

    def _put(self, entry: Decision | Block) -> None:
        with self._changed:
            if self._closed:
                self._drop(entry)
                return
            if len(self._queue) >= self._queue_length:
                self._drop(self._queue.popleft())
            self._queue.append(entry)
            self._changed.notify()

    def _run(self) -> None:
        n_failed = 0
        while not self._over():
            sink: Sink | None = None
            try:
                sink = self._open_sink(self._info)
                self._learn(sink.wants_samples)
                while (entry := self._take()) is not None:
                    if isinstance(entry, Block):
                        sink.block(entry)
                    else:
                        sink.decision(entry)
                    with self._changed:
                        if not self._closed:  # else the entry was already counted as dropped
                            self._in_hand = False
                            self._counts = replace(self._counts, sent=self._counts.sent + 1)
                    n_failed = 0
                return
            except Exception as error:  # a sink may raise anything; it is counted, and others go on
                self._note_failure(error)
                if self._stop_s is not None and n_failed:  # when a run ends, there is only one more attempt
                    return
                with self._changed:
                    self._changed.wait_for(lambda: self._stop_s is not None, _RETRY_S[min(n_failed, len(_RETRY_S) - 1)])
                n_failed += 1
            finally:
                if sink is not None:
                    with suppress(Exception):  # it is discarded in any case
                        sink.close()

    def _learn(self, wants_samples: bool) -> None:
        """Note whether the sink wants samples. If not, those in the queue are removed and not counted as dropped."""
        with self._changed:
            self._wants_samples = wants_samples
            if not wants_samples:
                kept = [entry for entry in self._queue if not isinstance(entry, Block)]
                self._queue.clear()
                self._queue.extend(kept)

    def _take(self) -> Decision | Block | None:
        """Wait for the oldest entry; None when the sink is to end and the queue is empty, or its time is up."""
        with self._changed:
            while not self._queue and self._stop_s is None:
                self._changed.wait()
            if not self._queue or self._closed or self._late():
                return None
            self._in_hand, self._taken_s = True, time.monotonic()
            return self._queue.popleft()

    def _note_failure(self, error: Exception) -> None:
        with self._changed:
            if not self._closed:
                self._drop_in_hand()
            why = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            said = printable(why.replace(self._secret, self._counts.address))
            self._counts = replace(self._counts, failures=self._counts.failures + 1, last_error=said)

    def _drop(self, *entries: Decision | Block) -> None:
        """Count entries as dropped: decisions, and samples if the sink wants them."""
        n_dropped = sum(not isinstance(entry, Block) or self._wants_samples is True for entry in entries)
        self._counts = replace(self._counts, dropped=self._counts.dropped + n_dropped)

    def _drop_in_hand(self) -> None:
        self._counts = replace(self._counts, dropped=self._counts.dropped + self._in_hand)
        self._in_hand = False

    def _over(self) -> bool:
        with self._changed:
            return self._stop_s is not None and (not self._queue or self._late())

    def _late(self) -> bool:
        return self._stop_s is not None and time.monotonic() > self._stop_s


def close_sinks(taps: Iterable[SinkTap]) -> None:
    """Close all sinks at the same time, so that it takes no longer than closing one."""
    taps = tuple(taps)
    for tap in taps:
        tap.finish()
    for tap in taps:
        tap.close()


def parse_sink(address: str) -> OpenSink:
    """A function that opens an address' sink. Raises ConfigError when it is invalid or a package for it is missing."""
    if address == "lsl":
        return lsl_sink("")
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise ConfigError(f"{printable(address)!r} is not an address of a sink: {error}") from error
    kinds: dict[str, Callable[[], OpenSink]] = {
        "udp": lambda: _udp_sink(address, parts),
        "osc": lambda: _osc_sink(address, parts),
        "ws": lambda: _websocket_sink(address, parts),
        "wss": lambda: _websocket_sink(address, parts),
        "lsl": lambda: lsl_sink(parts.netloc),
    }
    if address and "://" not in address:
        if address != STDOUT and Path(address).is_dir():
            raise ConfigError(f"{printable(address)!r} is a folder, and decisions go to a file: add its name")
        return lambda info: JsonLinesSink(address)
    if parts.scheme not in kinds:
        raise ConfigError(
            f"{printable(without_secrets(address))!r} is not a sink: use FILE.jsonl, udp://HOST:PORT, osc://HOST:PORT, "
            "ws://HOST:PORT/PATH or lsl"
        )
    return kinds[parts.scheme]()


def _udp_sink(address: str, parts: SplitResult) -> OpenSink:
    host, port = _host_and_port(address, parts, path_allowed=False)
    return lambda info: UdpSink(host, port)


def _osc_sink(address: str, parts: SplitResult) -> OpenSink:
    host, port = _host_and_port(address, parts, path_allowed=True)
    prefix = parts.path.rstrip("/")
    if not _OSC_PREFIX.fullmatch(prefix) or _OSC_RESERVED & set(prefix):
        raise ConfigError(
            f"{printable(address)!r}: an OSC address is made of ASCII letters without # * , ? [ ] {{ }} or blanks"
        )
    return osc_sink(host, port, prefix or "/cpep")


def _websocket_sink(address: str, parts: SplitResult) -> OpenSink:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not parts.hostname or port == 0:
        raise ConfigError(f"{printable(address)!r} names no host and port: write ws://127.0.0.1:9000/path")
    return websocket_sink(address)


def _host_and_port(address: str, parts: SplitResult, path_allowed: bool) -> tuple[str, int]:
    """The host and port of an address. Raises ConfigError when they are missing or the host cannot be resolved."""
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    further = parts.query or parts.fragment or parts.username is not None or (parts.path and not path_allowed)
    named = printable(without_secrets(address))
    if not host or not port or further:
        usual = f"{parts.scheme}://127.0.0.1:9000"
        why = "says more than a host and a port" if host and port else "names no host and port"
        raise ConfigError(f"{named!r} {why}: write {usual}")
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise ConfigError(f"{named!r}: there is no host {host}: {error.strerror or error}") from error
    return host, port
