"""Training windows drawn from all recordings, to calibrate int8 and to choose the poses to keep."""

import numpy as np
from numpy.typing import NDArray

from cpep_train.checkpoint import Checkpoint
from cpep_train.evaluate import EvaluationSet, torch_embedding
from cpep_train.windows import WindowDataset

CALIBRATION_WINDOWS = 128  # eight times as many kept no more votes
ASKING_WINDOWS = 6_000  # at the least
POSES_PER_WINDOW = 25  # with many poses, few windows do not find all that other windows will ask for
_WINDOWS_AT_ONCE = 256


def calibration_windows(evaluation: EvaluationSet, seed: int) -> NDArray[np.float32]:
    """Windows for the ranges of activations, (n_windows, C, T), preprocessed."""
    windows, places = drawn_windows(evaluation, CALIBRATION_WINDOWS, seed)
    emg: NDArray[np.float32] = windows.fetch(places).emg.numpy()
    return emg


def training_embeddings(
    evaluation: EvaluationSet, checkpoint: Checkpoint, seed: int, n_poses: int = 0
) -> NDArray[np.float32]:
    """Windows embedded by the trained module, (n_windows, D).

    n_poses: among which they choose; the more of these, the more windows
    """
    windows, places = drawn_windows(evaluation, max(ASKING_WINDOWS, n_poses // POSES_PER_WINDOW), seed)
    windows.store.prepare(np.unique(places[:, 0]).tolist())
    embed, starts = torch_embedding(checkpoint.emg), range(0, len(places), _WINDOWS_AT_ONCE)
    return np.concatenate([embed(windows.fetch(places[at : at + _WINDOWS_AT_ONCE]).emg.numpy()) for at in starts])


def drawn_windows(evaluation: EvaluationSet, n_most: int, seed: int) -> tuple[WindowDataset, NDArray[np.int64]]:
    """Some training windows of an evaluation's corpus, with their places."""
    store = evaluation.queries.dataset.store
    windows = WindowDataset(store, store.corpus.numbers("train"), with_pose=False)
    return windows, windows.index[np.random.default_rng(seed).permutation(len(windows))[:n_most]]
