"""The device's clock told in host time, by fitting a line; samples are never resampled to it.

Device clocks drift by tens of parts per million, and a frame's arrival is its time plus a delay that is never negative.
So of every second of the stream only the arrival with the least delay counts, and the line goes through those. The
delay that even they had cannot be seen in one direction; round trips (PING, PONG) show it: half of the shortest ones.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BUCKET_S = 1.0  # device time; one arrival of each is kept
N_BUCKETS = 120
N_ROUND_TRIPS = 30
N_BEST_ROUND_TRIPS = 8


@dataclass(frozen=True, slots=True)
class ClockLine:
    """host time = `host_t_s` + `slope` * (device time - `device_t_s`)."""

    device_t_s: float
    host_t_s: float  # as time.monotonic()
    slope: float  # host seconds a device second

    def host_s(self, device_t_s: float) -> float:
        """Host time at which the device's clock shows `device_t_s`."""
        return self.host_t_s + self.slope * (device_t_s - self.device_t_s)

    @property
    def drift_ppm(self) -> float:
        """How much faster the device's clock runs than the host's."""
        return (1 / self.slope - 1) * 1e6


@dataclass(frozen=True, slots=True)
class _RoundTrip:
    device_t_s: float  # middle of the device's part
    host_t_s: float  # middle of the host's part
    delay_s: float  # both ways on the wire


class DeviceClock:
    """Collects arrivals and round trips of one boot of a device, and fits the line when asked."""

    def __init__(self) -> None:
        self._bucket = 0  # number of the newest bucket
        self._best: deque[tuple[float, float]] = deque(maxlen=N_BUCKETS)  # (device, host) of the least delay in each
        self._round_trips: deque[_RoundTrip] = deque(maxlen=N_ROUND_TRIPS)

    def add_arrival(self, device_t_s: float, host_t_s: float) -> None:
        """Note that what the device finished at `device_t_s` arrived at `host_t_s`."""
        bucket = int(device_t_s // BUCKET_S)
        if not self._best or bucket > self._bucket:
            self._bucket = bucket
            self._best.append((device_t_s, host_t_s))
        elif host_t_s - device_t_s < self._best[-1][1] - self._best[-1][0]:
            self._best[-1] = (device_t_s, host_t_s)

    def add_round_trip(self, sent_s: float, device_rx_s: float, device_tx_s: float, received_s: float) -> None:
        """Note a PING sent and its PONG received (host clock), and when the device got and answered it (its clock)."""
        delay_s = (received_s - sent_s) - (device_tx_s - device_rx_s)
        self._round_trips.append(_RoundTrip((device_rx_s + device_tx_s) / 2, (sent_s + received_s) / 2, delay_s))

    @property
    def line(self) -> ClockLine | None:
        """The fit so far; None before the first arrival.

        Without a round trip it lies late by the least delay of the line. Before three seconds the slope is taken as 1.
        """
        if not self._best:
            return None
        device_s, host_s = np.array(self._best).T
        reference_s = float(device_s[-1])
        slope, arrival_s = _fit(device_s - reference_s, host_s)
        return ClockLine(reference_s, self._without_delay(arrival_s, reference_s, slope), slope)

    @property
    def round_trip_s(self) -> float | None:
        """Shortest time there and back of the recent round trips."""
        return min((trip.delay_s for trip in self._round_trips), default=None)

    def _without_delay(self, arrival_s: float, reference_s: float, slope: float) -> float:
        if not self._round_trips:
            return arrival_s
        best = sorted(self._round_trips, key=lambda trip: trip.delay_s)[:N_BEST_ROUND_TRIPS]
        return float(np.median([trip.host_t_s - slope * (trip.device_t_s - reference_s) for trip in best]))


def _fit(x_s: NDArray[np.float64], host_s: NDArray[np.float64]) -> tuple[float, float]:
    """Slope, and host time at x = 0, of the line through the arrivals."""
    if len(x_s) < 3:
        return 1.0, float(np.min(host_s - x_s))
    y_s = host_s - host_s[-1]  # so that little is fitted, not the days a host may be up
    slope, offset_s = np.polyfit(x_s, y_s, 1)
    residual_s = y_s - slope * x_s
    early = residual_s <= np.median(residual_s)  # a second in which everything came late has no say
    if early.sum() >= 3:
        slope, offset_s = np.polyfit(x_s[early], y_s[early], 1)
    return float(slope), float(host_s[-1] + offset_s)
