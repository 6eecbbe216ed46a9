"""From votes to decisions: quick, stable, and silent when unsure.

One window's vote passes four gates, each of which can be switched off in the bundle's `DecisionSpec`:

- rejection: a vote too divided, or too far from every pose, is "unknown" (open-set recognition by thresholds; Geifman &
  El-Yaniv, "Selective classification for deep neural networks", 2017). The gesture that stands needs `hysteresis` less.
- majority: the most frequent answer of the newest windows counts, where it has more than half of them (Englehart &
  Hudgins 2003).
- debounce: a decision changes only once several of those in a row agree.
- refractory: for a while after a gesture was decided on, no other is; letting go is always allowed.
"""

from collections import Counter, deque
from dataclasses import dataclass

from cpep_edge.bundle import DecisionSpec, OperatingPoint
from cpep_edge.errors import ConfigError
from cpep_edge.pose_index import Vote

UNKNOWN = "unknown"  # the rejection class: the vote was too divided or too far from every pose


@dataclass(frozen=True, slots=True)
class Decision:
    """What the band's wearer is taken to be doing at the end of one window."""

    sample_index: int  # one past the window's last sample
    device_t_s: float  # end of the window, device clock
    gesture: str  # the debounced decision, or "unknown"
    changed: bool  # it differs from the decision before
    window_gesture: str  # what this window alone was taken for, or "unknown"
    confidence: float  # share of the k votes, 0..1; 1 at rest
    similarity: float  # cosine of the nearest prototype of the winner; 0 at rest
    at_rest: bool  # the muscles were quiet, so the encoder was not asked
    interpolated: bool  # the window holds samples filled in for lost ones
    delay_ms: float  # from the arrival of the window's last byte to this decision


class Decider:
    """The gates of one stream, and the decision that stands."""

    def __init__(self, spec: DecisionSpec, gestures: tuple[str, ...]) -> None:
        self._spec = spec
        self._gestures = gestures
        self.reset()

    def reset(self) -> None:
        """Start from "unknown"."""
        self.gesture = UNKNOWN
        self._recent: deque[str] = deque(maxlen=self._spec.majority_hops)
        self._candidate = UNKNOWN
        self._agreeing = 0
        self._refractory = 0  # hops left in which no gesture may be decided on

    def accept(self, vote: Vote) -> str:
        """The gesture a vote stands for by itself, or "unknown"."""
        gesture = self._gestures[vote.gesture_index]
        least_share = self._spec.min_vote_share - (self._spec.hysteresis if gesture == self.gesture else 0.0)
        return gesture if vote.share >= least_share and vote.similarity >= self._spec.min_similarity else UNKNOWN

    def update(self, window_gesture: str) -> bool:
        """Take in what one window was accepted as; returns whether the decision changed."""
        answer = self._majority(window_gesture)
        self._agreeing = self._agreeing + 1 if answer == self._candidate else 1
        self._candidate = answer
        waiting = self._refractory > 0 and self.is_active(answer)
        self._refractory = max(0, self._refractory - 1)
        if answer == self.gesture or self._agreeing < self._spec.debounce_hops or waiting:
            return False
        self.gesture = answer
        if self.is_active(answer):
            self._refractory = self._spec.refractory_hops
        return True

    def is_active(self, gesture: str) -> bool:
        """Whether a decision asks an application to act: it is neither "unknown" nor rest."""
        return gesture not in (UNKNOWN, self._spec.rest_gesture)

    def _majority(self, window_gesture: str) -> str:
        """The answer that more than half of the newest windows gave; where there is none, nothing changes."""
        self._recent.append(window_gesture)
        answer, count = Counter(self._recent).most_common(1)[0]
        return answer if 2 * count > len(self._recent) else self.gesture


def at_risk(spec: DecisionSpec, risk: float) -> DecisionSpec:
    """The same decisions with the rejection that accepts most windows while at most a share `risk` of them is wrong.

    Raises ConfigError when the bundle was not calibrated, or cannot be that sure.
    """
    good = [point for point in spec.rejection if point.risk <= risk]
    if not good:
        least = min((point.risk for point in spec.rejection), default=None)
        reason = "its export measured no rejection" if least is None else f"its surest windows err by {least:.0%}"
        raise ConfigError(f"this bundle cannot keep errors below {risk:.0%}: {reason}")
    best: OperatingPoint = max(good, key=lambda point: point.coverage)
    return spec.model_copy(update={"min_vote_share": best.min_vote_share, "min_similarity": best.min_similarity})
