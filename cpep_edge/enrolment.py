"""Add a gesture to a bundle without training, or remove one.

From joint angles: the bundle's pose encoder embeds the pose many times, each time varied as it is between people (the
spread was measured in training). From a session: if the bundle's head answers, it gets one more Gaussian. If the index
answers, each window of EMG becomes a prototype: the mean of the three poses nearest to its embedding. The embedding
itself would not do: it is nearer to all other EMG than to any pose, and would win votes from every gesture
(benchmarks/results/enrolment.md).

A change affects the index or the head, the list of gestures, the golden answers, and the rejection thresholds, which
must let every gesture win. The encoder stays as it is. The bundle is checked first and replaced as a whole.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cpep_edge.bundle import Bundle, locked_bundle, write_bundle
from cpep_edge.decisions import EVIDENCE_MS
from cpep_edge.donning import Donning
from cpep_edge.encoder import open_encoder
from cpep_edge.errors import ConfigError, DataError
from cpep_edge.golden import Golden, check_golden
from cpep_edge.head import Head
from cpep_edge.left_out import RIGHT_KEPT, SHARE_MARGIN, TYPICAL_KEPT
from cpep_edge.manifest import DecisionSpec, FileEntry, Gesture, HeadSpec, Manifest, PoseSpec
from cpep_edge.names import UNKNOWN, check_gesture
from cpep_edge.native_encoder import carried_library
from cpep_edge.pose_file import Movement, read_movement
from cpep_edge.pose_index import PoseIndex, Vote, build_index, graph_spec
from cpep_edge.recogniser import Recogniser, answer, head_input
from cpep_edge.session import RECORDED_RATE_TOLERANCE, Session
from cpep_edge.session_trial import check_session
from cpep_edge.spread import evenly_spread
from cpep_edge.trust import SigningKey

N_NEAREST_POSES = 3  # to a window of EMG; k = 1 is noisy, k = 10 blurs the gesture
_HOPS_A_WINDOW = 10  # for the windows of a session
_N_ASKED = 200  # the most prototypes of a gesture for which neighbours are counted
_SIMILARITY_MARGIN = 0.5  # share of the similarity that most correct windows reach
_SEED = 0


@dataclass(frozen=True, slots=True)
class Confusion:
    """A gesture and the one it is most easily confused with."""

    gesture: str
    nearest: str  # the other gesture with the most neighbours of its prototypes; "" when none has any
    share: float  # of all neighbours that belong to `nearest`


@dataclass(frozen=True, slots=True)
class OpenBundle:
    """A bundle that was checked, its golden inputs included, and is ready to be changed."""

    bundle: Bundle
    recogniser: Recogniser
    golden: Golden

    @classmethod
    def check(cls, bundle: Bundle) -> "OpenBundle":
        """Raises ArtifactError when a file was changed or a golden input gives another answer."""
        bundle.check_files()
        recogniser = Recogniser(bundle)
        check_golden(bundle, recogniser)
        return cls(bundle, recogniser, Golden.from_bytes(bundle.read(bundle.manifest.golden_file)))

    @classmethod
    @contextmanager
    def to_edit(cls, path: Path, key_file: Path | None = None, *, trust: bool = False) -> "Iterator[OpenBundle]":
        """Open a bundle and lock it until the `with` block ends: other edits wait, so none is lost."""
        with locked_bundle(path):
            yield cls.check(Bundle.open(path, key_file, trust=trust))

    def require_new(self, name: str) -> None:
        """Raise ConfigError when there is a gesture of this name already, or the name is invalid."""
        check_gesture(name)
        if any(gesture.name == name for gesture in self.bundle.manifest.gestures):
            raise ConfigError(
                f"{self.bundle.path} has a gesture {name} already; remove it first, or choose another name"
            )

    def usual_count(self) -> int:
        """The median number of prototypes of a gesture: with as many, a new gesture can win votes."""
        return int(np.median([gesture.n_prototypes for gesture in self.bundle.manifest.gestures]))


def prototypes_from_pose(opened: OpenBundle, file: Path) -> NDArray[np.float32]:
    """Embed a pose or a movement in many variations, (n, d_embed).

    Raises ConfigError when the bundle contains no pose encoder, DataError when the file does not have its joints.
    """
    bundle, pose = opened.bundle, opened.bundle.manifest.pose
    if pose is None:
        raise ConfigError(
            f"{bundle.path} contains no pose encoder; export it with --pose-encoder, or add the gesture --from-session"
        )
    movement = read_movement(file, pose.joints)
    encoder = open_encoder(bundle.read(pose.encoder.file), pose.encoder, 1, carried_library(bundle))
    windows = _variations(movement, pose, opened.usual_count(), file)
    return np.stack([encoder.embed(window) for window in windows])


def prototypes_from_session(opened: OpenBundle, file: Path, donning: Donning | None = None) -> NDArray[np.float32]:
    """Prototypes from the poses nearest to a recording's windows, (n, d_embed); arguments as `windows_of_session`."""
    windows = windows_of_session(opened, file, donning)
    chosen = evenly_spread(len(windows), opened.usual_count())
    return np.stack([_landing(opened.recogniser, windows[number]) for number in chosen])


def windows_of_session(opened: OpenBundle, file: Path, donning: Donning | None = None) -> list[NDArray[np.float32]]:
    """The windows of a recording as encoder input, prepared as by `live` on the same arm.

    donning: the session's calibration
    Raises DataError when the recording is of another band, too short, or damaged.
    """
    manifest, recogniser = opened.bundle.manifest, opened.recogniser
    n_steps = manifest.input_shape[1]
    check_session(file)
    with Session(file) as session:
        meta, rate_hz = session.meta, manifest.preprocessing.sample_rate_hz
        if meta.num_channels != manifest.n_channels or abs(meta.sample_rate / rate_hz - 1) > RECORDED_RATE_TOLERANCE:
            raise DataError(
                f"{file}: {meta.num_channels} channels at {meta.sample_rate:g} Hz, the bundle takes "
                f"{manifest.n_channels} at {rate_hz:g} Hz"
            )
        session.check()
        steps, n_samples = recogniser.stream(donning)(session.emg()), session.n_samples
    starts = np.arange(0, len(steps) - n_steps + 1, max(1, n_steps // _HOPS_A_WINDOW))
    if len(starts) < manifest.decision.k:
        raise DataError(f"{file}: {n_samples / rate_hz:.1f} s of signal are too short to learn a gesture from")
    return [np.ascontiguousarray(steps[start : start + n_steps].T) for start in starts]


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The result of teaching a gesture by its EMG."""

    manifest: Manifest
    won: float  # share of the later half's windows that are recognised after learning only the earlier half
    taken_for: str  # the gesture that most of the other windows are taken for; "" when there is none


def add_from_session(
    opened: OpenBundle, name: str, file: Path, donning: Donning | None = None, key: SigningKey | None = None
) -> Enrolled:
    """Add a gesture from seconds of its EMG: to the head if that answers, else to the index.

    donning: the session's calibration
    Raises DataError as `windows_of_session`, ConfigError for a name that is taken.
    """
    opened.require_new(name)
    manifest, recogniser = opened.bundle.manifest, opened.recogniser
    windows = windows_of_session(opened, file, donning)
    half, number = len(windows) // 2, len(manifest.gestures)
    embeddings = [recogniser.encoder.embed(window) for window in windows]
    spec, head, index = manifest.head, recogniser.head, recogniser.index
    tried_head, tried_index = head, index
    if spec is not None and head is not None and spec.answers:
        inputs = np.stack([head_input(spec, *each) for each in zip(windows, embeddings, strict=True)])
        tried_head, head = head.with_gesture(inputs[:half]), head.with_gesture(inputs)
        spec = spec.model_copy(update={"gestures": (*spec.gestures, number)})
        gesture = Gesture(name=name, n_prototypes=0, trained=True, origin="session")
    else:
        landings = np.stack([_landing(recogniser, window) for window in windows])
        chosen = evenly_spread(len(landings), opened.usual_count())
        tried_index, index = _grown(opened, landings[:half]), _grown(opened, landings[chosen])
        gesture = Gesture(name=name, n_prototypes=len(chosen), trained=False, origin="session")
    k = manifest.decision.k
    votes = [
        answer(window, embedding, tried_index, k, spec, tried_head, number + 1)
        for window, embedding in zip(windows[half:], embeddings[half:], strict=True)
    ]
    right = [vote for vote in votes if vote.gesture_index == number]
    others = Counter(manifest.gestures[vote.gesture_index].name for vote in votes if vote.gesture_index != number)
    written = _rewrite(opened, (*manifest.gestures, gesture), index, key, head=(spec, head), new_votes=right)
    return Enrolled(written, len(right) / max(1, len(votes)), others.most_common(1)[0][0] if others else "")


def _grown(opened: OpenBundle, prototypes: NDArray[np.float32]) -> PoseIndex:
    """The index with the prototypes of one more gesture."""
    manifest, index = opened.bundle.manifest, opened.recogniser.index_for("a gesture of prototypes")
    spec, vectors = manifest.index_for("a gesture of prototypes"), index.stored.vectors.with_added(prototypes)
    labels = np.concatenate([index.gesture_index, np.full(len(prototypes), len(manifest.gestures))])
    penalties = (*spec.penalties(manifest.gestures), 0.0)  # no penalty: a gesture that a user adds was not trained
    return build_index(vectors, labels, _SEED, penalties, spec.search)


def add_gesture(
    opened: OpenBundle,
    name: str,
    prototypes: NDArray[np.float32],
    origin: Literal["pose file", "session"],
    key: SigningKey | None = None,
) -> Manifest:
    """Add a gesture and rewrite the bundle; the old one survives every failure.

    prototypes: (n, d_embed), unit length
    key: signs the new bundle
    """
    opened.require_new(name)
    gesture = Gesture(name=name, n_prototypes=len(prototypes), trained=False, origin=origin)
    return _rewrite(opened, (*opened.bundle.manifest.gestures, gesture), _grown(opened, prototypes), key)


def rename_gesture(opened: OpenBundle, name: str, called: str, key: SigningKey | None = None) -> Manifest:
    """Change the name under which a gesture is shown; its label, by which programs know it, stays.

    called: the name to show; "": the one made from the label
    """
    bundle, old = opened.bundle, opened.bundle.manifest
    if name not in old.gesture_names:
        raise ConfigError(f"{bundle.path} has no gesture {name}; it has {', '.join(old.gesture_names)}")
    taken = next((one.name for one in old.gestures if one.name != name and old.shown(one.name) == called), None)
    if taken is not None:
        raise ConfigError(f"{taken} is already shown as {called}: choose another name")
    new = check_gesture(called) if called else None
    gestures = tuple(
        gesture.model_copy(update={"called": new}) if gesture.name == name else gesture for gesture in old.gestures
    )
    return write_bundle(
        bundle.path,
        lambda folder: bundle.copy_files(folder, {}),
        lambda files: old.model_copy(update={"files": files, "version": old.version + 1, "gestures": gestures}),
        key,
    )


def remove_gesture(opened: OpenBundle, name: str, key: SigningKey | None = None) -> Manifest:
    """Remove a gesture and rewrite the bundle; the old one survives every failure."""
    gestures = opened.bundle.manifest.gestures
    names = [gesture.name for gesture in gestures]
    if name not in names:
        raise ConfigError(f"{opened.bundle.path} has no gesture {name}; it has {', '.join(names)}")
    if len(names) == 1:
        raise ConfigError(f"{opened.bundle.path}: {name} is its only gesture and cannot be removed")
    gone, smaller = names.index(name), opened.recogniser.index
    if smaller is None and len(names) == 2:
        raise ConfigError(
            f"{opened.bundle.path}: {names[0]} and {names[1]} are its only gestures and cannot be removed"
        )
    left, spec = gestures[:gone] + gestures[gone + 1 :], opened.bundle.manifest.index
    if smaller is not None and spec is not None:
        kept = smaller.gesture_index != gone
        labels, vectors = smaller.gesture_index[kept], smaller.stored.vectors.of(kept)
        smaller = build_index(vectors, labels - (labels > gone), _SEED, spec.penalties(left), spec.search)
    return _rewrite(opened, left, smaller, key, without=gone)


def confusions(index: PoseIndex, gestures: Sequence[str], k: int) -> list[Confusion]:
    """For each gesture, the other one that has the most of the k nearest neighbours of its prototypes."""
    found = []
    for number, name in enumerate(gestures):
        own = np.flatnonzero(index.gesture_index == number)
        own = own[evenly_spread(len(own), _N_ASKED)]
        similarity = index.vectors[own] @ index.vectors.T
        similarity[np.arange(len(own)), own] = -np.inf
        n_nearest = min(k, index.n_prototypes - 1)
        nearest = index.gesture_index[np.argsort(-similarity, axis=1)[:, :n_nearest]]
        counts = np.bincount(nearest.ravel(), minlength=len(gestures))
        counts[number] = 0
        other = int(np.argmax(counts))
        share = float(counts[other]) / max(1, nearest.size)
        found.append(Confusion(name, gestures[other] if share > 0 else "", share))
    return found


def _variations(movement: Movement, pose: PoseSpec, n: int, file: Path) -> NDArray[np.float32]:
    """Windows of standardised poses, each with an offset as between people, (n, n_joints, n_poses)."""
    n_poses, rng = pose.encoder.window_samples, np.random.default_rng(_SEED)
    window_s = (n_poses - 1) / pose.rate_hz
    slack_s = movement.duration_s - window_s
    if len(movement.time_s) > 1 and slack_s < 0:
        raise DataError(
            f"{file}: a movement of {movement.duration_s:.2f} s is shorter than the window of {window_s:.2f} s; "
            "give a longer one, or one row for a pose that is held"
        )
    starts_s = rng.uniform(0, max(0.0, slack_s), n)
    angles = np.stack([movement.at(start_s + np.arange(n_poses) / pose.rate_hz) for start_s in starts_s])
    offsets = rng.normal(0, pose.spread_rad, (n, 1, len(pose.joints)))
    standard = (angles + offsets - np.array(pose.mean_rad)) / np.array(pose.std_rad)
    return np.ascontiguousarray(standard.transpose(0, 2, 1), dtype=np.float32)


def _landing(recogniser: Recogniser, window: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean direction of the poses nearest to one window of EMG, (d_embed,)."""
    embedding = recogniser.encoder.embed(np.ascontiguousarray(window))
    vectors = recogniser.index_for("the landing of a window").vectors
    nearest = vectors[np.argsort(-(embedding @ vectors.T))[:N_NEAREST_POSES]].mean(axis=0)
    landing: NDArray[np.float32] = nearest / np.linalg.norm(nearest)
    return landing


def _rewrite(
    opened: OpenBundle,
    gestures: tuple[Gesture, ...],
    index: PoseIndex | None,
    key: SigningKey | None,
    without: int | None = None,
    head: tuple[HeadSpec | None, Head | None] | None = None,
    new_votes: Sequence[Vote] = (),
) -> Manifest:
    """Rewrite the bundle with other gestures.

    index: the new index; None: the bundle has none
    without: number of the gesture that is removed
    head: the new head and its spec; None: the present ones, without the removed gesture
    new_votes: correct votes for a new gesture, on windows that were not used to teach it
    """
    bundle, old = opened.bundle, opened.bundle.manifest
    head_spec, new_head = _head_without(opened, without) if head is None else head
    golden, golden_votes = _golden(opened, index, head_spec, new_head, len(gestures), without)
    changed = {old.golden_file: golden.to_bytes()}
    index_spec = old.index
    if index_spec is not None and index is not None:
        changed[index_spec.file] = index.to_bytes()
        index_spec = index_spec.model_copy(update={"n_prototypes": index.n_prototypes, "graph": graph_spec(index)})
    if head_spec is not None and new_head is not None:
        changed[head_spec.file] = new_head.to_bytes()
    decision = _eased(old.decision, [*([vote] for vote in golden_votes), new_votes])
    if old.other_movements is not None and UNKNOWN not in (gesture.name for gesture in gestures):
        longer = {"evidence_ms": max(decision.evidence_ms, EVIDENCE_MS[0])}  # a shorter one is for bundles with them
        decision = decision.model_copy(update=longer)

    def manifest(files: dict[str, FileEntry]) -> Manifest:
        names = {gesture.name for gesture in gestures}
        rest = old.decision.rest_gesture
        fields = {
            "files": files,
            "version": old.version + 1,
            "gestures": gestures,
            "head": head_spec,
            "index": index_spec,
            "decision": decision.model_copy(update={"rest_gesture": rest if rest in names else ""}),
        }
        return Manifest.model_validate({**{name: getattr(old, name) for name in Manifest.model_fields}, **fields})

    return write_bundle(bundle.path, lambda folder: bundle.copy_files(folder, changed), manifest, key)


def _head_without(opened: OpenBundle, gesture: int | None) -> tuple[HeadSpec | None, Head | None]:
    """The head after a gesture of the bundle is removed; None when it would have fewer than two gestures left."""
    spec, head = opened.bundle.manifest.head, opened.recogniser.head
    if spec is None or head is None or gesture is None:
        return spec, head
    if gesture in spec.gestures:
        if len(spec.gestures) == 2:
            return None, None
        head = head.without(spec.gestures.index(gesture))
    kept = tuple(number - (number > gesture) for number in spec.gestures if number != gesture)
    return spec.model_copy(update={"gestures": kept}), head


def _golden(
    opened: OpenBundle,
    index: PoseIndex | None,
    spec: HeadSpec | None,
    head: Head | None,
    n_gestures: int,
    without: int | None,
) -> tuple[Golden, list[Vote]]:
    """The golden inputs with the new answers; those of a removed gesture are dropped, unless none would be left."""
    golden, k = opened.golden, opened.bundle.manifest.decision.k
    kept = np.ones(len(golden.gesture_index), bool) if without is None else golden.gesture_index != without
    if not kept.any():
        kept[:] = True
    answers = []
    for signal_uv, embedding in zip(golden.signal_uv[kept], golden.embedding[kept], strict=True):
        window = opened.recogniser.last_window(signal_uv)
        answers.append(answer(window, embedding, index, k, spec, head, n_gestures))
    gesture_index = np.array([vote.gesture_index for vote in answers], np.int32)
    return Golden(golden.signal_uv[kept], golden.embedding[kept], gesture_index), answers


def _eased(spec: DecisionSpec, votes: Sequence[Sequence[Vote]]) -> DecisionSpec:
    """Relax the rejection thresholds so that each gesture keeps most of its windows, with a margin.

    They were chosen for other gestures: a new gesture may never reach a share of votes that all of those reached.

    votes: correct votes, gesture by gesture
    """
    least_share, least_similarity = spec.min_vote_share, spec.min_similarity
    for right in filter(len, votes):
        share = float(np.quantile([vote.share for vote in right], 1 - RIGHT_KEPT))
        similarity = float(np.quantile([vote.similarity for vote in right], 1 - TYPICAL_KEPT))
        least_share = min(least_share, SHARE_MARGIN * share)
        least_similarity = min(least_similarity, _SIMILARITY_MARGIN * similarity)
    return spec.model_copy(update={"min_vote_share": least_share, "min_similarity": max(-1.0, least_similarity)})
