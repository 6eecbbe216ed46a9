"""How the band sat in each donning of a corpus, estimated from its calibration recordings as in live use.

A recipe says which movements a wearer makes to calibrate. The EMG of those recordings is used without labels, also for
held-out people, because a wearer calibrates before use.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from cpep_edge.donning import Donning, Likelihood, Tokens, live_levels_uv, measure_donning, placements, window_means
from cpep_edge.errors import DataError
from cpep_edge.head import Head
from cpep_edge.mpf import MpfSpec
from cpep_edge.preprocess import Preprocessing
from cpep_train.corpus import Corpus, Row
from cpep_train.recipe import Recipe

DonningKey = tuple[str, str, str]  # wearer, session, side; no session where the band stayed on through all


class Donnings:
    """The donnings of a corpus, measured when first asked for."""

    def __init__(
        self,
        corpus: Corpus,
        recipe: Recipe,
        preprocessing: Preprocessing,
        front_end: MpfSpec | None = None,
        head: Head | None = None,
    ) -> None:
        """head: finds how far the band is turned; None: the electrodes' levels are used, or turns are not undone"""
        self._corpus, self._recipe, self._preprocessing, self._front_end = corpus, recipe, preprocessing, front_end
        self._head = head
        self._found: dict[DonningKey, Donning] = {}
        self._levels_uv: dict[DonningKey, NDArray[np.float32]] = {}

    def key(self, row: Row) -> DonningKey:
        """Which donning a recording belongs to."""
        if self._recipe.calibration.donning == "wearing":
            return row.donning
        return row.user, "" if self._recipe.calibration.donning == "user" else row.session, row.side

    def of(self, row: Row) -> Donning:
        """How the band sat while a recording was made; the default when the recipe does not calibrate.

        Raises DataError when the session has no recording of any calibration movement, or one is flat.
        """
        if not self._recipe.calibration.asked:
            return Donning()
        key = self.key(row)
        if key not in self._found:
            self._found[key] = self._measure(row)
        return self._found[key]

    def calibration_rows(self, row: Row) -> list[Row]:
        """The recordings that calibrate the donning of a recording."""
        calibration, taken = self._recipe.calibration, []
        counts: dict[str, int] = {}
        for other in self._corpus.rows:
            wanted = not calibration.stages or other.stage in calibration.stages
            used = not other.is_idle and bool(other.split) >= bool(row.split)  # rows in a split need such rows
            if self.key(other) != self.key(row) or not wanted or not used:
                continue
            counts[other.stage] = counts.get(other.stage, 0) + 1
            if not calibration.repetitions or counts[other.stage] <= calibration.repetitions:
                taken.append(other)
        return taken

    def pattern(self) -> tuple[float, ...]:
        """Each electrode's usual strength: the mean over training sessions of the logarithm of its level.

        The mean over channels is zero. Empty where the recipe does not calibrate.
        """
        sessions = {self.key(row): row for row in self._corpus.rows if row.split == "train"}
        levels_uv = [donning.level_uv for donning in map(self.of, sessions.values()) if donning.level_uv is not None]
        if not levels_uv:
            return ()
        mean = np.log(levels_uv).mean(axis=0)
        return tuple(round(float(value), 4) for value in mean - mean.mean())

    def live_levels_uv(self, row: Row) -> NDArray[np.float32] | None:
        """The levels of the electrodes that are not dead in a recording's donning; None without calibration."""
        if not self._recipe.calibration.asked:
            return None
        key = self.key(row)
        if key not in self._levels_uv:
            movements, missing = self._movements(row), [number - 1 for number in self._corpus.masked_channels]
            may_be_dead = self._recipe.emg.front_end == "mpf"
            with self._named(row):
                found, dead = live_levels_uv(movements, self._preprocessing, missing, may_be_dead=may_be_dead)
            self._levels_uv[key] = np.delete(found, dead)
        return self._levels_uv[key]

    def _movements(self, row: Row) -> list[NDArray[np.float32]]:
        movements, calibration = self.calibration_rows(row), self._recipe.calibration
        if not movements:
            asked = " or ".join(calibration.stages) or "any gesture"
            raise DataError(
                f"{self._corpus.folder}: session {row.session} of {row.user}, wrist {row.side}, has no recording "
                f"of {asked} to calibrate with"
            )
        return [self._emg(movement) for movement in movements]

    def _measure(self, row: Row) -> Donning:
        orders, calibration = [], self._recipe.calibration
        if self._head is not None:
            orders = placements(self._recipe.signal.n_channels, calibration.max_turn, calibration.mirrored)
        movements = self._movements(row)
        with self._named(row):
            return measure_donning(
                movements,
                self._preprocessing,
                self._front_end,
                orders=orders,
                missing=[number - 1 for number in self._corpus.masked_channels],
                likelihood=self._likelihood(),
            )

    @contextmanager
    def _named(self, row: Row) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            raise DataError(f"{self._corpus.folder}, session {row.session} of {row.user}: {error}") from error

    def _likelihood(self) -> Likelihood | None:
        head, front_end = self._head, self._front_end
        if head is None or front_end is None:
            return None
        n_tokens = front_end.n_tokens(self._recipe.windows.window_samples)

        def likelihood(recordings: Sequence[Tokens]) -> float:
            return head.fit_of(np.concatenate([window_means(tokens, n_tokens) for tokens in recordings]))

        return likelihood

    def _emg(self, row: Row) -> NDArray[np.float32]:
        with self._corpus.session(row) as session:
            return session.emg()
