"""Judging a personal head by leaving repetitions out, and choosing thresholds from the result."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from cpep_edge.head import Head, fit_head
from cpep_edge.left_out import Judgement, LeftOut, choose_decision, interval, judge, leave_out
from cpep_edge.manifest import DecisionSpec
from cpep_edge.personal import Windows

D, A_REPETITION = 6, 30
NAMES = ("A", "B", "C")


def windows_of(
    *, apart: float, of_repetition: float, rounds: int = 3, seed: int = 0, same: tuple[int, int] | None = None
) -> Windows:
    """Gaussian windows.

    apart: distance of each gesture's mean from the origin
    of_repetition: SD of the repetitions' means around their gesture's
    same: two gestures with the same mean
    """
    rng = np.random.default_rng(seed)
    means = apart * np.eye(len(NAMES), D)
    if same is not None:
        means[same[1]] = means[same[0]]
    gesture = np.tile(np.repeat(np.arange(len(NAMES)), A_REPETITION), rounds)
    repetition = np.repeat(np.arange(len(NAMES) * rounds), A_REPETITION)
    own = of_repetition * rng.normal(size=(len(NAMES) * rounds, D))
    x = means[gesture] + own[repetition] + rng.normal(size=(len(gesture), D))
    return Windows(x.astype(np.float32), gesture, repetition, repetition // len(NAMES))


def judged(windows: Windows) -> Judgement:
    found = judge(windows, NAMES)
    return found[0]


def held_out(windows: Windows) -> LeftOut:
    held = leave_out(windows, len(NAMES))
    assert held is not None
    return held


def test_windows_that_only_their_own_repetition_gives_away_are_judged_at_chance():
    accuracies = [judged(windows_of(apart=0, of_repetition=6, seed=seed)).accuracy for seed in range(6)]
    assert np.mean(accuracies) < 0.5  # chance is a third
    x = windows_of(apart=0, of_repetition=6)
    inside = fit_head(x.x, x.gesture)
    assert np.mean(inside.shares(x.x).argmax(axis=1) == x.gesture) > 0.8  # without leaving any out


def test_a_head_reads_what_stays_when_the_band_turns_a_little():
    """One input separates the gestures best, but changes when the band is turned."""
    windows = windows_of(apart=8, of_repetition=0.3)
    turned_x = windows.x.copy()
    turned_x[:, 0] = -turned_x[:, 0]
    kept = replace(windows, x=np.concatenate([windows.x, windows.x / 2], axis=1))
    turned_too = replace(kept, turned=(np.concatenate([turned_x, windows.x / 2], axis=1),))
    asked = turned_too.turned[0]

    def right(head: Head) -> float:
        return float(np.mean(head.shares(asked).argmax(axis=1) == windows.gesture))

    assert right(kept.fit()) < 0.8
    assert right(turned_too.fit()) > 0.95


def test_a_gesture_that_the_other_rounds_lack_is_left_out_of_their_heads():
    windows = windows_of(apart=8, of_repetition=0.3)
    once = ~((windows.gesture == 1) & (windows.round > 0))
    windows = Windows(windows.x[once], windows.gesture[once], windows.repetition[once], windows.round[once])
    held = held_out(replace(windows, turned=(windows.x,)))
    said, known = held.likelihood.argmax(axis=1), windows.gesture != 1
    assert np.mean(said[known] == windows.gesture[known]) > 0.95


def test_each_round_is_judged_by_a_head_that_was_fitted_on_the_others():
    windows = windows_of(apart=3, of_repetition=0.5)
    held = held_out(windows)
    for number in range(3):
        mine = windows.round == number
        head = fit_head(windows.x[~mine], windows.gesture[~mine])
        assert np.allclose(
            held.likelihood[mine], head.log_likelihood(head.project(windows.x[mine])), rtol=1e-4, atol=1e-3
        )


def test_the_interval_is_wilson_s():
    for right, n in ((9, 10), (45, 45), (0, 7), (120, 333)):
        theirs = binomtest(right, n).proportion_ci(method="wilson")
        assert interval(right / n, n) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_the_interval_holds_what_further_repetitions_read():
    inside = 0
    for seed in range(40):
        windows = windows_of(apart=2, of_repetition=0.8, rounds=3, seed=seed)
        judgement = judged(windows)
        more = windows_of(apart=2, of_repetition=0.8, rounds=60, seed=1000 + seed)
        head = fit_head(windows.x, windows.gesture)
        later = np.mean(head.shares(more.x).argmax(axis=1) == more.gesture)
        inside += judgement.low <= later <= judgement.high
    assert inside >= 32  # 95 % of 40 is 38; the judged heads had one repetition less


def test_two_gestures_that_are_one_movement_are_named_and_leaving_one_out_helps():
    judgement = judged(windows_of(apart=4, of_repetition=0.3, same=(0, 2)))
    assert judgement.same == (("A", "C"),)
    assert set(judgement.confused[:2]) == {"A", "C"}
    assert judgement.without["C"] > 0.95 > judgement.without["B"]


def test_what_one_repetition_more_brings_is_about_what_it_brings():
    promised, kept = [], []
    for seed in range(12):
        windows = windows_of(apart=2.2, of_repetition=1.0, rounds=5, seed=seed)
        four = windows.round < 4
        first = Windows(windows.x[four], windows.gesture[four], windows.repetition[four], windows.round[four])
        judgement = judged(first)
        asked = windows_of(apart=2.2, of_repetition=1.0, rounds=40, seed=500 + seed)
        head = fit_head(windows.x, windows.gesture)
        if judgement.with_one_more is not None:
            promised.append(judgement.with_one_more)
            kept.append(np.mean(head.shares(asked.x).argmax(axis=1) == asked.gesture))
    assert np.mean(promised) == pytest.approx(np.mean(kept), abs=0.06)


def chosen(held: LeftOut, windows: Windows) -> tuple[DecisionSpec, tuple[str, ...]]:
    head = fit_head(windows.x, windows.gesture)
    spec, _, judgement = choose_decision(held, head, judged(windows), DecisionSpec(hop_ms=50), 20)
    return spec, judgement.cannot_win


def test_rejection_leaves_every_gesture_most_of_its_windows():
    windows = windows_of(apart=6, of_repetition=0.2)
    held = held_out(windows)
    likelihood = held.likelihood - held.likelihood.max(axis=1, keepdims=True)
    unsure = windows.gesture == 2  # always right, but by a small margin
    likelihood[unsure] = np.where(np.arange(len(NAMES)) == 2, 0.0, -0.25)
    spec, cannot_win = chosen(LeftOut(windows, likelihood.astype(np.float32), held.typicality), windows)
    assert cannot_win == ()
    assert spec.min_vote_share < 0.9  # at .9 only the two other gestures would pass


def test_rejection_is_no_stricter_than_errors_ask_for():
    windows = windows_of(apart=8, of_repetition=0.1)
    held = held_out(windows)
    spec, _ = chosen(held, windows)
    assert spec.min_vote_share < 0.5  # although all observed shares are about one
    assert spec.evidence_ms <= 100


def test_a_gesture_that_cannot_win_is_named():
    windows = windows_of(apart=6, of_repetition=0.2)
    held = held_out(windows)
    likelihood = held.likelihood.copy()
    likelihood[windows.gesture == 1] = np.where(np.arange(len(NAMES)) == 0, 0.0, -9.0)  # always recognised as A
    _, cannot_win = chosen(LeftOut(windows, likelihood.astype(np.float32), held.typicality), windows)
    assert cannot_win == ("B",)


def test_one_repetition_of_each_is_judged_by_its_halves():
    judgement = judged(windows_of(apart=5, of_repetition=0.2, rounds=1))
    assert judgement.accuracy > 0.9
    assert judgement.n_repetitions == 3
