"""From votes to decisions: doubtful votes are rejected, and a decision changes only once several windows agree."""

from dataclasses import dataclass

from cpep_edge.bundle import DecisionSpec
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
    confidence: float  # share of the k votes, 0..1
    similarity: float  # cosine of the nearest prototype of the winner
    interpolated: bool  # the window holds samples filled in for lost ones
    delay_ms: float  # from the arrival of the window's last byte to this decision


class Debouncer:
    """Hold a decision until enough windows in a row say something else."""

    def __init__(self, spec: DecisionSpec, gestures: tuple[str, ...]) -> None:
        self._spec = spec
        self._gestures = gestures
        self.reset()

    def reset(self) -> None:
        """Start from "unknown"."""
        self.gesture = UNKNOWN
        self._candidate = UNKNOWN
        self._agreeing = 0

    def accept(self, vote: Vote) -> str:
        """The gesture a vote stands for by itself, or "unknown"."""
        clear = vote.share >= self._spec.min_vote_share and vote.similarity >= self._spec.min_similarity
        return self._gestures[vote.gesture_index] if clear else UNKNOWN

    def update(self, window_gesture: str) -> bool:
        """Take in what one window was accepted as; returns whether the decision changed."""
        self._agreeing = self._agreeing + 1 if window_gesture == self._candidate else 1
        self._candidate = window_gesture
        if window_gesture == self.gesture or self._agreeing < self._spec.debounce_hops:
            return False
        self.gesture = window_gesture
        return True
