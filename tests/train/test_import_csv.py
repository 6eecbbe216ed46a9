import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from cpep_edge.errors import ConfigError, CpepError, DataError
from cpep_edge.session import JOINT_NAMES
from cpep_train.corpus import Corpus, corpus_info
from cpep_train.import_csv import import_csv
from cpep_train.import_files import import_libemg
from cpep_train.import_myo import import_myo_wrist
from cpep_train.import_ninapro import import_ninapro
from cpep_train.importing import Choices, Writing
from cpep_train.leakage import load_splits
from tests.processes import invoke

MAP = """\
sample_rate_hz = 500
unit_uv = 2.0

[columns]
emg = ["ch_1", "ch_2"]
stage = "gesture"

[pose.index_mcp_flexion]
column = "index"
scale = -1.5
offset = 1.5

[[files]]
file = "a.csv"
user = "p1"
session = "s1"
split = "train"

[[files]]
file = "b.csv"
user = "p2"
session = "s1"
split = "test"
held_out_user = true
"""


def _write_csv(path: Path, stages: list[str], header: str = "t,ch_1,gesture,index,ch_2") -> np.ndarray:
    rng = np.random.default_rng(len(stages))
    emg = rng.standard_normal((len(stages), 2))
    lines = [f"{n},{a:.6f},{stage},0.25,{b:.6f}" for n, ((a, b), stage) in enumerate(zip(emg, stages, strict=True))]
    path.write_text("\n".join([header, *lines]) + "\n")
    return emg


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with two files of one band, and their map."""
    (tmp_path / "map.toml").write_text(MAP)
    _write_csv(tmp_path / "a.csv", ["Fist"] * 40 + [""] * 10 + ["Rest"] * 50 + ["Fist"] * 30)
    _write_csv(tmp_path / "b.csv", ["Rest"] * 60)
    return tmp_path


def test_rows_are_cut_where_their_label_changes_and_unlabelled_ones_left_out(folder):
    emg = _write_csv(folder / "a.csv", ["Fist"] * 40 + [""] * 10 + ["Rest"] * 50 + ["Fist"] * 30)
    summary = import_csv(folder / "map.toml", folder / "out")
    corpus = Corpus.open(folder / "out")
    assert (summary.n_files, summary.n_recordings, summary.with_pose) == (2, 4, True)
    assert [(row.user, row.stage, row.split, row.held_out_user) for row in corpus.rows] == [
        ("p1", "Fist", "train", False),
        ("p1", "Rest", "train", False),
        ("p1", "Fist", "train", False),
        ("p2", "Rest", "test", True),
    ]
    with corpus.session(corpus.rows[1]) as session:
        np.testing.assert_allclose(session.emg(), 2 * emg[50:100], atol=1e-5)  # in microvolts, columns by name
        angles = session.joint_angles()
        assert session.meta.sample_rate == 500
    assert angles[0, JOINT_NAMES.index("index_mcp_flexion")] == pytest.approx(1.5 - 1.5 * 0.25)
    assert np.count_nonzero(angles[0]) == 1
    assert (summary.n_samples_read, summary.left_out) == (190, {"rows without a label": 10})
    assert corpus_info(folder / "out").faults == ()


def test_the_command_says_what_it_imported(folder):
    answer = invoke("data", "import", "csv", folder / "map.toml", folder / "out")
    assert answer.exit_code == 0, answer.output
    assert "4 recordings of 2 files" in answer.output


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("sample_rate_hz = 500", "sample_rate_hz = -1\nx = 1", "sample_rate_hz: .*greater than 0; x is not a known"),
        ("index_mcp_flexion", "elbow", "pose.elbow is none of the 20 joints"),
        ('stage = "gesture"', "", "a.csv has no stage, and no column says it; files: b.csv"),
        ('split = "train"', 'split = "training"', r"files.0.split: input should be 'train', 'val' or 'test'"),
        ("[columns]", "[columns", "cannot be read"),
        ("sample_rate_hz = 500", "sample_rate_hz = inf", "sample_rate_hz: input should be less than or equal"),
        ("sample_rate_hz = 500", "sample_rate_hz = 1e308", "sample_rate_hz: input should be less than or equal"),
        ("unit_uv = 2.0", "unit_uv = inf", "unit_uv: input should be less than or equal"),
        ('file = "b.csv"', 'file = "a.csv"', "a.csv is named twice"),
    ],
)
def test_all_faults_of_a_map_are_named_at_once(folder, old, new, says):
    (folder / "map.toml").write_text(MAP.replace(old, new))
    with pytest.raises(ConfigError, match=says):
        import_csv(folder / "map.toml", folder / "out")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "b.csv: the file is empty"),
        ("ch_1,ch_2,gesture,index\n", "b.csv: there are no rows"),
        ("ch_1,gesture,index\n1,Fist,0\n", "b.csv: column ch_2 is missing; there are ch_1, gesture, index"),
        ("ch_1,ch_2,gesture,index\n1,2,Fist\n", "b.csv: a row has not as many values"),
        ("ch_1,ch_2,gesture,index\n1,2,Fist\n1,2,Fist,0\n", "b.csv: a row has not as many values .* row 2"),
        ('ch_1,ch_2,gesture,index\n1,2,"Fist,0\n' + "1,2,Fist,0\n" * 50, "row 2 cannot be read: a quotation mark is"),
        ('ch_1,ch_2,gesture,index\n1,2,"Fist,0\n' + "1,2,Fist,0\n" * 20_000, "row 2 .* a quotation mark is not"),
        ("ch_1,ch_2,gesture,index\n1,2,Fi\0st,0\n", "b.csv: row 2 holds a NUL byte"),
        ("ch_1,ch_2,gesture,index\n1,2,Open\u00a0hand,0\n", r"the gesture 'Open.*hand' cannot be used: .*U\+00A0"),
        ("ch_1,ch_2,gesture,index\n1,x,Fist,0\n", "b.csv: column ch_2 holds 'x', which is not a number, in row 2$"),
        ('ch_1,ch_2,gesture,index\n1,2,Fist,0\n1,"2,5",Fist,0\n', "holds '2,5', .* not a number, in row 3; .* decimal"),
        ("ch_1,ch_2,gesture,index\n1,2,Fist,0\n1,,Fist,0\n", "b.csv: an EMG column holds no number in row 3"),
        ("é".encode("latin-1") * 9, r"it is not UTF-8 text \(byte 0xe9 at 0\); save it as UTF-8"),
        ("a,b\n".encode("utf-16"), r"it is not UTF-8 text \(byte 0xff at 0\)"),
        ("t;ch_1;gesture;index;ch_2\n1;2,5;Fist;0;3,5\n", "columns seem to be apart by ';': say delimiter = ';'"),
        ("t,ch_1,gesture,index,ch_1,ch_2\n1,2,Fist,0,3,4\n", "2 columns are called ch_1; give each its own name"),
        (None, "b.csv cannot be read"),
    ],
)
def test_a_file_that_does_not_fit_is_named_and_nothing_is_left(folder, text, says):
    (folder / "b.csv").unlink()
    if text is not None:
        (folder / "b.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CpepError, match=says) as caught:
        import_csv(folder / "map.toml", folder / "out")
    assert isinstance(caught.value, DataError)
    assert not (folder / "out").exists()


def test_a_last_row_cut_short_is_left_out_and_counted(folder):
    with (folder / "b.csv").open("a") as file:
        file.write("60,0.1,Re")
    summary = import_csv(folder / "map.toml", folder / "out")
    assert summary.left_out == {"rows without a label": 10, "rows cut short at the end of a file": 1}
    assert summary.n_samples_read == 191


def test_blocks_make_the_same_recordings_as_a_file_in_one_piece(folder, monkeypatch):
    import_csv(folder / "map.toml", folder / "whole")
    monkeypatch.setattr("cpep_train.import_csv._BLOCK_ROWS", 7)
    import_csv(folder / "map.toml", folder / "blocks")
    whole, blocks = Corpus.open(folder / "whole"), Corpus.open(folder / "blocks")
    assert whole.rows == blocks.rows
    for row in whole.rows:
        with whole.session(row) as one, blocks.session(row) as other:
            np.testing.assert_array_equal(one.emg(), other.emg())
            np.testing.assert_array_equal(one.joint_angles(), other.joint_angles())
            np.testing.assert_array_equal(one.time_s(), other.time_s())
            assert one.meta == other.meta


def test_other_dialects_say_the_same(tmp_path):
    rng = np.random.default_rng(0)
    emg = rng.normal(0, 30e-6, (60, 2)).round(9)
    lines = ["# a logger", "", *(f"{a:.9f};{b:.9f};Fist".replace(".", ",") for a, b in emg), "# end"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    (tmp_path / "map.toml").write_text(
        'sample_rate_hz = 200\ndelimiter = ";"\ndecimal = ","\nheader = false\n[columns]\nemg = ["1", "2"]\n'
        'stage = "3"\n[[files]]\nfile = "a.csv"\nuser = "p"\nsession = "s"\nsplit = "train"\n'
    )
    summary = import_csv(tmp_path / "map.toml", tmp_path / "out")
    assert summary.notes == ("a.csv: EMG must be in volts by the size of its values; say unit in the map",)
    corpus = Corpus.open(tmp_path / "out")
    with corpus.session(corpus.rows[0]) as session:
        np.testing.assert_allclose(session.emg(), emg * 1e6, atol=2e-3)


def test_jitter_is_evened_out_and_gaps_stay_gaps(tmp_path):
    rng = np.random.default_rng(0)
    true_s = np.concatenate([np.arange(500), np.arange(1000, 1500)]) / 250
    stamp_ms = np.round((true_s + rng.uniform(-1e-3, 1e-3, 1000)) * 1000)
    wave = 100 * np.sin(2 * np.pi * 3 * true_s)
    rows = [f"{t:.0f},{v:.4f},Fist" for t, v in zip(stamp_ms, wave, strict=True)]
    (tmp_path / "a.csv").write_text("\n".join(["t,ch,g", *rows]))
    (tmp_path / "map.toml").write_text(
        '[columns]\nemg = ["ch"]\nstage = "g"\ntime = "t"\ntime_unit_s = 0.001\n'
        '[[files]]\nfile = "a.csv"\nuser = "p"\nsession = "s"\nsplit = "train"\n'
    )
    summary = import_csv(tmp_path / "map.toml", tmp_path / "out")
    assert summary.sample_rates_hz == (250.0,)
    corpus = Corpus.open(tmp_path / "out")
    with corpus.session(corpus.rows[0]) as session:
        session.check()
        ((_, duration_s),) = session.gaps()
        assert duration_s == pytest.approx(2.0, abs=0.01)
        start_s = stamp_ms[0] / 1000
        expected = 100 * np.sin(2 * np.pi * 3 * (session.time_s() + start_s))
        np.testing.assert_allclose(session.emg()[:, 0], expected, atol=5)


def test_a_straight_hand_is_a_pose(folder):
    (folder / "b.csv").write_text("ch_1,ch_2,gesture,index\n" + "1,2,Rest,1\n" * 30 + "1,2,Rest,\n" * 10)
    import_csv(folder / "map.toml", folder / "out")
    corpus = Corpus.open(folder / "out")
    with corpus.session(corpus.rows[-1]) as session:
        assert not session.joint_angles(0, 30).any()
        assert session.pose_valid().tolist() == [True] * 30 + [False] * 10


def test_a_rate_is_changed_where_asked(folder):
    summary = import_csv(folder / "map.toml", folder / "out", writing=Writing(Choices(resample_hz=250, channels=(2,))))
    assert (summary.sample_rates_hz, summary.n_channels, summary.n_samples_read) == ((250.0,), (1,), 190)
    corpus = Corpus.open(folder / "out")
    with corpus.session(corpus.rows[0]) as session:
        session.check()
        assert session.emg().shape == (20, 1)


def test_prompts_in_a_file_of_their_own_label_what_follows_them(tmp_path):
    stamps = 1_000_000 + 4 * np.arange(500)
    (tmp_path / "a.csv").write_text("\n".join(["t,ch", *(f"{t},{np.sin(t / 50):.5f}" for t in stamps)]))
    (tmp_path / "p.csv").write_text("t,thumb,index\n1000400,0,1\n1000800,0,0\n1001200,1,1\n")
    (tmp_path / "map.toml").write_text(
        'unit = "uV"\n[columns]\nemg = ["ch"]\ntime = "t"\ntime_unit_s = 0.001\n'
        '[prompts]\ncolumns = ["thumb", "index"]\ntime = "t"\n'
        '[[files]]\nfile = "a.csv"\nprompts = "p.csv"\nuser = "p"\nsession = "s"\nsplit = "train"\n'
    )
    summary = import_csv(tmp_path / "map.toml", tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert [row.stage for row in corpus.rows] == ["index", "Rest", "thumb+index"]
    assert summary.left_out == {"rows without a label": 100}
    with corpus.session(corpus.rows[1]) as session:
        np.testing.assert_allclose(session.emg()[:, 0], np.sin(stamps[200:300] / 50), atol=1e-4)
    for text, says in (
        ("t,thumb\n1,0\n", "column index is missing; there are t, thumb"),
        ("t,thumb,index\n1000400,0,1\n1000800,0\n", "a row has not as many values .*: row 3"),
        ("t,thumb,index\n1000400,0,1\nlater,0,1\n", "column t holds 'later', which is not a number, in row 3"),
        ("t,thumb,index\n1000400,0,1\n,0,1\n", "column t holds no time, .* in row 3"),
        ("t,thumb,index\n1000800,0,1\n1000400,1,0\n", "column t .* one before that of the row above, in row 3"),
    ):
        (tmp_path / "p.csv").write_text(text)
        with pytest.raises(DataError, match=f"p.csv: {says}"):
            import_csv(tmp_path / "map.toml", tmp_path / "no")
        assert not (tmp_path / "no").exists()


def test_the_shared_recording_of_a_forearm_is_read():
    folder = Path(__file__).parents[2].parent / "shared" / "data" / "files"
    if not folder.is_dir():
        pytest.skip("shared/data is not there")
    with TemporaryDirectory() as scratch:
        for name in ("cyton_lsl_exg.csv", "cyton_lsl_prompt.csv"):
            (Path(scratch) / name).write_bytes((folder / name).read_bytes())
        emg = ", ".join(f'"exg_{k}"' for k in range(1, 9))
        (Path(scratch) / "map.toml").write_text(
            f'unit = "uV"\n[columns]\nemg = [{emg}]\ntime = "timestamp"\ntime_unit_s = 0.001\n[prompts]\n'
            'columns = ["thumb", "index", "middle", "ring", "pinky"]\ntime = "timestamp"\n[[files]]\n'
            'file = "cyton_lsl_exg.csv"\nprompts = "cyton_lsl_prompt.csv"\nuser = "p"\nsession = "s"\nsplit = "train"\n'
        )
        summary = import_csv(Path(scratch) / "map.toml", Path(scratch) / "out")
    assert summary.sample_rates_hz == (250.0,)
    assert summary.n_recordings == 13
    assert "thumb+index+middle+ring+pinky" in summary.gestures


def test_an_import_into_a_folder_that_holds_its_own_sources_deletes_nothing(tmp_path):
    (tmp_path / "a.csv").write_text("ch_1,ch_2\n" + "1.5,2.25\n" * 300)
    (tmp_path / "map.toml").write_text(
        'sample_rate_hz = 1000\n[columns]\nemg = ["ch_1", "ch_2"]\n[[files]]\nfile = "a.csv"\nuser = "p1"\n'
        'session = "s1"\nsplit = "train"\nstage = "Fist"\n'
    )
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    for force in (False, True):
        with pytest.raises(ConfigError, match=r"holds a.csv, which cpep-edge did not write"):
            import_csv(tmp_path / "map.toml", tmp_path, writing=Writing(force=force))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before

    import_csv(tmp_path / "map.toml", tmp_path / "out")
    import_csv(tmp_path / "map.toml", tmp_path / "out")  # it may overwrite its own output


@pytest.mark.parametrize("value", ["1e39", "-1e39", "1e400", "nan", "12345678901234567890123456", ""])
def test_a_number_that_nothing_measures_is_refused_with_its_row(folder, value):
    text = (folder / "b.csv").read_text()
    (folder / "b.csv").write_text(text + f"60,{value},Rest,0.25,1.0\n" + "61,1.0,Rest,0.25,1.0\n")
    with pytest.raises(DataError, match=r"b\.csv: an EMG column holds .*in row 62$"):
        import_csv(folder / "map.toml", folder / "out")
    assert not (folder / "out").exists()


def test_a_pose_that_no_hand_makes_is_refused(folder):
    (folder / "b.csv").write_text((folder / "b.csv").read_text() + "60,1.0,Rest,1e39,1.0\n")
    with pytest.raises(DataError, match=r"b\.csv: a pose of Rest holds -1\.5e\+39, which nothing measures"):
        import_csv(folder / "map.toml", folder / "out")


def test_one_word_typed_in_two_ways_is_one_gesture(folder):
    _write_csv(folder / "b.csv", ["caf\u00e9"] * 30 + ["cafe\u0301"] * 30)
    import_csv(folder / "map.toml", folder / "out")
    rows = [row for row in Corpus.open(folder / "out").rows if row.user == "p2"]
    assert {row.stage for row in rows} == {"caf\u00e9"}
    assert len({row.filename for row in rows}) == len(rows) == 2


@pytest.mark.parametrize(
    ("rate", "unit_s", "says"),
    [
        ("sample_rate_hz = 125\n", "1.0", "0.125 Hz by column t, but the map says 125"),
        ("", "1.0", "0.125 Hz by column t; set columns.time_unit_s right"),
        ("sample_rate_hz = 1e6\n", "0.001", "125 Hz by column t, but the map says 1e"),
    ],
)
def test_a_column_of_time_in_another_unit_is_said(tmp_path, rate, unit_s, says):
    (tmp_path / "a.csv").write_text("t,ch,g\n" + "".join(f"{8 * k},{k},Fist\n" for k in range(200)))
    (tmp_path / "map.toml").write_text(
        f'{rate}[columns]\nemg = ["ch"]\nstage = "g"\ntime = "t"\ntime_unit_s = {unit_s}\n'
        '[[files]]\nfile = "a.csv"\nuser = "p"\nsession = "s"\nsplit = "train"\n'
    )
    with pytest.raises(DataError, match=says):
        import_csv(tmp_path / "map.toml", tmp_path / "out")


def test_lines_of_blanks_are_no_rows(folder):
    text = (folder / "b.csv").read_text()
    (folder / "b.csv").write_text(text.replace("\n", "\n   \n", 5) + "\t\n")
    assert import_csv(folder / "map.toml", folder / "out").n_samples_read == 190


@pytest.mark.parametrize(
    ("name", "bring"),
    [
        ("a.csv", lambda folder: import_csv(folder / "map.toml", folder / "out")),
        ("S1_A1_E1.mat", lambda folder: import_ninapro(folder, folder / "out", "db1")),
        ("R_0_C_0.csv", lambda folder: import_libemg(folder, folder / "out", sample_rate_hz=1000.0)),
        ("1-0/1.txt", lambda folder: import_myo_wrist(folder, folder / "out")),
        ("splits.json", load_splits),
    ],
)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(folder, name, bring):
    (folder / name).unlink(missing_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(CpepError, match=re.escape(name)):
        bring(folder)
    assert not (folder / "out").exists()
