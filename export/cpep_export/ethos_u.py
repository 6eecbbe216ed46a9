"""The shaped encoder for Arm's Ethos-U: int8 weights, 16-bit activations, all on the NPU, by executorch's Arm backend.

Arm's Vela compiles the NPU's commands and estimates what they cost; those figures are modelled, nobody has measured
them here. What is executed here is the same integer program one step earlier, in TOSA, by Arm's reference model.
The norms and the residual stream are quantised too, which 8 bits do not carry: on an encoder trained on rectified EMG
int8 activations gave a cosine to float32 of .90 on average, 16 bits .9996. Attention's two products stay int8.
"""

import csv
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cpep_edge.chip import VelaEstimate
from cpep_edge.errors import ArtifactError, ConfigError
from cpep_export.quantise import capture, check_calibration
from cpep_export.shaped import ShapedEncoder
from cpep_export.toolchain import quiet_stdout, quiet_toolchain

Npu = Literal["ethos-u55", "ethos-u85"]
ACCELERATORS: dict[Npu, str] = {"ethos-u55": "ethos-u55-128", "ethos-u85": "ethos-u85-256"}  # Arm's reference designs

PACKAGES = ("ethosu.vela", "tosa_reference_model", "ml_dtypes")
_QUANTIZE, _DEQUANTIZE = "quantized_decomposed::quantize_per_tensor", "quantized_decomposed::dequantize_per_tensor"


@dataclass(frozen=True, slots=True)
class Affine:
    """Integers q stand for (q - zero) * step."""

    step: float
    zero: int
    limits: tuple[int, int]


@dataclass(frozen=True, slots=True)
class EthosUProgram:
    """A lowered encoder and what Vela says of it."""

    content: bytes  # the `.pte`: one delegate between a quantize and a dequantize on the processor
    tosa: bytes  # the delegate before Vela
    vela: VelaEstimate
    input: Affine
    output: Affine

    def embed(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the TOSA reference model: window (C, T), preprocessed, to an embedding (E,), brought to unit length."""
        import tosa_reference_model

        quantised = np.clip(np.rint(window[None] / self.input.step) + self.input.zero, *self.input.limits)
        with quiet_stdout():
            outputs, status = tosa_reference_model.run(self.tosa, [quantised.astype(np.int16)])
        if status != tosa_reference_model.GraphStatus.TOSA_VALID:
            raise ArtifactError(f"the TOSA reference model refuses the program: {status}")
        features = (outputs[0].ravel().astype(np.float32) - self.output.zero) * self.output.step
        unit: NDArray[np.float32] = features / np.linalg.norm(features)
        return unit


def missing_package() -> str | None:
    """The first package that lowering needs and that is not installed, or None."""
    return next((name for name in PACKAGES if not _is_installed(name)), None)


def lower_for_ethos_u(encoder: ShapedEncoder, npu: Npu, calibration: NDArray[np.float32]) -> EthosUProgram:
    """Quantise, lower and compile; a minute or two.

    calibration: (n, C, T), preprocessed, as varied as what the device will see
    Raises ConfigError with the line that installs a missing package, ArtifactError naming the operators that the NPU
    does not take, DataError for calibration windows that are too few or of another shape.
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
        quantised = _quantised(encoder, windows, spec)
        edge = to_edge_transform_and_lower(capture(quantised, windows[:1]), partitioner=[EthosUPartitioner(spec)])
        lowered = edge.to_executorch()
        require_delegated(npu, lowered.executorch_program.execution_plan[0])
        return EthosUProgram(
            content=bytes(lowered.buffer),
            tosa=(Path(scratch) / "out.tosa").read_bytes(),
            vela=_read_estimate(Path(scratch) / "output", ACCELERATORS[npu]),
            input=_affine(edge, "quantize_per_tensor"),
            output=_affine(edge, "dequantize_per_tensor"),
        )


def _quantised(encoder: ShapedEncoder, windows: torch.Tensor, spec: Any) -> torch.nn.Module:
    from executorch.backends.arm.quantizer import (
        EthosUQuantizer,
        get_symmetric_a16w8_quantization_config,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = EthosUQuantizer(spec)
    quantizer.set_global(get_symmetric_a16w8_quantization_config())
    quantizer.set_node_target(torch.ops.aten.bmm.default, get_symmetric_quantization_config())  # the NPU has no other
    prepared = prepare_pt2e(capture(encoder, windows[:1]).module(check_guards=False), quantizer)
    for window in windows:
        prepared(window[None])
    quantised: torch.nn.Module = convert_pt2e(prepared)
    return quantised


def require_delegated(npu: Npu, plan: Any) -> None:
    """Raises ArtifactError, naming the operators, when more than the program's two borders stays with the processor."""
    outside = sorted({operator.name for operator in plan.operators} - {_QUANTIZE, _DEQUANTIZE})
    if outside or len(plan.delegates) != 1:
        what = ", ".join(outside) or f"cuts into {len(plan.delegates)} parts"
        raise ArtifactError(f"{npu}: the NPU does not run all of the encoder, these operators stay outside: {what}")


def _affine(edge: Any, name: str) -> Affine:
    """Of the one node of this name, at the border of the delegate."""
    nodes = edge.exported_program().graph.nodes
    (node,) = (n for n in nodes if n.op == "call_function" and f".{name}." in f".{n.target.__name__}.")
    _, step, zero, lowest, highest, *_ = node.args
    return Affine(float(step), int(zero), (int(lowest), int(highest)))


def _read_estimate(folder: Path, accelerator: str) -> VelaEstimate:
    """Vela's summary, one row of CSV."""
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
    except ModuleNotFoundError:  # the package around it is not there
        return False
