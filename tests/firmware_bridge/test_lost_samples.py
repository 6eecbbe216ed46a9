"""The ledger of a stream: every sample is passed on once or counted as lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpep_bridge.lost_samples import StreamLedger

FRAME_SAMPLES = 10


def deliver(ledger: StreamLedger, seqs: list[int]) -> list[int]:
    """The sample indices that the ledger accepts for frames delivered in this order."""
    indices = [ledger.accept(seq & 0xFFFF, seq * FRAME_SAMPLES & 0xFFFF_FFFF, FRAME_SAMPLES) for seq in seqs]
    return [index for index in indices if index is not None]


@given(st.lists(st.sampled_from(["ok", "lost", "twice", "late"]), max_size=200), st.randoms(use_true_random=False))
def test_every_sample_is_passed_on_once_or_lost(fates, rng):
    order: list[int] = []
    late: list[int] = []
    for seq, fate in enumerate(fates):
        order += {"ok": [seq], "lost": [], "twice": [seq, seq], "late": []}[fate]
        late += [seq] if fate == "late" else []
        if late and fate == "ok" and rng.random() < 0.5:
            order.append(late.pop(0))
    ledger = StreamLedger()

    accepted = deliver(ledger, order)
    ledger.finish(len(fates) & 0xFFFF, len(fates) * FRAME_SAMPLES)

    assert accepted == sorted(set(accepted))
    assert len(accepted) * FRAME_SAMPLES + ledger.lost_samples == len(fates) * FRAME_SAMPLES
    assert len(accepted) + ledger.lost_frames == len(fates)
    assert len(accepted) + ledger.late_frames + ledger.duplicate_frames == len(order)
    assert ledger.duplicate_frames == fates.count("twice")


@pytest.mark.parametrize(
    ("seqs", "accepted", "n_lost", "n_late", "n_twice"),
    [
        ([0, 2, 1, 3], [0, 20, 30], 1, 1, 0),  # a late frame stays lost
        ([0, 1, 1, 0, 2], [0, 10, 20], 0, 0, 2),  # a duplicate is not a loss
        ([3], [30], 3, 0, 0),  # losses before the first frame count
        ([0, 200_001], [0, 2_000_010], 200_000, 0, 0),  # a loss longer than the frame counter
    ],
)
def test_what_is_late_twice_or_missing_is_counted_as_that(seqs, accepted, n_lost, n_late, n_twice):
    ledger = StreamLedger()

    assert deliver(ledger, seqs) == accepted
    assert (ledger.lost_frames, ledger.lost_samples) == (n_lost, FRAME_SAMPLES * n_lost)
    assert (ledger.late_frames, ledger.duplicate_frames) == (n_late, n_twice)


def test_both_counters_unwrap_across_their_ends():
    ledger, n_samples, n_frames = StreamLedger(), 70_000, 140_000  # wraps u16 twice and u32 twice

    indices = [ledger.accept(i & 0xFFFF, i * n_samples & 0xFFFF_FFFF, n_samples) for i in range(n_frames) if i % 1_000]

    assert indices == [i * n_samples for i in range(n_frames) if i % 1_000]
    assert (ledger.lost_frames, ledger.lost_samples) == (140, 140 * n_samples)


def test_samples_that_the_converter_missed_are_lost_without_a_lost_frame():
    ledger = StreamLedger()

    assert [ledger.accept(0, 0, 10), ledger.accept(1, 25, 10)] == [0, 25]
    assert (ledger.lost_frames, ledger.lost_samples) == (0, 15)


def test_a_new_stream_starts_at_zero_and_keeps_the_counts():
    ledger = StreamLedger()
    deliver(ledger, [0, 2])
    ledger.restart()

    assert deliver(ledger, [0, 1]) == [0, 10]
    assert ledger.lost_frames == 1
