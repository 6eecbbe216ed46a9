"""Lower the fused encoder to Arm's Ethos-U with executorch's Arm backend: all of it runs on the NPU, in integers.

Weights are int8 and activations int16. Int8 activations are too coarse for the norms and the residual stream: an
encoder trained on rectified EMG kept 56 % of its votes on golden inputs, at a mean cosine of .93. Only the two products
of attention are int8, because the NPU has no other.

The NPU looks functions of 16-bit values up in tables. The graph of `cpep_export.fused` divides by values that span
orders of magnitude, and the tables have no entries for the small ones: the mean cosine was .71, although the quantised
graph in torch gives .9996. `NpuEncoder` avoids these divisions.

Arm's Vela compiles the NPU's commands and estimates their cost. Its figures come from a model and were not measured.
The program is checked one step earlier: Arm's reference model runs the same integer program in TOSA.
"""

import copy
import csv
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from cpep_edge.chip import VelaEstimate
from cpep_edge.errors import ArtifactError, ConfigError
from cpep_export.fused import FusedEncoder, PatchLayer, RootMeanSquare
from cpep_export.quantise import capture, check_calibration
from cpep_export.toolchain import quiet_stdout, quiet_toolchain

Npu = Literal["ethos-u55", "ethos-u85"]
ACCELERATORS: dict[Npu, str] = {"ethos-u55": "ethos-u55-128", "ethos-u85": "ethos-u85-256"}  # Arm's reference designs

_QUIET = 200.0  # largest power of a token over the power at the border between the two tables of `TwoTableNorm`
_ZOOM = 100.0  # power at the border, in the units of the table for quiet tokens
PACKAGES = ("ethosu.vela", "tosa_reference_model", "ml_dtypes")
_QUANTIZE, _DEQUANTIZE = "quantized_decomposed::quantize_per_tensor", "quantized_decomposed::dequantize_per_tensor"


@dataclass(frozen=True, slots=True)
class Affine:
    """A quantisation: the integer q stands for the value (q - zero) * step."""

    step: float
    zero: int
    limits: tuple[int, int]


@dataclass(frozen=True, slots=True)
class EthosUProgram:
    """A lowered encoder and Vela's estimate of its cost."""

    content: bytes  # the `.pte`: one delegate for the NPU between a quantize and a dequantize on the processor
    tosa: bytes  # the delegate's program before Vela compiles it
    vela: VelaEstimate
    input: Affine
    output: Affine
    level_samples: int = 1  # see `levels`

    def embed(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed a window with the TOSA reference model.

        window: (C, T), preprocessed
        returns: (E,), unit length
        Raises ArtifactError when the reference model refuses the program.
        """
        import tosa_reference_model

        given = levels(window[None], self.level_samples)
        quantised = np.clip(np.rint(given / self.input.step) + self.input.zero, *self.input.limits)
        with quiet_stdout():
            outputs, status = tosa_reference_model.run(self.tosa, [quantised.astype(np.int16)])
        if status != tosa_reference_model.GraphStatus.TOSA_VALID:
            raise ArtifactError(f"the TOSA reference model refuses the program: {status}")
        features = (outputs[0].ravel().astype(np.float32) - self.output.zero) * self.output.step
        unit: NDArray[np.float32] = features / np.linalg.norm(features)
        return unit


def levels(windows: NDArray[np.float32], level_samples: int) -> NDArray[np.float32]:
    """The input of the NPU: the windows, (n, C, T), or, if the encoder reads levels, (n, C, T / level_samples).

    A level is the mean of `level_samples` rectified samples. The processor adds them up while it filters; on the NPU
    each sample would need a multiplication.
    """
    if level_samples == 1:
        return windows
    means: NDArray[np.float32] = np.abs(windows).reshape(*windows.shape[:2], -1, level_samples).mean(axis=-1)
    return means


def missing_package() -> str | None:
    """The first package that lowering needs but that is not installed, or None."""
    return next((name for name in PACKAGES if not _is_installed(name)), None)


def lower_for_ethos_u(encoder: FusedEncoder, npu: Npu, calibration: NDArray[np.float32]) -> EthosUProgram:
    """Quantise, lower and compile the encoder, which takes a minute or two.

    calibration: (n, C, T), preprocessed, as varied as the device's input will be
    Raises ConfigError, with the command that installs it, for a missing package; ArtifactError, naming them, for
    operators that the NPU cannot run; DataError for calibration windows that are too few or of another shape.
    """
    missing = missing_package()
    if missing is not None:
        raise ConfigError(f"{npu}: {missing} is missing; install it with: pip install 'cpep-edge[ethos-u]'")
    check_calibration(encoder, calibration)
    with TemporaryDirectory() as scratch, quiet_toolchain(), quiet_stdout(), torch.no_grad():
        from executorch.backends.arm.ethosu import EthosUCompileSpec, EthosUPartitioner
        from executorch.exir import to_edge_transform_and_lower

        spec = EthosUCompileSpec(ACCELERATORS[npu])
        spec.dump_intermediate_artifacts_to(scratch)
        windows = torch.from_numpy(np.array(calibration, np.float32))
        given = torch.from_numpy(levels(windows.numpy(), encoder.patch.level_samples))
        quantised = _quantised(NpuEncoder(encoder, windows).eval(), given, spec)
        edge = to_edge_transform_and_lower(capture(quantised, given[:1]), partitioner=[EthosUPartitioner(spec)])
        lowered = edge.to_executorch()
        require_delegated(npu, lowered.executorch_program.execution_plan[0])
        return EthosUProgram(
            content=bytes(lowered.buffer),
            tosa=(Path(scratch) / "out.tosa").read_bytes(),
            vela=_read_estimate(Path(scratch) / "output", ACCELERATORS[npu]),
            input=_affine(edge, "quantize_per_tensor"),
            output=_affine(edge, "dequantize_per_tensor"),
            level_samples=encoder.patch.level_samples,
        )


class NpuEncoder(nn.Module):
    """A `FusedEncoder` rewritten, exactly, so that it loses little when it is quantised to 16 bits.

    Its features are not scaled to unit length; the caller does that. The only divisions left are those of
    `TwoTableNorm`.
    """

    def __init__(self, encoder: FusedEncoder, windows: torch.Tensor) -> None:
        """windows: (n, C, T), calibration windows to measure the largest power of the tokens."""
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        norms = {name: m for name, m in self.encoder.named_modules() if isinstance(m, RootMeanSquare)}
        largest = _largest_power(self.encoder, norms, windows)
        for name, norm in norms.items():
            parent, _, child = name.rpartition(".")
            setattr(self.encoder.get_submodule(parent), child, TwoTableNorm(norm, largest[name]))
        if encoder.patch.level_samples > 1:
            _take_levels(self.encoder.patch)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """window: (1, C, T) float32, the output of `levels` for a preprocessed window; returns features (1, 1, E)."""
        return self.encoder.features(window)


def _take_levels(patch: PatchLayer) -> None:
    """Change a patch layer to read levels instead of samples that it rectifies.

    This is exact, because all samples of a level have the same weight.
    """
    n = patch.level_samples
    weight = patch.linear.weight.detach().view(-1, patch.n_channels, patch.patch_samples)[..., ::n].flatten(1) * n
    patch.linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    patch.linear.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    patch.patch_samples //= n
    patch.rectified = False


class TwoTableNorm(nn.Module):
    """A division by the root mean square with two tables for the root: one for loud tokens, one for quiet tokens.

    The NPU looks functions of 16-bit values up in tables with even steps. The power of tokens spans five orders of
    magnitude from rest to effort, so one table would have no entries for quiet tokens. The input of each table is
    clamped at the border between them, so the sum of both, minus the value at the border, is the whole function.
    """

    def __init__(self, norm: RootMeanSquare, largest: float) -> None:
        """largest: the largest mean square of a token."""
        super().__init__()
        self.mean: torch.Tensor
        self.register_buffer("mean", norm.mean)
        self.eps = norm.eps
        self.border = largest / _QUIET

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens: (1, N, D), of zero mean; returns the same shape, each token of mean square one."""
        power = F.linear(tokens * tokens, self.mean) + self.eps
        loud = torch.rsqrt(torch.clamp(power, min=self.border))
        zoomed = torch.clamp(power, max=self.border) * (_ZOOM / self.border)  # the product gets its own step
        quiet = torch.rsqrt(zoomed) * (_ZOOM / self.border) ** 0.5
        normed: torch.Tensor = tokens * (loud + (quiet - self.border**-0.5))
        return normed


def _largest_power(encoder: FusedEncoder, norms: dict[str, RootMeanSquare], windows: torch.Tensor) -> dict[str, float]:
    """The largest mean square of a token before each norm."""
    largest = dict.fromkeys(norms, 0.0)

    def watch(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def look(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            largest[name] = max(largest[name], float(given[0].square().mean(dim=-1).max()))

        return look

    hooks = [norm.register_forward_pre_hook(watch(name)) for name, norm in norms.items()]
    for window in windows:
        encoder(window[None])
    for hook in hooks:
        hook.remove()
    return largest


def _quantised(encoder: nn.Module, windows: torch.Tensor, spec: Any) -> nn.Module:
    from executorch.backends.arm.quantizer import (
        EthosUQuantizer,
        get_symmetric_a16w8_quantization_config,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = EthosUQuantizer(spec)
    quantizer.set_global(get_symmetric_a16w8_quantization_config())
    quantizer.set_node_target(torch.ops.aten.bmm.default, get_symmetric_quantization_config())  # the NPU has only int8
    prepared = prepare_pt2e(capture(encoder, windows[:1]).module(check_guards=False), quantizer)
    for window in windows:
        prepared(window[None])
    quantised: nn.Module = convert_pt2e(prepared)
    return quantised


def require_delegated(npu: Npu, plan: Any) -> None:
    """Raises ArtifactError, naming the operators, unless the NPU runs all but the program's quantize and dequantize."""
    outside = sorted({operator.name for operator in plan.operators} - {_QUANTIZE, _DEQUANTIZE})
    if outside or len(plan.delegates) != 1:
        what = ", ".join(outside) or f"cuts into {len(plan.delegates)} parts"
        raise ArtifactError(
            f"{npu}: the NPU does not run all of the encoder, these operators stay outside: {what}; "
            "take pooling, heads and front_end under [emg] from recipe micro, or export for cortex-m"
        )


def _affine(edge: Any, name: str) -> Affine:
    """The quantisation of the delegate's input or output, from the node of this name."""
    nodes = edge.exported_program().graph.nodes
    (node,) = (n for n in nodes if n.op == "call_function" and f".{name}." in f".{n.target.__name__}.")
    _, step, zero, lowest, highest, *_ = node.args
    return Affine(float(step), int(zero), (int(lowest), int(highest)))


def _read_estimate(folder: Path, accelerator: str) -> VelaEstimate:
    """Read Vela's summary, a CSV file with one row."""
    (file,) = folder.glob("*_summary_*.csv")
    with file.open(newline="") as rows:
        (row,) = csv.DictReader(rows)
    kib = {key: float(row[f"{key}_memory_used"]) for key in ("sram", "dram", "on_chip_flash", "off_chip_flash")}
    return VelaEstimate(
        accelerator=accelerator,
        clock_mhz=float(row["core_clock"]) / 1e6,
        cycles=round(float(row["cycles_total"])),
        inference_ms=float(row["inference_time"]) * 1e3,
        sram_bytes=round(kib["sram"] * 1024),
        flash_bytes=round((kib["dram"] + kib["on_chip_flash"] + kib["off_chip_flash"]) * 1024),
        multiply_adds=round(float(row["nn_macs"])),
    )


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
