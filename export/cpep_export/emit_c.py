"""Write a model as C (config.h, model.c, golden.c): its filter, front end, head, integer encoder and prototypes.

The engine under `export/mcu/` is compiled with these files. Its headers explain every array.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import ConfigError
from cpep_edge.head import Head
from cpep_edge.manifest import HeadSpec
from cpep_edge.mpf import FLOOR, MpfSpec
from cpep_edge.preprocess import Preprocessing
from cpep_export.fixed_point import IntegerBlock, IntegerEncoder, IntegerLinear, IntegerNorm, padded
from cpep_export.prototypes import Prototypes

FRACTION_BITS = 6  # of a count, kept in the filter
INPUT_BITS = 20  # of the fraction of the scaled signal, the front end's input
_COEFFICIENT_BITS = 29
_COSINE_BITS = 24
_FINE = 128  # parts of a coarse step of a prototype
_LONGEST = 65_000.0  # fine steps of a prototype: its product with an embedding of length 32767 must fit in 32 bits
_NUMBERS_A_LINE = 32


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """Everything that the engine is compiled with."""

    encoder: IntegerEncoder | None  # None: the head reads tokens and knows every gesture
    preprocessing: Preprocessing
    uv_per_count: float  # of the converter whose counts are pushed
    prototypes: Prototypes
    gestures: tuple[str, ...]
    n_neighbours: int  # that vote
    block_tokens: int  # computed together: more need more memory, fewer read the weights more often
    n_channels: int
    n_steps: int  # of a window: samples or tokens
    front_end: MpfSpec | None = None
    head: Head | None = None  # None: the prototypes answer
    head_spec: HeadSpec | None = None
    masked: tuple[int, ...] = ()  # channels of the band, from 0, that were dead while training

    @property
    def n_inputs(self) -> int:
        """Numbers per step."""
        return self.n_channels if self.front_end is None else self.front_end.n_features

    @property
    def input_limit(self) -> int:
        """The clipped signal's largest number."""
        if self.front_end is None and self.encoder is not None:
            return self.encoder.input_limit
        return min(round(self.preprocessing.clip * (1 << INPUT_BITS)), (1 << 31) - 1)

    @property
    def input_step(self) -> float:
        """Unit of the filtered signal, in units of the scale."""
        if self.front_end is None and self.encoder is not None:
            return self.encoder.input_step
        return 2.0**-INPUT_BITS


@dataclass(frozen=True, slots=True)
class StoredPrototypes:
    """Prototypes as the engine holds them, in whole numbers: (coarse + fine / 128) / (unit / 128)."""

    coarse: NDArray[np.float64]  # (n_prototypes, E)
    fine: NDArray[np.float64]  # (n_prototypes, E)
    gesture_index: NDArray[np.int64]  # (n_prototypes,)
    unit: float  # length of each, in fine steps


@dataclass(frozen=True, slots=True)
class GoldenStretch:
    """Counts, and the results that they must give."""

    counts: NDArray[np.int32]  # (n_samples, C)
    first_index: int  # of the first sample: tokens begin at whole multiples of their hop
    mean: NDArray[np.float32]  # (F,), of the window's tokens; empty: no front end
    embedding: NDArray[np.int16]  # (E,), of length 32767; empty: no encoder
    vote: tuple[int, ...]  # gesture, then share, similarity and every gesture's share in 2^-24


def config_header(model: DeviceModel) -> str:
    """The sizes, as the engine's shape.h reads them."""
    spec, head, head_spec = model.front_end, model.head, model.head_spec
    sizes = {
        "CHANNELS": model.n_channels,
        "WINDOW": model.n_steps,
        "INPUT_LIMIT": model.input_limit,
        "SECTIONS": len(model.preprocessing.sos),
        "GESTURES": len(model.gestures),
        "BANDS": 0 if spec is None else len(spec.bands),
        "HEAD_GESTURES": 0 if head is None else head.n_gestures,
        "HEAD_TOKENS": int(head_spec is not None and head_spec.reads != "embedding"),
        "HEAD_EMBEDDING": int(head_spec is not None and head_spec.reads != "tokens"),
        "LAYERS": 0 if model.encoder is None else len(model.encoder.blocks),
    }
    if spec is not None:
        sizes |= {
            "INPUT_BITS": INPUT_BITS,
            "BAND_SECTIONS": max(len(band.sos) for band in spec.bands),
            "HOP": spec.hop_samples,
            "SPAN_BLOCKS": spec.span_samples // spec.hop_samples,
        }
    if head is not None:
        sizes["HEAD_DIMENSIONS"] = head.means.shape[1]
    if model.encoder is not None:
        encoder = model.encoder
        sizes |= {
            "PATCH": encoder.patch_samples,
            "LEVEL": encoder.level_samples,
            "RECTIFIED": int(encoder.rectified),
            "STEP_LIMIT": encoder.input_limit,
            "WIDTH": encoder.width,
            "HEADS": encoder.n_heads,
            "HIDDEN": encoder.hidden,
            "EMBEDDING": encoder.d_embed,
            "PROTOTYPES": len(model.prototypes.embedding),
            "NEIGHBOURS": min(model.n_neighbours, len(model.prototypes.embedding)),
            "BLOCK": model.block_tokens,
            "PATCH_BLOCK": _patch_block(model.block_tokens, encoder),
        }
    lines = [f"#define CPEP_{name} {value}" for name, value in sizes.items()]
    return "\n".join(("#ifndef CPEP_CONFIG_H", "#define CPEP_CONFIG_H", "", *lines, "", "#endif", ""))


def model_source(model: DeviceModel) -> Iterator[str]:
    """The text of model.c, piece by piece, because weights are megabytes of it."""
    yield '#include "model.h"\n\n#include <stddef.h>\n\n#define VECTOR __attribute__((aligned(16)))\n\n'
    if model.front_end is not None:
        yield from _front_end_arrays(model.front_end)
    if model.head is not None and model.head_spec is not None:
        yield from _head_arrays(model.head, model.head_spec)
    if model.encoder is not None:
        yield from _encoder_arrays(model.encoder)
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
        parts = [f"samples{number}", str(len(stretch.counts)), f"{stretch.first_index}u"]
        numbers = (_numbers(array) for array in (stretch.mean, stretch.embedding) if array.size)
        parts += [f"{{{', '.join(one)}}}" for one in numbers]
        gesture, share, similarity, *shares = map(str, stretch.vote)
        parts.append(f"{{{gesture}, {share}, {similarity}, {{{', '.join(shares)}}}}}")
        yield f"{{{', '.join(parts)}}},\n"
    yield f"}};\nconst int32_t n_golden_stretches = {len(stretches)};\n"


def stored_prototypes(prototypes: Prototypes) -> StoredPrototypes:
    """Prototypes as a coarse and a fine row each, with a common unit, as large as 8 bits and 32-bit products allow.

    Their order mixes the gestures. The engine compares in full only prototypes that can still be among the nearest, and
    these are a third fewer when the first few already cover every gesture.
    """
    order = np.random.default_rng(0).permutation(len(prototypes.embedding))
    embedding = prototypes.embedding[order].astype(np.float64)
    unit = min(127 * _FINE / float(np.abs(embedding).max()), _LONGEST)
    integers = np.rint(embedding * unit)
    coarse = np.floor(integers / _FINE + 0.5)
    return StoredPrototypes(coarse, integers - _FINE * coarse, prototypes.gesture_index[order], unit)


def choose_block_tokens(n_tokens: int, at_most: int = 32) -> int:
    """Choose equal blocks of a multiple of six tokens, because the kernels process three or six rows at once."""
    n_blocks = -(-n_tokens // at_most)
    return -(-n_tokens // (6 * n_blocks)) * 6


def _patch_block(block_tokens: int, encoder: IntegerEncoder) -> int:
    """The number of patches that fit into the memory of the hidden layer."""
    room = block_tokens * padded(encoder.hidden)
    fit = room // (2 * padded(encoder.n_channels * encoder.patch_samples // encoder.level_samples))
    return max(3, min(fit // 6 * 6 or 3, encoder.n_tokens - 1))


def _encoder_arrays(encoder: IntegerEncoder) -> Iterator[str]:
    yield from _linear_arrays("patch", encoder.patch)
    yield _array("int16_t", "offset", encoder.offset)
    for number, block in enumerate(encoder.blocks):
        for name in ("query", "key", "value", "out", "inner", "outer"):
            yield from _linear_arrays(f"{name}{number}", getattr(block, name))
        yield _array("int8_t", f"gelu{number}", block.gelu)
    yield from _linear_arrays("projection", encoder.projection)


def _front_end_arrays(spec: MpfSpec) -> Iterator[str]:
    n_sections = max(len(band.sos) for band in spec.bands)
    bands = []
    for band in spec.bands:
        rows = [(b0, b1, b2, -a1, -a2) for b0, b1, b2, _, a1, a2 in band.sos]
        rows += [(1.0, 0.0, 0.0, 0.0, 0.0)] * (n_sections - len(rows))  # neutral sections
        bands.append(", ".join(f"{{{', '.join(_numbers(np.array(row, np.float32)))}}}" for row in rows))
    lines = ",\n".join(f"    {{{band}}}" for band in bands)
    yield f"static const cpep_band_section bands[CPEP_BANDS][CPEP_BAND_SECTIONS] = {{\n{lines},\n}};\n\n"
    if spec.centre:
        yield _array("float", "centre", np.array(spec.centre, np.float32))


def _head_arrays(head: Head, spec: HeadSpec) -> Iterator[str]:
    column, row = np.tril_indices(head.means.shape[1])  # of the upper triangle, column after column
    yield _array("float", "head_origin", head.origin)
    yield _array("float", "head_projection", head.projection)
    yield _array("float", "head_means", head.means)
    yield _array("float", "head_factors", head.factors[:, row, column])
    log_determinants = np.log(np.diagonal(head.factors, axis1=1, axis2=2).astype(np.float64)).sum(axis=1)
    yield _array("float", "head_log_determinants", log_determinants.astype(np.float32))
    yield _array("uint16_t", "head_gestures", np.array(spec.gestures, np.uint16))


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
    penalties = model.prototypes.gesture_penalty or (0.0,) * len(model.gestures)
    products = [min(round(penalty * 32767 * stored.unit), 2**31 - 1) for penalty in penalties]
    yield _array("int32_t", "gesture_penalties", np.array(products, np.int32))


def _longest(rows: NDArray[np.float64]) -> int:
    return math.ceil(float(np.linalg.norm(rows, axis=1).max()))


def _the_model(model: DeviceModel) -> str:
    gain = model.uv_per_count / model.preprocessing.scale_uv / model.input_step / 2.0**FRACTION_BITS
    mantissa, exponent = _real(gain)
    sections = ",\n".join(f"        {{{', '.join(map(str, row))}}}" for row in filter_integers(model.preprocessing.sos))
    fields = [f".sections = {{\n{sections},\n    }}", f".input_multiplier = {mantissa}", f".input_shift = {exponent}"]
    is_masked = (str(int(channel in model.masked)) for channel in range(model.n_channels))
    fields.append(f".is_masked = {{{', '.join(is_masked)}}}")
    if model.front_end is not None:
        fields += _front_end_fields(model.front_end, model.encoder)
    if model.head is not None and model.head_spec is not None:
        arrays = ("origin", "projection", "means", "factors", "log_determinants", "gestures")
        numbers = _number(1 / model.head.temperature), str(round(model.head_spec.min_typicality * 2**_COSINE_BITS))
        fields.append(f".head = {{{', '.join((*(f'head_{name}' for name in arrays), *numbers))}}}")
    if model.encoder is not None:
        fields += _encoder_fields(model.encoder, stored_prototypes(model.prototypes))
    fields.append(".gestures = gestures")
    return "const cpep_model cpep_the_model = {\n" + "".join(f"    {field},\n" for field in fields) + "};\n"


def _front_end_fields(spec: MpfSpec, encoder: IntegerEncoder | None) -> list[str]:
    scale = 1.0 if encoder is None else 1 / encoder.input_step
    return [
        ".bands = bands",
        f".shrinkage = {_number(spec.shrinkage)}",
        f".floor = {_number(FLOOR)}",
        f".centre = {'centre' if spec.centre else 'NULL'}",
        f".step_scale = {_number(scale)}",
    ]


def _encoder_fields(encoder: IntegerEncoder, stored: StoredPrototypes) -> list[str]:
    blocks = ",\n".join(_block(number, block) for number, block in enumerate(encoder.blocks))
    return [
        f".patch = {_linear('patch', encoder.patch)}",
        ".offset = offset",
        f".blocks = {{\n{blocks},\n    }}",
        f".norm = {_norm(encoder.norm)}",
        f".projection = {_linear('projection', encoder.projection)}",
        ".prototypes = prototypes",
        f".coarse_length = {_longest(stored.coarse)}",
        f".fine_length = {_longest(stored.fine)}",
        f".product_cosine = {_real_text(2.0**_COSINE_BITS / (32767 * stored.unit))}",
        ".prototype_gestures = prototype_gestures",
        ".gesture_penalties = gesture_penalties",
    ]


def filter_integers(sos: Sequence[Sequence[float]]) -> list[tuple[int, ...]]:
    """b0, b1, b2, -a1, -a2 of every section and its DC gain, in units of 2^-29.

    Raises ConfigError when a coefficient is too large for this format.
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
    heads = [f"{{{_score(score)}, {_real_text(mixed)}}}" for score, mixed in block.heads]
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
    gain, epsilon = norm
    return f"{{{_real_text(gain)}, {epsilon}u}}"


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
    flat = _numbers(values)
    lines = (",".join(flat[at : at + _NUMBERS_A_LINE]) for at in range(0, len(flat), _NUMBERS_A_LINE))
    return f"static const {kind} {name}[{len(flat)}] VECTOR = {{\n" + ",\n".join(lines) + "\n};\n\n"


def _numbers(values: NDArray[np.generic]) -> list[str]:
    """Format every number for C without loss."""
    flat = values.ravel().tolist()
    return list(map(_number, flat)) if np.issubdtype(values.dtype, np.floating) else list(map(str, flat))


def _number(value: float) -> str:
    return f"{float(np.float32(value)).hex()}f"


def _text(name: str) -> str:
    """A C string literal; characters outside plain ASCII become octal escapes."""
    plain = "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in name.encode())
    return f'"{plain}"'
