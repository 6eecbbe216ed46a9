"""A source whose samples come at another rate than it promises, brought to the promised one.

A model's filters and windows are of one rate. A board without a clock that is set to another one would be read at the
wrong speed: so once the host's clock has told the real rate, the stream is resampled from it, as a new stream.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace

from cpep_bridge.resampling import Resampler
from cpep_edge.blocks import Block, Relayed

LEAST_OFF = 0.03  # below, windows are hardly longer or shorter than those of training; the rate is known to a percent
_NEW_STREAM = 1 << 32  # added to boot ids, which are of 32 bits

_log = logging.getLogger(__name__)


class AtPromisedRate(Relayed):
    """A source at the rate that its `info` promises; one with a clock of its own is as it was."""

    def __iter__(self) -> Iterator[Block]:
        """The blocks as they come, and while their rate is known to be another one resampled."""
        info = self.info
        from_hz, resampler, n_changes = info.sample_rate_hz, None, 0
        next_index, boot_id = 0, None
        for block in self._source:
            heard_hz = (0.0 if info.has_clock else self.counts.heard_hz) or from_hz
            if abs(heard_hz / info.sample_rate_hz - 1) <= LEAST_OFF:
                heard_hz = info.sample_rate_hz
            if abs(heard_hz / from_hz - 1) > LEAST_OFF:
                from_hz, n_changes = float(f"{heard_hz:.3g}"), n_changes + 1  # as exact as it is known
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
