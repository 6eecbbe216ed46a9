from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis

from cpep_edge.errors import ArtifactError
from cpep_edge.head import MOST_DRIFT, Drift, Head, calibrate_temperature, fit_head

K, D = 4, 12
Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]


def gestures(n: int, seed: int, *, spread: float = 1.0, shift: NDArray[np.float64] | None = None) -> Labelled:
    """Windows of Gaussian gestures with different means and covariances, which are the same for every seed."""
    world, rng = np.random.default_rng(0), np.random.default_rng(seed)
    means = world.normal(0, 1.2, (K, D)) + (0 if shift is None else shift)
    shapes = world.normal(0, 0.4, (K, D, D)) + np.eye(D)
    label = np.repeat(np.arange(K), n)
    x = means[label] + spread * np.einsum("nij,nj->ni", shapes[label], rng.normal(size=(len(label), D)))
    return x.astype(np.float32), label


def accuracy(head: Head, x: NDArray[np.float32], label: NDArray[np.int64]) -> float:
    return float(np.mean(head.log_likelihood(head.project(x)).argmax(axis=1) == label))


def test_a_head_reads_more_than_a_linear_discriminant_and_no_less_than_a_quadratic_one():
    x, label = gestures(60, 1)
    asked, true = gestures(500, 2)
    ours = accuracy(fit_head(x, label), asked, true)
    linear = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2).fit(x, label).score(asked, true)
    quadratic = QuadraticDiscriminantAnalysis(reg_param=0.3).fit(x, label).score(asked, true)
    assert ours > linear + 0.02
    assert ours > quadratic - 0.06  # it has the right model and enough windows


def test_without_quadratic_directions_it_is_fisher_s_and_agrees_with_sklearn():
    x, label = gestures(200, 3)
    asked, _ = gestures(300, 4)
    head = fit_head(x, label, n_quadratic=0, shrinkage=0.2)
    assert head.projection.shape == (D, K - 1)
    centred = head.project(asked)[:, None] - head.means
    nearest = np.square(centred).sum(axis=2).argmin(axis=1)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2).fit(x, label)
    assert np.mean(nearest == lda.predict(asked)) > 0.995


def test_more_numbers_than_windows_are_no_obstacle():
    rng = np.random.default_rng(5)
    label = np.repeat(np.arange(3), 6)
    means = rng.normal(0, 1, (3, 200))
    x = (means[label] + rng.normal(size=(18, 200))).astype(np.float32)
    asked = (means[label] + rng.normal(size=(18, 200))).astype(np.float32)
    assert accuracy(fit_head(x, label), asked, label) > 0.9


def test_an_unlabelled_calibration_wins_back_what_a_shift_cost():
    x, label = gestures(100, 6)
    shift = np.random.default_rng(8).normal(0, 0.9, (K, D))  # each gesture is shifted differently
    moved, _ = gestures(40, 9, shift=shift)
    asked, true = gestures(400, 10, shift=shift)
    head = fit_head(x, label)
    before, after = accuracy(head, asked, true), accuracy(head.adapted(moved), asked, true)
    assert after > before + 0.05


def test_a_gesture_that_the_calibration_does_not_hold_stays_where_it_was():
    x, label = gestures(40, 6, spread=0.5)
    head = fit_head(x, label)
    adapted = head.adapted(x[label != 2])
    asked, true = gestures(400, 7, spread=0.5)
    before, after = (accuracy(one, asked[true == 2], true[true == 2]) for one in (head, adapted))
    assert after > before - 0.02
    assert head.adapted(x[:0]) is head


def test_shares_sum_to_one_and_a_temperature_makes_them_as_often_right_as_they_say():
    x, label = gestures(6, 11, spread=1.6)
    held, true = gestures(500, 12, spread=1.6)
    head = fit_head(x, label)
    likelihood = head.log_likelihood(head.project(held))
    temperature = calibrate_temperature(likelihood, true)
    calibrated = Head(head.origin, head.projection, head.means, head.factors, temperature)
    shares = calibrated.shares(held)
    assert shares.sum(axis=1) == pytest.approx(1, abs=1e-5)
    said, right = shares.max(axis=1), shares.argmax(axis=1) == true
    assert abs(float(said.mean()) - float(right.mean())) < 0.05
    assert abs(float(head.shares(held).max(axis=1).mean()) - float(right.mean())) > 0.05


def test_what_it_was_fitted_on_is_typical_and_what_is_far_away_is_not():
    x, label = gestures(200, 13)
    head = fit_head(x, label)
    own = head.typicality(head.project(x))[np.arange(len(x)), label]
    assert 0.4 < np.median(own) < 0.8
    assert head.typicality(head.project(x + 30)).max() < 0.01


def test_a_forgotten_gesture_is_never_answered_and_the_others_are_as_they_were():
    x, label = gestures(50, 14)
    head = fit_head(x, label)
    fewer = head.without(1)
    kept = [0, 2, 3]
    before, after = head.log_likelihood(head.project(x)), fewer.log_likelihood(fewer.project(x))
    assert np.allclose(after, before[:, kept], rtol=1e-5)


def test_a_head_comes_back_as_it_was_saved():
    x, label = gestures(50, 15)
    head = fit_head(x, label)
    again = Head.from_bytes(head.to_bytes())
    assert np.array_equal(again.shares(x), head.shares(x))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("means", np.full((K, 15), np.nan, np.float32)),
        ("means", np.zeros((K, 3), np.float32)),
        ("origin", np.zeros(0, np.float32)),
        ("origin", np.zeros(D, np.float64)),
        ("factors", np.zeros((K, 15, 15), np.float32)),
        ("temperature", np.zeros(1, np.float32)),
        ("temperature", np.float32(1)),
    ],
)
def test_a_damaged_head_is_refused(name, value):
    import io

    x, label = gestures(50, 16)
    with np.load(io.BytesIO(fit_head(x, label).to_bytes())) as arrays:
        content = {key: arrays[key] for key in arrays.files}
    file = io.BytesIO()
    np.savez(file, **{**content, name: value})
    with pytest.raises(ArtifactError, match="head"):
        Head.from_bytes(file.getvalue())
    with pytest.raises(ArtifactError, match="cannot be read"):
        Head.from_bytes(file.getvalue()[:100])


def test_one_gesture_or_one_window_of_it_is_too_little():
    x, label = gestures(5, 17)
    with pytest.raises(ValueError, match="two gestures"):
        fit_head(x[:5], label[:5])
    with pytest.raises(ValueError, match="two windows"):
        fit_head(x[:16], label[:16])


def test_a_drift_is_followed_as_far_as_allowed_and_no_farther():
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(3), 200)
    means = 6 * np.eye(3, 12)
    head = fit_head((means[label] + rng.normal(size=(600, 12))).astype(np.float32), label)
    way = rng.normal(size=12)
    drift, steady = Drift(head, hop_s=0.05), Drift(head, hop_s=0.05)
    for n in range(3_000):
        gesture = rng.integers(3)
        window = means[gesture] + rng.normal(size=12)
        steady.follow(window.astype(np.float32))
        drift.follow((window + 4 * min(1, n / 1_500) * way / np.linalg.norm(way)).astype(np.float32))
    assert np.sqrt(np.mean(np.square(steady.offset))) < 0.3
    assert 0.5 < np.sqrt(np.mean(np.square(drift.offset))) <= MOST_DRIFT * 1.0001
    later = (means[label] + rng.normal(size=(600, 12)) + 4 * way / np.linalg.norm(way)).astype(np.float32)

    def likelihood(one: Head) -> float:
        return float(one.log_likelihood(one.project(later))[np.arange(600), label].mean())

    assert likelihood(drift.head) > likelihood(head) + 1


def test_what_is_no_clear_gesture_moves_nothing():
    rng = np.random.default_rng(1)
    label = np.repeat(np.arange(2), 100)
    x = rng.normal(size=(200, 6)).astype(np.float32)  # both gestures are the same
    head = fit_head(x, label)
    drift = Drift(replace(head, means=head.means[[0, 0]], factors=head.factors[[0, 0]]), hop_s=0.05)
    for window in x:
        drift.follow(window + 3)
    assert not drift.offset.any()


def test_a_gesture_that_a_calibration_is_known_to_lack_stays_and_takes_no_windows():
    rng = np.random.default_rng(0)
    windows = rng.normal(size=(90, 6)).astype(np.float32)
    gesture = np.repeat([0, 1, 2], 30)
    windows[np.arange(90), gesture] += 6
    head, moved = fit_head(windows, gesture), windows[gesture != 1] + 1
    found = head.adapted(moved, absent=1)
    assert np.array_equal(found.means[1], head.means[1])
    assert np.array_equal(found.means[[0, 2]], head.without(1).adapted(moved).means)


def test_a_drift_does_not_follow_other_movements():
    rng = np.random.default_rng(2)
    label = np.repeat([0, 1], 100)
    x = (6 * np.eye(2, 6)[label] + rng.normal(size=(200, 6))).astype(np.float32)
    head = fit_head(x, label)
    followed, left = Drift(head, hop_s=0.05), Drift(head, hop_s=0.05, other=1)
    for window in x[label == 1] + 1:
        followed.follow(window)
        left.follow(window)
    assert followed.offset.any()
    assert not left.offset.any()
