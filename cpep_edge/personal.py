"""A personal head: one that is fitted to a wearer's own repetitions of gestures.

It works for any band of at least two channels and 100 Hz, in microvolts or counts. The signal is read as
log-covariances (`cpep_edge.mpf`), which on real arms make half as many errors as levels. It needs no training before,
and no package but numpy. Its accuracy is measured by leaving out one repetition after the other, because windows of the
same repetition are too similar to be both fitted and tested. The head is fitted to the windows and to copies of them as
a slightly turned band would record them, because the band will sit a little turned when it is worn again.

Shapes: n windows, d features per window, K gestures, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cpep_edge.donning import FLAT_UV, SETTLE_S, Donning, Likelihood, Tokens, measure_donning, placements, window_means
from cpep_edge.errors import ConfigError
from cpep_edge.head import Head, fit_head
from cpep_edge.input_stream import InputStream
from cpep_edge.mpf import MpfSpec, band_edges_hz, design_bands, turned
from cpep_edge.names import UNKNOWN
from cpep_edge.preprocess import Preprocessing, design_filter

LEAST_RATE_HZ = 100.0
WINDOW_TOKENS = 2  # few, as decisions add up windows: with .3 s of tokens they came 80 ms later on myo-wrist, no better
HOP_S = 0.025  # between tokens
SPAN_S = 0.225  # of a token's covariances: on 3DC, 1 kHz, eight people, .1 s loses two points of accuracy
SPAN_AT_LOW_RATE_S = (0.1, 0.225)  # limits of the span: on a Myo, 200 Hz, .225 s only delays decisions
SAMPLES_A_CHANNEL = 2.5  # per span, between these limits
SHRINKAGE = 0.01  # of the covariances
CLIP = 20.0  # in units of a channel's level
MAX_TURN = 2  # electrodes by which a later wearing may be turned
_LOW_HZ, _LOW_AT_LOW_RATE_HZ = 20.0, 15.0  # corners of the high-pass, above the motion artefacts of electrodes
_LOW_RATE_HZ = 400.0
FIT_HOP_S = 0.05  # between windows of a fit
# Share of a full turn, either way, by which the next wearing may be turned. The copies raise accuracy on 16 people of
# myo-wrist from .807 to .816 on the next wearing, and from .834 to .856 where two wearings were taught; on the same
# wearing they lower it from .951 to .949. A share of .03 gains less, one of .05 costs more.
TURN = 0.04


@dataclass(frozen=True, slots=True)
class Repetition:
    """One time that the wearer made a gesture when asked."""

    gesture: str
    number: int  # of its round; repetitions of one round and wearing are left out together
    samples: NDArray[np.float32]  # (n, C), raw; in the first SETTLE_S the filter settles
    wearing: int = 0  # number of the wearing of the band, from 0


@dataclass(frozen=True, slots=True)
class Reading:
    """How a band's signal is read."""

    preprocessing: Preprocessing
    front_end: MpfSpec
    window_samples: int

    @property
    def n_tokens(self) -> int:
        """The number of tokens of a window."""
        return self.front_end.n_tokens(self.window_samples)


@dataclass(frozen=True, slots=True)
class Windows:
    """The head's inputs for the windows of repetitions, in order of time within each."""

    x: NDArray[np.float32]  # (n, d)
    gesture: NDArray[np.int64]  # (n,)
    repetition: NDArray[np.int64]  # (n,), index of the window's repetition
    round: NDArray[np.int64]  # (n,), equal for windows that are left out together
    turned: tuple[NDArray[np.float32], ...] = ()  # (n, d) each, copies for a slightly turned band, also fitted

    def fit(self, chosen: NDArray[np.bool_] | slice = slice(None), label: NDArray[np.int64] | None = None) -> Head:
        """A head fitted to the chosen windows.

        label: the gestures of these windows, renumbered if some gestures are missing; None: their own numbers
        """
        copies = [self.x[chosen], *(copy[chosen] for copy in self.turned)]
        return fit_head(np.concatenate(copies), np.tile(self.gesture[chosen] if label is None else label, len(copies)))


def design_reading(n_channels: int, sample_rate_hz: float) -> Reading:
    """A suitable reading for a band of this number of channels and this sample rate.

    Raises ConfigError for a band that cannot be taught.
    """
    if n_channels < 2 or sample_rate_hz < LEAST_RATE_HZ:
        raise ConfigError(
            f"a band of {n_channels} channels at {sample_rate_hz:g} Hz cannot be taught: it takes two channels and "
            f"{LEAST_RATE_HZ:g} Hz at least"
        )
    if n_channels > 64:
        raise ConfigError(f"a band of {n_channels} channels cannot be taught: choose up to 64 with --device-config")
    low_hz, span_s = _LOW_HZ, SPAN_S
    if sample_rate_hz < _LOW_RATE_HZ:
        low_hz = _LOW_AT_LOW_RATE_HZ
        span_s = float(np.clip(SAMPLES_A_CHANNEL * n_channels / sample_rate_hz, *SPAN_AT_LOW_RATE_S))
    hop = max(1, round(HOP_S * sample_rate_hz))
    span = hop * round(span_s * sample_rate_hz / hop)
    front_end = MpfSpec(
        n_electrodes=n_channels,
        bands=design_bands(sample_rate_hz, band_edges_hz(sample_rate_hz, low_hz)),
        hop_samples=hop,
        span_samples=span,
        shrinkage=SHRINKAGE,
    )
    preprocessing = Preprocessing(sample_rate_hz, design_filter(sample_rate_hz, low_hz), scale_uv=1.0, clip=CLIP)
    return Reading(preprocessing, front_end, span + hop * (WINDOW_TOKENS - 1))


def measure_wearings(
    repetitions: Sequence[Repetition], reading: Reading, gestures: Sequence[str], flat_uv: float = FLAT_UV
) -> list[Donning]:
    """How the band sat in each wearing. A later wearing gets the placement under which its labels are likeliest.

    flat_uv: a channel below this level, in the band's unit, has no signal
    Raises DataError when there is too little signal, or fewer than two channels have any.
    """
    found: list[Donning] = []
    for wearing in range(1 + max(one.wearing for one in repetitions)):
        worn = [one for one in repetitions if one.wearing == wearing]
        mine = balanced([one for one in worn if one.gesture != UNKNOWN] or worn)  # like a calibration
        orders: list[tuple[int, ...]] = [tuple(range(reading.front_end.n_electrodes))]
        likelihood: Likelihood | None = None
        earlier = [one for one in repetitions if one.wearing < wearing and one.gesture != UNKNOWN]
        known = list(dict.fromkeys(one.gesture for one in earlier))
        if len(known) > 1 and any(one.gesture in known for one in mine):
            orders = placements(reading.front_end.n_electrodes, MAX_TURN, mirrored=False)
            windows = windows_of(earlier, reading, found, known)
            numbers = [known.index(one.gesture) if one.gesture in known else None for one in mine]
            likelihood = partial(_likelihood, windows.fit(), numbers, reading.n_tokens)
        found.append(
            measure_donning(
                [one.samples for one in mine],
                reading.preprocessing,
                reading.front_end,
                orders=orders,
                likelihood=likelihood,
                flat_uv=flat_uv,
            )
        )
    return found


def balanced(repetitions: Sequence[Repetition]) -> list[Repetition]:
    """Leave out repetitions of a gesture, usually rest, that would give it far more signal than the others have."""
    kept, seconds = [], dict[tuple[int, int, str], int]()
    usual = float(np.median(list(_samples_of_each(repetitions).values())))
    for one in repetitions:
        key = (one.wearing, one.number, one.gesture)
        if seconds.get(key, 0) < usual:
            kept.append(one)
            seconds[key] = seconds.get(key, 0) + len(one.samples)
    return kept


def windows_of(
    repetitions: Sequence[Repetition], reading: Reading, donnings: Sequence[Donning], gestures: Sequence[str]
) -> Windows:
    """The head's inputs for windows of repetitions."""
    a_settle = round(SETTLE_S * reading.preprocessing.sample_rate_hz)
    every = max(1, round(FIT_HOP_S * reading.preprocessing.sample_rate_hz / reading.front_end.hop_samples))
    turns = turns_of(reading.front_end)
    x, numbers, of_turn = list[NDArray[np.float32]](), list[int](), [list[NDArray[np.float32]]() for _ in turns]
    for one in repetitions:
        stream = InputStream(reading.preprocessing, reading.front_end, one.samples.shape[1], donnings[one.wearing])
        tokens = stream(one.samples)[a_settle // reading.front_end.hop_samples :]
        x.append(window_means(tokens, reading.n_tokens)[::every])
        numbers.append(len(x[-1]))
        for way, copies in zip(turns, of_turn, strict=True):
            copies.append(turned(x[-1], way, len(reading.front_end.bands), donnings[one.wearing].dead))
    rounds = sorted({(one.wearing, one.number) for one in repetitions})
    of_each = [(gestures.index(one.gesture), rounds.index((one.wearing, one.number))) for one in repetitions]
    return Windows(
        np.concatenate(x),
        np.repeat([gesture for gesture, _ in of_each], numbers),
        np.repeat(np.arange(len(repetitions)), numbers),
        np.repeat([number for _, number in of_each], numbers),
        tuple(np.concatenate(copies) for copies in of_turn),
    )


def turns_of(front_end: MpfSpec) -> tuple[float, float]:
    """The turns of the band that a head is made robust to, in electrodes."""
    return -TURN * front_end.n_electrodes, TURN * front_end.n_electrodes


def _likelihood(head: Head, numbers: Sequence[int | None], n_tokens: int, recordings: Sequence[Tokens]) -> float:
    """Mean log-likelihood of recordings under the head.

    numbers: the head's number of each recording's gesture; None: the head does not know it, so it is left out
    """
    means = [(window_means(tokens, n_tokens), n) for tokens, n in zip(recordings, numbers, strict=True)]
    each = [head.log_likelihood(head.project(x))[:, n] for x, n in means if n is not None]
    return float(np.mean(np.concatenate(each)))


def _samples_of_each(repetitions: Sequence[Repetition]) -> dict[tuple[int, int, str], int]:
    """The number of samples by wearing, round and gesture."""
    found: dict[tuple[int, int, str], int] = {}
    for one in repetitions:
        key = (one.wearing, one.number, one.gesture)
        found[key] = found.get(key, 0) + len(one.samples)
    return found
