"""The windows that all protocols of an evaluation share, chosen once and embedded once."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import DataError
from cpep_train.checkpoint import Checkpoint
from cpep_train.corpus import Corpus
from cpep_train.evaluate import (
    EvaluationSet,
    Examples,
    Score,
    choose,
    embed_emg,
    embed_poses,
    evaluation_set,
    torch_embedding,
)
from cpep_train.windows import SessionStore

Protocol = Literal["zero-shot", "probe", "enrolment", "retrieval"]
_PER_RECORDING = 40  # windows of a recording, evenly spread


@dataclass(frozen=True, slots=True)
class EmbeddedWindows:
    """The windows of an evaluation, embedded."""

    checkpoint: Checkpoint
    examples: EvaluationSet
    queries: NDArray[np.float32]  # (Q, D), EMG windows to classify
    references: NDArray[np.float32]  # (R, D), poses in the index
    fitting: Examples  # EMG windows of training people: trained recordings, and gestures that training never saw
    fitted: NDArray[np.float32]  # (F, D), embeddings of `fitting`

    @property
    def store(self) -> SessionStore:
        """The filtered sessions."""
        return self.examples.queries.dataset.store

    @property
    def trained(self) -> NDArray[np.bool_]:
        """Which of `fitting` the encoder was trained on, (F,)."""
        trained: NDArray[np.bool_] = self.examples.seen[self.fitting.gesture_index]
        return trained


@dataclass(frozen=True, slots=True)
class ProtocolScores:
    """The scores of one reading (a way to answer) of a protocol, for every kind of query."""

    protocol: Protocol
    name: str
    scores: tuple[Score, ...]
    penalty: float = 0.0  # subtracted from cosines of trained gestures; exported bundles use it


def embed(checkpoint: Checkpoint, corpus: Corpus) -> EmbeddedWindows:
    """Choose and embed the windows of an evaluation."""
    examples = evaluation_set(checkpoint, corpus, windows_per_recording=_PER_RECORDING)
    store = examples.queries.dataset.store
    fitting_rows = [
        number
        for number, row in enumerate(store.corpus.rows)
        if row.stage in examples.gestures
        and not row.held_out_user
        and (row.split == "train" or (row.held_out_stage and row.split != ""))
    ]
    fitting = choose(store, fitting_rows, examples.gestures, _PER_RECORDING, with_pose=False)
    if len(fitting) == 0:
        raise DataError(f"{corpus.folder}: there are no training recordings to compare with")
    emg = torch_embedding(checkpoint.emg)
    return EmbeddedWindows(
        checkpoint=checkpoint,
        examples=examples,
        queries=embed_emg(emg, examples.queries),
        references=embed_poses(checkpoint.pose, examples.references),
        fitting=fitting,
        fitted=embed_emg(emg, fitting),
    )
