"""Lead a wearer through repetitions of gestures: what to show, what to keep, what to ask for again.

A `Lesson` knows neither screens nor ports: it is fed the blocks of a band and counts time by their samples, so that it
runs the same in a terminal, on a page and in a test. It goes round the whole list once for each repetition, because
what was recorded seconds apart is too much alike to tell how well it will be known later. The wearer rests in between,
and that rest is kept too: it is what the hand does most. A round may end with other movements, which are not to be
taken for gestures: they are asked for under the name `UNKNOWN`.

A repetition in which nothing moved, that was clipped, or that a loss of samples cut, is asked for again.
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
OTHER_MOVEMENTS = "anything else: reach, type, scratch"  # what a wearer reads for `UNKNOWN`
REST = "Rest"
REST_NAMES = ("rest", "nomotion", "relax", "idle", "none", "neutral")  # what a gesture that is none is called

LONGEST_LOSS_S = 0.05  # of samples in a repetition; shorter ones are bridged
_RISE = 1.2  # over the 95th percentile of rest, from which a tenth of a second is active
_QUIETEST = 1.1  # rise over the usual rest that counts at the least
_MOVED = 0.15  # of a repetition's tenths of a second that are active at the least; of rest a twentieth is
_ACTIVE_S = 1.0  # of a repetition, at the least
_CLIPPED = 0.01  # of a channel's samples at its greatest or least value
_STEPS_OF_A_SIGNAL = 32  # values that a channel takes at the least before it can be clipped: a weak one takes few
_ASK_AGAIN = 3  # times, before a repetition is given up
_AFTER_S, _BEFORE_S = 0.8, 0.3  # of a rest left out after the last gesture and before the next


@dataclass(frozen=True, slots=True)
class Timing:
    """How long everything takes; five gestures and other movements three times in not quite two minutes."""

    first_rest_s: float = 5.0
    rest_s: float = 2.5  # before each repetition; what is next is shown
    make_s: float = 3.0
    other_s: float = 6.0  # of other movements


@dataclass(frozen=True, slots=True)
class Step:
    """A repetition to be made."""

    gesture: str
    number: int  # of its round, from 1


@dataclass(frozen=True, slots=True)
class Cue:
    """What the wearer should see now."""

    phase: Literal["rest", "ready", "make", "done"]  # ready: still resting, the gesture comes when the time is over
    gesture: str  # that is made, or comes next
    number: int  # which time it is made
    left_s: float  # of this phase
    n_done: int
    n_steps: int
    said: str = ""  # why the repetition before is asked for again


@dataclass(frozen=True, slots=True)
class Again:
    """A repetition that does not count."""

    step: Step
    reason: str
    given_up: bool  # it was asked for too often


Event = Repetition | Again  # a repetition, or a stretch of rest, that counts; or one that does not


def plan(gestures: Sequence[str], first: int, last: int) -> list[Step]:
    """Repetitions `first` to `last` of each gesture, going round the list."""
    return [Step(gesture, number) for number in range(first, last + 1) for gesture in gestures]


def rest_of(gestures: Sequence[str]) -> str:
    """The name of rest among these gestures; `REST` where none of them is rest."""
    return next((name for name in gestures if "".join(filter(str.isalpha, name)).lower() in REST_NAMES), REST)


def check_gestures(names: Sequence[str]) -> tuple[str, ...]:
    """The gestures of a list, without rest, which is always taught.

    names: `UNKNOWN` among them asks for other movements, at the end of each round
    Raises ConfigError for a name that is none, one that comes twice, and fewer than two.
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

    stretches: list[NDArray[np.float64]] = field(default_factory=list)  # RMS of tenths of a second, (n, C)

    @property
    def of_channels(self) -> NDArray[np.float64]:
        usual: NDArray[np.float64] = np.maximum(np.median(np.concatenate(self.stretches), axis=0), 1e-9)
        return usual

    def rise(self, stretches: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far each tenth of a second lies above rest, all channels together, (n,)."""
        usual = self.of_channels
        heard = usual > 1e-3 * np.median(usual)  # an electrode in the air has no rest to rise above
        rises: NDArray[np.float64] = np.sqrt(np.mean((stretches[:, heard] / usual[heard]) ** 2, axis=1))
        return rises

    @property
    def most(self) -> float:
        """The rise from which muscles are active."""
        return max(_QUIETEST, _RISE * float(np.quantile(self.rise(np.concatenate(self.stretches)), 0.95)))


class Lesson:
    """Goes through a plan with one wearer; `feed` it until `cue.phase` is "done"."""

    def __init__(
        self, reading: Reading, steps: Sequence[Step], *, rest: str = REST, wearing: int = 0, timing: Timing = Timing()
    ) -> None:
        self._reading, self._steps, self._timing = reading, list(steps), timing
        self._rate_hz = reading.preprocessing.sample_rate_hz
        self._rest_name, self._wearing = rest, wearing
        self._rest = _Rest()
        self._at = self._n_asked = 0  # the step, and how often it was asked for
        self._phase: Literal["rest", "ready", "make", "done"] = "rest" if self._steps else "done"
        self._parts: list[NDArray[np.float32]] = []  # of the phase
        self._n_samples = 0  # of those
        self._next: tuple[int, int] | None = None  # boot and index of the sample that should come
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
        """Take the next samples; what came of them.

        Raises DataError after the first rest when no gesture could be told apart: fewer than two channels say anything
        of their own.
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
        """Samples missing before a block; without end after a restart of the device."""
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
        """Go on to the next phase."""
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
        """Why a repetition does not count, or "", and from where to where it is active."""
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
    """Raise DataError where fewer than two channels carry a signal of their own: what is stuck still flickers by one
    count, and electrodes that are bridged by sweat or gel give one signal twice.
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
