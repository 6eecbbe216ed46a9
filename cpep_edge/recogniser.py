"""From a window to a vote: the encoder and the pose index of one bundle, opened together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_edge.bundle import Bundle
from cpep_edge.encoder import open_encoder
from cpep_edge.native_encoder import carried_library, native_sosfilt
from cpep_edge.pose_index import Vote, load_index
from cpep_edge.preprocess import Preprocessor


@dataclass(frozen=True, slots=True)
class Recognition:
    """What one window was taken for."""

    vote: Vote
    embedding: NDArray[np.float32]  # (d_embed,), unit length; of several queries (n_queries * d_embed,)


class Recogniser:
    """Everything of a bundle that turns preprocessed windows into votes. Threads may share it; they take turns."""

    def __init__(self, bundle: Bundle, n_threads: int = 1) -> None:
        """Raises ArtifactError when a file does not match the manifest or cannot be loaded."""
        manifest = bundle.manifest
        self.manifest = manifest
        program = bundle.read(manifest.encoder.file)
        library = carried_library(bundle)
        self.encoder = open_encoder(program, manifest.encoder, n_threads, library)
        self._sosfilt = None if library is None else native_sosfilt(library)
        self.index = load_index(
            bundle.read(manifest.index.file),
            manifest.index,
            n_gestures=len(manifest.gestures),
            d_embed=manifest.encoder.d_embed,
        )

    def preprocessor(self, level_uv: NDArray[np.float32] | None = None) -> Preprocessor:
        """A fresh filter for one stream; level_uv: (n_channels,), from the session's calibration."""
        n_channels = self.manifest.encoder.n_channels
        return Preprocessor(self.manifest.preprocessing, n_channels, level_uv, self._sosfilt)

    def recognise(self, window: NDArray[np.float32]) -> Recognition:
        """Vote on one window.

        window: (n_channels, window_samples) float32, preprocessed
        """
        embedding = self.encoder.embed(window)
        return Recognition(self.index.vote(embedding, self.manifest.decision.k), embedding)
