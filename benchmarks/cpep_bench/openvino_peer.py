"""An encoder in OpenVINO, read from the files that `onnx_peer` makes.

Its float program runs at OpenVINO's own choice of precision, which is bfloat16 where the processor is good at it. Its
int8 program has the ranges that ONNX Runtime calibrated: NNCF, OpenVINO's own quantiser, made a slower one of the
paper-size encoder (2.8 to 3.0 ms beside 2.7), for three packages more.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class OpenVinoEncoder:
    """A compiled model as an encoder, tuned for the latency of one window."""

    def __init__(self, program: Path, n_threads: int = 1) -> None:
        """program: an ONNX file of one window, (1, C, T) to (1, E)"""
        import openvino

        core = openvino.Core()
        tuned = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": n_threads}
        self._request = core.compile_model(core.read_model(program), "CPU", tuned).create_infer_request()

    def embed(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """window: (C, T) float32, preprocessed; returns the embedding, (E,), good until the next call."""
        embedding: NDArray[np.float32] = self._request.infer([window[None]], share_inputs=True)[0][0]
        return embedding
