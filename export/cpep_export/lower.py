"""Lower the encoder to an ExecuTorch program that XNNPACK runs.

The program is fast only when XNNPACK runs all of it: every operator left outside runs in a portable kernel and also
splits the graph. Operators are counted in the finished program, not in an intermediate graph.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cpep_edge.errors import ArtifactError
from cpep_edge.manifest import EncoderSpec, StreamSpec
from cpep_export.fused import FusedEncoder
from cpep_export.quantise import Quantisation, capture
from cpep_export.streaming_graph import StreamingStep
from cpep_export.toolchain import quiet_toolchain

ENCODER_FILE = "encoder.pte"


@dataclass(frozen=True, slots=True)
class Program:
    """An ExecuTorch program and what is in it."""

    content: bytes  # the `.pte`
    n_delegates: int  # sub-graphs that XNNPACK runs
    operators_outside: tuple[str, ...]  # operators that it does not run, one name per call
    arena_bytes: int  # planned memory outside the delegates; XNNPACK's own workspace comes on top


def lower(module: nn.Module, n_channels: int, n_samples: int, state: tuple[Tensor, ...] = ()) -> Program:
    """Lower a module that takes one window, (1, n_channels, n_samples), through the XNNPACK partitioner.

    state: further inputs, of a streaming module
    """
    with quiet_toolchain(), torch.no_grad():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        exported = capture(module, torch.zeros(1, n_channels, n_samples), *state)
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
        return _inspect(bytes(lowered.buffer), lowered.executorch_program.execution_plan[0])


def encoder_spec(
    program: Program, fused: FusedEncoder | StreamingStep, quantisation: Quantisation, n_parameters: int
) -> EncoderSpec:
    """The manifest entry of an encoder that was lowered to this program."""
    stream = None
    if isinstance(fused, StreamingStep):
        stream = StreamSpec(block_samples=fused.block_samples, n_blocks=fused.n_blocks_seen)
    return EncoderSpec(
        file=ENCODER_FILE,
        runtime="executorch-xnnpack",
        quantisation=quantisation,
        n_channels=fused.n_channels,
        window_samples=fused.window_samples,
        d_embed=fused.d_embed,
        n_parameters=n_parameters,
        n_delegates=program.n_delegates,
        n_operators_outside=len(program.operators_outside),
        stream=stream,
    )


def require_delegated(program: Program) -> Program:
    """Return the program; raises ArtifactError, naming the operators, when XNNPACK does not run all of it."""
    if program.operators_outside:
        names = ", ".join(sorted(set(program.operators_outside)))
        raise ArtifactError(f"XNNPACK does not run all of the encoder, these operators were left outside: {names}")
    return program


def _inspect(content: bytes, plan: Any) -> Program:
    from executorch.exir.schema import DelegateCall, KernelCall

    calls = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
    return Program(
        content=content,
        n_delegates=sum(isinstance(call, DelegateCall) for call in calls),
        operators_outside=tuple(plan.operators[c.op_index].name for c in calls if isinstance(c, KernelCall)),
        arena_bytes=sum(plan.non_const_buffer_sizes),
    )
