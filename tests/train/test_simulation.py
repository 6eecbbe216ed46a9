"""Simulated recordings and corpora follow the format, depend only on the seed, and obey the physics."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import signal
from typer.testing import CliRunner

pytest.importorskip("myo_sim")

from cpep_edge.cli import app
from cpep_edge.session import Session
from cpep_train import prompted, simulation
from cpep_train.corpus import FREE_STAGE, Corpus
from cpep_train.hand_model import load_hand
from cpep_train.simulation import N_CHANNELS, SAMPLE_RATE_HZ, muscle_drive, simulate, synthesise_corpus
from cpep_train.stages import REST_RAD, STAGES, VALIDATION_STAGES, Motion
from cpep_train.wearers import (
    BASE_RATE_HZ,
    MUSCLES,
    RingBand,
    SimulatedDonning,
    SimulatedWearer,
    draw_donning,
    draw_wearer,
)

REST, FIST = STAGES[0], STAGES[1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sim") / "corpus"
    synthesise_corpus(out, n_users=3, sessions_per_user=1, seconds=1.0, seed=4)
    return out


def _metadata(corpus: Path) -> list[dict[str, str]]:
    with (corpus / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_of_the_metadata_has_its_valid_session(corpus):
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


def test_training_never_sees_a_held_out_user_or_stage(corpus):
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
def test_every_fourth_user_is_held_out(n_users, held_out):
    assert sum(simulation._is_held_out(user, n_users) for user in range(n_users)) == held_out


def test_with_three_donnings_the_last_is_for_validation():
    assert [simulation._is_validation(0, session, 4, 3) for session in range(3)] == [False, False, True]


def test_a_corpus_is_the_same_bit_for_bit_and_another_seed_is_another(corpus):
    again, other = (simulate(2, 0, FIST, 1.0, seed) for seed in (4, 5))
    draw_wearer.cache_clear()
    with Session(corpus / f"sim002-d0-{FIST.name}.hdf5") as session:
        assert np.array_equal(session.emg(), again.emg_uv)
        assert np.array_equal(session.joint_angles(), again.joint_angles_rad)
        assert not np.array_equal(session.emg(), other.emg_uv)


def test_those_who_are_trained_on_form_trained_gestures_in_more_ways_and_nobody_else_does(corpus):
    wide = {(1, stage.name) for stage in STAGES if not stage.held_out}  # only the second of the three is trained on
    for user in range(3):
        for stage in (FIST, STAGES[-1]):
            as_people_do = simulate(user, 0, stage, 1.0, 4).joint_angles_rad
            with Session(corpus / f"sim{user:03d}-d0-{stage.name}.hdf5") as session:
                same = np.array_equal(session.joint_angles(), as_people_do)
            assert same != ((user, stage.name) in wide)


def test_the_first_people_alone_are_those_of_the_whole_corpus_each_in_their_split(corpus, tmp_path):
    synthesise_corpus(tmp_path / "two", n_users=3, sessions_per_user=1, seconds=1.0, seed=4, only_first=2)
    whole, two = Corpus.open(corpus), Corpus.open(tmp_path / "two")
    assert two.rows == tuple(row for row in whole.rows if row.user in ("sim000", "sim001"))
    for row in two.rows:
        assert two.file(row).read_bytes() == whole.file(row).read_bytes()


def test_a_failure_leaves_no_half_written_corpus(tmp_path):
    def give_up(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesise_corpus(tmp_path / "corpus", n_users=1, sessions_per_user=1, seconds=1.0, seed=0, progress=give_up)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"n_users": 0}, {"sessions_per_user": 0}, {"seconds": 0.0}])
def test_impossible_counts_are_refused(tmp_path, wrong):
    counts = {"n_users": 1, "sessions_per_user": 1, "seconds": 1.0} | wrong
    with pytest.raises(ValueError, match="need users"):
        synthesise_corpus(tmp_path / "corpus", seed=0, **counts)  # type: ignore[arg-type]


def test_a_negative_seed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a seed is 0 or more, got -1"):
        synthesise_corpus(tmp_path / "corpus", n_users=1, sessions_per_user=1, seconds=1.0, seed=-1)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            ["--users", "400", "--sessions-per-user", "40", "--seconds", "600"],
            "hours of signal, and 10,000 are the most",
        ),
        (["--users", "400000", "--prompted", "100"], "hours of signal, and 10,000 are the most"),
        (["--seconds", "1e9"], "should be less than or equal to"),
        (["--free-seconds", "inf"], "should be less than or equal to"),
        (["--users", f"{10**400}"], "should be less than or equal to"),
        (["--prompted", "101"], "should be less than or equal to"),
    ],
)
def test_a_corpus_that_nobody_could_keep_is_refused_before_any_work(tmp_path, monkeypatch, asked, said):
    def begin(*_: object, **__: object) -> None:
        pytest.fail("the work was begun")

    monkeypatch.setattr(simulation, "output_folder", begin)
    monkeypatch.setattr(prompted, "output_folder", begin)
    answer = CliRunner().invoke(app, ["data", "synth", str(tmp_path / "corpus"), *asked])

    assert said in f"{answer.exception} {' '.join(answer.output.replace('│', '').split())}"
    assert list(tmp_path.iterdir()) == []


def test_joint_angles_stay_inside_the_ranges():
    angles = simulate(0, 0, FIST, 5.0, 3).joint_angles_rad
    hand = load_hand()
    assert np.all(angles >= hand.lower_rad[:20] - 1e-6)
    assert np.all(angles <= hand.upper_rad[:20] + 1e-6)


def test_the_spectrum_is_that_of_surface_emg():
    emg = simulate(0, 0, FIST, 10.0, 3).emg_uv
    hz, power = signal.welch(emg - emg.mean(axis=0), SAMPLE_RATE_HZ, nperseg=1024, axis=0)
    total = power.sum(axis=1)
    assert total[(hz >= 20) & (hz <= 450)].sum() / total[hz > 2].sum() > 0.9
    assert 60 < hz[np.searchsorted(np.cumsum(total), total.sum() / 2)] < 140


def test_a_fist_is_louder_than_rest_on_every_electrode():
    fist, rest = (simulate(0, 0, stage, 4.0, 3).emg_uv.std(axis=0) for stage in (FIST, REST))
    assert np.all(fist > rest)
    assert np.median(fist / rest) > 2


def test_muscles_of_the_palm_do_not_reach_the_band():
    assert len(MUSCLES) == 28
    assert not [name for name in MUSCLES if name.startswith(("RI", "LU", "UI", "OP"))]


def _on(wearer: SimulatedWearer, electrode_rad: np.ndarray, shift_mm: float = 0.0) -> SimulatedDonning:
    donning = draw_donning(wearer, 0, 0, 0)
    even = np.ones(N_CHANNELS)
    return replace(donning, electrode_rad=electrode_rad, shift_mm=shift_mm, contact=even, _computed={})


def test_turning_the_band_by_one_electrode_moves_the_signal_by_one_electrode():
    wearer, angles = draw_wearer(0, 0), 2 * np.pi * np.arange(N_CHANNELS) / N_CHANNELS
    here, turned = (_on(wearer, at).action_potentials_uv(0, 0) for at in (angles, angles + angles[1]))
    np.testing.assert_allclose(turned, np.roll(here, -1, axis=2), atol=0.02 * np.abs(here).max())


def test_the_electrode_above_a_superficial_muscle_hears_it_best():
    wearer, muscle = draw_wearer(0, 0), list(MUSCLES).index("FCR")
    units = wearer.units.muscle == muscle
    centre_rad = np.angle(np.exp(1j * wearer.units.angle_rad[units]).mean())
    away_rad = np.radians(np.resize([0, 30, 60, 120], N_CHANNELS))
    heard = _on(wearer, centre_rad + away_rad, -35.0).action_potentials_uv(0, 0)[:, units]
    assert np.all(np.diff(np.sum(heard**2, axis=(0, 1))[:4]) < 0)


def test_pronation_moves_a_muscle_on_the_radius_and_not_one_on_the_ulna():
    donning = draw_donning(draw_wearer(0, 0), 0, 0, 0)
    neutral, pronated = (np.abs(donning.action_potentials_uv(step, 0)) for step in (0, 2))
    changed = [
        np.abs(neutral - pronated)[:, donning.wearer.units.muscle == list(MUSCLES).index(name)].max()
        for name in ("FCU", "FCR")
    ]
    assert changed[0] == 0 < changed[1]


def test_tired_fibres_stretch_their_action_potentials():
    donning = draw_donning(draw_wearer(0, 0), 0, 0, 0)
    rested, tired = (donning.action_potentials_uv(0, fatigue) for fatigue in (0, 2))
    hz = np.fft.rfftfreq(len(rested), 1 / BASE_RATE_HZ)
    mean_hz = [
        np.average(hz, weights=np.sum(np.abs(np.fft.rfft(potentials, axis=0)) ** 2, axis=(1, 2)))
        for potentials in (rested, tired)
    ]
    assert mean_hz[1] < 0.9 * mean_hz[0]


def test_muscles_tire_when_they_work_and_recover_when_they_rest():
    rng = np.random.default_rng(0)
    work = np.concatenate([np.ones((1500, 1)), np.zeros((4500, 1))])
    fatigue = simulation._fatigue(work, rng)[:, 0]
    assert np.all(np.diff(fatigue[:1500]) > 0)
    assert np.all(np.diff(fatigue[1501:]) < 0)
    assert 0 <= fatigue.min() < fatigue.max() <= 1


@pytest.mark.parametrize(
    "band",
    [RingBand(10, 1_000.0, (5, 430), common=0.8), RingBand(8, 200.0, (10, 90), offset_uv=0.0, step_uv=0.8)],
    ids=["3DC", "Myo"],
)
def test_any_band_hears_the_same_wearer(band):
    recording = simulate(0, 0, FIST, 2.0, 3, band)
    assert recording.emg_uv.shape == (2 * band.sample_rate_hz, band.n_channels)
    assert recording.joint_angles_rad.shape == (len(recording.emg_uv), 20)
    if band.step_uv:
        counts = recording.emg_uv / band.step_uv
        np.testing.assert_allclose(counts, np.rint(counts), atol=1e-3)


def test_a_common_reference_takes_the_mean_from_every_channel():
    quiet = {"noise_uv": 0.0, "offset_uv": 0.0}
    apart, common = (simulate(0, 0, FIST, 2.0, 3, RingBand(common=share, **quiet)).emg_uv for share in (0.0, 1.0))
    assert np.std(common.mean(axis=1)) < 0.2 * np.std(apart.mean(axis=1))


def test_free_movement_of_held_out_people_is_as_long_as_a_calibration(tmp_path):
    synthesise_corpus(tmp_path / "free", n_users=3, sessions_per_user=1, seconds=1.0, seed=4, free_seconds=2.0)
    rows = [row for row in _metadata(tmp_path / "free") if row["stage"] == FREE_STAGE]
    assert [(row["user"], row["split"], row["held_out_stage"]) for row in rows] == [
        ("sim000", "val", "False"),
        ("sim001", "train", "False"),
        ("sim002", "test", "False"),
    ]
    for row, seconds in zip(rows, (2, 2, 20), strict=True):
        with Session(tmp_path / "free" / f"{row['filename']}.hdf5") as session:
            session.check()
            assert len(session.emg()) == seconds * SAMPLE_RATE_HZ


@pytest.mark.slow
def test_gestures_set_apart_for_validation_are_neither_trained_on_nor_judged_by(tmp_path):
    synthesise_corpus(tmp_path / "apart", n_users=3, sessions_per_user=1, seconds=1.0, seed=4, free_seconds=1.0)
    corpus = Corpus.open(tmp_path / "apart")
    apart = {stage.name for stage in VALIDATION_STAGES}
    assert set(corpus.validation_stages) == apart
    assert not apart & {*corpus.unseen_stages, *corpus.seen_stages}
    rows = [row for row in corpus.rows if row.stage in apart]
    assert {row.split for row in rows} == {"val"}
    assert not any(row.held_out_user for row in rows)
    for row in rows:
        with corpus.session(row) as session:
            session.check()


def test_free_movement_shorter_than_a_second_is_refused(tmp_path):
    with pytest.raises(ValueError, match="free movement takes a second"):
        synthesise_corpus(tmp_path / "c", n_users=1, sessions_per_user=1, seconds=1.0, seed=0, free_seconds=0.5)


def test_pressing_harder_activates_more():
    hand, donning = load_hand(), draw_donning(draw_wearer(0, 0), 0, 0, 0)
    poses = np.tile(FIST.keys_rad, (3, 1))
    soft, hard = (muscle_drive(hand, donning, Motion(poses, np.full(3, effort))).sum() for effort in (0.5, 1.0))
    resting = muscle_drive(hand, donning, Motion(np.tile(REST_RAD, (3, 1)), np.ones(3))).sum()
    assert resting < soft < hard


def test_two_donnings_of_one_person_differ_less_than_two_people():
    def patterns(user: int, session: int) -> np.ndarray:
        donning = draw_donning(draw_wearer(0, user), 0, user, session)
        return np.log(np.sum(donning.action_potentials_uv(0, 0) ** 2, axis=(0, 1)))

    people = np.array([[patterns(user, session) for session in (0, 1)] for user in range(8)])
    donnings = np.abs(people[:, 0] - people[:, 1]).mean()
    persons = np.abs(people[:-1, 0] - people[1:, 0]).mean()
    assert donnings < persons
