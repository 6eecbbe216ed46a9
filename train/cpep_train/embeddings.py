"""Embeddings of a corpus as arrays, for use in a notebook."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import DataError
from cpep_train.checkpoint import Checkpoint, load_checkpoint
from cpep_train.corpus import Corpus
from cpep_train.evaluate import choose, embed_emg, embed_poses, torch_embedding
from cpep_train.windows import SessionStore, WindowDataset


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Some windows of a corpus, embedded; row i of all arrays is one window."""

    emg: NDArray[np.float32]  # (n, D), unit length; several queries of one window are concatenated
    pose: NDArray[np.float32]  # (n, D), unit length; NaN where the window has no pose
    gesture: NDArray[np.str_]  # (n,)
    user: NDArray[np.str_]  # (n,)
    session: NDArray[np.str_]  # (n,)
    split: NDArray[np.str_]  # (n,)
    start_s: NDArray[np.float64]  # (n,), in its recording


def embed_corpus(
    run: Path | Checkpoint, data: Path, *, splits: Collection[str] = ("test",), windows_per_recording: int = 40
) -> Embeddings:
    """Embed windows of some splits, evenly spread over each recording, with both encoders of a finished run.

    Leakage is not checked: splits that were trained on may be embedded.
    Raises DataError when the corpus does not fit the run or has no window in those splits.
    """
    checkpoint = run if isinstance(run, Checkpoint) else load_checkpoint(run)
    recipe = checkpoint.recipe
    corpus = Corpus.open(data).usable(recipe, checkpoint.provenance.skipped)
    corpus.check(recipe)
    store = SessionStore(corpus, recipe, checkpoint.statistics)
    numbers = [number for number, row in enumerate(corpus.rows) if row.split in splits]
    gestures = tuple(sorted({corpus.rows[number].stage for number in numbers}))
    windows = choose(store, numbers, gestures, windows_per_recording, with_pose=False)
    if not len(windows):
        raise DataError(f"{data}: there is no window in the splits {', '.join(splits)}")
    with_pose = WindowDataset(store, (), with_pose=True).admissible(windows.places)
    pose = np.full((len(windows), recipe.d_embed), np.nan, np.float32)
    if with_pose.any():
        pose[with_pose] = embed_poses(checkpoint.pose, windows.only(with_pose))
    rows = [corpus.rows[number] for number, _ in windows.places]
    return Embeddings(
        emg=embed_emg(torch_embedding(checkpoint.emg), windows),
        pose=pose,
        gesture=np.array([row.stage for row in rows]),
        user=np.array([row.user for row in rows]),
        session=np.array([row.session for row in rows]),
        split=np.array([row.split for row in rows]),
        start_s=windows.places[:, 1] / recipe.signal.sample_rate_hz,
    )
