"""A source of given blocks, in place of a band."""

from collections.abc import Iterator

import numpy as np

from cpep_bridge.recording import Wearer
from cpep_edge.blocks import Block, LinkCounts, StreamInfo

RATE_HZ = 2_000.0
WEARER = Wearer("anna", "monday", "left")
INFO = StreamInfo("in memory", 4, RATE_HZ)


class BlocksInMemory:
    """A BlockSource of given blocks."""

    info = INFO
    counts = LinkCounts()

    def __init__(self, blocks: list[Block], error: BaseException | None = None) -> None:
        self._blocks, self._error = blocks, error

    def __enter__(self) -> "BlocksInMemory":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def stop(self) -> None: ...

    def __iter__(self) -> Iterator[Block]:
        yield from self._blocks
        if self._error is not None:
            raise self._error


def block(sample_index: int, n_samples: int = 10, boot_id: int = 0, host_t_s: float | None = None) -> Block:
    values = np.arange(sample_index, sample_index + n_samples, dtype=np.float32)
    arrival_s = (sample_index + n_samples) / RATE_HZ if host_t_s is None else host_t_s
    return Block(np.repeat(values[:, None], 4, axis=1), sample_index, sample_index / RATE_HZ, arrival_s, boot_id)
