"""Score a bundle event by event: replay prompted sessions through the live engine, hop by hop.

Every session is first calibrated with its own calibration recordings, as a wearer would do, and then played in blocks
of one frame, as fast as possible. The engine is the one that runs live. The delay of a serial link is measured
separately, on a pseudo-terminal (`transport_delay`). Report figures on the split `test` of a prompted corpus, and tune
on `val`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_edge.blocks import FRAME_SAMPLES, Block, StreamInfo
from cpep_edge.calibration import donning_of, resting_level
from cpep_edge.decisions import Decision
from cpep_edge.donning import Donning
from cpep_edge.errors import DataError
from cpep_edge.events import Activation, EventScore, Label, score_events
from cpep_edge.live_loop import LiveEngine
from cpep_edge.manifest import DecisionSpec
from cpep_edge.recogniser import Recogniser
from cpep_train.corpus import Corpus, Row
from cpep_train.prompted import LABELS_FILE, PROMPTED, REST, read_labels

_BLOCK_S = 0.25  # length of the blocks whose level is compared
_LOUDER = 1.05  # a quarter of the blocks in prompts must be this much louder than between them; noise varies less


@dataclass(frozen=True, slots=True)
class PromptedSession:
    """One wearer's session, loaded into memory."""

    row: Row
    emg_uv: NDArray[np.float32]  # (n_samples, n_channels)
    movements_uv: tuple[NDArray[np.float32], ...]  # recordings of the calibration movements
    rest_uv: NDArray[np.float32] | None  # recording of the calibration's rest
    labels: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class LiveScore:
    """The score of a bundle on some sessions."""

    events: EventScore
    n_people: int
    rest_share: float  # share of windows at rest, for which the encoder did not run
    unknown_share: float  # share of windows that were rejected


def evaluate_live(
    recogniser: Recogniser,
    data: Path,
    *,
    split: str = "test",
    spec: DecisionSpec | None = None,
    turn: int = 0,
    undo_turn: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> LiveScore:
    """Score a bundle on the prompted sessions of a corpus.

    spec: how to decide, instead of the bundle's own spec
    turn: number of electrodes by which the band is turned further, before calibration
    undo_turn: whether the calibration looks for a turned band
    progress: called with (sessions done, sessions in all)
    Raises DataError when the corpus holds no labels, no session of that split, or one in whose prompts nothing moves.
    """
    sessions = prompted_sessions(data, split, recogniser.manifest.calibration)
    for session in sessions:
        if not _moves(session, recogniser.manifest.preprocessing.sample_rate_hz):
            raise DataError(
                f"{data}: the prompts of {session.row.filename} hold no movement, its signal is no stronger in them "
                f"than between them: compare {LABELS_FILE} with the recording"
            )
    played = []
    for done, session in enumerate(sessions):
        played.append((session, play(recogniser, _turned(session, turn), spec, undo_turn)))
        if progress is not None:
            progress(done + 1, len(sessions))
    return judge(recogniser, played, spec or recogniser.manifest.decision)


def prompted_sessions(data: Path, split: str, movements: Sequence[str]) -> list[PromptedSession]:
    """The prompted sessions of a split, with the recordings of those calibration movements.

    Raises DataError where there is no such session, or one has no recording of any of the movements.
    """
    corpus, labels = Corpus.open(data), read_labels(data)
    rows = [row for row in corpus.rows if row.stage == PROMPTED and row.split == split and row.filename in labels]
    if not rows:
        raise DataError(f"{data}: no recording of the stage {PROMPTED} with labels is in the split {split}")
    for row in rows:
        made = {other.stage for other in corpus.rows if (other.user, other.session) == (row.user, row.session)}
        if movements and not made & set(movements):
            raise DataError(
                f"{data}: session {row.session} of {row.user} has no recording of {' or '.join(movements)}, by which "
                "the bundle is calibrated"
            )
    return [
        PromptedSession(
            row=row,
            emg_uv=_emg(corpus, row),
            movements_uv=tuple(
                _emg(corpus, other)
                for other in corpus.rows
                if (other.user, other.session) == (row.user, row.session) and other.stage in movements
            ),
            rest_uv=next(
                (
                    _emg(corpus, other)
                    for other in corpus.rows
                    if (other.user, other.session, other.stage) == (row.user, row.session, REST)
                ),
                None,
            ),
            labels=tuple(labels[row.filename]),
        )
        for row in rows
    ]


def _moves(session: PromptedSession, rate_hz: float) -> bool:
    """Whether the signal is stronger in the prompts than between them; True when there is nothing between them."""
    n = round(_BLOCK_S * rate_hz)
    whole = session.emg_uv[: len(session.emg_uv) // n * n]
    level = np.abs(whole - np.median(whole, axis=0)).mean(axis=1).reshape(-1, n).mean(axis=1)
    middle_s = (np.arange(len(level)) + 0.5) * _BLOCK_S
    inside = np.any([(one.start_s <= middle_s) & (middle_s < one.end_s) for one in session.labels], axis=0)
    if inside.all() or not inside.any():
        return bool(inside.any())
    return bool(np.quantile(level[inside], 0.75) > _LOUDER * np.median(level[~inside]))


def play(
    recogniser: Recogniser, session: PromptedSession, spec: DecisionSpec | None = None, undo_turn: bool = True
) -> list[Decision]:
    """Calibrate with a session's calibration recordings, then return every decision of the session."""
    manifest = recogniser.manifest
    rate_hz = manifest.preprocessing.sample_rate_hz
    spec, donning = spec or manifest.decision, Donning()
    if session.movements_uv:
        donning = donning_of(recogniser, session.movements_uv, placed=undo_turn)
        if session.rest_uv is not None and spec.rest_level:
            resting = resting_level(recogniser, donning, session.rest_uv)
            spec = spec.model_copy(update={"rest_level": resting})
    info = StreamInfo(session.row.filename, session.emg_uv.shape[1], rate_hz)
    engine = LiveEngine(recogniser, info, donning=donning, spec=spec)
    decisions = []
    for block in _blocks(session.emg_uv, rate_hz):
        engine.ingest(block)
        while (decision := engine.step(newest=False)) is not None:
            decisions.append(decision)
    return decisions


def judge(
    recogniser: Recogniser, played: Sequence[tuple[PromptedSession, Sequence[Decision]]], spec: DecisionSpec
) -> LiveScore:
    """Score sessions that were played.

    spec: the one that was used to decide
    """
    rate_hz = recogniser.manifest.preprocessing.sample_rate_hz
    sessions = [(session.labels, activations(decisions, spec, rate_hz)) for session, decisions in played]
    windows = [decision for _, decisions in played for decision in decisions]
    seconds = sum(len(session.emg_uv) for session, _ in played) / rate_hz
    return LiveScore(
        events=score_events(sessions, seconds / 3600),
        n_people=len({session.row.user for session, _ in played}),
        rest_share=float(np.mean([decision.at_rest for decision in windows])),
        unknown_share=float(np.mean([decision.window_gesture == "unknown" for decision in windows])),
    )


def activations(decisions: Sequence[Decision], spec: DecisionSpec, rate_hz: float) -> list[Activation]:
    """The decisions that an application would act on, with times on the recording's clock."""
    return [
        Activation(decision.gesture, decision.sample_index / rate_hz, decision.delay_ms)
        for decision in decisions
        if decision.changed and decision.gesture not in ("unknown", spec.rest_gesture)
    ]


def _turned(session: PromptedSession, turn: int) -> PromptedSession:
    """The same session as if the band were turned by whole electrodes."""
    return replace(
        session,
        emg_uv=np.roll(session.emg_uv, turn, axis=1),
        movements_uv=tuple(np.roll(movement, turn, axis=1) for movement in session.movements_uv),
        rest_uv=None if session.rest_uv is None else np.roll(session.rest_uv, turn, axis=1),
    )


def _blocks(emg_uv: NDArray[np.float32], rate_hz: float) -> Iterator[Block]:
    for start in range(0, len(emg_uv), FRAME_SAMPLES):
        yield Block(emg_uv[start : start + FRAME_SAMPLES], start, start / rate_hz, time.monotonic())


def _emg(corpus: Corpus, row: Row) -> NDArray[np.float32]:
    with corpus.session(row) as session:
        return session.emg()
