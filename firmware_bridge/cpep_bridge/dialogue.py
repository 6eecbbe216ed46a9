"""Commands and answers over an open line. Commands are numbered, and repeated until the device answers."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.byte_stream import ByteStream
from cpep_bridge.conversation import quoted
from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.frames import (
    DELIMITER,
    VERSION,
    Ack,
    BenchCommand,
    BenchResult,
    Calibrate,
    Command,
    Data,
    Frame,
    Identify,
    Info,
    Nak,
    Prediction,
    Start,
    Stop,
    encode_frame,
)
from cpep_edge.errors import LinkError, LinkTimeout
from cpep_edge.outside import printable

RETRY_S = 0.5

_SHOWN_BYTES = 64


@dataclass(frozen=True, slots=True)
class Arrival:
    """The frames that one read completed."""

    frames: list[Frame]
    host_t_s: float  # time.monotonic() right after the read


class Dialogue:
    """The host's side of one open line: IDENTIFY, CALIBRATE, START, STOP, PING and BENCH."""

    def __init__(self, line: ByteStream, decoder: FrameDecoder | None = None) -> None:
        """decoder: that of the previous line, if this line replaces one, so that its counts continue"""
        self.decoder = decoder or FrameDecoder()
        self.decoder.resync()
        self._line = line
        self._kept: deque[Arrival] = deque()  # frames received together with an answer, for the next receive()
        self._seq = 0
        self._first = b""  # the first bytes received, for the error message when they hold no frame
        line.write(DELIMITER)  # ends a command that the device may have received in part

    @property
    def port(self) -> str:
        """The port as the user wrote it."""
        return self._line.name

    def close(self) -> None:
        """Close the line."""
        self._line.close()

    def send(self, command: Callable[[int], Command]) -> int:
        """Send a command without waiting for the answer; returns its seq."""
        self._seq = (self._seq + 1) & 0xFFFF
        self._line.write(encode_frame(command(self._seq)))
        return self._seq

    def receive(self, timeout_s: float) -> Arrival:
        """The frames that the next bytes complete, possibly none; no frames after `timeout_s` without a byte."""
        if self._kept:
            return self._kept.popleft()
        data = self._line.read(timeout_s)
        host_t_s = time.monotonic()
        if len(self._first) < _SHOWN_BYTES:
            self._first = (self._first + data)[:_SHOWN_BYTES]
        frames: list[Frame] = []
        for frame in self.decoder.feed(data):
            if isinstance(frame, Data) or _can_be(frame):
                frames.append(frame if isinstance(frame, Data) else _plain(frame))
            else:
                self.decoder.disown()
        return Arrival(frames, host_t_s)

    def identify(self, timeout_s: float, keep: bool = False) -> Info:
        """Repeat IDENTIFY until the band answers. Raises LinkError or LinkTimeout as `order` does.

        keep: keep the frames before the answer too, because they belong to a stream that continues
        """
        answer = self._ask(Identify, timeout_s, keep)
        if not isinstance(answer, Info):
            raise LinkError(
                f"the band on {self.port} acknowledges IDENTIFY and does not answer it: update its firmware"
            )
        return answer

    def calibrate(self, gains: NDArray[np.float32], turn: int, timeout_s: float) -> None:
        """Send a wearer's calibration to the band's own engine; gains: (n_channels,). Raises as `order` does."""
        packed = gains.astype("<f4").tobytes()
        answer = self._ask(Calibrate, timeout_s, make=lambda seq: Calibrate(seq, turn, packed))
        if isinstance(answer, Nak):
            raise LinkError(f"the band on {self.port} refused CALIBRATE: {answer.text}")

    def order(self, command: type[Start] | type[Stop], timeout_s: float) -> None:
        """Repeat a command until it is acknowledged. Frames before the answer are dropped, later ones are kept.

        Raises LinkError when the band refuses or the device is not a band, LinkTimeout when nothing answers.
        """
        answer = self._ask(command, timeout_s)
        if isinstance(answer, Nak):
            raise LinkError(f"the band on {self.port} refused {command.__name__.upper()}: {answer.text}")

    def bench(self, n_runs: int, timeout_s: float) -> tuple[BenchResult, list[Arrival]]:
        """Let the band time its own inference. The command is sent only once, since a repeat would run it again.

        returns: the answer, and what arrived before it
        Raises LinkError when the band refuses, LinkTimeout when it takes longer than `timeout_s`.
        """
        seq = self.send(lambda seq: BenchCommand(seq, n_runs))
        earlier: list[Arrival] = []
        answer = self._answer(BenchCommand, seq, time.monotonic() + timeout_s, earlier)
        if isinstance(answer, BenchResult):
            return answer, earlier
        if isinstance(answer, Nak):
            raise LinkError(f"the band on {self.port} refused BENCH: {answer.text}")
        raise LinkTimeout(f"the band on {self.port} did not finish {n_runs} runs within {timeout_s:g} s: ask for fewer")

    def _ask(
        self,
        command: type[Command],
        timeout_s: float,
        keep: bool = False,
        make: Callable[[int], Command] | None = None,
    ) -> Frame:
        """Send a command repeatedly until it is answered.

        keep: see `identify`
        make: builds the command from its seq, when it has more fields than that
        """
        deadline_s = time.monotonic() + timeout_s
        earlier: list[Arrival] = []
        while time.monotonic() < deadline_s:
            until_s = min(time.monotonic() + RETRY_S, deadline_s)
            answer = self._answer(command, self.send(make or command), until_s, earlier)
            if answer is not None:
                if keep:
                    self._kept.extendleft(reversed(earlier))
                return answer
        raise self._no_answer(command, timeout_s)

    def _answer(self, command: type[Command], seq: int, deadline_s: float, earlier: list[Arrival]) -> Frame | None:
        """The answer to a command, or None. Frames before it are added to `earlier`, frames after it are kept."""
        while (wait_s := deadline_s - time.monotonic()) > 0:
            arrival = self.receive(wait_s)
            for index, frame in enumerate(arrival.frames):
                if frame.seq == seq and _answers(frame, command):
                    earlier.append(Arrival(arrival.frames[:index], arrival.host_t_s))
                    self._kept.appendleft(Arrival(arrival.frames[index + 1 :], arrival.host_t_s))
                    return frame
            earlier.append(arrival)
        return None

    def _no_answer(self, command: type[Command], timeout_s: float) -> LinkError:
        counts = self.decoder.counts
        if counts.frames:
            return LinkTimeout(
                f"the band on {self.port} sends, but did not answer {command.__name__.upper()} within {timeout_s:g} s: "
                "switch it off and on again"
            )
        if self.decoder.versions:
            spoken = ", ".join(str(version) for version in sorted(self.decoder.versions))
            return LinkError(
                f"the band on {self.port} speaks protocol version {spoken}, this program version {VERSION}: "
                "update the older of the two"
            )
        if counts.bytes:
            return LinkError(
                f"the device on {self.port} is not a cpep band, or runs at another baud rate: it sent {counts.bytes} "
                f"bytes without one intact frame, beginning with {quoted(self._first)}"
            )
        return LinkTimeout(
            f"nothing on {self.port} answered within {timeout_s:g} s: is the band switched on, and is this its port?"
        )


def _can_be(frame: Frame) -> bool:
    """Whether all numbers of a frame are finite and in range. INFO passes: it is checked later, with error messages."""
    if isinstance(frame, Prediction) and not 0 <= frame.confidence <= 1:
        return False
    values = (getattr(frame, field.name) for field in fields(frame))
    return isinstance(frame, Info) or all(math.isfinite(value) for value in values if isinstance(value, float))


def _plain(frame: Frame) -> Frame:
    """The frame with its texts made safe to print, because a device may send any characters."""
    for field in fields(frame):
        value = getattr(frame, field.name)
        if isinstance(value, str) and value != (shown := printable(value)):
            frame = replace(frame, **{field.name: shown})  # type: ignore[arg-type]
    return frame


def _answers(frame: Frame, command: type[Command]) -> bool:
    if isinstance(frame, Ack | Nak):
        return frame.command == command.TYPE
    return isinstance(frame, {Identify: Info, BenchCommand: BenchResult}.get(command, ()))
