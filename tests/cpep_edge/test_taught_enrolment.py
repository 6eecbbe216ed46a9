"""A gesture added to a taught bundle by some seconds of its EMG, recorded with the band turned."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.bundle import Bundle, write_bundle
from cpep_edge.calibration import Profile, calibrate
from cpep_edge.enrolment import OpenBundle, add_from_session, remove_gesture, rename_gesture
from cpep_edge.errors import ConfigError
from cpep_edge.live_loop import LiveEngine
from cpep_edge.recogniser import Recogniser
from cpep_edge.verify import verify_bundle
from tests.cpep_edge.arm import Arm, blocks
from tests.cpep_edge.fake_stream import play

GESTURES = ("Fist", "Open", "Point")


@pytest.fixture(scope="module")
def arm() -> Arm:
    return Arm(seed=8, rate_hz=250.0)


@pytest.fixture(scope="module")
def taught(arm, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("taught") / "mine.cpep"
    arm.teach(path, GESTURES)
    return path


@pytest.fixture
def mine(taught, tmp_path) -> Path:
    shutil.copytree(taught, tmp_path / "mine.cpep")
    return tmp_path / "mine.cpep"


@pytest.fixture(scope="module")
def profile(taught, arm) -> Profile:
    """The calibration profile of a wearing with the band turned by one electrode."""
    movement = [arm.make(gesture, 2, turned=1) for gesture in ("Rest", *GESTURES, *GESTURES)]
    found = calibrate(arm.sends(np.concatenate(movement)), Recogniser(Bundle(taught)), 13.0)
    assert found.order == (1, 2, 3, 4, 5, 0)
    return found


def answers(path: Path, arm: Arm, gesture: str, profile: Profile | None = None, turned: int = 0) -> Counter[str]:
    """The live decisions while a gesture is held, counted."""
    recogniser = Recogniser(Bundle(path))
    donning = None if profile is None else profile.donning(recogniser.manifest)
    signal = arm.make(gesture, 3, turned=turned)
    decisions = play(blocks(signal, arm.rate_hz), LiveEngine(recogniser, arm.info(), donning=donning))
    return Counter(decision.gesture for decision in decisions)


def test_a_gesture_taught_in_a_turned_wearing_is_known_in_it_and_forgets_none(mine, arm, profile, tmp_path):
    opened = OpenBundle.check(Bundle(mine))
    donning = profile.donning(opened.bundle.manifest)
    enrolled = add_from_session(opened, "Grip", arm.session(tmp_path, "Grip", turned=1), donning)
    assert enrolled.won == 1
    verify_bundle(mine)
    for gesture in (*GESTURES, "Grip"):
        found = answers(mine, arm, gesture, profile, turned=1)
        assert found.most_common(1)[0][0] == gesture
        assert found[gesture] > 0.8 * found.total()
    assert answers(mine, arm, "Grip").most_common(1)[0][0] == "Grip"  # also with the band as in teaching


def test_thresholds_that_others_reached_do_not_silence_a_new_gesture(mine, arm, tmp_path):
    bundle = Bundle(mine)
    strict = bundle.manifest.decision.model_copy(update={"min_vote_share": 1.0, "min_similarity": 0.9})
    write_bundle(
        mine,
        lambda folder: bundle.copy_files(folder, {}),
        lambda files: bundle.manifest.model_copy(update={"files": files, "decision": strict}),
    )
    assert answers(mine, arm, "Fist")["Fist"] == 0
    enrolled = add_from_session(OpenBundle.check(Bundle(mine)), "Grip", arm.session(tmp_path, "Grip"))
    assert enrolled.manifest.decision.min_vote_share < 1
    for gesture in (*GESTURES, "Grip"):
        found = answers(mine, arm, gesture)
        assert found[gesture] > 0.6 * found.total()


def test_a_gesture_that_is_another_s_movement_is_told_to_be_taken_for_it(mine, arm, tmp_path):
    arm.drives["Clench"] = arm.drive("Fist")
    enrolled = add_from_session(OpenBundle.check(Bundle(mine)), "Clench", arm.session(tmp_path, "Clench"))
    assert enrolled.taken_for in ("Fist", "")
    assert enrolled.won < 1 or answers(mine, arm, "Fist")["Fist"] < answers(mine, arm, "Fist").total()


def test_a_gesture_is_removed_from_the_head_and_the_last_two_stay(mine, arm):
    for gesture in ("Point", "Open"):
        remove_gesture(OpenBundle.check(Bundle(mine)), gesture)
    verify_bundle(mine)
    assert answers(mine, arm, "Fist").most_common(1)[0][0] == "Fist"
    with pytest.raises(ConfigError, match="Rest and Fist are its only gestures and cannot be removed"):
        remove_gesture(OpenBundle.check(Bundle(mine)), "Fist")


def test_a_gesture_that_was_renamed_reads_so_also_after_it_was_taught_again(mine, arm):
    before = Bundle(mine).manifest
    with OpenBundle.to_edit(mine) as opened:
        renamed = rename_gesture(opened, "Fist", "Play music")
    verify_bundle(mine)
    assert [one.name for one in renamed.gestures] == [one.name for one in before.gestures]
    assert (renamed.shown("Fist"), renamed.shown("Open")) == ("Play music", "Open")
    assert arm.teach(mine, ("Fist", "Open")).shown("Fist") == "Play music"
    with OpenBundle.to_edit(mine) as opened:
        assert rename_gesture(opened, "Fist", "").shown("Fist") == "Fist"
