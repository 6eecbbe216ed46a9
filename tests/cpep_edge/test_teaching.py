"""`teach` from a wish to a bundle, with a wearer who follows the cues."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.blocks import Block, StreamInfo
from cpep_edge.bundle import Bundle
from cpep_edge.calibration import donning_of
from cpep_edge.enrolment import OpenBundle, add_from_session, remove_gesture
from cpep_edge.errors import ConfigError, CpepError, DataError
from cpep_edge.live_loop import LiveEngine
from cpep_edge.names import UNKNOWN
from cpep_edge.recogniser import Recogniser
from cpep_edge.session import Session
from cpep_edge.taught_recordings import Recordings, recordings_of
from cpep_edge.teaching import ALL, Teaching, Wish
from cpep_edge.verify import verify_bundle
from tests.cpep_edge.arm import Arm, blocks
from tests.cpep_edge.fake_stream import play
from tests.processes import files_of_at_most

GESTURES = ("Fist", "Open")
A_BLOCK_S = 0.1


def sit(teaching: Teaching, arm: Arm, until: int | None = None, turned: int = 0) -> None:
    """Follow the cues until `until` repetitions are made; None: all."""
    index, n = 0, round(A_BLOCK_S * arm.rate_hz)
    while teaching.cue.phase != "done" and (until is None or teaching.cue.n_done < until):
        cue = teaching.cue
        samples = arm.make(cue.gesture if cue.phase == "make" else "Rest", A_BLOCK_S, turned=turned)
        teaching.feed(Block(samples, index, index / arm.rate_hz, 0.0))
        index += n


def fit(teaching: Teaching) -> None:
    teaching.write(*teaching.fit())


def broken_off(path: Path, arm: Arm, wish: Wish, turned: int = 0) -> None:
    """Break a lesson off after its first repetition."""
    teaching = Teaching(path, arm.info(), wish)
    sit(teaching, arm, until=1, turned=turned)
    teaching.close()


def taught(path: Path, arm: Arm, wish: Wish, turned: int = 0) -> Teaching:
    teaching = Teaching(path, arm.info(), wish)
    sit(teaching, arm, turned=turned)
    fit(teaching)
    return teaching


@pytest.fixture(scope="module")
def arm() -> Arm:
    return Arm(seed=4, rate_hz=250.0)


@pytest.fixture(scope="module")
def ready(arm, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ready") / "mine.cpep"
    taught(path, arm, Wish(GESTURES))
    return path


@pytest.fixture
def mine(ready, tmp_path) -> Path:
    """A taught bundle with its recordings, which the test may change."""
    shutil.copytree(ready, tmp_path / "mine.cpep")
    shutil.copytree(recordings_of(ready), tmp_path / "mine.recordings")
    return tmp_path / "mine.cpep"


def names(path: Path) -> list[str]:
    return [gesture.name for gesture in Bundle(path).manifest.gestures]


def test_a_wish_becomes_a_bundle_and_every_repetition_a_session_that_says_its_gesture(ready):
    assert names(ready) == ["Rest", *GESTURES]
    verify_bundle(ready)
    stages = []
    for file in sorted(recordings_of(ready).glob("*.hdf5")):
        with Session(file) as session:
            session.check()
            stages.append(session.meta.stage)
    # a rest before each repetition, and a long one at the start
    assert [stages.count(name) for name in ("Rest", *GESTURES)] == [7, 3, 3]


def test_a_lesson_that_was_broken_off_goes_on_where_it_stopped(arm, tmp_path):
    path = tmp_path / "mine.cpep"
    sit(Teaching(path, arm.info(), Wish(GESTURES)), arm, until=4)
    again = Teaching(path, arm.info(), Wish())
    assert again.cue.n_steps == 2
    sit(again, arm)
    fit(again)
    assert names(path) == ["Rest", *GESTURES]


def test_further_repetitions_are_fitted_with_the_ones_before(mine, arm):
    before = Bundle(mine).manifest
    teaching = taught(mine, arm, Wish(again=("Open",), repetitions=2))
    assert sum(one.gesture == "Open" for one in teaching.recordings.repetitions()) == 5
    after = Bundle(mine).manifest
    assert after.version == before.version + 1
    assert after.files["head.npz"] != before.files["head.npz"]


def test_repeating_a_gesture_goes_on_where_it_was_broken_off_and_ends_with_the_next_fit(mine, arm):
    wish = Wish(again=("Open",))
    broken_off(mine, arm, wish)
    before = Bundle(mine).manifest.version
    assert Teaching(mine, arm.info(), wish).cue.n_steps == 2
    taught(mine, arm, wish)
    assert Bundle(mine).manifest.version == before + 1
    kept = Recordings.read(recordings_of(mine))
    assert sum(one.gesture == "Open" for one in kept.repetitions()) == 6
    assert Teaching(mine, arm.info(), wish).cue.n_steps == 3  # no recording is left to fit


def test_what_a_broken_off_repeat_left_can_be_fitted_without_the_band(mine, arm):
    broken_off(mine, arm, Wish(again=("Open",)))
    head = Bundle(mine).manifest.files["head.npz"]
    fit(Teaching(mine, None))
    assert Bundle(mine).manifest.files["head.npz"] != head
    with pytest.raises(ConfigError, match="is taught already"):
        Teaching(mine, None)


def test_repeating_all_goes_on_in_the_wearing_in_which_it_was_broken_off(mine, arm):
    wish = Wish(again=(ALL,), repetitions=2)
    broken_off(mine, arm, wish, turned=1)
    rest = Teaching(mine, arm.info(), wish)
    assert (rest.wearing, rest.cue.n_steps) == (1, 3)
    sit(rest, arm, turned=1)
    fit(rest)
    assert Teaching(mine, arm.info(), wish).wearing == 2


def test_a_gesture_is_added_and_one_left_out_and_its_recordings_stay(mine, arm):
    taught(mine, arm, Wish(added=("Point",)))
    assert names(mine) == ["Rest", *GESTURES, "Point"]
    fit(Teaching(mine, None, Wish(left_out=("Open",))))
    assert names(mine) == ["Rest", "Fist", "Point"]
    fit(Teaching(mine, None, Wish(added=("Open",))))  # three are recorded, so no band is needed
    assert set(names(mine)) == {"Rest", *GESTURES, "Point"}


def add(path: Path, arm: Arm, name: str) -> None:
    """Add a gesture like `gestures add --from-session`."""
    with OpenBundle.to_edit(path) as opened:
        add_from_session(opened, name, arm.session(path.parent, name))


def test_a_gesture_that_was_added_to_the_bundle_is_not_lost_by_a_lesson(mine, arm):
    """Whether it was added before or during the lesson; both the recordings and the added gesture are kept."""
    teaching = Teaching(mine, arm.info(), Wish(again=("Fist",), repetitions=1))
    sit(teaching, arm)
    fitted = teaching.fit()
    add(mine, arm, "Wave")
    with pytest.raises(ConfigError, match="has Wave from gestures add, and a lesson would lose it: first run"):
        teaching.write(*fitted)
    teaching.close()
    assert names(mine) == ["Rest", *GESTURES, "Wave"]
    with pytest.raises(ConfigError, match="has Wave from gestures add"):
        Teaching(mine, arm.info(), Wish(again=("Fist",)))

    with OpenBundle.to_edit(mine) as opened:
        remove_gesture(opened, "Wave")
    taught(mine, arm, Wish(added=("Wave",)))
    assert names(mine) == ["Rest", *GESTURES, "Wave"]


def test_a_gesture_that_was_removed_from_the_bundle_does_not_come_back(mine, arm):
    taught(mine, arm, Wish(added=("Point",)))
    with OpenBundle.to_edit(mine) as opened:
        remove_gesture(opened, "Fist")
    taught(mine, arm, Wish(again=("Open",), repetitions=1))
    assert names(mine) == ["Rest", "Open", "Point"]
    with pytest.raises(ConfigError, match="no such gesture"):
        Teaching(mine, arm.info(), Wish(again=("Fist",)))


def test_repeating_all_is_a_wearing_of_its_own_whose_turn_is_found(mine, arm):
    teaching = Teaching(mine, arm.info(), Wish(again=(ALL,), repetitions=2))
    assert teaching.wearing == 1
    sit(teaching, arm, turned=1)
    fitted, used = teaching.fit()
    teaching.write(fitted, used)
    assert fitted.donning.order == (1, 2, 3, 4, 5, 0)
    assert fitted.judgement.accuracy > 0.95
    verify_bundle(mine)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(), "is taught already"),
        (Wish(added=("Fist",)), "has a gesture of this name; repeat it with --again Fist"),
        (Wish(added=("Rest",)), "has a gesture of this name"),
        (Wish(again=("Wave",)), "--again Wave: .* has no such gesture, it has Fist, Open"),
        (Wish(left_out=("Open",)), "Fist alone is not enough"),
        (Wish(gestures=("A", "B")), "is being taught Fist, Open: change the list with --with and --without"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_in_one_sentence_and_changes_nothing(mine, arm, wish, said):
    before = sorted(file.name for file in mine.parent.rglob("*"))
    with pytest.raises(ConfigError, match=said):
        Teaching(mine, arm.info(), wish)
    assert sorted(file.name for file in mine.parent.rglob("*")) == before


def test_another_band_than_the_one_that_was_taught_is_refused(mine):
    other = Arm(n_channels=8, rate_hz=250.0)
    with pytest.raises(ConfigError, match="of a band of 6 channels at 250 Hz in uV, but arm has 8 at 250 Hz"):
        Teaching(mine, other.info(), Wish(again=("Open",)))


def test_a_bundle_that_was_not_taught_is_left_alone(mine, arm):
    shutil.rmtree(recordings_of(mine))
    before = (mine / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match="was not taught, so there is nothing to go on from"):
        Teaching(mine, arm.info(), Wish(GESTURES))
    assert (mine / "manifest.json").read_bytes() == before


def test_a_band_that_no_head_can_read_is_refused_before_anything_is_asked(tmp_path):
    for n_channels, rate_hz in ((1, 500.0), (4, 50.0)):
        with pytest.raises(ConfigError, match="cannot be taught: it takes two channels and 100 Hz at least"):
            Teaching(tmp_path / "mine.cpep", StreamInfo("arm", n_channels, rate_hz), Wish(GESTURES))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_is_said_in_one_sentence_and_what_was_recorded_stays(arm, tmp_path):
    path = tmp_path / "mine.cpep"
    teaching = Teaching(path, arm.info(), Wish(GESTURES))
    sit(teaching, arm, until=2)
    before = recordings_of(path)
    n_kept = len(list(before.glob("*.hdf5")))
    with files_of_at_most(4_096), pytest.raises(CpepError, match="cannot write .*mine.recordings"):
        sit(teaching, arm)
    assert len(list(before.glob("*.hdf5"))) == n_kept
    teaching.close()
    taught(path, arm, Wish())
    verify_bundle(path)


@pytest.mark.parametrize("name", ["", ".", "..", "/"])
def test_what_is_no_name_of_a_bundle_is_refused(arm, name):
    with pytest.raises(ConfigError, match="is not a name of a bundle"):
        Teaching(Path(name), arm.info(), Wish(GESTURES))


@pytest.mark.parametrize("taken", ["mine.cpep", "mine.cpep/notes.txt", "mine.recordings", "mine.recordings/notes.txt"])
def test_what_lies_where_a_lesson_would_write_is_refused_before_the_first_sample(arm, tmp_path, taken):
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_text("the only copy")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        CpepError, match=r"is not a bundle|holds notes.txt|is not a folder|cannot be read: Not a directory"
    ):
        Teaching(tmp_path / "mine.cpep", arm.info(), Wish(GESTURES))
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / taken).read_text() == "the only copy"


def test_a_pipe_in_the_place_of_the_notes_is_not_waited_for(arm, tmp_path):
    (tmp_path / "mine.recordings").mkdir()
    os.mkfifo(tmp_path / "mine.recordings/teaching.json")
    with pytest.raises(DataError, match="teaching.json cannot be read"):
        Teaching(tmp_path / "mine.cpep", arm.info(), Wish(GESTURES))


def test_a_recording_that_was_moved_away_costs_no_other(arm, tmp_path):
    recordings = Recordings.begin(tmp_path / "mine.recordings", arm.info(), GESTURES, "Rest")
    rest, *others = arm.repetitions(list(GESTURES), 1)
    recordings.add(rest)
    recordings.add(others[0])
    next(file for file in recordings.folder.iterdir() if file.stem.endswith("-000")).unlink()
    recordings.add(others[1])
    assert [one.gesture for one in recordings.repetitions()] == list(GESTURES)


def test_of_two_lessons_in_one_bundle_the_second_is_refused_until_the_first_has_ended(mine, arm):
    wish = Wish(again=GESTURES[:1])
    first = Teaching(mine, arm.info(), wish)
    with pytest.raises(ConfigError, match="another lesson is recording into .*mine.recordings"):
        Teaching(mine, arm.info(), wish)
    first.close()
    Teaching(mine, arm.info(), wish)


def test_of_two_new_lessons_that_begin_together_one_goes_on(arm, tmp_path):
    one, other = (Teaching(tmp_path / "mine.cpep", arm.info(), Wish(GESTURES)) for _ in range(2))
    sit(one, arm, until=1)
    with pytest.raises(ConfigError, match="another lesson is recording"):
        sit(other, arm, until=1)


def test_recordings_that_are_damaged_are_named(mine, arm):
    file = sorted(recordings_of(mine).glob("*.hdf5"))[2]
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(DataError, match=file.name):
        Teaching(mine, arm.info(), Wish(again=("Open",)))
    (recordings_of(mine) / "teaching.json").write_text("{}")
    with pytest.raises(DataError, match="teaching.json is damaged"):
        Recordings.read(recordings_of(mine))


def test_too_little_to_fit_says_so(arm, tmp_path):
    teaching = Teaching(tmp_path / "mine.cpep", arm.info(), Wish(GESTURES))
    sit(teaching, arm, until=1)
    with pytest.raises(DataError, match="fewer than two gestures were recorded"):
        teaching.fit()


def test_two_gestures_that_are_one_movement_are_taught_and_named(tmp_path):
    arm = Arm(seed=6, rate_hz=250.0)
    arm.drives["Grip"] = arm.drive("Fist")
    path = tmp_path / "mine.cpep"
    teaching = Teaching(path, arm.info(), Wish(("Fist", "Open", "Grip")))
    sit(teaching, arm)
    fitted, used = teaching.fit()
    assert ("Fist", "Grip") in fitted.judgement.same
    teaching.write(fitted, used)
    assert np.isfinite(fitted.judgement.accuracy)


def test_an_electrode_that_hears_nothing_is_said_to_carry_nothing(tmp_path):
    arm = Arm(seed=7, rate_hz=250.0)
    arm.mixing[4] = 0  # it picks up only its own noise
    path = tmp_path / "mine.cpep"
    teaching = Teaching(path, arm.info(), Wish(GESTURES))
    sit(teaching, arm)
    fitted, _ = teaching.fit()
    assert fitted.quiet == (5,)


def activations(path: Path, arm: Arm, movement: np.ndarray) -> int:
    """The number of live decisions on a gesture."""
    decisions = play(blocks(movement, arm.rate_hz), LiveEngine(Recogniser(Bundle(path)), arm.info()))
    return sum(decision.changed and decision.gesture in GESTURES for decision in decisions)


def test_movements_that_were_taught_to_be_no_gesture_are_decided_on_less(tmp_path):
    arm, n = Arm(seed=6, rate_hz=250.0), 0
    for name in GESTURES:
        arm.drive(name)
    for number in range(8):  # each is halfway between a gesture and muscles of its own
        arm.drives[f"other {number}"] = 0.5 * arm.drive(GESTURES[number % 2]) + 0.5 * arm.drive(f"muscles {number}")
    found = {}
    for others in (True, False):
        path = tmp_path / f"{others}.cpep"
        teaching = Teaching(path, arm.info(), Wish(GESTURES, others=others))
        while teaching.cue.phase != "done":
            cue, makes = teaching.cue, teaching.cue.phase == "make"
            gesture = f"other {n % 8}" if cue.gesture == UNKNOWN else cue.gesture
            teaching.feed(Block(arm.make(gesture if makes else "Rest", 0.5), n * 125, n / 2, 0.0))
            n += 1
        fit(teaching)
        names = [gesture.name for gesture in Bundle(path).manifest.gestures]
        assert names == ["Rest", *GESTURES, *([UNKNOWN] if others else [])]
        moving = np.concatenate([arm.make(f"other {number % 8}", 0.5) for number in range(80)])
        made = np.concatenate([arm.make(name, 2.0) for name in 5 * ("Rest", "Fist", "Rest", "Open")])
        found[others] = activations(path, arm, moving), activations(path, arm, made)
    assert found[True][1] >= 9  # of ten
    assert 3 * found[True][0] < found[False][0]
    assert Bundle(path).manifest.calibration == GESTURES
    with_others = Bundle(tmp_path / "True.cpep")
    assert with_others.manifest.decision.evidence_ms == 75.0
    assert remove_gesture(OpenBundle.check(with_others), UNKNOWN).decision.evidence_ms == 100.0


@pytest.mark.parametrize("others", [True, False])
def test_other_movements_do_not_hide_that_the_band_sits_turned(tmp_path, others):
    """Other movements shift the mean of the training data, but a calibration does not contain any."""
    arm = Arm(seed=1, rate_hz=250.0)
    for name in (*GESTURES, "Point"):
        arm.drive(name)
    taught(tmp_path / "mine.cpep", arm, Wish((*GESTURES, "Point"), others=others))
    movement = np.concatenate([arm.make(name, 1.5, turned=1) for name in (3 * (*GESTURES, "Point"))[:8]])
    donning = donning_of(Recogniser(Bundle(tmp_path / "mine.cpep")), [movement])
    assert donning.order == (1, 2, 3, 4, 5, 0)
