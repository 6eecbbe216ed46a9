"""Compare Hudgins' features and a linear discriminant, as in LibEMG, with a complete bundle: time and accuracy.

Both classify the same EMG windows, which training did not see, of gestures that it did see, among those gestures. The
discriminant is trained with labelled EMG of the people trained on; the bundle uses its poses. Both use the bundle's
filter and calibration.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_bench.latency import measure_interleaved
from cpep_bench.report import PeerFigure
from cpep_edge.recogniser import Recogniser

PART = "window to class"
OURS, THEIRS = "cpep-edge", "LibEMG's features, LDA"

_PER_RECORDING = 20  # windows per recording, evenly spread

Windows = NDArray[np.float32]  # (n, n_channels, window_samples), preprocessed
Labels = NDArray[np.int64]  # (n,), indices into the gestures of the training


def race_libemg(recogniser: Recogniser, run: Path, data: Path, n_runs: int) -> Iterator[PeerFigure]:
    """Measure the time and the accuracy of both.

    run: the training that the bundle came from
    data: a corpus in the emg2pose format
    Raises DataError when a recording to test on was trained on, or there is none to test on.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.metrics import balanced_accuracy_score

    from cpep_train.realism import features

    def described(windows: Windows) -> NDArray[np.float64]:
        return features(windows.swapaxes(1, 2).astype(np.float64))

    gestures, (taught, label), (windows, true), people = _task(run, data)
    lda = LinearDiscriminantAnalysis().fit(described(taught), label)
    window = windows[0]
    calls = {OURS: lambda: recogniser.recognise(window), THEIRS: lambda: lda.predict(described(window[None]))}
    times = measure_interleaved(calls, n_runs)
    settings = {OURS: "encoder, index, vote", THEIRS: "Hudgins' four, numpy; scikit-learn"}
    answers = {OURS: _votes(recogniser, windows, gestures), THEIRS: lda.predict(described(windows))}
    asked = f"{len(true):,} windows, {len(gestures)} gestures, {people}"
    for name, latency in times.items():
        accuracy = float(balanced_accuracy_score(true, answers[name]))
        yield PeerFigure(PART, name, settings[name], latency, None, asked, accuracy)


def _votes(recogniser: Recogniser, windows: Windows, gestures: tuple[str, ...]) -> Labels:
    """The answers of the bundle with its prototypes of these gestures only."""
    from cpep_train.evaluate import by_neighbours

    index, names = recogniser.index_for("the comparison"), recogniser.manifest.gesture_names
    place = np.array([gestures.index(name) if name in gestures else -1 for name in names])[index.gesture_index]
    embeddings = np.stack([recogniser.encoder.embed(window) for window in windows])
    return by_neighbours(recogniser.manifest.decision.k)(embeddings, index.vectors[place >= 0], place[place >= 0])


def _task(run: Path, data: Path) -> tuple[tuple[str, ...], tuple[Windows, Labels], tuple[Windows, Labels], str]:
    """The task: seen gestures of people held out of training or, without any, test recordings of known people.

    returns: the gestures, the windows and labels to train with, those to test on, and a description of who is tested
    """
    from cpep_train.checkpoint import load_checkpoint
    from cpep_train.corpus import Corpus
    from cpep_train.evaluate import choose, evaluation_set, select
    from cpep_train.leakage import audit_against, load_splits

    checkpoint, corpus = load_checkpoint(run), Corpus.open(data)
    audit_against(load_splits(run), corpus)
    evaluation = evaluation_set(checkpoint, corpus, windows_per_recording=_PER_RECORDING)
    queries = evaluation.queries
    chosen, people = select(evaluation, "held-out", "seen")[0], "people held out of training"
    if not chosen.any():
        chosen, people = select(evaluation, "known", "seen")[0], "people in training, other recordings"
    n_people = len(np.unique(queries.user_index[chosen]))
    store, gestures = queries.dataset.store, checkpoint.seen_stages
    rows = [n for n, row in enumerate(corpus.rows) if row.split == "train" and row.stage in gestures]
    taught = choose(store, rows, gestures, _PER_RECORDING, with_pose=False)
    return (
        gestures,
        (taught.emg(), taught.gesture_index),
        (queries.dataset.fetch(queries.places[chosen]).emg.numpy(), queries.gesture_index[chosen]),
        f"{n_people} {people}",
    )
