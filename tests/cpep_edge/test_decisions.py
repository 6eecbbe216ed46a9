import pytest

from cpep_edge.bundle import DecisionSpec
from cpep_edge.decisions import UNKNOWN, Debouncer
from cpep_edge.pose_index import Vote

SPEC = DecisionSpec(k=10, min_vote_share=0.6, min_similarity=0.2, debounce_hops=3)


def decisions(accepted: list[str]) -> list[str]:
    debouncer = Debouncer(SPEC, ("Fist", "Open"))
    return [debouncer.gesture for window in accepted if debouncer.update(window) in (True, False)]


def test_a_decision_changes_at_the_third_window_that_agrees() -> None:
    assert decisions(["Fist"] * 4) == [UNKNOWN, UNKNOWN, "Fist", "Fist"]


def test_a_flicker_changes_nothing() -> None:
    assert decisions(["Fist"] * 3 + ["Open", "Open", "Fist", "Open", UNKNOWN, "Open"])[2:] == ["Fist"] * 7


def test_rejected_windows_lead_back_to_unknown() -> None:
    assert decisions(["Fist"] * 3 + [UNKNOWN] * 3)[-1] == UNKNOWN


def test_a_change_is_reported_once() -> None:
    debouncer = Debouncer(SPEC, ("Fist", "Open"))
    assert [debouncer.update("Fist") for _ in range(5)] == [False, False, True, False, False]


def test_reset_starts_from_unknown() -> None:
    debouncer = Debouncer(SPEC, ("Fist", "Open"))
    for _ in range(3):
        debouncer.update("Fist")
    debouncer.reset()
    assert debouncer.gesture == UNKNOWN


@pytest.mark.parametrize(
    ("vote", "expected"),
    [
        (Vote(1, 0.6, 0.2), "Open"),
        (Vote(1, 0.5, 0.9), UNKNOWN),  # too divided
        (Vote(0, 1.0, 0.1), UNKNOWN),  # too far from every pose
    ],
)
def test_a_doubtful_vote_is_rejected(vote: Vote, expected: str) -> None:
    assert Debouncer(SPEC, ("Fist", "Open")).accept(vote) == expected
