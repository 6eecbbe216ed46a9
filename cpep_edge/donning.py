"""One wearing of the band: how it sits on this arm, found in half a minute of unlabelled movement.

Skin, fat, and where electrodes lie decide how strong each channel is and what it hears; they differ between people, and
from one donning to the next, far more than gestures do. What a calibration finds is applied by one class,
`cpep_edge.input_stream.InputStream`, wherever raw signal becomes encoder input: live, in replays, while teaching,
evaluating and measuring.

- `order`: a band may sit turned, and on the other arm mirrored. Of all placements that the bundle allows the one is
  taken under which the calibration looks most like the gestures of training people: by the bundle's head where there is
  one, and by the pattern of channel levels where not.
- `level_uv`: what divides each channel, the geometric mean of its RMS over tenths of a second, so that strong and weak
  moments count alike.
- `dead`: electrodes that carry nothing.
- `centre`: the mean token of the front end, taken off every token (`cpep_edge.mpf`).
- `head_means`: where this wearer's gestures lie (`Head.adapted`).
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
SETTLE_S = 0.2  # of the filter, left out at the start
FLAT_UV = 0.05  # quieter than the noise of any amplifier for EMG: the electrode hangs in the air or is shorted
LEAST_PLACED = 3  # live electrodes by whose levels a place can be told: any two correlate fully
FLAT_SHARE = 1e-3  # of the median channel's level, below which one is flat in a band that counts
DOUBLED = 0.9999  # correlation from which two channels are one electrode

Tokens = NDArray[np.float32]  # (m, F), of one recording
Likelihood = Callable[[Sequence[Tokens]], float]  # how like training people's gestures recentred recordings are


@dataclass(frozen=True, slots=True)
class Donning:
    """What a calibration found; the default is a band that was not calibrated."""

    order: tuple[int, ...] = ()  # the band's electrode, from 0, for each of the model's; empty: as they come
    level_uv: NDArray[np.float32] | None = None  # (C,), as the model counts its electrodes
    dead: tuple[int, ...] = ()  # the model's electrodes that carry nothing
    centre: NDArray[np.float32] | None = None  # (F,)
    head_means: NDArray[np.float32] | None = None  # (K, r)

    def to_json(self) -> dict[str, list[float] | list[list[float]] | list[int] | None]:
        """The values for JSON, without loss."""
        arrays = {"level_uv": self.level_uv, "centre": self.centre, "head_means": self.head_means}
        kept = {name: None if array is None else array.tolist() for name, array in arrays.items()}
        return {"order": list(self.order), "dead": list(self.dead), **kept}

    @classmethod
    def from_json(cls, fields: object) -> "Donning":
        """What `to_json` gave. Raises ValueError or TypeError for anything else."""
        if not isinstance(fields, dict) or fields.keys() != cls.__dataclass_fields__.keys():
            raise ValueError("no donning")
        arrays = {
            name: None if fields[name] is None else np.array(fields[name], np.float32)
            for name in ("level_uv", "centre", "head_means")
        }
        return cls(order=tuple(map(int, fields["order"])), dead=tuple(map(int, fields["dead"])), **arrays)

    def lacking(self, missing: Sequence[int]) -> "Donning":
        """The same on a device that has no electrode for some of its channels, counted from 0 as the device does."""
        places = missing if not self.order else [place for place, one in enumerate(self.order) if one in missing]
        return replace(self, dead=tuple(sorted({*self.dead, *places})))

    def arranged(self, samples_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples of the band, (n, C), in the model's order."""
        return samples_uv[:, self.order] if self.order else samples_uv


def placements(n_electrodes: int, max_turn: int, mirrored: bool) -> list[tuple[int, ...]]:
    """Ways to wear a ring: turned by up to so many electrodes, and either way round; the usual way first."""
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
    """Find how a band sits from unlabelled movement.

    movement_uv: recordings, each (n_samples, C), raw, in the band's own order
    front_end: None where the encoder reads the signal itself
    orders: the placements to choose among; the first wins among equals, none: as they come
    likelihood: of recordings' tokens, recentred, by which the placement is chosen
    pattern: (C,), logarithms of the usual levels, by which it is chosen otherwise
    missing: channels without an electrode of their own, as `StreamInfo` has them
    flat_uv: the level below which a channel is flat; a band in counts has another
    Raises DataError when there is too little signal, or a channel is flat that ought not to be.
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
    """The mean of each run of so many tokens, (m - n_tokens + 1, F); none where there are fewer."""
    if len(tokens) < max(1, n_tokens):
        return np.empty((0, tokens.shape[1]), np.float32)
    sums = np.concatenate([np.zeros((1, tokens.shape[1])), np.cumsum(tokens, axis=0, dtype=np.float64)])
    means: NDArray[np.float32] = ((sums[n_tokens:] - sums[:-n_tokens]) / n_tokens).astype(np.float32)
    return means


def unscaled(preprocessing: Preprocessing) -> Preprocessing:
    """The same filter, whose output is in microvolts."""
    return replace(preprocessing, scale_uv=1.0, clip=np.inf)


def stretch_levels_uv(filtered_uv: NDArray[np.float32], sample_rate_hz: float) -> NDArray[np.float64]:
    """RMS of each tenth of a second, (n_stretches, n_channels), microvolts.

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

    missing: channels without an electrode of their own; those that are flat have a level of 1
    may_be_dead: a flat channel's level is left as it is, near zero
    Raises DataError when there is too little signal, or a channel is flat.
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
    """The level of each channel, and the channels that carry nothing of their own: missing, flat, or doubled."""
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
    """The correlation of each two channels, (C, C); zero for a flat channel."""
    signal = filtered_uv.astype(np.float64)
    products, power = signal.T @ signal, np.square(signal).sum(axis=0)
    scale = np.sqrt(np.outer(power, power))
    return np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)


def doubled_channels(samples: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Pairs of channels that carry one signal, the later one with the first that it repeats.

    It is told by the steps from sample to sample, in which neither offsets nor hum weigh.
    """
    steps = np.diff(samples.astype(np.float64), axis=0)
    alike = np.triu(np.abs(correlation(steps - steps.mean(axis=0))) > DOUBLED, k=1)
    return [(int(np.argmax(alike[:, channel])), channel) for channel in np.flatnonzero(alike.any(axis=0)).tolist()]


def _like_pattern(
    levels: NDArray[np.float32], orders: Sequence[tuple[int, ...]], pattern: Sequence[float], dead: Sequence[int]
) -> tuple[int, ...]:
    """The placement under which the levels of live electrodes correlate best with the usual ones."""
    if len(pattern) != len(levels) or len(levels) - len(dead) < LEAST_PLACED:
        return orders[0]
    agreement = []
    for order in orders:
        live = [place for place, electrode in enumerate(order) if electrode not in dead]
        agreement.append(np.corrcoef(np.log(levels[np.array(order)[live]]), np.array(pattern)[live])[0, 1])
    return orders[int(np.argmax(agreement))]
