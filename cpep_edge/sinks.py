"""Where decisions go: files, the network, other programs.

A `Sink` takes decisions, and samples if it wants them. It may be slow, block or fail, for it runs in a thread of its
own behind a queue (`SinkTap`): when the queue is full the oldest entry is dropped and counted, when a call fails the
sink is closed, opened anew after a pause, and that is counted too. Nothing a sink does holds up the live loop.

Addresses: `FILE.jsonl` or `-`, `udp://host:port`, `osc://host:port[/prefix]`, `ws://host:port/path`, `lsl` or
`lsl://name`. Those but the first two need the extra `[sinks]`. Decisions go as one JSON object each; its schema is that
of `live --json`.
"""

import json
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TextIO
from urllib.parse import urlsplit

from cpep_edge.addresses import without_secrets
from cpep_edge.blocks import Block, StreamInfo
from cpep_edge.decisions import Decision
from cpep_edge.errors import ConfigError

QUEUE_LENGTH = 512  # entries; some seconds of blocks
_RETRY_S = (0.2, 0.5, 1.0, 2.0)  # pauses before a sink that failed is opened anew; the last one again and again
_CLOSE_S = 1.0  # for what waits in the queue when a run ends
_OPEN_S = 2.0  # for a server to answer
_DATAGRAM_TTL = 1  # of UDP: not beyond the local network


class Sink(ABC):
    """Something that decisions are sent to; opened by its constructor. Whatever it raises counts as a failure."""

    wants_samples = False

    @abstractmethod
    def decision(self, decision: Decision) -> None:
        """Send one decision."""

    def block(self, block: Block) -> None:  # noqa: B027 - most sinks want no samples
        """Send samples; called only where `wants_samples`."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""


OpenSink = Callable[[StreamInfo], Sink]


@dataclass(frozen=True, slots=True)
class SinkCounts:
    """What became of what a sink was given."""

    address: str
    sent: int = 0
    dropped: int = 0  # given up because the queue was full, or while the sink could not be reached
    failures: int = 0  # times that it had to be opened anew, or could not be
    last_error: str = ""


class SinkTap:
    """A sink behind a queue, in a thread of its own. A `cpep_edge.live_loop.Tap`."""

    def __init__(self, address: str, open_sink: OpenSink, info: StreamInfo, queue_length: int = QUEUE_LENGTH) -> None:
        """Start at once; the sink is opened in the thread."""
        self._open_sink, self._info = open_sink, info
        self._queue: deque[Decision | Block] = deque()
        self._queue_length = queue_length
        self._changed = threading.Condition()
        self._stop_s: float | None = None  # time.monotonic() at which to give up, once asked to stop
        self._secret = address
        self._counts = SinkCounts(without_secrets(address))
        self._wants_samples = True  # until the sink was opened and says otherwise
        self._thread = threading.Thread(target=self._run, name=f"sink {self._counts.address}", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> SinkCounts:
        """What was done so far."""
        with self._changed:
            return self._counts

    def decision(self, decision: Decision) -> None:
        """Queue a decision; returns at once."""
        self._put(decision)

    def block(self, block: Block) -> None:
        """Queue samples where the sink wants them; returns at once."""
        if self._wants_samples:
            self._put(block)

    def close(self) -> None:
        """Send what waits, for a second at most, and close the sink. One that hangs is left to itself."""
        with self._changed:
            self._stop_s = time.monotonic() + _CLOSE_S
            self._changed.notify()
        self._thread.join(_CLOSE_S)

    def _put(self, entry: Decision | Block) -> None:
        with self._changed:
            if len(self._queue) >= self._queue_length:
                self._queue.popleft()
                self._counts = replace(self._counts, dropped=self._counts.dropped + 1)
            self._queue.append(entry)
            self._changed.notify()

    def _run(self) -> None:
        n_failed = 0
        while not self._over():
            sink: Sink | None = None
            try:
                sink = self._open_sink(self._info)
                self._wants_samples = sink.wants_samples
                while (entry := self._take()) is not None:
                    self._send(sink, entry)
                    n_failed = 0
                return
            except Exception as error:  # whatever another's code raises, the others go on and the count tells
                self._note_failure(error)
                self._pause(_RETRY_S[min(n_failed, len(_RETRY_S) - 1)])
                n_failed += 1
            finally:
                if sink is not None:
                    with suppress(Exception):  # it is given up in any case
                        sink.close()

    def _send(self, sink: Sink, entry: Decision | Block) -> None:
        if isinstance(entry, Block):
            if not sink.wants_samples:  # queued before the sink was open
                return
            sink.block(entry)
        else:
            sink.decision(entry)
        with self._changed:
            self._counts = replace(self._counts, sent=self._counts.sent + 1)

    def _take(self) -> Decision | Block | None:
        """The oldest entry; None once all were taken after the end, or the time for it is up."""
        with self._changed:
            while not self._queue and self._stop_s is None:
                self._changed.wait()
            return self._queue.popleft() if self._queue and not self._late() else None

    def _note_failure(self, error: Exception) -> None:
        with self._changed:
            failures = self._counts.failures + 1
            said = (str(error) or type(error).__name__).replace(self._secret, self._counts.address)
            self._counts = replace(self._counts, failures=failures, last_error=said)

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stop_s is not None, seconds)

    def _over(self) -> bool:
        with self._changed:
            return self._stop_s is not None and (not self._queue or self._late())

    def _late(self) -> bool:
        return self._stop_s is not None and time.monotonic() > self._stop_s


def parse_sink(address: str) -> OpenSink:
    """What opens the sink of an address. Raises ConfigError, at once, when it is none or needs a missing package."""
    parts = urlsplit(address)
    kinds: dict[str, Callable[[], OpenSink]] = {
        "": lambda: lambda info: JsonLinesSink(address),
        "udp": lambda: lambda info: UdpSink(*_host_and_port(address)),
        "osc": lambda: _osc_sink(*_host_and_port(address), parts.path.rstrip("/") or "/cpep"),
        "ws": lambda: _websocket_sink(address),
        "wss": lambda: _websocket_sink(address),
        "lsl": lambda: _lsl_sink(parts.netloc),
    }
    if address == "lsl":
        return _lsl_sink("")
    if parts.scheme not in kinds or not address:
        raise ConfigError(
            f"{without_secrets(address)!r} is no sink: give FILE.jsonl, udp://HOST:PORT, osc://HOST:PORT, "
            "ws://HOST:PORT/PATH or lsl"
        )
    return kinds[parts.scheme]()


def decision_json(decision: Decision) -> str:
    """One decision as a line of JSON, as `live --json` prints it."""
    return json.dumps({"type": "decision", **asdict(decision)}, allow_nan=False)


class JsonLinesSink(Sink):
    """One line a decision, appended to a file or, for `-`, to stdout; whole lines only."""

    def __init__(self, path: str) -> None:
        self._file: TextIO = sys.stdout if path == "-" else Path(path).open("a", encoding="utf-8", buffering=1)

    def decision(self, decision: Decision) -> None:
        self._file.write(decision_json(decision) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not sys.stdout:
            self._file.close()


class UdpSink(Sink):
    """One datagram of JSON a decision; who listens is not known, and nobody is told of a loss."""

    def __init__(self, host: str, port: int) -> None:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self._address = address
        self._socket = socket.socket(family, kind)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _DATAGRAM_TTL)

    def decision(self, decision: Decision) -> None:
        self._socket.sendto(decision_json(decision).encode(), self._address)

    def close(self) -> None:
        self._socket.close()


def _websocket_sink(address: str) -> OpenSink:
    connect = _extra("websockets.sync.client").connect

    class WebSocketSink(Sink):
        """One text message of JSON a decision, to a WebSocket server; what it answers is thrown away."""

        def __init__(self) -> None:
            self._stack = ExitStack()
            opening = connect(address, open_timeout=_OPEN_S, close_timeout=_CLOSE_S, max_queue=None)
            self._connection = self._stack.enter_context(opening)

        def decision(self, decision: Decision) -> None:
            self._connection.send(decision_json(decision))

        def close(self) -> None:
            self._stack.close()

    return lambda info: WebSocketSink()


def _osc_sink(host: str, port: int, prefix: str) -> OpenSink:
    client = _extra("pythonosc.udp_client")

    class OscSink(Sink):
        """`/cpep/gesture` with name, confidence and time when it changes, `/cpep/window` with those of every window."""

        def __init__(self) -> None:
            self._client = client.SimpleUDPClient(host, port)

        def decision(self, decision: Decision) -> None:
            seconds = float(decision.device_t_s)
            if decision.changed:
                self._client.send_message(f"{prefix}/gesture", [decision.gesture, decision.confidence, seconds])
            self._client.send_message(f"{prefix}/window", [decision.window_gesture, decision.confidence, seconds])

        def close(self) -> None:
            self._client._sock.close()

    return lambda info: OscSink()


def _lsl_sink(name: str) -> OpenSink:
    lsl = _extra("pylsl")

    class LslSink(Sink):
        """Two streams: EMG in microvolts, and a marker of the gesture's name whenever the decision changes."""

        wants_samples = True

        def __init__(self, info: StreamInfo) -> None:
            label = name or info.name
            about = lsl.StreamInfo(
                f"{label} EMG", "EMG", info.n_channels, info.sample_rate_hz, lsl.cf_float32, f"{label}-emg"
            )
            channels = about.desc().append_child("channels")
            for number in range(info.n_channels):
                channel = channels.append_child("channel")
                for key, value in (("label", f"EMG{number + 1}"), ("unit", "microvolts"), ("type", "EMG")):
                    channel.append_child_value(key, value)
            self._emg = lsl.StreamOutlet(about)
            self._markers = lsl.StreamOutlet(
                lsl.StreamInfo(
                    f"{label} gestures", "Markers", 1, lsl.IRREGULAR_RATE, lsl.cf_string, f"{label}-gestures"
                )
            )
            self._ahead_s = lsl.local_clock() - time.monotonic()

        def block(self, block: Block) -> None:
            self._emg.push_chunk(block.samples_uv.tolist(), block.host_t_s + self._ahead_s)

        def decision(self, decision: Decision) -> None:
            if decision.changed:
                self._markers.push_sample([decision.gesture])

        def close(self) -> None:
            del self._emg, self._markers

    return LslSink


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise ConfigError(
            f"{without_secrets(address)!r} names no host and port: write {address.split(':')[0]}://127.0.0.1:9000"
        )
    return host, port


def _extra(module: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(f"this sink needs a package more: run pip install 'cpep-edge[sinks]' ({error})") from error
    except RuntimeError as error:  # pylsl, without its library
        raise ConfigError(f"this sink cannot load its library: {str(error).splitlines()[0]}") from error
