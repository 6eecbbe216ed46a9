"""From a checkpoint to a bundle: shape, quantise, lower, index, measure what each step cost, and write all at once."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_edge.bundle import (
    DecisionSpec,
    EncoderSpec,
    FileEntry,
    Gesture,
    IndexSpec,
    LadderStep,
    Manifest,
    NativeSpec,
    Provenance,
    write_bundle,
)
from cpep_edge.checkout import git_commit, installed_versions
from cpep_edge.encoder import EmgEncoder, open_encoder
from cpep_edge.errors import ArtifactError, DataError
from cpep_edge.golden import Golden
from cpep_edge.pose_index import PoseIndex, Vote
from cpep_edge.preprocess import Preprocessor
from cpep_export.ladder import Ladder, one_by_one
from cpep_export.lower import Program, lower, require_delegated
from cpep_export.native import TARGETS, NativeBuild
from cpep_export.prototypes import Prototypes, find_prototypes, index_prototypes
from cpep_export.quantise import Quantisation, quantise
from cpep_export.shaped import ShapedEncoder
from cpep_train.checkpoint import Checkpoint
from cpep_train.corpus import Corpus
from cpep_train.evaluate import N_NEIGHBOURS, EvaluationSet, embed_emg, embed_poses, evaluation_set, torch_embedding
from cpep_train.provenance import provenance_of
from cpep_train.windows import WindowDataset

ENCODER_FILE = "encoder.pte"
INDEX_FILE = "index.bin"
GOLDEN_FILE = "golden.npz"

PROTOTYPES_PER_GESTURE = 48
CALIBRATION_WINDOWS = 128
MAX_GOLDEN = 16  # at paper size a stretch takes a tenth of a megabyte
GOLDEN_LEAD_S = 0.25  # signal before the golden window, for the filter to settle
SHAPED_TOLERANCE = 1e-4  # float32, summed in another order; the rewrites themselves are exact
MIN_VOTE_SHARE = 0.5  # of ten votes: a gesture that less than half agree on is doubtful
CORRECT_VOTES_KEPT = 0.95  # by the threshold on similarity
M, EF_CONSTRUCTION, EF = 16, 200, 100  # recall@10 is one on thousands of prototypes; a query takes tens of microseconds

_PACKAGES = ("cpep-edge", "torch", "torchao", "executorch", "hnswlib", "numpy", "scipy")

Progress = Callable[[int, int], None]
_N_STAGES = 7


@dataclass(frozen=True, slots=True)
class _Material:
    """What the steps of an export work on."""

    checkpoint: Checkpoint
    corpus: Corpus
    evaluation: EvaluationSet
    poses: NDArray[np.float32]  # (R, D), the embedded poses of training people

    @property
    def seed(self) -> int:
        return self.checkpoint.recipe.seed


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the steps of an export leave for the bundle."""

    program: Program
    encoder: EncoderSpec
    index: PoseIndex
    gestures: tuple[Gesture, ...]
    ladder: tuple[LadderStep, ...]
    golden: Golden
    decision: DecisionSpec
    native: NativeBuild | None


def export_bundle(
    checkpoint: Checkpoint,
    data: Path,
    out: Path,
    *,
    quant: Quantisation = "int8",
    prototypes_per_gesture: int = PROTOTYPES_PER_GESTURE,
    native: NativeBuild | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Make the bundle `out`, whole or not at all.

    data: the corpus of the training: its training windows calibrate, its training people's poses fill the index, and
        its other recordings measure what each step cost and become golden inputs
    native: what runs the encoder on a device without torch, and says which; None: the bundle is for machines with torch
    progress: called with the stages done and their number
    Raises DataError when the corpus does not fit the checkpoint, ArtifactError when XNNPACK leaves operators outside.
    """
    done = _counter(progress)
    material = _gather(checkpoint, data)
    done()
    shaped = ShapedEncoder(checkpoint.emg).eval()
    quantised = quantise(shaped, quant, calibration_windows(material.evaluation, material.seed))
    done()
    program = require_delegated(lower(quantised, shaped.n_channels, shaped.window_samples))
    spec = _encoder_spec(checkpoint, shaped, quant, program)
    encoder = open_encoder(program.content, spec)
    done()
    gesture_index = material.evaluation.references.gesture_index
    prototypes = find_prototypes(material.poses, gesture_index, prototypes_per_gesture, material.seed)
    index = _index(prototypes, material.seed)
    gestures = _gestures(material, prototypes)
    done()
    ladder, queries = _ladder(material, shaped, encoder, prototypes)
    votes = [index.vote(query, N_NEIGHBOURS) for query in queries]
    done()
    golden = _golden(material, ladder.evaluation, votes, encoder, index)
    done()
    decision = _decision(ladder.evaluation.queries.gesture_index, votes)
    parts = _Parts(program, spec, index, gestures, ladder.steps, golden, decision, native)
    manifest = _write(out, material, parts)
    done()
    return manifest


def calibration_windows(evaluation: EvaluationSet, seed: int) -> NDArray[np.float32]:
    """Training windows drawn over all recordings of an evaluation's corpus, (n_windows, C, T), preprocessed."""
    store = evaluation.queries.dataset.store
    windows = WindowDataset(store, store.corpus.numbers("train"), with_pose=False)
    drawn = np.random.default_rng(seed).permutation(len(windows))[:CALIBRATION_WINDOWS]
    emg: NDArray[np.float32] = windows.fetch(windows.index[drawn]).emg.numpy()
    return emg


def _gather(checkpoint: Checkpoint, data: Path) -> _Material:
    corpus = Corpus.open(data)
    evaluation = evaluation_set(checkpoint, corpus)
    return _Material(checkpoint, corpus, evaluation, embed_poses(checkpoint.pose, evaluation.references))


def _write(out: Path, material: _Material, parts: _Parts) -> Manifest:
    def fill(folder: Path) -> None:
        (folder / ENCODER_FILE).write_bytes(parts.program.content)
        (folder / GOLDEN_FILE).write_bytes(parts.golden.to_bytes())
        parts.index.save(folder / INDEX_FILE)
        for file in () if parts.native is None else parts.native.files:
            shutil.copy(file, folder)  # the runner stays executable

    def manifest(files: dict[str, FileEntry]) -> Manifest:
        n_prototypes = parts.index.n_prototypes
        return Manifest(
            name=out.stem,
            target="linux" if parts.native is None else TARGETS[parts.native.architecture],
            files=files,
            golden_file=GOLDEN_FILE,
            preprocessing=material.checkpoint.preprocessing,
            calibration=material.checkpoint.recipe.calibration.stages,
            encoder=parts.encoder,
            native=None if parts.native is None else _native_spec(parts.native),
            index=IndexSpec(file=INDEX_FILE, n_prototypes=n_prototypes, m=M, ef_construction=EF_CONSTRUCTION, ef=EF),
            gestures=parts.gestures,
            decision=parts.decision,
            ladder=parts.ladder,
            provenance=_provenance(material),
        )

    return write_bundle(out, fill, manifest)


def _native_spec(native: NativeBuild) -> NativeSpec:
    libraries = tuple(file.name for file in native.libraries)
    return NativeSpec(architecture=native.architecture, libraries=libraries, runner=native.runner.name)


def _encoder_spec(checkpoint: Checkpoint, shaped: ShapedEncoder, quant: Quantisation, program: Program) -> EncoderSpec:
    return EncoderSpec(
        file=ENCODER_FILE,
        runtime="executorch-xnnpack",
        quantisation=quant,
        n_channels=shaped.n_channels,
        window_samples=shaped.window_samples,
        d_embed=shaped.d_embed,
        n_parameters=sum(parameter.numel() for parameter in checkpoint.emg.parameters()),
        n_delegates=program.n_delegates,
        n_operators_outside=len(program.operators_outside),
    )


def _index(prototypes: Prototypes, seed: int) -> PoseIndex:
    return index_prototypes(prototypes, m=M, ef_construction=EF_CONSTRUCTION, ef=EF, seed=seed)


def _gestures(material: _Material, prototypes: Prototypes) -> tuple[Gesture, ...]:
    evaluation = material.evaluation
    counts = np.bincount(prototypes.gesture_index, minlength=len(evaluation.gestures))
    for name, count in zip(evaluation.gestures, counts, strict=True):
        if count == 0:
            raise DataError(
                f"{material.corpus.folder}: no training person has a valid pose of {name} to put in the index"
            )
    rows = zip(evaluation.gestures, counts, evaluation.seen, strict=True)
    return tuple(Gesture(name=name, n_prototypes=int(n), trained=bool(seen)) for name, n, seen in rows)


def _ladder(
    material: _Material, shaped: ShapedEncoder, encoder: EmgEncoder, prototypes: Prototypes
) -> tuple[Ladder, NDArray[np.float32]]:
    """The finished ladder, and the queries as the device embeds them, (Q, D)."""
    ladder = Ladder(material.evaluation, material.poses)
    queries = ladder.evaluation.queries
    module = embed_emg(torch_embedding(material.checkpoint.emg), queries)
    rewritten = embed_emg(_shaped_embedding(shaped), queries)
    if not np.allclose(module, rewritten, atol=SHAPED_TOLERANCE, rtol=0):
        raise ArtifactError("the shaped encoder does not compute what the trained one does; export refuses to go on")
    ladder.climb_by_embedding("fp32 module", module)
    ladder.climb_by_embedding("shaped fp32", rewritten)
    device = embed_emg(one_by_one(encoder), queries)
    ladder.climb_by_embedding("program on the device", device)
    ladder.climb_by_index(
        "compact index", device, lambda allowed: _index(prototypes.of_gestures(allowed), material.seed)
    )
    return ladder, device


def _shaped_embedding(shaped: ShapedEncoder) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    embed_one = torch_embedding(shaped)
    return lambda windows: np.concatenate([embed_one(window[None]) for window in windows])


def _golden(
    material: _Material, evaluation: EvaluationSet, votes: list[Vote], encoder: EmgEncoder, index: PoseIndex
) -> Golden:
    """The clearest window of each gesture, in raw signal, through the way that live signal takes."""
    chosen = _clearest(evaluation, votes)
    stretches, embeddings, gesture_index = [], [], []
    for number in chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), MAX_GOLDEN)).astype(np.intp)]:
        session, start = evaluation.queries.places[number]
        stretch = _stretch(material, int(session), int(start))
        filtered = Preprocessor(material.checkpoint.preprocessing, stretch.shape[1])(stretch)
        window = filtered[-material.checkpoint.recipe.windows.window_samples :].T
        embedding = encoder.embed(np.ascontiguousarray(window))
        stretches.append(stretch)
        embeddings.append(embedding)
        gesture_index.append(index.vote(embedding, N_NEIGHBOURS).gesture_index)
    return Golden(np.stack(stretches), np.stack(embeddings), np.array(gesture_index, np.int32))


def _clearest(evaluation: EvaluationSet, votes: list[Vote]) -> NDArray[np.intp]:
    """Of each gesture the query whose vote is right and least divided: it must hold on every processor."""
    true = evaluation.queries.gesture_index
    answered = np.array([vote.gesture_index for vote in votes])
    clarity = np.array([vote.share for vote in votes]) + (answered == true)
    of_gesture = [np.flatnonzero(true == gesture) for gesture in np.unique(true)]
    return np.array([places[np.argmax(clarity[places])] for places in of_gesture])


def _stretch(material: _Material, session: int, start: int) -> NDArray[np.float32]:
    """Raw signal that ends with a window, (n_samples, C), microvolts, exact in half precision.

    Where sessions are calibrated, each channel is brought to the scale of a session that was not: the check needs none.
    """
    recipe = material.checkpoint.recipe
    lead = round(GOLDEN_LEAD_S * recipe.signal.sample_rate_hz)
    with material.corpus.session(material.corpus.rows[session]) as recording:
        raw = recording.emg(max(0, start - lead), start + recipe.windows.window_samples)
    level_uv = material.evaluation.queries.dataset.store.levels.level_uv(material.corpus.rows[session])
    gain = 1.0 if level_uv is None else material.checkpoint.preprocessing.scale_uv / level_uv
    missing = lead + recipe.windows.window_samples - len(raw)
    padded = np.pad((raw - np.median(raw, axis=0)) * gain, ((missing, 0), (0, 0)), mode="edge")
    largest = float(np.finfo(np.float16).max)
    return np.clip(padded, -largest, largest).astype(np.float16).astype(np.float32)


def _decision(true: NDArray[np.int64], votes: list[Vote]) -> DecisionSpec:
    """Reject what is farther from every pose than all but a few correct votes were."""
    right = [vote.similarity for vote, gesture in zip(votes, true, strict=True) if vote.gesture_index == gesture]
    lowest = float(np.quantile(right, 1 - CORRECT_VOTES_KEPT)) if right else -1.0
    return DecisionSpec(k=N_NEIGHBOURS, min_vote_share=MIN_VOTE_SHARE, min_similarity=round(max(-1.0, lowest), 4))


def _provenance(material: _Material) -> Provenance:
    recipe, now = material.checkpoint.recipe, provenance_of(material.corpus)
    templates = ", poses from templates" if recipe.pose.source == "templates" else ""
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
