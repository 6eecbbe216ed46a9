"""The extra content of a bundle for a microcontroller: the chip's program and its figures.

For Cortex-M that is a zip of C sources that compiles by itself, for an Ethos-U an ExecuTorch program with the NPU's
commands. The bundle also runs on this machine, so it can be verified, replayed and shown live like any other.
"""

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cpep_edge.chip import CortexMSpec, EthosUSpec, ProcessorRun
from cpep_edge.errors import ArtifactError
from cpep_edge.golden import Golden
from cpep_edge.input_stream import InputStream
from cpep_edge.pose_index import Vote
from cpep_export.arm_toolchain import Processor, missing_tool
from cpep_export.chips import Chip
from cpep_export.cortex_m import UV_PER_COUNT, DeviceHead, TargetRun, export_cortex_m, nearest_vote
from cpep_export.ethos_u import Npu, lower_for_ethos_u
from cpep_export.fused import FusedEncoder
from cpep_export.head_choice import ChosenHead
from cpep_export.prototypes import Prototypes
from cpep_export.training_windows import calibration_windows
from cpep_train.checkpoint import Checkpoint
from cpep_train.evaluate import N_NEIGHBOURS, EvaluationSet

ChipTarget = Literal["cortex-m", "ethos-u55", "ethos-u85"]

SOURCES_FILE = "cortex-m.zip"
NPU_FILE, TOSA_FILE = "ethos_u.pte", "ethos_u.tosa"
_PROCESSORS: dict[Processor, Literal["cortex-m55", "cortex-m7"]] = {"m55": "cortex-m55", "m7": "cortex-m7"}
MIN_MEAN_COSINE = 0.99  # of golden inputs, to float32
_WINDOWS_AT_ONCE = 256
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same sources give the same bytes


@dataclass(frozen=True, slots=True)
class ChipProgram:
    """Files for the bundle, and their entries in the manifest."""

    files: dict[str, bytes]
    spec: CortexMSpec | EthosUSpec
    embedded: NDArray[np.float32] | None  # (Q, E), the evaluation's queries; None: the chip's program is too slow here
    votes: list[Vote] | None = None  # of the same, where a head answers
    forced: tuple[str, ...] = ()  # reasons to refuse it


def chip_program(
    target: ChipTarget,
    chip: Chip,
    checkpoint: Checkpoint,
    evaluation: EvaluationSet,
    prototypes: Prototypes,
    golden: Golden,
    head: ChosenHead | None = None,
    *,
    force: bool = False,
) -> ChipProgram:
    """Make the chip's program, run it on this machine as far as possible, and compare it with float32.

    head: of the bundle; None: the index answers
    force: accept a program whose results on golden inputs are too far from float32, or are another gesture
    Raises ArtifactError for such a program without force; ConfigError for a model that the target cannot run or the
    chip cannot hold, and for a missing tool.
    """
    encoder = FusedEncoder(checkpoint.emg).eval()
    if target == "cortex-m":
        program = _cortex_m(chip, encoder, checkpoint, evaluation, prototypes, golden, head)
    else:
        program = _ethos_u(target, chip, encoder, checkpoint, evaluation, prototypes, golden)
    if program.forced and not force:
        raise ArtifactError(f"export refuses {target}: {program.forced[0]}; accept it with --force")
    return program


def _cortex_m(
    chip: Chip,
    encoder: FusedEncoder,
    checkpoint: Checkpoint,
    evaluation: EvaluationSet,
    prototypes: Prototypes,
    golden: Golden,
    head: ChosenHead | None,
) -> ChipProgram:
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "cortex-m"
        written = export_cortex_m(
            encoder,
            checkpoint.preprocessing,
            prototypes,
            evaluation.gestures,
            folder,
            calibration=calibration_windows(evaluation, checkpoint.recipe.seed),
            golden_uv=golden.signal_uv,
            behind=_behind(checkpoint, evaluation, head),
            masked=[number - 1 for number in checkpoint.recipe.recordings.masked_channels],
            evaluation=_queries(evaluation),
            n_neighbours=N_NEIGHBOURS,
            chip=chip,
            run_on=[processor for processor in _PROCESSORS if missing_tool(processor) is None],
        )
        content = _zipped(folder)
    report = written.report
    spec = CortexMSpec(
        file=SOURCES_FILE,
        uv_per_count=UV_PER_COUNT,
        weight_bytes=report.weight_bytes,
        arena_bytes=report.arena_bytes,
        multiply_adds=report.multiply_adds,
        n_windows=report.fidelity.n_windows,
        min_cosine=report.fidelity.min_cosine,
        mean_cosine=report.fidelity.mean_cosine,
        votes_kept=report.fidelity.votes_kept,
        token_error=report.fidelity.token_error,
        runs=tuple(_run(run) for run in report.runs),
    )
    votes = written.votes if head is not None and head.spec.answers else None
    other = [
        n for n, pair in enumerate(zip(written.golden_index, golden.gesture_index, strict=True)) if pair[0] != pair[1]
    ]
    reasons = tuple(
        f"golden input {n} is {evaluation.gestures[golden.gesture_index[n]]} to the bundle and "
        f"{evaluation.gestures[written.golden_index[n]]} to the chip"
        for n in other
    )
    return ChipProgram({SOURCES_FILE: content}, spec, written.embedded, votes, reasons)


def _behind(checkpoint: Checkpoint, evaluation: EvaluationSet, head: ChosenHead | None) -> DeviceHead | None:
    """The front end and the head that answers, with its means on the wearer of each query."""
    if checkpoint.front_end is None:
        return None
    if head is None or not head.spec.answers:
        return DeviceHead(checkpoint.front_end)
    store = evaluation.queries.dataset.store
    wearers = [store.donnings.key(store.corpus.rows[session]) for session, _ in evaluation.queries.places]
    means = [head.of_donning(wearer).means for wearer in wearers]
    return DeviceHead(checkpoint.front_end, head.spec, head.head, means)


def _run(run: TargetRun) -> ProcessorRun:
    return ProcessorRun(
        processor=_PROCESSORS[run.processor],
        instructions_a_window=run.check.window_instructions,
        patch_instructions=run.check.patch_instructions,
        search_instructions=run.check.vote_instructions,
        instructions_a_sample=run.check.sample_instructions,
        token_instructions=run.check.token_instructions,
        code_bytes=run.sizes.code_bytes,
        constant_bytes=run.sizes.constant_bytes,
        ram_bytes=run.ram_bytes,
    )


def _queries(evaluation: EvaluationSet) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(evaluation.queries), _WINDOWS_AT_ONCE):
        yield from evaluation.queries.emg(start, start + _WINDOWS_AT_ONCE)


def _zipped(folder: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(str(path.relative_to(folder)), _ZIP_EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _ethos_u(
    npu: Npu,
    chip: Chip,
    encoder: FusedEncoder,
    checkpoint: Checkpoint,
    evaluation: EvaluationSet,
    prototypes: Prototypes,
    golden: Golden,
) -> ChipProgram:
    program = lower_for_ethos_u(encoder, npu, calibration_windows(evaluation, checkpoint.recipe.seed))
    chip.check(program.vela.sram_bytes, program.vela.flash_bytes)
    cosines, kept = [], 0
    for stretch in golden.signal_uv:
        stream = InputStream(checkpoint.preprocessing, checkpoint.front_end, stretch.shape[1])
        window = stream.last_window(stretch, encoder.window_samples)
        with torch.no_grad():
            reference = encoder(torch.from_numpy(window[None]))[0].numpy()
        embedding = program.embed(window)
        cosines.append(float(reference @ embedding))
        votes = [nearest_vote(prototypes, query, N_NEIGHBOURS) for query in (reference, embedding)]
        kept += votes[0].gesture_index == votes[1].gesture_index
    spec = EthosUSpec(
        file=NPU_FILE,
        tosa_file=TOSA_FILE,
        vela=program.vela,
        level_samples=program.level_samples,
        n_windows=len(cosines),
        min_cosine=min(cosines),
        mean_cosine=float(np.mean(cosines)),
        votes_kept=kept / len(cosines),
    )
    files = {NPU_FILE: program.content, TOSA_FILE: program.tosa}
    return ChipProgram(files, spec, None, None, golden_reasons(cosines))


def golden_reasons(cosines: Sequence[float]) -> tuple[str, ...]:
    """Reasons not to ship a program: how far its results on golden inputs are from float32."""
    worst, mean = int(np.argmin(cosines)), float(np.mean(cosines))
    if mean >= MIN_MEAN_COSINE:
        return ()
    return (
        f"golden inputs have a cosine of {mean:.3f} to float32 on average, {MIN_MEAN_COSINE} is asked; the farthest is "
        f"number {worst} with {cosines[worst]:.3f}",
    )
