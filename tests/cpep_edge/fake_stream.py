"""A predictable stream: a recogniser that reads the answer from the signal, and a band that plays given blocks."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from threading import Event
from types import SimpleNamespace

import numpy as np

from cpep_edge.blocks import Block, LinkCounts, StreamInfo
from cpep_edge.decisions import Decision
from cpep_edge.donning import Donning
from cpep_edge.input_stream import InputStream
from cpep_edge.live_loop import LiveEngine
from cpep_edge.manifest import DecisionSpec
from cpep_edge.names import shown_name
from cpep_edge.pose_index import Vote
from cpep_edge.preprocess import Preprocessing
from cpep_edge.recogniser import Recognition

RATE_HZ = 1000.0
WINDOW = 200
HOP_MS = 50.0
INFO = StreamInfo("test band", n_channels=2, sample_rate_hz=RATE_HZ)
PASS_THROUGH = Preprocessing(RATE_HZ, ((1.0, 0.0, 0.0, 1.0, 0.0, 0.0),), scale_uv=1.0, clip=1e6)


class LevelRecogniser:
    """Recognises gesture 1 if the mean of a window is above one half, else gesture 0; keeps the windows."""

    def __init__(
        self, duration_s: float = 0.0, spec: DecisionSpec | None = None, names: tuple[str, str] = ("Low", "High")
    ) -> None:
        self.manifest = SimpleNamespace(
            name="level",
            unit="uV",
            usual_donning=Donning(),
            preprocessing=PASS_THROUGH,
            n_channels=2,
            window_samples=WINDOW,
            front_end=None,
            head=None,
            worn=None,
            other_movements=None,
            input_shape=(2, WINDOW),
            encoder=SimpleNamespace(file="encoder.pte"),
            decision=spec or DecisionSpec(evidence_ms=25.0, hop_ms=HOP_MS),
            gesture_names=names,
            gestures=(
                SimpleNamespace(name=names[0], trained=True, origin="corpus"),
                SimpleNamespace(name=names[1], trained=False, origin="corpus"),
            ),
            shown=shown_name,
            files={"encoder.pte": SimpleNamespace(sha256="0" * 64)},
        )
        self.windows: list[np.ndarray] = []
        self._duration_s = duration_s

    def stream(self, donning: Donning | None = None) -> InputStream:
        return InputStream(PASS_THROUGH, None, 2, donning)

    def on_arm(self, donning: Donning) -> None:
        return None

    def recognise(self, window: np.ndarray, head: None = None) -> Recognition:
        self.windows.append(window)
        time.sleep(self._duration_s)
        high = int(window.mean() > 0.5)
        return Recognition(Vote(high, 1.0, 0.9, (1.0 - high, float(high))), np.eye(2, dtype=np.float32)[high])


class ListSource:
    """A source that plays blocks as fast as they are read, then ends or fails.

    recogniser: wait until it has seen each window, so that a loop that reads ahead in a thread skips none
    """

    def __init__(
        self,
        blocks: list[Block],
        failure: Exception | None = None,
        pause_s: float = 0.0,
        recogniser: LevelRecogniser | None = None,
        info: StreamInfo = INFO,
    ) -> None:
        self.info, self.counts = info, LinkCounts()
        self._blocks, self._failure, self._pause_s = blocks, failure, pause_s
        self._recogniser, self._stopped = recogniser, Event()

    def __enter__(self) -> "ListSource":
        return self

    def __exit__(self, *exc: object) -> None: ...

    def stop(self) -> None:
        self._stopped.set()

    def _has_caught_up(self, sample_index: int) -> bool:
        hop = round(HOP_MS * RATE_HZ / 1e3)
        n_due = max(0, 1 + (sample_index - WINDOW) // hop)
        return self._recogniser is None or len(self._recogniser.windows) >= n_due

    def __iter__(self) -> Iterator[Block]:
        for block in self._blocks:
            while not self._has_caught_up(block.sample_index) and not self._stopped.wait(0.0005):
                pass
            time.sleep(self._pause_s)
            yield replace(block, host_t_s=time.monotonic())
        if self._failure:
            raise self._failure


def play(blocks: Iterable[Block], engine: LiveEngine) -> list[Decision]:
    """All decisions of a live loop for these blocks."""
    decisions = []
    for block in blocks:
        if engine.ingest(block):
            while (decision := engine.step(newest=False)) is not None:
                decisions.append(decision)
    return decisions


def without_delay(decisions: Iterable[Decision]) -> list[Decision]:
    return [replace(decision, delay_ms=0.0) for decision in decisions]


def cut(signal: np.ndarray, size: int = 10, first: int = 0, boot_id: int = 0) -> list[Block]:
    """Divide a signal, (n_samples,), into blocks of two equal channels."""
    both = np.repeat(signal[:, None], 2, axis=1).astype(np.float32)
    starts = range(0, len(signal), size)
    return [
        Block(both[s : s + size], first + s, (first + s) / RATE_HZ, time.monotonic(), boot_id=boot_id) for s in starts
    ]
