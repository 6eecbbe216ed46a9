"""Decisions for known votes: what is decided and when, and what is not."""

import itertools
import math
import re

import numpy as np
import pytest

from cpep_edge.decisions import AWAKE_S, DWELL_S, WAKE_WITHIN_S, Decider, at_risk, choose, with_gates
from cpep_edge.errors import ConfigError
from cpep_edge.manifest import DecisionSpec, OperatingPoint
from cpep_edge.names import UNKNOWN
from cpep_edge.pose_index import Vote

GESTURES = ("Rest", "Fist", "Open", "Point")
HOP_MS = 25.0
SPEC = DecisionSpec(hop_ms=HOP_MS, evidence_ms=75.0, rest_gesture="Rest", release_ms=0.0)


def vote(gesture: str, nats: float = 9.0) -> Vote:
    """A head's vote for a gesture that is `nats` nats likelier than any other."""
    share = 1 / (1 + (len(GESTURES) - 1) * math.exp(-nats))
    shares = [share if name == gesture else share * math.exp(-nats) for name in GESTURES]
    return Vote(GESTURES.index(gesture), share, 0.9, tuple(shares))


def follow(spec: DecisionSpec, *runs: tuple[str, float]) -> list[tuple[int, str]]:
    """The decisions and their hops; runs: gestures and their durations in seconds, "" for quiet windows."""
    decider, found = Decider(spec, GESTURES), []
    hops = [gesture for gesture, seconds in runs for _ in range(round(seconds * 1e3 / spec.hop_ms))]
    for hop, gesture in enumerate(hops):
        if decider.update(vote(gesture) if gesture else None):
            found.append((hop, decider.gesture))
    return found


def active(spec: DecisionSpec, *runs: tuple[str, float]) -> list[str]:
    return [gesture for _, gesture in follow(spec, *runs) if gesture not in ("Rest", UNKNOWN)]


SLOW = SPEC.model_copy(update={"hop_ms": 5_000.0, "evidence_ms": 20_000.0})  # changes of state between hops are likely


def exact_beliefs(votes: list[Vote], spec: DecisionSpec) -> np.ndarray:
    """The belief of the same filter, without recursion: Bayes' rule, summed over all paths of states."""
    n = len(GESTURES) + 1
    stay = math.exp(-spec.hop_ms / 1e3 / DWELL_S)
    total = np.zeros(n)
    for path in itertools.product(range(n), repeat=len(votes)):
        probability, before = 1.0, GESTURES.index("Rest")
        for state, one in zip(path, votes, strict=True):
            probability *= stay if state == before else (1 - stay) / (n - 1)
            said = -math.inf if state == n - 1 else math.log(one.shares[state] / max(one.shares))
            probability *= math.exp(max(said * spec.hop_ms / spec.evidence_ms, -4.0))
            before = state
        total[path[-1]] += probability
    return total / total.sum()


@pytest.mark.parametrize("spec", [SPEC, SLOW], ids=["SPEC", "SLOW"])
def test_a_decision_falls_at_the_hop_at_which_bayes_is_sure_enough(spec):
    rng = np.random.default_rng(0)
    for _ in range(5):
        lead = GESTURES[int(rng.integers(1, 4))]
        votes = [vote(lead, nats) for nats in rng.uniform(2, 15, 5)]
        beliefs = [exact_beliefs(votes[: n + 1], spec)[GESTURES.index(lead)] for n in range(5)]
        expected = next((n for n, belief in enumerate(beliefs) if belief >= spec.min_belief), None)
        decider = Decider(spec, GESTURES)
        got = next((n for n, one in enumerate(votes) if decider.update(one) and decider.gesture == lead), None)
        assert got == expected


def test_clear_movement_is_decided_on_sooner_than_doubtful_and_a_flicker_never():
    def hops_until_open(nats: float) -> int:
        decider = Decider(SPEC, GESTURES)
        return next(n for n in range(1000) if decider.update(vote("Open", nats)) and decider.gesture == "Open")

    assert hops_until_open(12) < hops_until_open(4) < hops_until_open(1)
    assert active(SPEC, *[("Rest", 0.2), ("Fist", 0.025), ("Open", 0.025), ("Point", 0.025)] * 20) == []


def test_thresholds_guard_the_way_into_a_gesture_and_not_the_stay_in_it():
    doubtful = Vote(GESTURES.index("Fist"), 0.9, 0.1, vote("Fist").shares)
    spec = SPEC.model_copy(update={"min_similarity": 0.5})
    decider, said = Decider(spec, GESTURES), []
    for one in [*[doubtful] * 40, *[vote("Fist")] * 20, *[doubtful] * 40, *[vote("Rest")] * 20, *[doubtful] * 40]:
        decider.update(one)
        said.append(decider.gesture)
    assert "Fist" not in said[:40]
    assert set(said[60:100]) == {"Fist"}
    assert "Fist" not in said[120:]


def test_the_same_signal_is_decided_on_after_as_long_whatever_the_hop():
    after_ms = {}
    for hop_ms in (5.0, 12.5, 25.0):
        decider = Decider(SPEC, GESTURES, hop_ms)
        hops = next(n for n in range(1, 500) if decider.update(vote("Fist", 9.0)) and decider.gesture == "Fist")
        after_ms[hop_ms] = hops * hop_ms
    assert max(after_ms.values()) - min(after_ms.values()) <= 25


def test_a_stream_begins_at_rest_a_change_is_reported_once_and_reset_starts_from_unknown():
    decider = Decider(SPEC, GESTURES)
    assert [decider.gesture for _ in range(40) if decider.update(vote("Fist"))] == ["Rest", "Fist"]
    assert decider.gesture == "Fist"
    decider.reset()
    assert decider.gesture == UNKNOWN


def test_a_quiet_window_speaks_for_rest_and_where_there_is_none_for_unknown():
    assert follow(SPEC, ("Fist", 1), ("", 1))[-1][1] == "Rest"
    no_rest = SPEC.model_copy(update={"rest_gesture": ""})
    assert follow(no_rest, ("Fist", 1), ("", 1))[-1][1] == UNKNOWN


@pytest.mark.parametrize(
    ("vote", "expected"),
    [
        (Vote(2, 0.6, 0.2), "Open"),
        (Vote(2, 0.5, 0.9), UNKNOWN),  # share too small
        (Vote(1, 1.0, 0.1), UNKNOWN),  # too far from all poses
    ],
)
def test_a_doubtful_vote_is_rejected_and_speaks_for_unknown(vote, expected):
    decider = Decider(SPEC.model_copy(update={"min_vote_share": 0.6, "min_similarity": 0.2}), GESTURES)
    assert decider.accept(vote) == expected
    for _ in range(40):
        decider.update(vote)
    assert decider.gesture == expected


def test_of_an_index_the_share_of_votes_is_the_evidence():
    def hops(share: float) -> int:
        decider = Decider(SPEC, GESTURES)
        return next((n for n in range(1000) if decider.update(Vote(1, share, 0.9)) and decider.gesture == "Fist"), 1000)

    assert hops(1.0) < hops(0.6) < hops(0.3)
    assert hops(0.25) == 1000  # never decided: the same share as the others


def test_a_gesture_without_a_share_loses_to_one_that_has_some_and_those_at_the_end_may_be_left_out():
    decider = Decider(SPEC, GESTURES)
    for _ in range(20):
        decider.update(Vote(1, 0.9, 0.9, (0.1, 0.9)))
    assert decider.gesture == "Fist"


def test_letting_go_of_a_gesture_that_stood_brings_no_other_but_a_wrong_start_is_put_right():
    spec = SPEC.model_copy(update={"release_ms": 700.0})
    assert active(spec, ("Fist", 2), ("Open", 0.4), ("Rest", 1)) == ["Fist"]
    assert active(spec, ("Fist", 2), ("Rest", 0.3), ("Open", 0.3), ("Rest", 1)) == ["Fist"]
    assert active(spec, ("Fist", 2), ("Rest", 1), ("Open", 0.5)) == ["Fist", "Open"]
    assert active(spec, ("Fist", 2), ("Open", 2)) == ["Fist", "Open"]
    assert active(spec, ("Fist", 0.3), ("Open", 1)) == ["Fist", "Open"]
    assert follow(spec, ("Fist", 2), ("Rest", 1)) == follow(SPEC, ("Fist", 2), ("Rest", 1))  # rest is not delayed


def test_until_the_wake_gesture_was_made_twice_nothing_is_decided():
    spec = SPEC.model_copy(update={"wake_gesture": "Fist"})
    fist, rest, opened = ("Fist", 0.5), ("Rest", 0.5), ("Open", 0.5)
    assert active(spec, rest, opened, rest, fist, rest, opened, rest) == []
    assert active(spec, rest, fist, rest, fist, rest, opened, rest) == ["Fist", "Open"]
    assert active(spec, fist, ("Rest", WAKE_WITHIN_S), fist, rest, opened) == []
    woken = (fist, rest, fist, rest)
    assert (
        active(spec, *woken, ("Rest", AWAKE_S / 2), opened, ("Rest", AWAKE_S * 0.8), opened) == ["Fist"] + ["Open"] * 2
    )
    assert active(spec, *woken, ("Rest", AWAKE_S), opened) == ["Fist"]
    assert active(spec, *woken, ("Open", AWAKE_S + 1), ("Point", 1)) == ["Fist", "Open"]


@pytest.mark.parametrize("name", ["Wave", "Rest"])
def test_a_wake_gesture_that_is_none_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name} cannot wake the band: choose a gesture of the bundle, Fist, Open"):
        Decider(SPEC.model_copy(update={"wake_gesture": name}), GESTURES)


@pytest.mark.parametrize(
    "field", [{"min_belief": 0.5}, {"min_belief": 1.0}, {"evidence_ms": 0.0}, {"release_ms": -1.0}, {"hop_ms": 1.0}]
)
def test_numbers_out_of_range_are_refused(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        DecisionSpec(**field)


def test_the_least_evidence_that_decides_as_well_as_more_is_chosen():
    clear = [(name, [vote(name)] * 40) for name in GESTURES]
    chosen, won = choose(SPEC, GESTURES, clear, HOP_MS)
    assert (chosen.evidence_ms, won) == (100.0, [True] * 4)
    # each begins like another gesture for six hops, so waiting is right
    misleading = [(name, [vote("Point", 8.0)] * 6 + [vote(name)] * 60) for name in ("Fist", "Open")]
    chosen, won = choose(SPEC, GESTURES, misleading, HOP_MS)
    assert chosen.evidence_ms > 100.0
    assert won == [True, True]


WITH_OTHERS = (*GESTURES[:-1], UNKNOWN)  # the last is for other movements, which were taught


def test_other_movements_that_were_taught_are_decided_to_be_unknown_and_wake_nothing():
    decider = Decider(SPEC, WITH_OTHERS)
    other, fist = vote("Point"), vote("Fist")
    fell = [decider.gesture for one in [other] * 40 + [fist] * 40 + [other] * 40 if decider.update(one)]
    assert fell == ["Rest", UNKNOWN, "Fist", UNKNOWN]
    assert not decider.is_active(UNKNOWN)
    with pytest.raises(ConfigError, match="unknown cannot wake the band: choose a gesture of the bundle, Fist, Open"):
        Decider(SPEC.model_copy(update={"wake_gesture": UNKNOWN}), WITH_OTHERS)


def test_what_is_as_like_other_movements_as_a_gesture_is_not_decided_on():
    between = Vote(1, 0.5, 0.9, (0.0, 0.5, 0.0, 0.5))
    decider, without = Decider(SPEC, WITH_OTHERS), Decider(SPEC, GESTURES[:-1])
    for _ in range(100):
        decider.update(between)
        without.update(Vote(1, 1.0, 0.9, (0.0, 1.0, 0.0)))
    assert (decider.is_active(decider.gesture), without.gesture) == (False, "Fist")


def test_less_evidence_may_do_where_other_movements_were_taught():
    clear = [(name, [vote(gesture)] * 40) for name, gesture in zip(WITH_OTHERS, GESTURES, strict=True)]
    chosen, won = choose(SPEC, WITH_OTHERS, clear, HOP_MS)
    assert (chosen.evidence_ms, won) == (75.0, [True] * 4)


def test_who_chooses_from_rest_alone_is_told():
    with pytest.raises(ConfigError, match="holds no movement but rest"):
        choose(SPEC, GESTURES, [("Rest", [vote("Rest")] * 9)], HOP_MS)


def test_what_a_user_chooses_takes_the_place_of_the_bundle_s_and_the_rest_stays():
    assert with_gates(SPEC) == SPEC
    chosen = with_gates(SPEC, min_confidence=0.7, debounce_ms=200, refractory_ms=0, wake_gesture="Open")
    changed = {"min_vote_share": 0.7, "evidence_ms": 200, "release_ms": 0, "wake_gesture": "Open"}
    assert chosen == SPEC.model_copy(update=changed)


def test_a_clear_gesture_is_decided_on_after_about_the_debounce_that_was_chosen():
    for debounce_ms in (100, 200, 400):
        spec = with_gates(SPEC, debounce_ms=debounce_ms)
        hop, gesture = follow(spec, ("Rest", 1), ("Fist", 2))[-1]
        assert gesture == "Fist"
        assert 0.5 * debounce_ms <= (hop + 1 - 40) * HOP_MS <= 1.5 * debounce_ms


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ({"min_confidence": 1.5}, "a confidence lies between 0 and 1, and 1.5 does not"),
        ({"min_confidence": math.nan}, "a confidence lies between 0 and 1, and nan does not"),
        ({"debounce_ms": -1}, "a debounce of -1 ms is not possible: give 0 to 60000"),
        ({"refractory_ms": 1e9}, "a refractory time of 1e+09 ms is not possible"),
    ],
)
def test_gates_out_of_range_are_refused(gates, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        with_gates(SPEC, **gates)


def test_of_the_curve_the_point_that_accepts_most_at_the_asked_risk_is_taken():
    def point(coverage: float, risk: float) -> OperatingPoint:
        return OperatingPoint(min_vote_share=1 - coverage, min_similarity=0.1, coverage=coverage, risk=risk)

    spec = DecisionSpec(rejection=(point(0.9, 0.4), point(0.6, 0.2), point(0.3, 0.1)))
    assert at_risk(spec, 0.25).min_vote_share == pytest.approx(0.4)
    with pytest.raises(ConfigError, match="below 5%: its surest windows err by 10%"):
        at_risk(spec, 0.05)
    with pytest.raises(ConfigError, match="its export measured no rejection"):
        at_risk(DecisionSpec(), 0.5)
