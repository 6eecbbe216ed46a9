"""A head: which of some gestures a window is, by a discriminant fitted in seconds and adapted without labels.

It reads a vector a window: the mean of the front end's tokens, the encoder's embedding, or both. Regularised
discriminant analysis (Friedman 1989) in two steps, because a window has hundreds of numbers and a wearer has seconds:

1. A linear map to few dimensions in which the spread within a gesture is a sphere: those that tell the gestures' means
   apart (Fisher's), and those in which the gestures' own spreads differ most.
2. In these a Gaussian a gesture, its covariance between that sphere and its own.

On another arm or after another donning the same gestures lie elsewhere. `Head.adapted` moves each Gaussian's mean to
where an unlabelled calibration has windows, by expectation and maximisation with the old mean as prior; on real
recordings this wins back part of what a new donning or another arm costs.

numpy only. Shapes: n windows, d numbers a window, r dimensions, K gestures.
"""

import io
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import ArtifactError
from cpep_edge.files import read_arrays

SHRINKAGE = 0.2  # of the covariance within gestures towards a sphere; .1 to .3 read alike on 3DC
N_QUADRATIC = 20  # dimensions beside Fisher's K - 1; 0 read .005 less with four repetitions, 60 no more
OWN_SHARE = 0.5  # of a gesture's own covariance, before it is shrunk
OWN_SHRINKAGE = 0.3  # of that towards a sphere
ADAPT_TEMPERATURE = 4.0  # by which distances are softened while adapting: a mean finds its way past its neighbours
ADAPT_ROUNDS = 10
PRIOR_SHARE = (
    0.5  # of the windows that a gesture has where all last as long, that its old mean counts for while adapting:
)
# on 3DC .3 to .6 read alike, 1 reads .012 less; a smaller share loses more where gestures are missing
DRIFT_S = 10.0  # of clear windows in which a drift is followed; 30 s won half as much
DRIFT_SHARE = 0.5  # of a window, softened, that its gesture has at the least to be clear
MOST_DRIFT = 1.0  # root mean square over the dimensions, in spreads within a gesture
_MIN_WINDOWS = 2  # of a gesture


@dataclass(frozen=True, slots=True)
class Head:
    """A Gaussian a gesture, behind a linear map."""

    origin: NDArray[np.float32]  # (d,), subtracted before the map
    projection: NDArray[np.float32]  # (d, r)
    means: NDArray[np.float32]  # (K, r)
    factors: NDArray[np.float32]  # (K, r, r), upper triangular: |factor (z - mean)| is the Mahalanobis distance
    temperature: float = 1.0  # divides log likelihoods, so that their shares are as often right as they say

    @property
    def n_gestures(self) -> int:
        return len(self.means)

    def project(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Windows, (n, d), to the head's own dimensions, (n, r)."""
        projected: NDArray[np.float32] = (windows - self.origin) @ self.projection
        return projected

    def distances(self, projected: NDArray[np.float32]) -> NDArray[np.float32]:
        """Squared Mahalanobis distance of each window to each gesture, (n, K)."""
        whitened = self.factors @ (projected.T[None] - self.means[:, :, None])  # (K, r, n)
        squared: NDArray[np.float32] = np.square(whitened).sum(axis=1).T
        return squared

    def log_likelihood(self, projected: NDArray[np.float32]) -> NDArray[np.float32]:
        """The log-likelihood of each window under each gesture, up to a constant, (n, K)."""
        return self.likelihood_at(self.distances(projected))

    def likelihood_at(self, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        """The log likelihood of windows at these distances, (n, K)."""
        log_det = np.log(np.diagonal(self.factors, axis1=1, axis2=2)).sum(axis=1)
        likelihood: NDArray[np.float32] = log_det - distances / 2
        return likelihood

    def shares(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """How much each gesture has of each window, rows summing to one, (n, K)."""
        logits = self.log_likelihood(self.project(windows)) / self.temperature
        shares: NDArray[np.float32] = _softmax(logits)
        return shares

    def typicality(self, projected: NDArray[np.float32]) -> NDArray[np.float32]:
        """How like a window is to what each gesture was fitted on, (n, K): 1 at its mean, 0 far away.

        The expected squared distance of a gesture's own windows is r, where it is exp(-1/2).
        """
        return self.typicality_at(self.distances(projected))

    def typicality_at(self, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        """How typical windows at these distances are, (n, K)."""
        typical: NDArray[np.float32] = np.exp(-distances / (2 * self.means.shape[1]))
        return typical

    def adapted(self, windows: NDArray[np.float32], absent: int | None = None) -> "Head":
        """The head with its means moved to where an unlabelled calibration has windows.

        Windows that are like no gesture count less, so that a gesture which the calibration does not hold stays about
        where it was.

        windows: (n, d), of a wearer who made the gestures in any order
        absent: the one that is known not to be among them
        """
        if len(windows) == 0:
            return self
        if absent is not None:
            there = self.without(absent).adapted(windows).means
            return replace(self, means=np.insert(there, absent, self.means[absent], axis=0))
        projected, n_prior = self.project(windows), PRIOR_SHARE * len(windows) / self.n_gestures
        head, start = self, self.means
        for _ in range(ADAPT_ROUNDS):
            shares = _softmax(head.log_likelihood(projected) / ADAPT_TEMPERATURE)  # (n, K)
            shares = shares * np.minimum(1, head.typicality(projected) / np.float32(np.exp(-0.5)))
            weight = shares.sum(axis=0)[:, None]
            means = (shares.T @ projected + n_prior * start) / (weight + n_prior)
            head = replace(head, means=means.astype(np.float32))
        return head

    def without(self, gesture: int) -> "Head":
        """The head with one gesture forgotten, by its number."""
        return replace(
            self, means=np.delete(self.means, gesture, axis=0), factors=np.delete(self.factors, gesture, axis=0)
        )

    def with_gesture(self, windows: NDArray[np.float32]) -> "Head":
        """The head with a further gesture, from windows of it, (n, d), told apart in the dimensions that are there.

        Raises ValueError for fewer than two windows.
        """
        if len(windows) < _MIN_WINDOWS:
            raise ValueError("a gesture takes two windows at least")
        projected = self.project(windows).astype(np.float64)
        mean = projected.mean(axis=0)
        factor = _own_factor(projected - mean).astype(np.float32)
        return replace(
            self,
            means=np.concatenate([self.means, mean[None].astype(np.float32)]),
            factors=np.concatenate([self.factors, factor[None]]),
        )

    def fit_of(self, windows: NDArray[np.float32]) -> float:
        """Mean log likelihood of unlabelled windows, (n, d): by this a turned band finds its place."""
        likelihood = self.log_likelihood(self.project(windows)) / ADAPT_TEMPERATURE
        most = likelihood.max(axis=1)
        return float(np.mean(most + np.log(np.exp(likelihood - most[:, None]).sum(axis=1))))

    def to_bytes(self) -> bytes:
        """The content of `head.npz`."""
        file = io.BytesIO()
        np.savez_compressed(
            file,
            origin=self.origin,
            projection=self.projection,
            means=self.means,
            factors=self.factors,
            temperature=np.array([self.temperature], np.float32),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Head":
        """Read `head.npz`, never a pickle. Raises ArtifactError when an array is missing, misshapen or no number."""
        try:
            read = read_arrays(content, {"origin": 1, "projection": 2, "means": 2, "factors": 3, "temperature": 1})
        except ValueError as error:
            raise ArtifactError(f"the head cannot be read: {error}") from error
        arrays: dict[str, NDArray[np.float32]] = {}
        for name, array in read.items():
            if array.dtype != np.float32 or not np.isfinite(array.astype(np.float32)).all():
                raise ArtifactError(f"the head's {name} holds what is not a finite float32")
            arrays[name] = array.astype(np.float32)
        means, temperature = arrays["means"], arrays["temperature"]
        (k, r), d = means.shape if means.ndim == 2 else (0, 0), arrays["origin"].size
        expected = {"origin": (d,), "projection": (d, r), "means": (k, r), "factors": (k, r, r), "temperature": (1,)}
        if min(k, r, d) == 0 or any(arrays[name].shape != shape for name, shape in expected.items()):
            raise ArtifactError("the head's arrays do not fit together")
        if temperature[0] <= 0 or (np.diagonal(arrays["factors"], axis1=1, axis2=2) <= 0).any():
            raise ArtifactError("the head's temperature or spreads are not above zero")
        return cls(arrays["origin"], arrays["projection"], means, arrays["factors"], float(temperature[0]))


class Drift:
    """Where a wearer's gestures go while a band is worn: one offset of all means, followed slowly and not far.

    On myo-longterm, fitted on day 1 and played on days 2 to 10, 22 motions, it takes a head that was not calibrated on
    the day from .682 to .706 of the windows, and one that was from .742 to .739: so it is off unless asked for.
    """

    def __init__(self, head: Head, hop_s: float, other: int | None = None) -> None:
        """hop_s: between the windows that are followed; other: movements that are no gesture, and are not followed"""
        self._first, self._step, self._other = head, hop_s / DRIFT_S, other
        self.offset: NDArray[np.float32] = np.zeros(head.means.shape[1], np.float32)  # (r,), of all means

    @property
    def head(self) -> Head:
        """The head as it is now."""
        return replace(self._first, means=self._first.means + self.offset)

    def follow(self, window: NDArray[np.float32]) -> None:
        """Move towards one window, (d,), where it is clear which gesture it is."""
        projected, head = self._first.project(window[None]), self.head
        shares = _softmax(head.log_likelihood(projected) / ADAPT_TEMPERATURE)[0]
        gesture = int(np.argmax(shares))
        if shares[gesture] <= DRIFT_SHARE or gesture == self._other:
            return
        self.offset = self.offset + np.float32(self._step) * (projected[0] - head.means[gesture])
        size = float(np.sqrt(np.mean(np.square(self.offset))))
        self.offset = self.offset * np.float32(min(1.0, MOST_DRIFT / max(size, 1e-9)))


def fit_head(
    windows: NDArray[np.float32],
    gesture_index: NDArray[np.int64],
    *,
    n_quadratic: int = N_QUADRATIC,
    shrinkage: float = SHRINKAGE,
) -> Head:
    """Fit a head to labelled windows.

    windows: (n, d); gesture_index: (n,), 0 to K - 1, each at least twice
    Raises ValueError when a number is missing among the gestures or occurs once.
    """
    counts = np.bincount(gesture_index)
    if len(counts) < 2 or counts.min() < _MIN_WINDOWS:
        raise ValueError("a head takes two gestures or more, and two windows of each at least")
    x = windows.astype(np.float64)
    origin = x.mean(axis=0)
    x -= origin
    means = np.stack([x[gesture_index == k].mean(axis=0) for k in range(len(counts))])
    residual = x - means[gesture_index]
    values, vectors = np.linalg.eigh(_shrunk(residual.T @ residual / len(x), shrinkage))
    sphere = vectors / np.sqrt(values)  # (d, d), whitens what varies within gestures
    fisher = np.linalg.svd((means - means.mean(axis=0)) @ sphere, full_matrices=False)[2][: len(counts) - 1].T
    basis = np.concatenate([fisher, _quadratic(residual @ sphere, gesture_index, fisher, n_quadratic)], axis=1)
    projection = sphere @ basis
    within = residual @ projection
    factors = [_own_factor(within[gesture_index == k]) for k in range(len(counts))]
    return Head(  # in the order that a file gives back, so that sums are the same to the last bit
        np.ascontiguousarray(origin, np.float32),
        np.ascontiguousarray(projection, np.float32),
        np.ascontiguousarray(means @ projection, np.float32),
        np.ascontiguousarray(factors, np.float32),
    )


def calibrate_temperature(log_likelihood: NDArray[np.float32], gesture_index: NDArray[np.int64]) -> float:
    """The temperature under which held-out windows are likeliest (Guo et al. 2017).

    log_likelihood: (n, K), of windows that the head was not fitted on; gesture_index: (n,)
    """

    def loss(temperature: float) -> float:
        shares = _softmax(log_likelihood / temperature)
        return float(-np.log(np.maximum(shares[np.arange(len(shares)), gesture_index], 1e-12)).mean())

    candidates: list[float] = np.geomspace(0.5, 50, 41).tolist()
    return min(candidates, key=loss)


def _own_factor(within: NDArray[np.float64]) -> NDArray[np.float64]:
    """What whitens a gesture's own spread, (r, r), from its windows about their mean, (n, r)."""
    n, r = within.shape
    spread = _shrunk(OWN_SHARE * (within.T @ within / n) + (1 - OWN_SHARE) * np.eye(r), OWN_SHRINKAGE)
    return np.asarray(np.linalg.cholesky(np.linalg.inv(spread)).T, np.float64)


def _quadratic(
    residual: NDArray[np.float64], gesture_index: NDArray[np.int64], fisher: NDArray[np.float64], n_most: int
) -> NDArray[np.float64]:
    """Directions across Fisher's in which gestures spread most unlike each other, (d, at most n_most)."""
    n_left = residual.shape[1] - fisher.shape[1]
    if min(n_most, n_left) <= 0:
        return np.empty((residual.shape[1], 0))
    across = residual - (residual @ fisher) @ fisher.T
    own = [across[gesture_index == k] for k in range(gesture_index.max() + 1)]
    covariances = np.stack([x.T @ x / len(x) for x in own])
    unlike = covariances - covariances.mean(axis=0)
    vectors = np.linalg.eigh(np.einsum("kij,kjl->il", unlike, unlike))[1]
    vectors -= fisher @ (fisher.T @ vectors)
    most_unlike = vectors[:, ::-1][:, : min(n_most, n_left)]
    return np.asarray(np.linalg.qr(most_unlike)[0], np.float64)


def _shrunk(covariance: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """A covariance, some of it replaced by a sphere of the same power."""
    d = len(covariance)
    shrunk: NDArray[np.float64] = (1 - share) * covariance + (share * np.trace(covariance) / d + 1e-12) * np.eye(d)
    return shrunk


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = weight / weight.sum(axis=1, keepdims=True)
    return shares
