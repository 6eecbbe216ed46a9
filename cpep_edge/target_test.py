"""Games that measure how well a bundle works for one wearer: reach a target, and hold it.

There are two games, which are fed with the decisions of a run. `ReachAndHold` asks for one gesture after the other, as
the motion test of Kuiken et al. (2009) does. `Fitts` needs two pairs of opposite gestures. Each of the four moves a
point in one direction over a plane, at constant speed. How fast targets of several sizes are reached gives a throughput
in bits per second, as Scheme and Englehart (2013) measure it.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cpep_edge.names import UNKNOWN

Phase = Literal["rest", "reach", "done"]

_OPPOSITES = (  # patterns for shown names in lower case; the first gesture of a pair moves the point right or up
    (r"\bwrist (extension|extend|up|out)", r"\b(wrist (flexion|flex|down|in)|bent wrist)\b"),
    (r"\bradial", r"\bulnar"),
    (r"\bsupinat", r"\bpronat"),
    (r"\b(open|spread)", r"\b(fist|close|grip|grasp|power)"),
)
_HOLD_S, _REST_S, _REACH_S = 0.8, 1.5, 6.0
_DISTANCES, _RADII = (0.45, 0.7), (0.12, 0.22)  # the plane reaches from -1 to 1
_SPEED, _STAY_S = 0.5, 1.0  # of the point, per second; staying takes longer than crossing the largest target
_TARGET_S = 15.0

Axis = tuple[str, str]


def axes_of(gestures: Sequence[str], shown: Callable[[str], str]) -> tuple[Axis, ...]:
    """At most two pairs of gestures with opposite names; the first gesture of a pair moves the point right or up."""
    found = []
    for patterns in _OPPOSITES:
        pair = [next((one for one in gestures if re.search(p, shown(one).lower())), None) for p in patterns]
        if pair[0] is not None and pair[1] is not None:
            found.append((pair[0], pair[1]))
    return tuple(found[:2])


@dataclass(frozen=True, slots=True)
class HoldScore:
    """The result of `ReachAndHold`."""

    n_asked: int
    n_hits: int
    median_s: float | None  # over the hits, from the request until the gesture had been held long enough
    n_false: int  # decisions for a gesture that was not asked for

    def said(self) -> str:
        """The score in words."""
        time = "" if self.median_s is None else f", in {self.median_s:.1f} s (half of them faster)"
        return f"{self.n_hits} of {self.n_asked} held{time}; {self.n_false} false"


@dataclass(frozen=True, slots=True)
class FittsScore:
    """The result of `Fitts`."""

    n_asked: int
    n_hits: int
    throughput_bit_s: float | None  # mean over the hits of log2(distance / width + 1) per second
    path_efficiency: float | None  # length of the straight path over that of the actual one, mean over the hits
    n_overshoots: int  # times that the point left a target again

    def said(self) -> str:
        """The score in words."""
        how = ""
        if self.throughput_bit_s is not None and self.path_efficiency is not None:
            how = f", {self.throughput_bit_s:.2f} bit/s, ways {self.path_efficiency:.0%} straight"
        return f"{self.n_hits} of {self.n_asked} targets reached{how}; {self.n_overshoots} overshot"


class ReachAndHold:
    """Asks for each gesture once per round, with rest in between. Its clock is the time of the decisions."""

    def __init__(
        self,
        gestures: Sequence[str],
        rest: str,
        rounds: int,
        seed: int,
        *,
        hold_s: float = _HOLD_S,
        rest_s: float = _REST_S,
        reach_s: float = _REACH_S,
    ) -> None:
        """gestures: those to ask for, without rest
        rest: the gesture that stands for rest; "" if there is none
        hold_s: how long a gesture must be held to be a hit
        reach_s: time limit for a gesture; one that was not held by then is missed
        """
        order = np.random.default_rng(seed)
        self._asked: list[str] = [gestures[at] for _ in range(rounds) for at in order.permutation(len(gestures))]
        self._idle = (rest, UNKNOWN)
        self._hold_s, self._rest_s, self._reach_s = hold_s, rest_s, reach_s
        self.phase: Phase = "rest"
        self.n_done = self._n_false = 0
        self._since_s: float | None = None  # when the phase began
        self._held_s: float | None = None  # since when the asked gesture is held
        self._now_s, self._last = 0.0, rest
        self._times_s: list[float] = []

    @property
    def n_targets(self) -> int:
        """The number of gestures that are asked for."""
        return len(self._asked)

    @property
    def asked(self) -> str:
        """The gesture that is asked for now, or next."""
        return self._asked[min(self.n_done, len(self._asked) - 1)]

    @property
    def left_s(self) -> float:
        """Seconds left of this phase."""
        length_s = self._rest_s if self.phase == "rest" else self._reach_s
        return 0.0 if self._since_s is None else max(0.0, length_s - (self._now_s - self._since_s))

    @property
    def held(self) -> float:
        """The share of the holding time that has passed, 0 to 1."""
        return 0.0 if self._held_s is None else min(1.0, (self._now_s - self._held_s) / self._hold_s)

    @property
    def score(self) -> HoldScore:
        """The score so far."""
        median_s = float(np.median(self._times_s)) if self._times_s else None
        return HoldScore(self.n_done, len(self._times_s), median_s, self._n_false)

    def feed(self, at_s: float, gesture: str) -> None:
        """Take the decision of a moment."""
        self._now_s = at_s
        if self.phase == "done":
            return
        if self._since_s is None:
            self._since_s = at_s
        asks = self.phase == "reach"
        if gesture != self._last and gesture not in self._idle and not (asks and gesture == self.asked):
            self._n_false += 1
        self._last = gesture
        if not asks:
            if at_s - self._since_s >= self._rest_s:
                self.phase, self._since_s = "reach", at_s
            return
        if gesture != self.asked:
            self._held_s = None
        elif self._held_s is None:
            self._held_s = at_s
        if self._held_s is not None and at_s - self._held_s >= self._hold_s:
            self._times_s.append(at_s - self._since_s)
            self._next(at_s)
        elif at_s - self._since_s >= self._reach_s:
            self._next(at_s)

    def _next(self, at_s: float) -> None:
        self.n_done, self._held_s, self._since_s = self.n_done + 1, None, at_s
        self.phase = "done" if self.n_done == len(self._asked) else "rest"


@dataclass(frozen=True, slots=True)
class Target:
    """A disc to be reached from the centre of the plane."""

    x: float
    y: float
    radius: float

    @property
    def difficulty_bit(self) -> float:
        """Fitts' index of difficulty in the Shannon formulation."""
        return math.log2(math.hypot(self.x, self.y) / (2 * self.radius) + 1)


class Fitts:
    """Targets on a plane, each to be reached from the centre. Its clock is the time of the decisions."""

    def __init__(
        self, axes: Sequence[Axis], rounds: int, seed: int, *, stay_s: float = _STAY_S, target_s: float = _TARGET_S
    ) -> None:
        """axes: two pairs of gestures, for right and left and for up and down"""
        draw = np.random.default_rng(seed)
        self._moves = {
            name: (sign if number == 0 else 0.0, sign if number == 1 else 0.0)
            for number, pair in enumerate(axes)
            for name, sign in zip(pair, (1.0, -1.0), strict=True)
        }
        kinds = [(distance, radius) for distance in _DISTANCES for radius in _RADII]
        self._targets = []
        for _ in range(rounds):
            for at in draw.permutation(len(kinds)):
                (distance, radius), angle = kinds[at], 2 * math.pi * draw.random()
                self._targets.append(Target(distance * math.cos(angle), distance * math.sin(angle), radius))
        self._stay_s, self._target_s = stay_s, target_s
        self.phase: Phase = "reach"
        self.n_done = self._n_overshoots = 0
        self.cursor = 0.0, 0.0
        self._since_s: float | None = None
        self._inside_s: float | None = None
        self._now_s, self._way = 0.0, 0.0
        self._hits: list[tuple[float, float]] = []  # throughput in bits per second, and path efficiency

    @property
    def n_targets(self) -> int:
        """The number of targets."""
        return len(self._targets)

    @property
    def target(self) -> Target:
        """The target to be reached."""
        return self._targets[min(self.n_done, len(self._targets) - 1)]

    @property
    def left_s(self) -> float:
        """Seconds left for this target."""
        return self._target_s if self._since_s is None else max(0.0, self._target_s - (self._now_s - self._since_s))

    @property
    def held(self) -> float:
        """The share of the time that the point must stay in the target that has passed, 0 to 1."""
        return 0.0 if self._inside_s is None else min(1.0, (self._now_s - self._inside_s) / self._stay_s)

    @property
    def score(self) -> FittsScore:
        """The score so far."""
        mean = np.mean(self._hits, axis=0).tolist() if self._hits else (None, None)
        return FittsScore(self.n_done, len(self._hits), mean[0], mean[1], self._n_overshoots)

    def feed(self, at_s: float, gesture: str) -> None:
        """Take the decision of a moment, which moves the point for the time since the decision before."""
        if self.phase == "done":
            return
        if self._since_s is None:
            self._since_s = self._now_s = at_s
        step = _SPEED * (at_s - self._now_s)
        self._now_s = at_s
        dx, dy = self._moves.get(gesture, (0.0, 0.0))
        x, y = (min(1.0, max(-1.0, old + step * d)) for old, d in zip(self.cursor, (dx, dy), strict=True))
        self._way += math.hypot(x - self.cursor[0], y - self.cursor[1])
        self.cursor = x, y
        target = self.target
        if math.hypot(x - target.x, y - target.y) > target.radius:
            self._n_overshoots += self._inside_s is not None
            self._inside_s = None
        elif self._inside_s is None:
            self._inside_s = at_s
        if self._inside_s is not None and at_s - self._inside_s >= self._stay_s:
            moving_s = max(self._inside_s - self._since_s, 1e-3)
            self._hits.append((target.difficulty_bit / moving_s, math.hypot(x, y) / max(self._way, 1e-9)))
            self._next(at_s)
        elif at_s - self._since_s >= self._target_s:
            self._next(at_s)

    def _next(self, at_s: float) -> None:
        self.n_done, self._inside_s, self._since_s = self.n_done + 1, None, at_s
        self.cursor, self._way = (0.0, 0.0), 0.0
        if self.n_done == len(self._targets):
            self.phase = "done"
