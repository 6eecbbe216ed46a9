"""Boards that print their samples: one line of text a sample, numbers with a separator between them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.fixed_frames import Packets

MAX_LINE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class LineLayout:
    """Which numbers of a line are what."""

    separator: str
    n_channels: int
    first_column: int  # of the channels, counted from 0
    counter_column: int | None = None  # None: lines are not numbered
    counter_modulus: int | None = None  # where the number starts over


class LineDecoder:
    """Finds lines of numbers in a stream of bytes. A line with anything else in it is counted and dropped."""

    def __init__(self, layout: LineLayout) -> None:
        self.layout = layout
        self.n_corrupt = 0
        self._tail = b""
        self._synced = False  # whether a line began while listening

    def feed(self, data: bytes) -> Packets:
        """The lines that are complete now, as packets of one sample."""
        *lines, self._tail = (self._tail + data).split(b"\n")
        counters, rows = [], []
        for line in lines:
            numbers = self._numbers(line)
            if numbers is not None:
                counters.append(self._counter(numbers))
                rows.append(numbers[self.layout.first_column : self.layout.first_column + self.layout.n_channels])
            self._synced = True
        if len(self._tail) > MAX_LINE_BYTES:
            self._tail, self._synced = b"", False
            self.n_corrupt += 1
        values = np.array(rows, np.float32).reshape(len(rows), 1, self.layout.n_channels)
        return Packets(None if self.layout.counter_column is None else np.array(counters, np.int64), values)

    def _numbers(self, line: bytes) -> list[float] | None:
        """The numbers of a line; None when it is blank, half heard, or not what the layout says."""
        if not line.strip():
            return None
        try:
            numbers = [float(word) for word in line.decode("ascii").strip().split(self.layout.separator)]
        except ValueError:
            numbers = []
        if len(numbers) >= self._least_columns and np.isfinite(numbers).all() and self._synced:
            return numbers
        self.n_corrupt += self._synced
        return None

    @property
    def _least_columns(self) -> int:
        return max(self.layout.first_column + self.layout.n_channels, (self.layout.counter_column or 0) + 1)

    def _counter(self, numbers: list[float]) -> int:
        return 0 if self.layout.counter_column is None else int(numbers[self.layout.counter_column])


def pack_line(layout: LineLayout, counter: int, values: NDArray[np.float32]) -> bytes:
    """One line as its board would print it; columns that the layout does not speak of are 0.

    values: (1, n_channels)
    """
    n_columns = max(layout.first_column + layout.n_channels, (layout.counter_column or 0) + 1)
    words = ["0"] * n_columns
    words[layout.first_column : layout.first_column + layout.n_channels] = [f"{value:g}" for value in values[0]]
    if layout.counter_column is not None:
        words[layout.counter_column] = str(counter % layout.counter_modulus if layout.counter_modulus else counter)
    return layout.separator.join(words).encode("ascii") + b"\r\n"
