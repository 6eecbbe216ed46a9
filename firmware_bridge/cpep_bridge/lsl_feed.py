"""Streams of the lab streaming layer (LSL): `--port lsl:NAME` for a stream by its name, `lsl:` for the only EMG stream.

So every device with an LSL app can be read: Delsys, Mentalab, g.tec, BioSemi, the apps of OpenBCI. The time stamps are
the sender's, converted to this machine's clock by LSL's own clock correction. Needs the extra `[lsl]`.
"""

import time
from importlib import import_module
from typing import Any

import numpy as np

from cpep_bridge.fed import Fed
from cpep_bridge.patience import HEARD_S, Patience
from cpep_edge.blocks import MAX_RATE_HZ, StreamInfo
from cpep_edge.errors import ConfigError, LinkError
from cpep_edge.outside import printable

LSL_PREFIX = "lsl:"

_IN_UV = {
    "microvolts": 1.0,
    "microvolt": 1.0,
    "uv": 1.0,
    "µv": 1.0,
    "millivolts": 1e3,
    "mv": 1e3,
    "volts": 1e6,
    "v": 1e6,
}
_MOST_SAMPLES = 8_192  # per pull


class LslFeed:
    """An LSL inlet, as a Feed."""

    def __init__(self, name: str, patience: Patience, timeout_s: float) -> None:
        """name: of the stream; empty for the only one of type EMG

        Raises ConfigError without pylsl, LinkError when no such stream is found or it has no sample rate.
        """
        lsl = _pylsl()
        about = _resolve(lsl, name, patience, timeout_s)
        self._lost: type[Exception] = lsl.util.LostError
        self._inlet = lsl.StreamInlet(about, max_buflen=60, recover=False, processing_flags=lsl.proc_clocksync)
        try:
            whole = self._inlet.info(timeout=max(0.1, timeout_s))  # with its description
            self._inlet.open_stream(timeout=max(0.1, timeout_s))
        except (lsl.util.TimeoutError, lsl.util.LostError) as error:
            raise LinkError(f"the LSL stream {printable(about.name())!r} was found but does not answer") from error
        said = whole.desc().child("channels").child("channel").child_value("unit").strip().lower()
        self._scale, unit = (_IN_UV[said], "uV") if said in _IN_UV else (1.0, "count")
        self.info = StreamInfo(
            name=printable(whole.name()),
            n_channels=whole.channel_count(),
            sample_rate_hz=whole.nominal_srate(),
            unit=unit,
            serial_number=printable(whole.source_id()),
            has_clock=True,
        )
        self._ahead_s = lsl.local_clock() - time.monotonic()

    def pull(self, timeout_s: float) -> Fed | None:
        """See Feed."""
        try:
            samples, stamps_s = self._inlet.pull_chunk(timeout=timeout_s, max_samples=1)
            if stamps_s:
                more, more_s = self._inlet.pull_chunk(timeout=0.0, max_samples=_MOST_SAMPLES)
                samples, stamps_s = [*samples, *more], [*stamps_s, *more_s]
        except self._lost as error:
            raise LinkError(
                f"the LSL stream {self.info.name!r} is gone: its sender ended or left the network"
            ) from error
        if not stamps_s:
            return None
        values = np.array(samples, np.float32) * np.float32(self._scale)
        return Fed(values, time.monotonic(), np.array(stamps_s) - self._ahead_s)

    def close(self) -> None:
        """See Feed."""
        self._inlet.close_stream()


def _resolve(lsl: Any, name: str, patience: Patience, timeout_s: float) -> Any:
    deadline_s = time.monotonic() + timeout_s
    key, value = ("name", name) if name else ("type", "EMG")
    found: list[Any] = []
    while not found and time.monotonic() < deadline_s:
        patience.check()
        found = lsl.resolve_byprop(key, value, timeout=min(2 * HEARD_S, timeout_s))
    sampled = [one for one in found if 0 < one.nominal_srate() <= MAX_RATE_HZ and one.channel_format() != lsl.cf_string]
    if not found:
        there = ", ".join(sorted({printable(one.name()) for one in lsl.resolve_streams(0.5)})) or "none"
        wanted = repr(printable(name)) if name else "of type EMG"
        raise LinkError(f"there is no LSL stream {wanted} on this network within {timeout_s:g} s; there are: {there}")
    if not sampled:
        raise LinkError(f"the LSL stream {printable(found[0].name())!r} has no sample rate, because it sends events")
    if len({one.uid() for one in sampled}) > 1:
        names = ", ".join(sorted(printable(one.name()) for one in sampled))
        raise LinkError(f"several LSL streams match: {names}; choose one with lsl:NAME")
    return sampled[0]


def _pylsl() -> Any:
    """The module, as Any because it has no type annotations."""
    try:
        return import_module("pylsl")
    except (ImportError, RuntimeError) as error:
        raise ConfigError(f"LSL needs another package: run pip install 'cpep-edge[lsl]' ({error})") from error
