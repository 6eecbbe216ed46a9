"""Resample a source whose samples arrive at another rate than its nominal one.

A model's filters and windows need one sample rate. A board without a clock that runs at another rate would be read at
the wrong speed. So once the real rate is known by the host's clock, the samples are resampled from it to the nominal
rate, as a new stream.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace

from cpep_bridge.resampling import Resampler
from cpep_edge.blocks import Block, Relayed

LEAST_OFF = 0.03  # a smaller error hardly changes a window's length; the rate itself is known to a percent
_NEW_STREAM = 1 << 32  # added to the boot_id, which has 32 bits, to mark a new stream

_log = logging.getLogger(__name__)


class AtPromisedRate(Relayed):
    """A source resampled to the rate in its `info`. A source with its own clock is passed on unchanged."""

    def __iter__(self) -> Iterator[Block]:
        """The blocks, resampled while their real rate is known to differ from the nominal one."""
        info = self.info
        from_hz, resampler, n_changes = info.sample_rate_hz, None, 0
        next_index, boot_id = 0, None
        for block in self._source:
            heard_hz = (0.0 if info.has_clock else self.counts.heard_hz) or from_hz
            if abs(heard_hz / info.sample_rate_hz - 1) <= LEAST_OFF:
                heard_hz = info.sample_rate_hz
            if abs(heard_hz / from_hz - 1) > LEAST_OFF:
                from_hz, n_changes = float(f"{heard_hz:.3g}"), n_changes + 1  # to the accuracy of the measurement
                if heard_hz == info.sample_rate_hz:
                    from_hz, resampler = heard_hz, None
                    _log.warning("from here on it comes at %g Hz, as promised", heard_hz)
                else:
                    resampler = Resampler(from_hz, info.sample_rate_hz, info.n_channels)
                    _log.warning("from here on it is resampled from %g Hz to %g Hz", from_hz, info.sample_rate_hz)
            boot = block.boot_id + n_changes * _NEW_STREAM
            if resampler is None:
                yield replace(block, boot_id=boot) if n_changes else block
                continue
            if block.sample_index != next_index or block.boot_id != boot_id:
                resampler.restart(block.sample_index)
            next_index, boot_id = block.sample_index + len(block.samples_uv), block.boot_id
            first_index = resampler.next_index
            samples_uv = resampler(block.samples_uv)
            if len(samples_uv):
                device_t_s = first_index / info.sample_rate_hz
                yield replace(
                    block, samples_uv=samples_uv, sample_index=first_index, device_t_s=device_t_s, boot_id=boot
                )
