"""Simulated recordings and corpora, against the format, the seed and the physics they claim."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import signal

pytest.importorskip("myo_sim")

from cpep_edge.session import Session
from cpep_train import simulation
from cpep_train.hand import load_hand
from cpep_train.simulation import (
    N_CHANNELS,
    SAMPLE_RATE_HZ,
    draw_donning,
    draw_wearer,
    muscle_drive,
    simulate,
    synthesise_corpus,
)
from cpep_train.stages import REST_RAD, STAGES, Motion

REST, FIST = STAGES[0], STAGES[1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sim") / "corpus"
    synthesise_corpus(out, n_users=3, sessions_per_user=1, seconds=1.0, seed=4)
    return out


def _metadata(corpus: Path) -> list[dict[str, str]]:
    with (corpus / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_of_the_metadata_has_its_valid_session(corpus: Path) -> None:
    rows = _metadata(corpus)
    assert len(rows) == 3 * len(STAGES) == len(list(corpus.glob("*.hdf5")))
    for row in rows:
        with Session(corpus / f"{row['filename']}.hdf5") as session:
            session.check()
            assert (session.meta.user, session.meta.session, session.meta.stage) == (
                row["user"],
                row["session"],
                row["stage"],
            )
            assert session.emg().shape == (SAMPLE_RATE_HZ, N_CHANNELS)
            assert session.pose_valid().all()


def test_training_never_sees_a_held_out_user_or_stage(corpus: Path) -> None:
    rows = _metadata(corpus)
    seen = {"held_out_user": "False", "held_out_stage": "False"}
    fitted = [row for row in rows if row["split"] in ("train", "val")]
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    assert all(row.items() >= seen.items() and row["generalization"] == "" for row in fitted)
    kinds = {
        (row["held_out_user"], row["held_out_stage"], row["generalization"]) for row in rows if row["split"] == "test"
    }
    assert kinds == {("True", "False", "user"), ("False", "True", "stage"), ("True", "True", "user_stage")}


@pytest.mark.parametrize(("n_users", "held_out"), [(1, 0), (2, 0), (3, 1), (4, 1), (8, 2), (12, 3)])
def test_every_fourth_user_is_held_out(n_users: int, held_out: int) -> None:
    assert sum(simulation._is_held_out(user, n_users) for user in range(n_users)) == held_out


def test_with_three_donnings_the_last_is_for_validation() -> None:
    assert [simulation._is_validation(0, session, 4, 3) for session in range(3)] == [False, False, True]


def test_a_corpus_is_the_same_bit_for_bit_and_another_seed_is_another(corpus: Path) -> None:
    again, other = (simulate(1, 0, FIST, 1.0, seed) for seed in (4, 5))
    draw_wearer.cache_clear()
    with Session(corpus / f"sim001-d0-{FIST.name}.hdf5") as session:
        assert np.array_equal(session.emg(), again.emg_uv)
        assert np.array_equal(session.joint_angles(), again.joint_angles_rad)
        assert not np.array_equal(session.emg(), other.emg_uv)


def test_a_failure_leaves_no_half_written_corpus(tmp_path: Path) -> None:
    def give_up(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesise_corpus(tmp_path / "corpus", n_users=1, sessions_per_user=1, seconds=1.0, seed=0, progress=give_up)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"n_users": 0}, {"sessions_per_user": 0}, {"seconds": 0.0}])
def test_impossible_counts_are_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    counts = {"n_users": 1, "sessions_per_user": 1, "seconds": 1.0} | wrong
    with pytest.raises(ValueError, match="need users"):
        synthesise_corpus(tmp_path / "corpus", seed=0, **counts)  # type: ignore[arg-type]


def test_joint_angles_stay_inside_the_ranges() -> None:
    angles = simulate(0, 0, FIST, 5.0, 3).joint_angles_rad
    hand = load_hand()
    assert np.all(angles >= hand.lower_rad[:20] - 1e-6)
    assert np.all(angles <= hand.upper_rad[:20] + 1e-6)


def test_the_spectrum_is_that_of_surface_emg() -> None:
    emg = simulate(0, 0, FIST, 10.0, 3).emg_uv
    hz, power = signal.welch(emg - emg.mean(axis=0), SAMPLE_RATE_HZ, nperseg=1024, axis=0)
    total = power.sum(axis=1)
    assert total[(hz >= 20) & (hz <= 450)].sum() / total[hz > 2].sum() > 0.9
    assert 60 < hz[np.searchsorted(np.cumsum(total), total.sum() / 2)] < 140


def test_a_fist_is_louder_than_rest_on_every_electrode() -> None:
    fist, rest = (simulate(0, 0, stage, 4.0, 3).emg_uv.std(axis=0) for stage in (FIST, REST))
    assert np.all(fist > rest)
    assert np.median(fist / rest) > 2


def test_muscles_of_the_palm_do_not_reach_the_band() -> None:
    names = [load_hand().muscle_names[index] for index in simulation._belly_index(load_hand())]
    assert len(names) == 26
    assert not [name for name in names if name.startswith(("RI", "LU", "UI", "OP"))]


def test_turning_the_band_by_one_electrode_moves_the_signal_by_one_electrode() -> None:
    wearer = draw_wearer(0, 0)
    angles = 2 * np.pi * np.arange(N_CHANNELS) / N_CHANNELS
    leads = simulation._leads_uv(wearer, angles)
    turned = simulation._leads_uv(wearer, angles + angles[1])
    np.testing.assert_allclose(turned, np.roll(leads, -1, axis=1))


def test_the_electrode_above_a_superficial_muscle_hears_it_best() -> None:
    wearer = draw_wearer(0, 0)
    muscle = list(simulation._BELLIES).index("FCR")
    at = wearer.belly_rad[muscle] + np.radians(np.array([0, 30, 60, 120, 180]))
    heard = simulation._leads_uv(wearer, at).reshape(26, -1, 5)[muscle].sum(axis=0)
    assert np.all(np.diff(heard) < 0)


def test_pressing_harder_activates_more() -> None:
    hand, wearer = load_hand(), draw_wearer(0, 0)
    poses = np.tile(FIST.keys_rad, (3, 1))
    soft, hard = (muscle_drive(hand, wearer, Motion(poses, np.full(3, effort))).sum() for effort in (0.5, 1.0))
    resting = muscle_drive(hand, wearer, Motion(np.tile(REST_RAD, (3, 1)), np.ones(3))).sum()
    assert resting < soft < hard


def test_two_donnings_of_one_person_differ_less_than_two_people() -> None:
    people = [
        [draw_donning(draw_wearer(0, user), 0, user, session).leads_uv for session in (0, 1)] for user in range(8)
    ]
    patterns = np.log(np.array(people))
    donnings = np.abs(patterns[:, 0] - patterns[:, 1]).mean()
    persons = np.abs(patterns[:-1, 0] - patterns[1:, 0]).mean()
    assert donnings < persons
