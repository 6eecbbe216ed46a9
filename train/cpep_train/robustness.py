"""Zero-shot accuracy when the band changes after calibration (`cpep_train.disturbances`).

The same windows of the same recordings are classified under every disturbance. The calibration is that of the
undisturbed session, because faults happen after it. Poses, index and scale stay the same.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cpep_edge.folders import write_reports
from cpep_edge.json_text import to_json
from cpep_edge.session import Session
from cpep_edge.versions import git_commit
from cpep_train.checkpoint import Checkpoint
from cpep_train.corpus import Corpus, Row
from cpep_train.disturbances import (
    Circumstances,
    Disturbance,
    Disturbed,
    add_noise,
    drift_gains,
    jitter_clock,
    kill_electrodes,
    lose_frames,
    turn,
)
from cpep_train.evaluate import (
    USERS,
    EvaluationSet,
    Examples,
    Gestures,
    Score,
    answers,
    embed_emg,
    embed_poses,
    evaluation_set,
    score_of,
    select,
    torch_embedding,
)
from cpep_train.leakage import audit_against, load_splits
from cpep_train.windows import SessionStore, WindowDataset

FIGURES_FILE = "robustness.json"
WINDOWS_PER_RECORDING = 20
KINDS: tuple[Gestures, ...] = ("seen", "unseen")


@dataclass(frozen=True, slots=True)
class Series:
    """One disturbance with rising strengths."""

    name: str
    unit: str
    disturb: Disturbance
    strengths: tuple[float, ...]


SERIES = (
    Series("band turned", "electrodes", turn, (-2, -1.5, -1, -0.5, 0.5, 1, 1.5, 2)),
    Series("dead electrodes", "of the band", kill_electrodes, (1, 2, 3, 4)),
    Series("gain drift", "dB sd", drift_gains, (1, 3, 6)),
    Series("added noise", "dB below EMG", add_noise, (20, 10, 5, 0)),
    Series("lost frames", "share", lose_frames, (0.01, 0.05, 0.1, 0.2)),
    Series("clock jitter", "of a sample", jitter_clock, (0.05, 0.1, 0.25, 0.5)),
)


@dataclass(frozen=True, slots=True)
class Point:
    """One strength of one disturbance."""

    disturbance: str
    strength: str  # with its unit
    value: float
    scores: tuple[Score, ...]
    kept_votes: float  # share of windows with the same answer as undisturbed, all gestures in the index
    answered: float  # share of windows that live would decide on


@dataclass(frozen=True, slots=True)
class Robustness:
    """All points; the first is undisturbed."""

    recipe: str
    data: str
    trained_commit: str
    measured_commit: str
    seed: int
    points: tuple[Point, ...]


def measure_robustness(
    run: Path,
    checkpoint: Checkpoint,
    data: Path,
    *,
    seed: int = 0,
    series: tuple[Series, ...] = SERIES,
    progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """Score held-out people, or known ones when none are held out, under every disturbance.

    progress: called with (points done, points in all)
    Raises DataError when anything tested was trained on.
    """
    corpus = Corpus.open(data)
    audit_against(load_splits(run), corpus.usable(checkpoint.recipe, checkpoint.provenance.skipped))
    rig = _Rig.build(checkpoint, corpus, seed)
    jobs = [(None, 0.0), *((one, strength) for one in series for strength in one.strengths)]
    points = []
    for done, (one, strength) in enumerate(jobs, start=1):
        points.append(rig.point(one, strength))
        if progress is not None:
            progress(done, len(jobs))
    origin = checkpoint.provenance
    return Robustness(checkpoint.recipe.name, origin.data, origin.git_commit, git_commit(), seed, tuple(points))


class _Rig:
    """Everything that is the same for every disturbance."""

    def __init__(
        self, checkpoint: Checkpoint, examples: EvaluationSet, references: NDArray[np.float32], seed: int
    ) -> None:
        self._checkpoint, self._examples, self._references, self._seed = checkpoint, examples, references, seed
        self._all_votes: NDArray[np.int64] | None = None

    @classmethod
    def build(cls, checkpoint: Checkpoint, corpus: Corpus, seed: int) -> "_Rig":
        examples = evaluation_set(checkpoint, corpus, windows_per_recording=WINDOWS_PER_RECORDING)
        queries = examples.queries
        asked = queries.held_out_user if queries.held_out_user.any() else np.ones(len(queries), bool)
        examples = replace(examples, queries=queries.only(asked))
        return cls(checkpoint, examples, embed_poses(checkpoint.pose, examples.references), seed)

    def point(self, series: Series | None, strength: float) -> Point:
        """Score all windows under one disturbance; None: undisturbed. Later calls are compared with the first one."""
        store = self._store(series, strength)
        queries = replace(self._examples.queries, dataset=WindowDataset(store, (), with_pose=False))
        embedding = embed_emg(torch_embedding(self._checkpoint.emg), queries)
        everything = np.ones(len(self._examples.gestures), bool)
        votes = answers(self._examples, embedding, self._references, np.ones(len(queries), bool), everything)
        if self._all_votes is None:
            self._all_votes = votes
        answered = _decided(queries, store)
        return Point(
            disturbance="none" if series is None else series.name,
            strength="" if series is None else f"{strength:g} {series.unit}",
            value=strength,
            scores=tuple(self._scores(embedding, answered)),
            kept_votes=float(np.mean((votes == self._all_votes)[answered])) if answered.any() else 0.0,
            answered=float(np.mean(answered)),
        )

    def _store(self, series: Series | None, strength: float) -> SessionStore:
        clean = self._examples.queries.dataset.store
        corpus = clean.corpus
        if series is not None:
            scale_uv = self._checkpoint.preprocessing.scale_uv
            disturb = partial(_disturb, series, strength, scale_uv, self._seed)
            corpus = _DisturbedCorpus(
                corpus.folder, corpus.rows, corpus.masked_channels, corpus.shards, disturb=disturb
            )
        asked = np.unique(self._examples.queries.places[:, 0]).tolist()
        store = SessionStore(
            corpus,
            self._checkpoint.recipe,
            self._checkpoint.statistics,
            cache_bytes=1,
            layouts={number: clean.layout(number) for number in asked},  # dead electrodes are no fault here
        )
        store.donnings = clean.donnings
        return store

    def _scores(self, embedding: NDArray[np.float32], answered: NDArray[np.bool_]) -> list[Score]:
        examples, scores = self._examples, []
        for users, gestures in product(USERS, KINDS):
            chosen, allowed = select(examples, users, gestures)
            chosen &= answered
            if chosen.any():
                given = answers(examples, embedding, self._references, chosen, allowed)
                scores.append(score_of(examples, users, gestures, chosen, allowed, given))
        return scores


@dataclass(frozen=True, slots=True)
class _DisturbedCorpus(Corpus):
    """A corpus that disturbs its recordings when they are opened."""

    disturb: Callable[[NDArray[np.float32], Session], Disturbed] = field(kw_only=True)

    def session(self, row: Row) -> Session:
        """Open the recording of a row, disturbed."""
        content = None if self.shards is None else self.shards.read(row.filename)
        return _DisturbedSession(self.file(row), self.masked_channels, content, self.disturb)


class _DisturbedSession(Session):
    def __init__(
        self,
        path: Path,
        masked: tuple[int, ...],
        content: BinaryIO | None,
        disturb: Callable[[NDArray[np.float32], Session], Disturbed],
    ) -> None:
        super().__init__(path, masked, content)
        self._disturb = disturb

    def disturbed(self) -> Disturbed:
        """The whole recording, disturbed, and where live would not decide."""
        return self._disturb(super().emg(), self)

    def emg(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Samples `start` to `stop`, (n_samples, n_channels), microvolts."""
        return self.disturbed().emg_uv[start:stop]


def _disturb(
    series: Series, strength: float, level_uv: float, seed: int, emg_uv: NDArray[np.float32], session: Session
) -> Disturbed:
    drawn_by = hashlib.sha256(f"{seed} {series.name} {session.meta.user} {session.meta.session}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(drawn_by[:8], "little"))
    return series.disturb(emg_uv, strength, Circumstances(session.meta.sample_rate, level_uv, rng))


def _decided(queries: Examples, store: SessionStore) -> NDArray[np.bool_]:
    """Whether each window would be decided on live, (Q,)."""
    decided = np.ones(len(queries), bool)
    for number in np.unique(queries.places[:, 0]):
        with store.corpus.session(store.corpus.rows[number]) as session:
            if not isinstance(session, _DisturbedSession):
                return decided
            undecided = session.disturbed().undecided
        if undecided is None:
            return decided
        before = np.concatenate(([0], np.cumsum(undecided)))
        mine = queries.places[:, 0] == number
        start = queries.places[mine, 1]
        decided[mine] = before[start + queries.dataset.window_samples] == before[start]
    return decided


def write_robustness(found: Robustness, out: Path) -> Path:
    """Write robustness.json, robustness.md and robustness.png into a folder, and return it."""
    from cpep_train.plots import png, robustness_figure

    contents = {
        FIGURES_FILE: to_json(found, indent=1).encode() + b"\n",
        "robustness.md": _markdown(found).encode(),
        "robustness.png": png(robustness_figure(found)),
    }
    write_reports(out, contents)
    return out


def _markdown(found: Robustness) -> str:
    kinds = [f"{score.gestures}, {score.users}" for score in found.points[0].scores]
    chance = ", ".join(f"{score.gestures} {score.chance:.3f}" for score in found.points[0].scores)
    lines = [
        "# Robustness",
        "",
        f"Recipe `{found.recipe}` trained on `{found.data}` at commit `{found.trained_commit[:10]}`; measured at "
        f"`{found.measured_commit[:10]}` by `cpep-edge robustness RUN --data DIR --seed {found.seed}`.",
        "Zero-shot balanced accuracy with 95 % intervals over people, seen gestures among the seen and unseen among "
        f"the unseen; chance: {chance}. Bands are calibrated before they are disturbed. `same votes`: windows answered "
        "as undisturbed, all gestures in the index; `decided`: windows that live would decide on.",
        "",
        "| disturbance | strength | " + " | ".join(kinds) + " | same votes | decided |",
        "| --- | --- |" + " --- |" * (len(kinds) + 2),
    ]
    for point in found.points:
        scores = [f"{s.balanced_accuracy:.3f} [{s.low:.2f}, {s.high:.2f}]" for s in point.scores]
        cells = [point.disturbance, point.strength, *scores, f"{point.kept_votes:.0%}", f"{point.answered:.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
