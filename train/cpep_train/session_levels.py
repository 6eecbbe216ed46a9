"""Each session's channel levels, measured in its calibration recordings as they will be live.

A recipe names the movements of the calibration by their stages; their EMG is used without labels, of held-out people
too, because a wearer calibrates before use.
"""

import numpy as np
from numpy.typing import NDArray

from cpep_edge.calibration import SETTLE_S, channel_levels_uv, stretch_levels_uv
from cpep_edge.errors import DataError
from cpep_edge.preprocess import Preprocessing, Preprocessor
from cpep_edge.session import Session
from cpep_train.corpus import Corpus, Row
from cpep_train.recipe import Recipe


class SessionLevels:
    """The levels of a corpus' sessions, measured when first asked for."""

    def __init__(self, corpus: Corpus, recipe: Recipe) -> None:
        self._corpus, self._recipe = corpus, recipe
        self._levels: dict[tuple[str, str, str], NDArray[np.float32]] = {}

    def level_uv(self, row: Row) -> NDArray[np.float32] | None:
        """The channel levels of a recording's session, (n_channels,); None where the recipe does not calibrate.

        Raises DataError when the session has no recording of any calibration movement, or one is flat.
        """
        if not self._recipe.calibration.stages:
            return None
        key = row.donning
        if key not in self._levels:
            self._levels[key] = self._measure(row)
        return self._levels[key]

    def pattern(self) -> tuple[float, ...]:
        """How strong each electrode usually is: the mean over training sessions of the logarithm of their levels.

        The mean over channels is zero. Empty where the recipe does not calibrate.
        """
        sessions = {row.donning: row for row in self._corpus.rows if row.split == "train"}
        levels_uv = [level for level in map(self.level_uv, sessions.values()) if level is not None]
        if not levels_uv:
            return ()
        mean = np.log(levels_uv).mean(axis=0)
        return tuple(round(float(value), 4) for value in mean - mean.mean())

    def _measure(self, row: Row) -> NDArray[np.float32]:
        movements = [
            other
            for other in self._corpus.rows
            if other.donning == row.donning
            and other.stage in self._recipe.calibration.stages
            and not other.is_idle
            and bool(other.split) >= bool(row.split)  # what the run leaves out measures nothing
        ]
        if not movements:
            raise DataError(
                f"{self._corpus.folder}: session {row.session} of {row.user}, wrist {row.side}, has no recording of "
                f"{' or '.join(self._recipe.calibration.stages)} to calibrate with"
            )
        try:
            stretches = np.concatenate([self._stretches(movement) for movement in movements])
            live = np.ones(stretches.shape[1], bool)
            live[[number - 1 for number in self._corpus.masked_channels]] = False
            measured = channel_levels_uv(stretches[:, live])
            levels = np.full(len(live), np.exp(np.log(measured).mean()), np.float32)  # of masked ones: the usual level
            levels[live] = measured
            return levels
        except DataError as error:
            raise DataError(f"{self._corpus.folder}, session {row.session} of {row.user}: {error}") from error

    def _stretches(self, row: Row) -> NDArray[np.float64]:
        rate_hz = self._recipe.signal.sample_rate_hz
        with self._corpus.session(row) as session:
            filtered = filter_unscaled(session, self._recipe)
        return stretch_levels_uv(filtered[round(SETTLE_S * rate_hz) :], rate_hz)


def filter_unscaled(session: Session, recipe: Recipe) -> NDArray[np.float32]:
    """The filtered signal of a whole recording in microvolts, (n_samples, n_channels)."""
    emg_uv = session.emg()
    spec = Preprocessing(recipe.signal.sample_rate_hz, recipe.preprocessing(1.0).sos, scale_uv=1.0, clip=np.inf)
    return Preprocessor(spec, emg_uv.shape[1])(emg_uv)
