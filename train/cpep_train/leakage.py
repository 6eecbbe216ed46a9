"""Leakage checks: refuse to test on anything that was used in training.

A split manifest lists who performed what in which split, and a hash of each recording's EMG. The manifest of the
corpus is checked and written into a run before training starts, and evaluation compares its test recordings with it.
This finds a person under two names, even if their recordings were cut differently (`cpep_train.content`), and a
`metadata.csv` that was edited after training. Participants 19 and 21 of the published 3DC set are such a person.

A gesture can also leak through its poses: free movement that passes through its pose teaches what is tested. So no
training recording may dwell in the pose of a held-out gesture, if that gesture is a single pose.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cpep_edge.errors import ArtifactError, DataError
from cpep_edge.files import read_plain, write_file
from cpep_train.content import Content, content_of, over_recordings
from cpep_train.corpus import FREE_STAGE, METADATA_FILE, Corpus, Row

SPLITS_FILE = "splits.json"
POSE_RADIUS_RAD = 0.2  # RMS over the joints: poses nearer than this count as the same
RELATIVE_RAD = 0.1  # trained gestures nearer than this count as the same gesture under another name
_MOST_WITHIN = 0.05  # share of free movement that may pass through the pose
_MOST_OF_A_GESTURE = 0.5  # of a gesture's recording, which starts and ends at rest; people's rest poses differ
_POSES_OF_A_RECORDING = 48  # looked at, evenly spread
SCHEMA_VERSION = 2
SAME_MARKS = 0.25  # share of common marks, of the shorter recording's, from which one is a copy or a piece of the other


class SplitEntry(BaseModel):
    """One recording in a split manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filename: str
    user: str
    session: str
    stage: str
    split: str
    held_out_user: bool
    held_out_stage: bool
    emg_sha256: str
    pose_sha256: str
    emg_marks: tuple[int, ...]

    @property
    def what(self) -> tuple[str, str, str]:
        """The person, donning and gesture of the recording."""
        return self.user, self.session, self.stage


class SplitManifest(BaseModel):
    """Every recording of a corpus, with the split it is in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(default=SCHEMA_VERSION, ge=SCHEMA_VERSION, le=SCHEMA_VERSION)
    entries: tuple[SplitEntry, ...]

    @property
    def trained(self) -> tuple[SplitEntry, ...]:
        """The recordings that training uses."""
        return tuple(entry for entry in self.entries if entry.split == "train")

    @property
    def asked(self) -> tuple[SplitEntry, ...]:
        """The recordings that evaluation may test on."""
        return tuple(entry for entry in self.entries if entry.split in ("val", "test"))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of who performed what in which split, and of every sample."""
        digest = hashlib.sha256()
        for entry in sorted(self.entries, key=lambda entry: entry.filename):
            digest.update(entry.model_dump_json().encode())
        return digest.hexdigest()


def audit(corpus: Corpus, contents: Mapping[int, Content] | None = None) -> SplitManifest:
    """The split manifest of a corpus.

    contents: fingerprints of rows of the corpus that are known already
    Raises DataError, naming the recordings, when a held-out person or gesture is trained on; when one gesture of one
    session, or the same EMG, is in both training and test; or when training holds the pose of a held-out gesture.
    """
    manifest = split_manifest(corpus, contents)
    where = str(corpus.folder / METADATA_FILE)
    _check_people(manifest, where)
    _check_sessions(manifest, where)
    _check_content(manifest.trained, manifest.asked, str(corpus.folder))
    _check_poses(corpus)
    return manifest


def audit_against(trained: SplitManifest, corpus: Corpus) -> None:
    """Audit a corpus, then compare it with the recordings that a run was trained on.

    Raises DataError when a recording to be tested on was trained on.
    """
    _check_content(trained.trained, audit(corpus).asked, str(corpus.folder))


def split_manifest(corpus: Corpus, contents: Mapping[int, Content] | None = None) -> SplitManifest:
    """Build the split manifest, with the content of each recording, without checking anything."""
    known = contents or {}
    numbers = [number for number, row in enumerate(corpus.rows) if row.split]
    unknown = [number for number in numbers if number not in known]
    with over_recordings(len(unknown)) as run:
        read = dict(zip(unknown, run(partial(_content, corpus), unknown), strict=True))
    entries = []
    for number in numbers:
        row, content = corpus.rows[number], known.get(number) or read[number]
        entries.append(
            SplitEntry(
                filename=row.filename,
                user=row.user,
                session=row.session,
                stage=row.stage,
                split=row.split,
                held_out_user=row.held_out_user,
                held_out_stage=row.held_out_stage,
                emg_sha256=content.emg_sha256,
                pose_sha256=content.pose_sha256,
                emg_marks=content.emg_marks,
            )
        )
    return SplitManifest(entries=tuple(entries))


def _content(corpus: Corpus, number: int) -> Content:
    with corpus.session(corpus.rows[number]) as session:
        return content_of(session)


_MAX_BYTES = 1 << 30  # 800 bytes a recording


def save_splits(run: Path, manifest: SplitManifest) -> None:
    """Write the split manifest into the folder of a run."""
    write_file(run / SPLITS_FILE, manifest.model_dump_json(indent=1) + "\n")


def load_splits(run: Path) -> SplitManifest:
    """The split manifest of a run; raises ArtifactError when it is missing or malformed."""
    file = run / SPLITS_FILE
    try:
        return SplitManifest.model_validate_json(read_plain(file, _MAX_BYTES, follow=True))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{file} is missing or malformed, so nobody can tell what the run was trained on; train it again"
        ) from error


def _check_people(manifest: SplitManifest, where: str) -> None:
    for kind in ("user", "stage"):
        held_out = {getattr(entry, kind) for entry in manifest.entries if getattr(entry, f"held_out_{kind}")}
        for entry in manifest.trained:
            if getattr(entry, kind) in held_out:
                raise DataError(
                    f"{where}: {kind} {getattr(entry, kind)} is held out, but {entry.filename} is in split train"
                )


def _check_sessions(manifest: SplitManifest, where: str) -> None:
    trained = {entry.what: entry for entry in manifest.trained}
    for entry in manifest.asked:
        if entry.what in trained:
            raise DataError(
                f"{where}: {entry.stage} in session {entry.session} of {entry.user} is on both sides, "
                f"{trained[entry.what].filename} in split train and {entry.filename} in split {entry.split}"
            )


def _check_content(trained: Iterable[SplitEntry], asked: Iterable[SplitEntry], where: str) -> None:
    """Compare by content: no test recording, or piece of one, may be in training under any name."""
    by_content, by_mark = {}, dict[int, list[SplitEntry]]()
    for entry in trained:
        by_content[entry.emg_sha256] = entry
        for mark in entry.emg_marks:
            by_mark.setdefault(mark, []).append(entry)
    for entry in asked:
        twin, how = by_content.get(entry.emg_sha256), "the same EMG as"
        if twin is None:
            shared = Counter(other.filename for mark in entry.emg_marks for other in by_mark.get(mark, ()))
            others = {other.filename: other for mark in entry.emg_marks for other in by_mark.get(mark, ())}
            name, n = shared.most_common(1)[0] if shared else ("", 0)
            if n and n >= SAME_MARKS * min(len(entry.emg_marks), len(others[name].emg_marks)):
                twin, how = others[name], "a piece of the EMG of"
        if twin is not None:
            raise DataError(
                f"{where}: {entry.filename}, in split {entry.split}, holds {how} {twin.filename} of "
                f"{twin.user}, which is trained on; leave one of them out"
            )


def _check_poses(corpus: Corpus) -> None:
    """Compare by pose: training must not dwell in the pose of a held-out gesture.

    A held-out stage that is not a single pose, such as the free stages of emg2pose, cannot be compared. Gestures may be
    similar, so a pose counts as the held-out gesture's only within half the distance to the nearest trained gesture.
    """
    asked = [row for row in corpus.rows if row.held_out_stage]
    if not asked:
        return
    trained = {row: _poses(corpus, row) for row in corpus.rows if row.split == "train"}
    held_out, relatives = _centres({row: _poses(corpus, row) for row in asked}), _centres(trained)
    radius_rad = {}
    for stage, centre_rad in held_out.items():
        apart_rad = [float(distance_rad(centre_rad, other)) for other in relatives.values()]
        radius_rad[stage] = min([POSE_RADIUS_RAD, *(gap / 2 for gap in apart_rad if gap > RELATIVE_RAD)])
    for row, poses_rad in trained.items():
        most = _MOST_WITHIN if row.stage == FREE_STAGE else _MOST_OF_A_GESTURE
        for stage, centre_rad in held_out.items():
            share = np.mean(distance_rad(poses_rad, centre_rad) < radius_rad[stage]) if len(poses_rad) else 0.0
            if share > most:
                raise DataError(
                    f"{corpus.folder / METADATA_FILE}: {row.filename}, in split train, spends {share:.0%} of its "
                    f"time in the pose of {stage}, which is held out; leave it out, or do not hold {stage} out"
                )


def _centres(poses_rad: dict[Row, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The median pose of each stage that is a single pose: half of its poses lie within `POSE_RADIUS_RAD` of it."""
    parts: dict[str, list[NDArray[np.float32]]] = {}
    for row, found in poses_rad.items():
        parts.setdefault(row.stage, []).append(found)
    joined = {stage: np.concatenate(several) for stage, several in parts.items()}
    medians = {stage: np.median(found, axis=0) for stage, found in joined.items() if len(found)}
    return {
        stage: centre
        for stage, centre in medians.items()
        if np.median(distance_rad(joined[stage], centre)) < POSE_RADIUS_RAD
    }


def _poses(corpus: Corpus, row: Row) -> NDArray[np.float32]:
    """Some poses of a recording, evenly spread, (n, 20); empty when no pose was fitted."""
    with corpus.session(row) as session:
        at = np.unique(np.linspace(0, session.n_samples - 1, _POSES_OF_A_RECORDING).astype(int))
        poses_rad = np.concatenate([session.joint_angles(int(one), int(one) + 1) for one in at])
    fitted: NDArray[np.float32] = poses_rad[np.any(poses_rad != 0, axis=1)]
    return fitted


def distance_rad(poses_rad: NDArray[np.float32], other_rad: NDArray[np.float32]) -> NDArray[np.float64]:
    """Root mean square difference over the joints, (...)."""
    found: NDArray[np.float64] = np.sqrt(np.mean((poses_rad - other_rad) ** 2, axis=-1, dtype=np.float64))
    return found
