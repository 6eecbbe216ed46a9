"""Score decisions as a user experiences them: as events with an onset, not window by window.

A label says when a gesture was made, from its start to its end; an activation is a decision on which an application
acts. Labels and activations are aligned in time, and then counted as right, confused, missed or extra.

The alignment and the classification error rate (CLER) are those of generic-neuromotor-interface (Kaifosh et al., Nature
2025; its module `cler`). The alignment is by Needleman and Wunsch: an activation may only match a label whose interval,
widened by a tolerance, contains it; a pair of different gestures costs as much as a missed or an extra one; among equal
alignments the one closest in time wins. CLER is one minus the share of a gesture's labels that are matched by that
gesture, averaged over gestures. A miss is an error: their code computes it so, while the text of the paper leaves
misses out (`cler_detected`). There, a label is a moment and the tolerance is -0.05 to 0.25 s. Here, gestures are held,
so a label also has an end, until which an activation counts unless `hold` is False.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

PUBLISHED_TOLERANCE_S = (-0.05, 0.25)  # of an activation around the onset

_BOTH, _LABEL, _ACTIVATION = range(3)  # what a step of the alignment consumes


@dataclass(frozen=True, slots=True)
class Label:
    """A gesture that the wearer made, from when the hand starts to move until it starts to let go."""

    gesture: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Activation:
    """A decision that an application would act on."""

    gesture: str
    time_s: float  # end of the deciding window, on the clock of the labels
    compute_ms: float = 0.0  # from the arrival of that window's last byte to the decision


@dataclass(frozen=True, slots=True)
class Matching:
    """One session's labels and activations, paired."""

    pairs: tuple[tuple[Label, Activation], ...]  # matched, whether the gestures agree or not
    missed: tuple[Label, ...]
    extra: tuple[Activation, ...]


@dataclass(frozen=True, slots=True)
class Delay:
    """Delay from the onset of a gesture to its decision, over the correctly decided events."""

    p50_ms: float
    p90_ms: float


@dataclass(frozen=True, slots=True)
class EventScore:
    """The score of a number of sessions."""

    n_events: int
    n_right: int
    n_confused: int  # matched by another gesture
    n_missed: int
    n_extra: int  # activations that match no event: false activations
    n_extra_outside: int  # extra activations while no gesture was being made
    hours: float  # of signal
    cler: float  # an activation counts until the gesture's end
    cler_published: float  # an activation counts until 250 ms after the onset, as published
    cler_detected: float | None  # only events matched by an activation, as in the paper's text; None: there is none
    recall: dict[str, float]  # share of each gesture's events that were decided correctly
    algorithm: Delay | None  # onset to the end of the deciding window; None when no event was decided correctly
    compute: Delay | None  # arrival of that window's last byte to the decision

    @property
    def false_activations_per_hour(self) -> float:
        """Extra activations per hour of signal."""
        return self.n_extra / self.hours


def align(labels: Sequence[Label], activations: Sequence[Activation], *, hold: bool = True) -> Matching:
    """Pair the labels and activations of one session, both in order of time.

    hold: an activation counts until the gesture's end; False: only within the published tolerance of its onset
    """
    before_s, after_s = PUBLISHED_TOLERANCE_S
    opens_s = [label.start_s + before_s for label in labels]
    closes_s = [label.end_s if hold else label.start_s + after_s for label in labels]
    steps = _cheapest_steps(labels, activations, opens_s, closes_s)
    pairs, missed, extra = [], [], []
    i, j = len(labels), len(activations)
    while i or j:
        step = steps[i][j]
        i -= step != _ACTIVATION
        j -= step != _LABEL
        if step == _BOTH:
            pairs.append((labels[i], activations[j]))
        elif step == _LABEL:
            missed.append(labels[i])
        else:
            extra.append(activations[j])
    return Matching(tuple(pairs[::-1]), tuple(missed[::-1]), tuple(extra[::-1]))


def score_events(sessions: Sequence[tuple[Sequence[Label], Sequence[Activation]]], hours: float) -> EventScore:
    """Score several sessions together.

    sessions: labels and activations of each, in order of time
    Raises ValueError when there is no label at all.
    """
    aligned = [align(labels, activations) for labels, activations in sessions]
    published = [align(labels, activations, hold=False) for labels, activations in sessions]
    pairs = [pair for one in aligned for pair in one.pairs]
    right = [(label, activation) for label, activation in pairs if label.gesture == activation.gesture]
    outside = [
        activation
        for (labels, _), one in zip(sessions, aligned, strict=True)
        for activation in one.extra
        if not any(label.start_s <= activation.time_s <= label.end_s for label in labels)
    ]
    recall = _recall(aligned)
    return EventScore(
        n_events=sum(len(labels) for labels, _ in sessions),
        n_right=len(right),
        n_confused=len(pairs) - len(right),
        n_missed=sum(len(one.missed) for one in aligned),
        n_extra=sum(len(one.extra) for one in aligned),
        n_extra_outside=len(outside),
        hours=hours,
        cler=_cler(recall),
        cler_published=_cler(_recall(published)),
        cler_detected=_cler(_recall([replace(one, missed=()) for one in aligned])) if pairs else None,
        recall=recall,
        algorithm=_delay([(activation.time_s - label.start_s) * 1e3 for label, activation in right]),
        compute=_delay([activation.compute_ms for _, activation in right]),
    )


def _cheapest_steps(
    labels: Sequence[Label], activations: Sequence[Activation], opens_s: Sequence[float], closes_s: Sequence[float]
) -> list[list[int]]:
    """At [i][j], the last step of the cheapest alignment of the first i labels and j activations."""
    n, m = len(labels), len(activations)
    cost = [[(0.0, 0.0)] * (m + 1) for _ in range(n + 1)]  # faults, then seconds between matched onsets
    steps = [[_ACTIVATION] * (m + 1) for _ in range(n + 1)]
    for i in range(n + 1):
        for j in range(m + 1):
            ways = []
            if i and j and opens_s[i - 1] <= activations[j - 1].time_s <= closes_s[i - 1]:
                differ = labels[i - 1].gesture != activations[j - 1].gesture
                apart_s = abs(activations[j - 1].time_s - labels[i - 1].start_s)
                ways.append((_plus(cost[i - 1][j - 1], differ, apart_s), _BOTH))
            if i:
                ways.append((_plus(cost[i - 1][j], 1, 0.0), _LABEL))
            if j:
                ways.append((_plus(cost[i][j - 1], 1, 0.0), _ACTIVATION))
            if ways:
                cost[i][j], steps[i][j] = min(ways)
    return steps


def _plus(cost: tuple[float, float], faults: float, apart_s: float) -> tuple[float, float]:
    return cost[0] + faults, cost[1] + apart_s


def _recall(aligned: Sequence[Matching]) -> dict[str, float]:
    labelled: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for one in aligned:
        labelled.update(label.gesture for label in one.missed)
        labelled.update(label.gesture for label, _ in one.pairs)
        right.update(label.gesture for label, activation in one.pairs if label.gesture == activation.gesture)
    if not labelled:
        raise ValueError("there is no label to judge by")
    return {gesture: right[gesture] / labelled[gesture] for gesture in sorted(labelled)}


def _cler(recall: dict[str, float]) -> float:
    return 1 - sum(recall.values()) / len(recall)


def _delay(delays_ms: Sequence[float]) -> Delay | None:
    if not delays_ms:
        return None
    p50_ms, p90_ms = np.percentile(delays_ms, (50, 90))
    return Delay(float(p50_ms), float(p90_ms))
