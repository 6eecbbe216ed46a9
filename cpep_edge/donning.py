"""One donning (one wearing of the band): how it sits on this arm, measured in half a minute of unlabelled movement.

Skin, fat and electrode positions decide how strong each channel is and which muscles it records. They differ between
people, and from one donning to the next, far more than gestures do. One class applies the result of a calibration,
`cpep_edge.input_stream.InputStream`, wherever raw signal becomes encoder input: live, in replays, while teaching,
evaluating and measuring.

- `order`: a band may sit turned, and on the other arm mirrored. Of all placements that the bundle allows, the one is
  chosen in which the calibration is most similar to the gestures of the training people. The bundle's head judges this;
  without a front end, the pattern of channel levels does.
- `level_uv`: each channel is divided by its level, the geometric mean of its RMS over stretches of 0.1 s, so that
  strong and weak stretches count equally.
- `dead`: electrodes that carry no signal of their own.
- `centre`: the mean token of the front end, subtracted from every token (`cpep_edge.mpf`).
- `head_means`: the means of this wearer's gestures (`Head.adapted`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import DataError
from cpep_edge.mpf import MpfSpec, MpfStream, permutation
from cpep_edge.preprocess import Preprocessing, Preprocessor

LEVEL_STRETCH_S = 0.1
MIN_CALIBRATION_S = 2.0
SETTLE_S = 0.2  # time for the filter to settle, left out at the start
FLAT_UV = 0.05  # below the noise of any EMG amplifier: the electrode has no contact or is shorted
LEAST_PLACED = 3  # live electrodes needed to choose a placement by levels: with two, every correlation is 1 or -1
FLAT_SHARE = 1e-3  # share of the median channel's level below which a channel is flat, for a band in counts
DOUBLED = 0.9999  # two channels that correlate more than this carry the signal of one electrode

Tokens = NDArray[np.float32]  # (m, F), of one recording
Likelihood = Callable[[Sequence[Tokens]], float]  # similarity of recentred recordings to the training people's gestures


@dataclass(frozen=True, slots=True)
class Donning:
    """The result of a calibration; the default is a band that was not calibrated."""

    order: tuple[int, ...] = ()  # for each electrode of the model, the band's electrode, from 0; empty: the same
    level_uv: NDArray[np.float32] | None = None  # (C,), in the model's order
    dead: tuple[int, ...] = ()  # electrodes of the model that carry no signal of their own
    centre: NDArray[np.float32] | None = None  # (F,)
    head_means: NDArray[np.float32] | None = None  # (K, r)

    def to_json(self) -> dict[str, list[float] | list[list[float]] | list[int] | None]:
        """The values as JSON types, without loss."""
        arrays = {"level_uv": self.level_uv, "centre": self.centre, "head_means": self.head_means}
        kept = {name: None if array is None else array.tolist() for name, array in arrays.items()}
        return {"order": list(self.order), "dead": list(self.dead), **kept}

    @classmethod
    def from_json(cls, fields: object) -> "Donning":
        """Read the result of `to_json`. Raises ValueError or TypeError for anything else."""
        if not isinstance(fields, dict) or fields.keys() != cls.__dataclass_fields__.keys():
            raise ValueError("no donning")
        arrays = {
            name: None if fields[name] is None else np.array(fields[name], np.float32)
            for name in ("level_uv", "centre", "head_means")
        }
        return cls(order=tuple(map(int, fields["order"])), dead=tuple(map(int, fields["dead"])), **arrays)

    def lacking(self, missing: Sequence[int]) -> "Donning":
        """The donning with further dead electrodes: device channels, from 0, that have no electrode of their own."""
        places = missing if not self.order else [place for place, one in enumerate(self.order) if one in missing]
        return replace(self, dead=tuple(sorted({*self.dead, *places})))

    def arranged(self, samples_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reorder samples of the band, (n, C), to the model's order."""
        return samples_uv[:, self.order] if self.order else samples_uv


def placements(n_electrodes: int, max_turn: int, mirrored: bool) -> list[tuple[int, ...]]:
    """The ways to wear a ring of electrodes, the usual one first: turned by up to `max_turn`, and also mirrored."""
    ring = np.arange(n_electrodes)
    turns = sorted(range(-min(max_turn, n_electrodes // 2), min(max_turn, (n_electrodes - 1) // 2) + 1), key=abs)
    ways = [ring, ring[::-1]] if mirrored else [ring]
    return [tuple(np.roll(way, -turn).tolist()) for way in ways for turn in turns]


def measure_donning(
    movement_uv: Sequence[NDArray[np.float32]],
    preprocessing: Preprocessing,
    front_end: MpfSpec | None,
    *,
    orders: Sequence[tuple[int, ...]] = (),
    likelihood: Likelihood | None = None,
    pattern: Sequence[float] = (),
    missing: Sequence[int] = (),
    flat_uv: float = FLAT_UV,
) -> Donning:
    """Measure how a band sits, from unlabelled movement.

    movement_uv: recordings, each (n_samples, C), raw, in the band's own order
    front_end: None when the encoder reads the signal itself
    orders: the placements to choose among, the first of equals wins; empty: the band's own order
    likelihood: of the recordings' recentred tokens; chooses the placement when there is a front end
    pattern: (C,), logarithms of the usual levels; chooses the placement when there is no front end
    missing: channels without an electrode of their own, as in `StreamInfo`
    flat_uv: level below which a channel is flat; differs for a band in counts
    Raises DataError when there is too little signal, or a channel is flat that must not be.
    """
    levels, dead = live_levels_uv(movement_uv, preprocessing, missing, flat_uv, may_be_dead=front_end is not None)
    orders = list(orders) or [tuple(range(len(levels)))]
    if front_end is None:
        best = _like_pattern(levels, orders, pattern, dead)
        return Donning(best, levels[list(best)]).lacking(dead)
    tokens = device_tokens(movement_uv, preprocessing, front_end, levels, dead)
    mean: NDArray[np.float32] = np.concatenate(tokens).mean(axis=0)
    n_bands, best = len(front_end.bands), orders[0]
    if likelihood is not None and len(orders) > 1:
        centred = [one - mean for one in tokens]
        fits = [likelihood([one[:, permutation(order, n_bands)] for one in centred]) for order in orders]
        best = orders[int(np.argmax(fits))]
    return Donning(
        order=best,
        level_uv=levels[list(best)],
        dead=tuple(place for place, electrode in enumerate(best) if electrode in dead),
        centre=mean[permutation(best, n_bands)],
    )


def device_tokens(
    recordings_uv: Sequence[NDArray[np.float32]],
    preprocessing: Preprocessing,
    front_end: MpfSpec,
    level_uv: NDArray[np.float32],
    dead: Sequence[int],
) -> list[Tokens]:
    """The tokens of each recording, in the band's own order and not recentred."""
    tokens, bare = [], front_end.model_copy(update={"centre": ()})
    for recording_uv in recordings_uv:
        scaled = Preprocessor(preprocessing, recording_uv.shape[1], level_uv)(recording_uv)
        tokens.append(MpfStream(bare, dead=dead)(scaled[round(SETTLE_S * preprocessing.sample_rate_hz) :]))
    return tokens


def window_means(tokens: Tokens, n_tokens: int) -> NDArray[np.float32]:
    """The mean of each `n_tokens` successive tokens, (m - n_tokens + 1, F); empty when there are fewer."""
    if len(tokens) < max(1, n_tokens):
        return np.empty((0, tokens.shape[1]), np.float32)
    sums = np.concatenate([np.zeros((1, tokens.shape[1])), np.cumsum(tokens, axis=0, dtype=np.float64)])
    means: NDArray[np.float32] = ((sums[n_tokens:] - sums[:-n_tokens]) / n_tokens).astype(np.float32)
    return means


def unscaled(preprocessing: Preprocessing) -> Preprocessing:
    """The same filter with its output in microvolts."""
    return replace(preprocessing, scale_uv=1.0, clip=np.inf)


def stretch_levels_uv(filtered_uv: NDArray[np.float32], sample_rate_hz: float) -> NDArray[np.float64]:
    """RMS of each stretch of 0.1 s, (n_stretches, n_channels), microvolts.

    filtered_uv: (n_samples, n_channels), filtered and not scaled
    """
    n = round(LEVEL_STRETCH_S * sample_rate_hz)
    n_stretches = len(filtered_uv) // n
    stretches = filtered_uv[: n_stretches * n].reshape(n_stretches, n, filtered_uv.shape[1]).astype(np.float64)
    levels: NDArray[np.float64] = np.sqrt(np.mean(stretches**2, axis=1))
    return levels


def channel_levels_uv(
    stretches_uv: NDArray[np.float64],
    *,
    missing: Sequence[int] = (),
    may_be_dead: bool = False,
    flat_uv: float = FLAT_UV,
) -> NDArray[np.float32]:
    """The level of each channel, (n_channels,): the geometric mean over stretches, (n_stretches, n_channels).

    missing: channels without an electrode of their own; if flat, they get a level of 1
    may_be_dead: accept flat channels and keep their levels, near zero
    Raises DataError when there is too little signal, or a channel is flat that must not be.
    """
    if len(stretches_uv) < MIN_CALIBRATION_S / LEVEL_STRETCH_S:
        raise DataError(f"{len(stretches_uv) * LEVEL_STRETCH_S:.1f} s of signal are too short, calibrate for longer")
    level_uv: NDArray[np.float32] = np.exp(np.mean(np.log(np.maximum(stretches_uv, 1e-9)), axis=0)).astype(np.float32)
    level_uv[[channel for channel in missing if level_uv[channel] < flat_uv]] = 1.0
    flat = np.flatnonzero(level_uv < flat_uv)
    if flat.size and not may_be_dead:
        raise DataError(f"channel {flat[0] + 1} is flat: check that its electrode touches the skin")
    return level_uv


def live_levels_uv(
    movement_uv: Sequence[NDArray[np.float32]],
    preprocessing: Preprocessing,
    missing: Sequence[int] = (),
    flat_uv: float = FLAT_UV,
    *,
    may_be_dead: bool,
) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """The level of each channel, and the dead channels: missing, flat, or the copy of another.

    may_be_dead: False accepts only the missing channels as dead
    Raises DataError as `channel_levels_uv`, or when fewer than two channels are live.
    """
    settle = round(SETTLE_S * preprocessing.sample_rate_hz)
    filtered_uv = [Preprocessor(unscaled(preprocessing), one.shape[1])(one)[settle:] for one in movement_uv]
    stretches = [stretch_levels_uv(one, preprocessing.sample_rate_hz) for one in filtered_uv]
    levels = channel_levels_uv(np.concatenate(stretches), missing=missing, may_be_dead=may_be_dead, flat_uv=flat_uv)
    if not may_be_dead:
        return levels, tuple(missing)
    flat = np.flatnonzero(levels < flat_uv).tolist()
    levels[flat] = 1.0
    alike = np.abs(np.triu(correlation(np.concatenate(filtered_uv)), k=1)) > DOUBLED
    dead = sorted({*missing, *flat, *np.flatnonzero(alike.any(axis=0)).tolist()})
    if len(levels) - len(dead) < 2:
        named = ", ".join(str(channel + 1) for channel in dead)
        raise DataError(f"covariances need two live electrodes, but of {len(levels)} channels {named} are dead")
    return levels, tuple(dead)


def correlation(filtered_uv: NDArray[np.float32]) -> NDArray[np.float64]:
    """The correlation of each pair of channels, (C, C); zero for a flat channel."""
    signal = filtered_uv.astype(np.float64)
    products, power = signal.T @ signal, np.square(signal).sum(axis=0)
    scale = np.sqrt(np.outer(power, power))
    return np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)


def doubled_channels(samples: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Channels that repeat the signal of an earlier one, as pairs: the first channel that it repeats, and the channel.

    The differences of successive samples are compared, because offsets and hum weigh little in them.
    """
    steps = np.diff(samples.astype(np.float64), axis=0)
    alike = np.triu(np.abs(correlation(steps - steps.mean(axis=0))) > DOUBLED, k=1)
    return [(int(np.argmax(alike[:, channel])), channel) for channel in np.flatnonzero(alike.any(axis=0)).tolist()]


def _like_pattern(
    levels: NDArray[np.float32], orders: Sequence[tuple[int, ...]], pattern: Sequence[float], dead: Sequence[int]
) -> tuple[int, ...]:
    """The placement in which the levels of the live electrodes correlate best with the usual ones."""
    if len(pattern) != len(levels) or len(levels) - len(dead) < LEAST_PLACED:
        return orders[0]
    agreement = []
    for order in orders:
        live = [place for place, electrode in enumerate(order) if electrode not in dead]
        agreement.append(np.corrcoef(np.log(levels[np.array(order)[live]]), np.array(pattern)[live])[0, 1])
    return orders[int(np.argmax(agreement))]
