"""Write an integer encoder, its filter and its prototypes as C: config.h, model.c, golden.c.

The engine under `export/mcu/` is compiled against them. Its headers say what every array means.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import ConfigError
from cpep_edge.preprocess import Preprocessing
from cpep_export.fixed_point import (
    IntegerBlock,
    IntegerEncoder,
    IntegerLinear,
    IntegerNorm,
    padded,
)
from cpep_export.prototypes import Prototypes

FRACTION_BITS = 6  # of a count, carried through the filter
_COEFFICIENT_BITS = 29
_COSINE_BITS = 24
_FINE = 128  # parts of a coarse step of a prototype
_LONGEST = 65_000.0  # fine steps of a prototype: its product with an embedding of length 32767 must fit in 32 bits
_NUMBERS_A_LINE = 32


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """All that the engine is compiled with."""

    encoder: IntegerEncoder
    preprocessing: Preprocessing
    uv_per_count: float  # of the converter whose counts are pushed
    prototypes: Prototypes
    gestures: tuple[str, ...]
    n_neighbours: int  # that vote
    block_tokens: int  # worked on together: more hold more memory, fewer read the weights more often


@dataclass(frozen=True, slots=True)
class StoredPrototypes:
    """Prototypes as the engine holds them, in whole numbers: (coarse + fine / 128) / (unit / 128)."""

    coarse: NDArray[np.float64]  # (n_prototypes, E)
    fine: NDArray[np.float64]  # (n_prototypes, E)
    gesture_index: NDArray[np.int64]  # (n_prototypes,)
    unit: float  # length of each, in fine steps


@dataclass(frozen=True, slots=True)
class GoldenStretch:
    """Counts and what they must give."""

    counts: NDArray[np.int32]  # (n_samples, C)
    embedding: NDArray[np.int16]  # (E,), of length 32767
    vote: tuple[int, int, int, int]  # gesture, votes for it, neighbours, similarity in 2^-24


def config_header(model: DeviceModel) -> str:
    """The sizes, as the engine's shape.h reads them."""
    encoder = model.encoder
    sizes = {
        "CHANNELS": encoder.n_channels,
        "WINDOW": encoder.window_samples,
        "PATCH": encoder.patch_samples,
        "LEVEL": encoder.level_samples,
        "RECTIFIED": int(encoder.rectified),
        "INPUT_LIMIT": encoder.input_limit,
        "SECTIONS": len(model.preprocessing.sos),
        "WIDTH": encoder.width,
        "HEADS": encoder.n_heads,
        "HIDDEN": encoder.hidden,
        "LAYERS": len(encoder.blocks),
        "EMBEDDING": encoder.d_embed,
        "PROTOTYPES": len(model.prototypes.embedding),
        "GESTURES": len(model.gestures),
        "NEIGHBOURS": min(model.n_neighbours, len(model.prototypes.embedding)),
        "BLOCK": model.block_tokens,
        "PATCH_BLOCK": _patch_block(model),
    }
    lines = [f"#define CPEP_{name} {value}" for name, value in sizes.items()]
    return "\n".join(("#ifndef CPEP_CONFIG_H", "#define CPEP_CONFIG_H", "", *lines, "", "#endif", ""))


def model_source(model: DeviceModel) -> Iterator[str]:
    """The text of model.c, piece by piece, because weights are megabytes of it."""
    encoder = model.encoder
    yield '#include "model.h"\n\n#define VECTOR __attribute__((aligned(16)))\n\n'
    yield from _linear_arrays("patch", encoder.patch)
    yield _array("int16_t", "offset", encoder.offset)
    for number, block in enumerate(encoder.blocks):
        for name in ("query", "key", "value", "out", "inner", "outer"):
            yield from _linear_arrays(f"{name}{number}", getattr(block, name))
        yield _array("int8_t", f"gelu{number}", block.gelu)
    yield from _linear_arrays("projection", encoder.projection)
    yield from _prototype_arrays(model)
    yield f"static const char *const gestures[CPEP_GESTURES] = {{{', '.join(map(_text, model.gestures))}}};\n\n"
    yield _the_model(model)


def golden_source(stretches: Sequence[GoldenStretch]) -> Iterator[str]:
    """The text of golden.c."""
    yield '#include "golden.h"\n\n#define VECTOR\n\n'
    for number, stretch in enumerate(stretches):
        yield _array("int32_t", f"samples{number}", stretch.counts)
    yield "const golden_stretch golden_stretches[] = {\n"
    for number, stretch in enumerate(stretches):
        embedding, vote = (", ".join(map(str, values)) for values in (stretch.embedding.tolist(), stretch.vote))
        yield f"{{samples{number}, {len(stretch.counts)}, {{{embedding}}}, {{{vote}}}}},\n"
    yield f"}};\nconst int32_t n_golden_stretches = {len(stretches)};\n"


def stored_prototypes(prototypes: Prototypes) -> StoredPrototypes:
    """Prototypes as a coarse and a fine row each, in one unit for all, as large as 8 bits and 32-bit products allow.

    They come in an order that mixes the gestures: the engine compares only those in full that can be among the nearest,
    and a third fewer can when the first few have already been of every gesture.
    """
    order = np.random.default_rng(0).permutation(len(prototypes.embedding))
    embedding = prototypes.embedding[order].astype(np.float64)
    unit = min(127 * _FINE / float(np.abs(embedding).max()), _LONGEST)
    integers = np.rint(embedding * unit)
    coarse = np.floor(integers / _FINE + 0.5)
    return StoredPrototypes(coarse, integers - _FINE * coarse, prototypes.gesture_index[order], unit)


def choose_block_tokens(n_tokens: int, at_most: int = 32) -> int:
    """Equal blocks, of a multiple of six tokens, because the kernels take three or six rows at once."""
    n_blocks = -(-n_tokens // at_most)
    return -(-n_tokens // (6 * n_blocks)) * 6


def _patch_block(model: DeviceModel) -> int:
    """As many patches as fit where the hidden layer will stand."""
    encoder = model.encoder
    room = model.block_tokens * padded(encoder.hidden)
    fit = room // (2 * padded(encoder.n_channels * encoder.patch_samples // encoder.level_samples))
    return max(3, min(fit // 6 * 6 or 3, encoder.n_tokens - 1))


def _linear_arrays(name: str, layer: IntegerLinear) -> Iterator[str]:
    yield _array("int8_t", f"{name}_weight", layer.weight)
    yield _array("int32_t", f"{name}_bias", layer.bias)
    yield _array("int32_t", f"{name}_multiplier", layer.multiplier)


def _prototype_arrays(model: DeviceModel) -> Iterator[str]:
    stored = stored_prototypes(model.prototypes)
    rows = np.stack((stored.coarse, stored.fine), axis=1).reshape(-1, stored.fine.shape[1])
    missing = padded(len(rows)) - len(rows), padded(rows.shape[1]) - rows.shape[1]
    yield _array("int8_t", "prototypes", np.pad(rows, ((0, missing[0]), (0, missing[1]))).astype(np.int8))
    yield _array("uint16_t", "prototype_gestures", stored.gesture_index.astype(np.uint16))


def _longest(rows: NDArray[np.float64]) -> int:
    return math.ceil(float(np.linalg.norm(rows, axis=1).max()))


def _the_model(model: DeviceModel) -> str:
    encoder, spec, stored = model.encoder, model.preprocessing, stored_prototypes(model.prototypes)
    gain = model.uv_per_count / spec.scale_uv / encoder.input_step / 2.0**FRACTION_BITS
    mantissa, exponent = _real(gain)
    sections = ",\n".join(f"        {{{', '.join(map(str, row))}}}" for row in filter_integers(spec.sos))
    blocks = ",\n".join(_block(number, block) for number, block in enumerate(encoder.blocks))
    return f"""const cpep_model cpep_the_model = {{
    .sections = {{
{sections},
    }},
    .input_multiplier = {mantissa},
    .input_shift = {exponent},
    .patch = {_linear("patch", encoder.patch)},
    .offset = offset,
    .blocks = {{
{blocks},
    }},
    .norm = {_norm(encoder.norm)},
    .projection = {_linear("projection", encoder.projection)},
    .prototypes = prototypes,
    .coarse_length = {_longest(stored.coarse)},
    .fine_length = {_longest(stored.fine)},
    .product_cosine = {_real_text(2.0**_COSINE_BITS / (32767 * stored.unit))},
    .prototype_gestures = prototype_gestures,
    .gestures = gestures,
}};
"""


def filter_integers(sos: Sequence[Sequence[float]]) -> list[tuple[int, ...]]:
    """b0, b1, b2, -a1, -a2 of every section and its gain for a constant level, in 2^-29.

    Raises ConfigError when a coefficient is too large for that.
    """
    rows = []
    for b0, b1, b2, a0, a1, a2 in sos:
        values = [b0 / a0, b1 / a0, b2 / a0, -a1 / a0, -a2 / a0, (b0 + b1 + b2) / (a0 + a1 + a2)]
        integers = [round(value * 2**_COEFFICIENT_BITS) for value in values]
        if max(map(abs, integers)) >= 2**31:
            raise ConfigError(
                f"cortex-m: a filter coefficient of {max(values, key=abs):g} is beyond 4; lower the order"
            )
        rows.append(tuple(integers))
    return rows


def _block(number: int, block: IntegerBlock) -> str:
    layers = [f".{n} = {_linear(f'{n}{number}', getattr(block, n))}" for n in ("query", "key", "value", "out")]
    mlp = [f".{n} = {_linear(f'{n}{number}', getattr(block, n))}" for n in ("inner", "outer")]
    heads = [f"{{{_score(head.score_scale)}, {_real_text(head.mixed_scale)}}}" for head in block.heads]
    fields = (
        f".attention_norm = {_norm(block.attention_norm)}",
        *layers,
        f".heads = {{{', '.join(heads)}}}",
        f".mlp_norm = {_norm(block.mlp_norm)}",
        *mlp,
        f".gelu = gelu{number}",
    )
    return "        {" + ",\n         ".join(fields) + "}"


def _linear(name: str, layer: IntegerLinear) -> str:
    n_outputs, depth = layer.weight.shape
    return f"{{{name}_weight, {name}_bias, {name}_multiplier, {layer.shift}, {n_outputs}, {depth}}}"


def _norm(norm: IntegerNorm) -> str:
    return f"{{{_real_text(norm.gain)}, {norm.epsilon}u}}"


def _score(scale: float) -> str:
    """A scale below one as a multiplier of 2^-31, less than 2^30, and a shift."""
    mantissa, exponent = _real(scale)
    mantissa, exponent = mantissa >> 1, exponent - 1
    if not 31 <= exponent <= 62:
        raise ConfigError("cortex-m: the scores of attention are out of range; train further or normalise the input")
    return f"{mantissa}, {exponent - 31}"


def _real_text(value: float) -> str:
    mantissa, exponent = _real(value)
    return f"{{{mantissa}u, {exponent}}}"


def _real(value: float) -> tuple[int, int]:
    """mantissa, exponent: value = mantissa / 2^exponent, 2^30 <= mantissa < 2^31."""
    fraction, power = math.frexp(value)
    mantissa, exponent = round(fraction * 2**31), 31 - power
    return (mantissa, exponent) if mantissa < 2**31 else (mantissa >> 1, exponent - 1)


def _array(kind: str, name: str, values: NDArray[np.generic]) -> str:
    flat = values.ravel().tolist()
    lines = (",".join(map(str, flat[at : at + _NUMBERS_A_LINE])) for at in range(0, len(flat), _NUMBERS_A_LINE))
    return f"static const {kind} {name}[{len(flat)}] VECTOR = {{\n" + ",\n".join(lines) + "\n};\n\n"


def _text(name: str) -> str:
    """A C string; what is not plain ASCII becomes octal bytes."""
    plain = "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in name.encode())
    return f'"{plain}"'
