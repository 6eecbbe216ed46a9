"""The measurement on the 3DC set, on a made-up set in its layout: how bands sit is undone, windows are the peer's."""

from pathlib import Path

import numpy as np
import pytest
from scipy import signal

from cpep_train.band_placement import Placement
from cpep_train.corpus import Corpus
from cpep_train.import_3dc import GESTURES, N_CHANNELS, import_3dc
from cpep_train.levels_3dc import find_wearers, place_together, place_unlabelled, write_corpus
from cpep_train.measure_3dc import Line, Windows, report
from cpep_train.realism import FeatureWindows, real_trials
from cpep_train.recipe import load_recipe

WORN = {1: Placement(), 2: Placement(0), 3: Placement(7, mirrored=True)}
N_ROWS = 2_250


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people with the same muscles; the third wears the band mirrored and turned."""
    folder, rng = tmp_path_factory.mktemp("3dc"), np.random.default_rng(0)
    sos = signal.butter(2, (40, 200), "bandpass", fs=1_000, output="sos")
    pattern = np.exp(rng.normal(0, 0.8, (len(GESTURES), N_CHANNELS)))
    for person, worn in WORN.items():
        for split in ("train", "test"):
            emg = folder / f"Participant{person}" / split / "EMG"
            emg.mkdir(parents=True)
            for repetition in range(2):
                for gesture in range(len(GESTURES)):
                    noise = signal.sosfilt(sos, rng.standard_normal((N_ROWS, N_CHANNELS)), axis=0)
                    read = np.empty_like(noise)
                    read[:, worn.order(N_CHANNELS)] = 300 * person * pattern[gesture] * noise
                    file = emg / f"3dc_EMG_gesture_{repetition}_{gesture}.txt"
                    file.write_text("\n".join(",".join(map(str, row)) for row in read.astype(int).tolist()))
    return folder


@pytest.fixture(scope="module")
def imported(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    out = tmp_path_factory.mktemp("imported") / "corpus"
    import_3dc(published, out, tuple(WORN))
    return Corpus.open(out)


def test_a_mirrored_band_is_placed_by_its_gestures_and_without_them(imported: Corpus) -> None:
    wearers = find_wearers(imported)
    users = ["3dc-01", "3dc-02", "3dc-03"]
    assert list(place_together(wearers, users, 8).values()) == list(WORN.values())
    known = place_together(wearers, users[:2], 8)
    assert place_unlabelled(wearers, known, "3dc-03") == WORN[3]


def test_placed_and_calibrated_people_read_alike_on_every_channel(imported: Corpus, tmp_path: Path) -> None:
    wearers = find_wearers(imported)
    placements = place_together(wearers, sorted(wearers), 4)
    write_corpus(imported, wearers, placements, tmp_path / "out", tmp_path / "store", held_out=["3dc-03"])
    corpus = Corpus.open(tmp_path / "out")
    assert {(row.user, row.split, row.held_out_user) for row in corpus.rows} == {
        ("3dc-01", "train", False), ("3dc-02", "train", False), ("3dc-03", "test", True),
    }  # fmt: skip
    level = {}
    for user in ("3dc-01", "3dc-03"):
        row = next(row for row in corpus.rows if (row.user, row.stage) == (user, "PowerGrip"))
        with corpus.session(row) as session:
            assert session.meta.num_channels == 2 * N_CHANNELS
            level[user] = session.emg()[500:].std(axis=0)
    np.testing.assert_allclose(np.log(level["3dc-01"] / level["3dc-03"]), 0, atol=0.15)


def test_the_table_keeps_people_who_were_tuned_on_apart_from_those_read_once() -> None:
    accuracy = {f"3dc-{number:02d}": 0.5 if number <= 6 else 0.9 for number in range(1, 9)}
    lines = [Line("enrolment", "ours", accuracy, dict.fromkeys(accuracy, 0.7))]
    table = report(lines, load_recipe("3dc-levels"))
    assert "| ours | 0.600 | 0.500 | 0.900 | 0.700 | 0.700 | 0.700 |" in table
    assert "templates" in table


def test_long_windows_are_those_that_the_peer_cuts(published: Path) -> None:
    trial = real_trials(published)[:1]
    n_short, n_long = (len(FeatureWindows.cut(trial, *setting).features) for setting in ((0.25, 0.05), (2.0, 0.25)))
    places = np.zeros(n_short, np.int64)
    windows = Windows(np.eye(n_short, dtype=np.float32), places, places, places, places.astype(str))
    long = windows.long()
    assert len(long.rows) == n_long
    np.testing.assert_allclose(long.rows.sum(axis=1), 1, rtol=1e-5)
    assert np.flatnonzero(long.rows[1]).tolist() == list(range(5, 41))  # from 250 ms on, for 2 s
