from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from cpep_export.live_replay import embed_live
from cpep_train.corpus import Corpus
from cpep_train.evaluate import Examples, evaluation_set
from cpep_train.windows import SessionStore, WindowDataset, fit_statistics


class Verbatim:
    """An encoder whose embedding is the window itself."""

    def embed(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        return window.ravel()


@pytest.fixture(scope="module")
def queries(tiny_checkpoint, tiny_corpus) -> Examples:
    """Windows of one recording with a gap and of others without, in random order."""
    corpus, recipe = Corpus.open(tiny_corpus), tiny_checkpoint.recipe
    examples = evaluation_set(tiny_checkpoint, corpus).queries
    torn = int(examples.places[0, 0])
    whole = examples.dataset.store.layout(torn)
    n_samples = whole.n_samples
    layouts = {torn: replace(whole, spans=((0, n_samples // 2), (n_samples // 2 + 50, n_samples)), failed=())}
    store = SessionStore(corpus, recipe, fit_statistics(corpus, recipe), layouts=layouts)
    sessions = [int(number) for number in np.unique(examples.places[:, 0])]
    dataset = WindowDataset(store, sessions, with_pose=False)
    places = np.random.default_rng(0).permutation(dataset.index)
    assert np.sum(places[:, 0] == torn) > 1
    return replace(examples, dataset=dataset, places=places)


def test_windows_arrive_live_as_an_evaluation_cuts_them(queries):
    arrived = embed_live(Verbatim(), queries)

    expected = queries.emg().reshape(len(queries), -1)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(arrived, expected, atol=1e-5)


def test_a_window_that_no_signal_reaches_is_an_error(queries):
    session = queries.places[0, 0]
    across = next(last for _, last in queries.dataset.store.layout(int(session)).spans[::-1])
    beyond = replace(queries, places=np.array([[session, across]]))

    with pytest.raises(ValueError, match="shorter"):
        embed_live(Verbatim(), beyond)
