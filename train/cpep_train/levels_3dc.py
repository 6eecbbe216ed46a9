"""The 3DC recordings as `cpep_train.measure_3dc` trains on them: calibrated, placed, with the signal's difference.

A person's first repetition, 55 s in which each gesture comes once, is taken without its labels for the calibration that
a wearer does before use. It gives each channel's level, and for a person left out also where the band sits
(`cpep_train.band_placement`); people of the training are placed by the mean levels of their labelled gestures. Beside
the ten electrodes stand the differences of successive samples of each, whose level is the waveform length of Hudgins et
al. (1993).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_edge.calibration import SETTLE_S, channel_levels_uv, stretch_levels_uv
from cpep_edge.files import replacing_folder
from cpep_edge.preprocess import Preprocessing, Preprocessor, design_filter
from cpep_edge.session import write_session
from cpep_train.band_placement import Placement, PlacementModel, common_frame
from cpep_train.corpus import Corpus, Row, write_metadata
from cpep_train.import_3dc import GESTURES, N_CHANNELS, SAMPLE_RATE_HZ

WINDOW, STRIDE = 250, 50  # samples: a quarter of a second, every 50 ms
N_ENROLLED = 4  # repetitions; as many are asked about
HIGH_PASS_HZ = 20.0
_FLOOR = 1e-3  # counts: a flat window has a log too


@dataclass(frozen=True, slots=True)
class Wearer:
    """One person's calibration and log levels."""

    level: NDArray[np.float32]  # (20,), of electrodes and differences, in the first repetition
    log_levels: NDArray[np.float64]  # (n, 10), waveform length of windows against the first repetition's mean
    gesture: NDArray[np.int64]  # (n,)
    repetition: NDArray[np.int64]  # (n,), from 1

    def mean_levels(self, most_repetitions: int) -> NDArray[np.float64]:
        """Mean log levels of each gesture, (11, 10)."""
        kept = self.repetition <= most_repetitions
        means = [self.log_levels[kept & (self.gesture == g)].mean(axis=0) for g in range(len(GESTURES))]
        return np.stack(means)


def repetition_of(row: Row) -> int:
    """1 to 8; the importer names the session after it."""
    return int(row.session.rpartition("-rep")[2])


def find_wearers(corpus: Corpus) -> dict[str, Wearer]:
    """Calibrate everybody in an imported 3DC corpus."""
    return {user: _wearer(corpus, user) for user in sorted({row.user for row in corpus.rows})}


def place_together(wearers: Mapping[str, Wearer], users: Sequence[str], most_repetitions: int) -> dict[str, Placement]:
    """Bring people to a common frame by their labelled gestures of so many repetitions."""
    means = np.stack([wearers[user].mean_levels(most_repetitions) for user in users])
    return dict(zip(users, common_frame(means), strict=True))


def place_unlabelled(wearers: Mapping[str, Wearer], placed: Mapping[str, Placement], user: str) -> Placement:
    """Where one more person's band sits, by the unlabelled first repetition."""
    levels = [wearers[other].log_levels[:, placement.order(N_CHANNELS)] for other, placement in placed.items()]
    gestures = [wearers[other].gesture for other in placed]
    model = PlacementModel.fit(np.concatenate(levels), np.concatenate(gestures))
    wearer = wearers[user]
    return model.find(wearer.log_levels[wearer.repetition == 1])


def write_corpus(
    corpus: Corpus,
    wearers: Mapping[str, Wearer],
    placements: Mapping[str, Placement],
    out: Path,
    store: Path,
    held_out: Sequence[str] = (),
) -> None:
    """Write the people placed as a corpus: with the published split, or with some of them held out altogether.

    store: folder of recordings by person and placement, which several corpora share
    """
    with replacing_folder(out) as folder:
        rows = []
        for row in (row for row in corpus.rows if row.user in placements):
            recording = _recording(corpus, row, wearers[row.user], placements[row.user], store)
            os.symlink(recording.resolve(), folder / recording.name)
            if held_out:
                mine = row.user in held_out
                split, kind = ("test", "user") if mine else ("train", "")
                row = replace(row, held_out_user=mine, split=split, generalization=kind)
            rows.append(row)
        write_metadata(folder, rows)


def _wearer(corpus: Corpus, user: str) -> Wearer:
    calibration, lengths, gesture, repetition = [], [], [], []
    for row in (row for row in corpus.rows if row.user == user):
        filtered = _filtered(corpus, row)
        both = _with_differences(filtered)
        if repetition_of(row) == 1:
            settled = both[round(SETTLE_S * SAMPLE_RATE_HZ) :]
            calibration.append(stretch_levels_uv(settled, SAMPLE_RATE_HZ))
        steps = np.abs(np.diff(filtered, axis=0))
        windows = np.lib.stride_tricks.sliding_window_view(steps, WINDOW - 1, axis=0)[::STRIDE]
        lengths.append(np.log(windows.mean(axis=-1) + _FLOOR))
        gesture += [GESTURES.index(row.stage)] * len(windows)
        repetition += [repetition_of(row)] * len(windows)
    log_levels, which = np.concatenate(lengths).astype(np.float64), np.array(repetition)
    return Wearer(
        channel_levels_uv(np.concatenate(calibration)),
        log_levels - log_levels[which == 1].mean(axis=0),
        np.array(gesture),
        which,
    )


def _filtered(corpus: Corpus, row: Row) -> NDArray[np.float32]:
    with corpus.session(row) as session:
        raw = session.emg()
    sos = design_filter(SAMPLE_RATE_HZ, HIGH_PASS_HZ)
    return Preprocessor(Preprocessing(SAMPLE_RATE_HZ, sos, scale_uv=1.0, clip=np.inf), raw.shape[1])(raw)


def _with_differences(emg: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 10) to (n, 20); the difference is a linear filter, so it may come before or after the high-pass."""
    return np.concatenate([emg, np.diff(emg, axis=0, prepend=emg[:1])], axis=1)


def _recording(corpus: Corpus, row: Row, wearer: Wearer, placement: Placement, store: Path) -> Path:
    """The file of one recording as the corpus has it; written where it is not yet."""
    way = "mirrored" if placement.mirrored else "straight"
    path = store / f"{row.user}-{placement.turn}-{way}" / f"{row.filename}.hdf5"
    if path.is_file():
        return path
    with corpus.session(row) as session:
        emg, meta, time_s = session.emg(), session.meta, session.time_s()
    order = placement.order(N_CHANNELS)
    both = _with_differences(emg) / wearer.level
    placed = np.concatenate([both[:, :N_CHANNELS][:, order], both[:, N_CHANNELS:][:, order]], axis=1)
    write_session(path, replace(meta, num_channels=2 * N_CHANNELS), time_s, placed.astype(np.float32))
    return path
