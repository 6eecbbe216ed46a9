"""Free movement: within the joints' ranges, away from held-out gestures, and similar to natural movement."""

import numpy as np
import pytest

pytest.importorskip("myo_sim")

from cpep_train.free_movement import CLEARANCE_RAD, HELD_OUT_RAD, move_free
from cpep_train.hand_model import Hand, load_hand
from cpep_train.leakage import distance_rad
from cpep_train.stages import STAGES, draw_style

RATE_HZ = 25.0


@pytest.fixture(scope="module")
def hand() -> Hand:
    return load_hand()


@pytest.fixture(scope="module")
def poses(hand) -> np.ndarray:
    """Poses of three people, five minutes each."""
    people = [np.random.default_rng(seed) for seed in (1, 2, 3)]
    return np.stack([move_free(draw_style(rng), hand, 7_500, RATE_HZ, rng).poses_rad for rng in people])


def test_every_joint_stays_in_its_range_and_fingers_use_all_of_it(hand, poses):
    assert np.all(poses >= hand.lower_rad - 1e-9)
    assert np.all(poses <= hand.upper_rad + 1e-9)
    used = np.ptp(poses[..., :20], axis=(0, 1)) / (hand.upper_rad - hand.lower_rad)[:20]
    assert used.min() > 0.9


def test_no_pose_comes_near_a_held_out_gesture(poses):
    nearest_rad = min(distance_rad(poses[..., :20], key_rad[:20]).min() for key_rad in HELD_OUT_RAD)
    assert nearest_rad > CLEARANCE_RAD


def test_held_out_gestures_as_people_make_them_are_within_the_clearance(hand):
    from cpep_train.stages import move

    for stage in (stage for stage in STAGES if stage.held_out):
        for seed in range(6):
            made = move(stage, draw_style(np.random.default_rng(seed)), hand, 100, RATE_HZ, np.random.default_rng(seed))
            assert np.median(distance_rad(made.poses_rad[:, :20], stage.keys_rad[..., :20])) < CLEARANCE_RAD / 2


def test_postures_have_the_few_principal_components_of_natural_hands(poses):
    share = np.linalg.eigvalsh(np.cov(poses[..., :20].reshape(-1, 20).T))[::-1]
    kept = np.cumsum(share) / share.sum()
    assert 0.55 < kept[1] < 0.75  # Ingram et al. 2008: two components explain 60 %, ten 94 %
    assert kept[9] > 0.9


def test_neighbouring_fingers_bend_together_more_than_distant_ones(poses):
    knuckles = np.corrcoef(poses[..., [5, 9, 13, 17]].reshape(-1, 4).T)
    assert knuckles[0, 1] > knuckles[0, 2] > knuckles[0, 3] > 0


def test_the_hand_moves_at_speeds_that_people_have_and_holds_as_long(poses):
    speed_rad_s = np.abs(np.diff(poses[..., :20], axis=1)) * RATE_HZ
    assert speed_rad_s.max() < 9.0
    assert 0.3 < np.mean(speed_rad_s.max(axis=2) > 0.5) < 0.7


def test_the_same_seed_moves_the_same_way(hand):
    def one(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return move_free(draw_style(rng), hand, 100, RATE_HZ, rng).poses_rad

    assert np.array_equal(one(4), one(4))
    assert not np.array_equal(one(4), one(5))
