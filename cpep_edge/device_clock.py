"""Convert the device's clock to host time by fitting a line; samples are never resampled to it.

Device clocks drift by tens of parts per million, and a frame arrives after its time with a delay that is never
negative. So only the arrival with the least delay in each second of the stream is kept, and the line is fitted through
those. Even these have some delay, which arrivals alone cannot show. Round trips (PING, PONG) do: the delay is half of
the shortest ones.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BUCKET_S = 1.0  # device time; one arrival is kept per bucket
N_BUCKETS = 120
N_ROUND_TRIPS = 30
N_BEST_ROUND_TRIPS = 8


@dataclass(frozen=True, slots=True)
class ClockLine:
    """host time = `host_t_s` + `slope` * (device time - `device_t_s`)."""

    device_t_s: float
    host_t_s: float  # as time.monotonic()
    slope: float  # host seconds per device second

    def host_s(self, device_t_s: float) -> float:
        """Host time at which the device's clock shows `device_t_s`."""
        return self.host_t_s + self.slope * (device_t_s - self.device_t_s)

    @property
    def drift_ppm(self) -> float:
        """How much faster the device's clock runs than the host's, parts per million."""
        return (1 / self.slope - 1) * 1e6


@dataclass(frozen=True, slots=True)
class _RoundTrip:
    device_t_s: float  # midway between receiving the PING and answering it
    host_t_s: float  # midway between sending the PING and receiving the PONG
    delay_s: float  # on the link, both directions together


class DeviceClock:
    """Collects arrivals and round trips from one boot of a device, and fits the line on demand."""

    def __init__(self) -> None:
        self._bucket = 0  # number of the newest bucket
        self._best: deque[tuple[float, float]] = deque(maxlen=N_BUCKETS)  # (device, host) of each bucket's least delay
        self._round_trips: deque[_RoundTrip] = deque(maxlen=N_ROUND_TRIPS)

    def add_arrival(self, device_t_s: float, host_t_s: float) -> None:
        """Add a frame that the device finished at `device_t_s` and that arrived at `host_t_s`."""
        bucket = int(device_t_s // BUCKET_S)
        if not self._best or bucket > self._bucket:
            self._bucket = bucket
            self._best.append((device_t_s, host_t_s))
        elif host_t_s - device_t_s < self._best[-1][1] - self._best[-1][0]:
            self._best[-1] = (device_t_s, host_t_s)

    def add_round_trip(self, sent_s: float, device_rx_s: float, device_tx_s: float, received_s: float) -> None:
        """Add a round trip: PING sent and PONG received (host clock), PING received and answered (device clock)."""
        delay_s = (received_s - sent_s) - (device_tx_s - device_rx_s)
        self._round_trips.append(_RoundTrip((device_rx_s + device_tx_s) / 2, (sent_s + received_s) / 2, delay_s))

    @property
    def line(self) -> ClockLine | None:
        """The current fit; None before the first arrival.

        Without a round trip it is late by the least delay of the link. With less than three seconds of arrivals the
        slope is 1.
        """
        if not self._best:
            return None
        device_s, host_s = np.array(self._best).T
        reference_s = float(device_s[-1])
        slope, arrival_s = _fit(device_s - reference_s, host_s)
        return ClockLine(reference_s, self._without_delay(arrival_s, reference_s, slope), slope)

    @property
    def round_trip_s(self) -> float | None:
        """The shortest of the recent round trips, both directions together; None before the first."""
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
    y_s = host_s - host_s[-1]  # small numbers for precision: host time may count days
    slope, offset_s = np.polyfit(x_s, y_s, 1)
    residual_s = y_s - slope * x_s
    early = residual_s <= np.median(residual_s)  # leave out seconds in which every arrival was late
    if early.sum() >= 3:
        slope, offset_s = np.polyfit(x_s[early], y_s[early], 1)
    return float(slope), float(host_s[-1] + offset_s)
