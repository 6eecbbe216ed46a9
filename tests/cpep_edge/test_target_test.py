"""The games, played by wearers who are perfect, slow, wrong or absent."""

import math
from collections.abc import Callable

import pytest

from cpep_edge.names import shown_name
from cpep_edge.target_test import Fitts, ReachAndHold, axes_of

HOP_S = 0.025
GESTURES = ("Fist", "Open", "Point")
AXES = (("WristExtension", "WristFlexion"), ("Radial", "Ulnar"))


def play(game: ReachAndHold | Fitts, makes: Callable[[float], str], most_s: float = 600.0) -> float:
    """Play a game with a wearer's gestures; returns its duration in seconds."""
    hops = 0
    while game.phase != "done":
        assert hops * HOP_S < most_s
        game.feed(100.0 + hops * HOP_S, makes(hops * HOP_S))
        hops += 1
    return hops * HOP_S


def delayed(game: ReachAndHold, delay_s: float) -> Callable[[float], str]:
    """A wearer who makes the right gesture after a delay, and otherwise rests."""
    asked_s: list[float] = []

    def makes(now_s: float) -> str:
        if game.phase != "reach":
            asked_s.clear()
            return "Rest"
        asked_s.append(now_s)
        return game.asked if now_s - asked_s[0] >= delay_s else "Rest"

    return makes


@pytest.mark.parametrize("delay_s", [0.0, 0.5, 2.0])
def test_a_wearer_who_makes_all_that_is_asked_hits_all_of_it_after_that_delay_and_the_hold(delay_s):
    game = ReachAndHold(GESTURES, "Rest", rounds=3, seed=1, hold_s=0.8)
    play(game, delayed(game, delay_s))
    score = game.score
    assert (score.n_asked, score.n_hits, score.n_false) == (9, 9, 0)
    assert score.median_s == pytest.approx(delay_s + 0.8, abs=3 * HOP_S)


def test_every_gesture_is_asked_for_equally_often_and_in_another_order_for_another_seed():
    def order(seed: int) -> list[str]:
        game, asked = ReachAndHold(GESTURES, "Rest", rounds=4, seed=seed), []

        def makes(now_s: float) -> str:
            if len(asked) == game.n_done:
                asked.append(game.asked)
            return "Rest"

        play(game, makes)
        return asked

    assert sorted(order(1)) == sorted(GESTURES * 4)
    assert order(1) != order(2)


def test_who_does_nothing_misses_all_and_makes_nothing_false():
    game = ReachAndHold(GESTURES, "Rest", rounds=1, seed=1, rest_s=1.0, reach_s=2.0)
    assert play(game, lambda now_s: "Rest") == pytest.approx(3 * (1.0 + 2.0), abs=6 * HOP_S)
    assert (game.score.n_hits, game.score.n_false, game.score.median_s) == (0, 0, None)


def test_a_gesture_that_is_let_go_too_early_is_no_hit_and_each_wrong_one_counts_once():
    game = ReachAndHold(("Fist",), "Rest", rounds=1, seed=1, hold_s=0.8, reach_s=4.0)
    early = ("Fist", "Rest", "Open", "Open", "unknown", "Open", "Fist", "Rest")  # half a second each
    play(game, lambda now_s: "Rest" if game.phase == "rest" else early[int((now_s - 1.5) / 0.5) % 8])
    assert (game.score.n_hits, game.score.median_s, game.score.n_false) == (0, None, 2)


def test_opposites_are_found_by_name_and_fewer_than_four_gestures_make_no_plane():
    assert axes_of(("Rest", "Ulnar", "WristFlexion", "Radial", "WristExtension"), shown_name) == AXES
    assert axes_of(("Fist", "Open", "Point"), shown_name) == (("Open", "Fist"),)
    assert axes_of(("Fist", "Point"), shown_name) == ()


def steered(game: Fitts) -> Callable[[float], str]:
    """A wearer who moves to the target along one axis, then along the other, and stops inside."""

    def makes(now_s: float) -> str:
        dx, dy = game.target.x - game.cursor[0], game.target.y - game.cursor[1]
        if abs(dx) > 0.02:
            return AXES[0][0] if dx > 0 else AXES[0][1]
        if abs(dy) > 0.02:
            return AXES[1][0] if dy > 0 else AXES[1][1]
        return "Rest"

    return makes


def test_a_perfect_wearer_reaches_all_targets_at_the_throughput_that_the_speed_allows():
    game = Fitts(AXES, rounds=3, seed=2)
    bits = []

    def makes(now_s: float) -> str:
        if len(bits) == game.n_done:
            target = game.target
            # along x to the target's x, then along y to the edge of its disc, at the game's speed
            way = abs(target.x) + abs(target.y) - target.radius
            bits.append(math.log2(math.hypot(target.x, target.y) / (2 * target.radius) + 1) / (way / 0.5))
        return steered(game)(now_s)

    play(game, makes)
    score = game.score
    assert (score.n_asked, score.n_hits, score.n_overshoots) == (12, 12, 0)
    assert score.throughput_bit_s == pytest.approx(sum(bits) / 12, rel=0.15)
    assert 1 / math.sqrt(2) <= score.path_efficiency <= 1  # the longest path is along two sides of a square


def test_who_runs_through_the_targets_overshoots_and_reaches_none():
    game = Fitts(AXES, rounds=20, seed=2, target_s=4.0)
    play(game, lambda now_s: "WristExtension")
    assert game.score.n_hits == 0
    assert game.score.n_overshoots > 0  # some of the eighty targets are in its path
