"""From a window to a vote: the encoder, the pose index and the head of one bundle, opened together.

In a bundle without an encoder the head alone votes, and the mean token takes the place of the embedding.
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
    """All parts of a bundle that turn raw signal into votes. Threads may share it; one window is embedded at a time."""

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
        """The head for one donning, with the means that its calibration found.

        Raises ValueError when the means do not fit this head.
        """
        if self.head is None or donning.head_means is None:
            return self.head
        if donning.head_means.shape != self.head.means.shape:
            raise ValueError(f"means of shape {donning.head_means.shape} are not those of this bundle's head")
        return replace(self.head, means=donning.head_means)

    def stream(self, donning: Donning | None = None) -> InputStream:
        """A new converter of one stream's raw samples to the encoder's input.

        donning: None assumes the bundle's usual donning
        """
        manifest = self.manifest
        worn = (donning or manifest.usual_donning).lacking(manifest.masked_channels)
        return InputStream(manifest.preprocessing, manifest.front_end, manifest.n_channels, worn, self._kernels)

    def last_window(self, samples_uv: NDArray[np.float32], donning: Donning | None = None) -> NDArray[np.float32]:
        """The encoder's input for the last window of a signal, of shape `manifest.input_shape`.

        samples_uv: (n, n_channels), raw; at least one window
        """
        return self.stream(donning).last_window(samples_uv, self.manifest.input_shape[1])

    def index_for(self, purpose: str) -> PoseIndex:
        """The pose index. Raises ConfigError, which names the purpose, when the bundle has none."""
        self.manifest.index_for(purpose)
        assert self.index is not None
        return self.index

    def recognise(self, window: NDArray[np.float32], head: Head | None = None) -> Recognition:
        """Vote on one window.

        window: `manifest.input_shape` float32, as `stream` and `last_window` return it
        head: one adapted to the wearer, from `on_arm`; None: the bundle's own
        """
        embedding = self.encoder.embed(window)
        return Recognition(self.vote(window, embedding, head), embedding)

    def vote(self, window: NDArray[np.float32], embedding: NDArray[np.float32], head: Head | None = None) -> Vote:
        """Vote on a window that is already embedded; the arguments are those of `recognise`."""
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
    """The head's vote on a window, or the index' vote if no head is to answer.

    A gesture that was enrolled by its pose is in the index only. It wins when the index votes for it and the window is
    unlike all of the head's gestures: a novelty gate, as in Socher et al. 2013.

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
    """The head's input for one window, (d,): the mean of its tokens, its embedding, or both."""
    if spec.reads == "embedding":
        return embedding
    mean: NDArray[np.float32] = window.mean(axis=1)
    return mean if spec.reads == "tokens" else np.concatenate([mean, embedding])


class MeanToken:
    """Takes the place of a missing encoder: its embedding is the mean token, scaled to unit length."""

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
