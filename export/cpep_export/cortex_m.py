"""Export to bare-metal Cortex-M: C sources of the model beside the engine, checked before they are handed out.

What is written is a folder that compiles by itself: `engine/` and `board/` from `export/mcu/`, the model's `config.h`
and `model.c`, golden stretches, the Makefile, and `report.json`. The golden stretches carry the bits that the build for
this machine gives; every other build must give the same.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from cpep_edge.errors import ArtifactError, DataError
from cpep_edge.folders import output_folder
from cpep_edge.pose_index import Vote, vote
from cpep_edge.preprocess import Preprocessing
from cpep_export.arm_toolchain import (
    Build,
    CheckRun,
    Processor,
    Sizes,
    compile_for,
    run_check,
    sizes_of,
)
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
from cpep_export.host_engine import HostEngine
from cpep_export.multiply_adds import MultiplyAdds, count_multiply_adds
from cpep_export.prototypes import Prototypes
from cpep_export.shaped import ShapedEncoder

REPORT_FILE = "report.json"
UV_PER_COUNT = 0.1  # of a 16-bit converter of +-3.3 mV


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The integers against the float32 encoder, on the same windows."""

    n_windows: int
    min_cosine: float
    mean_cosine: float
    votes_kept: float  # share


@dataclass(frozen=True, slots=True)
class TargetRun:
    """The golden stretches on one processor under QEMU: instructions, not cycles."""

    processor: Processor
    check: CheckRun
    sizes: Sizes

    @property
    def ram_bytes(self) -> int:
        """All that it takes: the arena, what kernels hold, and the stack that was touched."""
        return self.sizes.ram_bytes + self.check.stack_bytes


@dataclass(frozen=True, slots=True)
class CortexMReport:
    """What an export gave."""

    fidelity: Fidelity
    arena_bytes: int
    weight_bytes: int  # of the encoder, biases and scales included
    multiply_adds: MultiplyAdds
    runs: tuple[TargetRun, ...]


@dataclass(frozen=True, slots=True)
class CortexMExport:
    """What was written, and what it computes."""

    report: CortexMReport
    embedded: NDArray[np.float32]  # (n, E), the evaluation's windows


def export_cortex_m(
    encoder: ShapedEncoder,
    preprocessing: Preprocessing,
    prototypes: Prototypes,
    gestures: Sequence[str],
    out: Path,
    *,
    calibration: NDArray[np.float32],
    golden_uv: NDArray[np.float32],
    evaluation: Iterable[NDArray[np.float32]] | None = None,
    n_neighbours: int = 10,
    uv_per_count: float = UV_PER_COUNT,
    block_tokens: int | None = None,
    chip: Chip = NO_LIMIT,
    run_on: Sequence[Processor] = (),
) -> CortexMExport:
    """Write the folder `out`, whole or not at all, and check it.

    calibration: (n, C, T) float32, preprocessed, as varied as what the device will see
    golden_uv: (n, n_samples, C) float32, microvolts, n_samples >= T; rounded to counts
    evaluation: windows to compare with float32, each (C, T); by default the calibration windows
    uv_per_count: of the converter whose counts the firmware pushes
    block_tokens: tokens worked on together; fewer take less memory and read the weights more often
    chip: refuse what does not fit
    run_on: processors to compile for and to run under QEMU
    Raises ConfigError for a model that the engine cannot run or the chip cannot hold and for a missing tool; DataError
    for windows of another shape; ArtifactError when a build does not give the golden bits.
    """
    _check_windows(encoder, calibration, golden_uv)
    integer = to_fixed_point(encoder, preprocessing.clip, calibration)
    model = DeviceModel(
        encoder=integer,
        preprocessing=preprocessing,
        uv_per_count=uv_per_count,
        prototypes=prototypes,
        gestures=tuple(gestures),
        n_neighbours=n_neighbours,
        block_tokens=block_tokens or choose_block_tokens(integer.n_tokens),
    )
    with output_folder(out, "an export for cortex-m") as folder, TemporaryDirectory() as objects:
        write_sources(folder, model)
        engine = build_host(folder, model, Path(objects))
        chip.check(engine.arena_bytes, _weight_bytes(integer) + 2 * prototypes.embedding.size)
        write_golden(folder, [golden_stretch(engine, counts) for counts in to_counts(golden_uv, uv_per_count)])
        windows = calibration if evaluation is None else evaluation
        fidelity, embedded = compare(encoder, engine, windows, prototypes, n_neighbours)
        report = CortexMReport(
            fidelity=fidelity,
            arena_bytes=engine.arena_bytes,
            weight_bytes=_weight_bytes(integer),
            multiply_adds=count_multiply_adds(integer, len(prototypes.embedding)),
            runs=tuple(_run(folder, processor, Path(objects)) for processor in run_on),
        )
        for run in report.runs:
            chip.check(run.ram_bytes, run.sizes.code_bytes + run.sizes.constant_bytes)
        check_golden_on(folder, "host", Path(objects))
        (folder / REPORT_FILE).write_text(json.dumps(asdict(report), indent=2) + "\n")
    return CortexMExport(report, embedded)


def write_sources(folder: Path, model: DeviceModel) -> None:
    """The engine and the model's C, all but the golden stretches."""
    source = _engine_folder()
    for part in ("engine", "board"):
        shutil.copytree(source / part, folder / part)
    for name in ("Makefile", "README.md"):
        shutil.copy(source / name, folder)
    (folder / "config.h").write_text(config_header(model))
    with (folder / "model.c").open("w") as file:
        file.writelines(model_source(model))


def write_golden(folder: Path, stretches: Sequence[GoldenStretch]) -> None:
    """`golden.c`."""
    with (folder / "golden.c").open("w") as file:
        file.writelines(golden_source(stretches))


def build_host(folder: Path, model: DeviceModel, objects: Path) -> HostEngine:
    """The engine for this machine. Raises ConfigError when there is no compiler."""
    compile_for(folder, "library", objects)
    return HostEngine(objects / "host" / "libcpep.so", model.encoder)


def to_counts(signal_uv: NDArray[np.float32], uv_per_count: float) -> NDArray[np.int32]:
    """Microvolts as a converter gives them."""
    counts: NDArray[np.int32] = np.rint(signal_uv.astype(np.float64) / uv_per_count).astype(np.int32)
    return counts


def golden_stretch(engine: HostEngine, counts: NDArray[np.int32]) -> GoldenStretch:
    """Run counts, (n_samples, C), through the whole way from rest, and keep what they give."""
    engine.reset()
    engine.push(counts)
    embedding = engine.embed_integers()
    return GoldenStretch(counts, embedding, engine.vote_integers(embedding))


def check_golden_on(folder: Path, build: Build, objects: Path) -> CheckRun:
    """Compile for a processor, run the golden stretches there and compare bits.

    Raises ArtifactError with the first stretch that differs, and by how much.
    """
    compile_for(folder, build, objects)
    run = run_check(folder, build, objects)
    if run.n_wrong:
        worst = next((n for n, golden in enumerate(run.golden) if golden.difference), None)
        how = "votes otherwise" if worst is None else f"is off by {run.golden[worst].difference} of 32767"
        raise ArtifactError(f"cortex-m on {build}: golden stretch {worst or 0} {how}; its build must not be shipped")
    return run


def compare(
    encoder: ShapedEncoder,
    engine: HostEngine,
    windows: Iterable[NDArray[np.float32]],
    prototypes: Prototypes,
    n_neighbours: int,
) -> tuple[Fidelity, NDArray[np.float32]]:
    """Embeddings and votes of the integers against those of float32, and the embeddings; windows: each (C, T)."""
    embedded, cosines, kept = [], [], 0
    for window in windows:
        with torch.no_grad():
            reference = encoder(torch.from_numpy(np.ascontiguousarray(window[None])))[0].numpy()
        embedded.append(engine.embed(window))
        cosines.append(float(reference @ embedded[-1]))
        expected = nearest_vote(prototypes, reference, n_neighbours)
        kept += engine.vote(engine.embed_integers()).gesture_index == expected.gesture_index
    return Fidelity(len(cosines), min(cosines), float(np.mean(cosines)), kept / len(cosines)), np.stack(embedded)


def nearest_vote(prototypes: Prototypes, embedding: NDArray[np.float32], n_neighbours: int) -> Vote:
    """The vote of an embedding, (E,), among prototypes searched whole."""
    similarity = prototypes.embedding @ embedding
    nearest = np.argsort(-similarity, kind="stable")[:n_neighbours]
    return vote(prototypes.gesture_index[nearest], similarity[nearest])


def _run(folder: Path, processor: Processor, objects: Path) -> TargetRun:
    check = check_golden_on(folder, processor, objects)
    return TargetRun(processor, check, sizes_of(objects, processor))


def _engine_folder() -> Path:
    here = Path(__file__).parent
    folders = (here / "mcu", here.parent / "mcu")  # inside the wheel; in a checkout
    return next(folder for folder in folders if (folder / "engine").is_dir())


def _check_windows(encoder: ShapedEncoder, calibration: NDArray[np.float32], golden_uv: NDArray[np.float32]) -> None:
    shape = (encoder.n_channels, encoder.window_samples)
    if calibration.shape[1:] != shape or len(calibration) == 0:
        raise DataError(
            f"cortex-m: calibration windows have shape {calibration.shape}, the encoder takes (n, *{shape})"
        )
    if golden_uv.ndim != 3 or golden_uv.shape[2] != shape[0] or golden_uv.shape[1] < shape[1] or len(golden_uv) == 0:
        raise DataError(
            f"cortex-m: golden stretches have shape {golden_uv.shape}, not (n, {shape[1]} or more, {shape[0]})"
        )
    if not (np.all(np.isfinite(calibration)) and np.all(np.isfinite(golden_uv))):
        raise DataError("cortex-m: a window holds NaN or infinity; check the sessions with: cpep-edge data info")


def _weight_bytes(encoder: IntegerEncoder) -> int:
    layers = [encoder.patch, encoder.projection]
    for block in encoder.blocks:
        layers += [block.query, block.key, block.value, block.out, block.inner, block.outer]
    weights = sum(layer.weight.nbytes + layer.bias.nbytes + layer.multiplier.nbytes for layer in layers)
    return weights + encoder.offset.nbytes
