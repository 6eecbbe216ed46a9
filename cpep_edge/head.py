"""A head: classify windows by a discriminant that is fitted in seconds and can be adapted without labels.

It reads one vector per window: the mean of the front end's tokens, the encoder's embedding, or both. The method is
regularised discriminant analysis (Friedman 1989). A window has hundreds of features and a wearer records only seconds,
so it has two steps:

1. A linear map to few dimensions in which the covariance within gestures is the identity (a sphere). The dimensions are
   those that separate the gestures' means (Fisher's), and those in which the gestures' own covariances differ most.
2. In these dimensions, a Gaussian per gesture, whose covariance is between that sphere and the gesture's own.

On another arm or after another donning, the gestures' means are elsewhere. `Head.adapted` moves the means towards the
windows of an unlabelled calibration, by expectation-maximisation with the old means as prior. On real recordings this
regains part of the accuracy that a new donning or another arm costs.

Needs only numpy. Shapes: n windows, d features per window, r dimensions, K gestures.
"""

import io
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import ArtifactError
from cpep_edge.files import read_arrays

SHRINKAGE = 0.2  # of the covariance within gestures towards a sphere; .1 to .3 are equally accurate on 3DC
N_QUADRATIC = 20  # dimensions besides Fisher's K - 1; 0 loses .005 accuracy with four repetitions, 60 gains nothing
OWN_SHARE = 0.5  # weight of a gesture's own covariance against the sphere, before shrinkage
OWN_SHRINKAGE = 0.3  # of that mixture towards a sphere
ADAPT_TEMPERATURE = 4.0  # softens assignments while adapting, so that a mean can move past its neighbours
ADAPT_ROUNDS = 10
PRIOR_SHARE = (
    0.5  # weight of a gesture's old mean while adapting, as a share of the windows per gesture if all are equally long;
)
# on 3DC .3 to .6 are equally accurate, 1 loses .012; a smaller share loses more when gestures are missing
DRIFT_S = 10.0  # time constant, in clear windows, of following a drift; 30 s gains half as much
DRIFT_SHARE = 0.5  # a window is clear when its likeliest gesture has more than this softened share
MOST_DRIFT = 1.0  # largest offset: RMS over the dimensions, in standard deviations within a gesture
_MIN_WINDOWS = 2  # per gesture


@dataclass(frozen=True, slots=True)
class Head:
    """A linear map, followed by a Gaussian per gesture."""

    origin: NDArray[np.float32]  # (d,), subtracted before the map
    projection: NDArray[np.float32]  # (d, r)
    means: NDArray[np.float32]  # (K, r)
    factors: NDArray[np.float32]  # (K, r, r), upper triangular: |factor (z - mean)| is the Mahalanobis distance
    temperature: float = 1.0  # divides log-likelihoods, so that shares are calibrated probabilities

    @property
    def n_gestures(self) -> int:
        return len(self.means)

    def project(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map windows, (n, d), to the head's own dimensions, (n, r)."""
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
        """The same from the squared distances, (n, K)."""
        log_det = np.log(np.diagonal(self.factors, axis1=1, axis2=2)).sum(axis=1)
        likelihood: NDArray[np.float32] = log_det - distances / 2
        return likelihood

    def shares(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The share (calibrated probability) of each gesture in each window, rows summing to one, (n, K)."""
        logits = self.log_likelihood(self.project(windows)) / self.temperature
        shares: NDArray[np.float32] = _softmax(logits)
        return shares

    def typicality(self, projected: NDArray[np.float32]) -> NDArray[np.float32]:
        """How similar a window is to those that each gesture was fitted on, (n, K): 1 at the mean, 0 far away.

        A gesture's own windows have an expected squared distance of r, at which the typicality is exp(-1/2).
        """
        return self.typicality_at(self.distances(projected))

    def typicality_at(self, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same from the squared distances, (n, K)."""
        typical: NDArray[np.float32] = np.exp(-distances / (2 * self.means.shape[1]))
        return typical

    def adapted(self, windows: NDArray[np.float32], absent: int | None = None) -> "Head":
        """The head with its means moved towards the windows of an unlabelled calibration.

        Windows unlike any gesture count less, so that the mean of a gesture that the calibration does not contain
        hardly moves.

        windows: (n, d), of a wearer who made the gestures in any order
        absent: number of the gesture that is known not to be among them
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
        """The head without one gesture, given by its number."""
        return replace(
            self, means=np.delete(self.means, gesture, axis=0), factors=np.delete(self.factors, gesture, axis=0)
        )

    def with_gesture(self, windows: NDArray[np.float32]) -> "Head":
        """The head with one more gesture, fitted to windows of it, (n, d), in the present dimensions.

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
        """Mean log-likelihood of unlabelled windows, (n, d); the placement of a turned band is chosen by it."""
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
        """Read `head.npz`, never a pickle. Raises ArtifactError when an array is missing, misshapen or not finite."""
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
    """Follow slow changes of a wearer's gestures while the band is worn, by one limited offset of all means.

    On myo-longterm (22 motions, fitted on day 1, replayed on days 2 to 10), it raises the share of windows that are
    right from .682 to .706 for a head that was not calibrated on the day. For one that was, it lowers it from .742 to
    .739, so it is off by default.
    """

    def __init__(self, head: Head, hop_s: float, other: int | None = None) -> None:
        """hop_s: time between two windows; other: number of the other movements, which are not followed"""
        self._first, self._step, self._other = head, hop_s / DRIFT_S, other
        self.offset: NDArray[np.float32] = np.zeros(head.means.shape[1], np.float32)  # (r,), added to all means

    @property
    def head(self) -> Head:
        """The head with its means at the current offset."""
        return replace(self._first, means=self._first.means + self.offset)

    def follow(self, window: NDArray[np.float32]) -> None:
        """Move the offset towards one window, (d,), if it is clear which gesture it is."""
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
    Raises ValueError when there is only one gesture, or a number up to K - 1 occurs less than twice.
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
    sphere = vectors / np.sqrt(values)  # (d, d), whitens the covariance within gestures
    fisher = np.linalg.svd((means - means.mean(axis=0)) @ sphere, full_matrices=False)[2][: len(counts) - 1].T
    basis = np.concatenate([fisher, _quadratic(residual @ sphere, gesture_index, fisher, n_quadratic)], axis=1)
    projection = sphere @ basis
    within = residual @ projection
    factors = [_own_factor(within[gesture_index == k]) for k in range(len(counts))]
    return Head(  # in the memory order of arrays read from a file, so that sums agree to the last bit
        np.ascontiguousarray(origin, np.float32),
        np.ascontiguousarray(projection, np.float32),
        np.ascontiguousarray(means @ projection, np.float32),
        np.ascontiguousarray(factors, np.float32),
    )


def calibrate_temperature(log_likelihood: NDArray[np.float32], gesture_index: NDArray[np.int64]) -> float:
    """The temperature that maximises the likelihood of held-out windows (Guo et al. 2017).

    log_likelihood: (n, K), of windows that the head was not fitted on; gesture_index: (n,)
    """

    def loss(temperature: float) -> float:
        shares = _softmax(log_likelihood / temperature)
        return float(-np.log(np.maximum(shares[np.arange(len(shares)), gesture_index], 1e-12)).mean())

    candidates: list[float] = np.geomspace(0.5, 50, 41).tolist()
    return min(candidates, key=loss)


def _own_factor(within: NDArray[np.float64]) -> NDArray[np.float64]:
    """The factor that whitens a gesture's own covariance, (r, r), from its windows less their mean, (n, r)."""
    n, r = within.shape
    spread = _shrunk(OWN_SHARE * (within.T @ within / n) + (1 - OWN_SHARE) * np.eye(r), OWN_SHRINKAGE)
    return np.asarray(np.linalg.cholesky(np.linalg.inv(spread)).T, np.float64)


def _quadratic(
    residual: NDArray[np.float64], gesture_index: NDArray[np.int64], fisher: NDArray[np.float64], n_most: int
) -> NDArray[np.float64]:
    """Directions orthogonal to Fisher's in which the gestures' covariances differ most, (d, at most n_most)."""
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
    """A covariance of which a share is replaced by a sphere of the same power."""
    d = len(covariance)
    shrunk: NDArray[np.float64] = (1 - share) * covariance + (share * np.trace(covariance) / d + 1e-12) * np.eye(d)
    return shrunk


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = weight / weight.sum(axis=1, keepdims=True)
    return shares
