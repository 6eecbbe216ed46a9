"""Gesture stages and the movements between their poses."""

import numpy as np
import pytest

pytest.importorskip("myo_sim")

from cpep_train.hand_model import Hand, load_hand
from cpep_train.import_3dc import GESTURES
from cpep_train.stages import REST_RAD, STAGES, WRIST_AND_GRIPS, Stage, draw_style, hold, minimum_jerk, move

RATE_HZ = 50.0
# The stage names that are used here from the published emg2pose metadata.
PUBLISHED = {
    "GraspPunchCloseFar",
    "FingerAbductionSeries",
    "PokePinchCloseFar",
    "ThumbsUpDownThumbRotationsCWCCWP",
    "HandClawGraspFlicks",
    "FingerPinchesSingleFingerPinchesMultiple",
    "IndexPinchesMiddlePinchesThumbswipes",
    "FingerTouchPalmClapmrburns",
    "ThumbsSwipesWholeHand",
    "WristFlexionAbduction",
    "CountingUpDownFingerWigglingSpreading",
}


@pytest.fixture(scope="module")
def hand() -> Hand:
    return load_hand()


def _poses(stage: Stage, hand: Hand, seed: int, seconds: float = 30.0) -> np.ndarray:
    style = draw_style(np.random.default_rng(seed))
    return move(stage, style, hand, round(seconds * RATE_HZ), RATE_HZ, np.random.default_rng(seed + 1)).poses_rad


def test_there_are_sixteen_stages_and_four_are_held_out():
    names = [stage.name for stage in STAGES]
    assert len(set(names)) == len(names) == 16
    assert sum(stage.held_out for stage in STAGES) == 4
    assert set(names) >= PUBLISHED
    assert names[0] == "Rest"


@pytest.mark.parametrize("stage", [*STAGES, *WRIST_AND_GRIPS], ids=lambda stage: stage.name)
def test_every_key_and_every_movement_stays_inside_the_joints_ranges(stage, hand):
    poses = np.concatenate([stage.keys_rad, _poses(stage, hand, 3)])
    assert np.all(poses >= hand.lower_rad - 1e-9)
    assert np.all(poses <= hand.upper_rad + 1e-9)


@pytest.mark.parametrize("stage", STAGES[1:], ids=lambda stage: stage.name)
def test_most_of_the_time_is_spent_in_the_gesture(stage, hand):
    poses = np.concatenate([_poses(stage, hand, seed) for seed in (1, 2, 3)])
    way_rad = stage.keys_rad - REST_RAD
    reached = ((poses - REST_RAD) @ way_rad.T) / np.sum(way_rad**2, axis=1)  # share of the way to each key pose
    assert np.mean(reached.max(axis=1) > 0.6) > 0.85


def test_gestures_differ_more_than_two_people_doing_the_same(hand):
    single = [stage for stage in STAGES if not stage.is_chain]
    means = np.array([[_poses(stage, hand, seed)[:, :20].mean(axis=0) for stage in single] for seed in (1, 2)])
    between = np.linalg.norm(means[0][:, None] - means[1][None], axis=-1)
    assert np.array_equal(between.argmin(axis=1), np.arange(len(single)))


def test_a_chain_walks_through_all_its_poses(hand):
    chain = next(stage for stage in STAGES if stage.is_chain)
    poses = _poses(chain, hand, 5, seconds=60.0)
    nearest = np.linalg.norm(poses[:, None, :20] - chain.keys_rad[None, :, :20], axis=-1).argmin(axis=1)
    assert set(nearest) == set(range(len(chain.keys_rad)))


def test_movement_between_holds_is_smooth(hand):
    speed = np.abs(np.diff(_poses(STAGES[1], hand, 4), axis=0)) * RATE_HZ
    assert speed.max() < 15.0  # rad/s; a jump within one step would be about 60


def test_the_gestures_of_real_sets_are_named_as_their_importer_names_them():
    assert tuple(stage.name for stage in WRIST_AND_GRIPS) == GESTURES


def test_a_hold_stays_where_it_is(hand):
    held = hold(WRIST_AND_GRIPS[2], draw_style(np.random.default_rng(1)), hand, 100, RATE_HZ, np.random.default_rng(2))
    assert np.ptp(held.poses_rad, axis=0).max() < 0.1
    assert np.all(held.effort == held.effort[0])


def test_minimum_jerk_starts_and_ends_at_rest_and_is_symmetric():
    s = np.linspace(0, 1, 101)
    way = minimum_jerk(s)
    np.testing.assert_allclose(way + way[::-1], 1.0, atol=1e-12)
    assert np.gradient(way)[[0, -1]].max() < 1e-4
    assert minimum_jerk(np.array([-1.0, 2.0])).tolist() == [0.0, 1.0]


def test_the_same_seed_moves_the_same_way_and_another_does_not(hand):
    assert np.array_equal(_poses(STAGES[2], hand, 8), _poses(STAGES[2], hand, 8))
    assert not np.array_equal(_poses(STAGES[2], hand, 8), _poses(STAGES[2], hand, 9))
