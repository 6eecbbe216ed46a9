"""Export of a session to other file formats and to a picture."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cpep_edge.session import JOINT_NAMES, SessionMeta, write_session
from cpep_train.corpus import Corpus
from cpep_train.export_sessions import export_session
from cpep_train.formats import read_source
from cpep_train.import_csv import import_csv
from tests.processes import invoke
from tests.train.test_import_files import RATE_HZ, wave


@pytest.fixture
def session(tmp_path) -> Path:
    """A session with a gap and some missing poses."""
    n, rng = 900, np.random.default_rng(0)
    time_s = 2.0 + (np.arange(n) + 300 * (np.arange(n) >= 500)) / RATE_HZ
    pose = rng.uniform(-1, 1, (n, len(JOINT_NAMES))).astype(np.float32)
    pose[10:20] = np.nan
    meta = SessionMeta("s", "u", "Fist", "left", time_s[0], time_s[-1], 3, RATE_HZ, "one")
    write_session(tmp_path / "one.hdf5", meta, time_s, wave(n, 3).astype(np.float32), pose)
    return tmp_path / "one.hdf5"


def test_csv_and_parquet_lose_nothing(session, tmp_path):
    export_session(session, tmp_path / "a.csv", "csv")
    export_session(session, tmp_path / "a.parquet", "parquet")
    text = np.genfromtxt(tmp_path / "a.csv", delimiter=",", skip_header=1, usecols=range(24))
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names[:2] == ["time_s", "emg_1_uv"]
    assert set(table["stage"].to_pylist()) == {"Fist"}
    columns = np.column_stack([table[name].to_numpy() for name in table.column_names[:-1]])
    np.testing.assert_array_equal(columns, text)
    (tmp_path / "map.toml").write_text(
        '[columns]\nemg = ["emg_1_uv", "emg_2_uv", "emg_3_uv"]\nstage = "stage"\ntime = "time_s"\n'
        '[[files]]\nfile = "a.csv"\nuser = "u"\nsession = "s"\nsplit = "train"\n'
    )
    import_csv(tmp_path / "map.toml", tmp_path / "back")
    back = Corpus.open(tmp_path / "back")
    with back.session(back.rows[0]) as one:
        np.testing.assert_allclose(one.emg(), wave(900, 3), atol=1e-4)
        assert len(one.gaps()) == 1


def test_edf_comes_back_within_its_sixteen_bits(session, tmp_path):
    export_session(session, tmp_path / "a.edf", "edf")
    source = read_source(tmp_path / "a.edf")
    assert [event.text for event in source.events] == ["Fist", "not recorded"]
    emg = np.column_stack([channel.values for channel in source.channels])
    step = 162 / 65535
    np.testing.assert_allclose(emg[:500], wave(900, 3)[:500], atol=step)
    np.testing.assert_allclose(emg[800:1200], wave(900, 3)[500:], atol=step)  # after the gap


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("a.nope", [], "ends in none of .edf, .csv, .parquet"),
        ("a", ["--format", "csv"], "ends in none of .edf, .csv, .parquet"),
        ("a.csv", ["--format", "edf"], "edf is another format than the ending of"),
    ],
)
def test_the_ending_of_an_exported_file_says_what_is_in_it(session, tmp_path, name, more, said):
    answer = invoke("data", "export", session, tmp_path / name, *more)
    assert answer.exit_code == 2
    assert said in " ".join(answer.output.replace("│", "").split())
    assert list(tmp_path.iterdir()) == [session]


def test_without_a_format_the_ending_is_heard_and_a_missing_folder_is_made(session, tmp_path):
    answer = invoke("data", "export", session, tmp_path / "new" / "A.CSV")
    assert answer.exit_code == 0, answer.output
    assert (tmp_path / "new" / "A.CSV").read_text().startswith("time_s,emg_1_uv")


def test_a_picture_with_another_ending_is_refused(session):
    answer = invoke("data", "view", session, "--out", session.with_name("a.jpg"))
    assert answer.exit_code == 2
    assert not session.with_name("a.jpg").exists()


def test_a_session_is_drawn_and_nothing_is_overwritten(session, tmp_path):
    answer = invoke("data", "view", session)
    assert answer.exit_code == 0, answer.output
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    again = invoke("data", "view", session)
    assert "exists; choose another name" in str(again.exception)
