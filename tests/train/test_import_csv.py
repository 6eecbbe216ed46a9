from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cpep_edge.cli import app
from cpep_edge.errors import ConfigError, CpepError, DataError
from cpep_edge.session import JOINT_NAMES
from cpep_train.corpus import Corpus, corpus_info
from cpep_train.import_csv import import_csv

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
def folder(tmp_path: Path) -> Path:
    """Two files of one band, and their map."""
    (tmp_path / "map.toml").write_text(MAP)
    _write_csv(tmp_path / "a.csv", ["Fist"] * 40 + [""] * 10 + ["Rest"] * 50 + ["Fist"] * 30)
    _write_csv(tmp_path / "b.csv", ["Rest"] * 60)
    return tmp_path


def test_rows_are_cut_where_their_label_changes_and_unlabelled_ones_left_out(folder: Path) -> None:
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
        np.testing.assert_allclose(session.emg(), 2 * emg[50:100], atol=1e-5)  # in microvolts, by the names of columns
        angles = session.joint_angles()
        assert session.meta.sample_rate == 500
    assert angles[0, JOINT_NAMES.index("index_mcp_flexion")] == pytest.approx(1.5 - 1.5 * 0.25)
    assert np.count_nonzero(angles[0]) == 1
    assert corpus_info(folder / "out").faults == ()


def test_the_command_says_what_it_imported(folder: Path) -> None:
    answer = CliRunner().invoke(app, ["data", "import", "csv", str(folder / "map.toml"), str(folder / "out")])
    assert answer.exit_code == 0, answer.output
    assert "4 recordings of 2 files" in answer.output


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("sample_rate_hz = 500", "sample_rate_hz = -1\nunknown = 1", "sample_rate_hz: .*greater than 0.*; unknown: "),
        ("index_mcp_flexion", "elbow", "pose.elbow is none of the 20 joints"),
        ('stage = "gesture"', "", "a.csv has no stage, and no column says it; files: b.csv"),
        ('split = "train"', 'split = "training"', r"files.0.split: Input should be 'train', 'val' or 'test'"),
        ("[columns]", "[columns", "cannot be read"),
    ],
)
def test_all_faults_of_a_map_are_named_at_once(folder: Path, old: str, new: str, says: str) -> None:
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
        ("ch_1,ch_2,gesture,index\n1,x,Fist,0\n", "b.csv: column ch_2 holds something that is no number"),
        ("ch_1,ch_2,gesture,index\n1,2,Fist,0\n1,,Fist,0\n", "b.csv: an EMG column holds no number in row 3"),
        (None, "b.csv cannot be read"),
    ],
)
def test_a_file_that_does_not_fit_is_named_and_nothing_is_left(folder: Path, text: str | None, says: str) -> None:
    (folder / "b.csv").unlink()
    if text is not None:
        (folder / "b.csv").write_text(text)
    with pytest.raises(CpepError, match=says) as caught:
        import_csv(folder / "map.toml", folder / "out")
    assert isinstance(caught.value, DataError)
    assert not (folder / "out").exists()


def test_an_import_into_a_folder_that_holds_its_own_sources_deletes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ch_1,ch_2\n" + "1.5,2.25\n" * 300)
    (tmp_path / "map.toml").write_text(
        'sample_rate_hz = 1000\n[columns]\nemg = ["ch_1", "ch_2"]\n[[files]]\nfile = "a.csv"\nuser = "p1"\n'
        'session = "s1"\nsplit = "train"\nstage = "Fist"\n'
    )
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    for force in (False, True):
        with pytest.raises(ConfigError, match=r"holds a.csv, which is not ours"):
            import_csv(tmp_path / "map.toml", tmp_path, force=force)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before

    import_csv(tmp_path / "map.toml", tmp_path / "out")
    import_csv(tmp_path / "map.toml", tmp_path / "out")  # what it wrote itself it may write again
