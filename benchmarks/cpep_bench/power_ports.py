"""Power meters on a serial port: Nordic's Power Profiler Kit II, and the wristband's own gauge."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from cpep_bench.power import Instrument, Meter, PowerReading, integrate
from cpep_edge.errors import PowerError

if TYPE_CHECKING:
    from cpep_bridge.band import Band

PPK2_RATE_HZ = 100_000.0
_LEAST_SHARE = 0.9  # least share of a window's expected readings; with fewer, the line lost some
_COUNTER_SHIFT, _COUNTER_MASK = 18, 0x3F  # the bits of a reading that hold the PPK2's counter
_DRAIN_S = 0.2
_SLEEP_S = 0.01


class Ppk2(Meter):
    """A PPK2 as an ampere meter in a supply of known voltage; it does not supply power itself."""

    def __init__(self, port: str, supply_mv: int, clock: Callable[[], float] = time.monotonic) -> None:
        """supply_mv: voltage of the device's supply, because the PPK2 only measures currents

        Raises PowerError when `ppk2-api` is not installed or no PPK2 answers.
        """
        self.instrument = Instrument(f"PPK2 in a supply of {supply_mv} mV", "what the PPK2 supplies", PPK2_RATE_HZ)
        self._port, self._supply_v, self._clock = port, supply_mv * 1e-3, clock
        with self._telling():
            try:
                from ppk2_api.ppk2_api import PPK2_API
            except ImportError as error:
                raise PowerError("a PPK2 needs ppk2-api: install it with pip install 'cpep-edge[power]'") from error
            self._ppk2 = PPK2_API(port, timeout=1, write_timeout=1, exclusive=True)
            self._ppk2.stop_measuring()  # an earlier run may have left it measuring
            time.sleep(_DRAIN_S)
            self._ppk2.get_data()
            if not self._ppk2.get_modifiers():
                raise PowerError(f"{port}: no PPK2 answers there")
            self._ppk2.use_ampere_meter()
            self._ppk2.set_source_voltage(supply_mv)
            self._ppk2.toggle_DUT_power("ON")
        self._bytes, self._begun_s = bytearray(), 0.0
        self._failure: Exception | None = None
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        self._bytes, self._failure = bytearray(), None
        self._ending.clear()
        self._thread = threading.Thread(target=self._collect, name="PPK2", daemon=True)
        with self._telling():
            self._ppk2.get_data()  # the rest of the last window
            self._ppk2.start_measuring()
        self._begun_s = self._clock()
        self._thread.start()

    def end(self) -> PowerReading:
        """See Meter; the currents are computed here, after the timed part."""
        seconds = self._clock() - self._begun_s
        self._finish()
        if self._failure is not None:
            raise PowerError(f"the PPK2 on {self._port} stopped during the run: {self._failure}") from self._failure
        words = np.frombuffer(self._bytes, "<u4", len(self._bytes) // 4)
        in_turn = int(np.sum(np.diff(words >> _COUNTER_SHIFT & _COUNTER_MASK) & _COUNTER_MASK == 1))
        if in_turn < _LEAST_SHARE * seconds * PPK2_RATE_HZ:
            raise PowerError(
                f"the PPK2 on {self._port} stopped during the run: {in_turn} of about {seconds * PPK2_RATE_HZ:.0f} "
                "readings arrived; look at its cable and its USB port"
            )
        self._ppk2.remainder = {"sequence": b"", "len": 0}
        currents_ua, _ = self._ppk2.get_samples(bytes(self._bytes))
        return PowerReading(float(np.mean(currents_ua)) * 1e-6 * self._supply_v * seconds, seconds, len(currents_ua))

    def close(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            self._finish()
        self._ppk2.ser.close()

    def _finish(self) -> None:
        with self._telling():
            self._ppk2.stop_measuring()
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _collect(self) -> None:
        try:
            while not self._ending.wait(_SLEEP_S):
                self._take()
            time.sleep(_DRAIN_S)
            self._take()  # readings in transit when the PPK2 was stopped
        except Exception as error:  # raised again at the end of the window
            self._failure = error

    def _take(self) -> None:
        while data := self._ppk2.get_data():
            self._bytes += data

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn the library's exceptions into PowerError with one sentence."""
        try:
            yield
        except PowerError:
            raise
        except (OSError, ValueError) as error:  # pyserial's are OSError, undecodable metadata is ValueError
            raise PowerError(f"{self._port}: no PPK2 answers there: {error}") from error


class BandGauge(Meter):
    """A wristband's battery gauge: TELEMETRY once a second, during a BENCH or while the band idles."""

    def __init__(self, band: "Band", rate_hz: float = 1.0) -> None:
        """band: opened, not streaming; rate_hz: of its TELEMETRY"""
        name = f"TELEMETRY of {band.info.name}"
        self.instrument = Instrument(name, "the whole band, from its battery's gauge", rate_hz)
        self._band = band

    def begin(self) -> None:
        self._band.take_telemetry()

    def end(self) -> PowerReading:
        """See Meter. A reading covers the time since the one before it, so the first is left out."""
        points = [
            (told.t_us * 1e-6, abs(told.battery_mv * 1e-3 * told.battery_current_ua * 1e-6))
            for told in self._band.take_telemetry()[1:]
        ]
        return integrate(points, self.instrument)
