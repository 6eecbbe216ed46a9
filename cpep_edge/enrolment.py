"""Teach a bundle a gesture without training, or make it forget one.

From joint angles: the pose encoder, which the bundle carries, embeds the pose many times over, each time held a little
differently, as people differ (the spread was measured in the training). From a session: each window of EMG is taken to
the poses that it lands on, and the mean of the three nearest becomes a prototype. The embedded EMG itself would not do:
it lies nearer to all other EMG than to any pose, and would draw the votes of every gesture
(benchmarks/results/enrolment.md).

What changes is the index, the list of gestures and the golden answers; the encoder stays as it is. A bundle is checked
before and replaced whole.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cpep_edge.bundle import (
    Bundle,
    FileEntry,
    Gesture,
    HeadSpec,
    IndexSpec,
    Manifest,
    PoseSpec,
    locked_bundle,
    write_bundle,
)
from cpep_edge.donning import Donning
from cpep_edge.encoder import open_encoder
from cpep_edge.errors import ConfigError, DataError
from cpep_edge.golden import Golden, check_golden
from cpep_edge.head import Head
from cpep_edge.names import MAX_NAME
from cpep_edge.native_encoder import carried_library
from cpep_edge.pose_file import Movement, read_movement
from cpep_edge.pose_index import PoseIndex, build_index, cosines, graph_spec
from cpep_edge.recogniser import Recogniser, answer
from cpep_edge.session import Session
from cpep_edge.session_trial import check_session
from cpep_edge.trust import SigningKey

N_NEAREST_POSES = 3  # to a window of EMG; one follows chance, ten forget the gesture
_HOPS_A_WINDOW = 10  # of a session
_RATE_TOLERANCE = 0.005  # as live
_N_ASKED = 200  # prototypes of a gesture that confusions are counted on
_SEED = 0


@dataclass(frozen=True, slots=True)
class Confusion:
    """The gesture that lies nearest to another."""

    gesture: str
    nearest: str  # the other gesture that most neighbours of its prototypes belong to; "" where there is none
    share: float  # of those neighbours


@dataclass(frozen=True, slots=True)
class OpenBundle:
    """A bundle that was checked down to its golden inputs, ready to be changed."""

    bundle: Bundle
    recogniser: Recogniser
    golden: Golden

    @classmethod
    def check(cls, bundle: Bundle) -> "OpenBundle":
        """Raises ArtifactError when anything of the bundle is not as it should be."""
        bundle.check_files()
        recogniser = Recogniser(bundle)
        check_golden(bundle, recogniser)
        return cls(bundle, recogniser, Golden.from_bytes(bundle.read(bundle.manifest.golden_file)))

    @classmethod
    @contextmanager
    def to_edit(cls, path: Path, key_file: Path | None = None, *, trust: bool = False) -> "Iterator[OpenBundle]":
        """A bundle that nobody else can change until this is done with: another edit waits, and none is lost."""
        with locked_bundle(path):
            yield cls.check(Bundle.open(path, key_file, trust=trust))

    def require_new(self, name: str) -> None:
        """Raise ConfigError when there is a gesture of this name, or it is no name."""
        if not name.isprintable() or name != name.strip() or not 0 < len(name) <= MAX_NAME:
            raise ConfigError(f"{name!r} is no name for a gesture: give up to {MAX_NAME} printable characters")
        if any(gesture.name == name for gesture in self.bundle.manifest.gestures):
            raise ConfigError(
                f"{self.bundle.path} has a gesture {name} already; remove it first, or choose another name"
            )

    def usual_count(self) -> int:
        """Prototypes of a gesture, the median: how many a new one should have to be heard."""
        return int(np.median([gesture.n_prototypes for gesture in self.bundle.manifest.gestures]))


def prototypes_from_pose(opened: OpenBundle, file: Path) -> NDArray[np.float32]:
    """Embed a pose or a movement in many variations, (n, d_embed).

    Raises ConfigError when the bundle carries no pose encoder, DataError when the file is not of its joints.
    """
    bundle, pose = opened.bundle, opened.bundle.manifest.pose
    if pose is None:
        raise ConfigError(
            f"{bundle.path} carries no pose encoder; export it with --pose-encoder, or add the gesture --from-session"
        )
    movement = read_movement(file, pose.joints)
    encoder = open_encoder(bundle.read(pose.encoder.file), pose.encoder, 1, carried_library(bundle))
    windows = _variations(movement, pose, opened.usual_count(), file)
    return np.stack([encoder.embed(window) for window in windows])


def prototypes_from_session(opened: OpenBundle, file: Path, donning: Donning | None = None) -> NDArray[np.float32]:
    """Take the windows of a recording to the poses they land on, (n, d_embed).

    donning: what the session's calibration found
    Raises DataError when the recording is of another band, too short, or damaged.
    """
    manifest, recogniser = opened.bundle.manifest, opened.recogniser
    n_steps = manifest.input_shape[1]
    check_session(file)
    with Session(file) as session:
        meta, rate_hz = session.meta, manifest.preprocessing.sample_rate_hz
        if meta.num_channels != manifest.n_channels or abs(meta.sample_rate / rate_hz - 1) > _RATE_TOLERANCE:
            raise DataError(
                f"{file}: {meta.num_channels} channels at {meta.sample_rate:g} Hz, the bundle takes "
                f"{manifest.n_channels} at {rate_hz:g} Hz"
            )
        session.check()
        steps, n_samples = recogniser.stream(donning)(session.emg()), session.n_samples
    starts = np.arange(0, len(steps) - n_steps + 1, max(1, n_steps // _HOPS_A_WINDOW))
    if len(starts) < manifest.decision.k:
        raise DataError(f"{file}: {n_samples / rate_hz:.1f} s of signal are too short to learn a gesture from")
    starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), opened.usual_count())).astype(np.intp)]
    return np.stack([_landing(recogniser, steps[start : start + n_steps].T) for start in starts])


def add_gesture(
    opened: OpenBundle,
    name: str,
    prototypes: NDArray[np.float32],
    origin: Literal["pose file", "session"],
    key: SigningKey | None = None,
) -> Manifest:
    """Add a gesture and write the bundle anew; the old one survives every failure.

    prototypes: (n, d_embed), unit length
    key: signs the new bundle
    """
    opened.require_new(name)
    manifest, index = opened.bundle.manifest, opened.recogniser.index_for("a gesture of prototypes")
    vectors = index.stored.vectors.with_added(prototypes)
    labels = np.concatenate([index.gesture_index, np.full(len(prototypes), len(manifest.gestures))])
    gesture = Gesture(name=name, n_prototypes=len(prototypes), trained=False, origin=origin)
    return _rewrite(opened, (*manifest.gestures, gesture), build_index(vectors, labels, _SEED), key)


def remove_gesture(opened: OpenBundle, name: str, key: SigningKey | None = None) -> Manifest:
    """Remove a gesture and write the bundle anew; the old one survives every failure."""
    gestures = opened.bundle.manifest.gestures
    names = [gesture.name for gesture in gestures]
    if name not in names:
        raise ConfigError(f"{opened.bundle.path} has no gesture {name}; it has {', '.join(names)}")
    if len(names) == 1:
        raise ConfigError(f"{opened.bundle.path}: {name} is its only gesture and has to stay")
    gone, smaller = names.index(name), opened.recogniser.index
    if smaller is not None:
        kept = smaller.gesture_index != gone
        labels = smaller.gesture_index[kept]
        smaller = build_index(smaller.stored.vectors.of(kept), labels - (labels > gone), _SEED)
    return _rewrite(opened, gestures[:gone] + gestures[gone + 1 :], smaller, key, without=gone)


def confusions(index: PoseIndex, gestures: Sequence[str], k: int) -> list[Confusion]:
    """For each gesture, the other that its prototypes have most neighbours in, themselves left out."""
    found = []
    for number, name in enumerate(gestures):
        own = np.flatnonzero(index.gesture_index == number)
        own = own[np.linspace(0, len(own) - 1, min(len(own), _N_ASKED)).astype(np.intp)]
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
    """Windows of standardised poses, each offset as another person might hold them, (n, n_joints, n_poses)."""
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
    """The direction amid the poses nearest to one window of EMG, (d_embed,)."""
    embedding = recogniser.encoder.embed(np.ascontiguousarray(window))
    vectors = recogniser.index_for("the landing of a window").vectors
    nearest = vectors[np.argsort(-cosines(embedding[None], vectors)[0])[:N_NEAREST_POSES]].mean(axis=0)
    landing: NDArray[np.float32] = nearest / np.linalg.norm(nearest)
    return landing


def _rewrite(
    opened: OpenBundle,
    gestures: tuple[Gesture, ...],
    index: PoseIndex | None,
    key: SigningKey | None,
    without: int | None = None,
) -> Manifest:
    bundle, old = opened.bundle, opened.bundle.manifest
    head_spec, head = _head_without(opened, without)
    golden = _golden(opened, index, head_spec, head, len(gestures), without)
    changed = {old.golden_file: golden.to_bytes()}
    index_spec = old.index
    if index_spec is not None and index is not None:
        changed[index_spec.file] = index.to_bytes()
        index_spec = IndexSpec(file=index_spec.file, n_prototypes=index.n_prototypes, graph=graph_spec(index))
    if head_spec is not None and head is not None:
        changed[head_spec.file] = head.to_bytes()

    def manifest(files: dict[str, FileEntry]) -> Manifest:
        names = {gesture.name for gesture in gestures}
        rest = old.decision.rest_gesture
        fields = {
            "files": files,
            "version": old.version + 1,
            "gestures": gestures,
            "head": head_spec,
            "index": index_spec,
            "decision": old.decision.model_copy(update={"rest_gesture": rest if rest in names else ""}),
        }
        return Manifest.model_validate({**{name: getattr(old, name) for name in Manifest.model_fields}, **fields})

    return write_bundle(bundle.path, lambda folder: bundle.copy_files(folder, changed), manifest, key)


def _head_without(opened: OpenBundle, gesture: int | None) -> tuple[HeadSpec | None, Head | None]:
    """The head after a gesture of the bundle was removed; none where it has fewer than two left."""
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
) -> Golden:
    """The golden inputs with the new answers; those of a gesture that left go with it, if others stay."""
    golden, k = opened.golden, opened.bundle.manifest.decision.k
    kept = np.ones(len(golden.gesture_index), bool) if without is None else golden.gesture_index != without
    if not kept.any():
        kept[:] = True
    answers = []
    for signal_uv, embedding in zip(golden.signal_uv[kept], golden.embedding[kept], strict=True):
        window = opened.recogniser.last_window(signal_uv)
        answers.append(answer(window, embedding, index, k, spec, head, n_gestures).gesture_index)
    return Golden(golden.signal_uv[kept], golden.embedding[kept], np.array(answers, np.int32))
