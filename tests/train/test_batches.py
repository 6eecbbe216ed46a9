import numpy as np
import pytest

from cpep_train.batches import N_STREAMS, TrainingBatches, training_loader
from cpep_train.corpus import Corpus
from cpep_train.recipe import Recipe
from cpep_train.windows import SessionStore, WindowDataset, fit_statistics
from tests.train.toy_corpus import varied


def _dataset(corpus: Corpus, recipe: Recipe, cache_bytes: int = 1 << 30) -> WindowDataset:
    store = SessionStore(corpus, recipe, fit_statistics(corpus, recipe), cache_bytes=cache_bytes)
    return WindowDataset(store, corpus.numbers("train"), with_pose=True)


@pytest.fixture
def large(toy_corpus, tiny_recipe) -> WindowDataset:
    """Twelve recordings with a cache for eight, which is two per stream."""
    dataset = _dataset(toy_corpus, varied(tiny_recipe, windows={"jitter_samples": 0}))
    dataset.store.cache_bytes = 8 * dataset.store.track_bytes(0)
    return dataset


def test_a_large_corpus_is_read_in_streams_each_recording_by_one_of_them(large):
    batches = [batch[:, 0] for batch in TrainingBatches(large, 6, seed=0)]
    streams = [np.unique(np.concatenate(batches[number::N_STREAMS])) for number in range(N_STREAMS)]
    assert [len(stream) for stream in streams] == [3] * N_STREAMS
    assert len(np.unique(np.concatenate(streams))) == 12


def test_a_stream_draws_from_few_recordings_at_a_time_and_shows_each_window_once(large):
    batches = list(TrainingBatches(large, 6, seed=0))
    places = np.concatenate(batches)
    assert len(np.unique(places, axis=0)) == len(places) >= len(large) - 6 * N_STREAMS
    assert max(len(np.unique(batch[:, 0])) for batch in batches) <= 2


def test_a_stream_reads_each_recording_once_and_its_first_again(large):
    stream = list(TrainingBatches(large, 6, seed=0))[::N_STREAMS]
    store, loaded = large.store, list[int]()
    load = store._load
    store._load = lambda number: loaded.append(number) or load(number)
    store.cache_bytes = 2 * store.track_bytes(0)  # the share of one stream's reader
    for places in stream:
        large.fetch(places)
    assert len(loaded) <= 3 + 1


def test_readers_of_their_own_give_the_same_batches(toy_corpus, tiny_recipe):
    dataset = _dataset(toy_corpus, tiny_recipe)
    dataset.store.cache_bytes = 8 * dataset.store.track_bytes(0)
    alone = [batch.emg for batch in training_loader(dataset, 16, seed=1, n_workers=0)]
    helped = [batch.emg for batch in training_loader(dataset, 16, seed=1, n_workers=2)]
    assert len(alone) == len(helped)
    assert all(bool((one == other).all()) for one, other in zip(alone, helped, strict=True))
