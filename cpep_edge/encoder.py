"""Run the EMG encoder of a bundle: one window in, one embedding out.

The program runs in ExecuTorch, in one of two ways. If the bundle contains a library for this machine, nothing else is
needed (`cpep_edge.native_encoder`). Otherwise the Python bindings of executorch's wheel run the program, which need
torch too. They are imported without `executorch.runtime`, which would import the whole compiler: so the start takes
half the time.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import ArtifactError, CpepError
from cpep_edge.manifest import EncoderSpec
from cpep_edge.native_encoder import NativeEncoder, NativeLibrary
from cpep_edge.streaming import StreamingRunner

_FLOAT32 = 6  # ExecuTorch's ScalarType
_METHOD = "forward"

_log = logging.getLogger(__name__)
_pool_threads: int | None = None  # of this process; XNNPACK's pool cannot change once a program is loaded


class EmgEncoder(Protocol):
    """An encoder of one window at a time."""

    def embed(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed one window.

        window: (n_channels, window_samples) float32, preprocessed
        returns: (d_embed,) float32, unit length
        Raises ValueError for another shape.
        """
        ...


def open_encoder(
    program: bytes, spec: EncoderSpec, n_threads: int = 1, library: NativeLibrary | None = None
) -> EmgEncoder:
    """Load an encoder from bytes whose hash was checked; threads may share it and take turns.

    n_threads: of the whole process; every encoder opened later must ask for the same number
    library: runs the program if it fits this machine; otherwise torch and executorch do
    Raises ArtifactError when the program cannot be loaded or its inputs and outputs differ from the spec, CpepError
    when the runtime is not installed or already runs with another number of threads.
    """
    encoder: EmgEncoder
    if library is None or not library.fits():
        encoder = _ExecutorchEncoder(program, spec, n_threads)
    else:
        _claim_threads(n_threads)
        encoder = NativeEncoder(library, program, spec, n_threads)
    return _OneAtATime(encoder if spec.stream is None else StreamingRunner(encoder, spec))


class _OneAtATime:
    """An encoder for several threads, which wait for each other because a program has only one set of buffers."""

    def __init__(self, encoder: EmgEncoder) -> None:
        self._encoder, self._turn = encoder, threading.Lock()

    def embed(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._turn:
            return self._encoder.embed(window)


def import_runtime() -> tuple[ModuleType, Any]:
    """Import torch and ExecuTorch's bindings, which takes most of the start-up time.

    Raises CpepError, with the command that installs them, when they are not installed.
    """
    try:
        import torch
        from executorch.extension.pybindings import _C as bindings  # noqa: N811
    except ImportError as error:
        raise CpepError(
            "this bundle contains no encoder library for this machine; export it with the right --target, or install "
            "torch and executorch with: pip install 'cpep-edge[export]'"
        ) from error
    return torch, bindings


class _ExecutorchEncoder:
    """An encoder that runs its program with ExecuTorch's own Python bindings."""

    def __init__(self, program: bytes, spec: EncoderSpec, n_threads: int) -> None:
        torch, bindings = import_runtime()
        _claim_threads(n_threads)
        with quiet_stderr():
            if bindings._threadpool_get_thread_count() != n_threads:  # never reset a pool that other programs may use
                bindings._unsafe_reset_threadpool(n_threads)
        self._program = program  # ExecuTorch reads weights in place and does not keep these bytes alive itself
        self._method = _load(bindings, program)
        meta = self._method.method_meta()
        _check_shapes(meta, spec)
        self._shape = (spec.n_channels, spec.run_samples)
        self._state = [torch.zeros(meta.input_tensor_meta(i).sizes()) for i in range(1, meta.num_inputs())]
        self._input = torch.zeros((1, *self._shape), dtype=torch.float32)
        self._window: NDArray[np.float32] = self._input[0].numpy()  # the same memory

    def embed(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        if window.shape != self._shape:
            raise ValueError(f"window has shape {window.shape}, this encoder takes {self._shape}")
        self._window[:] = window
        output, *self._state = self._method.call((self._input, *self._state))
        embedding: NDArray[np.float32] = output.numpy()[0]
        return embedding


def _claim_threads(n_threads: int) -> None:
    """Fix the number of threads before the first program is loaded: a later change can crash the process."""
    global _pool_threads
    if n_threads < 1:
        raise ValueError(f"n_threads must be at least 1, not {n_threads}")
    if _pool_threads not in (None, n_threads):
        raise CpepError(f"this process already runs encoders on {_pool_threads} threads; start another for {n_threads}")
    _pool_threads = n_threads


def _load(bindings: Any, program: bytes) -> Any:
    try:
        with quiet_stderr():
            checked = bindings.Verification.InternalConsistency
            return bindings._load_program_from_buffer(program, program_verification=checked).load_method(_METHOD)
    except RuntimeError as error:
        raise ArtifactError(f"the encoder program cannot be loaded: {error}") from error


def _check_shapes(meta: Any, spec: EncoderSpec) -> None:
    expected = ((1, spec.n_channels, spec.run_samples), (1, spec.d_embed))
    if meta.num_inputs() == 0 or meta.num_inputs() != meta.num_outputs():
        raise ArtifactError(
            f"the encoder program takes {meta.num_inputs()} inputs and gives {meta.num_outputs()} outputs, not as many"
        )
    if (meta.num_inputs() > 1) != (spec.stream is not None):
        raise ArtifactError("the encoder program and the manifest do not agree on whether it streams")
    tensors = (meta.input_tensor_meta(0), meta.output_tensor_meta(0))
    for side, tensor, shape in zip(("input", "output"), tensors, expected, strict=True):
        if tuple(tensor.sizes()) != shape or tensor.dtype() != _FLOAT32:
            raise ArtifactError(
                f"the encoder program's {side} is {tuple(tensor.sizes())}, the manifest says {shape} float32"
            )


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Redirect what native libraries write to the process's stderr to the debug log."""
    saved = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        try:
            os.dup2(sink.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            sink.seek(0)
            for line in sink.read().decode(errors="replace").splitlines():
                _log.debug("%s", line)
