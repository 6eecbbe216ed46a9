"""Multivariate power frequency (MPF): what the electrodes do together, band by band.

A level says how hard a muscle under one electrode works. That two electrodes rise and fall in step says that they hear
the same fibres, and this is where forearms tell hand movements apart: on real EMG a linear discriminant reads half as
many errors from covariances as from levels. So the signal is split into bands; every hop
the covariance of all electrodes over the last span is taken in each, and its matrix logarithm becomes a token. The
upper triangle, off-diagonals times the square root of two, has Euclidean distances that are those of the log-Euclidean
metric (Arsigny et al. 2006); the same idea on cross-spectral densities is the front end of Kaifosh et al., Nature 2025.

What a wearer's arm and a donning add to every token is taken out by subtracting the mean token of a calibration
(recentring). To wear the ring of electrodes turned or mirrored is a permutation of tokens (`permutation`).

Causal and incremental: products are summed block by block, a block being a hop, so a token costs one
eigen-decomposition a band, however long the window is. The same numbers come from `export/mcu/engine/mpf.c`, which the
C library and the microcontroller's engine share.

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

NYQUIST_SHARE = 0.45  # of the sample rate that no band reaches beyond: amplifiers roll off there
_BAND_ORDER = 2  # of each Butterworth; twice as steep read .001 less on 3DC
_TOP_HZ = 450.0  # surface EMG has next to nothing above
_LOW_RATE_HZ = 500.0  # below, three bands; four from here on
_EDGE_POWER = 1.25  # bands widen upwards
FLOOR = 1e-6  # added to every eigenvalue, in squared units of the scale: silence stays finite

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
    span_samples: int = Field(gt=0, le=1 << 20)  # that a token's covariances cover, a whole number of hops
    shrinkage: Annotated[float, Field(gt=0, lt=1)]  # of covariances: this share of their mean power is added to each
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
        """Numbers of a token, F."""
        return len(self.bands) * self.n_electrodes * (self.n_electrodes + 1) // 2

    def n_tokens(self, n_samples: int) -> int:
        """Tokens whose whole span lies in so many samples that begin on a hop."""
        return max(0, (n_samples - self.span_samples) // self.hop_samples + 1)


def band_edges_hz(sample_rate_hz: float, low_hz: float) -> tuple[float, ...]:
    """Edges of sensible bands for a sample rate: three below 500 Hz, four above, wider towards the top.

    low_hz: where the first band begins, most often the corner of the high-pass
    Raises ValueError when nothing is left between it and 0.45 of the sample rate.
    """
    top_hz = min(NYQUIST_SHARE * sample_rate_hz, _TOP_HZ)
    if not 0 < low_hz < 0.75 * top_hz:
        raise ValueError(f"no bands fit between {low_hz:g} Hz and {top_hz:g} Hz, {NYQUIST_SHARE:g} of the sample rate")
    n = 3 if sample_rate_hz < _LOW_RATE_HZ else 4
    edges = low_hz + (top_hz - low_hz) * (np.arange(n + 1) / n) ** _EDGE_POWER
    return tuple(float(edge) for edge in np.round(edges, 1))


def design_bands(sample_rate_hz: float, edges_hz: Sequence[float]) -> tuple[Band, ...]:
    """Butterworth band-passes between neighbouring edges.

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
        """centre: (F,), subtracted from each token; None: that of the spec, or nothing where it has none
        dead: electrodes, from 0, that carry nothing; all that a token would say of them is zero
        Raises DataError, naming the dead, when fewer than two electrodes are left.
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
        """Forget the past. The next sample has this index; blocks begin at whole multiples of the hop."""
        shape = (len(self.spec.bands), self.spec.n_electrodes, self.spec.n_electrodes)
        self._state = [np.zeros((len(sos), 2, self.spec.n_electrodes)) for sos in self._sos]
        self._waiting: list[NDArray[np.float64]] = []  # filtered samples, (B, n, C), of the block that is not full
        self._n_waiting = 0
        self._n_unaligned = -sample_index % self.spec.hop_samples  # samples to drop before the first block
        self._blocks: deque[NDArray[np.float64]] = deque(maxlen=self.spec.span_samples // self.spec.hop_samples)
        self._empty = np.zeros(shape)

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next samples of the stream and give the tokens that they complete.

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
    """Tokens of covariances: shrunk, their matrix logarithm, its upper triangle.

    A rank-deficient covariance (an electrode that is flat, doubled or missing) is as good as any: shrinkage and floor
    keep every eigenvalue above zero.

    covariances: (m, B, C, C), squared units of the scale
    live: (C,); electrodes that are not are taken out of the matrix before its logarithm
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
    """What reordering electrodes does to tokens: `tokens[:, permutation(order, B)]` are those of `emg[:, order]`.

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
    """Tokens as about they would be if the band sat turned by so many electrodes, not whole ones, (..., F).

    Between two electrodes lies the mean of both, of logarithms; numbers that a dead electrode takes part in stay.
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
    """One for each number of a token that only live electrodes take part in, zero for the others, (F,)."""
    row, column = np.triu_indices(len(live))
    return np.tile(live[row] & live[column], n_bands).astype(np.float32)
