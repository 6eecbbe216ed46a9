"""Event scores for hand-made sessions, and the alignment compared with an exhaustive search."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpep_edge.events import Activation, Label, align, score_events

FIST, OPEN = Label("Fist", 1.0, 2.0), Label("Open", 4.0, 5.0)


def score(activations: list[Activation]):
    return score_events([((FIST, OPEN), activations)], hours=0.5)


def test_a_session_without_a_fault_has_none():
    found = score([Activation("Fist", 1.2, 3.0), Activation("Open", 4.4, 5.0)])
    assert (found.n_right, found.n_confused, found.n_missed, found.n_extra, found.cler) == (2, 0, 0, 0, 0.0)
    assert (found.algorithm.p50_ms, found.compute.p50_ms) == (pytest.approx(300), pytest.approx(4))
    assert found.cler_published == 0.5  # the second is 400 ms after its onset


def test_every_kind_of_fault_is_counted_as_what_it_is():
    found = score(
        [
            Activation("Open", 1.1),  # wrong at first: matches nothing, because the right one follows
            Activation("Fist", 1.5),
            Activation("Fist", 3.0),  # during rest
            Activation("Fist", 4.5),  # in place of another gesture
        ]
    )
    assert (found.n_right, found.n_confused, found.n_missed, found.n_extra, found.n_extra_outside) == (1, 1, 0, 2, 1)
    assert found.false_activations_per_hour == 4
    assert (found.cler, found.recall) == (0.5, {"Fist": 1.0, "Open": 0.0})


def test_a_gesture_that_nothing_answers_is_missed_and_an_error():
    found = score([])
    assert (found.n_missed, found.cler, found.cler_detected, found.algorithm) == (2, 1.0, None, None)


def test_cler_weighs_gestures_alike_however_often_they_were_made():
    labels = [Label("Fist", float(n), n + 0.5) for n in range(9)] + [Label("Open", 9.0, 9.5)]
    found = score_events([(labels, [Activation("Fist", n + 0.2) for n in range(9)])], hours=1)
    assert found.cler == 0.5


def test_without_labels_nothing_can_be_judged():
    with pytest.raises(ValueError, match="no label"):
        score_events([((), [Activation("Fist", 1.0)])], hours=1)


times = st.lists(st.integers(0, 40), max_size=4, unique=True).map(sorted)
names = st.sampled_from(["Fist", "Open"])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_alignment_is_cheaper(data):
    labels = [Label(data.draw(names), t / 4, t / 4 + 1.5) for t in data.draw(times)]
    activations = [Activation(data.draw(names), t / 4 + 0.1) for t in data.draw(times)]
    found = align(labels, activations)
    got = [(labels.index(label), activations.index(activation)) for label, activation in found.pairs]
    assert len(got) + len(found.missed) == len(labels)
    assert len(got) + len(found.extra) == len(activations)
    assert cost(labels, activations, got) == min(
        cost(labels, activations, one) for one in pairings(labels, activations)
    )


def pairings(
    labels: Sequence[Label], activations: Sequence[Activation], i: int = 0, j: int = 0
) -> Iterator[list[tuple[int, int]]]:
    """All choices of pairs, in order, in which the activation is within the label's tolerance."""
    yield []
    for a in range(i, len(labels)):
        for b in range(j, len(activations)):
            if labels[a].start_s - 0.05 <= activations[b].time_s <= labels[a].end_s:
                yield from ([(a, b), *rest] for rest in pairings(labels, activations, a + 1, b + 1))


def cost(labels: Sequence[Label], activations: Sequence[Activation], pairs: list[tuple[int, int]]) -> tuple[int, float]:
    differ = sum(labels[a].gesture != activations[b].gesture for a, b in pairs)
    alone = len(labels) + len(activations) - 2 * len(pairs)
    apart_s = sum(abs(labels[a].start_s - activations[b].time_s) for a, b in pairs)
    return differ + alone, round(apart_s, 9)
