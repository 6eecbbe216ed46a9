"""Files of amplifiers' software, which the tests write to the formats' rules, become sessions with the same signal."""

from pathlib import Path

import edfio
import h5py
import numpy as np
import pytest

from cpep_edge.errors import DataError
from cpep_train.corpus import Corpus, corpus_info
from cpep_train.formats import read_source
from cpep_train.import_files import FileChoices, import_files, import_libemg
from cpep_train.importing import Choices, Writing
from cpep_train.leakage import audit
from tests.processes import invoke

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
RATE_HZ = 200


def wave(n: int, n_channels: int, rate_hz: float = RATE_HZ) -> np.ndarray:
    """Slow sines in microvolts, (n, n_channels). Interpolation preserves them, and no two stretches are alike."""
    time_s = np.arange(n) / rate_hz
    return np.column_stack([(80 - time_s) * np.sin(2 * np.pi * (2 + k) * time_s + k) for k in range(n_channels)])


def import_one(path: Path, out: Path, about: FileChoices = FileChoices(), **chosen: object):
    summary = import_files([path], out, about, writing=Writing(Choices(**chosen)))
    assert corpus_info(out).faults == ()
    return summary, Corpus.open(out)


def _write_edf(path: Path, dimension: str = "mV") -> np.ndarray:
    emg = wave(1000, 2)
    scale = {"uV": 1, "mV": 1e-3}[dimension]
    signals = [
        edfio.EdfSignal(column * scale, RATE_HZ, label=name, physical_dimension=dimension)
        for name, column in (("EMG flexor", emg[:, 0]), ("EMG extensor", emg[:, 1]))
    ]
    signals.append(edfio.EdfSignal(np.zeros(5) + np.arange(5), 1, label="Temp", physical_dimension="C"))
    marks = ((1.0, 1.5, "Fist"), (3.0, None, "Open"), (4, 1, "Fist"))
    events = [edfio.EdfAnnotation(*mark) for mark in marks]
    edfio.Edf(signals, annotations=events).write(path)
    return emg


def test_annotations_of_an_edf_become_recordings_and_units_microvolts(tmp_path):
    emg = _write_edf(tmp_path / "a.edf")
    summary, corpus = import_one(tmp_path / "a.edf", tmp_path / "out", FileChoices(user="p"))
    assert [row.stage for row in corpus.rows] == ["Fist", "Open", "Fist"]
    assert {(row.user, row.session) for row in corpus.rows} == {("p", "a")}
    with corpus.session(corpus.rows[0]) as session:
        np.testing.assert_allclose(session.emg(), emg[200:500], atol=0.01)
        assert session.meta.sample_rate == RATE_HZ
    with corpus.session(corpus.rows[1]) as session:
        assert session.n_samples == 200  # until the next annotation
    assert summary.left_out == {"samples without a label": 300}
    assert "not taken: Temp" in summary.notes[-1]


def test_repetitions_go_to_their_splits_as_sessions_of_their_own(tmp_path):
    _write_edf(tmp_path / "a.edf")
    _, corpus = import_one(tmp_path / "a.edf", tmp_path / "out", FileChoices(user="p", test_repetitions=(2,)))
    assert {(row.stage, row.session, row.split) for row in corpus.rows} == {
        ("Fist", "a-rep1", "train"), ("Open", "a-rep1", "train"), ("Fist", "a-rep2", "test"),
    }  # fmt: skip
    audit(corpus)


def test_a_bdf_is_told_by_its_first_bytes_and_mixed_rates_become_one(tmp_path):
    fast, slow = wave(2000, 1, 400)[:, 0], wave(1000, 1, 200)[:, 0]
    signals = [
        edfio.BdfSignal(fast, 400, label="EMG 1", physical_dimension="uV"),
        edfio.BdfSignal(slow, 200, label="EMG 2", physical_dimension="uV"),
    ]
    edfio.Bdf(signals).write(tmp_path / "a.bdf")
    (tmp_path / "a.bdf").rename(tmp_path / "a.data")
    _, corpus = import_one(tmp_path / "a.data", tmp_path / "out", FileChoices(stage="Fist"))
    with corpus.session(corpus.rows[0]) as session:
        np.testing.assert_allclose(session.emg()[:, 0], fast, atol=0.01)
        np.testing.assert_allclose(session.emg()[50:-50, 1], fast[50:-50], atol=0.5)


def _write_opensignals(path: Path, codes: np.ndarray, device: str, bits: int, counter: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("00:07:80")
        about = {"sampling rate": 1000, "channels": np.array([3, 5]), "resolution": np.array([bits, bits])}
        for key, value in {**about, "device": device, "device name": "mine"}.items():
            group.attrs[key] = value
        raw = group.create_group("raw")
        for number, sensor in ((3, "EMG"), (5, "ACC")):
            table = raw.create_dataset(f"channel_{number}", data=codes[:, None].astype(np.uint32))
            table.attrs["sensor"] = sensor
        raw.create_dataset("nSeq", data=counter[:, None].astype(np.uint16))


@pytest.mark.parametrize(
    ("device", "bits", "supply_v", "gain"), [("channeller", 16, 3.0, 1000), ("bitalino_rev", 10, 3.3, 1009)]
)
def test_codes_of_opensignals_become_microvolts_by_the_sensors_data_sheet(tmp_path, device, bits, supply_v, gain):
    codes = np.random.default_rng(0).integers(0, 2**bits, 3000)
    counter = np.arange(3000) % 16 if bits == 10 else np.arange(3000)
    _write_opensignals(tmp_path / "a.h5", codes, device, bits, counter)
    _, corpus = import_one(tmp_path / "a.h5", tmp_path / "out", FileChoices(stage="Fist"))
    with corpus.session(corpus.rows[0]) as session:
        assert session.emg().shape == (3000, 1)
        np.testing.assert_allclose(session.emg()[:, 0], (codes / 2**bits - 0.5) * supply_v / gain * 1e6, rtol=1e-5)


def test_samples_that_opensignals_lost_leave_a_gap(tmp_path):
    codes, counter = np.random.default_rng(0).integers(0, 65536, 2000), np.arange(2000)
    counter[1200:] += 500
    _write_opensignals(tmp_path / "a.h5", codes, "channeller", 16, counter)
    summary, corpus = import_one(tmp_path / "a.h5", tmp_path / "out", FileChoices(stage="Fist"))
    assert "500 samples of mine were lost" in summary.notes[0]
    with corpus.session(corpus.rows[0]) as session:
        ((_, duration_s),) = session.gaps()
        assert duration_s == pytest.approx(0.5, abs=0.002)


def _openbci(n: int, lost: slice | None = None) -> tuple[str, np.ndarray]:
    emg = wave(n, 4, 250)
    lines = ["%OpenBCI Raw EXG Data", "%Number of channels = 4", "%Sample Rate = 250 Hz", "%Board = Cyton"]
    channels = ", ".join(f"EXG Channel {k}" for k in range(4))
    lines.append(f"Sample Index, {channels}, Accel Channel 0, Timestamp, Marker")
    for k in range(n):
        if lost is None or not lost.start <= k < lost.stop:
            marker = 2 if k == 100 else 3 if k == 300 else 0
            values = ", ".join(f"{v:.4f}" for v in emg[k])
            lines.append(f"{k % 256}, {values}, 0.1, {1557936053.0 + k / 250}, {marker}")
    return "\n".join(lines) + "\n", emg


def test_an_openbci_recording_is_cut_at_its_markers(tmp_path):
    text, emg = _openbci(600)
    (tmp_path / "a.txt").write_text(text)
    _, corpus = import_one(tmp_path / "a.txt", tmp_path / "out", rename={"marker 2": "Fist", "marker 3": "Open"})
    assert [row.stage for row in corpus.rows] == ["Fist", "Open"]
    with corpus.session(corpus.rows[0]) as session:
        np.testing.assert_allclose(session.emg(), emg[100:300], atol=1e-3)
        assert session.meta.sample_rate == 250


def test_packets_that_openbci_lost_leave_a_gap(tmp_path):
    (tmp_path / "a.txt").write_text(_openbci(600, lost=slice(200, 260))[0])
    _, corpus = import_one(tmp_path / "a.txt", tmp_path / "out", FileChoices(stage="Fist"))
    with corpus.session(next(row for row in corpus.rows if row.stage == "marker 2")) as session:
        ((_, duration_s),) = session.gaps()
        assert duration_s == pytest.approx(60 / 250, abs=0.002)


def test_trigno_discover_keeps_emg_at_its_own_rate(tmp_path):
    emg = wave(1200, 2, 1200)
    rows = ["Application:, Trigno Discover (1.6.4)", "Date/Time:, today", "Collection Length (seconds):, 1.0"]
    rows += ["EMG 01 (1), , EMG 02 (2), ", "sensor mode: 45, , sensor mode: 45, "]
    rows += ["EMG 1 (mV), ACC X (G), EMG 1 (mV), ACC X (G)", "1200.0 Hz, 100.0 Hz, 1200.0 Hz, 100.0 Hz"]
    for k in range(1200):
        slow = f"{k / 10}" if k < 100 else ""
        rows.append(f"{emg[k, 0] / 1000:.7f},{slow},{emg[k, 1] / 1000:.7f},{slow}")
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    _, corpus = import_one(tmp_path / "a.csv", tmp_path / "out", FileChoices(stage="Fist"))
    with corpus.session(corpus.rows[0]) as session:
        np.testing.assert_allclose(session.emg(), emg, atol=1e-3)
        assert session.meta.sample_rate == 1200
    (tmp_path / "b.csv").write_text("\n".join(row for row in rows if " Hz" not in row) + "\n")
    with pytest.raises(DataError, match="gives no channel a rate in Hz"):
        import_one(tmp_path / "b.csv", tmp_path / "out-b", FileChoices(stage="Fist"))


@pytest.mark.parametrize("said_before", [False, True])
def test_emgworks_pairs_of_time_and_value_are_volts(tmp_path, said_before):
    emg = wave(1000, 1, 1259.259)[:, 0]
    rows = []
    if said_before:
        for name, rate, n, unit in (("EMG 1", "1.259259e+003", 1000, "V"), ("ACC.X 1", "1.481481e+002", 100, "g")):
            label = f"Label: Sensor 1: {name} Sampling frequency: {rate} Number of points: {n}"
            rows.append(f"{label} start: 0.000000e+000 Unit: {unit} Domain Unit: s")
        rows.append("")
    rows.append('X[s],"Sensor 1: EMG 1",X[s],"Sensor 1: ACC.X 1"')
    for k in range(1000):
        slow = f"{k / 148.148:.8f},0.5" if k < 100 else ","
        rows.append(f"{k / 1259.259:.8f},{emg[k] * 1e-6:.10f},{slow}")
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    _, corpus = import_one(tmp_path / "a.csv", tmp_path / "out", FileChoices(stage="Fist"))
    with corpus.session(corpus.rows[0]) as session:
        np.testing.assert_allclose(session.emg()[:, 0], emg, atol=1e-3)
        assert session.meta.sample_rate == pytest.approx(1259.259, rel=1e-4)


def test_a_folder_of_libemg_is_read_by_repetition_and_class(tmp_path):
    rng = np.random.default_rng(0)
    for subject in (1, 2):
        folder = tmp_path / "set" / f"S{subject}"
        folder.mkdir(parents=True)
        for repetition in range(3):
            for number in range(2):
                emg = rng.normal(0, 50, (300, 4))
                np.savetxt(folder / f"R_{repetition}_C_{number}.csv", emg, delimiter=",")
    (tmp_path / "set" / "collection_details.json").write_text('{"classes": {"0": "Rest", "1": "Fist"}}')
    summary = import_libemg(tmp_path / "set", tmp_path / "out", 1000, writing=Writing(Choices(hold_out_people=("S2",))))
    corpus = Corpus.open(tmp_path / "out")
    audit(corpus)
    assert summary.gestures == {"Fist": 6, "Rest": 6}
    assert {(row.user, row.session.split("-")[-1], row.split) for row in corpus.rows} == {
        ("libemg-01", "rep0", "train"), ("libemg-01", "rep1", "train"), ("libemg-01", "rep2", "test"),
        ("libemg-02", "rep0", "test"), ("libemg-02", "rep1", "test"), ("libemg-02", "rep2", "test"),
    }  # fmt: skip


@pytest.mark.parametrize("cut", [10, 300, 1500])
def test_a_file_cut_short_is_named_in_one_sentence(tmp_path, cut):
    _write_edf(tmp_path / "a.edf")
    (tmp_path / "b.edf").write_bytes((tmp_path / "a.edf").read_bytes()[:cut])
    with pytest.raises(DataError, match=r"b\.edf") as caught:
        import_files([tmp_path / "b.edf"], tmp_path / "out", FileChoices(stage="x"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_file_without_a_label_says_what_to_give(tmp_path):
    edfio.Edf([edfio.EdfSignal(wave(1000, 1)[:, 0], RATE_HZ, label="EMG")]).write(tmp_path / "a.edf")
    with pytest.raises(DataError, match="give --stage"):
        import_files([tmp_path / "a.edf"], tmp_path / "out", FileChoices())


def test_a_dry_run_says_what_it_understood_and_writes_nothing(tmp_path):
    _write_edf(tmp_path / "a.edf")
    answer = invoke("data", "import", "files", tmp_path / "a.edf", tmp_path / "out", "--dry-run")
    assert answer.exit_code == 0, answer.output
    assert "3 recordings of 1 files" in answer.output
    assert "nothing was written" in answer.output
    assert not (tmp_path / "out").exists()


def test_where_an_edf_was_interrupted_there_is_a_gap(tmp_path):
    emg = _write_edf(tmp_path / "a.edf")
    content = (tmp_path / "a.edf").read_bytes().replace(b"EDF+C", b"EDF+D")
    head, size = 256 * 5, (len(content) - 256 * 5) // 5  # five records of three signals and the annotations
    records = [content[head + k * size :][:size] for k in range(5)]
    for k in (3, 4):  # the last two are delayed by 2.5 s
        said = records[k][802:].replace(b"+%d\x14\x14" % k, b"+%.1f\x14\x14" % (k + 2.5))
        records[k] = records[k][:802] + said.ljust(size - 802, b"\0")[: size - 802]
    content = content[:head] + b"".join(records)
    (tmp_path / "d.edf").write_bytes(content)
    source = read_source(tmp_path / "d.edf")
    assert source.gaps == ((3.0, 2.5),)
    summary, corpus = import_one(tmp_path / "d.edf", tmp_path / "out", FileChoices(stage="Rest"))
    assert any("interrupted 1 times, 2.5 s" in note for note in summary.notes)
    with corpus.session(corpus.rows[0]) as session:
        np.testing.assert_allclose(session.emg(), emg[:200], atol=0.01)
    assert summary.gestures == {"Rest": 2, "Fist": 1}  # the others are in the gap
    with corpus.session(corpus.rows[2]) as session:
        np.testing.assert_allclose(session.emg(), emg[500:], atol=0.01)
        ((_, duration_s),) = session.gaps()
        assert duration_s == pytest.approx(2.5, abs=0.01)


def _set_edf(content: bytes, start: int, width: int, text: str) -> bytes:
    return content[:start] + text.ljust(width).encode() + content[start + width :]


@pytest.mark.parametrize(
    ("start", "width", "text", "says"),
    [
        (244, 8, "0", "the duration of a record is '0'"),
        (244, 8, "nan", "the duration of a record is 'nan'"),
        (252, 4, "0", "the number of signals is '0'"),
        (252, 4, "9999", "9999 signals need"),
        (184, 8, "17", "the header is damaged"),
        (256 + 216 * 4, 8, "0", "samples of signal 1 in a record is '0'"),
        (256 + 216 * 4, 8, "99999999", "a record has"),
        (256 + 104 * 4, 8, "nan", "EMG flexor no range"),
        (256 + 120 * 4, 8, "32767", "EMG flexor no range"),
    ],
)
def test_a_header_of_an_edf_that_cannot_be_right_is_named(tmp_path, start, width, text, says):
    _write_edf(tmp_path / "a.edf")
    (tmp_path / "b.edf").write_bytes(_set_edf((tmp_path / "a.edf").read_bytes(), start, width, text))
    with pytest.raises(DataError, match=says):
        import_files([tmp_path / "b.edf"], tmp_path / "out", FileChoices(stage="x"))


@pytest.mark.parametrize(("key", "value"), [("resolution", [200, 200]), ("sampling rate", "abc"), ("sampling rate", 0)])
def test_an_attribute_of_opensignals_that_cannot_be_is_refused(tmp_path, key, value):
    codes = np.random.default_rng(0).integers(0, 65536, (500, 2))
    _write_opensignals(tmp_path / "a.h5", codes, "biosignalsplux", 16, np.arange(500) % 16)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file[next(iter(file))].attrs[key] = value
    with pytest.raises(DataError, match=r"a\.h5: "):
        import_files([tmp_path / "a.h5"], tmp_path / "out", FileChoices(stage="x"))


@pytest.mark.parametrize("first", [lambda k: k % 201, lambda k: k % 100 if k < 300 else k - 300])
def test_other_counters_of_openbci_are_no_loss(tmp_path, first):
    text, _ = _openbci(600)
    head, rows = text.splitlines()[:5], text.splitlines()[5:]
    counted = [f"{first(k)},{row.split(',', 1)[1]}" for k, row in enumerate(rows)]
    (tmp_path / "a.txt").write_text("\ufeff" + "\n".join([*head, *counted]) + "\n", encoding="utf-8")
    assert read_source(tmp_path / "a.txt").time_s is None


def test_rows_of_openbci_that_were_cut_are_counted_wherever_they_are(tmp_path):
    lines = _openbci(600)[0].splitlines()
    for number in (5, 200):
        lines[number] = lines[number][:20]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n")
    summary, _ = import_one(tmp_path / "a.txt", tmp_path / "out", FileChoices(stage="Fist"))
    assert summary.left_out == {"rows cut short": 2}
    assert summary.n_samples_read == summary.n_samples_kept + 2


def _emgworks(values: list[str], mark: str = ",") -> str:
    rows = [mark.join((f"{k / 1000:.4f}", value, f"{k / 1000:.4f}", "1e-4")) for k, value in enumerate(values)]
    text = "\n".join([mark.join(("X[s]", "A: EMG 1", "X[s]", "B: EMG 2")), *rows]) + "\n"
    return text if mark == "," else text.replace(".", ",")


@pytest.mark.parametrize("hole", ["", "Error"])
def test_a_hole_in_a_column_of_emg_moves_nothing(tmp_path, hole):
    values = [f"{k}e-6" for k in range(300)]
    (tmp_path / "a.csv").write_text(_emgworks([*values[:50], hole, *values[51:]]))
    with pytest.raises(DataError, match="EMG 1 holds no number in row 52, but does after it"):
        import_files([tmp_path / "a.csv"], tmp_path / "out", FileChoices(stage="x"))


def test_a_channel_that_ends_early_shortens_the_file_and_is_counted(tmp_path):
    (tmp_path / "a.csv").write_text(_emgworks([f"{k}e-6" for k in range(120)] + [""] * 180, mark=";"))
    summary, _ = import_one(tmp_path / "a.csv", tmp_path / "out", FileChoices(stage="Fist"))
    assert (summary.n_samples_read, summary.n_samples_kept) == (300, 120)
    assert summary.left_out == {"samples beyond a file's shortest channel": 180}


def test_what_would_be_there_twice_or_is_not_there_is_refused(tmp_path):
    _write_edf(tmp_path / "a.edf")
    with pytest.raises(DataError, match="named twice"):
        import_files([tmp_path / "a.edf", tmp_path / "." / "a.edf"], tmp_path / "out", FileChoices())
    with pytest.raises(DataError, match="no gesture has a repetition 7"):
        import_files([tmp_path / "a.edf"], tmp_path / "out", FileChoices(test_repetitions=(7,)))


@pytest.mark.parametrize("name", ["{who}/R_{r}_C_{c}.csv", "{who}_R_{r}_C_{c}.csv", "{who}/C_{c}_R_{r}_emg.csv"])
def test_two_people_of_libemg_stay_two_and_other_sensors_out(tmp_path, name):
    for who in ("ann", "bob"):
        for r, c in ((0, 0), (0, 1), (1, 0), (1, 1)):
            file = tmp_path / "set" / name.format(who=who, r=r, c=c)
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savetxt(file, np.random.default_rng(len(who) + r).normal(0, 50, (50, 4)), delimiter=",")
            if file.stem.endswith("_emg"):
                file.with_name(file.name.replace("emg", "imu")).write_text("1,2,3\n")
    summary = import_libemg(tmp_path / "set", tmp_path / "out", 1000)
    assert summary.people == ("libemg-ann", "libemg-bob")
    assert summary.n_channels == (4,)


@pytest.mark.parametrize("details", ["[" * 100_000, '["Fist"]', '{"classes": 3}'])
def test_details_of_libemg_that_are_none_leave_numbers(tmp_path, details):
    (tmp_path / "set").mkdir()
    for r in range(2):
        (tmp_path / "set" / f"R_{r}_C_0.csv").write_text("1,2\n3,4\n")
    (tmp_path / "set" / "collection_details.json").write_text(details)
    assert set(import_libemg(tmp_path / "set", tmp_path / "out", 1000).gestures) == {"class 0"}


def test_the_name_of_a_channel_is_no_command_to_a_terminal(tmp_path):
    _write_edf(tmp_path / "a.edf")
    (tmp_path / "b.edf").write_bytes((tmp_path / "a.edf").read_bytes().replace(b"EMG flexor", b"EMG\x1b[31mxy", 1))
    answer = invoke("data", "import", "files", tmp_path / "b.edf", tmp_path / "out")
    assert answer.exit_code == 0, answer.output
    assert "\x1b" not in answer.output


def test_the_shared_files_are_all_read():
    if not (SHARED / "files").is_dir():
        pytest.skip("shared/data is not there")
    kinds = {
        "OpenBCI_GUI-v6-blinks-jawClench-alpha.txt": ("OpenBCI", 8, 22_490),
        "delsys_discover142.csv": ("Trigno Discover", 50, 250),
        "delsys_discover164_basic.csv": ("Trigno Discover", 37, 250),
        "delsys_emgworks.csv": ("EMGworks", 69, 200),
        "delsys_trigno_truncated.csv": ("EMGworks", 14, 2_519),
        "opensignals_emg_1000_hz_16_bits.h5": ("OpenSignals", 2, 40_500),
        "opensignals_emg_bursts.h5": ("OpenSignals", 1, 28_519),
        "pyedflib_test_generator.bdf": ("BDF", 5, 30_000),
        "xdf_clock_resets.xdf": ("XDF", 8, 27_815),
        "xdf_empty_streams.xdf": ("XDF", 1, 10),
        "xdf_minimal.xdf": ("XDF", 3, 9),
    }
    for name, (kind, n_channels, n_samples) in kinds.items():
        source = read_source(SHARED / "files" / name)
        assert (source.kind, len(source.channels), len(source.channels[0].values)) == (kind, n_channels, n_samples)
