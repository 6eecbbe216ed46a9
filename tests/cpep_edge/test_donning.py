import numpy as np
import pytest

from cpep_edge.donning import Donning, channel_levels_uv, measure_donning, placements, stretch_levels_uv, window_means
from cpep_edge.errors import DataError
from cpep_edge.head import fit_head
from cpep_edge.mpf import MpfSpec, MpfStream, band_edges_hz, design_bands, permutation
from cpep_edge.preprocess import Preprocessing, Preprocessor, design_filter

RATE_HZ = 1000.0
SPEC = Preprocessing(RATE_HZ, design_filter(RATE_HZ, 20.0), scale_uv=10.0, clip=50.0)
N = 8
FRONT_END = MpfSpec(
    n_electrodes=N,
    bands=design_bands(RATE_HZ, band_edges_hz(RATE_HZ, 20.0)),
    hop_samples=25,
    span_samples=100,
    shrinkage=0.01,
)
WINDOW_TOKENS = 7


def gesture_uv(gesture: int, seconds: float, seed: int, gains: np.ndarray | None = None) -> np.ndarray:
    """EMG of one of three gestures: two muscles each, which neighbouring electrodes around the ring pick up too."""
    rng = np.random.default_rng((seed, gesture))
    n = round(seconds * RATE_HZ)
    active = np.zeros(N)
    active[[[0, 3], [1, 6], [4, 5]][gesture]] = (30, 15)
    sources = rng.normal(size=(n, N)) * (active + 2)
    spread = np.exp(-np.minimum(np.arange(N), N - np.arange(N)) / 0.8)
    mixing = np.stack([np.roll(spread, k) for k in range(N)])
    return (sources @ mixing * (1 if gains is None else gains)).astype(np.float32)


def test_the_level_is_the_geometric_mean_of_the_stretches():
    loud, quiet = np.full((2000, 1), 100.0, np.float32), np.full((2000, 1), 1.0, np.float32)
    stretches = stretch_levels_uv(np.concatenate([loud, quiet]), RATE_HZ)
    assert len(stretches) == 40
    assert channel_levels_uv(stretches) == pytest.approx([10.0])


@pytest.mark.parametrize(
    ("n", "max_turn", "mirrored", "count"), [(8, 2, False, 5), (8, 4, True, 16), (10, 9, True, 20)]
)
def test_placements_are_different_rings_and_the_usual_one_is_first(n, max_turn, mirrored, count):
    orders = placements(n, max_turn, mirrored)
    assert orders[0] == tuple(range(n))
    assert len(set(orders)) == len(orders) == count
    for order in orders:  # neighbours on the ring stay neighbours
        steps = np.diff((*order, order[0])) % n
        assert set(steps.tolist()) in ({1}, {n - 1})


def test_a_band_finds_its_place_by_what_training_people_s_gestures_look_like():
    """The training people wear the band straight; the next wearer wears it turned and with other gains."""
    tokens, labels = [], []
    for person in range(4):
        gains = np.exp(np.random.default_rng(person).normal(0, 0.3, N))
        recordings = [gesture_uv(g, 4, person, gains) for g in range(3)]
        straight = measure_donning(recordings, SPEC, FRONT_END)
        for gesture, recording in enumerate(recordings):
            scaled = Preprocessor(SPEC, N, straight.level_uv)(recording)
            found = window_means(MpfStream(FRONT_END, centre=straight.centre)(scaled), WINDOW_TOKENS)
            tokens.append(found)
            labels.append(np.full(len(found), gesture))
    head = fit_head(np.concatenate(tokens), np.concatenate(labels))
    gains = np.exp(np.random.default_rng(9).normal(0, 0.3, N))
    for order in placements(N, 4, True):
        worn = [np.empty((4000, N), np.float32) for _ in range(3)]
        for gesture, recording in enumerate(worn):
            recording[:, order] = gesture_uv(gesture, 4, 77, gains)  # the model's electrode c is the band's order[c]
        found = measure_donning(
            worn,
            SPEC,
            FRONT_END,
            orders=placements(N, 4, True),
            likelihood=lambda recs: head.fit_of(np.concatenate([window_means(one, WINDOW_TOKENS) for one in recs])),
        )
        assert found.order == order


def test_recentred_tokens_of_the_calibration_have_no_mean():
    recordings = [gesture_uv(g, 4, 5) for g in range(3)]
    donning = measure_donning(recordings, SPEC, FRONT_END)
    tokens = []
    for recording in recordings:
        scaled = Preprocessor(SPEC, N, donning.level_uv)(recording)
        tokens.append(MpfStream(FRONT_END, centre=donning.centre)(scaled[200:]))
    assert np.abs(np.concatenate(tokens).mean(axis=0)).max() < 1e-4


def test_flat_doubled_and_missing_electrodes_are_known_as_such_and_change_nothing_else():
    whole = gesture_uv(0, 6, 1)
    broken = whole.copy()
    broken[:, 2] = 0  # the device has no such channel
    broken[:, 4] = 123  # flat
    broken[:, 7] = broken[:, 6]  # the same electrode twice
    donning = measure_donning([broken], SPEC, FRONT_END, missing=[2])
    assert donning.dead == (2, 4, 7)
    tokens = MpfStream(FRONT_END, centre=donning.centre, dead=donning.dead)(
        Preprocessor(SPEC, N, donning.level_uv)(broken)
    )
    assert np.isfinite(tokens).all()
    row, column = np.triu_indices(N)
    of_dead = np.tile(np.isin(row, donning.dead) | np.isin(column, donning.dead), len(FRONT_END.bands))
    assert np.all(tokens[:, of_dead] == 0)
    assert np.all(tokens[:, ~of_dead].std(axis=0) > 0)


def test_a_missing_electrode_has_no_say_in_where_a_band_sits():
    """Without a front end, placement uses the channels' levels; that of a missing channel must be ignored."""
    gains = np.array([1, 4, 0.25, 2, 0.5, 3, 0.4, 1.5])
    rng = np.random.default_rng(3)
    for turn, missing in ((-2, (1,)), (1, (0, 5)), (2, (3, 4))):
        order = tuple(np.roll(np.arange(N), -turn).tolist())
        worn = np.empty((4000, N), np.float32)
        worn[:, order] = 20 * gains * rng.normal(size=(4000, N))
        worn[:, missing] = 0
        pattern, orders = tuple(np.log(gains)), placements(N, 2, False)
        donning = measure_donning([worn], SPEC, None, orders=orders, pattern=pattern, missing=missing)
        assert donning.order == order
        assert donning.dead == tuple(sorted(order.index(electrode) for electrode in missing))
        with pytest.raises(DataError, match=f"channel {missing[0] + 1} is flat"):
            measure_donning([worn], SPEC, None, orders=orders, pattern=pattern)


@pytest.mark.parametrize("order", [(), (3, 2, 1, 0, 7, 6, 5, 4)])
def test_a_device_that_lacks_electrodes_leaves_the_model_s_places_dead(order):
    donning = Donning(order, dead=(6,)).lacking([0, 1])
    assert donning.dead == ((0, 1, 6) if not order else (2, 3, 6))
    assert donning.lacking([0, 1]) == donning


def test_fewer_than_two_live_electrodes_are_refused_by_name():
    signal = gesture_uv(0, 4, 1)
    signal[:, 1:] = 5
    with pytest.raises(DataError, match="two live electrodes, but of 8 channels 2, 3, 4, 5, 6, 7, 8 are dead"):
        measure_donning([signal], SPEC, FRONT_END)


def test_a_permutation_of_tokens_is_that_of_the_electrodes():
    signal = Preprocessor(SPEC, N)(gesture_uv(1, 2, 3))
    tokens = MpfStream(FRONT_END)(signal)
    for order in placements(N, 4, True):
        moved = MpfStream(FRONT_END)(signal[:, order])
        assert np.allclose(moved, tokens[:, permutation(order, len(FRONT_END.bands))], atol=1e-5)
