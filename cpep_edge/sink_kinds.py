"""The kinds of sinks: JSON lines to a file or stdout, UDP datagrams, OSC, a WebSocket, the lab streaming layer."""

import errno
import ipaddress
import json
import os
import stat
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from types import ModuleType
from urllib.parse import urlsplit

import numpy as np

from cpep_edge.blocks import Block, StreamInfo
from cpep_edge.datagrams import Datagrams
from cpep_edge.decisions import Decision
from cpep_edge.device_clock import DeviceClock
from cpep_edge.errors import ConfigError

STDOUT = "-"
CLOSE_S = 0.5  # to send what is still queued when a run ends; a command must end within a second
_LSL_FOLLOW = 0.02  # share of a time stamp's error that is corrected with each block
_LSL_JUMP_S = 0.1  # a larger error is corrected at once
_OPEN_S = 2.0  # for a server to accept the connection


class Sink(ABC):
    """Something that decisions are sent to. Its constructor opens it. Any exception that it raises is a failure."""

    wants_samples = False

    @abstractmethod
    def decision(self, decision: Decision) -> None:
        """Send one decision."""

    def block(self, block: Block) -> None:  # noqa: B027 - most sinks want no samples
        """Send samples; called only if `wants_samples`."""

    @abstractmethod
    def close(self) -> None:
        """Close files and connections."""


OpenSink = Callable[[StreamInfo], Sink]


def decision_json(decision: Decision) -> str:
    """One decision as JSON on one line, as `live --json` prints it."""
    return json.dumps({"type": "decision", **asdict(decision)}, allow_nan=False)


class JsonLinesSink(Sink):
    """Appends one line per decision to a file or, for `-`, to stdout. Lines are whole even when the disk is full."""

    def __init__(self, path: str) -> None:
        self._file = _stdout() if path == STDOUT else _append_to(path)
        self._owned = path != STDOUT

    def decision(self, decision: Decision) -> None:
        line = decision_json(decision) + "\n"
        if self._file is None:  # stdout is no file, as in a test
            if sys.stdout is None:
                raise OSError(errno.EBADF, "stdout is closed")
            sys.stdout.write(line)
        else:
            write_line(self._file, line.encode())

    def close(self) -> None:
        if self._owned and self._file is not None:
            os.close(self._file)


def write_line(file: int, line: bytes) -> None:
    """Write a whole line to an open file. If that fails, a regular file is truncated to what it held before.

    Raises OSError when the disk or the reader refuses. A full pipe blocks. Python's own buffers are bypassed, because
    the program would block again at its end to flush them.
    """
    written = 0
    try:
        while written < len(line):
            written += os.write(file, line[written:])
    except OSError:
        status = os.fstat(file)
        if written and stat.S_ISREG(status.st_mode):
            os.ftruncate(file, status.st_size - written)
        raise


def _stdout() -> int | None:
    try:
        sys.stdout.flush()
        return sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _append_to(path: str) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o644)
    os.set_blocking(file, True)  # it was opened non-blocking, because a pipe without a reader would block
    try:
        status = os.fstat(file)
        if stat.S_ISFIFO(status.st_mode):
            os.close(file)
            file = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # fails at once if there is no reader
            os.set_blocking(file, True)
        elif stat.S_ISREG(status.st_mode) and status.st_size and os.pread(file, 1, status.st_size - 1) != b"\n":
            os.write(file, b"\n")  # ends a line that was cut off when a process was killed
    except BaseException:
        with suppress(OSError):
            os.close(file)
        raise
    return file


class UdpSink(Sink):
    """Sends one UDP datagram of JSON per decision. Whether anything receives it is not known."""

    def __init__(self, host: str, port: int) -> None:
        self._datagrams = Datagrams(host, port)

    def decision(self, decision: Decision) -> None:
        self._datagrams.send(decision_json(decision).encode())

    def close(self) -> None:
        self._datagrams.close()


def websocket_sink(address: str) -> OpenSink:
    """A sink that sends one text message of JSON per decision to a WebSocket server. Answers are read and discarded."""
    connect = _extra("websockets.sync.client").connect
    direct = {"proxy": None} if _is_this_machine(urlsplit(address).hostname or "") else {}

    class WebSocketSink(Sink):
        def __init__(self) -> None:
            self._connection = connect(address, open_timeout=_OPEN_S, close_timeout=CLOSE_S, max_queue=4, **direct)
            self._reader = threading.Thread(target=self._throw_away, name=f"sink {address}, answers", daemon=True)
            self._reader.start()

        def decision(self, decision: Decision) -> None:
            self._connection.send(decision_json(decision))

        def close(self) -> None:
            self._connection.close()

        def _throw_away(self) -> None:
            with suppress(Exception):  # the server has closed the connection; the next send will fail
                for _ in self._connection:
                    pass

    return lambda info: WebSocketSink()


def osc_sink(host: str, port: int, prefix: str) -> OpenSink:
    """An OSC sink: `/cpep/gesture` with name, confidence and time at each change, `/cpep/window` for every window."""
    builder = _extra("pythonosc.osc_message_builder").OscMessageBuilder

    class OscSink(Sink):
        def __init__(self) -> None:
            self._datagrams = Datagrams(host, port)

        def decision(self, decision: Decision) -> None:
            if decision.changed:
                self._send("gesture", decision.gesture, decision)
            self._send("window", decision.window_gesture, decision)

        def close(self) -> None:
            self._datagrams.close()

        def _send(self, what: str, gesture: str, decision: Decision) -> None:
            message = builder(f"{prefix}/{what}")
            for value in (gesture, decision.confidence, float(decision.device_t_s)):
                message.add_arg(value)
            self._datagrams.send(message.build().dgram)

    return lambda info: OscSink()


def lsl_sink(name: str) -> OpenSink:
    """A sink of two LSL streams: EMG, stamped by the device's clock, and a marker with the name of each new gesture."""
    lsl = _extra("pylsl")

    class LslSink(Sink):
        wants_samples = True

        def __init__(self, info: StreamInfo) -> None:
            label = name or info.name
            source = "-".join(part for part in (label, info.serial_number) if part)
            about = lsl.StreamInfo(
                f"{label} EMG", "EMG", info.n_channels, info.sample_rate_hz, lsl.cf_float32, f"{source}-emg"
            )
            acquisition = about.desc().append_child("acquisition")
            for key, value in (
                ("model", info.name),
                ("serial_number", info.serial_number),
                ("firmware", info.firmware),
            ):
                acquisition.append_child_value(key, value)
            channels = about.desc().append_child("channels")
            unit = "microvolts" if info.unit == "uV" else f"{info.unit}s"
            for number in range(info.n_channels):
                channel = channels.append_child("channel")
                for key, value in (("label", f"EMG{number + 1}"), ("unit", unit), ("type", "EMG")):
                    channel.append_child_value(key, value)
            self._emg = lsl.StreamOutlet(about)
            self._markers = lsl.StreamOutlet(
                lsl.StreamInfo(
                    f"{label} gestures", "Markers", 1, lsl.IRREGULAR_RATE, lsl.cf_string, f"{source}-gestures"
                )
            )
            self._rate_hz = info.sample_rate_hz
            self._ahead_s = lsl.local_clock() - time.monotonic()
            self._last_s = 0.0  # the last time stamp
            self._clock, self._boot_id = DeviceClock(), 0
            self._newest: tuple[float, float] | None = None  # newest sample's time on the device's clock, and its stamp

        def block(self, block: Block) -> None:
            if block.boot_id != self._boot_id:
                self._clock, self._boot_id, self._newest = DeviceClock(), block.boot_id, None
            n_samples = len(block.samples_uv)
            end_s = block.device_t_s + (n_samples - 1) / self._rate_hz
            self._clock.add_arrival(end_s, block.host_t_s)
            line = self._clock.line
            stamp_s = (block.host_t_s if line is None else line.host_s(end_s)) + self._ahead_s
            least_s = self._last_s + 1e-6 * n_samples
            if self._newest is not None:  # an early clock fit still moves; stamps follow it slowly
                expected_s = self._newest[1] + end_s - self._newest[0]
                if abs(stamp_s - expected_s) < _LSL_JUMP_S:
                    stamp_s = expected_s + _LSL_FOLLOW * (stamp_s - expected_s)
            stamp_s = max(stamp_s, least_s)  # stamps must rise, whatever the device's clock does
            first_s = max(stamp_s - (n_samples - 1) / self._rate_hz, self._last_s + 1e-6)
            self._emg.push_chunk(block.samples_uv, np.linspace(first_s, stamp_s, n_samples).tolist())
            self._newest, self._last_s = (end_s, stamp_s), stamp_s

        def decision(self, decision: Decision) -> None:
            if decision.changed:
                self._markers.push_sample([decision.gesture])

        def close(self) -> None:
            del self._emg, self._markers

    return LslSink


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _extra(module: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(f"this sink needs another package: run pip install 'cpep-edge[sinks]' ({error})") from error
    except RuntimeError as error:  # pylsl raises it if liblsl is missing
        raise ConfigError(f"this sink cannot load its library: {str(error).splitlines()[0]}") from error
