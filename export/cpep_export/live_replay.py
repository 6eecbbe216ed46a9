"""Embed the windows of a ladder again, processed as in live use.

Raw recordings go frame by frame through the stateful filter and the ring from which windows are cut, as on a device. An
evaluation, in contrast, filters a whole recording and then cuts it.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cpep_edge.encoder import EmgEncoder
from cpep_edge.input_stream import InputStream
from cpep_edge.ring import MirroredRing
from cpep_train.evaluate import Examples

FRAME_S = 0.02  # of signal, as a band sends it


def embed_live(encoder: EmgEncoder, queries: Examples) -> NDArray[np.float32]:
    """The embeddings of queries, (Q, D), in the order that the queries have."""
    embedded: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(queries)
    sessions = queries.places[:, 0]
    for session in np.unique(sessions):
        asked = np.flatnonzero(sessions == session)
        ends = queries.places[asked, 1] + queries.dataset.window_samples
        order = np.argsort(ends, kind="stable")
        for number, window in zip(asked[order], _windows(queries, int(session), ends[order]), strict=True):
            embedded[number] = encoder.embed(window)
    return np.stack(embedded)


def _windows(queries: Examples, session: int, ends: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """The encoder's input for the windows of one recording that end there; ends in order."""
    store, (n_inputs, n_steps) = queries.dataset.store, queries.dataset.input_shape
    row, spec, front_end = store.corpus.rows[session], store.preprocessing, store.front_end
    with store.corpus.session(row) as recording:
        raw_uv = recording.emg()
    frame, hop = max(1, round(FRAME_S * spec.sample_rate_hz)), store.hop_samples
    ring = MirroredRing(n_inputs, n_steps + frame)
    waiting = iter(ends)
    end = next(waiting, None)
    for first, last in store.layout(session).spans:  # live processing restarts after a gap
        stream = InputStream(spec, front_end, raw_uv.shape[1], store.donnings.of(row))
        stream.reset(first)
        ring.restart(-(-first // hop) + (0 if front_end is None else front_end.span_samples // hop - 1))
        for start in range(first, last, frame):
            ring.write(stream(raw_uv[start : min(start + frame, last)]))
            while end is not None and end // hop <= ring.end_index:
                window = ring.window(int(end) // hop, n_steps)
                if window is None:
                    raise ValueError(f"{row.filename}: no window ends at sample {end}")
                yield window
                end = next(waiting, None)
