"""Quantise the fused encoder's layers with weights to int8.

EMG spans orders of magnitude from rest to effort, and a single range would lose the quiet part. So the patch layer
always measures the range of each patch at run time, whatever the other layers do.

Nothing else is quantised. The normalisation, the softmax, the attention products and the final scaling to unit
length stay in float32: quantising them saves almost nothing and breaks the nearest-neighbour search (outputs no longer
have unit length, and most votes change). The fused encoder writes its normalisation as functional
calls, so that choosing linear layers by module type finds exactly those with weights.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cpep_edge.errors import DataError
from cpep_export.fused import FusedEncoder
from cpep_export.streaming_graph import StreamingStep
from cpep_export.toolchain import quiet_toolchain

Quantisation = Literal["int8", "int8-dynamic", "fp32"]
MIN_CALIBRATION_WINDOWS = 16  # fewer do not show the range of the activations


def quantise(
    encoder: FusedEncoder | StreamingStep, quantisation: Quantisation, calibration: NDArray[np.float32]
) -> nn.Module:
    """The encoder as a graph with int8 weights and activations; unchanged for "fp32".

    quantisation: "int8" fixes the range of every activation from the calibration windows; "int8-dynamic" measures it at
        each inference
    calibration: (n_windows, n_channels, window_samples), preprocessed, as varied as the device's input will be
    Raises DataError when the calibration windows are too few, silent or not of the encoder's shape.
    """
    if quantisation == "fp32":
        return encoder
    check_calibration(encoder, calibration)
    with quiet_toolchain(), torch.no_grad():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        windows = torch.from_numpy(np.array(calibration, dtype=np.float32))
        example = next(encoder.inputs(windows[:1]))
        prepared = prepare_pt2e(capture(encoder, *example).module(), _quantizer(dynamic=quantisation != "int8"))
        for window in windows:
            for inputs in encoder.inputs(window[None]):
                prepared(*inputs)
        quantised: nn.Module = convert_pt2e(prepared)
    return quantised


def capture(module: nn.Module, *inputs: Tensor) -> torch.export.ExportedProgram:
    """The graph of a module for inputs of these shapes."""
    return torch.export.export(module, inputs, strict=False)


def _quantizer(dynamic: bool) -> object:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    def config(dynamic: bool) -> object:
        return get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)

    return (  # never set_global, see above
        XNNPACKQuantizer()
        .set_module_type(nn.Linear, config(dynamic))
        .set_module_name("patch.linear", config(dynamic=True))
        .set_operator_type(torch.ops.aten.conv1d.default, config(dynamic=False))  # XNNPACK has no dynamic conv1d
    )


def check_calibration(encoder: FusedEncoder | StreamingStep, calibration: NDArray[np.float32]) -> None:
    shape = (encoder.n_channels, encoder.window_samples)
    if calibration.shape[1:] != shape:
        raise DataError(f"calibration windows have shape {calibration.shape[1:]}, the encoder takes {shape}")
    if len(calibration) < MIN_CALIBRATION_WINDOWS:
        raise DataError(f"{len(calibration)} calibration windows are too few, give at least {MIN_CALIBRATION_WINDOWS}")
    if not np.all(np.isfinite(calibration)):
        raise DataError("a calibration window holds NaN or infinity; check the sessions with: cpep-edge data info")
    if np.ptp(calibration) == 0:
        raise DataError("the calibration windows are silent, so they say nothing about the range of the signal")
