"""Lower the EMG encoder and choose its quantisation by how many votes it preserves.

Static int8 is the smallest and runs as one delegate, but may change votes of a weak model. Int8 weights with activation
ranges measured at each inference change fewer votes, float32 none. "auto" tries them in this order and takes the first
that keeps accuracy and votes within the limits of `cpep_export.ladder`. A quantisation chosen by name that exceeds them
is refused unless forced.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cpep_edge.encoder import EmgEncoder, open_encoder
from cpep_edge.errors import ArtifactError
from cpep_edge.manifest import EncoderSpec
from cpep_export.fused import FusedEncoder
from cpep_export.ladder import FUSED, GRAPH, MODULE, PROGRAM, Ladder, one_by_one, refusals
from cpep_export.lower import Program, encoder_spec, lower, require_delegated
from cpep_export.quantise import Quantisation, quantise
from cpep_export.streaming_graph import StreamingStep
from cpep_export.training_windows import calibration_windows
from cpep_train.checkpoint import Checkpoint
from cpep_train.evaluate import EvaluationSet, embed_emg, torch_embedding

Fused = FusedEncoder | StreamingStep
Choice = Literal["auto", "int8", "int8-dynamic", "fp32"]

FUSED_TOLERANCE = 1e-4  # float32, summed in another order; the rewrites themselves are exact
_TRIED: tuple[Quantisation, ...] = ("int8", "int8-dynamic", "fp32")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceProgram:
    """The encoder as the device runs it."""

    program: Program
    spec: EncoderSpec
    encoder: EmgEncoder
    embedded: NDArray[np.float32]  # (Q, D), the ladder's queries
    forced: tuple[str, ...]  # reasons to refuse it that were overruled
    passed_over: tuple[str, ...]  # quantisations that were tried first, and why they were rejected


def device_program(
    checkpoint: Checkpoint, evaluation: EvaluationSet, ladder: Ladder, choice: Choice, *, force: bool
) -> DeviceProgram:
    """Make the device's program from the trained module, and measure every step on the ladder.

    Raises ArtifactError when the rewritten encoder differs from the trained one, when XNNPACK leaves operators outside,
    or when the program loses too much and `force` is not given.
    """
    streams = checkpoint.emg.encoder.config.block_patches > 0
    fused = (StreamingStep if streams else FusedEncoder)(checkpoint.emg).eval()
    _climb_modules(checkpoint, fused, ladder)
    before, passed_over = ladder.steps, []
    candidates = _TRIED if choice == "auto" else (choice,)
    for quantisation in candidates:
        graph = quantise(fused, quantisation, calibration_windows(evaluation, checkpoint.recipe.seed))
        program, spec, encoder = _lowered(checkpoint, fused, graph, quantisation)
        embedded = embed_emg(one_by_one(encoder), ladder.evaluation.queries)
        ladder.steps = before
        ladder.climb_by_embedding(PROGRAM, embedded)
        reasons = refusals(ladder.steps)
        if not reasons or quantisation == candidates[-1]:
            break
        passed_over.append(f"{quantisation}: {'; '.join(reasons)}")
        _log.info("passed over %s", passed_over[-1])
    if reasons and not force:
        raise ArtifactError(
            f"export refuses {spec.quantisation}: {'; '.join(reasons)}; let --quant auto choose another, or accept it "
            "with --force"
        )
    if quantisation != "fp32" and not streams:  # torch takes a quarter of a second for all blocks of one window
        last, ladder.steps = ladder.steps[-1], before
        ladder.climb_by_embedding(GRAPH, embed_emg(_torch_embedding(graph), ladder.evaluation.queries))
        ladder.steps = (*ladder.steps, last)
    return DeviceProgram(program, spec, encoder, embedded, reasons, tuple(passed_over))


def _climb_modules(checkpoint: Checkpoint, fused: Fused, ladder: Ladder) -> None:
    queries = ladder.evaluation.queries
    module = embed_emg(torch_embedding(checkpoint.emg), queries)
    rewritten = embed_emg(_torch_embedding(fused.embed), queries)
    if not np.allclose(module, rewritten, atol=FUSED_TOLERANCE, rtol=0):
        raise ArtifactError("the fused encoder does not compute what the trained one does; export refuses to go on")
    ladder.climb_by_embedding(MODULE, module)
    ladder.climb_by_embedding(FUSED, rewritten)


def _lowered(
    checkpoint: Checkpoint, fused: Fused, graph: nn.Module, quantisation: Quantisation
) -> tuple[Program, EncoderSpec, EmgEncoder]:
    n_samples, state = fused.window_samples, tuple[Tensor, ...]()
    if isinstance(fused, StreamingStep):
        n_samples, state = fused.block_samples, fused.fresh_state()
    program = require_delegated(lower(graph, fused.n_channels, n_samples, state))
    spec = encoder_spec(program, fused, quantisation, sum(one.numel() for one in checkpoint.emg.parameters()))
    return program, spec, open_encoder(program.content, spec)


def _torch_embedding(of_window: Callable[[Tensor], Tensor]) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    @torch.no_grad()
    def embed(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([of_window(window[None]).numpy() for window in torch.from_numpy(windows)])

    return embed
