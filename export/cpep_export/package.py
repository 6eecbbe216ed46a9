"""Make a bundle from a checkpoint: shape, quantise, lower, index, measure each step's loss, and write it atomically."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_edge.bundle import next_version, require_bundle_or_nothing, write_bundle
from cpep_edge.encoder import EmgEncoder
from cpep_edge.errors import ConfigError, DataError
from cpep_edge.files import check_writable
from cpep_edge.golden import Golden
from cpep_edge.hand import N_ANGLES, HandPoses
from cpep_edge.input_stream import InputStream
from cpep_edge.manifest import (
    DecisionSpec,
    FileEntry,
    Gesture,
    IndexSpec,
    LadderStep,
    Manifest,
    NativeSpec,
    PlacementSpec,
    Provenance,
    Search,
    Target,
)
from cpep_edge.names import check_name
from cpep_edge.pose_index import PoseIndex, Vote, build_index, graph_spec
from cpep_edge.recogniser import answer
from cpep_edge.spread import evenly_spread
from cpep_edge.trust import SigningKey
from cpep_edge.versions import git_commit, installed_versions
from cpep_export.chip_program import ChipProgram, ChipTarget, chip_program
from cpep_export.chips import NO_LIMIT, Chip
from cpep_export.device_program import Choice, DeviceProgram, device_program
from cpep_export.head_choice import HEAD_FILE, ChosenHead, HeadChoice, choose_head
from cpep_export.ladder import CHIP, HEAD, INDEX, LIVE, Ladder, one_by_one
from cpep_export.live_replay import embed_live
from cpep_export.lower import ENCODER_FILE
from cpep_export.native import TARGETS, NativeBuild
from cpep_export.pose_program import PoseProgram, lower_pose_encoder
from cpep_export.prototypes import CHIP_INDEX_BYTES, INDEX_BYTES, Prototypes, find_prototypes
from cpep_export.rejection import REST_STAGES, decision_spec, watched_windows
from cpep_export.training_windows import training_embeddings
from cpep_train.checkpoint import Checkpoint
from cpep_train.corpus import Corpus
from cpep_train.evaluate import (
    N_NEIGHBOURS,
    EvaluationSet,
    embed_emg,
    embed_poses,
    evaluation_set,
    harmonic_mean,
    torch_embedding,
)
from cpep_train.leakage import audit_against
from cpep_train.provenance import provenance_of
from cpep_train.seen_penalty import SeenPenalty, choose_seen_penalty, set_apart

INDEX_FILE = "index.bin"
POSE_FILE = "pose_encoder.pte"
GOLDEN_FILE = "golden.npz"
HAND_FILE = "hand.npz"

_HAND_POSES = 24  # of each gesture
MAX_GOLDEN = 16  # at paper size a stretch takes a tenth of a megabyte
GOLDEN_LEAD_S = 0.25  # signal before the golden window, for the filter to settle

_PACKAGES = ("cpep-edge", "torch", "torchao", "executorch", "hnswlib", "numpy", "scipy")

Progress = Callable[[int, int], None]
_N_STAGES = 6
_WINDOWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The inputs of an export's steps."""

    checkpoint: Checkpoint
    corpus: Corpus
    evaluation: EvaluationSet
    queries: NDArray[np.float32]  # (Q, D), embedded by the trained module
    poses: NDArray[np.float32]  # (R, D), the embedded poses of training people
    seen_penalty: SeenPenalty

    @property
    def seed(self) -> int:
        return self.checkpoint.recipe.seed

    @property
    def gesture_penalty(self) -> tuple[float, ...]:
        """The penalty that the index subtracts from the cosines of each gesture, (K,)."""
        return tuple(self.seen_penalty.penalty if seen else 0.0 for seen in self.evaluation.seen)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The results of an export's steps, for the bundle."""

    device: DeviceProgram
    index: PoseIndex
    search: Search
    head: ChosenHead | None
    gestures: tuple[Gesture, ...]
    ladder: tuple[LadderStep, ...]
    golden: Golden
    decision: DecisionSpec
    hand: HandPoses | None
    pose: PoseProgram | None
    native: NativeBuild | None
    target: Target
    chip: ChipProgram | None
    version: int


def export_bundle(
    checkpoint: Checkpoint,
    data: Path,
    out: Path,
    *,
    quant: Choice = "auto",
    head: HeadChoice = "auto",
    search: Search = "auto",
    native: NativeBuild | None = None,
    chip_target: ChipTarget | None = None,
    chip: Chip = NO_LIMIT,
    pose_encoder: bool = True,
    force: bool = False,
    version: int | None = None,
    key: SigningKey | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Make the bundle `out`, whole or not at all.

    quant: of the EMG encoder; "auto" takes the smallest that keeps the votes
    head: what answers for gestures whose EMG was trained on; "auto" takes the best on the validation windows
    search: how the poses of the index are searched
    data: the training's corpus: its training windows calibrate, its training people's poses fill the index, and its
        other recordings measure the loss of each step and become golden inputs
    native: runtime for the encoder without torch, which also determines the target; None: a bundle that needs torch
    chip_target: a microcontroller, whose program is added; None: the bundle is for Linux only
    chip: refuse a microcontroller's program that does not fit this chip
    pose_encoder: whether to add it, so that gestures can be enrolled by their joint angles
    force: export even if the program loses more than `cpep_export.ladder` allows; the manifest then says so
    version: of the bundle; None: one above that of the existing bundle at `out`
    key: signs the bundle
    progress: called with the stages done and their number
    Raises DataError when the corpus does not fit the checkpoint, or its test recordings were trained on; ArtifactError
    when XNNPACK does not run all operators or the program loses too much.
    """
    check_out(out)
    done = _counter(progress)
    version = next_version(out) if version is None else version
    inputs = _gather(checkpoint, data)
    done()
    ladder = Ladder(inputs.evaluation, inputs.poses, inputs.seen_penalty.penalty)
    device = device_program(checkpoint, inputs.evaluation, ladder, quant, force=force)
    done()
    asking = training_embeddings(inputs.evaluation, checkpoint, inputs.seed, len(inputs.poses))
    labels = inputs.evaluation.references.gesture_index
    prototypes = find_prototypes(
        inputs.poses,
        labels,
        asking,
        k=N_NEIGHBOURS,
        most_bytes=INDEX_BYTES if chip_target is None else CHIP_INDEX_BYTES,
        gesture_penalty=inputs.gesture_penalty,
    )
    index = _index(prototypes, inputs.seed, search)
    gestures = _gestures(inputs, prototypes)
    done()

    def index_of(allowed: NDArray[np.bool_]) -> PoseIndex:
        return _index(prototypes.of_gestures(allowed), inputs.seed, search)

    ladder.climb_by_index(INDEX, device.embedded, index_of)
    ladder.climb_by_index(LIVE, embed_live(device.encoder, ladder.evaluation.queries), index_of)
    chosen = _choose_head(checkpoint, inputs, index_of(inputs.evaluation.seen), head)
    votes = _votes(ladder.evaluation, device.embedded, index, chosen)
    if chosen is not None and chosen.spec.answers:
        ladder.climb_by_votes(HEAD, votes)
    done()
    golden = _golden(inputs, ladder.evaluation, votes, device.encoder, index, chosen)
    on_chip = None
    if chip_target is not None:
        on_chip = chip_program(
            chip_target, chip, checkpoint, ladder.evaluation, prototypes, golden, chosen, force=force
        )
        if on_chip.votes is not None:
            ladder.climb_by_votes(CHIP, on_chip.votes)
        elif on_chip.embedded is not None:
            ladder.climb_by_index(CHIP, on_chip.embedded, index_of)
    done()
    watched = watched_windows(inputs.evaluation)
    embedded = embed_emg(one_by_one(device.encoder), watched.queries)
    decision = decision_spec(watched, _votes(watched, embedded, index, chosen))
    hand = _hand_poses(checkpoint, inputs.evaluation, inputs.poses)
    pose = (
        lower_pose_encoder(checkpoint, inputs.evaluation.references)
        if pose_encoder and checkpoint.recipe.pose.source != "gestures"
        else None
    )
    target = chip_target or ("linux" if native is None else TARGETS[native.architecture])
    parts = _Parts(
        device,
        index,
        search,
        chosen,
        gestures,
        ladder.steps,
        golden,
        decision,
        hand,
        pose,
        native,
        target,
        on_chip,
        version,
    )
    manifest = _write(out, inputs, parts, key)
    done()
    return manifest


def check_out(out: Path) -> None:
    """Raise CpepError, before any work, when `out` cannot be written: because of its name or an existing file."""
    try:
        check_name(out.stem)
    except ValueError as error:
        raise ConfigError(
            f"{out}: a bundle is called as its folder, and {out.stem!r} cannot be used: {error}"
        ) from error
    require_bundle_or_nothing(out)
    check_writable(out)


def _choose_head(checkpoint: Checkpoint, inputs: _Inputs, trained: PoseIndex, head: HeadChoice) -> ChosenHead | None:
    """The head; it does not answer when the poses of all gestures, trained or not, are more accurate than with it.

    trained: the poses of the gestures whose EMG was trained on
    """
    by_poses = np.array([trained.vote(query, N_NEIGHBOURS).gesture_index for query in inputs.queries], np.int64)
    chosen = choose_head(checkpoint, inputs.evaluation, by_poses, inputs.seed, head)
    if head == "auto" and chosen is not None and chosen.spec.answers and not _reads_all_as_well(inputs, chosen):
        return replace(chosen, spec=chosen.spec.model_copy(update={"answers": False}))
    return chosen


def _gather(checkpoint: Checkpoint, data: Path) -> _Inputs:
    corpus = Corpus.open(data)
    if checkpoint.splits is not None:
        audit_against(checkpoint.splits, corpus.usable(checkpoint.recipe, checkpoint.provenance.skipped))
    evaluation = evaluation_set(checkpoint, corpus)
    queries = embed_emg(torch_embedding(checkpoint.emg), evaluation.queries)
    poses = embed_poses(checkpoint.pose, evaluation.references)
    penalty = choose_seen_penalty(checkpoint, evaluation, queries, poses)
    return _Inputs(checkpoint, corpus, evaluation, queries, poses, penalty)


def _write(out: Path, inputs: _Inputs, parts: _Parts, key: SigningKey | None) -> Manifest:
    def fill(folder: Path) -> None:
        (folder / ENCODER_FILE).write_bytes(parts.device.program.content)
        (folder / GOLDEN_FILE).write_bytes(parts.golden.to_bytes())
        if parts.hand is not None:
            (folder / HAND_FILE).write_bytes(parts.hand.to_bytes())
        (folder / INDEX_FILE).write_bytes(parts.index.to_bytes())
        if parts.head is not None:
            (folder / HEAD_FILE).write_bytes(parts.head.head.to_bytes())
        if parts.pose is not None:
            (folder / POSE_FILE).write_bytes(parts.pose.program.content)
        for name, content in ({} if parts.chip is None else parts.chip.files).items():
            (folder / name).write_bytes(content)
        for file in () if parts.native is None else parts.native.files:
            shutil.copy(file, folder)  # the runner stays executable

    def manifest(files: dict[str, FileEntry]) -> Manifest:
        index, pose, recipe = parts.index, parts.pose, inputs.checkpoint.recipe
        return Manifest(
            name=out.stem,
            version=parts.version,
            target=parts.target,
            files=files,
            golden_file=GOLDEN_FILE,
            hand_file=None if parts.hand is None else HAND_FILE,
            n_channels=recipe.signal.n_channels,
            window_samples=recipe.windows.window_samples,
            preprocessing=inputs.checkpoint.preprocessing,
            front_end=inputs.checkpoint.front_end,
            calibration=recipe.calibration.stages or (("every gesture once",) if recipe.calibration.asked else ()),
            placement=PlacementSpec(max_turn=recipe.calibration.max_turn, mirrored=recipe.calibration.mirrored),
            masked_channels=tuple(number - 1 for number in recipe.recordings.masked_channels),
            level_pattern=inputs.evaluation.queries.dataset.store.donnings.pattern(),
            encoder=parts.device.spec,
            head=None if parts.head is None else parts.head.spec,
            native=None if parts.native is None else _native_spec(parts.native),
            chip=None if parts.chip is None else parts.chip.spec,
            pose=None if pose is None else pose.spec(POSE_FILE),
            index=IndexSpec(
                file=INDEX_FILE,
                n_prototypes=index.n_prototypes,
                graph=graph_spec(index),
                search=parts.search,
                seen_penalty=inputs.seen_penalty.penalty,
                penalty_curve=inputs.seen_penalty.curve,
            ),
            gestures=parts.gestures,
            decision=parts.decision,
            ladder=parts.ladder,
            forced=(*parts.device.forced, *(() if parts.chip is None else parts.chip.forced)),
            passed_over=parts.device.passed_over,
            provenance=_provenance(inputs),
        )

    return write_bundle(out, fill, manifest, key)


def _native_spec(native: NativeBuild) -> NativeSpec:
    libraries = tuple(file.name for file in native.libraries)
    return NativeSpec(architecture=native.architecture, libraries=libraries, runner=native.runner.name)


def _index(prototypes: Prototypes, seed: int, search: Search) -> PoseIndex:
    return build_index(prototypes.embedding, prototypes.gesture_index, seed, prototypes.gesture_penalty, search)


def _gestures(inputs: _Inputs, prototypes: Prototypes) -> tuple[Gesture, ...]:
    evaluation = inputs.evaluation
    counts = np.bincount(prototypes.gesture_index, minlength=len(evaluation.gestures))
    for name, count in zip(evaluation.gestures, counts, strict=True):
        if count == 0:
            raise DataError(
                f"{inputs.corpus.folder}: no training person has a valid pose of {name} to put in the index"
            )
    rows = zip(evaluation.gestures, counts, evaluation.seen, strict=True)
    return tuple(Gesture(name=name, n_prototypes=int(n), trained=bool(seen)) for name, n, seen in rows)


def _votes(
    evaluation: EvaluationSet, embedded: NDArray[np.float32], index: PoseIndex, head: ChosenHead | None
) -> list[Vote]:
    """A bundle's answers to each query. If a head answers, it is adapted by the wearer's calibration."""
    if head is None or not head.spec.answers:
        return [index.vote(query, N_NEIGHBOURS) for query in embedded]
    queries, votes = evaluation.queries, []
    store, n_gestures = queries.dataset.store, len(evaluation.gestures)
    rows, donnings = store.corpus.rows, store.donnings
    for at in range(0, len(queries), _WINDOWS_AT_ONCE):
        windows = queries.emg(at, at + _WINDOWS_AT_ONCE)
        for number, window in enumerate(windows, start=at):
            own = head.of_donning(donnings.key(rows[queries.places[number, 0]]))
            votes.append(answer(window, embedded[number], index, N_NEIGHBOURS, head.spec, own, n_gestures))
    return votes


def _reads_all_as_well(inputs: _Inputs, head: ChosenHead) -> bool:
    """Whether a head combined with the index is as accurate as the index alone, with unseen gestures among all.

    Tested on validation people and the gestures set apart for them; without these, the head is accepted.
    """
    checkpoint, curve = inputs.checkpoint, inputs.seen_penalty.curve
    apart = set_apart(checkpoint, inputs.evaluation) if curve else None
    if apart is None:
        return True
    penalties = tuple(inputs.seen_penalty.penalty if seen else 0.0 for seen in apart.seen)
    poses = embed_poses(checkpoint.pose, apart.references)
    index = build_index(poses, apart.references.gesture_index, inputs.seed, penalties, "exact")
    asked = embed_emg(torch_embedding(checkpoint.emg), apart.queries)
    votes = _votes(apart, asked, index, head)
    confusion = np.zeros((len(apart.gestures),) * 2, np.int64)
    given = np.array([vote.gesture_index for vote in votes], np.int64)
    np.add.at(confusion, (apart.queries.gesture_index, given), 1)
    return float(harmonic_mean(confusion, apart.seen)) >= max(point.harmonic_mean for point in curve)


def _golden(
    inputs: _Inputs,
    evaluation: EvaluationSet,
    votes: list[Vote],
    encoder: EmgEncoder,
    index: PoseIndex,
    head: ChosenHead | None,
) -> Golden:
    """The clearest window of each gesture as raw signal, with the result of live processing."""
    chosen = _clearest(evaluation, votes)
    stretches, embeddings, gesture_index = [], [], []
    checkpoint, n_steps = inputs.checkpoint, evaluation.queries.dataset.input_shape[1]
    spec, plain = (None, None) if head is None else (head.spec, head.head)
    for number in chosen[evenly_spread(len(chosen), MAX_GOLDEN)]:
        session, start = evaluation.queries.places[number]
        stretch = _stretch(inputs, int(session), int(start))
        stream = InputStream(checkpoint.preprocessing, checkpoint.front_end, stretch.shape[1])
        window = stream.last_window(stretch, n_steps)
        embedding = encoder.embed(window)
        stretches.append(stretch)
        embeddings.append(embedding)
        vote = answer(window, embedding, index, N_NEIGHBOURS, spec, plain, len(evaluation.gestures))
        gesture_index.append(vote.gesture_index)
    return Golden(np.stack(stretches), np.stack(embeddings), np.array(gesture_index, np.int32))


def _clearest(evaluation: EvaluationSet, votes: list[Vote]) -> NDArray[np.intp]:
    """The correct query with the clearest vote for each gesture, as the vote must be the same on every processor."""
    true = evaluation.queries.gesture_index
    answered = np.array([vote.gesture_index for vote in votes])
    clarity = np.array([vote.share for vote in votes]) + (answered == true)
    of_gesture = [np.flatnonzero(true == gesture) for gesture in np.unique(true)]
    return np.array([places[np.argmax(clarity[places])] for places in of_gesture])


def _stretch(inputs: _Inputs, session: int, start: int) -> NDArray[np.float32]:
    """Raw signal that ends with a window, (n_samples, C), microvolts, exact in half precision.

    If sessions are calibrated, each channel is scaled like an uncalibrated session, so the check needs no calibration.
    """
    recipe = inputs.checkpoint.recipe
    lead = round(GOLDEN_LEAD_S * recipe.signal.sample_rate_hz)
    with inputs.corpus.session(inputs.corpus.rows[session]) as recording:
        raw = recording.emg(max(0, start - lead), start + recipe.windows.window_samples)
    donning = inputs.evaluation.queries.dataset.store.donnings.of(inputs.corpus.rows[session])
    gain = 1.0 if donning.level_uv is None else inputs.checkpoint.preprocessing.scale_uv / donning.level_uv
    missing = lead + recipe.windows.window_samples - len(raw)
    raw = donning.arranged(raw)
    padded = np.pad((raw - np.median(raw, axis=0)) * gain, ((missing, 0), (0, 0)), mode="edge")
    largest = float(np.finfo(np.float16).max)
    return np.clip(padded, -largest, largest).astype(np.float16).astype(np.float32)


def _provenance(inputs: _Inputs) -> Provenance:
    recipe = inputs.checkpoint.recipe
    now = provenance_of(inputs.corpus, inputs.checkpoint.provenance.data_sha256)
    templates = ", poses from templates" if recipe.pose.source != "recorded" else ""
    return Provenance(
        recipe=recipe.name,
        seed=recipe.seed,
        data=f"{now.data}{templates}",
        git_commit=git_commit(),
        versions=installed_versions(_PACKAGES),
        created_utc=now.created_utc,
    )


def _counter(progress: Progress | None) -> Callable[[], None]:
    n_done = 0

    def done() -> None:
        nonlocal n_done
        n_done += 1
        if progress is not None:
            progress(n_done, _N_STAGES)

    return done


def _hand_poses(checkpoint: Checkpoint, evaluation: EvaluationSet, embedded: NDArray[np.float32]) -> HandPoses | None:
    """The poses from which a viewer draws the hand: some windows of each gesture, by training people.

    None when the recipe's poses are not those of the 20 joints, with or without the wrist.

    embedded: (R, D), the evaluation's references
    """
    references = evaluation.references
    if checkpoint.recipe.n_joints not in N_ANGLES:
        return None
    rng = np.random.default_rng(checkpoint.recipe.seed)
    of_gesture = [np.flatnonzero(references.gesture_index == gesture) for gesture in range(len(evaluation.gestures))]
    chosen = np.concatenate([rng.permutation(places)[:_HAND_POSES] for places in of_gesture])
    standardised = references.only(chosen).poses().mean(axis=2)
    angles_rad = standardised * checkpoint.pose_std_rad + checkpoint.pose_mean_rad
    rest = [number for number, name in enumerate(evaluation.gestures) if name in REST_STAGES]
    is_rest = np.isin(references.gesture_index[chosen], rest)
    rest_rad = angles_rad[is_rest].mean(axis=0) if is_rest.any() else angles_rad.mean(axis=0)
    return HandPoses(embedded[chosen], angles_rad.astype(np.float32), rest_rad.astype(np.float32))
