"""Scan every recording once before training: find where windows may lie, and whether the recording can be used.

Only what is needed to place windows is kept, so the corpus may be far larger than memory. The run's folder stores the
result for the next start.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from cpep_edge.blocks import LARGEST_SAMPLE
from cpep_edge.errors import ArtifactError, DataError
from cpep_edge.files import write_file
from cpep_edge.session import RECORDED_RATE_TOLERANCE, Session
from cpep_train.content import Content, content_of, over_recordings
from cpep_train.corpus import Corpus, Row
from cpep_train.recipe import Recipe

RECORDINGS_FILE = "recordings.json"

_MOST_OF_USUAL = 500  # times the usual size or less than its inverse: not EMG; wrong by a unit (mV) would be 1000 times


@dataclass(frozen=True, slots=True)
class Layout:
    """Where windows may lie in a recording."""

    n_samples: int
    spans: tuple[tuple[int, int], ...]  # start and stop of each gap-free stretch
    failed: tuple[tuple[int, int], ...]  # start and stop of each stretch of failed pose fits
    content: Content
    size_bytes: int  # of the file
    changed: int  # modification time or content hash; a file with the same size and this is not read again
    size_uv: float = 0.0  # standard deviation of a channel; 0: unknown

    @property
    def has_pose(self) -> bool:
        """Whether any pose was fitted."""
        return sum(stop - start for start, stop in self.failed) < self.n_samples


_Layouts = TypeAdapter(dict[int, Layout])


def layout_of(corpus: Corpus, number: int, recipe: Recipe) -> Layout:
    """Read one recording of a corpus.

    Raises DataError, naming the file and the field, when a value is not finite, a channel is flat, or the time stamps
    have another rate than the file says.
    """
    row = corpus.rows[number]
    with corpus.session(row) as session:
        time_s = session.time_s()
        _check_rate(session, time_s)
        _check_emg(session)
        valid = session.pose_valid() if recipe.pose.source == "recorded" else np.ones(len(time_s), bool)
        cuts = np.flatnonzero(np.diff(time_s) > 1.5 / session.meta.sample_rate) + 1
        content = content_of(session)
        deviations = session.emg().std(axis=0, dtype=np.float64)
    size_uv = float(np.median(deviations[deviations > 0])) if deviations.any() else 0.0
    edges = [0, *cuts.tolist(), len(time_s)]
    spans = tuple(zip(edges, edges[1:], strict=False))
    return Layout(len(time_s), spans, tuple(_runs(~valid)), content, *corpus.stamp(row), size_uv)


def look_through(
    corpus: Corpus, recipe: Recipe, before: Mapping[int, Layout] | None = None
) -> tuple[dict[int, Layout], dict[int, str]]:
    """Read every recording that is in a split, in several processes if there are many.

    before: layouts of an earlier start; a file of the same size and modification time is not read again
    returns: the layouts, and the faults of recordings that cannot be used, one sentence each
    """
    numbers = [number for number, row in enumerate(corpus.rows) if row.split]
    known = {n: layout for n in numbers if (layout := (before or {}).get(n)) and _unchanged(corpus, n, layout)}
    chosen = [number for number in numbers if number not in known]
    with over_recordings(len(chosen)) as run:
        found = list(run(partial(_layout_or_fault, corpus, recipe=recipe), chosen))
    layouts = {**known, **{n: one for n, one in zip(chosen, found, strict=True) if isinstance(one, Layout)}}
    faults = {n: one for n, one in zip(chosen, found, strict=True) if isinstance(one, str)}
    sizes_uv = [layout.size_uv for layout in layouts.values() if layout.size_uv]
    usual_uv = float(np.median(sizes_uv)) if sizes_uv else 0.0
    for number, layout in layouts.items():
        row = corpus.rows[number]
        fault = _of_another_unit(corpus, row, layout, usual_uv) or _untrainable(corpus, row, layout, recipe)
        if fault is not None:
            faults[number] = fault
    return dict(sorted(layouts.items())), dict(sorted(faults.items()))


def _unchanged(corpus: Corpus, number: int, layout: Layout) -> bool:
    try:
        return corpus.stamp(corpus.rows[number]) == (layout.size_bytes, layout.changed)
    except DataError:
        return False


def _layout_or_fault(corpus: Corpus, number: int, recipe: Recipe) -> Layout | str:
    fault = corpus.fault(corpus.rows[number], recipe)
    if fault is not None:
        return fault
    try:
        return layout_of(corpus, number, recipe)
    except DataError as error:
        return str(error)


def save_layouts(run: Path, layouts: dict[int, Layout]) -> None:
    """Store layouts in the folder of a run."""
    write_file(run / RECORDINGS_FILE, _Layouts.dump_json(layouts))


def load_layouts(run: Path) -> dict[int, Layout] | None:
    """The layouts stored by an earlier start of the run; None if there are none. Raises ArtifactError if malformed."""
    file = run / RECORDINGS_FILE
    if not file.is_file():
        return None
    try:
        return _Layouts.validate_json(file.read_bytes())
    except ValidationError as error:
        raise ArtifactError(f"{file} is malformed; delete it, and it will be made again") from error


def _check_rate(session: Session, time_s: NDArray[np.float64]) -> None:
    if len(time_s) < 2:
        return
    step_s = np.diff(time_s)
    if not np.all(step_s > 0):
        raise DataError(f"{session.path}: field time does not rise from sample to sample")
    actual_hz, stated_hz = 1 / float(np.median(step_s)), session.meta.sample_rate
    if abs(actual_hz / stated_hz - 1) > 2 * RECORDED_RATE_TOLERANCE:  # twice the tolerance, because stamps are rounded
        raise DataError(
            f"{session.path}: attribute sample_rate says {stated_hz:g} Hz, but field time runs at {actual_hz:.6g} Hz"
        )


def _check_emg(session: Session) -> None:
    emg_uv = session.emg()
    low, high = emg_uv.min(axis=0), emg_uv.max(axis=0)
    if not (np.abs((low, high)) <= LARGEST_SAMPLE).all():  # also true for NaN
        if np.isfinite((low, high)).all():
            raise DataError(f"{session.path}: field emg holds impossible values; leave it out with --skip-bad")
        raise DataError(f"{session.path}: field emg holds NaN or infinity; leave it out with --skip-bad")
    flat = [number for number in (np.flatnonzero(low == high) + 1).tolist() if number not in session.masked_channels]
    if flat and len(emg_uv) > 1:
        raise DataError(
            f"{session.path}: field emg is flat in channel {', '.join(map(str, flat))}; mask a dead channel by the key "
            f"recordings.masked_channels={flat}, or leave the recording out with --skip-bad"
        )


def _of_another_unit(corpus: Corpus, row: Row, layout: Layout, usual_uv: float) -> str | None:
    """Why a recording cannot be in the same unit as the others; None if it can."""
    if not layout.size_uv or 1 / _MOST_OF_USUAL < layout.size_uv / usual_uv < _MOST_OF_USUAL:
        return None
    return (
        f"{corpus.file(row)}: field emg deviates by {layout.size_uv:.2g} uV where {usual_uv:.2g} are usual, so it must "
        "be in another unit; import it again with its unit, or leave it out with --skip-bad"
    )


def _untrainable(corpus: Corpus, row: Row, layout: Layout, recipe: Recipe) -> str | None:
    """Why a recording of the splits train and val cannot be used; None if it can."""
    if row.split == "test":
        return None
    if layout.n_samples < recipe.windows.window_samples:
        return (
            f"{corpus.file(row)}: field emg has {layout.n_samples} samples, fewer than a window of "
            f"{recipe.windows.window_samples}; leave it out with --skip-bad, or shorten windows.window_samples"
        )
    if not layout.has_pose:
        return (
            f"{corpus.file(row)}: field joint_angles holds no pose, so there is nothing to align with; leave it out "
            "with --skip-bad"
        )
    return None


def _runs(marked: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Start and stop of each stretch of marked samples."""
    edges = np.flatnonzero(np.diff(marked.astype(np.int8), prepend=0, append=0))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
