"""What is wrong with a channel, seen in some seconds of its signal: flat, stuck, saturated, full of mains hum.

An arm at rest makes a few microvolts, so that hum of a few microvolts is most of the signal and yet no fault: hum
counts from a strength at which it would drown a light movement.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HUM_HZ = (50.0, 60.0)
HUM_SHARE = 0.5  # of a channel's power within a hertz of the mains and its harmonics: EMG is much wider
HUM_FLOOR_UV = 20.0  # RMS; a light contraction makes 50
STUCK_VALUES = 3  # that a channel flickers between: the last bit of a converter to which nothing is connected
SATURATED_SHARE = 0.01  # of samples that sit at the channel's greatest or least value
LEAST_SATURATED_UV = 500.0  # a quiet channel's extremes are no saturation

_N_HARMONICS = 3


@dataclass(frozen=True, slots=True)
class ChannelHealth:
    """One channel."""

    channel: int  # counted from 0
    rms: float  # without the offset, in the stream's unit
    flat: bool  # the very same value all the time: a broken wire or a channel that is switched off
    stuck: bool  # hardly more than that: it flickers by a count
    saturated: bool
    hum_hz: float | None  # mains frequency that drowns the channel
    hum_share: float  # of the channel's power, at the mains frequency that has more
    hum_rms: float  # its strength, in the stream's unit


def assess_channels(
    samples: NDArray[np.float32], sample_rate_hz: float, hum_floor: float = HUM_FLOOR_UV
) -> list[ChannelHealth]:
    """Health of each channel of some seconds of signal, (n_samples, n_channels).

    hum_floor: RMS below which hum is no fault, in the unit of the samples
    """
    centred = samples.astype(np.float64) - samples.mean(axis=0, dtype=np.float64)
    rms = np.sqrt((centred**2).mean(axis=0))
    shares = {hum_hz: _hum_shares(centred, sample_rate_hz, hum_hz) for hum_hz in HUM_HZ}
    health = []
    for channel in range(samples.shape[1]):
        hum_hz, share = max(((hz, float(values[channel])) for hz, values in shares.items()), key=lambda pair: pair[1])
        flat = bool(np.ptp(samples[:, channel]) == 0)
        stuck = not flat and len(np.unique(samples[:, channel])) <= STUCK_VALUES
        hum_rms = float(rms[channel]) * share**0.5
        health.append(
            ChannelHealth(
                channel=channel,
                rms=float(rms[channel]),
                flat=flat,
                stuck=stuck,
                saturated=not flat and not stuck and _saturated(samples[:, channel]),
                hum_hz=hum_hz if share > HUM_SHARE and hum_rms > hum_floor and not flat and not stuck else None,
                hum_share=share,
                hum_rms=hum_rms,
            )
        )
    return health


def _saturated(channel: NDArray[np.float32]) -> bool:
    if np.abs(channel).max() < LEAST_SATURATED_UV:
        return False
    at_limit = (channel == channel.max()).sum(), (channel == channel.min()).sum()
    return bool(max(at_limit) > SATURATED_SHARE * len(channel))


def _hum_shares(centred: NDArray[np.float64], sample_rate_hz: float, hum_hz: float) -> NDArray[np.float64]:
    taper = np.hanning(len(centred))[:, None]
    power = np.abs(np.fft.rfft(centred * taper, axis=0)) ** 2
    frequency_hz = np.fft.rfftfreq(len(centred), 1 / sample_rate_hz)
    hum = np.zeros(len(frequency_hz), bool)
    for harmonic in range(1, _N_HARMONICS + 1):
        hum |= np.abs(frequency_hz - harmonic * hum_hz) <= 1.0
    total = power.sum(axis=0)
    shares: NDArray[np.float64] = power[hum].sum(axis=0) / np.where(total > 0, total, 1.0)
    return shares
