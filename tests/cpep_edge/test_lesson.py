"""A lesson reads a wearer's signal and gives cues. It counts time in samples, so these tests do not wait."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from cpep_edge.blocks import Block
from cpep_edge.errors import ConfigError, DataError
from cpep_edge.lesson import Again, Cue, Event, Lesson, check_gestures, plan, rest_of
from cpep_edge.names import UNKNOWN
from cpep_edge.personal import Repetition, design_reading
from tests.cpep_edge.arm import Arm

A_BLOCK_S = 0.05


class Wearer:
    """A wearer who follows the cues, unless `hand` says otherwise."""

    def __init__(self, arm: Arm, lesson: Lesson) -> None:
        self.arm, self.lesson = arm, lesson
        self.index = self.boot = 0
        self.events: list[Event] = []
        self._held: tuple[str, Iterator[np.ndarray]] | None = None

    def step(self, hand: str | None = None, change: Callable[[Block], Block] = lambda block: block) -> Cue:
        """Feed one block; hand: the wearer's gesture if it is not the cue's."""
        cue = self.lesson.cue
        gesture = hand or (cue.gesture if cue.phase == "make" else "Rest")
        if self._held is None or self._held[0] != gesture:
            n = round(A_BLOCK_S * self.arm.rate_hz)
            held = self.arm.make(gesture, 60)
            self._held = gesture, iter(held[: len(held) // n * n].reshape(-1, n, self.arm.n_channels))
        samples = next(self._held[1])
        block = Block(samples, self.index, self.index / self.arm.rate_hz, 0.0, boot_id=self.boot)
        self.index += len(samples)
        self.events += self.lesson.feed(change(block))
        return self.lesson.cue

    def until(self, phase: str, step: int = 0, **how: object) -> None:
        while self.lesson.cue.phase != phase or self.lesson.cue.n_done < step:
            self.step(**how)

    @property
    def kept(self) -> list[Repetition]:
        return [event for event in self.events if isinstance(event, Repetition)]

    @property
    def again(self) -> list[Again]:
        return [event for event in self.events if isinstance(event, Again)]


def begin(gestures: tuple[str, ...] = ("Fist", "Open"), repetitions: int = 2) -> Wearer:
    arm = Arm(seed=2)
    lesson = Lesson(design_reading(arm.n_channels, arm.rate_hz), plan(gestures, 1, repetitions))
    return Wearer(arm, lesson)


def test_every_repetition_that_was_asked_for_is_kept_going_round_the_list_with_rest_in_between():
    wearer = begin()
    wearer.until("done")
    made = [(one.gesture, one.number) for one in wearer.kept if one.gesture != "Rest"]
    assert made == [("Fist", 1), ("Open", 1), ("Fist", 2), ("Open", 2)]
    assert {one.number for one in wearer.kept if one.gesture == "Rest"} == {1, 2}
    assert not wearer.again


def test_five_gestures_take_no_more_than_two_minutes_of_the_wearer_s_time():
    wearer = begin(("A", "B", "C", "D", "E"), 3)
    wearer.until("done")
    assert len([one for one in wearer.kept if one.gesture != "Rest"]) == 15
    assert wearer.index / wearer.arm.rate_hz <= 120


def test_a_repetition_at_rest_is_asked_for_again_with_the_reason_and_given_up_in_the_end():
    wearer = begin()
    wearer.until("make")
    wearer.until("ready", hand="Rest")
    assert "nothing moved" in wearer.again[0].reason
    assert wearer.lesson.cue.gesture == "Fist"
    assert "nothing moved" in wearer.lesson.cue.said
    wearer.until("ready", step=1, hand="Rest")
    assert [event.given_up for event in wearer.again] == [False, False, True]
    wearer.until("done")
    assert [one.gesture for one in wearer.kept if one.gesture != "Rest"] == ["Open", "Fist", "Open"]


def test_a_clipped_repetition_is_asked_for_again_and_says_which_channel():
    wearer = begin()

    def clipped(block: Block) -> Block:
        samples = block.samples_uv.copy()
        samples[:, 3] = np.clip(samples[:, 3], -10, 10)
        return replace(block, samples_uv=samples)

    wearer.until("make")
    wearer.until("ready", change=clipped)
    assert "channel 4 was clipped" in wearer.again[0].reason
    wearer.until("done")
    assert len([one for one in wearer.kept if one.gesture != "Rest"]) == 4


@pytest.mark.parametrize("restart", [True, False])
def test_a_repetition_that_lost_samples_or_saw_a_restart_is_asked_for_again(restart):
    wearer = begin()
    wearer.until("make")
    for _ in range(20):
        wearer.step()
    if restart:
        wearer.boot, wearer.index = 1, 0
    else:
        wearer.index += round(0.2 * wearer.arm.rate_hz)
    wearer.step()
    assert "samples were lost" in wearer.again[0].reason
    assert wearer.lesson.cue.phase == "ready"
    wearer.until("done")
    assert len([one for one in wearer.kept if one.gesture != "Rest"]) == 4


def test_the_late_start_of_a_movement_does_not_count_as_the_gesture():
    wearer = begin()
    wearer.until("make")
    for _ in range(round(1.0 / A_BLOCK_S)):
        wearer.step(hand="Rest")
    wearer.until("ready")
    made = next(one for one in wearer.kept if one.gesture == "Fist")
    assert len(made.samples) / wearer.arm.rate_hz == pytest.approx(2.0 + 0.2, abs=0.15)  # 0.2 s settle the filter
    loud = np.abs(made.samples[round(0.3 * wearer.arm.rate_hz) :]).max(axis=1)
    assert np.median(loud) > 5 * np.median(np.abs(wearer.kept[0].samples).max(axis=1))


def test_a_gesture_held_for_a_moment_is_too_short():
    wearer = begin()
    wearer.until("make")
    for number in range(round(3.0 / A_BLOCK_S)):
        wearer.step(hand="Fist" if 20 <= number < 32 else "Rest")
    assert "held for less than 1 s" in wearer.again[0].reason


def test_a_list_that_names_rest_calls_rest_so_and_does_not_ask_for_it():
    names = ("Fist", "No motion", "Open")
    assert rest_of(names) == "No motion"
    assert check_gestures(names) == ("Fist", "Open")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("Fist",), "Fist alone is not enough: give two gestures or more"),
        (("Fist", "Rest"), "give two gestures or more"),
        (("Fist", "Open", "Fist"), "the list has Fist twice"),
        (("Fist", " Open"), "not a name for a gesture"),
        (("Fist", UNKNOWN), "Fist alone is not enough"),
    ],
)
def test_a_list_that_cannot_be_taught_is_refused_in_one_sentence(names, said):
    with pytest.raises(ConfigError, match=said):
        check_gestures(names)


@pytest.mark.parametrize(("live", "flicker"), [([], 0.0), ([], 0.1), ([2], 0.0), ([2], 0.1)])
def test_a_band_that_says_nothing_is_told_after_the_first_rest_and_not_after_the_lesson(live, flicker):
    wearer = begin()
    stuck = [channel for channel in range(wearer.arm.n_channels) if channel not in live]

    def say_nothing(block: Block) -> Block:
        samples = block.samples_uv.copy()
        samples[:, stuck] = 5.0
        samples[::3, stuck] += flicker
        return replace(block, samples_uv=samples)

    named = ", ".join(str(channel + 1) for channel in stuck)
    with pytest.raises(DataError, match=f"of 6 channels {named} have no signal of their own, but two are needed"):
        wearer.until("ready", change=say_nothing)
    assert wearer.events == []


@pytest.mark.parametrize("hum_uv", [0.0, 100.0])
def test_one_signal_on_every_channel_is_told_after_the_first_rest_and_hum_on_every_channel_is_not(hum_uv):
    """Electrodes bridged by sweat or gel have one signal, with different gains and offsets."""
    wearer = begin()
    gain = np.linspace(0.5, 2.0, wearer.arm.n_channels, dtype=np.float32)

    def one_signal(block: Block) -> Block:
        return replace(block, samples_uv=block.samples_uv[:, [2]] * gain + 30 * gain)

    def hum(block: Block) -> Block:
        at_s = (block.sample_index + np.arange(len(block.samples_uv))) / wearer.arm.rate_hz
        return replace(block, samples_uv=block.samples_uv + np.float32(hum_uv) * np.sin(2 * np.pi * 50 * at_s)[:, None])

    if hum_uv:
        wearer.until("ready", change=hum)
        assert len(wearer.kept) == 1
    else:
        with pytest.raises(DataError, match="of 6 channels 2, 3, 4, 5, 6 have no signal of their own"):
            wearer.until("ready", change=one_signal)


def test_a_round_ends_with_six_seconds_of_other_movements():
    assert check_gestures((UNKNOWN, "Fist", "Rest", "Open")) == ("Fist", "Open", UNKNOWN)
    wearer = begin(("Fist", "Open", UNKNOWN), repetitions=1)
    wearer.until("make", step=2)
    assert (wearer.lesson.cue.gesture, wearer.lesson.cue.left_s) == (UNKNOWN, 6.0)
    wearer.until("done")
    other = next(one for one in wearer.kept if one.gesture == UNKNOWN)
    assert 5.5 < len(other.samples) / wearer.arm.rate_hz < 6.5
