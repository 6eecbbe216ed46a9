import numpy as np
import pytest

from cpep_train.band_placement import Placement, PlacementModel, common_frame, placements

N_ELECTRODES, N_GESTURES = 8, 5


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2)


def _levels(
    pattern: np.ndarray, placement: Placement, rng: np.random.Generator, n: int = 60
) -> tuple[np.ndarray, np.ndarray]:
    """Log levels of every gesture as a band worn like this reads them, and their labels."""
    gesture = np.repeat(np.arange(N_GESTURES), n)
    on_the_arm = pattern[gesture] + 0.3 * rng.standard_normal((len(gesture), N_ELECTRODES))
    read = np.empty_like(on_the_arm)
    read[:, placement.order(N_ELECTRODES)] = on_the_arm
    return read, gesture


def test_the_order_undoes_how_the_band_is_worn() -> None:
    for placement in placements(N_ELECTRODES):
        assert sorted(placement.order(N_ELECTRODES)) == list(range(N_ELECTRODES))
    assert Placement(2, mirrored=True).order(4).tolist() == [2, 1, 0, 3]
    assert len(set(placements(N_ELECTRODES))) == 2 * N_ELECTRODES


def test_people_with_turned_and_mirrored_bands_come_to_a_common_frame(rng: np.random.Generator) -> None:
    pattern = rng.standard_normal((N_GESTURES, N_ELECTRODES))
    worn = [Placement(), Placement(3), Placement(6, mirrored=True), Placement(0, mirrored=True)]
    means = []
    for placement in worn:
        levels, gesture = _levels(pattern + 0.2 * rng.standard_normal(pattern.shape), placement, rng)
        means.append([levels[gesture == one].mean(axis=0) for one in range(N_GESTURES)])
    assert common_frame(np.array(means)) == worn


def test_a_new_wearers_placement_is_found_without_labels(rng: np.random.Generator) -> None:
    pattern = rng.standard_normal((N_GESTURES, N_ELECTRODES))
    model = PlacementModel.fit(*_levels(pattern, Placement(), rng))
    for worn in (Placement(), Placement(5), Placement(1, mirrored=True)):
        unlabelled, _ = _levels(pattern + 0.2 * rng.standard_normal(pattern.shape), worn, rng, n=20)
        assert model.find(rng.permutation(unlabelled)) == worn


def test_a_restricted_search_stays_among_its_candidates(rng: np.random.Generator) -> None:
    pattern = rng.standard_normal((N_GESTURES, N_ELECTRODES))
    model = PlacementModel.fit(*_levels(pattern, Placement(), rng))
    unlabelled, _ = _levels(pattern, Placement(4), rng)
    assert model.find(unlabelled, [Placement(1), Placement(3)]) in {Placement(1), Placement(3)}
