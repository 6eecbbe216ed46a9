"""Export to bare-metal Cortex-M: C sources of the model and the engine, checked before they are released.

The encoder is left out when it is not needed, that is when a head reads tokens alone and knows every gesture.

The output is a folder that compiles by itself: `engine/` and `board/` from `export/mcu/`, the model's `config.h` and
`model.c`, golden stretches, the Makefile, and `report.json`. The golden stretches hold the exact results of the build
for this machine; every other build must give the same bits.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from cpep_edge.donning import Donning
from cpep_edge.errors import ArtifactError, DataError
from cpep_edge.folders import output_folder
from cpep_edge.head import Head
from cpep_edge.input_stream import InputStream
from cpep_edge.manifest import HeadSpec
from cpep_edge.mpf import MpfSpec
from cpep_edge.pose_index import PoseIndex, Vote, build_index, vote
from cpep_edge.preprocess import Preprocessing
from cpep_edge.recogniser import answer
from cpep_export.arm_toolchain import Build, CheckRun, Processor, Sizes, compile_for, run_check, sizes_of
from cpep_export.chips import NO_LIMIT, Chip
from cpep_export.emit_c import (
    DeviceModel,
    GoldenStretch,
    choose_block_tokens,
    config_header,
    golden_source,
    model_source,
)
from cpep_export.fixed_point import IntegerEncoder, to_fixed_point
from cpep_export.fused import FusedEncoder
from cpep_export.host_engine import HostEngine
from cpep_export.prototypes import Prototypes

REPORT_FILE = "report.json"
UV_PER_COUNT = 0.1  # of a 16-bit converter of +-3.3 mV
TOKEN_HEADROOM = 1.5  # limit of the encoder's input, relative to the largest token entry in calibration


@dataclass(frozen=True, slots=True)
class DeviceHead:
    """The front end of a bundle and the head that follows it."""

    front_end: MpfSpec
    spec: HeadSpec | None = None  # None: the prototypes answer
    head: Head | None = None
    means: Sequence[
        NDArray[np.float32]
    ] = ()  # of each window to compare: the head's as that wearer's calibration has it

    def answers_alone(self, n_gestures: int) -> bool:
        """Whether the encoder is never needed."""
        return self.spec is not None and self.spec.reads == "tokens" and len(self.spec.gestures) == n_gestures


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The engine against float32 on the same windows. Cosines are of what decides: the embedding or the mean token."""

    n_windows: int
    min_cosine: float
    mean_cosine: float
    votes_kept: float  # share
    token_error: float  # largest error of any entry of a golden window's mean token; 0: no front end


@dataclass(frozen=True, slots=True)
class TargetRun:
    """The golden stretches on one processor under QEMU: instructions, not cycles."""

    processor: Processor
    check: CheckRun
    sizes: Sizes

    @property
    def ram_bytes(self) -> int:
        """All RAM in use: the arena, the kernels' buffers, and the stack that was touched."""
        return self.sizes.ram_bytes + self.check.stack_bytes


@dataclass(frozen=True, slots=True)
class CortexMReport:
    """The figures of an export."""

    fidelity: Fidelity
    arena_bytes: int
    weight_bytes: int  # of the encoder, biases and scales included
    multiply_adds: int  # of one window
    runs: tuple[TargetRun, ...]


@dataclass(frozen=True, slots=True)
class CortexMExport:
    """The report of an export, and the output of its engine."""

    report: CortexMReport
    embedded: NDArray[np.float32]  # (n, E), the evaluation's windows; (n, 0) without an encoder
    votes: list[Vote]  # of the same
    golden_index: list[int]  # the engine's answers to the golden stretches


def export_cortex_m(
    encoder: FusedEncoder,
    preprocessing: Preprocessing,
    prototypes: Prototypes,
    gestures: Sequence[str],
    out: Path,
    *,
    calibration: NDArray[np.float32],
    golden_uv: NDArray[np.float32],
    behind: DeviceHead | None = None,
    masked: Sequence[int] = (),
    evaluation: Iterable[NDArray[np.float32]] | None = None,
    n_neighbours: int = 10,
    uv_per_count: float = UV_PER_COUNT,
    block_tokens: int | None = None,
    chip: Chip = NO_LIMIT,
    run_on: Sequence[Processor] = (),
) -> CortexMExport:
    """Write the folder `out`, whole or not at all, and check it.

    calibration: (n, n_inputs, n_steps) float32, inputs of the encoder, as varied as the device's will be
    golden_uv: (n, n_samples, C) float32, microvolts, a window or more; rounded to counts
    behind: the front end whose tokens the encoder reads, and the head; None: it reads the signal itself
    masked: channels of the band, from 0, that were dead while training
    evaluation: windows to compare with float32; by default the calibration windows
    uv_per_count: of the converter whose counts the firmware pushes
    block_tokens: tokens computed together; fewer need less memory but read the weights more often
    chip: refuse a model that does not fit it
    run_on: processors to compile for and to run under QEMU
    Raises ConfigError for a model that the engine cannot run or the chip cannot hold and for a missing tool; DataError
    for windows of another shape; ArtifactError when a build does not give the golden bits.
    """
    n_samples = encoder.window_samples
    if behind is not None:
        chip.check_floats()
        n_samples = behind.front_end.span_samples + (n_samples - 1) * behind.front_end.hop_samples
    n_channels = encoder.n_channels if behind is None else behind.front_end.n_electrodes
    _check_windows(encoder, calibration, golden_uv, n_channels, n_samples)
    alone = behind is not None and behind.answers_alone(len(gestures))
    limit = preprocessing.clip if behind is None else TOKEN_HEADROOM * float(np.abs(calibration).max())
    integer = None if alone else to_fixed_point(encoder, limit, calibration)
    model = DeviceModel(
        encoder=integer,
        preprocessing=preprocessing,
        uv_per_count=uv_per_count,
        prototypes=prototypes,
        gestures=tuple(gestures),
        n_neighbours=n_neighbours,
        block_tokens=block_tokens or (0 if integer is None else choose_block_tokens(integer.n_tokens)),
        n_channels=n_channels,
        n_steps=encoder.window_samples,
        front_end=None if behind is None else behind.front_end,
        head=None if behind is None else behind.head,
        head_spec=None if behind is None else behind.spec,
        masked=tuple(masked),
    )
    with output_folder(out, "an export for cortex-m") as folder, TemporaryDirectory() as objects:
        write_sources(folder, model)
        engine = build_host(folder, model, Path(objects))
        chip.check(engine.arena_bytes, _weight_bytes(model) + (0 if alone else 2 * prototypes.embedding.size))
        golden = [golden_stretch(engine, model, counts) for counts in to_counts(golden_uv, uv_per_count)]
        write_golden(folder, golden)
        windows = calibration if evaluation is None else evaluation
        fidelity, embedded, votes = compare(encoder, engine, model, windows, () if behind is None else behind.means)
        report = CortexMReport(
            fidelity=replace(fidelity, token_error=_token_error(model, golden)),
            arena_bytes=engine.arena_bytes,
            weight_bytes=_weight_bytes(model),
            multiply_adds=_multiply_adds(model),
            runs=tuple(_run(folder, processor, Path(objects)) for processor in run_on),
        )
        for run in report.runs:
            chip.check(run.ram_bytes, run.sizes.code_bytes + run.sizes.constant_bytes)
        check_golden_on(folder, "host", Path(objects))
        (folder / REPORT_FILE).write_text(json.dumps(asdict(report), indent=2) + "\n")
    return CortexMExport(report, embedded, votes, [stretch.vote[0] for stretch in golden])


def write_sources(folder: Path, model: DeviceModel) -> None:
    """Write the engine and the model's C sources, without the golden stretches."""
    source = _engine_folder()
    for part in ("engine", "board"):
        shutil.copytree(source / part, folder / part)
    for name in ("Makefile", "README.md"):
        shutil.copy(source / name, folder)
    (folder / "config.h").write_text(config_header(model))
    with (folder / "model.c").open("w") as file:
        file.writelines(model_source(model))


def write_golden(folder: Path, stretches: Sequence[GoldenStretch]) -> None:
    """Write `golden.c`."""
    with (folder / "golden.c").open("w") as file:
        file.writelines(golden_source(stretches))


def build_host(folder: Path, model: DeviceModel, objects: Path) -> HostEngine:
    """Build the engine for this machine. Raises ConfigError when there is no compiler."""
    compile_for(folder, "library", objects)
    return HostEngine(objects / "host" / "libcpep.so", model)


def to_counts(signal_uv: NDArray[np.float32], uv_per_count: float) -> NDArray[np.int32]:
    """Convert microvolts to counts of a converter."""
    counts: NDArray[np.int32] = np.rint(signal_uv.astype(np.float64) / uv_per_count).astype(np.int32)
    return counts


def golden_stretch(engine: HostEngine, model: DeviceModel, counts: NDArray[np.int32]) -> GoldenStretch:
    """Run counts, (n_samples, C), through the whole engine after a reset, and keep the results.

    Blocks are aligned to the end of the signal, as in `cpep_edge.input_stream.InputStream.last_window`.
    """
    first = 0 if model.front_end is None else -len(counts) % model.front_end.hop_samples
    engine.reset(first)
    engine.push(counts)
    return GoldenStretch(counts, first, engine.mean_token(), engine.embed_integers(), engine.recognise_integers())


def check_golden_on(folder: Path, build: Build, objects: Path) -> CheckRun:
    """Compile for a processor, run the golden stretches there and compare the bits.

    Raises ArtifactError that names the first stretch that differs, and by how much.
    """
    compile_for(folder, build, objects)
    run = run_check(folder, build, objects)
    if run.n_wrong:
        worst = next((n for n, golden in enumerate(run.golden) if golden.difference), None)
        how = "votes otherwise" if worst is None else f"is off by {run.golden[worst].difference} in the last place"
        raise ArtifactError(f"cortex-m on {build}: golden stretch {worst or 0} {how}; its build must not be shipped")
    return run


def compare(
    encoder: FusedEncoder,
    engine: HostEngine,
    model: DeviceModel,
    windows: Iterable[NDArray[np.float32]],
    means: Sequence[NDArray[np.float32]] = (),
) -> tuple[Fidelity, NDArray[np.float32], list[Vote]]:
    """Compare embeddings and answers of the engine with those of float32; windows: each (n_inputs, n_steps).

    means: the head's means for each window's wearer; empty: the model's own
    """
    stored = model.prototypes
    index = build_index(stored.embedding, stored.gesture_index, 0, stored.gesture_penalty)
    embedded, cosines, votes, kept = [], [], [], 0
    for number, window in enumerate(windows):
        donning = Donning(head_means=means[number]) if len(means) else Donning()
        engine.calibrate(donning)
        embedded.append(engine.embed(window))
        if model.encoder is None:
            reference, found = window.mean(axis=1), engine.mean_token()
        else:
            with torch.no_grad():
                reference = encoder(torch.from_numpy(np.ascontiguousarray(window[None])))[0].numpy()
            found = embedded[-1]
        cosines.append(float(reference @ found / (np.linalg.norm(reference) * np.linalg.norm(found))))
        votes.append(engine.recognise())
        kept += votes[-1].gesture_index == _expected(model, index, donning, window, reference).gesture_index
    engine.calibrate(Donning())
    fidelity = Fidelity(len(cosines), min(cosines), float(np.mean(cosines)), kept / len(cosines), 0.0)
    return fidelity, np.stack(embedded), votes


def _expected(
    model: DeviceModel,
    index: PoseIndex,
    donning: Donning,
    window: NDArray[np.float32],
    embedding: NDArray[np.float32],
) -> Vote:
    """The answer of the Python runtime."""
    if model.head is None or model.head_spec is None:
        return nearest_vote(model.prototypes, embedding, model.n_neighbours)
    head = model.head if donning.head_means is None else replace(model.head, means=donning.head_means)
    return answer(window, embedding, index, model.n_neighbours, model.head_spec, head, len(model.gestures))


def _token_error(model: DeviceModel, golden: Sequence[GoldenStretch]) -> float:
    """Largest difference of any entry of a golden window's mean token from the runtime's."""
    if model.front_end is None:
        return 0.0
    stream = InputStream(model.preprocessing, model.front_end, model.n_channels, Donning().lacking(model.masked))
    errors = []
    for stretch in golden:
        signal_uv = (stretch.counts * model.uv_per_count).astype(np.float32)
        errors.append(np.abs(stream.last_window(signal_uv, model.n_steps).mean(axis=1) - stretch.mean).max())
    return float(max(errors))


def nearest_vote(prototypes: Prototypes, embedding: NDArray[np.float32], n_neighbours: int) -> Vote:
    """The vote of an embedding, (E,), by an exhaustive search of the prototypes."""
    similarity = prototypes.embedding @ embedding
    nearest = np.argsort(prototypes.penalty - similarity, kind="stable")[:n_neighbours]
    return vote(prototypes.gesture_index[nearest], similarity[nearest])


def _run(folder: Path, processor: Processor, objects: Path) -> TargetRun:
    check = check_golden_on(folder, processor, objects)
    return TargetRun(processor, check, sizes_of(objects, processor))


def _engine_folder() -> Path:
    here = Path(__file__).parent
    folders = (here / "mcu", here.parent / "mcu")  # inside the wheel; in a checkout
    return next(folder for folder in folders if (folder / "engine").is_dir())


def _check_windows(
    encoder: FusedEncoder,
    calibration: NDArray[np.float32],
    golden_uv: NDArray[np.float32],
    n_channels: int,
    n_samples: int,
) -> None:
    shape = (encoder.n_channels, encoder.window_samples)
    if calibration.shape[1:] != shape or len(calibration) == 0:
        raise DataError(
            f"cortex-m: calibration windows have shape {calibration.shape}, the encoder takes (n, *{shape})"
        )
    if golden_uv.ndim != 3 or golden_uv.shape[2] != n_channels or golden_uv.shape[1] < n_samples or len(golden_uv) == 0:
        raise DataError(
            f"cortex-m: golden stretches have shape {golden_uv.shape}, not (n, {n_samples} or more, {n_channels})"
        )
    if not (np.all(np.isfinite(calibration)) and np.all(np.isfinite(golden_uv))):
        raise DataError("cortex-m: a window holds NaN or infinity; check the sessions with: cpep-edge data info")


def _weight_bytes(model: DeviceModel) -> int:
    """The bytes of the weights of encoder and head."""
    n_bytes = 0
    if model.head is not None:
        head, r = model.head, model.head.means.shape[1]
        triangles = head.n_gestures * r * (r + 1) // 2
        n_bytes += 4 * (head.origin.size + head.projection.size + head.means.size + triangles + head.n_gestures)
    if model.encoder is not None:
        layers = [model.encoder.patch, model.encoder.projection]
        for block in model.encoder.blocks:
            layers += [block.query, block.key, block.value, block.out, block.inner, block.outer]
        n_bytes += sum(layer.weight.nbytes + layer.bias.nbytes + layer.multiplier.nbytes for layer in layers)
        n_bytes += model.encoder.offset.nbytes
    return n_bytes


def count_multiply_adds(encoder: IntegerEncoder, n_prototypes: int) -> int:
    """The multiply-adds of one window and one coarse search; how many prototypes are compared in full depends on it.

    These are products of activations with weights or with each other, as the engine computes them: only [CLS] leaves
    the last block. Padding is not counted, nor are norms, softmax and filter, which are below 1 % together.
    """
    n, d = encoder.n_tokens, encoder.width
    n_queries = (len(encoder.blocks) - 1) * n + 1  # rows that leave a block, over all blocks
    patches = (n - 1) * d * encoder.n_channels * encoder.patch_samples // encoder.level_samples
    projections = 2 * len(encoder.blocks) * n * d * d + 2 * n_queries * d * d  # queries, keys, values, outputs
    scores_and_mixing = 2 * n_queries * n * d
    mlp = 2 * n_queries * d * encoder.hidden
    return patches + projections + scores_and_mixing + mlp + (d + n_prototypes) * encoder.d_embed


def _multiply_adds(model: DeviceModel) -> int:
    """The multiply-adds of one window: encoder, search and head, without filters and logarithms."""
    n = 0 if model.encoder is None else count_multiply_adds(model.encoder, len(model.prototypes.embedding))
    if model.head is not None:
        r = model.head.means.shape[1]
        n += model.head.projection.size + model.head.n_gestures * r * (r + 1) // 2
    return n
