import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from cpep_edge.errors import DataError
from cpep_edge.session import Session, SessionMeta, timeseries_dtype, write_session
from cpep_edge.session_trial import check_session
from cpep_train.corpus import corpus_info
from tests.processes import forbidding, start
from tests.train.toy_corpus import RATE_HZ, damage, write_toy_session

rows = np.arange(1000)


def test_a_session_reads_back_as_it_was_written(tmp_path):
    rng = np.random.default_rng(1)
    time_s, emg = 5 + np.arange(300) / 2000, rng.standard_normal((300, 16)).astype(np.float32)
    pose = rng.standard_normal((300, 20)).astype(np.float32)
    meta = SessionMeta("s", "u", "OK", "left", time_s[0], time_s[-1], 16, 2000.0, "x")
    write_session(tmp_path / "x.hdf5", meta, time_s, emg, pose)
    with Session(tmp_path / "x.hdf5") as session:
        assert session.meta == meta
        np.testing.assert_array_equal(session.emg(10, 20), emg[10:20])
        np.testing.assert_array_equal(session.joint_angles(), pose)
        np.testing.assert_array_equal(session.time_s(), time_s)


def test_the_file_has_the_published_layout(tmp_path):
    path = write_toy_session(tmp_path, "x")
    with h5py.File(path) as file:
        table = file["emg2pose"]["timeseries"]
        assert table.dtype == timeseries_dtype(4)
        assert table.dtype.names == ("time", "joint_angles", "emg")
        assert set(file["emg2pose"].attrs) == set(SessionMeta.__dataclass_fields__)


def test_a_straight_hand_is_a_pose_and_a_missing_one_is_not(tmp_path):
    pose = np.ones((6, 20), np.float32)
    pose[1], pose[2] = 0, np.nan
    meta = SessionMeta("s", "u", "OK", "left", 0.0, 0.005, 4, 1000.0, "x")
    write_session(tmp_path / "x.hdf5", meta, np.arange(6) / 1000, np.ones((6, 4), np.float32), pose)
    with Session(tmp_path / "x.hdf5") as session:
        assert session.pose_valid().tolist() == [True, True, False, True, True, True]
        session.check()


def test_in_a_published_file_all_zeros_are_a_failed_fit_and_nan_is_damage(tmp_path):
    path = write_toy_session(tmp_path, "x")
    damage(path, "joint_angles", slice(10, 20), 0.0)
    with Session(path) as session:
        assert np.flatnonzero(~session.pose_valid()).tolist() == list(range(10, 20))
    damage(path, "joint_angles", (30, 4), np.nan)
    with Session(path) as session, pytest.raises(DataError, match="NaN or infinity at sample 30"):
        session.check()


def test_a_file_that_another_program_writes_to_is_not_called_damaged(tmp_path):
    path = write_toy_session(tmp_path, "x")
    code = f"import h5py, sys; f = h5py.File({str(path)!r}, 'r+'); print(flush=True); sys.stdin.read()"
    with start("-c", code, stdin=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(DataError, match=r"x\.hdf5: another program has it open for writing"):
            Session(path)
        other.communicate()


@pytest.fixture
def forbidden(tmp_path) -> Iterator[Path]:
    """A session that this user may not read; as root, by switching to another user."""
    path = write_toy_session(tmp_path, "x")
    with forbidding(path):
        yield path


@pytest.mark.parametrize("read", [Session, check_session])
def test_a_file_that_may_not_be_read_is_not_called_damaged(forbidden, read):
    with pytest.raises(DataError, match=r"you may not read it"):
        read(forbidden)


def test_a_filter_that_is_not_installed_is_named(tmp_path):
    path, unknown = write_toy_session(tmp_path, "x"), 32_099  # not a registered filter
    with h5py.File(path, "r+") as file:
        rows = file["emg2pose/timeseries"][:]
        del file["emg2pose/timeseries"]
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk((len(rows),))
        made.set_filter(unknown, h5py.h5z.FLAG_OPTIONAL, (0,))
        dtype = h5py.h5t.py_create(rows.dtype, logical=True)
        space = h5py.h5s.create_simple((len(rows),))
        table = h5py.h5d.create(file["emg2pose"].id, b"timeseries", dtype, space, made)
        table.write_direct_chunk((0,), rows.tobytes(), 0)
    with pytest.raises(DataError, match=r"HDF5 filter 32099.*not installed; pip install hdf5plugin"):
        Session(path)


def test_double_precision_joint_angles_are_read_too(tmp_path):
    dtype = np.dtype([("time", "<f8"), ("joint_angles", "<f8", (20,)), ("emg", "<f4", (4,))])
    path = write_toy_session(tmp_path, "x")
    with h5py.File(path, "a") as file:
        table = file["emg2pose/timeseries"][:].astype(dtype)
        del file["emg2pose/timeseries"]
        file["emg2pose"].create_dataset("timeseries", data=table)
    with Session(path) as session:
        assert session.joint_angles().dtype == np.float32
        np.testing.assert_allclose(session.joint_angles(), table["joint_angles"], rtol=1e-6)


def test_a_gap_is_found_with_its_length(tmp_path):
    time_s = np.arange(1000) / RATE_HZ + 0.3 * (np.arange(1000) >= 600)
    with Session(write_toy_session(tmp_path, "x", time_s=time_s)) as session:
        ((start_s, duration_s),) = session.gaps()
    assert start_s == pytest.approx(599 / RATE_HZ)
    assert duration_s == pytest.approx(0.3)


def _edit(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with h5py.File(path, "a") as file:
            change(file)

    return apply


def _attribute(name: str, value: object) -> Callable[[Path], None]:
    return _edit(lambda file: file["emg2pose"].attrs.__setitem__(name, value))


def _without_field(file: h5py.File) -> None:
    table = file["emg2pose/timeseries"][:][["time", "joint_angles"]]
    del file["emg2pose/timeseries"]
    file["emg2pose"].create_dataset("timeseries", data=table)


@pytest.mark.parametrize(
    ("break_file", "says"),
    [
        (_edit(lambda file: file.__delitem__("emg2pose")), "group emg2pose is missing"),
        (_edit(_without_field), "field emg is missing"),
        (_edit(lambda file: file["emg2pose"].attrs.__delitem__("sample_rate")), "missing from emg2pose: sample_rate"),
        (_attribute("sample_rate", 2.0 * RATE_HZ), "sample_rate says 1000 Hz, but field time runs at 500 Hz"),
        (_attribute("num_channels", 16), "num_channels says 16, but field emg has 4"),
        (_attribute("num_channels", h5py.Empty("i")), "attribute num_channels of emg2pose is not a number"),
        (_attribute("start", "soon"), "attribute start of emg2pose is not a number"),
        (lambda path: damage(path, "emg", (700, 2), np.nan), "field emg holds NaN or infinity at sample 700"),
        (lambda path: damage(path, "time", 500, 0.0), "field time does not rise"),
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "cut short"),
        (lambda path: path.write_bytes(b"no HDF5 at all"), "not an HDF5 file"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path, break_file, says):
    write_toy_session(tmp_path, "good")
    bad = write_toy_session(tmp_path, "bad")
    break_file(bad)

    def look() -> str:
        try:
            return "; ".join(corpus_info(tmp_path).faults)
        except DataError as error:  # without metadata, an unreadable file ends the listing
            return str(error)

    assert says in look()
    assert "bad.hdf5" in look()
    assert "good.hdf5" not in look()


def test_one_session_file_can_be_looked_at_alone(tmp_path):
    info = corpus_info(write_toy_session(tmp_path, "x", failed=slice(0, 250)))
    assert (info.n_files, info.n_users, info.faults) == (1, 1, ())
    assert info.failed_pose_share == 0.25
    assert info.hours * 3600 == pytest.approx(2.0)
