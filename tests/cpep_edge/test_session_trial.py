"""Session files from elsewhere: a bad one gives a sentence that names it, and the next one is read."""

import stat
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from cpep_edge.cli.link import simulate
from cpep_edge.errors import DataError
from cpep_edge.live_recording import LINES_FILE, replay
from cpep_edge.pose_file import read_movement
from cpep_edge.session import JOINT_NAMES, Session, SessionMeta, timeseries_dtype, write_session
from cpep_edge.session_trial import SessionTrial, check_session
from cpep_train.corpus import corpus_info

RATE_HZ = 500.0


@pytest.fixture
def session(tmp_path) -> Path:
    file = tmp_path / "good.hdf5"
    emg_uv = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    meta = SessionMeta("s", "u", "Fist", "left", 0.0, 1999 / RATE_HZ, 4, RATE_HZ, "good")
    write_session(file, meta, np.arange(1000) / RATE_HZ, emg_uv)
    return file


def test_the_survey_is_that_of_the_session(session):
    with SessionTrial() as trial:
        found, meta = trial.survey(session), trial.meta(session)

    with Session(session) as opened:
        assert meta == opened.meta
    assert (found.n_samples, found.n_channels, found.sample_rate_hz, found.n_gaps) == (1000, 4, RATE_HZ, 0)
    assert found.duration_s == pytest.approx(2.0)
    assert found.n_failed_poses == 1000


def edited(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        with h5py.File(file, "r+") as opened:
            change(opened)

    return spoil


def instead(put: Callable[[h5py.Group], object]) -> Callable[[Path], None]:
    """A change that puts something else in place of the table."""

    def change(file: h5py.File) -> None:
        del file["emg2pose/timeseries"]
        put(file["emg2pose"])

    return edited(change)


def elsewhere(file: Path) -> None:
    """Move the samples into another file, with an HDF5 link to it."""
    other = file.with_name("other.hdf5")
    other.write_bytes(file.read_bytes())
    link = h5py.ExternalLink(str(other), "emg2pose/timeseries")
    instead(lambda group: group.__setitem__("timeseries", link))(file)


def raw_elsewhere(file: Path) -> None:
    """Read the samples from a file that is not HDF5; it could be any that the user may read."""
    other = file.with_name("secret")
    other.write_bytes(bytes(100_000))
    table_of(timeseries_dtype(4), 10, external=[(str(other), 0, h5py.h5f.UNLIMITED)])(file)


def virtual(file: Path) -> None:
    layout = h5py.VirtualLayout((10,), timeseries_dtype(4))
    layout[:] = h5py.VirtualSource("other.hdf5", "emg2pose/timeseries", (10,), timeseries_dtype(4))
    instead(lambda group: group.create_virtual_dataset("timeseries", layout))(file)


def table_of(kind: np.dtype, *shape: int, **named: object) -> Callable[[Path], None]:
    return instead(lambda group: group.create_dataset("timeseries", shape, kind, **named))


def attribute(name: str, value: object) -> Callable[[Path], None]:
    return edited(lambda file: file["emg2pose"].attrs.__setitem__(name, value))


WORDS = np.dtype([("time", "<f8"), ("joint_angles", "<f4", (20,)), ("emg", h5py.string_dtype(), (4,))])
WHAT = {
    "nothing": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:5000]),
    "text": lambda file: file.write_text("emg2pose"),
    "no file": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "more samples than its bytes": table_of(timeseries_dtype(4), 10**12, chunks=(1000,)),
    "more channels than its bytes": table_of(timeseries_dtype(4000), 10**7, chunks=(1,)),
    "another file": elsewhere,
    "another raw file": raw_elsewhere,
    "a virtual table": virtual,
    "words for numbers": table_of(WORDS, 10),
    "two dimensions": table_of(timeseries_dtype(4), 5, 5),
    "no dimension": table_of(timeseries_dtype(4)),
    "no samples": table_of(timeseries_dtype(4), 0),
    "a group for the table": instead(lambda group: group.create_group("timeseries")),
    "rate of infinity": attribute("sample_rate", float("inf")),
    "rate of NaN": attribute("sample_rate", float("nan")),
    "rate of 1e308": attribute("sample_rate", 1e308),
    "rate of nothing": attribute("sample_rate", h5py.Empty("f8")),
    "rate in words": attribute("sample_rate", "fast"),
    "rates": attribute("sample_rate", [500.0, 500.0]),
    "channels of 10^30": attribute("num_channels", 1e30),
    "channels of NaN": attribute("num_channels", float("nan")),
    "time of NaN": edited(
        lambda file: file["emg2pose/timeseries"].__setitem__(
            slice(None), np.full(1000, np.nan, dtype=timeseries_dtype(4))
        )
    ),
    "a link in a circle": edited(
        lambda file: (file.__delitem__("emg2pose"), file.__setitem__("emg2pose", h5py.SoftLink("/emg2pose")))
    ),
}


@pytest.mark.parametrize("what", list(WHAT))
def test_a_file_that_somebody_made_up_is_a_sentence_and_the_next_one_is_read(session, tmp_path, what):
    spoilt = tmp_path / "spoilt.hdf5"
    spoilt.write_bytes(session.read_bytes())
    WHAT[what](spoilt)

    with SessionTrial() as trial:
        with pytest.raises(DataError, match=r"spoilt\.hdf5") as refused:
            trial.survey(spoilt)
        assert trial.survey(session).n_samples == 1000

    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400 + len(str(tmp_path))
    assert "crash" not in str(refused.value)


def test_long_names_in_the_attributes_are_cut(session):
    attribute("stage", "x" * 60_000)(session)

    with SessionTrial() as trial:
        assert len(trial.meta(session).stage) < 300


def dying(tmp_path: Path, how: str) -> str:
    """A script in place of the interpreter. It dies, as HDF5 does in a few of a thousand files with a changed byte."""
    script = tmp_path / "dying"
    script.write_text(f"#!/bin/sh\nread line\n{how}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("kill -SEGV $$", r"reading it crashes HDF5 \(Segmentation fault\)"),
        ("exit 1", r"reading it crashes HDF5 \(exit status 1\)"),
        ("exec sleep 600", "reading it does not end"),
    ],
)
def test_a_reader_that_dies_or_hangs_is_a_sentence_and_another_goes_on(session, tmp_path, monkeypatch, how, said):
    monkeypatch.setattr("cpep_edge.session_trial._BASE_S", 0.5 if "sleep" in how else 20.0)
    with SessionTrial() as trial:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", dying(tmp_path, how))
            with pytest.raises(DataError, match=said):
                trial.survey(session)
        monkeypatch.setattr("cpep_edge.session_trial._BASE_S", 20.0)
        assert trial.survey(session).n_samples == 1000


@pytest.mark.parametrize("command", ["info", "simulate", "pose file", "replay", "replay of a run"])
def test_every_way_in_for_a_session_reads_it_apart_first(session, monkeypatch, command):
    def note(self: SessionTrial, what: str, path: Path) -> object:
        raise DataError(f"{path} was read apart")

    (session.parent / LINES_FILE).touch()
    ways: dict[str, Callable[[], object]] = {
        "info": lambda: corpus_info(session),
        "simulate": lambda: simulate([session]),
        "pose file": lambda: read_movement(session, JOINT_NAMES),
        "replay": lambda: next(replay(session, None)),  # type: ignore[arg-type]  # not used before the session is checked
        "replay of a run": lambda: next(replay(session.parent, None)),
    }
    monkeypatch.setattr(SessionTrial, "_answer", note)

    with pytest.raises(DataError, match="was read apart"):
        ways[command]()


def test_one_session_is_checked_as_many_are(session):
    check_session(session)
    session.write_bytes(b"")
    with pytest.raises(DataError, match="not an HDF5 file"):
        check_session(session)
