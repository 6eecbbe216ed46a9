"""From a window to a vote: the encoder, the pose index and the head of one bundle, opened together.

A bundle without an encoder answers by its head alone; the mean token stands where the embedding does.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cpep_edge.bundle import Bundle
from cpep_edge.donning import Donning
from cpep_edge.encoder import EmgEncoder, open_encoder
from cpep_edge.errors import ArtifactError
from cpep_edge.head import Head
from cpep_edge.input_stream import InputStream, Kernels
from cpep_edge.manifest import HeadSpec
from cpep_edge.native_encoder import carried_library, native_kernels
from cpep_edge.pose_index import PoseIndex, Vote, load_index
from cpep_edge.trial import require_tried


@dataclass(frozen=True, slots=True)
class Recognition:
    """The result for one window."""

    vote: Vote
    embedding: NDArray[np.float32]  # (d_embed,), unit length


class Recogniser:
    """Everything of a bundle that turns raw signal into votes. Threads may share it; their windows take turns."""

    def __init__(self, bundle: Bundle, n_threads: int = 1) -> None:
        """Raises ArtifactError when a file does not match the manifest, cannot be loaded, or may not run here."""
        manifest = bundle.manifest
        self.manifest = manifest
        library = carried_library(bundle)
        if manifest.encoder is None:
            self.encoder: EmgEncoder = MeanToken()
        else:
            program = bundle.read(manifest.encoder.file)
            if not bundle.is_signed:
                require_tried(bundle)
            self.encoder = open_encoder(program, manifest.encoder, n_threads, library)
        self._kernels = Kernels() if library is None else native_kernels(library)
        self.index: PoseIndex | None = None
        if manifest.index is not None:
            self.index = load_index(
                bundle.read(manifest.index.file),
                manifest.index,
                n_gestures=len(manifest.gestures),
                d_embed=manifest.d_embed,
                gesture_penalty=manifest.index.penalties(manifest.gestures),
            )
        self.head = None if manifest.head is None else _load_head(bundle, manifest.head)

    def on_arm(self, donning: Donning) -> Head | None:
        """The head as it is for one donning: with the means that a calibration found.

        Raises ValueError when these are not of this head.
        """
        if self.head is None or donning.head_means is None:
            return self.head
        if donning.head_means.shape != self.head.means.shape:
            raise ValueError(f"means of shape {donning.head_means.shape} are not those of this bundle's head")
        return replace(self.head, means=donning.head_means)

    def stream(self, donning: Donning | None = None) -> InputStream:
        """A fresh way from one stream's raw samples to the encoder's input.

        donning: None takes the band to sit as usual
        """
        manifest = self.manifest
        worn = (donning or manifest.usual_donning).lacking(manifest.masked_channels)
        return InputStream(manifest.preprocessing, manifest.front_end, manifest.n_channels, worn, self._kernels)

    def last_window(self, samples_uv: NDArray[np.float32], donning: Donning | None = None) -> NDArray[np.float32]:
        """The encoder's input for the window that ends with some signal, `manifest.input_shape`.

        samples_uv: (n, n_channels), raw; a window or more
        """
        return self.stream(donning).last_window(samples_uv, self.manifest.input_shape[1])

    def index_for(self, purpose: str) -> PoseIndex:
        """The pose index; raises ConfigError, naming what it is wanted for, where the bundle has none."""
        self.manifest.index_for(purpose)
        assert self.index is not None
        return self.index

    def recognise(self, window: NDArray[np.float32], head: Head | None = None) -> Recognition:
        """Vote on one window.

        window: `manifest.input_shape` float32, as `stream` and `last_window` give it
        head: adapted to the wearer, by `on_arm`; None: the bundle's own
        """
        embedding = self.encoder.embed(window)
        return Recognition(self.vote(window, embedding, head), embedding)

    def vote(self, window: NDArray[np.float32], embedding: NDArray[np.float32], head: Head | None = None) -> Vote:
        """The answer to a window that was embedded; arguments as those of `recognise`."""
        manifest = self.manifest
        n_gestures, k = len(manifest.gestures), manifest.decision.k
        return answer(window, embedding, self.index, k, manifest.head, head or self.head, n_gestures)


def answer(
    window: NDArray[np.float32],
    embedding: NDArray[np.float32],
    index: PoseIndex | None,
    k: int,
    spec: HeadSpec | None,
    head: Head | None,
    n_gestures: int,
) -> Vote:
    """The head's answer to a window, or the index's where there is no head that answers.

    A gesture that only the index has, one enrolled by its pose, answers where the index says so and the window is like
    none of the head's gestures: a gate by novelty, as in Socher et al. 2013.

    window: the encoder's input; embedding: its output
    n_gestures: of the bundle
    """
    if spec is None or head is None or not spec.answers:
        if index is None:
            raise ValueError("there is neither an index nor a head that answers")
        return index.vote(embedding, k)
    distances = head.distances(head.project(head_input(spec, window, embedding)[None]))
    logits = head.likelihood_at(distances)[0] / head.temperature
    best = int(np.argmax(logits))
    typicality = float(head.typicality_at(distances)[0, best])
    if index is not None and len(spec.gestures) < n_gestures and typicality < spec.min_typicality:
        vote = index.vote(embedding, k)
        if vote.gesture_index not in spec.gestures:
            return vote
    weight, shares = np.exp(logits - logits[best]), np.zeros(n_gestures)
    shares[list(spec.gestures)] = weight / weight.sum()
    return Vote(spec.gestures[best], float(shares[spec.gestures[best]]), typicality, tuple(shares.tolist()))


def head_input(spec: HeadSpec, window: NDArray[np.float32], embedding: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a head reads of one window, (d,): the mean of its tokens, its embedding, or both."""
    if spec.reads == "embedding":
        return embedding
    mean: NDArray[np.float32] = window.mean(axis=1)
    return mean if spec.reads == "tokens" else np.concatenate([mean, embedding])


class MeanToken:
    """What stands in an encoder's place where there is none: the mean token, at unit length."""

    def embed(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        mean: NDArray[np.float32] = window.mean(axis=1)
        return mean / max(np.float32(np.linalg.norm(mean)), np.float32(1e-12))


def _load_head(bundle: Bundle, spec: HeadSpec) -> Head:
    manifest, head = bundle.manifest, Head.from_bytes(bundle.read(spec.file))
    n_features, d_embed = manifest.input_shape[0], manifest.d_embed
    d = {"tokens": n_features, "embedding": d_embed, "both": n_features + d_embed}[spec.reads]
    if len(head.origin) != d or head.n_gestures != len(spec.gestures):
        raise ArtifactError(
            f"{bundle.path}: the head reads {len(head.origin)} numbers for {head.n_gestures} gestures, the manifest "
            f"says {d} for {len(spec.gestures)}"
        )
    return head
