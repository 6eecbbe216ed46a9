"""The evaluation of zero-shot by real poses, on synthetic people whose muscles follow their joints."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from measure_real import main
from real_poses import HARMONIC, SEEN, SEEN_AMONG_ALL, UNSEEN, UNSEEN_AMONG_ALL

N_MOVEMENTS, N_CHANNELS, N_SENSORS, RATE_HZ = 12, 16, 22, 200
RIDGE, OWN = "levels and log-covariances, ridge to poses", "the glove's own pose (a bound)"


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """Three people in the layout of database 5; each electrode's log level is a linear map of the glove's sensors."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(1)
    folder = root / "ninapro-db5"
    folder.mkdir()
    poses = rng.normal(0, 1, (N_MOVEMENTS, N_SENSORS))
    muscles = rng.normal(0, 1 / np.sqrt(N_SENSORS), (N_SENSORS, N_CHANNELS))
    for subject in (1, 2, 3):
        emg, glove, label, repetition = [], [], [], []
        gain = np.exp(rng.normal(0, 0.5, N_CHANNELS))
        for movement in range(N_MOVEMENTS):
            for number in range(1, 5):
                for of, n in ((movement + 1, 200), (0, 40)):
                    pose = poses[movement] if of else np.zeros(N_SENSORS)
                    emg.append(20 * gain * np.exp(pose @ muscles) * rng.standard_normal((n, N_CHANNELS)))
                    glove.append(120 + 20 * pose + rng.normal(0, 2, (n, N_SENSORS)))
                    label.append(np.full((n, 1), of))
                    repetition.append(np.full((n, 1), number if of else 0))
        values = {"emg": emg, "glove": glove, "restimulus": label, "rerepetition": repetition}
        savemat(folder / f"S{subject}_E1_A1.mat", {name: np.concatenate(parts) for name, parts in values.items()})
    return root


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")  # simple methods may answer any gesture
def test_a_map_from_levels_to_joints_reads_movements_that_it_was_never_shown(people, tmp_path):
    main(["--data", str(people), "--no-encoder", "--out", str(tmp_path)])

    sets = json.loads((tmp_path / "real.json").read_text())["sets"]
    assert list(sets) == ["ninapro-db5"]  # ablations run only by name
    questions = sets["ninapro-db5"]["questions"]
    rows = {
        question: {m: np.mean(list(found.values())) for m, found in answers.items()}
        for question, answers in questions.items()
    }
    assert set(questions[UNSEEN][RIDGE]) == {"db5-01", "db5-02", "db5-03"}
    assert min(rows[question][OWN] for question in rows) > 0.98
    assert rows[SEEN]["log levels + LDA"] > 0.9
    assert rows[SEEN][RIDGE] > 0.8
    assert rows[UNSEEN][RIDGE] > 0.6  # chance is .25
    assert rows[UNSEEN_AMONG_ALL][RIDGE] <= rows[UNSEEN][RIDGE]  # more candidates
    assert "log levels + LDA" not in rows[UNSEEN]  # it cannot name unseen gestures
    for person, harmonic in questions[HARMONIC][OWN].items():
        two = [questions[question][OWN][person] for question in (SEEN_AMONG_ALL, UNSEEN_AMONG_ALL)]
        assert min(two) <= harmonic <= max(two)
