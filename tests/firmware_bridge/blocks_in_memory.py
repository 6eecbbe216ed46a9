"""A source of blocks in memory, in place of a band."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.recording import Wearer
from cpep_edge.blocks import Block, LinkCounts, StreamInfo

RATE_HZ = 2_000.0
WEARER = Wearer("anna", "monday", "left")
INFO = StreamInfo("in memory", 4, RATE_HZ)


class BlocksInMemory:
    """A BlockSource of given blocks; if an error is given, it is raised after the last block."""

    def __init__(self, blocks: list[Block], error: BaseException | None = None, info: StreamInfo = INFO) -> None:
        self._blocks, self._error, self.info = blocks, error, info
        self.counts, self.closed = LinkCounts(), False

    def __enter__(self) -> "BlocksInMemory":
        return self

    def __exit__(self, *exc: object) -> None:
        self.closed = True

    def stop(self) -> None: ...

    def __iter__(self) -> Iterator[Block]:
        yield from self._blocks
        if self._error is not None:
            raise self._error


def take(source: Iterable[Block], n_samples: int) -> list[Block]:
    """The first blocks of a source, until `n_samples` samples were received or lost."""
    blocks: list[Block] = []
    for block in source:
        blocks.append(block)
        if block.sample_index + len(block.samples_uv) >= n_samples:
            break
    return blocks


def laid_out(blocks: list[Block], n_samples: int | None = None) -> NDArray[np.float32]:
    """All samples at the places of their indices, NaN where one is missing. Checks that none comes twice."""
    end = blocks[-1].sample_index + len(blocks[-1].samples_uv)
    signal = np.full((n_samples or end, blocks[0].samples_uv.shape[1]), np.nan, np.float32)
    for block in blocks:
        place = slice(block.sample_index, block.sample_index + len(block.samples_uv))
        assert np.isnan(signal[place]).all()
        signal[place] = block.samples_uv
    return signal


def block(sample_index: int, n_samples: int = 10, boot_id: int = 0, host_t_s: float | None = None) -> Block:
    values = np.arange(sample_index, sample_index + n_samples, dtype=np.float32)
    arrival_s = (sample_index + n_samples) / RATE_HZ if host_t_s is None else host_t_s
    return Block(np.repeat(values[:, None], 4, axis=1), sample_index, sample_index / RATE_HZ, arrival_s, boot_id)
