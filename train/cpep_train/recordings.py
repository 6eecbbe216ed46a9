"""Look through every recording once before training: where windows may lie in it, and whether it can be used at all.

Only what it takes to place windows is kept, so a corpus far larger than memory is no matter, and a run's folder keeps
it for the next start.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from cpep_edge.errors import ArtifactError, DataError
from cpep_edge.files import replacing
from cpep_edge.session import Session
from cpep_train.corpus import METADATA_FILE, Corpus, Row
from cpep_train.recipe import Recipe

RECORDINGS_FILE = "recordings.json"
_RECORDINGS_A_PROCESS = 500  # starting one, torch and all, costs about as much as these


@dataclass(frozen=True, slots=True)
class Layout:
    """Where windows may lie in a recording."""

    n_samples: int
    spans: tuple[tuple[int, int], ...]  # start and stop of each gap-free stretch
    failed: tuple[tuple[int, int], ...]  # start and stop of each stretch of failed pose fits

    @property
    def has_pose(self) -> bool:
        """Whether any pose was fitted."""
        return sum(stop - start for start, stop in self.failed) < self.n_samples


_Layouts = TypeAdapter(dict[int, Layout])


def layout_of(corpus: Corpus, number: int, recipe: Recipe) -> Layout:
    """Read one recording of a corpus.

    Raises DataError, naming the file and the field, when a value is no number, a channel is flat, or the time stamps
    run at another rate than the file says.
    """
    row = corpus.rows[number]
    with corpus.session(row) as session:
        time_s = session.time_s()
        _check_rate(session, time_s)
        _check_emg(session)
        valid = session.pose_valid() if recipe.pose.source == "recorded" else np.ones(len(time_s), bool)
        cuts = np.flatnonzero(np.diff(time_s) > 1.5 / session.meta.sample_rate) + 1
    edges = [0, *cuts.tolist(), len(time_s)]
    return Layout(len(time_s), tuple(zip(edges, edges[1:], strict=False)), tuple(_runs(~valid)))


def survey(corpus: Corpus, recipe: Recipe, numbers: Iterable[int]) -> dict[int, Layout]:
    """Read the recordings that a training will use, in several processes where they are many.

    Raises DataError, naming the file and the field, at the first that cannot be trained on: beside what `layout_of`
    refuses, one without pose, or shorter than a window.
    """
    chosen = sorted(numbers)
    with _workers(len(chosen)) as run:
        layouts = dict(zip(chosen, run(partial(layout_of, corpus, recipe=recipe), chosen), strict=True))
    for number, layout in layouts.items():
        _check_trainable(corpus, corpus.rows[number], layout, recipe)
    return layouts


def save_layouts(run: Path, layouts: dict[int, Layout]) -> None:
    """Keep them in the folder of a run."""
    with replacing(run / RECORDINGS_FILE) as temporary:
        temporary.write_bytes(_Layouts.dump_json(layouts))


def load_layouts(run: Path) -> dict[int, Layout] | None:
    """What an earlier start of the run found; None where there was none. Raises ArtifactError when it is malformed."""
    file = run / RECORDINGS_FILE
    if not file.is_file():
        return None
    try:
        return _Layouts.validate_json(file.read_bytes())
    except ValidationError as error:
        raise ArtifactError(f"{file} is malformed; delete it, and it is made anew") from error


def _check_rate(session: Session, time_s: NDArray[np.float64]) -> None:
    if len(time_s) < 2:
        return
    step_s = np.diff(time_s)
    if not np.all(step_s > 0):
        raise DataError(f"{session.path}: field time does not rise from sample to sample")
    actual_hz, stated_hz = 1 / float(np.median(step_s)), session.meta.sample_rate
    if abs(actual_hz / stated_hz - 1) > 0.01:
        raise DataError(
            f"{session.path}: attribute sample_rate says {stated_hz:g} Hz, but field time runs at {actual_hz:.6g} Hz"
        )


def _check_emg(session: Session) -> None:
    emg_uv = session.emg()
    low, high = emg_uv.min(axis=0), emg_uv.max(axis=0)
    if not np.isfinite(low).all() or not np.isfinite(high).all():
        raise DataError(f"{session.path}: field emg holds NaN or infinity; leave the recording out of {METADATA_FILE}")
    flat = np.flatnonzero(low == high)
    if flat.size and len(emg_uv) > 1:
        raise DataError(
            f"{session.path}: field emg is flat in channel {flat[0] + 1}; leave the recording out of {METADATA_FILE}"
        )


def _check_trainable(corpus: Corpus, row: Row, layout: Layout, recipe: Recipe) -> None:
    if layout.n_samples < recipe.windows.window_samples:
        raise DataError(
            f"{corpus.file(row)}: field emg has {layout.n_samples} samples, fewer than a window of "
            f"{recipe.windows.window_samples}; leave the recording out of {METADATA_FILE}, or shorten "
            "windows.window_samples"
        )
    if not layout.has_pose:
        raise DataError(
            f"{corpus.file(row)}: field joint_angles holds no pose, so there is nothing to align with; leave the "
            f"recording out of {METADATA_FILE}"
        )


def _runs(marked: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Start and stop of each stretch of marked samples."""
    edges = np.flatnonzero(np.diff(marked.astype(np.int8), prepend=0, append=0))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


@contextmanager
def _workers(n_recordings: int) -> Iterator[Callable[..., Iterable[Layout]]]:
    """A `map` over all cores, or in this process where so few recordings do not repay starting others."""
    n = min(os.cpu_count() or 1, n_recordings // _RECORDINGS_A_PROCESS)
    if n < 2:
        yield map
        return
    with get_context("spawn").Pool(n) as pool:
        yield partial(pool.imap, chunksize=16)
