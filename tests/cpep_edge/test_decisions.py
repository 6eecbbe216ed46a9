import pytest

from cpep_edge.bundle import DecisionSpec, OperatingPoint
from cpep_edge.decisions import UNKNOWN, Decider, at_risk
from cpep_edge.errors import ConfigError
from cpep_edge.pose_index import Vote

SPEC = DecisionSpec(k=10, min_vote_share=0.6, min_similarity=0.2, debounce_hops=3)


def decisions(accepted: list[str]) -> list[str]:
    decider = Decider(SPEC, ("Fist", "Open"))
    return [decider.gesture for window in accepted if decider.update(window) in (True, False)]


def test_a_decision_changes_at_the_third_window_that_agrees() -> None:
    assert decisions(["Fist"] * 4) == [UNKNOWN, UNKNOWN, "Fist", "Fist"]


def test_a_flicker_changes_nothing() -> None:
    assert decisions(["Fist"] * 3 + ["Open", "Open", "Fist", "Open", UNKNOWN, "Open"])[2:] == ["Fist"] * 7


def test_rejected_windows_lead_back_to_unknown() -> None:
    assert decisions(["Fist"] * 3 + [UNKNOWN] * 3)[-1] == UNKNOWN


def test_a_change_is_reported_once() -> None:
    decider = Decider(SPEC, ("Fist", "Open"))
    assert [decider.update("Fist") for _ in range(5)] == [False, False, True, False, False]


def test_reset_starts_from_unknown() -> None:
    decider = Decider(SPEC, ("Fist", "Open"))
    for _ in range(3):
        decider.update("Fist")
    decider.reset()
    assert decider.gesture == UNKNOWN


@pytest.mark.parametrize(
    ("vote", "expected"),
    [
        (Vote(1, 0.6, 0.2), "Open"),
        (Vote(1, 0.5, 0.9), UNKNOWN),  # too divided
        (Vote(0, 1.0, 0.1), UNKNOWN),  # too far from every pose
    ],
)
def test_a_doubtful_vote_is_rejected(vote: Vote, expected: str) -> None:
    assert Decider(SPEC, ("Fist", "Open")).accept(vote) == expected


def follow(spec: DecisionSpec, accepted: list[str]) -> list[str]:
    decider = Decider(spec, ("Fist", "Open", "Rest"))
    return [decider.gesture for window in accepted if decider.update(window) in (True, False)]


def test_the_gesture_that_stands_is_kept_with_fewer_votes_than_it_took() -> None:
    decider = Decider(DecisionSpec(min_vote_share=0.6, hysteresis=0.2, debounce_hops=1), ("Fist", "Open"))
    assert decider.accept(Vote(0, 0.5, 0.9)) == UNKNOWN
    decider.update(decider.accept(Vote(0, 0.7, 0.9)))
    assert decider.accept(Vote(0, 0.5, 0.9)) == "Fist"
    assert decider.accept(Vote(1, 0.5, 0.9)) == UNKNOWN


def test_a_majority_outvotes_single_windows() -> None:
    spec = DecisionSpec(debounce_hops=1, majority_hops=5)
    assert follow(spec, ["Fist"] * 5 + ["Open", "Fist", "Open", "Fist"])[4:] == ["Fist"] * 5
    assert follow(spec, ["Fist"] * 5 + ["Open"] * 3)[-1] == "Open"


def test_without_a_majority_nothing_changes() -> None:
    spec = DecisionSpec(debounce_hops=1, majority_hops=4)
    assert follow(spec, ["Fist"] * 4 + ["Open", "Open"])[-1] == "Fist"


def test_after_a_gesture_no_other_is_decided_on_for_a_while_but_letting_go_is() -> None:
    spec = DecisionSpec(debounce_hops=1, refractory_hops=4, rest_gesture="Rest")
    got = follow(spec, ["Fist", "Rest", "Open", "Open", "Open", "Open"])
    assert got == ["Fist", "Rest", "Rest", "Rest", "Rest", "Open"]
    assert follow(spec, ["Fist", UNKNOWN])[-1] == UNKNOWN


def test_of_the_curve_the_point_that_accepts_most_at_the_asked_risk_is_taken() -> None:
    def point(coverage: float, risk: float) -> OperatingPoint:
        return OperatingPoint(min_vote_share=1 - coverage, min_similarity=0.1, coverage=coverage, risk=risk)

    spec = DecisionSpec(rejection=(point(0.9, 0.4), point(0.6, 0.2), point(0.3, 0.1)))
    assert at_risk(spec, 0.25).min_vote_share == pytest.approx(0.4)
    with pytest.raises(ConfigError, match="below 5%: its surest windows err by 10%"):
        at_risk(spec, 0.05)
    with pytest.raises(ConfigError, match="its export measured no rejection"):
        at_risk(DecisionSpec(), 0.5)
