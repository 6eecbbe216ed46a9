"""Training on simulated people first, on people who make each gesture alike."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("myo_sim")

import measure_transfer
from cpep_edge.session import SessionMeta, write_session
from cpep_train.corpus import Corpus, Row, write_metadata
from cpep_train.recipe import load_recipe
from measure_transfer import PLAIN, alike, main, rows_of

N_GESTURES, N_CHANNELS, RATE_HZ = 11, 10, 1_000
SMALL = ["emg.width=48", "pose.width=48", "pose.n_layers=1", "align.epochs=1", "emg_mae.epochs=1",
         "pose_mae.epochs=1"]  # fmt: skip


GAINS = np.random.default_rng(7).lognormal(0, 1, (N_GESTURES, N_CHANNELS))  # of each gesture's one source


def _emg(gesture: int, rng: np.random.Generator, seconds: float, turn: int = 0) -> np.ndarray:
    """Noise, and the gesture's source on the electrodes as strongly as it is with everyone."""
    emg = rng.standard_normal((round(seconds * RATE_HZ), N_CHANNELS))
    emg += GAINS[gesture] * rng.standard_normal((len(emg), 1))
    return 20 * np.roll(emg, turn, axis=1)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Two people in the layout of 3DC, who make every gesture twice."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for person in (1, 2):
        for half in ("train", "test"):
            folder = root / "3dc" / f"Participant{person}" / half / "EMG"
            folder.mkdir(parents=True)
            for gesture in range(N_GESTURES):
                np.savetxt(folder / f"3dc_EMG_gesture_0_{gesture}.txt", _emg(gesture, rng, 1.5), "%d", ",")
    return root


@pytest.mark.slow
def test_every_way_is_judged_on_everyone_and_what_real_people_show_is_found(people, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_transfer, "COUNTS", (1,))
    monkeypatch.setattr(measure_transfer, "_HELD_S", 1.0)
    monkeypatch.setattr(measure_transfer, "load_recipe", lambda name, settings=(): load_recipe(name, SMALL))
    how = {"3dc": replace(measure_transfer.SIMULATED["3dc"], n_folds=2)}
    monkeypatch.setattr(measure_transfer, "SIMULATED", how)

    main(["--data", str(people), "--out", str(tmp_path), "--only", "3dc", "--people", "2"])

    cells = json.loads((tmp_path / "transfer.json").read_text())["3dc"]["cells"]
    assert all(
        set(of_person) == {f"3dc-0{n}" for n in (1, 2)} for rows in cells.values() for of_person in rows.values()
    )
    means = {cell: {name: np.mean(list(p.values())) for name, p in rows.items()} for cell, rows in cells.items()}
    real, simulated = means["1 x 1"], means["2 simulated"]
    assert {name.split(",")[0] for name in real} == {PLAIN.split(",")[0], "from nothing", "tuned", "head only"}
    assert real[PLAIN] > 0.9  # one person's one repetition holds all there is to know
    assert max(simulated.values()) < 0.5  # simulated people know nothing of these gestures

    def train_again(*_: object, **__: object) -> None:
        raise AssertionError("what is there is computed again")

    monkeypatch.setattr(measure_transfer, "train", train_again)
    main(["--data", str(people), "--out", str(tmp_path), "--only", "3dc", "--people", "2"])
    assert json.loads((tmp_path / "transfer.json").read_text())["3dc"]["cells"] == cells
    page = (tmp_path / "transfer.md").read_text()
    assert "| trained on so many simulated people only | 2 |" in page
    assert "| trained on so many real people x repetitions | 1 x 1 |" in page


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--only", "emg2pose"], "there is no set emg2pose; there are 3dc, ninapro-db5, myo-wrist"),
        (["--only", "3dc,myo-wrist"], "holds no myo-wrist"),
        (["--only", "3dc", "--people", "few"], "--people takes numbers by commas, got few"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(people, tmp_path, capsys, asked, said):
    with pytest.raises(SystemExit):
        main(["--data", str(people), "--out", str(tmp_path), *asked])
    assert said in capsys.readouterr().err


def _corpus(folder, people: dict[str, int], rng: np.random.Generator) -> Corpus:
    """People who make four gestures alike, each with the band turned by so many electrodes."""
    folder.mkdir()
    rows = []
    for person, turn in people.items():
        for gesture in range(4):
            row = Row(
                person, f"{person}-1", f"g{gesture}", "right", "right", False, False, "train", "", f"{person}-{gesture}"
            )
            emg = _emg(gesture, rng, 2.0, turn).astype(np.float32)
            time_s = np.arange(len(emg)) / RATE_HZ
            meta = SessionMeta(
                row.session, person, row.stage, "right", 0.0, time_s[-1], N_CHANNELS, RATE_HZ, row.filename
            )
            write_session(folder / f"{row.filename}.hdf5", meta, time_s, emg)
            rows.append(row)
    write_metadata(folder, rows)
    return Corpus.open(folder)


def test_people_are_alike_where_their_bands_only_sit_differently(tmp_path):
    rng = np.random.default_rng(1)
    real = _corpus(tmp_path / "real", {"a": 0, "b": 3}, rng)
    simulated = _corpus(tmp_path / "simulated", {"c": 0, "d": 5}, rng)

    found = alike(load_recipe("3dc"), real, simulated)
    assert set(found) == {"real and real", "simulated and simulated", "real and simulated"}
    assert min(kind["all"] for kind in found.values()) > 0.95

    as_they_sit = alike(load_recipe("3dc", ["calibration.placed=false"]), real, simulated)
    assert as_they_sit["real and real"]["all"] < 0.5


def test_so_many_repetitions_of_each_gesture_teach_and_the_others_do_not(tmp_path):
    corpus = _corpus(tmp_path / "corpus", {"a": 0, "b": 0}, np.random.default_rng(2))
    again = [replace(row, session=f"{row.user}-2", filename=f"{row.filename}-2") for row in corpus.rows]
    corpus = replace(corpus, rows=(*corpus.rows, *again))

    assert [row.session for row in rows_of(corpus, ["b"], "train", 1)] == ["b-1"] * 4
    assert len(rows_of(corpus, ["a", "b"], "train", 2)) == 16
    assert {row.session for row in rows_of(corpus, ["a"], "train", 2, first_only=True)} == {"a-1"}
    tested = rows_of(corpus, ["a"], "test")
    assert len(tested) == 8
    assert all(row.held_out_user and row.generalization == "user" for row in tested)
