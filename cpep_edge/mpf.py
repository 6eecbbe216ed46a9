"""Multivariate power frequency (MPF): the covariances of the electrodes in several frequency bands.

An electrode's level says how hard the muscle under it works. The covariance of two electrodes says how far they record
the same fibres, and it tells hand movements apart better: on real EMG a linear discriminant makes half as many errors
on covariances as on levels. So the signal is split into bands. At every hop, the covariance of all electrodes over the
last span is computed in each band, and the matrix logarithms of these covariances form a token. A token holds the upper
triangles, with off-diagonals times the square root of two, so that Euclidean distances are those of the log-Euclidean
metric (Arsigny et al. 2006). The front end of Kaifosh et al., Nature 2025, does the same with cross-spectral densities.

The wearer's arm and the donning add an offset to every token. Recentring removes it: it subtracts the mean token of a
calibration. Wearing the ring of electrodes turned or mirrored permutes the features of a token (`permutation`).

The front end is causal and incremental: products are summed block by block, one block per hop, so a token costs one
eigen-decomposition per band, however long the window is. `export/mcu/engine/mpf.c`, which the C library and the
microcontroller's engine share, computes the same numbers.

Shapes: n samples, C electrodes, B bands, m tokens, F = B C (C + 1) / 2 numbers a token.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from cpep_edge.errors import DataError
from cpep_edge.manifest_part import Part
from cpep_edge.preprocess import scipy_sosfilt

NYQUIST_SHARE = 0.45  # share of the sample rate at which the highest band ends: amplifiers roll off there
_BAND_ORDER = 2  # of each Butterworth filter; order 4 lost .001 accuracy on 3DC
_TOP_HZ = 450.0  # surface EMG has almost no power above
_LOW_RATE_HZ = 500.0  # three bands below this sample rate, four from here on
_EDGE_POWER = 1.25  # above 1, so that higher bands are wider
FLOOR = 1e-6  # added to every eigenvalue, in squared units of the scale, so that silence has a finite logarithm

Section = tuple[float, float, float, float, float, float]


class Band(Part):
    """One pass band of the front end."""

    low_hz: float = Field(gt=0)
    high_hz: float = Field(gt=0)
    sos: tuple[Section, ...] = Field(min_length=1, max_length=8)  # second-order sections, a0 = 1


class MpfSpec(Part):
    """Everything that decides how scaled samples become tokens; stored in checkpoints and bundles."""

    n_electrodes: int = Field(ge=2, le=64)
    bands: tuple[Band, ...] = Field(min_length=1, max_length=16)
    hop_samples: int = Field(gt=0, le=1 << 16)  # from one token to the next
    span_samples: int = Field(gt=0, le=1 << 20)  # covered by a token's covariances, a whole number of hops
    shrinkage: Annotated[float, Field(gt=0, lt=1)]  # this share of a covariance's mean power is added to its diagonal
    centre: tuple[float, ...] = ()  # (F,), the mean token of training people, for a wearer who did not calibrate

    @model_validator(mode="after")
    def _fits_together(self) -> "MpfSpec":
        if self.span_samples % self.hop_samples:
            raise ValueError("a token's span is not a whole number of hops")
        if len(self.centre) not in (0, self.n_features):
            raise ValueError(f"centre has {len(self.centre)} numbers, a token {self.n_features}")
        if any(section[3] != 1 for band in self.bands for section in band.sos):
            raise ValueError("a band has a section whose a0 is not 1")
        return self

    @property
    def n_features(self) -> int:
        """Length of a token, F."""
        return len(self.bands) * self.n_electrodes * (self.n_electrodes + 1) // 2

    def n_tokens(self, n_samples: int) -> int:
        """Tokens whose whole span lies within so many samples, of which the first is the first of a hop."""
        return max(0, (n_samples - self.span_samples) // self.hop_samples + 1)


def band_edges_hz(sample_rate_hz: float, low_hz: float) -> tuple[float, ...]:
    """Edges of suitable bands for a sample rate: three bands below 500 Hz, else four; higher bands are wider.

    low_hz: lower edge of the first band, usually the corner of the high-pass
    Raises ValueError when there is no room for bands between it and 0.45 of the sample rate.
    """
    top_hz = min(NYQUIST_SHARE * sample_rate_hz, _TOP_HZ)
    if not 0 < low_hz < 0.75 * top_hz:
        raise ValueError(f"no bands fit between {low_hz:g} Hz and {top_hz:g} Hz, {NYQUIST_SHARE:g} of the sample rate")
    n = 3 if sample_rate_hz < _LOW_RATE_HZ else 4
    edges = low_hz + (top_hz - low_hz) * (np.arange(n + 1) / n) ** _EDGE_POWER
    return tuple(float(edge) for edge in np.round(edges, 1))


def design_bands(sample_rate_hz: float, edges_hz: Sequence[float]) -> tuple[Band, ...]:
    """A Butterworth band-pass between each two neighbouring edges.

    Raises ValueError when edges do not rise or one lies beyond 0.45 of the sample rate.
    """
    from scipy import signal

    if len(edges_hz) < 2 or any(high <= low for low, high in zip(edges_hz, edges_hz[1:], strict=False)):
        raise ValueError("the edges of bands must rise, and there must be two at least")
    if edges_hz[0] <= 0 or edges_hz[-1] > NYQUIST_SHARE * sample_rate_hz * (1 + 1e-9):
        raise ValueError(
            f"bands from {edges_hz[0]:g} to {edges_hz[-1]:g} Hz do not lie between 0 and "
            f"{NYQUIST_SHARE * sample_rate_hz:g} Hz, {NYQUIST_SHARE:g} of the sample rate"
        )
    bands = []
    for low_hz, high_hz in zip(edges_hz, edges_hz[1:], strict=False):
        sos = signal.butter(_BAND_ORDER, (low_hz, high_hz), "bandpass", fs=sample_rate_hz, output="sos")
        sections = tuple((s[0], s[1], s[2], s[3], s[4], s[5]) for s in sos.tolist())
        bands.append(Band(low_hz=low_hz, high_hz=high_hz, sos=sections))
    return tuple(bands)


class MpfStream:
    """The front end of one stream, with all its state."""

    def __init__(
        self,
        spec: MpfSpec,
        *,
        centre: NDArray[np.float32] | None = None,
        dead: Sequence[int] = (),
    ) -> None:
        """centre: (F,), subtracted from each token; None: that of the spec, or nothing when it has none
        dead: electrodes without a signal, counted from 0; features that involve one are zero
        Raises DataError, which names the dead electrodes, when fewer than two are left.
        """
        self.spec = spec
        self._sos = [np.array(band.sos, np.float64) for band in spec.bands]
        self._live = np.ones(spec.n_electrodes, bool)
        self._live[list(dead)] = False
        if self._live.sum() < 2:
            named = ", ".join(str(electrode + 1) for electrode in np.flatnonzero(~self._live))
            raise DataError(
                f"covariances need two live electrodes, but of {spec.n_electrodes} {named} are dead, as the model "
                "counts them: check their contact with the skin, then run cpep-edge calibrate again"
            )
        given = np.array(spec.centre, np.float32) if centre is None else centre.astype(np.float32)
        self._centre = given if given.size else np.zeros(spec.n_features, np.float32)
        self._kept = _features_of(self._live, len(spec.bands))
        self.reset()

    def reset(self, sample_index: int = 0) -> None:
        """Start anew with a sample of this index; blocks begin at whole multiples of the hop."""
        shape = (len(self.spec.bands), self.spec.n_electrodes, self.spec.n_electrodes)
        self._state = [np.zeros((len(sos), 2, self.spec.n_electrodes)) for sos in self._sos]
        self._waiting: list[NDArray[np.float64]] = []  # filtered samples, (B, n, C), of the incomplete block
        self._n_waiting = 0
        self._n_unaligned = -sample_index % self.spec.hop_samples  # samples to drop before the first block
        self._blocks: deque[NDArray[np.float64]] = deque(maxlen=self.spec.span_samples // self.spec.hop_samples)
        self._empty = np.zeros(shape)

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next samples of the stream and return the tokens that they complete.

        samples: (n, C), preprocessed
        returns: (m, F) float32, recentred
        """
        hop = self.spec.hop_samples
        if len(samples) == 0:
            return np.empty((0, self.spec.n_features), np.float32)
        filtered = np.stack([self._filter(band, samples) for band in range(len(self._sos))])  # (B, n, C)
        dropped = min(self._n_unaligned, filtered.shape[1])
        self._n_unaligned -= dropped
        self._waiting.append(filtered[:, dropped:])
        self._n_waiting += filtered.shape[1] - dropped
        if self._n_waiting < hop:
            return np.empty((0, self.spec.n_features), np.float32)
        whole = np.concatenate(self._waiting, axis=1)
        n_blocks = self._n_waiting // hop
        self._waiting, self._n_waiting = [whole[:, n_blocks * hop :]], self._n_waiting - n_blocks * hop
        covariances = []
        for at in range(0, n_blocks * hop, hop):
            block = whole[:, at : at + hop]
            self._blocks.append(block.transpose(0, 2, 1) @ block)
            if len(self._blocks) == self._blocks.maxlen:
                covariances.append(sum(self._blocks, self._empty) / self.spec.span_samples)
        if not covariances:
            return np.empty((0, self.spec.n_features), np.float32)
        tokens = log_covariances(np.stack(covariances), self.spec.shrinkage, self._live) - self._centre
        tokens *= self._kept
        return tokens

    def _filter(self, band: int, samples: NDArray[np.float32]) -> NDArray[np.float64]:
        filtered, self._state[band] = scipy_sosfilt(self._sos[band], samples, self._state[band])
        return filtered


def log_covariances(
    covariances: NDArray[np.float64], shrinkage: float, live: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Tokens of covariances: shrink them, take their matrix logarithm, and keep its upper triangle.

    A rank-deficient covariance (an electrode is flat, duplicated or missing) is no problem: shrinkage and floor keep
    every eigenvalue above zero.

    covariances: (m, B, C, C), squared units of the scale
    live: (C,); False: the electrode is taken out of the matrix before its logarithm
    returns: (m, F) float32
    """
    n_electrodes = covariances.shape[-1]
    mask = np.ones(n_electrodes, bool) if live is None else live
    power = np.diagonal(covariances, axis1=-2, axis2=-1)[..., mask].mean(axis=-1)  # (m, B)
    shrunk = covariances * (mask[:, None] & mask[None, :])
    shrunk = shrunk + (shrinkage * power + FLOOR)[..., None, None] * np.eye(n_electrodes)
    values, vectors = np.linalg.eigh(shrunk)
    logs = (vectors * np.log(values)[..., None, :]) @ vectors.swapaxes(-1, -2)
    row, column = np.triu_indices(n_electrodes)
    upper = logs[..., row, column] * np.where(row == column, 1.0, np.sqrt(2.0))
    tokens: NDArray[np.float32] = upper.reshape(len(covariances), -1).astype(np.float32)
    return tokens


def permutation(order: Sequence[int], n_bands: int) -> NDArray[np.intp]:
    """The order of token features for reordered electrodes: `emg[:, order]` has `tokens[:, permutation(order, B)]`.

    order: (C,), a permutation of the electrodes
    returns: (F,)
    """
    n = len(order)
    row, column = np.triu_indices(n)
    place = np.zeros((n, n), np.intp)
    place[row, column] = place[column, row] = np.arange(len(row))
    chosen = np.array(order, np.intp)
    of_band = place[chosen[row], chosen[column]]
    return np.concatenate([of_band + band * len(row) for band in range(n_bands)])


def turned(
    tokens: NDArray[np.float32], electrodes: float, n_bands: int, dead: Sequence[int] = ()
) -> NDArray[np.float32]:
    """Approximate tokens of the band turned by a fractional number of electrodes, (..., F).

    They are interpolated between the tokens of the two whole turns next to it. Features that involve a dead electrode,
    before or after a turn, do not change.
    """
    n = math.isqrt(2 * tokens.shape[-1] // n_bands)
    whole = math.floor(electrodes)
    mixed, live = np.zeros_like(tokens), np.ones(n, bool)
    live[list(dead)] = False
    kept = _features_of(live, n_bands)
    for turn, share in ((whole, 1 - (electrodes - whole)), (whole + 1, electrodes - whole)):
        way = permutation(np.roll(np.arange(n), -turn).tolist(), n_bands)
        mixed += np.float32(share) * tokens[..., way]
        kept = kept * kept[way]
    moved: NDArray[np.float32] = tokens + kept * (mixed - tokens)
    return moved


def _features_of(live: NDArray[np.bool_], n_bands: int) -> NDArray[np.float32]:
    """1 for each feature of a token that involves only live electrodes, else 0, (F,)."""
    row, column = np.triu_indices(len(live))
    return np.tile(live[row] & live[column], n_bands).astype(np.float32)
