"""Lead a wearer through repetitions of gestures: what to show, what to keep, what to ask for again.

A `Lesson` uses neither screen nor port: it is fed the blocks of a band and counts time by their samples, so it runs the
same in a terminal, on a web page and in a test. Each round asks for every gesture of the list once, because repetitions
recorded seconds apart are too similar to tell how well a gesture will be recognised later. The wearer rests in between.
That rest is kept too, because the hand rests most of the time. A round may end with other movements, which must not be
taken for gestures; they have the name `UNKNOWN`.

A repetition is asked for again when nothing moved, a channel was clipped, or samples were lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cpep_edge.blocks import Block
from cpep_edge.donning import FLAT_SHARE, LEVEL_STRETCH_S, SETTLE_S, doubled_channels, stretch_levels_uv, unscaled
from cpep_edge.errors import ConfigError, DataError
from cpep_edge.names import UNKNOWN, check_gesture
from cpep_edge.personal import Reading, Repetition
from cpep_edge.preprocess import LARGEST_UV, Preprocessor

DEFAULT_GESTURES = ("Fist", "Open", "Point", "WristFlexion", "WristExtension")
OTHER_MOVEMENTS = "anything else: reach, type, scratch"  # shown to the wearer for `UNKNOWN`
REST = "Rest"
REST_NAMES = ("rest", "nomotion", "relax", "idle", "none", "neutral")  # names that mean rest

LONGEST_LOSS_S = 0.05  # of samples; a repetition with a longer loss is asked for again
_RISE = 1.2  # a stretch of 0.1 s is active above this many times the 95th percentile of rest
_QUIETEST = 1.1  # least rise over the median rest at which a stretch is active
_MOVED = 0.15  # least share of a repetition's stretches that must be active; of rest, .05 are
_ACTIVE_S = 1.0  # least duration from the first active stretch to the last
_CLIPPED = 0.01  # a channel is clipped if more of its samples are at its largest or least value
_STEPS_OF_A_SIGNAL = 32  # with fewer distinct values a channel is weak, not clipped
_ASK_AGAIN = 3  # failures after which a repetition is given up
_AFTER_S, _BEFORE_S = 0.8, 0.3  # of each rest left out after the previous gesture and before the next


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of the phases; five gestures and other movements, three times each, take just under two minutes."""

    first_rest_s: float = 5.0
    rest_s: float = 2.5  # before each repetition, while the next gesture is shown
    make_s: float = 3.0
    other_s: float = 6.0  # for other movements


@dataclass(frozen=True, slots=True)
class Step:
    """A repetition that the wearer is to make."""

    gesture: str
    number: int  # number of the round, from 1


@dataclass(frozen=True, slots=True)
class Cue:
    """What the wearer should see now."""

    phase: Literal["rest", "ready", "make", "done"]  # ready: still at rest, the gesture starts when the phase ends
    gesture: str  # the present or the next gesture
    number: int  # number of the round
    left_s: float  # time left in this phase
    n_done: int
    n_steps: int
    said: str = ""  # why the last repetition is asked for again


@dataclass(frozen=True, slots=True)
class Again:
    """A repetition that does not count."""

    step: Step
    reason: str
    given_up: bool  # it failed too often and is left out


Event = Repetition | Again  # a repetition (also of rest) that counts, or one that does not


def plan(gestures: Sequence[str], first: int, last: int) -> list[Step]:
    """Repetitions `first` to `last` of each gesture, round by round."""
    return [Step(gesture, number) for number in range(first, last + 1) for gesture in gestures]


def rest_of(gestures: Sequence[str]) -> str:
    """The name of rest among these gestures; `REST` when none of them is rest."""
    return next((name for name in gestures if "".join(filter(str.isalpha, name)).lower() in REST_NAMES), REST)


def check_gestures(names: Sequence[str]) -> tuple[str, ...]:
    """The gestures of a list, without rest, which is always taught.

    names: with `UNKNOWN` among them, each round ends with other movements
    Raises ConfigError for an invalid name, a name that occurs twice, or fewer than two gestures.
    """
    for name in names:
        if name != UNKNOWN:
            check_gesture(name)
        if names.count(name) > 1:
            raise ConfigError(f"the list has {name} twice: give each gesture its own name")
    rest = rest_of(names)
    asked = tuple(name for name in names if name not in (rest, UNKNOWN))
    if len(asked) < 2:
        raise ConfigError(f"{asked[0] if asked else 'rest'} alone is not enough: give two gestures or more")
    return (*asked, UNKNOWN) if UNKNOWN in names else asked


@dataclass(slots=True)
class _Rest:
    """The level of this arm at rest."""

    stretches: list[NDArray[np.float64]] = field(default_factory=list)  # RMS of stretches of 0.1 s, (n, C)

    @property
    def of_channels(self) -> NDArray[np.float64]:
        usual: NDArray[np.float64] = np.maximum(np.median(np.concatenate(self.stretches), axis=0), 1e-9)
        return usual

    def rise(self, stretches: NDArray[np.float64]) -> NDArray[np.float64]:
        """The level of each 0.1 s stretch relative to rest, all channels together, (n,)."""
        usual = self.of_channels
        heard = usual > 1e-3 * np.median(usual)  # leave out electrodes without contact, which are near zero at rest
        rises: NDArray[np.float64] = np.sqrt(np.mean((stretches[:, heard] / usual[heard]) ** 2, axis=1))
        return rises

    @property
    def most(self) -> float:
        """The rise above which the muscles are active."""
        return max(_QUIETEST, _RISE * float(np.quantile(self.rise(np.concatenate(self.stretches)), 0.95)))


class Lesson:
    """Leads one wearer through a plan; call `feed` until `cue.phase` is "done"."""

    def __init__(
        self, reading: Reading, steps: Sequence[Step], *, rest: str = REST, wearing: int = 0, timing: Timing = Timing()
    ) -> None:
        self._reading, self._steps, self._timing = reading, list(steps), timing
        self._rate_hz = reading.preprocessing.sample_rate_hz
        self._rest_name, self._wearing = rest, wearing
        self._rest = _Rest()
        self._at = self._n_asked = 0  # the current step, and how often it failed
        self._phase: Literal["rest", "ready", "make", "done"] = "rest" if self._steps else "done"
        self._parts: list[NDArray[np.float32]] = []  # samples of the phase
        self._n_samples = 0  # in `_parts`
        self._next: tuple[int, int] | None = None  # boot and index of the next expected sample
        self._lead = np.empty((0, reading.front_end.n_electrodes), np.float32)  # before the phase, to settle filters
        self._said = ""

    @property
    def cue(self) -> Cue:
        """What to show now."""
        step = self._steps[min(self._at, len(self._steps) - 1)] if self._steps else Step("", 0)
        left_s = self._length_s - self._n_samples / self._rate_hz
        return Cue(self._phase, step.gesture, step.number, left_s, self._at, len(self._steps), self._said)

    @property
    def _length_s(self) -> float:
        timing, others = self._timing, self._at < len(self._steps) and self._steps[self._at].gesture == UNKNOWN
        make_s = timing.other_s if others else timing.make_s
        return {"rest": timing.first_rest_s, "ready": timing.rest_s, "make": make_s, "done": 0.0}[self._phase]

    def feed(self, block: Block) -> list[Event]:
        """Process the next samples; returns what they completed.

        Raises DataError after the first rest when fewer than two channels carry a signal of their own, so that
        gestures cannot be distinguished.
        """
        if self._phase == "done":
            return []
        events: list[Event] = []
        samples = block.samples_uv
        cut = self._next is not None and self._lost(block) > LONGEST_LOSS_S * self._rate_hz
        self._next = block.boot_id, block.sample_index + len(samples)
        if cut:
            events += self._cut()
        while len(samples) and self._at < len(self._steps):
            n = min(len(samples), max(1, round(self._length_s * self._rate_hz)) - self._n_samples)
            self._parts.append(samples[:n])
            self._n_samples, samples = self._n_samples + n, samples[n:]
            if self._n_samples >= round(self._length_s * self._rate_hz):
                events += self._turn()
        return events

    def _lost(self, block: Block) -> float:
        """Number of samples missing before a block; infinite after a restart of the device."""
        assert self._next is not None
        boot_id, index = self._next
        return abs(block.sample_index - index) if block.boot_id == boot_id else np.inf

    def _cut(self) -> list[Event]:
        was, self._parts, self._n_samples = self._phase, [], 0
        self._lead = self._lead[:0]
        if was != "make":
            return []
        self._phase = "ready"
        return [self._again("samples were lost in the middle of it")]

    def _turn(self) -> list[Event]:
        """End the present phase and go on to the next."""
        recorded, lead = np.concatenate(self._parts), self._lead
        self._lead = np.concatenate([lead, recorded])[-round(SETTLE_S * self._rate_hz) :]
        self._parts, self._n_samples = [], 0
        if self._phase == "make":
            return self._made(lead, recorded)
        events: list[Event] = []
        if self._phase == "rest":
            _check_heard(recorded)
        after_s = _AFTER_S if self._phase == "ready" or self._rest.stretches else 1.0
        rest = recorded[round((after_s - SETTLE_S) * self._rate_hz) : len(recorded) - round(_BEFORE_S * self._rate_hz)]
        if len(rest) > (SETTLE_S + 2 * LEVEL_STRETCH_S) * self._rate_hz:
            stretches = self._stretches(rest)
            first = not self._rest.stretches
            if first or np.mean(self._rest.rise(stretches) > 2 * self._rest.most) < 0.3:
                self._rest.stretches.append(stretches)
                number = self._steps[self._at].number
                events.append(Repetition(self._rest_name, number, rest, self._wearing))
        self._phase = "make" if self._phase == "ready" else "ready"
        return events

    def _made(self, lead: NDArray[np.float32], recorded: NDArray[np.float32]) -> list[Event]:
        step = self._steps[self._at]
        samples = np.concatenate([lead, recorded])
        reason, start, end = self._fault(samples, len(lead))
        self._phase = "ready"
        if reason:
            return [self._again(reason)]
        self._forward()
        settle = round(SETTLE_S * self._rate_hz)
        return [Repetition(step.gesture, step.number, samples[max(0, start - settle) : end], self._wearing)]

    def _fault(self, samples: NDArray[np.float32], n_lead: int) -> tuple[str, int, int]:
        """Why a repetition does not count, or "", and the start and end of its active part, in samples."""
        if not (np.abs(samples) <= LARGEST_UV).all():
            return "it contains impossible values", 0, 0
        clipped = self._clipped(samples)
        if clipped:
            channels = ", ".join(str(channel + 1) for channel in clipped)
            return f"channel {channels} was clipped: loosen the band, check the reference, or move less strongly", 0, 0
        a_stretch = round(LEVEL_STRETCH_S * self._rate_hz)
        active = np.flatnonzero(self._rest.rise(self._stretches(samples, 0)) > self._rest.most)
        active = active[active >= n_lead // a_stretch]
        if len(active) < _MOVED * (len(samples) - n_lead) / a_stretch:
            return "nothing moved: it looks like rest", 0, 0
        start, end = int(active[0]) * a_stretch, (int(active[-1]) + 1) * a_stretch
        if end - start < _ACTIVE_S * self._rate_hz:
            return f"it was held for less than {_ACTIVE_S:g} s", 0, 0
        return "", start, end

    def _clipped(self, samples: NDArray[np.float32]) -> list[int]:
        found = []
        for channel, x in enumerate(samples.T):
            at_limit = max(np.count_nonzero(x == x.max()), np.count_nonzero(x == x.min()))
            if at_limit > _CLIPPED * len(x) and len(np.unique(x)) >= _STEPS_OF_A_SIGNAL:
                found.append(channel)
        return found

    def _again(self, reason: str) -> Again:
        step, self._n_asked = self._steps[self._at], self._n_asked + 1
        given_up = self._n_asked >= _ASK_AGAIN
        if given_up:
            self._forward()
        self._said = f"{step.gesture} {'is left out' if given_up else 'again'}: {reason}"
        return Again(step, reason, given_up)

    def _forward(self) -> None:
        self._at, self._n_asked, self._said = self._at + 1, 0, ""
        if self._at == len(self._steps):
            self._phase = "done"

    def _stretches(self, samples: NDArray[np.float32], settle_s: float = SETTLE_S) -> NDArray[np.float64]:
        filtered = Preprocessor(unscaled(self._reading.preprocessing), samples.shape[1])(samples)
        return stretch_levels_uv(filtered[round(settle_s * self._rate_hz) :], self._rate_hz)


def _check_heard(rest: NDArray[np.float32]) -> None:
    """Raise DataError when fewer than two channels carry a signal of their own.

    A channel that is stuck may still flicker by one count. Electrodes that are bridged by sweat or gel carry the same
    signal.
    """
    swing = rest.std(axis=0)
    mute = {
        channel
        for channel, (x, level) in enumerate(zip(rest.T, swing, strict=True))
        if len(np.unique(x)) <= 2 or level <= FLAT_SHARE * swing.max()
    }
    mute |= {later for _, later in doubled_channels(rest)}
    if rest.shape[1] - len(mute) < 2:
        named = ", ".join(str(channel + 1) for channel in sorted(mute))
        raise DataError(
            f"of {rest.shape[1]} channels {named} have no signal of their own, but two are needed: put the band "
            "on, and check its electrodes with cpep-edge doctor"
        )
