"""The live loop with a recogniser that reads the answer out of the signal, so that every decision can be foretold."""

import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cpep_edge.blocks import Block, LinkCounts, StreamInfo
from cpep_edge.bundle import DecisionSpec
from cpep_edge.decisions import UNKNOWN, Decision
from cpep_edge.errors import ConfigError, LinkTimeout
from cpep_edge.live import Live, LiveEngine
from cpep_edge.pose_index import Vote
from cpep_edge.preprocess import Preprocessing, Preprocessor
from cpep_edge.recogniser import Recognition

RATE_HZ = 1000.0
WINDOW = 200
HOP_MS = 50.0
INFO = StreamInfo("test band", n_channels=2, sample_rate_hz=RATE_HZ)
PASS_THROUGH = Preprocessing(RATE_HZ, ((1.0, 0.0, 0.0, 1.0, 0.0, 0.0),), scale_uv=1.0, clip=1e6)


class LevelRecogniser:
    """Takes a window for gesture 1 where its mean is above one half, else for gesture 0; keeps what it saw."""

    def __init__(self, duration_s: float = 0.0) -> None:
        self.manifest = SimpleNamespace(
            name="level",
            preprocessing=PASS_THROUGH,
            encoder=SimpleNamespace(n_channels=2, window_samples=WINDOW),
            decision=DecisionSpec(debounce_hops=2),
            gestures=(SimpleNamespace(name="Low"), SimpleNamespace(name="High")),
        )
        self.windows: list[np.ndarray] = []
        self._duration_s = duration_s

    def preprocessor(self, level_uv: np.ndarray | None = None) -> Preprocessor:
        return Preprocessor(PASS_THROUGH, 2, level_uv)

    def recognise(self, window: np.ndarray) -> Recognition:
        self.windows.append(window)
        time.sleep(self._duration_s)
        return Recognition(Vote(int(window.mean() > 0.5), 1.0, 0.9), np.zeros(1, np.float32))


class ListSource:
    """A source that plays blocks as fast as they are taken, then ends or fails."""

    def __init__(self, blocks: list[Block], failure: Exception | None = None, pause_s: float = 0.0) -> None:
        self.info, self.counts = INFO, LinkCounts()
        self._blocks, self._failure, self._pause_s = blocks, failure, pause_s

    def __enter__(self) -> "ListSource":
        return self

    def __exit__(self, *exc: object) -> None: ...

    def __iter__(self) -> Iterator[Block]:
        for block in self._blocks:
            time.sleep(self._pause_s)
            yield replace(block, host_t_s=time.monotonic())
        if self._failure:
            raise self._failure


def cut(signal: np.ndarray, size: int = 10, first: int = 0, boot_id: int = 0) -> list[Block]:
    """A signal, (n_samples,), as blocks of two equal channels."""
    both = np.repeat(signal[:, None], 2, axis=1).astype(np.float32)
    starts = range(0, len(signal), size)
    return [
        Block(both[s : s + size], first + s, (first + s) / RATE_HZ, time.monotonic(), boot_id=boot_id) for s in starts
    ]


def play(blocks: list[Block], engine: LiveEngine) -> list[Decision]:
    decisions = []
    for block in blocks:
        if engine.ingest(block):
            while (decision := engine.step(newest=False)) is not None:
                decisions.append(decision)
    return decisions


def steps(n_low: int, n_high: int) -> np.ndarray:
    return np.concatenate([np.zeros(n_low), np.ones(n_high)])


def without_delay(decisions: list[Decision]) -> list[Decision]:
    return [replace(decision, delay_ms=0.0) for decision in decisions]


def test_windows_end_at_whole_hops_and_hold_the_samples_before() -> None:
    recogniser = LevelRecogniser()
    signal = np.random.default_rng(0).normal(size=1000)
    decisions = play(cut(signal), LiveEngine(recogniser, INFO, HOP_MS))
    assert [d.sample_index for d in decisions] == list(range(200, 1001, 50))
    for decision, window in zip(decisions, recogniser.windows, strict=True):
        assert np.array_equal(window[0], signal[decision.sample_index - WINDOW : decision.sample_index].astype("f4"))


def test_a_gesture_is_decided_after_the_debounce() -> None:
    decisions = play(cut(steps(600, 600)), LiveEngine(LevelRecogniser(), INFO, HOP_MS))
    changes = [(d.sample_index, d.gesture) for d in decisions if d.changed]
    # more than half of the window is high from 750 on; the second such window decides
    assert changes == [(250, "Low"), (800, "High")]


@pytest.mark.parametrize("size", [1, 7, 64, 500])
def test_decisions_do_not_depend_on_the_size_of_blocks(size: int) -> None:
    signal = steps(700, 1300)
    expected = play(cut(signal), LiveEngine(LevelRecogniser(), INFO, HOP_MS))
    got = play(cut(signal, size), LiveEngine(LevelRecogniser(), INFO, HOP_MS))
    assert without_delay(got) == without_delay(expected)


def test_a_short_gap_is_bridged_by_a_line_and_flagged() -> None:
    recogniser = LevelRecogniser()
    signal = np.arange(1000.0)
    blocks = [block for block in cut(signal) if block.sample_index != 500]  # 10 ms lost
    decisions = play(blocks, LiveEngine(recogniser, INFO, HOP_MS))
    assert np.allclose(recogniser.windows[-1][0], signal[-WINDOW:])
    assert np.allclose(recogniser.windows[8][0], signal[400:600])  # a ramp is its own interpolation
    assert [d.sample_index for d in decisions if d.interpolated] == [550, 600, 650, 700]


def test_after_a_longer_gap_decisions_wait_for_a_clean_window() -> None:
    engine = LiveEngine(LevelRecogniser(), INFO, HOP_MS)
    blocks = [block for block in cut(np.ones(2000)) if not 500 <= block.sample_index < 800]
    decisions = play(blocks, engine)
    ends = [d.sample_index for d in decisions]
    assert [end for end in ends if 500 < end < 1050] == [1000]
    assert engine.n_suppressed_hops == len(range(550, 1000, 50))
    assert decisions[-1].gesture == "High"
    assert engine.n_resets == 0


@pytest.mark.parametrize("restart", ["gap", "boot"])
def test_a_long_loss_or_a_restarted_device_starts_anew(restart: str) -> None:
    engine = LiveEngine(LevelRecogniser(), INFO, HOP_MS)
    second = cut(np.ones(400), first=9000) if restart == "gap" else cut(np.ones(400), first=0, boot_id=7)
    decisions = play(cut(np.ones(600)) + second, engine)
    after = decisions[9:]
    assert engine.n_resets == 1
    assert [d.sample_index - second[0].sample_index for d in after] == [200, 250, 300, 350, 400]
    assert [d.gesture for d in after] == [UNKNOWN, "High", "High", "High", "High"]


def test_slow_inference_skips_hops_and_takes_the_newest() -> None:
    blocks = cut(np.ones(6000))
    live = Live(ListSource(blocks, pause_s=0.0005), LevelRecogniser(duration_s=0.03), HOP_MS)
    decisions = list(live)
    ends = [d.sample_index for d in decisions]
    assert live.engine.n_skipped_hops > 0
    assert len(ends) + live.engine.n_skipped_hops == len(range(200, 6001, 50))
    assert ends == sorted(ends)
    assert ends[-1] == 6000


def test_what_the_source_raises_reaches_the_one_who_iterates_after_the_last_decision() -> None:
    live = Live(ListSource(cut(np.ones(300)), LinkTimeout("the band went silent")), LevelRecogniser(), HOP_MS)
    seen = []
    with pytest.raises(LinkTimeout, match="went silent"):
        seen.extend(iter_into(live, seen))
    assert seen[-1].sample_index == 300


def iter_into(live: Live, seen: list[Decision]) -> list[Decision]:
    for decision in live:
        seen.append(decision)
    return []


def test_leaving_the_loop_ends_the_reader() -> None:
    live = Live(ListSource(cut(np.ones(100_000)), pause_s=0.0005), LevelRecogniser(), HOP_MS)
    decisions = iter(live)
    next(decisions)
    decisions.close()
    assert live.stopped


def test_a_limit_in_seconds_is_kept_in_samples() -> None:
    decisions = list(Live(ListSource(cut(np.ones(5000)), pause_s=0.0005), LevelRecogniser(), HOP_MS, seconds=1.0))
    assert decisions[-1].sample_index == 1000


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (replace(INFO, n_channels=8), "test band has 8 channels, but level was trained on 2"),
        (replace(INFO, sample_rate_hz=250.0), "test band samples at 250 Hz, but level was trained at 1000 Hz"),
    ],
)
def test_another_band_is_refused(info: StreamInfo, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LiveEngine(LevelRecogniser(), info)
