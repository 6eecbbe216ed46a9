"""Commands and answers over an open line: numbered, and repeated until answered."""

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
    """Frames that one read completed."""

    frames: list[Frame]
    host_t_s: float  # time.monotonic() right after the read


class Dialogue:
    """The host's side of one open line: IDENTIFY, CALIBRATE, START, STOP, PING and BENCH."""

    def __init__(self, line: ByteStream, decoder: FrameDecoder | None = None) -> None:
        """decoder: of the line that this one replaces; its counts go on"""
        self.decoder = decoder or FrameDecoder()
        self.decoder.resync()
        self._line = line
        self._kept: deque[Arrival] = deque()  # what came along with an answer
        self._seq = 0
        self._first = b""  # bytes that arrived, to be shown when they make no sense
        line.write(DELIMITER)  # ends whatever the device may have half received

    @property
    def port(self) -> str:
        """The port as the user wrote it."""
        return self._line.name

    def close(self) -> None:
        """Give the port back."""
        self._line.close()

    def send(self, command: Callable[[int], Command]) -> int:
        """Send a command and do not wait; its seq."""
        self._seq = (self._seq + 1) & 0xFFFF
        self._line.write(encode_frame(command(self._seq)))
        return self._seq

    def receive(self, timeout_s: float) -> Arrival:
        """The next frames, as soon as there are bytes, whole frames or not; none after `timeout_s`."""
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
        """Ask the band who it is, until it answers. Raises LinkError or LinkTimeout as `order` does.

        keep: frames that come before the answer too, for they belong to a stream that goes on
        """
        answer = self._ask(Identify, timeout_s, keep)
        if not isinstance(answer, Info):
            raise LinkError(
                f"the band on {self.port} acknowledges IDENTIFY and does not answer it: update its firmware"
            )
        return answer

    def calibrate(self, gains: NDArray[np.float32], turn: int, timeout_s: float) -> None:
        """Fit the band's own engine to a wearer; gains: (n_channels,). Raises as `order` does."""
        packed = gains.astype("<f4").tobytes()
        answer = self._ask(Calibrate, timeout_s, make=lambda seq: Calibrate(seq, turn, packed))
        if isinstance(answer, Nak):
            raise LinkError(f"the band on {self.port} refused CALIBRATE: {answer.text}")

    def order(self, command: type[Start] | type[Stop], timeout_s: float) -> None:
        """Give a command until it is acknowledged; frames that come before that are dropped, later ones kept.

        Raises LinkError when it is refused or what answers is no band, LinkTimeout when nothing answers.
        """
        answer = self._ask(command, timeout_s)
        if isinstance(answer, Nak):
            raise LinkError(f"the band on {self.port} refused {command.__name__.upper()}: {answer.text}")

    def bench(self, n_runs: int, timeout_s: float) -> tuple[BenchResult, list[Arrival]]:
        """Let the band time its own inference; its answer, and what came before. Said once: twice would run it twice.

        Raises LinkError when it refuses, LinkTimeout when it takes longer.
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
        """make: the command, for one that has more than its number"""
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
        """The answer to a command, if it comes; what comes before is added to `earlier`, what comes behind is kept."""
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
    """Whether all numbers of a frame are numbers; what INFO says is judged as a whole, with a sentence."""
    if isinstance(frame, Prediction) and not 0 <= frame.confidence <= 1:
        return False
    values = (getattr(frame, field.name) for field in fields(frame))
    return isinstance(frame, Info) or all(math.isfinite(value) for value in values if isinstance(value, float))


def _plain(frame: Frame) -> Frame:
    """The frame with its texts safe to print: a device may write anything into them."""
    for field in fields(frame):
        value = getattr(frame, field.name)
        if isinstance(value, str) and value != (shown := printable(value)):
            frame = replace(frame, **{field.name: shown})  # type: ignore[arg-type]
    return frame


def _answers(frame: Frame, command: type[Command]) -> bool:
    if isinstance(frame, Ack | Nak):
        return frame.command == command.TYPE
    return isinstance(frame, {Identify: Info, BenchCommand: BenchResult}.get(command, ()))
