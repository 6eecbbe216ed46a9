"""A linear discriminant on the front end's tokens, without any encoder, fitted on the labels of training people.

It is the baseline for an encoder, and it finds how far a band is turned: of all placements it takes the one under
which a wearer's calibration looks most like training people's gestures. If training people wore the band in any
placement, they are first brought to a common one, by the mean tokens of their gestures.

Shapes: S sessions, K gestures, F numbers per token, n windows.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cpep_edge.donning import placements
from cpep_edge.errors import DataError
from cpep_edge.head import fit_head
from cpep_edge.mpf import permutation
from cpep_edge.spread import evenly_spread
from cpep_train.corpus import FREE_STAGE, Corpus, Row
from cpep_train.donnings import Donnings
from cpep_train.recipe import Recipe
from cpep_train.recordings import Layout
from cpep_train.windows import SessionStore, Statistics, WindowDataset

_ROUNDS = 5  # iterations for the common placement; it converges in two or three
_MOST_WINDOWS = 200_000  # to fit on, spread over all windows
_AT_ONCE = 512


def with_plain_head(
    corpus: Corpus, recipe: Recipe, statistics: Statistics, layouts: dict[int, Layout] | None = None
) -> Statistics:
    """Add the front end's usual mean token and the head to a corpus' statistics; unchanged without a front end.

    Raises DataError when training has fewer than two gestures with two windows each.
    """
    front_end = recipe.mpf_spec()
    if front_end is None:
        return statistics
    statistics = replace(statistics, front_end=front_end)
    bare = SessionStore(corpus, recipe, statistics, layouts=layouts)
    named = [number for number in corpus.numbers("train") if corpus.rows[number].stage != FREE_STAGE]
    bare.prepare(named)
    rows = {bare.donnings.key(corpus.rows[n]): corpus.rows[n] for n in named}
    centre = _usual_centre(bare.donnings, list(rows.values()))
    windows = WindowDataset(bare, named, with_pose=False)
    chosen = windows.index[evenly_spread(len(windows), _MOST_WINDOWS)]
    chosen = chosen[np.argsort(chosen[:, 0], kind="stable")]
    tokens = mean_tokens(windows, chosen)
    gestures = tuple(sorted({corpus.rows[n].stage for n in named}))
    label = np.array([gestures.index(corpus.rows[number].stage) for number, _ in chosen], np.int64)
    if recipe.calibration.placed:
        keys = list(rows)
        session = np.array([keys.index(bare.donnings.key(corpus.rows[number])) for number, _ in chosen])
        orders = placements(front_end.n_electrodes, recipe.calibration.max_turn, recipe.calibration.mirrored)
        moves = [permutation(order, len(front_end.bands)) for order in orders]
        for number, move in enumerate(common_placement(tokens, label, session, moves)):
            tokens[session == number] = tokens[session == number][:, moves[move]]
    try:
        head = fit_head(tokens, label)
    except ValueError as error:
        raise DataError(f"{corpus.folder}: split train holds too little to tell gestures apart: {error}") from error
    front_end = front_end.model_copy(update={"centre": centre})
    return replace(statistics, front_end=front_end, head=head, head_gestures=gestures)


def mean_tokens(windows: WindowDataset, places: NDArray[np.int64]) -> NDArray[np.float32]:
    """The mean token of each window, (n, F); places: (n, 2), session and start."""
    parts = [
        windows.fetch(places[at : at + _AT_ONCE]).emg.numpy().mean(axis=2) for at in range(0, len(places), _AT_ONCE)
    ]
    return np.concatenate([np.empty((0, windows.input_shape[0]), np.float32), *parts])


def common_placement(
    tokens: NDArray[np.float32],
    label: NDArray[np.int64],
    session: NDArray[np.int64],
    moves: Sequence[NDArray[np.intp]],
) -> list[int]:
    """The index of the move that brings each session to the others' placement, by the mean tokens of its gestures.

    tokens: (n, F); label, session: (n,); moves: permutations of tokens, the first of them the identity
    """
    n_sessions, n_gestures = int(session.max()) + 1, int(label.max()) + 1
    means = np.full((n_sessions, n_gestures, tokens.shape[1]), np.nan)
    for one in range(n_sessions):
        for gesture in np.unique(label[session == one]):
            means[one, gesture] = tokens[(session == one) & (label == gesture)].mean(axis=0)
    present = ~np.isnan(means[:, :, :1])  # (S, K, 1)
    means = np.nan_to_num(means)
    found = [0] * n_sessions
    for _ in range(_ROUNDS):
        for one in range(1, n_sessions):
            others = [n for n in range(n_sessions) if n != one]
            placed = np.stack([means[n][:, moves[found[n]]] for n in others])
            count = present[others].sum(axis=0)
            reference = placed.sum(axis=0) / np.maximum(1, count)  # (K, F)
            both = present[one] & (count > 0)
            found[one] = int(np.argmin([np.sum(both * (means[one][:, move] - reference) ** 2) for move in moves]))
    return found


def _usual_centre(donnings: Donnings, rows: Sequence[Row]) -> tuple[float, ...]:
    centres = [centre for centre in (donnings.of(row).centre for row in rows) if centre is not None]
    return tuple(np.mean(centres, axis=0).round(5).tolist()) if centres else ()
