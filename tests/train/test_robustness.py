import json

import numpy as np
import pytest

from cpep_train.checkpoint import load_checkpoint
from cpep_train.disturbances import add_noise, kill_electrodes, lose_frames, turn
from cpep_train.evaluate import embed_emg, embed_poses, evaluation_set, torch_embedding, zero_shot
from cpep_train.robustness import WINDOWS_PER_RECORDING, Robustness, Series, measure_robustness, write_robustness
from tests.train.toy_corpus import N_CHANNELS

SERIES = (
    Series("band turned", "electrodes", turn, (N_CHANNELS, 1)),
    Series("added noise", "dB below EMG", add_noise, (40, -30)),
    Series("dead electrodes", "of the band", kill_electrodes, (1,)),
    Series("lost frames", "share", lose_frames, (0.05,)),
)


@pytest.fixture(scope="module")
def found(trained_run, toy_corpus) -> Robustness:
    return measure_robustness(trained_run, load_checkpoint(trained_run), toy_corpus.folder, series=SERIES)


def test_the_undisturbed_point_is_the_zero_shot_score(found, trained_run, toy_corpus):
    checkpoint = load_checkpoint(trained_run)
    examples = evaluation_set(checkpoint, toy_corpus, windows_per_recording=WINDOWS_PER_RECORDING)
    queries = embed_emg(torch_embedding(checkpoint.emg), examples.queries)
    scores = zero_shot(examples, queries, embed_poses(checkpoint.pose, examples.references))
    expected = [s.balanced_accuracy for s in scores if s.users == "held-out" and s.gestures in ("seen", "unseen")]
    assert [s.balanced_accuracy for s in found.points[0].scores] == expected
    assert (found.points[0].kept_votes, found.points[0].answered) == (1.0, 1.0)


def test_a_full_circle_keeps_every_vote_and_one_electrode_does_not(found):
    circle, step = (point for point in found.points if point.disturbance == "band turned")
    assert circle.kept_votes == 1.0
    assert step.kept_votes < 0.8


def test_noise_above_the_signal_takes_accuracy_and_noise_far_below_does_not(found):
    faint, loud = (point for point in found.points if point.disturbance == "added noise")
    clean = found.points[0].scores[0].balanced_accuracy
    assert faint.scores[0].balanced_accuracy == pytest.approx(clean, abs=0.05)
    assert loud.scores[0].balanced_accuracy < clean - 0.3


def test_a_dead_electrode_is_asked_about_and_not_refused(found):
    (dead,) = (point for point in found.points if point.disturbance == "dead electrodes")
    assert dead.kept_votes < 1.0


def test_windows_with_long_losses_are_not_decided_on(found):
    (lost,) = (point for point in found.points if point.disturbance == "lost frames")
    assert 0 < lost.answered < 1
    assert lost.scores[0].n_windows < found.points[0].scores[0].n_windows


def test_the_table_and_the_plot_hold_every_point(found, tmp_path):
    write_robustness(found, tmp_path / "out")
    table = (tmp_path / "out" / "robustness.md").read_text().splitlines()
    assert sum(line.startswith("| ") for line in table) == 2 + len(found.points)
    points = json.loads((tmp_path / "out" / "robustness.json").read_text())["points"]
    assert [point["strength"] for point in points][1:3] == ["4 electrodes", "1 electrodes"]
    assert (tmp_path / "out" / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert np.all([0 <= score["balanced_accuracy"] <= 1 for point in points for score in point["scores"]])
