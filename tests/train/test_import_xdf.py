"""XDF files, which the tests write chunk by chunk: a chunk is its length, a tag and its content."""

import struct
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.errors import DataError
from cpep_train.import_files import FileChoices, import_files
from tests.train.test_import_files import RATE_HZ, import_one, wave


def _chunk(tag: int, content: bytes) -> bytes:
    return b"\x04" + struct.pack("<IH", len(content) + 2, tag) + content


def _stream(number: int, name: str, kind: str, n: int, form: str, rate_hz: float, unit: str = "") -> bytes:
    described = "".join(f"<channel><label>c{k}</label><unit>{unit}</unit></channel>" for k in range(n))
    return _chunk(
        2,
        struct.pack("<I", number)
        + (
            f"<info><name>{name}</name><type>{kind}</type><channel_count>{n}</channel_count><channel_format>{form}"
            f"</channel_format><nominal_srate>{rate_hz}</nominal_srate><desc><channels>{described}</channels></desc></info>"
        ).encode(),
    )


def _samples(number: int, times_s: np.ndarray, values: list[bytes]) -> bytes:
    rows = b"".join(b"\x08" + struct.pack("<d", t) + value for t, value in zip(times_s, values, strict=True))
    return _chunk(3, struct.pack("<I", number) + b"\x04" + struct.pack("<I", len(values)) + rows)


def _string(text: str) -> bytes:
    return b"\x01" + struct.pack("<B", len(text)) + text.encode()


def _footer(number: int, times_s: np.ndarray) -> bytes:
    first, last = (times_s[0], times_s[-1]) if len(times_s) else (0, 0)
    text = f"<info><first_timestamp>{first}</first_timestamp><last_timestamp>{last}</last_timestamp></info>"
    return _chunk(6, struct.pack("<I", number) + text.encode())


def _write_xdf(path: Path, times_s: np.ndarray, emg: np.ndarray, unit: str) -> None:
    marks_s = np.array([100.5, 102.0, 103.0])
    content = [
        b"XDF:",
        _chunk(1, b"<?xml version='1.0'?><info><version>1.0</version></info>"),
        _stream(1, "Head", "EEG", 1, "float32", 100),
        _stream(2, "Band", "EMG", emg.shape[1], "float32", RATE_HZ, unit),
        _stream(3, "Prompts", "Markers", 1, "string", 0),
        _stream(4, "Nothing", "EMG", 8, "float32", 500),
        _samples(1, times_s, [struct.pack("<f", 0.0)] * len(times_s)),
        _samples(2, times_s, [row.astype("<f4").tobytes() for row in emg]),
        _samples(3, marks_s, [_string(text) for text in ("Fist", "Rest", "Open")]),
        *(_footer(n, t) for n, t in ((1, times_s), (2, times_s), (3, marks_s), (4, np.array([])))),
    ]
    path.write_bytes(b"".join(content))


def test_the_emg_stream_of_an_xdf_is_found_and_markers_become_labels(tmp_path):
    emg = wave(1000, 3)
    _write_xdf(tmp_path / "a.xdf", 100 + np.arange(1000) / RATE_HZ, emg / 1000, "millivolts")
    summary, corpus = import_one(tmp_path / "a.xdf", tmp_path / "out", FileChoices(user="p"))
    assert [row.stage for row in corpus.rows] == ["Fist", "Rest", "Open"]
    with corpus.session(corpus.rows[0]) as session:
        np.testing.assert_allclose(session.emg(), emg[100:400], atol=0.5)
    assert summary.left_out == {"samples without a label": 100}
    text = " ".join(summary.notes)
    assert "stream Nothing holds no samples" in text
    assert "stream Head was left out" in text


def test_the_gap_of_an_xdf_stays_a_gap(tmp_path):
    times_s = 100 + np.concatenate([np.arange(300), np.arange(340, 1040)]) / RATE_HZ
    _write_xdf(tmp_path / "a.xdf", times_s, wave(1000, 2), "microvolts")
    _, corpus = import_one(tmp_path / "a.xdf", tmp_path / "out", FileChoices(user="p"))
    with corpus.session(next(row for row in corpus.rows if row.stage == "Fist")) as session:
        ((_, duration_s),) = session.gaps()
        assert duration_s == pytest.approx(0.2, abs=0.02)


def test_numbers_that_mark_and_a_rate_that_is_not_the_nominal_one(tmp_path):
    times_s, emg = np.arange(400) / 200, wave(400, 2)
    marks_s = np.array([0.5, 1.0])
    rows = [struct.pack("<2f", *row) for row in emg]
    (tmp_path / "a.xdf").write_bytes(
        b"XDF:"
        + _chunk(1, b"<info><version>1.0</version></info>")
        + _stream(1, "Band", "EMG", 2, "float32", 1e9, "microvolts")
        + _samples(1, times_s, rows)
        + _footer(1, times_s)
        + _stream(2, "Stim", "Markers", 1, "int32", 0)
        + _samples(2, marks_s, [struct.pack("<i", value) for value in (3, 7)])
        + _footer(2, marks_s)
    )
    summary, corpus = import_one(tmp_path / "a.xdf", tmp_path / "out")
    assert summary.sample_rates_hz == (200.0,)
    assert any("200 Hz where 1e+09 Hz are said" in note for note in summary.notes)
    assert [row.stage for row in corpus.rows] == ["marker 3", "marker 7"]
    with corpus.session(corpus.rows[1]) as session:
        np.testing.assert_allclose(session.emg(), emg[200:], atol=0.01)


@pytest.mark.parametrize(
    ("times_s", "says"),
    [(np.where(np.arange(50) == 5, np.nan, 1.0), "a time stamp .* is not a number"), (np.full(50, 5.0), "stand still")],
)
def test_time_stamps_that_say_nothing_are_refused(tmp_path, times_s, says):
    rows = [struct.pack("<2f", *row) for row in wave(50, 2)]
    described = _stream(1, "Band", "EMG", 2, "float32", 0, "uV")
    (tmp_path / "a.xdf").write_bytes(b"XDF:" + described + _samples(1, times_s, rows))
    with pytest.raises(DataError, match=says):
        import_files([tmp_path / "a.xdf"], tmp_path / "out", FileChoices(stage="x"))
