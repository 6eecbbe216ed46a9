from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import signal

from cpep_edge.errors import DataError
from cpep_edge.preprocess import Preprocessor
from cpep_edge.session import Session
from cpep_train.batches import TrainingBatches
from cpep_train.corpus import FREE_STAGE, Corpus, write_metadata
from cpep_train.recipe import Recipe
from cpep_train.windows import NO_GESTURE, SessionStore, WindowDataset, fit_statistics
from tests.train.toy_corpus import N_CHANNELS, RATE_HZ, damage, varied, write_toy_corpus, write_toy_session


def _store(corpus: Corpus, recipe: Recipe, cache_bytes: int = 1 << 30) -> SessionStore:
    return SessionStore(corpus, recipe, fit_statistics(corpus, recipe), cache_bytes=cache_bytes)


def _alone(toy_corpus: Corpus, path: Path) -> Corpus:
    """A corpus with only this file."""
    write_metadata(path.parent, [replace(toy_corpus.rows[0], filename=path.stem)])
    return Corpus.open(path.parent)


def test_windows_are_what_the_live_filter_gives_block_by_block(toy_corpus, tiny_recipe):
    store = _store(toy_corpus, tiny_recipe)
    dataset = WindowDataset(store, [7], with_pose=True)
    with toy_corpus.session(toy_corpus.rows[7]) as session:
        raw, poses = session.emg(), session.joint_angles()
    live = Preprocessor(store.preprocessing, N_CHANNELS)
    streamed = np.concatenate([live(raw[start : start + 13]) for start in range(0, len(raw), 13)])
    for window in (dataset[number] for number in range(len(dataset))):
        np.testing.assert_array_equal(window.emg.numpy(), streamed[window.start : window.start + 100].T)
        statistics = fit_statistics(toy_corpus, tiny_recipe)
        pose = (poses[window.start : window.start + 100 : 10] - statistics.pose_mean_rad) / statistics.pose_std_rad
        np.testing.assert_allclose(window.pose.numpy(), pose.T, atol=1e-6)


def test_a_window_carries_the_label_of_its_session(toy_corpus, tiny_recipe):
    store = _store(toy_corpus, tiny_recipe)
    dataset = WindowDataset(store, range(len(toy_corpus.rows)), with_pose=True)
    batch = dataset.fetch(dataset.index[::-1].copy())
    for stage, session in zip(batch.stage_index.tolist(), batch.session_index.tolist(), strict=True):
        assert store.stages[stage] == toy_corpus.rows[session].stage
    np.testing.assert_array_equal(dataset.stage_index()[::-1], batch.stage_index.numpy())


def test_poses_alone_are_those_of_the_windows_and_no_signal_is_filtered_for_them(toy_corpus, tiny_recipe, monkeypatch):
    dataset = WindowDataset(_store(toy_corpus, tiny_recipe), range(len(toy_corpus.rows)), with_pose=True)
    places = dataset.index[np.random.default_rng(0).permutation(len(dataset))]
    with monkeypatch.context() as patch:
        patch.setattr(SessionStore, "_steps", lambda *_: pytest.fail("a signal was filtered"))
        alone = dataset.poses(places)
    np.testing.assert_array_equal(alone.numpy(), dataset.fetch(places).pose.numpy())
    np.testing.assert_array_equal(dataset.poses(places).numpy(), alone.numpy())  # now from the cache


def test_recordings_prepared_in_parallel_are_those_read_one_by_one_and_stay_within_the_cache(toy_corpus, tiny_recipe):
    numbers = list(range(len(toy_corpus.rows)))
    one_by_one, prepared = (_store(toy_corpus, tiny_recipe) for _ in range(2))
    prepared.prepare(numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "_load", lambda number: pytest.fail(f"{number} was not prepared"))
        for number in numbers:
            np.testing.assert_array_equal(prepared.track(number).emg, one_by_one.track(number).emg)
            np.testing.assert_array_equal(prepared.track(number).pose, one_by_one.track(number).pose)
    small = _store(toy_corpus, tiny_recipe, cache_bytes=3 * one_by_one.track(0).size_bytes)
    loaded = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "_load", lambda number: loaded.append(number) or one_by_one.track(number))
        small.prepare(numbers)
    assert sorted(loaded) == sorted(small._tracks)  # none is filtered and dropped at once
    assert 1 <= len(loaded) <= 3


def test_windows_of_free_movement_show_no_gesture(toy_corpus, tiny_recipe):
    rows = (replace(toy_corpus.rows[0], stage=FREE_STAGE), *toy_corpus.rows[1:])
    dataset = WindowDataset(_store(Corpus(toy_corpus.folder, rows), tiny_recipe), [0, 1], with_pose=True)
    named = dataset.index[:, 0] == 1
    assert set(dataset.stage_index()[~named].tolist()) == {NO_GESTURE}
    assert NO_GESTURE not in dataset.stage_index()[named]


def test_strides_cover_a_session_and_stay_inside_it(toy_corpus, tiny_recipe):
    dataset = WindowDataset(_store(toy_corpus, tiny_recipe), [0, 1], with_pose=False)
    assert dataset.index[:, 1].tolist() == 2 * list(range(0, 901, 50))


def test_no_window_crosses_a_gap_and_the_filter_starts_anew_after_it(toy_corpus, tiny_recipe, tmp_path):
    time_s = np.arange(1000) / RATE_HZ + 5.0 * (np.arange(1000) >= 433)
    path = write_toy_session(tmp_path, "gap", time_s=time_s)
    corpus = _alone(toy_corpus, path)
    store = _store(corpus, tiny_recipe)
    starts = WindowDataset(store, [0], with_pose=False).index[:, 1]
    assert starts.tolist() == [*range(0, 334, 50), *range(440, 901, 50)]
    with Session(path) as session:
        anew = Preprocessor(store.preprocessing, N_CHANNELS)(session.emg(433))
    np.testing.assert_array_equal(store.track(0).emg[:, 433:], anew.T)


def test_a_failed_pose_fit_masks_its_windows_only_where_poses_count(toy_corpus, tiny_recipe, tmp_path):
    corpus = _alone(toy_corpus, write_toy_session(tmp_path, "failed", failed=slice(505, 506)))
    store = _store(corpus, tiny_recipe)
    starts = WindowDataset(store, [0], with_pose=True).index[:, 1]
    assert not np.any((starts <= 505) & (505 < starts + 100))
    assert len(WindowDataset(store, [0], with_pose=False)) == len(starts) + 2


def test_jitter_moves_windows_but_never_onto_a_gap_or_a_failed_pose(toy_corpus, tiny_recipe, tmp_path):
    time_s = np.arange(1000) / RATE_HZ + 1.0 * (np.arange(1000) >= 400)
    corpus = _alone(toy_corpus, write_toy_session(tmp_path, "x", time_s=time_s, failed=slice(700, 710)))
    dataset = WindowDataset(_store(corpus, tiny_recipe), [0], with_pose=True)
    batches = TrainingBatches(dataset, 5, seed=0)
    seen = []
    for epoch in range(30):
        batches.set_epoch(epoch)
        seen.extend(np.concatenate(list(batches))[:, 1].tolist())
    starts = np.unique(seen)
    assert len(starts) > 2 * len(dataset)
    assert np.all(starts % 10 == 0)
    stops = starts + 100
    assert not np.any((starts < 400) & (stops > 400))
    assert not np.any((starts < 710) & (stops > 700))
    assert starts.min() >= 0
    assert stops.max() <= 1000


def test_an_epoch_shows_each_window_once_and_depends_on_seed_and_epoch_alone(toy_corpus, tiny_recipe):
    still = varied(tiny_recipe, windows={"jitter_samples": 0})
    dataset = WindowDataset(_store(toy_corpus, still), toy_corpus.numbers("train"), with_pose=True)
    batches, again = TrainingBatches(dataset, 4, seed=1), TrainingBatches(dataset, 4, seed=1)
    first = np.concatenate(list(batches))
    assert sorted(map(tuple, first.tolist())) == sorted(map(tuple, dataset.index.tolist()))
    again.set_epoch(1)
    assert not np.array_equal(first, np.concatenate(list(again)))
    again.set_epoch(0)
    np.testing.assert_array_equal(first, np.concatenate(list(again)))


def test_a_small_cache_gives_the_same_windows_and_draws_sessions_in_blocks(toy_corpus, tiny_recipe):
    numbers = toy_corpus.numbers("train")
    large = WindowDataset(_store(toy_corpus, tiny_recipe), numbers, with_pose=True)
    small_store = _store(toy_corpus, tiny_recipe, cache_bytes=60_000)
    small = WindowDataset(small_store, numbers, with_pose=True)
    places = large.index[np.random.default_rng(0).permutation(len(large))]
    np.testing.assert_array_equal(large.fetch(places).emg.numpy(), small.fetch(places).emg.numpy())
    block = np.concatenate(list(TrainingBatches(small, 19, seed=0)))[: 2 * 19]
    assert len(np.unique(block[:, 0])) <= 3  # of twelve sessions


def test_statistics_come_from_training_sessions_alone(toy_corpus, tiny_recipe):
    statistics = fit_statistics(toy_corpus, tiny_recipe)
    sos = signal.butter(4, 20.0, "highpass", fs=RATE_HZ, output="sos")
    power, poses = [], []
    for number in toy_corpus.numbers("train"):
        with toy_corpus.session(toy_corpus.rows[number]) as session:
            raw = session.emg().astype(float)
            power.append(np.mean(signal.sosfilt(sos, raw - raw[0], axis=0) ** 2))
            poses.append(session.joint_angles())
    assert statistics.scale_uv == pytest.approx(np.sqrt(np.mean(power)), rel=1e-3)
    np.testing.assert_allclose(statistics.pose_mean_rad, np.concatenate(poses).mean(axis=0), atol=1e-5)


def test_an_electrode_that_is_dead_in_one_donning_stops_only_what_reads_each_electrode_by_itself(tiny_recipe, tmp_path):
    values = tiny_recipe.model_dump() | {"calibration": {"repetitions": 1, "donning": "user"}}
    raw = Recipe.model_validate(values)
    values["emg"] |= {"front_end": "mpf", "patch_samples": 10, "span_samples": 40}
    mpf = Recipe.model_validate(values)
    corpus = write_toy_corpus(tmp_path / "toy")
    whole = fit_statistics(corpus, mpf)
    for row in corpus.rows:
        if row.user == "u1":
            damage(corpus.file(row), "emg", (slice(None), 2), np.random.default_rng(1).normal(0, 0.01, 1000))
    with pytest.raises(DataError, match="channel 3 is flat"):
        fit_statistics(corpus, raw)
    assert fit_statistics(corpus, mpf).scale_uv == pytest.approx(whole.scale_uv, rel=0.2)


def test_a_corpus_in_volts_says_so_before_training(tiny_recipe, tmp_path):
    corpus = write_toy_corpus(tmp_path / "toy")
    for row in corpus.rows:
        with corpus.session(row) as session:
            emg_v = 1e-6 * session.emg()
        damage(corpus.file(row), "emg", slice(None), emg_v)
    with pytest.raises(DataError, match="so it must be in volts; import it again with its unit"):
        fit_statistics(corpus, tiny_recipe)


def test_a_corpus_without_any_pose_says_so_before_training(toy_corpus, tiny_recipe, tmp_path):
    corpus = _alone(toy_corpus, write_toy_session(tmp_path, "x", failed=slice(None)))
    with pytest.raises(DataError, match="joint_angles holds no pose"):
        fit_statistics(corpus, tiny_recipe)
