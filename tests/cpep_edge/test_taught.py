"""Bundles that a wearer taught: a head for the band's signal, without encoder and poses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.blocks import StreamInfo
from cpep_edge.bundle import Bundle
from cpep_edge.calibration import calibrate
from cpep_edge.errors import ArtifactError, ConfigError
from cpep_edge.live_loop import LiveEngine, check_stream
from cpep_edge.manifest import Manifest
from cpep_edge.names import UNKNOWN
from cpep_edge.personal import Repetition, design_reading, measure_wearings
from cpep_edge.recogniser import Recogniser
from cpep_edge.taught import fit_taught
from cpep_edge.verify import verify_bundle
from tests.cpep_edge.arm import Arm, blocks
from tests.cpep_edge.fake_stream import play, without_delay
from tests.processes import python

GESTURES = ["Fist", "Open", "Point"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> tuple[Path, Arm]:
    arm = Arm()
    path = tmp_path_factory.mktemp("taught") / "mine.cpep"
    arm.teach(path, GESTURES)
    return path, arm


def decided(path: Path, arm: Arm, gesture: str) -> list[str]:
    """The live decisions while the wearer rests, makes a gesture, and rests."""
    recogniser = Recogniser(Bundle(path))
    signal = np.concatenate([arm.make("Rest", 1), arm.make(gesture, 2), arm.make("Rest", 1)])
    decisions = play(blocks(signal, arm.rate_hz), LiveEngine(recogniser, arm.info(recogniser.manifest.unit)))
    changes = [decision.gesture for decision in decisions if decision.changed]
    return [gesture for gesture in changes if gesture != UNKNOWN]  # a mixed window may be like neither gesture


def test_a_taught_bundle_has_neither_encoder_nor_poses_and_live_decides_by_it(taught):
    path, arm = taught
    manifest = Bundle(path).manifest
    assert (manifest.encoder, manifest.index, manifest.native, manifest.target) == (None, None, None, "any")
    for gesture in GESTURES:
        assert decided(path, arm, gesture) == ["Rest", gesture, "Rest"]


def test_while_it_adapts_live_decides_the_same_however_the_signal_was_cut(taught):
    path, arm = taught
    recogniser = Recogniser(Bundle(path))
    spec = recogniser.manifest.decision.model_copy(update={"adapt": True})
    signal = np.concatenate([arm.make(gesture, 1) for gesture in ("Rest", *GESTURES, "Rest")])
    one, other = (
        play(blocks(signal, arm.rate_hz, size), LiveEngine(recogniser, arm.info(), spec=spec)) for size in (25, 333)
    )
    assert without_delay(one) == without_delay(other)
    steady = play(blocks(signal, arm.rate_hz), LiveEngine(recogniser, arm.info()))
    assert [decision.similarity for decision in one] != [decision.similarity for decision in steady]


def test_verify_runs_the_golden_inputs_of_a_taught_bundle_and_finds_a_changed_head(taught, tmp_path):
    path, arm = taught
    report = verify_bundle(path)
    assert report.n_golden == 1 + len(GESTURES)
    assert report.smallest_cosine == pytest.approx(1, abs=1e-5)
    Arm(seed=5).teach(tmp_path / "other.cpep", GESTURES)
    copy = tmp_path / "mine.cpep"
    shutil.copytree(path, copy)
    shutil.copy(tmp_path / "other.cpep" / "head.npz", copy / "head.npz")
    with pytest.raises(ArtifactError, match="head.npz"):
        verify_bundle(copy)


def test_a_taught_bundle_imports_neither_torch_nor_executorch_nor_hnswlib(taught):
    path, arm = taught
    code = f"""
import sys
from pathlib import Path
import numpy as np
from cpep_edge.bundle import Bundle
from cpep_edge.recogniser import Recogniser
recogniser = Recogniser(Bundle(Path({str(path)!r})))
window = recogniser.last_window(np.ones(({round(arm.rate_hz)}, {arm.n_channels}), np.float32))
recogniser.recognise(window)
print(sorted({{"torch", "executorch", "hnswlib"}} & set(sys.modules)))
"""
    done = python("-c", code)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_later_wearing_is_found_turned_by_an_unlabelled_calibration(taught):
    path, arm = taught
    recogniser = Recogniser(Bundle(path))
    turned = [arm.make(gesture, 3, turned=1) for gesture in ("Rest", *GESTURES, *GESTURES)]
    profile = calibrate(arm.sends(np.concatenate(turned)), recogniser, 20.0)
    assert profile.order == (1, 2, 3, 4, 5, 0)
    donning = profile.donning(recogniser.manifest)
    right = 0
    for gesture in GESTURES:
        window = recogniser.last_window(arm.make(gesture, 1, turned=1), donning)
        vote = recogniser.recognise(window, recogniser.on_arm(donning)).vote
        right += recogniser.manifest.gestures[vote.gesture_index].name == gesture
    assert right == len(GESTURES)


def test_a_gesture_may_be_new_in_a_later_wearing_that_sits_turned(tmp_path):
    arm = Arm(seed=5)
    first = arm.repetitions(["Open", "Point"], 3)
    later = [
        Repetition(name, number, arm.make(name, 2, turned=1), wearing=1)
        for number in (1, 2, 3)
        for name in ("Rest", "Fist", "Open", "Point")
    ]
    reading = design_reading(arm.n_channels, arm.rate_hz)
    assert measure_wearings([*first, *later], reading, ["Fist", "Open", "Point", "Rest"])[1].order == (1, 2, 3, 4, 5, 0)
    fitted = fit_taught([*first, *later], "Rest", reading)
    assert set(fitted.gestures) == {"Rest", "Fist", "Open", "Point"}
    alone = [one for one in later if one.gesture == "Fist"]  # too few gestures to find the turn
    assert measure_wearings([*first, *alone], reading, ["Fist", "Open", "Point", "Rest"])[1].order == (0, 1, 2, 3, 4, 5)


def test_a_band_in_counts_is_taught_as_one_in_microvolts(tmp_path):
    arm, path = Arm(scale=1e-4), tmp_path / "counts.cpep"
    arm.teach(path, GESTURES, unit="count")
    assert decided(path, arm, "Open") == ["Rest", "Open", "Rest"]
    with pytest.raises(ConfigError, match="sends microvolts"):
        check_stream(StreamInfo("other", arm.n_channels, arm.rate_hz), Bundle(path).manifest)


@pytest.mark.parametrize(("n_channels", "rate_hz"), [(2, 100.0), (3, 2000.0), (16, 200.0)])
def test_bands_of_any_size_and_rate_are_taught(tmp_path, n_channels, rate_hz):
    arm = Arm(seed=3, n_channels=n_channels, rate_hz=rate_hz)
    assert arm.teach(tmp_path / "any.cpep", GESTURES).n_channels == n_channels
    verify_bundle(tmp_path / "any.cpep")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("head", None, "known to neither"),
        ("front_end", None, "only a head on a front end's tokens"),
        ("worn", {"level_uv": [1.0]}, "as many channels"),
    ],
)
def test_a_manifest_that_leaves_nothing_to_answer_is_refused(taught, field, value, said):
    fields = json.loads((taught[0] / "manifest.json").read_text())
    with pytest.raises(ValueError, match=said):
        Manifest.model_validate_json(json.dumps({**fields, field: value}))


def test_the_benchmark_refuses_a_taught_bundle_in_one_sentence(taught, tmp_path):
    from cpep_bench.run import run_bench

    with pytest.raises(ConfigError, match="mine was taught by its wearer and has no encoder"):
        run_bench(taught[0], tmp_path)
