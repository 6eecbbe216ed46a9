"""From votes to decisions: quick, stable, and silent when unsure.

Windows overlap and tremble, and a hand on its way to one gesture passes others. So evidence is summed over hops: a
belief over the bundle's gestures and "unknown" is carried from hop to hop by Bayes' rule, as in the forward pass of a
hidden Markov model whose states last (Rabiner 1989). It is Wald's sequential test for many classes, with forgetting
(Baum & Veeravalli 1994): clear movement is decided on in a few hops, doubtful movement later or not at all.

- evidence: a window speaks by the logarithm of its vote's shares, weighed so that `evidence_ms` of signal count as one
  look, and never louder than a limit. One that a threshold rejects speaks for "unknown", a quiet one for rest.
- hysteresis: thresholds guard the way in. The gesture that stands needs to pass none to be held, so that a hand that
  tires or shifts does not make it twice.
- bound: a decision changes to the state that leads with at least `min_belief`.
- other movements: a bundle may have been taught what is no gesture. Its windows are evidence like any gesture's, and
  what is decided is "unknown".
- release: a hand that lets go flings past the opposite gesture. After a gesture that stood for `release_ms` no other is
  decided on for as long; letting go is always allowed, and a first decision that was wrong is soon put right.
- wake: with a `wake_gesture` no gesture counts until that one was made twice, and again once nothing was made for a
  while.

Of 16 people of myo-wrist, on whom this was chosen, taught by three repetitions and other movements, it decides .978 of
the events right, at 2 false activations an hour of small movements and 320 ms after the muscle; the debounce by
counting that was here before .977 at 9 and 315 ms. Eight others: .986 at 37, by counting .986 at 103; without other
movements .982 at 59 and .986 at 214. In trials a cumulative sum with restarts was slower, and a head over the last .2
s as good within a donning and worse on the next (`benchmarks/measure_decisions.py`).
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

DWELL_S = 25.0  # that a state lasts on average; ten times as long decides 15 ms later
WAKE_WITHIN_S = 3.0  # of its first time, in which the wake gesture must be made again
AWAKE_S = 10.0  # that the band listens after a gesture
EVIDENCE_MS = (100.0, 150.0, 250.0)  # 75 decides 30 ms sooner, at twice the false activations;
WITH_OTHERS_MS = (75.0, 150.0, 250.0)  # where other movements were taught too there are few
WORTH_WAITING = 0.05  # of the repetitions, that more signal for a look must bring
_LIMIT = 4.0  # nats by which one hop may speak against a state
_CLEAR = 10.0  # nats by which a rejected or quiet window speaks, before it is weighed
LONGEST_MS = 60_000.0
_LEAST_SHARE = 1e-6  # of a vote: a gesture without any is not impossible


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision at the end of one window: what the wearer is doing."""

    sample_index: int  # one past the window's last sample
    device_t_s: float  # end of the window, device clock
    gesture: str  # the current decision, or "unknown"
    changed: bool  # it differs from the decision before
    window_gesture: str  # the gesture of this window alone, or "unknown"
    confidence: float  # share of the k votes, 0..1; 1 at rest
    similarity: float  # cosine of the nearest prototype of the winning gesture; 0 at rest
    at_rest: bool  # the muscles were at rest, so the encoder was not run
    interpolated: bool  # the window contains interpolated samples
    delay_ms: float  # from the arrival of the window's last byte to this decision


class Decider:
    """The belief of one stream, and the decision that stands."""

    def __init__(self, spec: DecisionSpec, gestures: tuple[str, ...], hop_ms: float | None = None) -> None:
        """hop_ms: between two windows; None: the spec's

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
        self._leave = (1 - math.exp(-self._hop_s / DWELL_S)) / len(gestures)  # to each other state
        self._states = (*gestures, UNKNOWN)
        self._resting = gestures.index(self._rest) if self._rest != UNKNOWN else len(gestures)
        self.reset()

    def reset(self) -> None:
        """Start from "unknown"."""
        self._decided = self.gesture = UNKNOWN
        self._belief = np.zeros(len(self._states))
        self._belief[self._resting] = 1.0
        self._hop = self._since = 0  # now, and when the decision fell
        self._released = 0  # the first hop at which another gesture may be decided on
        self._woken_until = self._wake_by = -1  # hops until which the band is awake, or one more wake gesture wakes it

    def accept(self, vote: Vote) -> str:
        """The gesture a vote stands for by itself, or "unknown"."""
        return self._gestures[vote.gesture_index] if self._passes(vote) else UNKNOWN

    def update(self, vote: Vote | None) -> bool:
        """Take in one window, None for a quiet one; returns whether the decision changed."""
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
        """Whether a decision asks an application to act: it is neither "unknown" nor rest."""
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
        """Whether a gesture that was just decided on counts."""
        wake = self._spec.wake_gesture
        if wake and self._hop > self._woken_until and not (gesture == wake and self._hop <= self._wake_by):
            self._wake_by = self._hop + round(WAKE_WITHIN_S / self._hop_s) if gesture == wake else -1
            return False
        self._woken_until = self._hop + round(AWAKE_S / self._hop_s)
        return True

    def _only(self, state: int) -> NDArray[np.float64]:
        return np.where(np.arange(len(self._states)) == state, 0.0, -_CLEAR)


def _log_likelihood(vote: Vote, n_gestures: int) -> NDArray[np.float64]:
    """Of each gesture up to a constant, the likeliest at 0, (n_gestures,); what one share leaves, the others share."""
    shares = np.zeros(n_gestures) if vote.shares else np.full(n_gestures, (1 - vote.share) / max(1, n_gestures - 1))
    shares[: len(vote.shares)] = vote.shares
    if not vote.shares:
        shares[vote.gesture_index] = vote.share
    likelihood: NDArray[np.float64] = np.log(np.maximum(shares / shares.max(), _LEAST_SHARE))
    return likelihood


def choose(
    spec: DecisionSpec, gestures: tuple[str, ...], repetitions: Sequence[tuple[str, Sequence[Vote]]], hop_ms: float
) -> tuple[DecisionSpec, list[bool]]:
    """How much signal is to count as one look, from repetitions that a head had not seen when it voted on them.

    The least is taken under which about as many are decided rightly and alone as under any other.

    repetitions: what was asked for and its votes, hop by hop
    returns: the spec, and which repetitions it decides rightly
    Raises ConfigError when there is no repetition of a gesture but rest.
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
    """Which repetitions were decided rightly, and how many other activations there were."""
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
    """The same decisions with what a user chose; None leaves a thing as it is.

    min_confidence: share of the votes below which no gesture begins
    debounce_ms: for which a clear gesture is seen before it is decided on
    refractory_ms: after a gesture that was held, until the next may be decided on
    adapt: the head drifts with the wearer
    Raises ConfigError for a share that is none, or a time that is below zero or too long.
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
