"""How a band sits on an arm: turned by so many electrodes, and which way round.

A ring of electrodes can be worn turned, and on the other arm it is mirrored; people who differ in nothing else then
share no channel. A short calibration without labels is enough to find out: of all placements, take the one under which
its log levels are likeliest in a Gaussian mixture, one component a gesture, of people whose placement is known. Those
people are brought to a common frame first, by the mean levels of their gestures.

Shapes: C electrodes, K gestures, n windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

_ROUNDS = 5  # of the common frame; it settles in two or three
_RIDGE = 1e-2  # of the covariance, in units of its mean variance


@dataclass(frozen=True, slots=True)
class Placement:
    """Where electrode 0 of the common frame is on this band, and in which direction the others follow."""

    turn: int = 0
    mirrored: bool = False

    def order(self, n_electrodes: int) -> NDArray[np.intp]:
        """The electrodes of this band in the order of the common frame: `emg[:, order]`."""
        direction = -1 if self.mirrored else 1
        order: NDArray[np.intp] = (self.turn + direction * np.arange(n_electrodes)) % n_electrodes
        return order


def placements(n_electrodes: int) -> tuple[Placement, ...]:
    """Every way to wear a ring of electrodes."""
    return tuple(Placement(turn, mirrored) for mirrored in (False, True) for turn in range(n_electrodes))


def common_frame(mean_levels: NDArray[np.float64]) -> list[Placement]:
    """Bring people to a common frame, that of the first, by the mean levels of their gestures.

    mean_levels: (n_people, K, C), log
    """
    n_people, _, n_electrodes = mean_levels.shape
    found = [Placement()] * n_people
    for _ in range(_ROUNDS):
        for person in range(1, n_people):
            placed = [m[:, f.order(n_electrodes)] for m, f in zip(mean_levels, found, strict=True)]
            others = (np.sum(placed, axis=0) - placed[person]) / (n_people - 1)
            distance = [
                np.sum((mean_levels[person][:, p.order(n_electrodes)] - others) ** 2) for p in placements(n_electrodes)
            ]
            found[person] = placements(n_electrodes)[int(np.argmin(distance))]
    return found


@dataclass(frozen=True, slots=True)
class PlacementModel:
    """A Gaussian a gesture, with one covariance, over log levels in the common frame."""

    means: NDArray[np.float64]  # (K, C)
    precision: NDArray[np.float64]  # (C, C)

    @classmethod
    def fit(cls, levels: NDArray[np.float64], gesture: NDArray[np.int64]) -> "PlacementModel":
        """levels: (n, C), log, in the common frame; gesture: (n,)"""
        present = np.unique(gesture)
        means = np.stack([levels[gesture == one].mean(axis=0) for one in present])
        residual = levels - means[np.searchsorted(present, gesture)]
        covariance = residual.T @ residual / len(residual)
        ridge = _RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        return cls(means, np.linalg.inv(covariance + ridge))

    def likelihood(self, levels: NDArray[np.float64]) -> float:
        """Mean log likelihood of windows, up to a constant; levels: (n, C), log, in the common frame."""
        offset = levels[:, None, :] - self.means  # (n, K, C)
        distance = np.einsum("nkc,cd,nkd->nk", offset, self.precision, offset)
        return float(np.mean(logsumexp(-distance / 2, axis=1)))

    def find(self, levels: NDArray[np.float64], candidates: Sequence[Placement] | None = None) -> Placement:
        """The likeliest placement of a band; levels: (n, C), log, unlabelled, in the band's own order."""
        n_electrodes = levels.shape[1]
        candidates = candidates or placements(n_electrodes)
        return max(candidates, key=lambda p: self.likelihood(levels[:, p.order(n_electrodes)]))
