"""Boards that print their samples: one line of text per sample, with numbers between separators.

Lines may have runs of blanks, a separator at the end, `name:value` pairs as for a serial plotter, unused columns, and a
column of time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.fixed_frames import Packets
from cpep_edge.blocks import LARGEST_SAMPLE

MAX_LINE_BYTES = 4096
MAX_TICKS = 2**53  # of a number or a time; larger whole numbers are not exact as floats


@dataclass(frozen=True, slots=True)
class LineLayout:
    """The meaning of each word of a line, counted from 0."""

    separator: str  # blank: any run of blanks
    columns: tuple[int, ...]  # of the channels
    counter_column: int | None = None  # None: lines are not numbered
    counter_modulus: int | None = None  # where the number wraps
    time_column: int | None = None  # None: lines have no time
    time_tick_s: float = 1e-3  # unit of the time
    time_modulus: int | None = None  # where the time wraps

    @property
    def n_columns(self) -> int:
        """The least number of words in a line."""
        return 1 + max(*self.columns, self.counter_column or 0, self.time_column or 0)


class LineDecoder:
    """Finds lines of numbers in a stream of bytes.

    A line with a missing or impossible number is dropped and counted as corrupt. Text before the first sample is
    skipped without being counted.
    """

    def __init__(self, layout: LineLayout) -> None:
        self.layout = layout
        self.n_corrupt = 0
        self._tail = b""
        self._synced = False  # whether the start of the current line was received
        self._seen = False  # whether there was a sample
        self._wraps = 0  # how often the time wrapped
        self._last_ticks = 0.0

    def feed(self, data: bytes) -> Packets:
        """The lines that are complete now, each as a frame of one sample."""
        *lines, self._tail = (self._tail + data).split(b"\n")
        counters, stamps_s, rows = list[int](), list[float](), list[list[float]]()
        for line in lines:
            if line.strip() and self._synced:
                try:
                    counter, stamp_s, row = self._parsed(line.decode("ascii"))
                except ValueError:
                    self.n_corrupt += self._seen
                else:
                    self._seen = True
                    counters.append(counter)
                    stamps_s.append(stamp_s)
                    rows.append(row)
            self._synced = True
        if len(self._tail) > MAX_LINE_BYTES:
            self._tail, self._synced = b"", False
            self.n_corrupt += 1
        layout = self.layout
        return Packets(
            None if layout.counter_column is None else np.array(counters, np.int64),
            np.array(rows, np.float32).reshape(len(rows), 1, len(layout.columns)),
            None if layout.time_column is None else np.array(stamps_s, np.float64),
        )

    def _parsed(self, line: str) -> tuple[int, float, list[float]]:
        """The counter, time in seconds and samples of a line. Raises ValueError when it does not fit the layout."""
        layout = self.layout
        words = line.split(None if layout.separator.isspace() else layout.separator)
        if len(words) < layout.n_columns:
            raise ValueError("too few words")
        row = [float(words[column].rpartition(":")[2]) for column in layout.columns]
        if not all(abs(value) <= LARGEST_SAMPLE for value in row):  # False for NaN too
            raise ValueError("no number of a converter")
        counter, ticks = 0, 0.0
        if layout.counter_column is not None:
            number = float(words[layout.counter_column].rpartition(":")[2])
            if not 0 <= number < (layout.counter_modulus or MAX_TICKS) or not number.is_integer():
                raise ValueError("no number of a line")
            counter = int(number)
        if layout.time_column is not None:
            ticks = float(words[layout.time_column].rpartition(":")[2])
            if not 0 <= ticks < (layout.time_modulus or MAX_TICKS):
                raise ValueError("no time")
        return counter, self._stamp_s(ticks), row

    def _stamp_s(self, ticks: float) -> float:
        modulus = self.layout.time_modulus
        if modulus is not None:
            if ticks < self._last_ticks - modulus / 2:
                self._wraps += 1
            self._last_ticks = ticks
        return (ticks + self._wraps * (modulus or 0)) * self.layout.time_tick_s


def pack_line(layout: LineLayout, counter: int, values: NDArray[np.float32]) -> bytes:
    """One line as its board would print it; the time, and columns that the layout does not mention, are 0.

    values: (1, n_channels)
    """
    words = ["0"] * layout.n_columns
    for column, value in zip(layout.columns, values[0], strict=True):
        words[column] = f"{value:g}"
    if layout.counter_column is not None:
        words[layout.counter_column] = str(counter % layout.counter_modulus if layout.counter_modulus else counter)
    return layout.separator.join(words).encode("ascii") + b"\r\n"
