"""Prompted sessions, and event scores of a bundle that reads the answer from the signal."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import signal

from cpep_edge.errors import ConfigError, DataError
from cpep_edge.manifest import DecisionSpec
from cpep_edge.names import FREE_MOVEMENT
from cpep_edge.session import SessionMeta, write_session
from cpep_train.corpus import Corpus, Row, write_metadata
from cpep_train.live_evaluation import evaluate_live
from cpep_train.prompted import LABELS_FILE, PROMPTED, read_labels, synthesise_prompted
from tests.cpep_edge.fake_stream import HOP_MS, RATE_HZ, LevelRecogniser

SPEC = DecisionSpec(evidence_ms=50.0, hop_ms=HOP_MS, rest_gesture="Low", rest_level=0.3)


def write(folder: Path, signal: np.ndarray) -> None:
    meta = SessionMeta("s", "u", PROMPTED, "right", 0.0, 9.999, 2, RATE_HZ, f"u-{PROMPTED}")
    write_session(folder / f"u-{PROMPTED}.hdf5", meta, np.arange(10_000) / RATE_HZ, signal)


@pytest.fixture
def corpus(tmp_path) -> Path:
    """One session of ten seconds: High three times as labelled, and once without a label."""
    signal = np.zeros((10_000, 2), np.float32)
    lines = ["filename,gesture,start_s,end_s"]
    for start in (1, 3, 5):
        signal[start * 1000 : start * 1000 + 1000] = 1
        lines.append(f"u-{PROMPTED},High,{start}.000,{start + 1}.000")
    signal[8000:8600] = 1  # without a prompt
    write(tmp_path, signal)
    write_metadata(tmp_path, [Row("u", "s", PROMPTED, "right", "right", True, False, "test", "user", f"u-{PROMPTED}")])
    (tmp_path / LABELS_FILE).write_text("\n".join(lines) + "\n")
    return tmp_path


def recogniser() -> LevelRecogniser:
    found = LevelRecogniser(spec=SPEC)
    found.manifest.calibration, found.manifest.level_pattern = (), ()
    return found


def test_a_perfect_reader_is_scored_as_one_and_its_false_activation_is_seen(corpus):
    score = evaluate_live(recogniser(), corpus)
    events = score.events
    assert (events.n_right, events.n_missed, events.n_confused, events.n_extra_outside) == (3, 0, 0, 1)
    assert events.false_activations_per_hour == pytest.approx(360)
    # more than half of the window is high 150 ms after the onset; the third such window is enough evidence
    assert events.algorithm.p50_ms == pytest.approx(250)
    assert score.n_people == 1
    assert 0.4 < score.rest_share < 0.7


def test_what_decides_may_be_replaced(corpus):
    slow = SPEC.model_copy(update={"evidence_ms": 5_000.0})
    assert evaluate_live(recogniser(), corpus, spec=slow).events.n_missed == 3


def test_sessions_without_the_movements_that_calibrate_are_not_judged_uncalibrated(corpus):
    asks = recogniser()
    asks.manifest.calibration = (FREE_MOVEMENT,)
    with pytest.raises(DataError, match="session s of u has no recording of FreeMovement"):
        evaluate_live(asks, corpus)


@pytest.mark.parametrize("of", ["nothing", "noise", "before the labels"])
def test_prompts_that_hold_no_movement_are_said(corpus, of):
    signal = np.zeros((10_000, 2), np.float32)
    if of == "noise":
        signal = np.random.default_rng(0).normal(0, 10, (10_000, 2)).astype(np.float32)
    if of == "before the labels":  # as if the labels were for another recording
        signal[:900] = signal[2100:2900] = 1
    write(corpus, signal)
    with pytest.raises(DataError, match="the prompts of u-Prompted hold no movement"):
        evaluate_live(recogniser(), corpus)


def test_a_folder_without_labels_or_without_that_split_is_said(corpus):
    with pytest.raises(DataError, match="in the split val"):
        evaluate_live(recogniser(), corpus, split="val")
    (corpus / LABELS_FILE).write_text("filename,gesture,start_s,end_s\na,High,2.0,1.0\n")
    with pytest.raises(DataError, match="line 2 is from . s to 1 s, which is not a stretch"):
        read_labels(corpus)
    (corpus / LABELS_FILE).unlink()
    with pytest.raises(DataError, match="labels with times are needed"):
        evaluate_live(recogniser(), corpus)


@pytest.mark.slow
def test_so_few_people_that_nobody_is_prompted_are_refused(tmp_path):
    pytest.importorskip("mujoco")
    pytest.importorskip("myo_sim")
    with pytest.raises(ConfigError, match="of 2 simulated people none is held out"):
        synthesise_prompted(tmp_path / "out", n_users=2, sessions_per_user=3, repetitions=1, seed=0)
    assert not (tmp_path / "out").exists()


def test_a_simulated_wearer_makes_every_gesture_as_asked_and_rests_in_between(tmp_path):
    pytest.importorskip("mujoco")
    pytest.importorskip("myo_sim")
    synthesise_prompted(tmp_path / "prompted", n_users=3, sessions_per_user=1, repetitions=1, seed=0)
    corpus = Corpus.open(tmp_path / "prompted")
    labels = read_labels(tmp_path / "prompted")
    assert sorted({(row.user, row.split) for row in corpus.rows}) == [("sim000", "val"), ("sim002", "test")]
    for row in corpus.rows:
        if row.stage != PROMPTED:
            continue
        made = labels[row.filename]
        assert len({label.gesture for label in made}) == len(made) == 10
        with corpus.session(row) as session:
            emg, duration_s = session.emg(), session.duration_s
        assert made[-1].end_s < duration_s
        loud, quiet = [], []
        for before, label in zip([replace(made[0], end_s=0.0), *made], made, strict=False):
            loud.append(strength(emg, label.start_s + 0.5, label.end_s))
            quiet.append(strength(emg, before.end_s + 0.5, label.start_s))
        assert np.median(loud) > 2 * np.median(quiet)


def strength(emg: np.ndarray, start_s: float, end_s: float) -> float:
    sos = signal.butter(2, (20, 450), "bandpass", fs=2000, output="sos")
    part = signal.sosfilt(sos, emg - emg.mean(axis=0), axis=0)[round(start_s * 2000) : round(end_s * 2000)]
    return float(part.std())
