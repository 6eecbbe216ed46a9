"""Batches for training: which windows go together, in what order, and which process reads them.

A corpus that fits the store's cache is shuffled as a whole. A larger one is read in streams. Each
stream has its own share of the recordings, in an order drawn anew every epoch, and is read by one process. It draws
windows from a sliding pool of neighbouring recordings, so each recording is read once, from start to end, and dropped.

In distributed training, every process draws the same batches and takes its share of each.
"""

import os
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from cpep_edge.errors import ConfigError
from cpep_edge.spread import evenly_spread
from cpep_train.processes import n_processes, rank
from cpep_train.windows import WindowBatch, WindowDataset

N_STREAMS = 4  # for a corpus larger than the cache; fixed, so that the batch order does not depend on the machine
VALIDATION_WINDOWS = 512  # enough for a curve; evaluation is `cpep_train.evaluate`
_POOL_SHARE = 0.6  # share of a stream's cache for its pool; the rest is for recordings entering and leaving it


class TrainingBatches(Sampler[NDArray[np.int64]]):
    """The windows of one epoch, shuffled, jittered and cut into batches; each is (B, 2), session and start.

    The order depends only on the seed and the epoch, so a resumed run sees the same batches as an uninterrupted one.
    """

    def __init__(self, dataset: WindowDataset, batch_size: int, seed: int) -> None:
        """Raises ConfigError when the batch size is not a multiple of the number of processes."""
        self._dataset, self._seed, self._epoch = dataset, seed, 0
        self._batch_size = min(batch_size, len(dataset))
        store = dataset.store
        track_bytes = [store.track_bytes(int(number)) for number in np.unique(dataset.index[:, 0])]
        self.is_large = sum(track_bytes) > store.cache_bytes
        self._n_streams = N_STREAMS if self.is_large and len(dataset) >= 2 * N_STREAMS * batch_size else 1
        self._n_batches = len(dataset) // self._n_streams // self._batch_size  # of each stream
        self._pool = max(1, int(_POOL_SHARE * store.cache_bytes / self._n_streams / np.mean(track_bytes)))  # recordings
        if self._batch_size % n_processes():
            raise ConfigError(f"a batch of {self._batch_size} windows does not divide among {n_processes()} processes")

    def __len__(self) -> int:
        return self._n_streams * self._n_batches

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        rng = np.random.default_rng((self._seed, self._epoch))
        n_used = self._n_batches * self._batch_size
        streams = [order[:n_used].reshape(self._n_batches, self._batch_size) for order in self._orders(rng)]
        for batches in zip(*streams, strict=True):
            for batch in batches:
                yield self._jittered(self._dataset.index[batch], rng)[rank() :: n_processes()]

    def _orders(self, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
        """The windows of each stream, in the order in which they are drawn."""
        session = self._dataset.index[:, 0]
        numbers = rng.permutation(np.unique(session))
        if not self.is_large:
            yield rng.permutation(len(session))
            return
        turn = np.empty(int(numbers.max()) + 1, np.int64)
        turn[numbers] = np.arange(len(numbers))
        by_turn = np.argsort(turn[session], kind="stable")
        n = len(session) // self._n_streams
        for start in range(0, n * self._n_streams, n):
            windows = by_turn[start : start + n]
            place = turn[session[windows]] - turn[session[windows[0]]]
            n_recordings = int(place[-1]) + 1
            drawn_at = place + min(self._pool, n_recordings) * rng.random(n)
            yield windows[np.argsort(drawn_at % n_recordings)]  # the pool wraps around from the end to the beginning

    def _jittered(self, places: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        recipe = self._dataset.store.recipe
        grid = self._dataset.grid
        reach = recipe.windows.jitter_samples // grid
        if reach == 0:
            return places
        moved = places.copy()
        moved[:, 1] += rng.integers(-reach, reach, len(places), endpoint=True) * grid
        return np.where(self._dataset.admissible(moved)[:, None], moved, places)


class _Fetching(Dataset[WindowBatch]):
    """A dataset whose items are whole batches, indexed by the places of their windows."""

    def __init__(self, windows: WindowDataset) -> None:
        self.windows = windows

    def __getitem__(self, places: NDArray[np.int64]) -> WindowBatch:
        return self.windows.fetch(places)


def training_loader(
    dataset: WindowDataset, batch_size: int, seed: int, *, n_workers: int | None = None
) -> DataLoader[WindowBatch]:
    """Shuffled, jittered batches for training.

    n_workers: processes that read; None: no extra process for a corpus that fits the cache, else one per stream
    """
    batches = TrainingBatches(dataset, batch_size, seed)
    if n_workers is None:
        n_workers = min(N_STREAMS, os.cpu_count() or 1) if batches.is_large else 0
    if n_workers == 0 and not batches.is_large:
        dataset.store.prepare(np.unique(dataset.index[:, 0]).tolist())
    return DataLoader(
        _Fetching(dataset),
        sampler=batches,
        batch_size=None,
        num_workers=n_workers,
        worker_init_fn=_share_cache,
        persistent_workers=n_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def validation_loader(dataset: WindowDataset, batch_size: int) -> DataLoader[WindowBatch]:
    """The same batches every time, of `VALIDATION_WINDOWS` at most, spread evenly over the dataset."""
    spread = evenly_spread(len(dataset), VALIDATION_WINDOWS)
    batches = [dataset.index[spread[start : start + batch_size]] for start in range(0, len(spread), batch_size)]
    return DataLoader(_Fetching(dataset), sampler=batches, batch_size=None)


def _share_cache(worker: int) -> None:
    """Give a worker its share of the cache. Batches and streams go to workers in turn; each has its own recordings."""
    info = get_worker_info()
    if info is not None:
        info.dataset.windows.store.cache_bytes //= info.num_workers  # type: ignore[attr-defined]
        torch.set_num_threads(1)
