"""The peers that our programs are compared with: ONNX Runtime in float32 and its best int8, and OpenVINO.

ONNX Runtime has two kinds of int8, and both are used: static in QDQ form, with ranges from calibration windows, and
dynamic. In both, weights are int8 by channel; static activations are unsigned, for which its x86 kernels are fastest.
Only products with weights are quantised, as in our own export; quantising everything lowers the cosine and is not
faster. The graph is first prepared (shape inference and optimisation), and optimised again when a session opens.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import CpepError

if TYPE_CHECKING:
    from torch import nn

OnnxKind = Literal["fp32", "int8-static", "int8-dynamic"]
_INPUT, _OUTPUT = "window", "embedding"
_OPSET = 20  # the first with Gelu as an operator


def onnx_program(module: "nn.Module", windows: NDArray[np.float32], kind: OnnxKind) -> bytes:
    """Convert an encoder of one window, (1, C, T) to (1, E), to an ONNX file.

    windows: (n_windows, C, T), preprocessed; they calibrate "int8-static"
    Raises CpepError when ONNX Runtime is not installed.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise CpepError("ONNX Runtime is not installed; install it with: pip install 'cpep-edge[peers]'") from error
    with _quiet(), TemporaryDirectory() as scratch:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        exported, prepared, finished = (Path(scratch) / f"{step}.onnx" for step in ("exported", "prepared", "finished"))
        _convert(module, windows, exported)
        if kind == "fp32":
            return exported.read_bytes()
        quant_pre_process(exported, prepared, skip_symbolic_shape=True)
        _quantise(prepared, finished, windows, kind, _products_with_weights(onnx.load(prepared)))
        return finished.read_bytes()


class OnnxEncoder:
    """A session of ONNX Runtime as an encoder, with every optimisation on."""

    def __init__(self, program: bytes, n_threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])

    def embed(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """window: (C, T) float32, preprocessed; returns the embedding, (E,)."""
        embedding: NDArray[np.float32] = self._session.run([_OUTPUT], {_INPUT: window[None]})[0][0]
        return embedding


class OpenVinoEncoder:
    """The same graphs in OpenVINO, tuned for the latency of one window.

    OpenVINO chooses the precision of the float program, which is bfloat16 if the processor supports it well. The int8
    program has the ranges calibrated by ONNX Runtime: with NNCF, OpenVINO's own quantiser, the paper-size encoder was
    slower (2.8 to 3.0 ms instead of 2.7), and it needs three more packages.
    """

    def __init__(self, program: Path, n_threads: int = 1) -> None:
        """program: an ONNX file of one window, (1, C, T) to (1, E)"""
        import openvino

        core = openvino.Core()
        tuned = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": n_threads}
        self._request = core.compile_model(core.read_model(program), "CPU", tuned).create_infer_request()

    def embed(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """window: (C, T) float32, preprocessed; returns the embedding, (E,), valid until the next call."""
        embedding: NDArray[np.float32] = self._request.infer([window[None]], share_inputs=True)[0][0]
        return embedding


def _convert(module: "nn.Module", windows: NDArray[np.float32], out: Path) -> None:
    import torch

    torch.onnx.export(
        module,
        (torch.from_numpy(windows[:1]),),
        out,
        dynamo=False,
        opset_version=_OPSET,
        input_names=[_INPUT],
        output_names=[_OUTPUT],
    )


def _quantise(prepared: Path, out: Path, windows: NDArray[np.float32], kind: OnnxKind, nodes: list[str]) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Windows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter(windows)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            window = next(self._rest, None)
            return None if window is None else {_INPUT: window[None]}

    weights = {"per_channel": True, "weight_type": QuantType.QInt8, "nodes_to_quantize": nodes}
    if kind == "int8-static":
        form = {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QUInt8}
        quantize_static(prepared, out, Windows(), **form, **weights)
    else:
        quantize_dynamic(prepared, out, **weights)


def _products_with_weights(model: "onnx.ModelProto") -> list[str]:  # type: ignore[name-defined]  # noqa: F821
    """The names of nodes that multiply by a matrix of weights; a single column does not count, since it is a mean."""
    matrices = {weight.name for weight in model.graph.initializer if len(weight.dims) > 1 and min(weight.dims) > 1}
    products = (node for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv"))
    names = [node.name for node in products if matrices.intersection(node.input)]
    return [*names, *(f"{name}_MatMul" for name in names)]  # the name after dynamic quantisation has split a Gemm


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence both tool chains, which warn of their own deprecations and advise steps already taken."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
