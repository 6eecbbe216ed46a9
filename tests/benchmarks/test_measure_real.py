"""The evaluation on synthetic recordings of gestures that differ only in which electrodes are correlated."""

import json
from pathlib import Path

import numpy as np
import pytest

from measure_real import SETS, TAUGHT, interval, main

MOTIONS, TRIALS, DAYS = (1, 2, 3), (1, 2, 3, 4), (1, 2)
TOGETHER = {1: (), 2: (0, 1, 2), 3: (3, 4, 5)}  # electrodes that share a source; all levels are equal


@pytest.fixture(scope="module")
def days(tmp_path_factory) -> Path:
    """Two people in the layout of the long-term set; on later days the electrodes have other gains."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(1)
    for person in ("sub1", "sub2"):
        for day in DAYS:
            gain = np.exp(rng.normal(0, 1.5 * (day > 1), 8))
            folder = root / "myo-longterm" / person / f"day{day}"
            folder.mkdir(parents=True)
            for motion in MOTIONS:
                for trial in TRIALS:
                    shared, own = rng.standard_normal((300, 1)), rng.standard_normal((300, 8))
                    emg = own.copy()
                    emg[:, TOGETHER[motion]] = 0.9 * shared + np.sqrt(1 - 0.81) * own[:, TOGETHER[motion]]
                    np.savetxt(folder / f"D{day}M{motion}T{trial}.csv", 0.1 * gain * emg, fmt="%.5f", delimiter=",")
    return root


def test_what_only_covariances_hold_is_found_by_them_and_by_the_bundle_alone(days, tmp_path):
    main(["--data", str(days), "--out", str(tmp_path)])

    questions = json.loads((tmp_path / "real.json").read_text())["sets"]["myo-longterm"]["questions"]
    within = {
        method: np.mean(list(people.values())) for method, people in questions["day 1, trials 1-2 -> 3-4"].items()
    }
    assert set(questions["day 1, trials 1-2 -> 3-4"][TAUGHT]) == {"longterm-sub1", "longterm-sub2"}
    assert min(within["log-covariances + LDA"], within[TAUGHT]) > 0.9
    assert within["log levels + LDA"] < 0.6  # chance is .33
    days_asked = [question for question in questions if "-> day" in question]
    assert len(days_asked) == 2 * (len(DAYS) - 1)
    as_it_is, unlabelled = (
        np.mean([list(questions[q][TAUGHT].values()) for q in days_asked if q.endswith(end)])
        for end in ("as it is", "unlabelled")
    )
    assert unlabelled > max(0.9, as_it_is + 0.05)  # a calibration removes the changed gains
    page = (tmp_path / "real.md").read_text()
    assert "**" in page
    assert (tmp_path / "myo-longterm.svg").is_file()


def test_people_of_another_folder_are_asked_about_and_nobody_else(days, tmp_path):
    main(["--data", str(days), "--judge", str(days), "--only", "myo-longterm", "--out", str(tmp_path)])

    written = json.loads((tmp_path / "real.json").read_text())
    asked = {
        person
        for rows in written["sets"]["myo-longterm"]["questions"].values()
        for people in rows.values()
        for person in people
    }
    assert written["judged"]
    assert asked == {"judged longterm-sub1", "judged longterm-sub2"}


@pytest.mark.parametrize("one", SETS, ids=lambda one: one.name)
def test_the_recipe_of_every_set_can_be_trained_by(one):
    usual = one.trained_by()
    assert usual.emg.front_end == "mpf"
    for variant in one.variants:
        assert one.trained_by(variant) != usual


def test_a_set_that_is_not_there_is_named(days, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--data", str(days), "--only", "emg2pose", "--out", str(tmp_path)])
    assert "there is no set emg2pose; there are 3dc, myo-longterm, myo-wrist" in capsys.readouterr().err


def test_the_interval_of_people_who_agree_is_narrow():
    low, high = interval(np.array([0.8, 0.8, 0.8]))
    assert (low, high) == pytest.approx((0.8, 0.8))
    low, high = interval(np.array([0.2, 0.8, 0.5, 0.5]))
    assert low < 0.5 < high
