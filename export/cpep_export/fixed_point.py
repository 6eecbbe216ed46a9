"""Convert the fused encoder to integers, for the C engine under `export/mcu`.

Weights are int8 with a scale per output. Activations are int8 with one scale, chosen on calibration windows; queries,
keys and values have a scale per head. Where it costs little, the resolution is higher: the filtered signal, the
residual stream, the attention weights ("shares") and the last projection have 16 bits, and GELU is a table of 1024
entries. All scales are merged into the multiplier of each output, so the engine only multiplies, shifts and clamps.

Shapes: C channels, T samples, N tokens with [CLS], D width, H heads, F hidden width, E embedding; a capital with an
underscore is padded to a multiple of 16.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cpep_edge.errors import ConfigError
from cpep_export.activation_ranges import BlockRanges, observe, tokens_of
from cpep_export.fused import FusedBlock, FusedEncoder, PatchLayer, RootMeanSquare

VECTOR = 16  # depths are padded to whole vectors of the widest kernel
GELU_ENTRIES = 1024
MAX_TOKENS = 512  # so that sums of 16-bit attention weights times 8-bit values fit in 32 bits
MAX_HEAD_WIDTH = 128  # so that scores fit in 32 bits, with the fraction that the softmax needs
_STREAM_HEADROOM = 2.0  # limit of the residual stream, relative to the largest value in calibration
_FEATURE_BITS = 20  # of the projection's output, before it is scaled to unit length
_COARSEST = 8.0  # least unit of an output, relative to the unit of the products that it sums
_MIN_WEIGHT_SHARE = 1e-4  # of the layer's largest weight; an output whose weights are all smaller is treated as dead

Int8 = NDArray[np.int8]
Int16 = NDArray[np.int16]
Int32 = NDArray[np.int32]
IntegerNorm = tuple[float, int]  # gain and epsilon: y = x * gain / root(sum of squares + epsilon)


@dataclass(frozen=True, slots=True)
class IntegerLinear:
    """y = (W x + bias) * multiplier / 2^(31 + shift)."""

    weight: Int8  # (n_outputs, depth), depth a multiple of 16
    bias: Int32  # (n_outputs,), in units of the products
    multiplier: Int32  # (n_outputs,)
    shift: int


@dataclass(frozen=True, slots=True)
class IntegerBlock:
    """One transformer block."""

    attention_norm: IntegerNorm
    query: IntegerLinear
    key: IntegerLinear
    value: IntegerLinear
    out: IntegerLinear
    # For each head: the scale that turns a product of query and key into an exponent of two; the unit of the values
    # divided by that of the mixed values.
    heads: tuple[tuple[float, float], ...]
    mlp_norm: IntegerNorm
    inner: IntegerLinear
    outer: IntegerLinear
    gelu: Int8  # (1024,)


@dataclass(frozen=True, slots=True)
class IntegerEncoder:
    """An encoder that uses no floating-point numbers at run time."""

    n_channels: int
    window_samples: int
    patch_samples: int
    level_samples: int  # samples that are added up to one input of the patch layer
    n_heads: int
    width: int
    hidden: int
    d_embed: int
    rectified: bool
    input_limit: int  # largest integer of the clipped signal
    input_step: float  # unit of the window, in units of the preprocessed signal
    patch: IntegerLinear
    offset: Int16  # (N, D_), the constant part of the tokens: positions and [CLS]
    blocks: tuple[IntegerBlock, ...]
    norm: IntegerNorm
    projection: IntegerLinear

    @property
    def n_tokens(self) -> int:
        """Number of tokens, including [CLS]."""
        return 1 + self.window_samples // self.patch_samples

    def to_integers(self, window: NDArray[np.float32]) -> Int16:
        """Convert a preprocessed window to the format of the engine's ring buffer.

        window: (C, T) float32
        returns: (T, C)
        """
        rounded = np.clip(np.floor(window.T / self.input_step + 0.5), -self.input_limit, self.input_limit)
        return np.ascontiguousarray(np.abs(rounded) if self.rectified else rounded, dtype=np.int16)


def padded(n: int) -> int:
    """The next multiple of 16."""
    return -(-n // VECTOR) * VECTOR


def to_fixed_point(encoder: FusedEncoder, clip: float, calibration: NDArray[np.float32]) -> IntegerEncoder:
    """Convert an encoder to integers.

    clip: limit of the preprocessed signal
    calibration: (n_windows, C, T) float32, preprocessed
    Raises ConfigError, saying what to change in the recipe, when the engine cannot run such an encoder.
    """
    check_supported(encoder)
    ranges = observe(encoder, calibration)
    n_channels, patch_samples, level_samples = (
        encoder.n_channels,
        encoder.patch.patch_samples,
        encoder.patch.level_samples,
    )
    input_limit = _input_limit(padded(n_channels * patch_samples // level_samples)) // level_samples
    input_step = clip / input_limit
    patch = _patch(encoder.patch, input_step)
    stream_step = max(_STREAM_HEADROOM * ranges.stream / 32767, _COARSEST * float(patch.product_step.max()))
    silence = tokens_of(encoder, torch.zeros(1, n_channels, encoder.window_samples))[0]  # the constant part
    width = silence.shape[1]
    blocks = _blocks(encoder)
    final_step = ranges.final_norm * 1.5 / 32767
    projection = _float_layer(encoder.projection, final_step)
    return IntegerEncoder(
        n_channels=n_channels,
        window_samples=encoder.window_samples,
        patch_samples=patch_samples,
        level_samples=level_samples,
        n_heads=blocks[0].n_heads,
        width=width,
        hidden=blocks[0].mlp.inner.out_features,
        d_embed=encoder.d_embed,
        rectified=encoder.patch.rectified,
        input_limit=input_limit,
        input_step=input_step,
        patch=patch.to(stream_step, n_outputs=padded(width)),
        offset=_rounded(silence / stream_step, padded(width)),
        blocks=tuple(_block(b, r, stream_step) for b, r in zip(blocks, ranges.blocks, strict=True)),
        norm=_norm(encoder.norm, width, stream_step, final_step),
        projection=projection.to(
            max(ranges.features / 2.0**_FEATURE_BITS, _COARSEST * float(projection.product_step.max())),
            n_outputs=padded(encoder.d_embed),
        ),
    )


def check_supported(encoder: FusedEncoder) -> None:
    """Raises ConfigError when the engine cannot run such an encoder."""
    if not isinstance(encoder.pool, nn.Identity):
        raise ConfigError('cortex-m reads [CLS] only; train with pooling = "cls" under [emg] in the recipe')
    head_width = encoder.patch.linear.out_features // _blocks(encoder)[0].n_heads
    if head_width % 4 or head_width > MAX_HEAD_WIDTH:
        raise ConfigError(
            f"cortex-m needs heads of at most {MAX_HEAD_WIDTH} numbers, a multiple of 4, not {head_width}; "
            "change width or n_heads under [emg] in the recipe"
        )
    n_tokens = 1 + encoder.window_samples // encoder.patch.patch_samples
    if n_tokens > MAX_TOKENS:
        raise ConfigError(
            f"cortex-m takes at most {MAX_TOKENS} tokens, not {n_tokens}; "
            "raise patch_samples under [emg] or shorten window_samples in the recipe"
        )


def _blocks(encoder: FusedEncoder) -> list[FusedBlock]:
    return [block for block in encoder.blocks if isinstance(block, FusedBlock)]


@dataclass(frozen=True, slots=True)
class _FloatLayer:
    """A layer with integer weights whose output unit is not chosen yet."""

    weight: Int8  # (n_outputs, depth)
    bias: NDArray[np.float64]  # (n_outputs,), in units of the products
    product_step: NDArray[np.float64]  # (n_outputs,), the unit of the products

    def to(self, step: float | NDArray[np.float64], n_outputs: int | None = None) -> IntegerLinear:
        """The layer with outputs in units of `step`, one for all or (n_outputs,), padded to `n_outputs` outputs."""
        ratio = self.product_step / step
        shift = min(-math.frexp(float(ratio.max()))[1] - 1, 31)
        if shift < 1:
            raise ConfigError(
                "cortex-m: a layer's outputs are smaller than one product of its inputs; train it further"
            )
        multiplier = np.minimum(np.rint(ratio * 2.0 ** (31 + shift)), 2**30 - 1)
        missing = (0, (n_outputs or len(self.bias)) - len(self.bias))
        return IntegerLinear(
            np.pad(self.weight, (missing, (0, 0))),
            np.pad(np.rint(self.bias), missing).astype(np.int32),
            np.pad(multiplier, missing).astype(np.int32),
            shift,
        )


def _float_layer(layer: nn.Module, input_step: float) -> _FloatLayer:
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"expected a linear layer, got {type(layer).__name__}")
    weight = layer.weight.detach().double().numpy()
    bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().numpy()
    return _quantised(weight, bias, input_step)


def _quantised(weight: NDArray[np.float64], bias: NDArray[np.float64], input_step: float) -> _FloatLayer:
    """weight: (n_outputs, depth); the depth is padded with zeros."""
    largest = np.abs(weight).max(axis=1)
    weight_step = np.maximum(largest, max(_MIN_WEIGHT_SHARE * largest.max(), 1e-12)) / 127
    weight_step = np.maximum(weight_step, np.abs(bias) / (input_step * 2.0**29))  # the bias must fit in 32 bits
    integers = np.rint(weight / weight_step[:, None])
    missing = padded(weight.shape[1]) - weight.shape[1]
    product_step = input_step * weight_step
    return _FloatLayer(np.pad(integers, ((0, 0), (0, missing))).astype(np.int8), bias / product_step, product_step)


def _patch(patch: PatchLayer, input_step: float) -> _FloatLayer:
    """The patch layer over sums of samples in the order of the ring buffer: all channels of one, then of the next."""
    weight = patch.linear.weight.detach().double().numpy()
    by_channel = weight.reshape(len(weight), patch.n_channels, patch.patch_samples)
    of_sums = by_channel[..., :: patch.level_samples].transpose(0, 2, 1)  # samples of a level have equal weights
    return _quantised(of_sums.reshape(len(weight), -1), np.zeros(len(weight)), input_step)


def _block(block: FusedBlock, ranges: BlockRanges, stream_step: float) -> IntegerBlock:
    width = block.out.in_features
    query, key, value = (_float_layer(layer, ranges.normed) for layer in (block.q, block.k, block.v))
    head_width = width // block.n_heads
    gelu, inner, outer = _mlp(block, ranges)
    return IntegerBlock(
        attention_norm=_norm(block.attention_norm, width, stream_step, ranges.normed),
        query=_by_head(query.to(np.repeat(ranges.query, head_width)), block.n_heads),
        key=_by_head(key.to(np.repeat(ranges.key, head_width)), block.n_heads),
        value=value.to(np.repeat(ranges.value, head_width)),
        out=_float_layer(block.out, ranges.mixed).to(stream_step, padded(width)),
        heads=tuple(
            (float(q * k * math.log2(math.e)), float(v / ranges.mixed))
            for q, k, v in zip(ranges.query, ranges.key, ranges.value, strict=True)
        ),
        mlp_norm=_norm(block.mlp.norm, width, stream_step, ranges.mlp_normed),
        inner=inner,
        outer=outer.to(stream_step, padded(width)),
        gelu=gelu,
    )


def _mlp(block: FusedBlock, ranges: BlockRanges) -> tuple[Int8, IntegerLinear, _FloatLayer]:
    """GELU's table, the layer before it, whose outputs are indices into the table, and the layer after it."""
    low, high = ranges.hidden
    step = (high - low) / (GELU_ENTRIES - 1)
    value = F.gelu(torch.linspace(low, high, GELU_ENTRIES, dtype=torch.float64)).numpy()
    value_step = (value.max() - value.min()) / 255
    zero = -128 - round(value.min() / value_step)
    table = np.clip(np.rint(value / value_step) + zero, -128, 127).astype(np.int8)
    inner = _float_layer(block.mlp.inner, ranges.mlp_normed)
    inner = _FloatLayer(inner.weight, inner.bias - low / inner.product_step, inner.product_step)
    outer = _float_layer(block.mlp.outer, value_step)
    outer = _FloatLayer(outer.weight, outer.bias - zero * outer.weight.sum(axis=1, dtype=np.int64), outer.product_step)
    return table, inner.to(step, padded(len(inner.bias))), outer


def _by_head(layer: IntegerLinear, n_heads: int) -> IntegerLinear:
    """Pad the outputs of every head to whole vectors, because they are the depth of the score products."""
    head_width = len(layer.bias) // n_heads
    rows = (np.arange(n_heads)[:, None] * padded(head_width) + np.arange(head_width)).ravel()

    def spread(values: NDArray[np.generic]) -> NDArray[np.generic]:
        wide = np.zeros((n_heads * padded(head_width), *values.shape[1:]), values.dtype)
        wide[rows] = values
        return wide

    return IntegerLinear(spread(layer.weight), spread(layer.bias), spread(layer.multiplier), layer.shift)  # type: ignore[arg-type]


def _norm(norm: nn.Module, width: int, stream_step: float, step: float) -> IntegerNorm:
    if not isinstance(norm, RootMeanSquare):
        raise TypeError(f"expected a root mean square, got {type(norm).__name__}")
    return math.sqrt(width) / step, max(1, round(norm.eps * width / stream_step**2))


def _rounded(values: Tensor, n: int) -> Int16:
    """Round (rows, D) to integers and pad them to (rows, n)."""
    integers = np.rint(values.double().numpy())
    return np.pad(integers, ((0, 0), (0, n - integers.shape[1]))).astype(np.int16)


def _input_limit(depth: int) -> int:
    """The largest 2^n - 1 for which the sum of products over a whole patch fits in 32 bits."""
    return min(32767, (1 << ((2**31 - 1) // (127 * depth)).bit_length() - 1) - 1)
