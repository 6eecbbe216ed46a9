"""Adapt a device to a model that was trained on another one: map its channels, its sample rate and its unit.

The mapping is a TOML file, because only the user knows where the electrodes are:

    channels = [0, 2, 4, 6]   # the device's channel for each channel of the model, in order; -1 where it has none
    sample_rate_hz = 2000.0   # of the model
    uv_per_count = 0.5        # when the device does not tell how many microvolts a count is
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field

from cpep_bridge.resampling import Resampler
from cpep_bridge.toml_config import Section, read_toml
from cpep_edge.blocks import MAX_RATE_HZ, MAX_UV_PER_COUNT, MIN_UV_PER_COUNT, Block, BlockSource, Relayed, StreamInfo
from cpep_edge.errors import ConfigError

SILENT = -1


class DeviceConfig(Section):
    """The changes to a device's stream; a key that is left out changes nothing."""

    channels: list[int] | None = Field(default=None, min_length=1)
    sample_rate_hz: float | None = Field(default=None, gt=0, le=MAX_RATE_HZ)
    uv_per_count: float | None = Field(default=None, ge=MIN_UV_PER_COUNT, le=MAX_UV_PER_COUNT)


class FittedSource(Relayed):
    """A source changed by a device config. Its loss counts are those of the device's own samples."""

    def __init__(self, source: BlockSource, config: DeviceConfig) -> None:
        super().__init__(source)
        self._config = config

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._check(self._source.info)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    @property
    def info(self) -> StreamInfo:
        """The description of the stream after the changes."""
        info, config = self._source.info, self._config
        return replace(
            info,
            n_channels=info.n_channels if config.channels is None else len(config.channels),
            sample_rate_hz=config.sample_rate_hz or info.sample_rate_hz,
            unit="uV" if config.uv_per_count is not None else info.unit,
            missing=info.missing if config.channels is None else _missing(config.channels, info.missing),
        )

    def __iter__(self) -> Iterator[Block]:
        """The blocks, mapped and resampled. A loss stays a jump of `sample_index`, over the same time."""
        was, now = self._source.info, self.info
        if was.sample_rate_hz == now.sample_rate_hz:
            yield from (self._mapped(block) for block in self._source)
            return
        resampler = Resampler(was.sample_rate_hz, now.sample_rate_hz, now.n_channels)
        next_index, boot_id = 0, None
        for block in self._source:
            if block.sample_index != next_index or block.boot_id != boot_id:
                resampler.restart(block.sample_index)
            next_index, boot_id = block.sample_index + len(block.samples_uv), block.boot_id
            first_index = resampler.next_index
            samples_uv = resampler(self._mapped(block).samples_uv)
            if len(samples_uv):
                since_s = first_index / now.sample_rate_hz - block.sample_index / was.sample_rate_hz
                device_t_s = block.device_t_s + since_s - resampler.delay_s
                yield replace(block, samples_uv=samples_uv, sample_index=first_index, device_t_s=device_t_s)

    def _mapped(self, block: Block) -> Block:
        samples_uv = block.samples_uv
        if self._config.channels is not None:
            order = np.array(self._config.channels)
            samples_uv = np.where(order == SILENT, np.float32(0), samples_uv[:, np.maximum(order, 0)])
        if self._config.uv_per_count is not None:
            samples_uv = samples_uv * np.float32(self._config.uv_per_count)
        return block if samples_uv is block.samples_uv else replace(block, samples_uv=samples_uv)

    def _check(self, info: StreamInfo) -> None:
        config = self._config
        missing = [number for number in config.channels or () if not SILENT <= number < info.n_channels]
        if missing:
            named = ", ".join(map(str, missing))
            raise ConfigError(
                f"the device config names channel {named}, but {info.name} has channels 0 to {info.n_channels - 1}; "
                f"write {SILENT} for one that it does not have"
            )
        if config.uv_per_count is not None and info.unit == "uV":
            raise ConfigError(f"{info.name} already sends microvolts: remove uv_per_count from the device config")
        if config.sample_rate_hz is not None:
            try:
                Resampler(info.sample_rate_hz, config.sample_rate_hz, 1)
            except ValueError as error:
                raise ConfigError(f"the device config cannot be applied: {error}") from error


def _missing(channels: list[int], of_device: tuple[int, ...]) -> tuple[int, ...]:
    """The places of a channel map without an electrode of their own: silent, or a repeat of an earlier place."""
    return tuple(n for n, channel in enumerate(channels) if channel in {SILENT, *of_device, *channels[:n]})


def load_device_config(path: Path) -> DeviceConfig:
    """Read a device config. Raises ConfigError with everything that is wrong in it."""
    return read_toml(path, DeviceConfig, "device config")
