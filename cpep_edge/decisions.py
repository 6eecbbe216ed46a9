"""From votes to decisions: quick, stable, and silent when unsure.

Votes fluctuate from window to window, and a hand on its way to one gesture passes others. So evidence is summed over
hops: a belief, a probability for each of the bundle's gestures and "unknown", is updated at each hop by Bayes' rule, as
in the forward pass of a hidden Markov model whose states last (Rabiner 1989). It is Wald's sequential test for many
classes, with forgetting (Baum & Veeravalli 1994): a clear movement is decided on within a few hops, a doubtful one
later or not at all.

- evidence: the logarithm of a vote's shares, weighted so that `evidence_ms` of signal count as one independent
  observation, and limited. A window that a threshold rejects is evidence for "unknown", a quiet one for rest.
- hysteresis: the thresholds apply only to the start of a gesture. The current gesture continues without passing them,
  so that it is not decided on twice when the hand tires or shifts.
- bound: a decision changes to the state with the largest belief, once that is at least `min_belief`.
- other movements: a bundle may have been taught movements that are no gesture. Their windows are evidence like those of
  any gesture, and the decision is "unknown".
- release: a hand that lets go swings past the opposite gesture. After a gesture that lasted for `release_ms`, no other
  is decided on for as long again. Rest and "unknown" are always allowed, and a wrong first decision is soon corrected.
- wake: with a `wake_gesture`, no gesture counts until that one was made twice, and again once none was made for a
  while.

The settings were chosen on 16 people of myo-wrist, taught by three repetitions and other movements. On them, .978 of
the events are decided correctly, with 2 false activations per hour of small movements, 320 ms after the muscle starts;
the earlier debounce by counting reached .977 with 9, and 315 ms. On eight other people: .986 with 37, by counting .986
with 103; without other movements taught, .982 with 59 and .986 with 214. In trials, a cumulative sum with restarts was
slower, and a head over the last 0.2 s was as good within a donning and worse on the next
(`benchmarks/measure_decisions.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import ConfigError
from cpep_edge.manifest import DecisionSpec, OperatingPoint
from cpep_edge.names import UNKNOWN
from cpep_edge.pose_index import Vote

DWELL_S = 25.0  # assumed mean duration of a state; ten times as long delays decisions by 15 ms
WAKE_WITHIN_S = 3.0  # within which the wake gesture must be made the second time
AWAKE_S = 10.0  # for which gestures count after the last one
EVIDENCE_MS = (100.0, 150.0, 250.0)  # candidates; 75 decides 30 ms sooner, with twice the false activations
WITH_OTHERS_MS = (75.0, 150.0, 250.0)  # with other movements taught, false activations are few, so 75 is a candidate
WORTH_WAITING = 0.05  # share of the repetitions that a larger `evidence_ms` must gain to be chosen
_LIMIT = 4.0  # the most nats that one hop counts against a state
_CLEAR = 10.0  # nats of evidence of a rejected or quiet window, before weighting
LONGEST_MS = 60_000.0
_LEAST_SHARE = 1e-6  # least share of a vote: a gesture without votes is not impossible


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision at the end of one window: what the wearer is doing."""

    sample_index: int  # one past the window's last sample
    device_t_s: float  # end of the window, device clock
    gesture: str  # the current decision, or "unknown"
    changed: bool  # it differs from the previous decision
    window_gesture: str  # the gesture of this window alone, or "unknown"
    confidence: float  # share of the k votes, 0..1; 1 at rest
    similarity: float  # cosine of the nearest prototype of the winning gesture; 0 at rest
    at_rest: bool  # the muscles were at rest, so the encoder was not run
    interpolated: bool  # the window contains interpolated samples
    delay_ms: float  # from the arrival of the window's last byte to this decision


class Decider:
    """The belief for one stream, and the current decision."""

    def __init__(self, spec: DecisionSpec, gestures: tuple[str, ...], hop_ms: float | None = None) -> None:
        """hop_ms: time between two windows; None: the spec's

        Raises ConfigError when the wake gesture is not one of the gestures, or is rest.
        """
        self._spec = spec
        known = [name for name in gestures if self.is_active(name)]
        if spec.wake_gesture and spec.wake_gesture not in known:
            raise ConfigError(
                f"{spec.wake_gesture} cannot wake the band: choose a gesture of the bundle, {', '.join(known)}"
            )
        self._gestures = gestures
        self._rest = spec.rest_gesture if spec.rest_gesture in gestures else UNKNOWN
        self._hop_s = (hop_ms or spec.hop_ms) * 1e-3
        self._weight = min(1.0, self._hop_s * 1e3 / spec.evidence_ms)
        self._leave = (1 - math.exp(-self._hop_s / DWELL_S)) / len(gestures)  # transition probability to another state
        self._states = (*gestures, UNKNOWN)
        self._resting = gestures.index(self._rest) if self._rest != UNKNOWN else len(gestures)
        self.reset()

    def reset(self) -> None:
        """Start from "unknown"."""
        self._decided = self.gesture = UNKNOWN
        self._belief = np.zeros(len(self._states))
        self._belief[self._resting] = 1.0
        self._hop = self._since = 0  # the current hop, and that of the last change
        self._released = 0  # first hop at which another gesture may be decided on
        # The last hops at which gestures count without the wake gesture, and at which a second wake gesture counts.
        self._woken_until = self._wake_by = -1

    def accept(self, vote: Vote) -> str:
        """The gesture of a single vote, or "unknown" when the thresholds reject it."""
        return self._gestures[vote.gesture_index] if self._passes(vote) else UNKNOWN

    def update(self, vote: Vote | None) -> bool:
        """Update the belief by the vote of one window, None for a quiet one; returns whether the decision changed."""
        if vote is None:
            speaks = self._only(self._resting)
        elif not self._passes(vote) and not self._holds(self._gestures[vote.gesture_index]):
            speaks = self._only(len(self._gestures))
        else:
            speaks = np.append(_log_likelihood(vote, len(self._gestures)), -np.inf)
        weight = np.exp(np.maximum(self._weight * speaks, -_LIMIT))
        belief = (self._belief + self._leave * (1 - len(self._states) * self._belief)) * weight
        self._belief = belief / belief.sum()
        before = self.gesture
        self._decide(int(np.argmax(self._belief)))
        self._hop += 1
        return self.gesture != before

    def is_active(self, gesture: str) -> bool:
        """Whether an application should act on a decision: it is neither "unknown" nor rest."""
        return gesture not in (UNKNOWN, self._spec.rest_gesture)

    def _passes(self, vote: Vote) -> bool:
        return vote.share >= self._spec.min_vote_share and vote.similarity >= self._spec.min_similarity

    def _holds(self, gesture: str) -> bool:
        return gesture == self._decided != UNKNOWN

    def _decide(self, lead: int) -> None:
        leader, release = self._states[lead], round(self._spec.release_ms * 1e-3 / self._hop_s)
        if leader == self._decided:
            if self.is_active(leader) and self._hop - self._since >= release:
                self._released = self._hop + release
            return
        if self._belief[lead] < self._spec.min_belief or (self.is_active(leader) and self._hop < self._released):
            return
        self._decided, self._since = leader, self._hop
        self.gesture = leader if not self.is_active(leader) or self._is_awake(leader) else self._rest

    def _is_awake(self, gesture: str) -> bool:
        """Whether a gesture that was just decided on counts, given the wake gesture."""
        wake = self._spec.wake_gesture
        if wake and self._hop > self._woken_until and not (gesture == wake and self._hop <= self._wake_by):
            self._wake_by = self._hop + round(WAKE_WITHIN_S / self._hop_s) if gesture == wake else -1
            return False
        self._woken_until = self._hop + round(AWAKE_S / self._hop_s)
        return True

    def _only(self, state: int) -> NDArray[np.float64]:
        return np.where(np.arange(len(self._states)) == state, 0.0, -_CLEAR)


def _log_likelihood(vote: Vote, n_gestures: int) -> NDArray[np.float64]:
    """The log-likelihood of each gesture, relative to the likeliest, (n_gestures,).

    If the vote has only the winner's share, the other gestures have equal parts of the rest.
    """
    shares = np.zeros(n_gestures) if vote.shares else np.full(n_gestures, (1 - vote.share) / max(1, n_gestures - 1))
    shares[: len(vote.shares)] = vote.shares
    if not vote.shares:
        shares[vote.gesture_index] = vote.share
    likelihood: NDArray[np.float64] = np.log(np.maximum(shares / shares.max(), _LEAST_SHARE))
    return likelihood


def choose(
    spec: DecisionSpec, gestures: tuple[str, ...], repetitions: Sequence[tuple[str, Sequence[Vote]]], hop_ms: float
) -> tuple[DecisionSpec, list[bool]]:
    """Choose `evidence_ms` by repetitions that the voting head was not fitted on.

    A candidate scores the repetitions that it decides correctly, less the false activations. The shortest candidate
    with nearly the best score is chosen.

    repetitions: the gesture asked for and its votes, hop by hop
    returns: the spec, and which repetitions it decides correctly
    Raises ConfigError when rest is the only gesture with repetitions.
    """
    if all(name in (UNKNOWN, spec.rest_gesture) for name, _ in repetitions):
        raise ConfigError("the labelled signal holds no movement but rest: record each gesture for a second at least")
    tried = []
    for evidence_ms in WITH_OTHERS_MS if UNKNOWN in gestures else EVIDENCE_MS:
        one = spec.model_copy(update={"evidence_ms": max(evidence_ms, hop_ms)})
        won, n_false = _played(one, gestures, repetitions, hop_ms)
        tried.append((sum(won) - n_false, one, won))
    best = max(score for score, _, _ in tried)
    _, chosen, won = next(each for each in tried if each[0] >= best - WORTH_WAITING * len(repetitions))
    return chosen, won


def _played(
    spec: DecisionSpec, gestures: tuple[str, ...], repetitions: Sequence[tuple[str, Sequence[Vote]]], hop_ms: float
) -> tuple[list[bool], int]:
    """Which repetitions are decided correctly, and the number of activations of other gestures."""
    won, n_false = [], 0
    for name, votes in repetitions:
        decider = Decider(spec, gestures, hop_ms)
        fell = [decider.gesture for vote in votes if decider.update(vote) and decider.is_active(decider.gesture)]
        n_false += sum(gesture != name for gesture in fell)
        won.append(name in fell if decider.is_active(name) else not fell)
    return won, n_false


def with_gates(
    spec: DecisionSpec,
    *,
    min_confidence: float | None = None,
    debounce_ms: float | None = None,
    refractory_ms: float | None = None,
    wake_gesture: str | None = None,
    adapt: bool = False,
) -> DecisionSpec:
    """Decision settings with the values that a user chose; None keeps the present one.

    min_confidence: share of the votes that a gesture needs to begin
    debounce_ms: time that a clear gesture must last before it is decided on
    refractory_ms: time after a gesture was held, until the next may be decided on
    adapt: the head follows slow changes of the wearer's signal
    Raises ConfigError for a share outside 0 to 1, or a time that is negative or too long.
    """
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise ConfigError(f"a confidence lies between 0 and 1, and {min_confidence:g} does not")
    for name, time_ms in (("debounce", debounce_ms), ("refractory time", refractory_ms)):
        if time_ms is not None and not 0 <= time_ms <= LONGEST_MS:
            raise ConfigError(f"a {name} of {time_ms:g} ms is not possible: give 0 to {LONGEST_MS:g}")
    chosen = {
        "min_vote_share": min_confidence,
        "evidence_ms": None if debounce_ms is None else max(debounce_ms, 1.0),
        "release_ms": refractory_ms,
        "wake_gesture": wake_gesture,
        "adapt": adapt or None,
    }
    return spec.model_copy(update={name: value for name, value in chosen.items() if value is not None})


def at_risk(spec: DecisionSpec, risk: float) -> DecisionSpec:
    """Decision settings with thresholds that accept as many windows as possible, of which at most `risk` are wrong.

    Raises ConfigError when the export measured no rejection thresholds, or none reaches this risk.
    """
    good = [point for point in spec.rejection if point.risk <= risk]
    if not good:
        least = min((point.risk for point in spec.rejection), default=None)
        reason = "its export measured no rejection" if least is None else f"its surest windows err by {least:.0%}"
        raise ConfigError(f"this bundle cannot keep errors below {risk:.0%}: {reason}")
    best: OperatingPoint = max(good, key=lambda point: point.coverage)
    return spec.model_copy(update={"min_vote_share": best.min_vote_share, "min_similarity": best.min_similarity})
