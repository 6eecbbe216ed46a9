"""Measure the activations of a fused encoder, and choose the best 8-bit unit (quantisation step) for each of them.

The unit minimises the squared error over the calibration windows: rare large values may be clipped if the many small
ones gain more. Queries, keys and values have one unit per head.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cpep_export.fused import FusedBlock, FusedEncoder

_SHARES = np.linspace(0.3, 1.0, 15)  # of the largest value, tried as the end of the range
_MAX_VALUES = 200_000  # considered for one range
_GELU_LOWEST = -4.5  # below it GELU is zero to 5 digits

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BlockRanges:
    """Units of 8-bit activations in one block; `hidden` is a range."""

    normed: float
    query: Float64  # (H,)
    key: Float64  # (H,)
    value: Float64  # (H,)
    mixed: float
    mlp_normed: float
    hidden: tuple[float, float]  # of GELU's input


@dataclass(frozen=True, slots=True)
class Ranges:
    """Units and largest values of a whole encoder."""

    blocks: tuple[BlockRanges, ...]
    stream: float  # largest
    final_norm: float  # largest
    features: float  # largest


def observe(encoder: FusedEncoder, windows: NDArray[np.float32]) -> Ranges:
    """Run windows, (n, C, T), through the encoder layer by layer and measure the activations."""
    with torch.no_grad():
        streams = [tokens_of(encoder, torch.from_numpy(window[None])) for window in windows]
        largest = _largest(streams)
        blocks = []
        for block in encoder.blocks:
            if not isinstance(block, FusedBlock):
                raise TypeError(f"expected a block, got {type(block).__name__}")
            ranges, streams = _observe_block(block, streams)
            blocks.append(ranges)
            largest = max(largest, _largest(streams))
        normed = [encoder.norm(stream) for stream in streams]
        features = [encoder.projection(row) for row in normed]
        return Ranges(tuple(blocks), largest, _largest(normed), _largest(features))


def tokens_of(encoder: FusedEncoder, window: Tensor) -> Tensor:
    """The input of the first block, (1, N, D), for a window, (1, C, T)."""
    seen: list[Tensor] = []
    hook = next(iter(encoder.blocks)).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        encoder(window)
    hook.remove()
    return seen[0]


def _observe_block(block: FusedBlock, streams: list[Tensor]) -> tuple[BlockRanges, list[Tensor]]:
    normed = [block.attention_norm(stream) for stream in streams]
    read = slice(0, 1) if block.only_cls else slice(None)
    query = [_heads(block, block.q(row[:, read])) for row in normed]
    key = [_heads(block, block.k(row)) for row in normed]
    value = [_heads(block, block.v(row)) for row in normed]
    mixed = [
        (torch.softmax(q @ k.transpose(1, 2), dim=-1) @ v).permute(1, 0, 2).flatten(1)[None]
        for q, k, v in zip(query, key, value, strict=True)
    ]
    after = [stream[:, read] + block.out(mix) for stream, mix in zip(streams, mixed, strict=True)]
    mlp_normed = [block.mlp.norm(stream) for stream in after]
    hidden = [block.mlp.inner(row) for row in mlp_normed]
    ranges = BlockRanges(
        normed=_unit(_values(normed)),
        query=_head_units(query),
        key=_head_units(key),
        value=_head_units(value),
        mixed=_unit(_values(mixed)),
        mlp_normed=_unit(_values(mlp_normed)),
        hidden=_hidden_range(_values(hidden)),
    )
    return ranges, [stream + block.mlp.outer(F.gelu(h)) for stream, h in zip(after, hidden, strict=True)]


def _heads(block: FusedBlock, tokens: Tensor) -> Tensor:
    """(1, N, D) to (H, N, D / H)."""
    return tokens.view(tokens.shape[1], block.n_heads, -1).permute(1, 0, 2)


def _head_units(activations: list[Tensor]) -> Float64:
    return np.array([_unit(_values([a[head] for a in activations])) for head in range(len(activations[0]))])


def _hidden_range(values: Float64) -> tuple[float, float]:
    """The range of GELU's input: from where GELU is still zero to the largest value worth resolving."""
    low = max(_GELU_LOWEST, 1.25 * float(values.min()) - 0.1)
    return low, max(127 * _unit(np.maximum(values, 0)), low + 0.1)


def _unit(values: Float64) -> float:
    """The unit with the least squared error."""
    largest = max(float(np.abs(values).max()), 1e-9)
    units = _SHARES * largest / 127
    errors = [np.square(np.clip(np.rint(values / unit), -128, 127) * unit - values).mean() for unit in units]
    return float(units[int(np.argmin(errors))])


def _values(activations: list[Tensor]) -> Float64:
    """An even selection of all values, and always the largest."""
    values = torch.cat([a.flatten() for a in activations]).double().numpy()
    step = max(1, len(values) // _MAX_VALUES)
    return np.append(values[::step], values[np.argmax(np.abs(values))])


def _largest(activations: list[Tensor]) -> float:
    return max(float(a.abs().max()) for a in activations)
