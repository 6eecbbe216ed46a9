"""The decision methods that ours is compared with, and the events that are read from recordings."""

from pathlib import Path

import numpy as np
import pytest

from cpep_edge.errors import DataError
from cpep_edge.events import Label
from cpep_edge.manifest import DecisionSpec
from cpep_edge.pose_index import Vote
from decision_recordings import MYO_GESTURES, REST, Recording, read_myo
from measure_decisions import MAJORITY, Arm, Played, by_counting, by_libemg, scored

GESTURES = (REST, "Fist", "Open")
HOP_S = 0.05


def played(answers: list[str], shares: list[float] | None = None, labels: tuple[Label, ...] = ()) -> Played:
    """The answers for windows 50 ms apart, in the formats of both methods."""
    shares = shares or [0.95] * len(answers)
    numbers = [GESTURES.index(answer) for answer in answers]
    posteriors = np.array([[(1 - s) / 2] * 3 for s in shares])
    posteriors[np.arange(len(numbers)), numbers] = shares
    times = HOP_S * (1 + np.arange(len(answers)))
    spec = DecisionSpec(hop_ms=HOP_S * 1e3, rest_gesture=REST)
    arm = Arm(None, None, None, GESTURES, spec)
    votes: list[Vote | None] = [Vote(n, s, 0.9) for n, s in zip(numbers, shares, strict=True)]
    recording = Recording("", np.zeros((0, 8), np.float32), (), labels, (True,) * len(labels))
    return Played("a", recording, len(answers) * HOP_S / 3600, times, votes, arm, (times, posteriors, GESTURES))


def test_counting_acts_at_the_nth_equal_answer_and_not_again_for_its_refractory_time():
    run = played([REST] * 4 + ["Fist"] * 6 + ["Open"] * 10 + [REST] * 20 + ["Open"] * 8)
    assert [(one.gesture, round(one.time_s, 2)) for one in by_counting(4)(run)] == [("Fist", 0.4), ("Open", 2.2)]


def test_libemg_takes_the_majority_of_the_last_predictions_and_rejected_ones_count():
    run = played([REST] * MAJORITY + ["Fist"] * MAJORITY)
    assert [(one.gesture, round(one.time_s, 2)) for one in by_libemg()(run)] == [("Fist", 0.4)]
    doubtful = played([REST] * MAJORITY + ["Fist"] * 20, [0.95] * MAJORITY + [0.6] * 20)
    assert by_libemg()(doubtful) == []
    assert len(by_libemg(0.5)(doubtful)) == 1


def test_what_is_ignored_counts_false_activations_an_hour_and_events_their_delay():
    label = Label("Fist", 0.5, 2.0)
    figures = scored([played([REST] * 10 + ["Fist"] * 30, labels=(label,)), played(["Open"] * 20)], by_counting(4))
    assert (figures["events"], figures["right"], figures["p50 ms"]) == (1, 1.0, pytest.approx(200))
    assert figures["false an hour"] == pytest.approx(3600)


def write_session(folder: Path, gain: float) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(1 + len(MYO_GESTURES)):
        asked = (np.arange(4_000) // 1_000) % 2 == 1
        emg = rng.normal(0, 3, (4_000, 8)) * np.where(asked & (number > 0), gain, 1.0)[:, None]
        rows = np.column_stack([emg.round(), asked * number]).astype(int)
        (folder / f"{number}.txt").write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")


def test_labels_begin_where_the_muscle_does_and_prompts_without_movement_are_told(tmp_path):
    write_session(tmp_path / "1-1", gain=6)
    ((worn,),) = read_myo(tmp_path).values()
    assert [len(one.labels) for one in worn] == [0] + [2] * 7
    assert worn[3].labels[0].start_s == pytest.approx(5.0, abs=0.06)
    assert all(worn[3].clear)
    write_session(tmp_path / "2-1", gain=1)
    with pytest.raises(DataError, match="2-1: no prompt holds a movement, so there is nothing to judge decisions by"):
        read_myo(tmp_path)
    with pytest.raises(DataError, match="holds no folder of myo-wrist"):
        read_myo(tmp_path / "1-1")
