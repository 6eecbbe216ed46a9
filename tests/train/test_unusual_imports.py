"""Oddities of users' files that no format forbids: capitals, unnamed units, clocks that go back."""

import unicodedata
from pathlib import Path

import edfio
import numpy as np
import pytest

from cpep_edge.errors import ConfigError, CpepError, DataError
from cpep_edge.session import Session, SessionMeta, write_session
from cpep_train.corpus import Corpus
from cpep_train.export_sessions import export_session
from cpep_train.import_csv import import_csv
from cpep_train.import_files import FileChoices, import_files, import_libemg
from cpep_train.importing import Choices, Writing, choices_of
from tests.train.test_import_xdf import _write_xdf

RATE_HZ = 200
_EMG = np.random.default_rng(0).normal(0, 50, (800, 2))


def _csv(
    folder: Path, scale: float = 1.0, people: tuple[str, ...] = ("p",), labels: tuple[str, ...] = ("Fist",)
) -> Path:
    """Write a file per person, and their map."""
    text = f'sample_rate_hz = {RATE_HZ}\n[columns]\nemg = ["a", "b"]\nstage = "g"\n'
    for number, person in enumerate(people):
        lines = [f"{a},{b},{labels[n * len(labels) // 800]}" for n, (a, b) in enumerate(_EMG * scale + number)]
        (folder / f"{number}.csv").write_text("\n".join(["a,b,g", *lines]))
        text += f'[[files]]\nfile = "{number}.csv"\nuser = "{person}"\nsession = "s{number}"\nsplit = "train"\n'
    (folder / "map.toml").write_text(text)
    return folder / "map.toml"


def _edf(path: Path, scale: float = 1.0, unit: str = "uV") -> Path:
    column = _EMG[:, 0] * scale
    signals = [
        edfio.EdfSignal(
            column, RATE_HZ, label="EMG", physical_dimension=unit, physical_range=(-300 * scale, 300 * scale)
        )
    ]
    edfio.Edf(signals, annotations=[edfio.EdfAnnotation(0, 4, "Fist")]).write(path)
    return path


def _volts(folder: Path, n: int, scale: float) -> None:
    for repetition in range(n):
        np.savetxt(folder / f"R_{repetition}_C_0.csv", _EMG[:300] * scale, delimiter=",")


def test_a_file_in_volts_beside_one_in_microvolts_is_refused_where_neither_says_so(tmp_path):
    files = [_edf(tmp_path / "a.edf", 1e-6, ""), _edf(tmp_path / "b.edf", 1.0, "")]
    with pytest.raises(DataError, match=r"a\.edf must be in volts by the size of its values and b\.edf need not be"):
        import_files(files, tmp_path / "out", FileChoices())
    assert not (tmp_path / "out").exists()


def test_libemg_in_volts_becomes_microvolts_and_what_may_be_millivolts_is_said(tmp_path):
    _volts(tmp_path, 2, 1e-6)
    summary = import_libemg(tmp_path, tmp_path / "out", RATE_HZ)
    assert summary.notes == ("EMG must be in volts by the size of its values",)
    corpus = Corpus.open(tmp_path / "out")
    with corpus.session(corpus.rows[0]) as session:
        np.testing.assert_allclose(session.emg(), _EMG[:300], atol=1e-3)
    (tmp_path / "mv").mkdir()
    assert "may be millivolts" in import_csv(_csv(tmp_path / "mv", 1e-3), tmp_path / "out2").notes[0]


def test_names_that_differ_by_capitals_alone_are_refused_with_a_way_out(tmp_path):
    with pytest.raises(DataError, match="the people Ann and ann differ by capitals alone"):
        import_csv(_csv(tmp_path, people=("Ann", "ann")), tmp_path / "out")
    column_map = _csv(tmp_path, labels=("Fist", "fist"))
    with pytest.raises(DataError, match="--rename fist=Fist makes them one"):
        import_csv(column_map, tmp_path / "out")
    summary = import_csv(column_map, tmp_path / "out", writing=Writing(Choices(rename={"fist": "Fist"})))
    assert summary.gestures == {"Fist": 2}


def test_a_name_is_found_however_its_accents_are_typed(tmp_path):
    typed = unicodedata.normalize("NFD", "José")
    column_map = _csv(tmp_path, people=(typed, "Bo"), labels=(unicodedata.normalize("NFD", "Fäust"),))
    choices = Choices(hold_out_people=(typed,), rename={unicodedata.normalize("NFD", "Fäust"): "Fist"})
    summary = import_csv(column_map, tmp_path / "out", writing=Writing(choices))
    assert (summary.people, summary.splits, summary.gestures) == (("Bo", "José"), {"test": 1, "train": 1}, {"Fist": 2})


def test_nobody_is_for_testing_and_for_validation_at_once(tmp_path):
    with pytest.raises(ConfigError, match="^the options: B is held out for testing and for validation"):
        choices_of({"hold_out_people": ["B"], "validation_people": ["B"]}, "the options")
    with pytest.raises(DataError, match="repetition 1 is for testing and for validation"):
        about = FileChoices(test_repetitions=(1,), val_repetitions=(1,))
        import_files([_edf(tmp_path / "a.edf")], tmp_path / "out", about)


def test_rows_that_pandas_left_without_a_label_are_no_gesture(tmp_path):
    summary = import_csv(_csv(tmp_path, labels=("Fist", "nan", "NaN", "Rest")), tmp_path / "out")
    assert summary.gestures == {"Fist": 1, "Rest": 1}
    assert (summary.n_samples_kept, summary.left_out) == (400, {"rows without a label": 400})


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        ('"a", "b"]', '"a", "a"]', "map.toml: columns.emg: a is named twice"),
        ('"g"', '"a"', "columns.stage: a is EMG too"),
    ],
)
def test_a_column_is_taken_for_one_thing_once(tmp_path, was, now, says):
    column_map = _csv(tmp_path)
    column_map.write_text(column_map.read_text().replace(was, now))
    with pytest.raises(ConfigError, match=says):
        import_csv(column_map, tmp_path / "out")


@pytest.mark.parametrize("bring", [lambda out: (out.mkdir(), (out / "mine").touch()), lambda out: out.touch()])
def test_a_dry_run_refuses_the_folder_that_the_import_would(tmp_path, bring):
    bring(tmp_path / "out")
    column_map, said = _csv(tmp_path), []
    for dry_run in (True, False):
        with pytest.raises(CpepError) as refused:
            import_csv(column_map, tmp_path / "out", writing=Writing(dry_run=dry_run))
        said.append(str(refused.value))
    assert said[0] == said[1]


def test_two_files_of_one_session_are_said(tmp_path):
    paths = []
    for place in ("x", "y"):
        (tmp_path / place / "p").mkdir(parents=True)
        paths.append(_edf(tmp_path / place / "p" / "a.edf"))
    notes = import_files(paths, tmp_path / "out", FileChoices()).notes
    assert f"{paths[0]} and {paths[1]} are both session a of p" in notes


def test_recordings_of_other_shapes_are_said(tmp_path):
    np.savetxt(tmp_path / "R_0_C_0.csv", _EMG[:, :1], delimiter=",")
    np.savetxt(tmp_path / "R_1_C_0.csv", _EMG, delimiter=",")
    notes = import_libemg(tmp_path, tmp_path / "out", RATE_HZ).notes
    assert "recordings differ in their channels: 1, 2; a training takes one number" in notes


def test_a_counter_that_wraps_is_no_channel_and_one_repetition_is_for_training(tmp_path):
    table = np.column_stack((np.arange(len(_EMG)) % 256, _EMG))
    np.savetxt(tmp_path / "R_0_C_0.csv", table, delimiter=",")
    summary = import_libemg(tmp_path, tmp_path / "out", RATE_HZ)
    assert (summary.n_channels, summary.splits) == ((2,), {"train": 1})


def test_a_clock_that_goes_back_over_what_it_told_is_refused(tmp_path):
    time_s = 100 + np.arange(len(_EMG)) / RATE_HZ
    time_s[400:] -= 1
    _write_xdf(tmp_path / "a.xdf", time_s, _EMG, "microvolts")
    with pytest.raises(DataError, match="went back"):
        import_files([tmp_path / "a.xdf"], tmp_path / "out", FileChoices(stage="Fist"))


def _session(path: Path, time_s: np.ndarray, emg: np.ndarray = _EMG) -> Path:
    meta = SessionMeta("s", "p", "Fist", "right", float(time_s[0]), float(time_s[-1]), 2, RATE_HZ, path.stem)
    write_session(path, meta, time_s, emg.astype(np.float32), None)
    return path


@pytest.mark.parametrize("gap_s", [0.0, 0.777])
@pytest.mark.parametrize("jitter", [0.0, 0.45])
def test_a_session_comes_back_from_edf_with_its_samples_and_no_others(tmp_path, gap_s, jitter):
    place = np.arange(len(_EMG)) + np.random.default_rng(1).uniform(-jitter, jitter, len(_EMG))
    time_s = (place - place[0]) / RATE_HZ
    time_s[300:] += gap_s
    export_session(_session(tmp_path / "a.hdf5", time_s), tmp_path / "a.edf", "edf")
    summary = import_files([tmp_path / "a.edf"], tmp_path / "out", FileChoices())
    assert set(summary.gestures) == {"Fist"}
    assert summary.n_samples_kept == len(_EMG)
    corpus, found = Corpus.open(tmp_path / "out"), []
    for row in corpus.rows:
        with Session(corpus.file(row)) as session:
            found.append(session.emg())
    np.testing.assert_allclose(np.concatenate(found), _EMG, atol=0.01)


def test_values_that_edf_has_no_room_for_are_refused(tmp_path):
    session = _session(tmp_path / "a.hdf5", np.arange(len(_EMG)) / RATE_HZ, _EMG * 1e6)
    with pytest.raises(DataError, match="EDF holds values up to 9999999 uV"):
        export_session(session, tmp_path / "a.edf", "edf")
    assert not (tmp_path / "a.edf").exists()


def test_a_stream_of_movement_is_no_emg_and_events_that_label_nothing_are_said(tmp_path):
    _write_xdf(tmp_path / "a.xdf", 100 + np.arange(len(_EMG)) / RATE_HZ, _EMG, "microvolts")
    content = (tmp_path / "a.xdf").read_bytes()
    for kind in (b"<type>EMG</type>", b"<type>EEG</type>"):
        content = content.replace(kind, b"<type>ACC</type>")
    (tmp_path / "b.xdf").write_bytes(content)
    with pytest.raises(DataError, match="no stream holds EMG"):
        import_files([tmp_path / "b.xdf"], tmp_path / "out", FileChoices(stage="Fist"))
    column = _EMG[:, 0]
    signals = [edfio.EdfSignal(column, RATE_HZ, label="EMG", physical_dimension="uV")]
    events = [edfio.EdfAnnotation(1, None, "early"), edfio.EdfAnnotation(1, None, "Fist")]
    edfio.Edf(signals, annotations=events).write(tmp_path / "c.edf")
    notes = import_files([tmp_path / "c.edf"], tmp_path / "out", FileChoices()).notes
    assert any(note.startswith("c.edf: events that label no sample: ") for note in notes)


def test_a_file_of_other_sensors_is_no_emg(tmp_path):
    signals = [edfio.EdfSignal(_EMG[:, 0], RATE_HZ, label=name, physical_dimension="uV") for name in ("ECG", "EDA 2")]
    edfio.Edf(signals).write(tmp_path / "a.edf")
    with pytest.raises(DataError, match="no channel holds EMG; there are ECG, EDA 2"):
        import_files([tmp_path / "a.edf"], tmp_path / "out", FileChoices(stage="Fist"))
    both = [edfio.EdfSignal(_EMG[:, 0], RATE_HZ, label=n, physical_dimension="uV") for n in ("EMG mag", "ACC X")]
    edfio.Edf(both).write(tmp_path / "b.edf")
    assert import_files([tmp_path / "b.edf"], tmp_path / "out", FileChoices(stage="Fist")).n_channels == (1,)


@pytest.mark.parametrize(
    ("prompts", "says"),
    [("0,Fist\n2,Rest", "its prompts take 0.002 s of 4 s"), ("0,Fist\n9000,Rest", "label no sample: Rest")],
)
def test_prompts_that_cannot_be_meant_are_said(tmp_path, prompts, says):
    lines = [f"{n * 5},{a},{b}" for n, (a, b) in enumerate(_EMG)]
    (tmp_path / "a.csv").write_text("\n".join(["t,a,b", *lines]))
    (tmp_path / "p.csv").write_text(f"t,g\n{prompts}\n")
    (tmp_path / "map.toml").write_text(
        '[columns]\nemg = ["a", "b"]\ntime = "t"\ntime_unit_s = 0.001\n[prompts]\ncolumns = ["g"]\ntime = "t"\n'
        '[[files]]\nfile = "a.csv"\nprompts = "p.csv"\nuser = "u"\nsession = "s"\nsplit = "train"\n'
    )
    assert any(says in note for note in import_csv(tmp_path / "map.toml", tmp_path / "out").notes)
