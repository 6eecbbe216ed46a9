"""The live loop with a recogniser that reads the answer from the signal, so that every decision is predictable."""

import gc
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from cpep_edge.blocks import Block
from cpep_edge.decisions import Decision
from cpep_edge.donning import Donning
from cpep_edge.errors import ConfigError, LinkTimeout
from cpep_edge.live_loop import KEPT_S, Live, LiveEngine
from cpep_edge.manifest import DecisionSpec
from cpep_edge.names import UNKNOWN
from tests.cpep_edge.fake_stream import HOP_MS, INFO, WINDOW, LevelRecogniser, ListSource, cut, play, without_delay


def steps(n_low: int, n_high: int) -> np.ndarray:
    return np.concatenate([np.zeros(n_low), np.ones(n_high)])


def test_windows_end_at_whole_hops_and_hold_the_samples_before():
    recogniser = LevelRecogniser()
    signal = np.random.default_rng(0).normal(size=1000)
    decisions = play(cut(signal), LiveEngine(recogniser, INFO, hop_ms=HOP_MS))
    assert [d.sample_index for d in decisions] == list(range(200, 1001, 50))
    for decision, window in zip(decisions, recogniser.windows, strict=True):
        assert np.array_equal(window[0], signal[decision.sample_index - WINDOW : decision.sample_index].astype("f4"))


def test_a_gesture_is_decided_once_the_evidence_suffices():
    decisions = play(cut(steps(600, 600)), LiveEngine(LevelRecogniser(), INFO, hop_ms=HOP_MS))
    changes = [(d.sample_index, d.gesture) for d in decisions if d.changed]
    # from 750 on, more than half of the window is high; the third such window is enough evidence
    assert changes == [(300, "Low"), (850, "High")]


@pytest.mark.parametrize("size", [1, 7, 64, 500])
def test_decisions_do_not_depend_on_the_size_of_blocks(size):
    signal = steps(700, 1300)
    expected = play(cut(signal), LiveEngine(LevelRecogniser(), INFO, hop_ms=HOP_MS))
    got = play(cut(signal, size), LiveEngine(LevelRecogniser(), INFO, hop_ms=HOP_MS))
    assert without_delay(got) == without_delay(expected)


def test_what_a_dead_electrode_picks_up_is_no_sign_of_movement():
    spec = DecisionSpec(hop_ms=HOP_MS, rest_gesture="Low", rest_level=0.5)
    blocks = cut(np.full(600, 0.1))
    for block in blocks:
        block.samples_uv[:, 1] = 90
    for dead, at_rest in (((), False), ((1,), True)):
        decisions = play(blocks, LiveEngine(LevelRecogniser(), INFO, donning=Donning(dead=dead), spec=spec))
        assert {decision.at_rest for decision in decisions} == {at_rest}


def test_a_short_gap_is_bridged_by_a_line_and_flagged():
    recogniser = LevelRecogniser()
    signal = np.arange(1000.0)
    blocks = [block for block in cut(signal) if block.sample_index != 500]  # 10 ms lost
    decisions = play(blocks, LiveEngine(recogniser, INFO, hop_ms=HOP_MS))
    assert np.allclose(recogniser.windows[-1][0], signal[-WINDOW:])
    assert np.allclose(recogniser.windows[8][0], signal[400:600])  # interpolating a ramp gives the ramp
    assert [d.sample_index for d in decisions if d.interpolated] == [550, 600, 650, 700]


def test_after_a_longer_gap_decisions_wait_for_a_clean_window():
    engine = LiveEngine(LevelRecogniser(), INFO, hop_ms=HOP_MS)
    blocks = [block for block in cut(np.ones(2000)) if not 500 <= block.sample_index < 800]
    decisions = play(blocks, engine)
    ends = [d.sample_index for d in decisions]
    assert [end for end in ends if 500 < end < 1050] == [1000]
    assert engine.n_suppressed_hops == len(range(550, 1000, 50))
    assert decisions[-1].gesture == "High"
    assert engine.n_resets == 0


@pytest.mark.parametrize("restart", ["gap", "boot"])
def test_a_long_loss_or_a_restarted_device_starts_anew(restart):
    engine = LiveEngine(LevelRecogniser(), INFO, hop_ms=HOP_MS)
    second = cut(np.ones(400), first=9000) if restart == "gap" else cut(np.ones(400), first=0, boot_id=7)
    decisions = play(cut(np.ones(600)) + second, engine)
    after = decisions[9:]
    assert engine.n_resets == 1
    assert [d.sample_index - second[0].sample_index for d in after] == [200, 250, 300, 350, 400]
    assert [d.gesture for d in after] == [UNKNOWN, UNKNOWN, "High", "High", "High"]


def test_slow_inference_skips_hops_and_takes_the_newest():
    blocks = cut(np.ones(6000))
    live = Live(ListSource(blocks, pause_s=0.0005), LevelRecogniser(duration_s=0.03), hop_ms=HOP_MS)
    decisions = list(live)
    ends = [d.sample_index for d in decisions]
    assert live.engine.n_skipped_hops > 0
    assert len(ends) + live.engine.n_skipped_hops == len(range(200, 6001, 50))
    assert ends == sorted(ends)
    assert ends[-1] == 6000


def test_what_the_source_raises_reaches_the_one_who_iterates_after_the_last_decision():
    live = Live(ListSource(cut(np.ones(300)), LinkTimeout("the band went silent")), LevelRecogniser(), hop_ms=HOP_MS)
    seen = []
    with pytest.raises(LinkTimeout, match="went silent"):
        for decision in live:
            seen.append(decision)
    assert seen[-1].sample_index == 300


def test_leaving_the_loop_ends_the_reader():
    live = Live(ListSource(cut(np.ones(100_000)), pause_s=0.0005), LevelRecogniser(), hop_ms=HOP_MS)
    decisions = iter(live)
    next(decisions)
    decisions.close()
    assert live.stopped


def test_a_limit_in_seconds_is_kept_in_samples():
    decisions = list(
        Live(ListSource(cut(np.ones(5000)), pause_s=0.0005), LevelRecogniser(), hop_ms=HOP_MS, seconds=1.0)
    )
    assert decisions[-1].sample_index == 1000


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (replace(INFO, n_channels=8), "test band has 8 channels, but level was trained on 2"),
        (replace(INFO, sample_rate_hz=250.0), "test band samples at 250 Hz, but level was trained at 1000 Hz"),
    ],
)
def test_another_band_is_refused(info, said):
    with pytest.raises(ConfigError, match=said):
        LiveEngine(LevelRecogniser(), info)


def test_the_encoder_is_not_asked_while_the_muscles_rest():
    spec = DecisionSpec(evidence_ms=25.0, hop_ms=HOP_MS, rest_gesture="Low", rest_level=0.3)
    recogniser = LevelRecogniser(spec=spec)
    engine = LiveEngine(recogniser, INFO)
    decisions = play(cut(steps(600, 600)), engine)
    resting = [d.sample_index for d in decisions if d.at_rest]
    assert resting == list(range(200, 601, 50))  # at 650 half of the last 100 ms is loud
    assert engine.n_rest_hops == len(resting)
    assert len(recogniser.windows) == len(decisions) - len(resting)
    assert {d.gesture for d in decisions if d.at_rest} == {"Low"}


def test_without_a_head_there_is_nothing_to_adapt():
    with pytest.raises(ConfigError, match="level cannot adapt while it is worn: it has no head that answers"):
        LiveEngine(LevelRecogniser(), INFO, spec=DecisionSpec(hop_ms=HOP_MS, adapt=True))


def test_a_band_that_was_turned_is_turned_back():
    recogniser = LevelRecogniser()
    signal = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    engine = LiveEngine(recogniser, INFO, hop_ms=HOP_MS, donning=Donning(order=(1, 0)))
    play([Block(np.roll(signal, 1, axis=1), 0, 0.0, 0.0)], engine)
    assert np.array_equal(recogniser.windows[-1], signal[-WINDOW:].T)


def test_windows_that_nobody_takes_do_not_pile_up():
    engine = LiveEngine(LevelRecogniser(), INFO, hop_ms=HOP_MS)
    for block in cut(np.ones(50_000)):
        engine.ingest(block)
    left = []
    while engine.next_due is not None:
        left.append(engine.step(newest=False))
    assert len(left) * HOP_MS <= 1e3 * KEPT_S + 2 * WINDOW
    n_decided = sum(decision is not None for decision in left)
    assert n_decided + engine.n_skipped_hops == len(range(200, 50_001, 50))


def test_a_long_run_holds_no_more_memory_than_a_short_one():
    engine = LiveEngine(LevelRecogniser(), INFO, hop_ms=HOP_MS)
    engine._recogniser.windows = type("Forgetful", (list,), {"append": lambda self, window: None})()
    blocks = cut(np.random.default_rng(0).normal(size=10_000))
    held = []
    tracemalloc.start()
    for number in range(4):
        play([replace(block, sample_index=block.sample_index + number * 10_000) for block in blocks], engine)
        gc.collect()
        held.append(traced_bytes())
    tracemalloc.stop()
    assert held[3] < held[1] + 8_000  # bytes; the samples in between had 160 000


def traced_bytes() -> int:
    """The memory that the loop holds, without that of other threads of the test runner."""
    ours = tracemalloc.Filter(True, "*/cpep_edge/*")
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)


def test_a_view_sees_the_newest_samples_and_only_those_it_has_not_seen():
    engine = LiveEngine(LevelRecogniser(), INFO, hop_ms=HOP_MS)
    signal = np.random.default_rng(0).normal(size=500).astype(np.float32)
    for block in cut(signal):
        engine.ingest(block)
    end, seen = engine.signal(after_index=450, n_most=1000)
    assert (end, seen.shape) == (500, (2, 50))
    assert np.array_equal(seen[0], signal[450:])
    assert engine.signal(500, 1000)[1].shape == (2, 0)
    assert engine.signal(0, 30)[1].shape == (2, 30)


def test_a_tap_sees_every_block_and_every_decision():
    class Tap:
        def __init__(self) -> None:
            self.blocks: list[Block] = []
            self.decisions: list[Decision] = []

        def block(self, block: Block) -> None:
            self.blocks.append(block)

        def decision(self, decision: Decision) -> None:
            self.decisions.append(decision)

    tap, blocks, recogniser = Tap(), cut(np.ones(1000)), LevelRecogniser()
    decisions = list(Live(ListSource(blocks, recogniser=recogniser), recogniser, hop_ms=HOP_MS, taps=[tap]))
    assert [decision.sample_index for decision in decisions] == list(range(200, 1001, 50))
    assert [block.sample_index for block in tap.blocks] == [block.sample_index for block in blocks]
    assert tap.decisions == decisions
