"""Find faulty channels in some seconds of signal: flat, stuck, saturated, or full of mains hum.

The EMG of an arm at rest is a few microvolts, so hum of a few microvolts is most of the signal and still no fault. Hum
counts as a fault only when it is strong enough to hide a light contraction.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HUM_HZ = (50.0, 60.0)
HUM_SHARE = 0.5  # share of a channel's power within 1 Hz of the mains and its harmonics; EMG is much wider
HUM_FLOOR_UV = 20.0  # RMS; a light contraction is about 50
STUCK_VALUES = 3  # most distinct values of a stuck channel: the last bit of an unconnected converter flickers
SATURATED_SHARE = 0.01  # share of samples at the channel's largest or smallest value
LEAST_SATURATED_UV = 500.0  # smaller extremes are not saturation

_N_HARMONICS = 3


@dataclass(frozen=True, slots=True)
class ChannelHealth:
    """The state of one channel."""

    channel: int  # counted from 0
    rms: float  # without the offset, in the stream's unit
    flat: bool  # one constant value: a broken wire or a channel that is switched off
    stuck: bool  # nearly constant: it flickers by a count
    saturated: bool
    hum_hz: float | None  # mains frequency of the hum; None: no fault
    hum_share: float  # share of the channel's power, at the mains frequency with the larger share
    hum_rms: float  # RMS of that hum, in the stream's unit


def assess_channels(
    samples: NDArray[np.float32], sample_rate_hz: float, hum_floor: float = HUM_FLOOR_UV
) -> list[ChannelHealth]:
    """Assess each channel of some seconds of signal, (n_samples, n_channels).

    hum_floor: RMS up to which hum is no fault, in the unit of the samples
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
