"""Golden inputs: stretches of signal with their expected answers, made at export and checked on the target.

Each stretch runs through the same steps as live signal: filter from its initial state, last window, encoder, index,
vote.
"""

import io
import json
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_edge.bundle import Bundle
from cpep_edge.encoder import open_encoder
from cpep_edge.errors import ArtifactError, CpepError
from cpep_edge.files import as_float32, read_arrays
from cpep_edge.native_encoder import carried_library
from cpep_edge.recogniser import Recogniser
from cpep_edge.trial import MEMORY_BYTES, limit_to, try_programs

_CPU_S = 100  # CPU time limit of the child process that tries a bundle
COSINE_TOLERANCE = 1e-3  # x86 and Arm differ by 5e-5 in int8; a wrong filter or program differs by far more


@dataclass(frozen=True, slots=True)
class Golden:
    """Stretches of raw signal and their expected outputs."""

    signal_uv: NDArray[np.float32]  # (n_stretches, n_samples, n_channels)
    embedding: NDArray[np.float32]  # (n_stretches, d_embed), unit length
    gesture_index: NDArray[np.int32]  # (n_stretches,), the vote

    def to_bytes(self) -> bytes:
        """The content of `golden.npz`; the signal, most of the file, is in half precision if that is exact."""
        file = io.BytesIO()
        with np.errstate(over="ignore"):
            half = self.signal_uv.astype(np.float16)
        signal_uv = half if np.array_equal(half.astype(np.float32), self.signal_uv) else self.signal_uv
        np.savez_compressed(file, signal_uv=signal_uv, embedding=self.embedding, gesture_index=self.gesture_index)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Golden":
        """Read `golden.npz`, never a pickle. Raises ArtifactError when an array is missing or has another shape."""
        try:
            arrays = read_arrays(content, {"signal_uv": 3, "embedding": 2, "gesture_index": 1})
            signal_uv = as_float32(arrays["signal_uv"], "signal_uv")
            embedding, gesture_index = as_float32(arrays["embedding"], "embedding"), arrays["gesture_index"]
        except ValueError as error:
            raise ArtifactError(f"the golden inputs cannot be read: {error}") from error
        if not len(signal_uv) == len(embedding) == len(gesture_index):
            raise ArtifactError("the golden inputs and outputs differ in number")
        if gesture_index.dtype != np.int32:
            raise ArtifactError("the golden outputs are not of the types that export writes")
        return cls(signal_uv, embedding, gesture_index.astype(np.int32))


def check_golden(bundle: Bundle, recogniser: Recogniser) -> float:
    """Run the golden inputs of a bundle through its recogniser; returns the smallest cosine to the stored embeddings.

    Raises ArtifactError at the first stretch whose embedding or vote is wrong.
    """
    golden = Golden.from_bytes(bundle.read(bundle.manifest.golden_file))
    window_samples, n_channels = bundle.manifest.window_samples, bundle.manifest.n_channels
    if golden.signal_uv.shape[1] < window_samples or golden.signal_uv.shape[2] != n_channels:
        raise ArtifactError(f"{bundle.path}: the golden inputs are too short or have the wrong number of channels")
    if golden.embedding.shape[1] != bundle.manifest.d_embed:
        raise ArtifactError(f"{bundle.path}: the golden embeddings have {golden.embedding.shape[1]} numbers")
    smallest = 1.0
    for number, stretch in enumerate(golden.signal_uv):
        with np.errstate(all="ignore"):  # forged numbers may overflow; the answer is then found to be wrong
            try:
                got = recogniser.recognise(recogniser.last_window(stretch))
            except np.linalg.LinAlgError as error:  # the filter is unstable
                raise ArtifactError(f"{bundle.path}: golden input {number} gives no number: {error}") from error
            cosine = float(got.embedding @ golden.embedding[number])
        if not cosine >= 1 - COSINE_TOLERANCE:
            raise ArtifactError(f"{bundle.path}: golden input {number} gives another embedding (cosine {cosine:.4f})")
        if got.vote.gesture_index != golden.gesture_index[number]:
            raise ArtifactError(f"{bundle.path}: golden input {number} gives another gesture")
        smallest = min(smallest, cosine)
    return smallest


def try_golden(bundle: Bundle) -> float:
    """Run the golden inputs of a bundle safely; returns the smallest cosine, as `check_golden`.

    Programs run in a child process. A bundle without programs, because a wearer taught it, runs in this process.
    """
    if bundle.manifest.encoder is None and bundle.manifest.native is None:
        return check_golden(bundle, Recogniser(bundle))
    return try_programs(bundle)


def _run_golden(path: Path, manifest_sha256: str) -> dict[str, object]:
    try:
        bundle = Bundle(path, manifest_sha256=manifest_sha256)
        smallest_cosine = check_golden(bundle, Recogniser(bundle))
        pose = bundle.manifest.pose
        if pose is not None:
            program, spec = bundle.read(pose.encoder.file), pose.encoder
            encoder = open_encoder(program, spec, library=carried_library(bundle))
            encoder.embed(np.zeros((spec.n_channels, spec.run_samples), np.float32))
    except CpepError as error:
        return {"error": str(error)}
    return {"smallest_cosine": smallest_cosine}


if __name__ == "__main__":
    limit_to(resource.RLIMIT_CPU, _CPU_S)
    limit_to(resource.RLIMIT_AS, MEMORY_BYTES)
    sys.stdout.write("\n" + json.dumps(_run_golden(Path(sys.argv[1]), sys.argv[2])) + "\n")
    sys.stdout.flush()
    os._exit(0)  # skip the clean-up: a program that corrupted memory may crash there, after all answers are written
