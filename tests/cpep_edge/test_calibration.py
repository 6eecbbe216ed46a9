import os
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from cpep_edge.blocks import StreamInfo
from cpep_edge.calibration import Profile, calibrate, load_profile, odd_electrodes, save_profile, signal_id
from cpep_edge.donning import Donning
from cpep_edge.errors import ArtifactError, ConfigError, DataError
from cpep_edge.input_stream import InputStream
from cpep_edge.manifest import DecisionSpec, PlacementSpec
from cpep_edge.preprocess import Preprocessing, design_filter
from cpep_edge.recogniser import Recogniser
from tests.cpep_edge.arm import blocks
from tests.cpep_edge.fake_stream import ListSource

RATE_HZ = 1000.0
SPEC = Preprocessing(RATE_HZ, design_filter(RATE_HZ, 20.0), scale_uv=10.0, clip=20.0)
GAINS = np.array([1.0, 4.0, 0.25], np.float32)


def bundle_for(pattern: tuple[float, ...] = (), n_channels: int = 3, spec: Preprocessing = SPEC) -> Recogniser:
    """The parts of a bundle that a calibration uses."""
    manifest: Any = SimpleNamespace(
        unit="uV",
        worn=None,
        other_movements=None,
        usual_donning=Donning(),
        n_channels=n_channels,
        preprocessing=spec,
        front_end=None,
        head=None,
        placement=PlacementSpec(max_turn=2),
        level_pattern=pattern,
        masked_channels=(),
        window_samples=200,
    )
    return cast(Recogniser, SimpleNamespace(manifest=manifest, head=None))


def band(signal_uv: np.ndarray, missing: tuple[int, ...] = ()) -> ListSource:
    """A band that plays an array and then ends."""
    info = StreamInfo("test band", signal_uv.shape[1], RATE_HZ, missing=missing)
    return ListSource(blocks(signal_uv.astype(np.float32), RATE_HZ, size=37), info=info)


def movement(seconds: float, seed: int = 0) -> np.ndarray:
    """One EMG source of varying strength, recorded by three electrodes with different gains and an offset."""
    rng = np.random.default_rng(seed)
    n_samples = round(seconds * RATE_HZ)
    effort = np.exp(np.sin(np.arange(n_samples) / 700))
    return 20 * effort[:, None] * rng.normal(size=(n_samples, 1)) * GAINS + 500


def profile_of(level_uv: tuple[float, ...]) -> Profile:
    order = tuple(range(len(level_uv)))
    signal = signal_id(bundle_for(n_channels=len(level_uv)).manifest)
    return Profile(signal=signal, level_uv=level_uv, order=order, seconds=5, created_utc="")


def test_a_calibrated_signal_does_not_tell_one_electrode_s_gain_from_another_s():
    recogniser = bundle_for()
    donning = calibrate(band(movement(10)), recogniser, seconds=8).donning(recogniser.manifest)
    assert np.allclose(donning.level_uv / donning.level_uv[0], GAINS, rtol=1e-3)
    scaled = InputStream(SPEC, None, 3, donning)(movement(5, seed=1).astype(np.float32))
    assert np.allclose(scaled[:, 1:], scaled[:, :1], atol=1e-3)


def test_only_the_asked_seconds_are_used():
    assert calibrate(band(movement(10)), bundle_for(), seconds=3).seconds == pytest.approx(3, abs=0.3)


def test_a_flat_electrode_and_too_short_a_signal_are_said():
    flat = movement(5)
    flat[:, 1] = 500
    with pytest.raises(DataError, match="channel 2 is flat"):
        calibrate(band(flat), bundle_for(), seconds=4)
    with pytest.raises(DataError, match="too short"):
        calibrate(band(movement(1.5)), bundle_for(), seconds=8)
    with pytest.raises(DataError, match="too short"):
        calibrate(band(movement(3)), bundle_for(), seconds=8, rest_seconds=5)


def test_channels_that_the_device_does_not_have_are_dead_and_not_flat():
    signal = movement(5)
    signal[:, 2] = 0
    profile = calibrate(band(signal, missing=(2,)), bundle_for(), seconds=4)
    assert profile.dead == (2,)
    assert profile.level_uv[2] == 1
    assert odd_electrodes(profile, (0.0, 0.0, 0.0)).keys() <= {1, 2}


def test_a_profile_comes_back_as_it_was_saved_and_fits_only_its_signal(tmp_path):
    profile = calibrate(band(movement(5)), bundle_for(), seconds=4)
    save_profile(profile, tmp_path / "profile.json")
    assert load_profile(tmp_path / "profile.json") == profile
    other_filter = Preprocessing(RATE_HZ, design_filter(RATE_HZ, 40.0), scale_uv=10.0, clip=20.0)
    for other in (bundle_for(n_channels=4), bundle_for(spec=other_filter)):
        with pytest.raises(ConfigError, match="run cpep-edge calibrate"):
            profile.donning(other.manifest)


@pytest.mark.parametrize("change", [{"order": (0, 1, 1)}, {"level_uv": (1.0, 0.0, 1.0)}, {"dead": (3,)}])
def test_a_profile_that_cannot_be_is_refused(change):
    profile = profile_of((10.0, 10.0, 10.0)).model_copy(update=change)
    with pytest.raises(ConfigError, match="damaged"):
        profile.donning(bundle_for().manifest)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a profile"),
        ("{}", "is not a profile"),
        ('{"schema_version": 1, "level_uv": [1], "turn": 1}', "older cpep-edge; make a new one with"),
        ('{"schema_version": 9}', "older"),
    ],
)
def test_a_profile_that_cannot_be_read_says_why(tmp_path, text, reason):
    (tmp_path / "profile.json").write_text(text)
    with pytest.raises(ArtifactError, match=reason):
        load_profile(tmp_path / "profile.json")
    with pytest.raises(ArtifactError, match="there is no such profile"):
        load_profile(tmp_path / "none.json")
    with pytest.raises(ArtifactError, match="cannot be read: Not a directory"):
        load_profile(tmp_path / "profile.json" / "profile.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="cannot be read: .*is not a plain file"):
        load_profile(tmp_path / "pipe")


def test_a_profile_s_levels_replace_the_corpus_scale():
    donning = profile_of((10.0, 10.0, 10.0)).donning(bundle_for().manifest)
    signal_uv = movement(2).astype(np.float32)
    assert np.array_equal(InputStream(SPEC, None, 3)(signal_uv), InputStream(SPEC, None, 3, donning)(signal_uv))


def test_a_profile_of_a_turned_band_holds_the_levels_as_the_model_knows_them():
    turned = np.roll(movement(10), 1, axis=1)
    pattern = tuple(np.log(GAINS).tolist())
    profile = calibrate(band(turned), bundle_for(pattern), seconds=8)
    assert profile.order == (1, 2, 0)
    assert np.allclose(np.array(profile.level_uv) / profile.level_uv[0], GAINS, rtol=1e-3)
    donning = profile.donning(bundle_for(pattern).manifest)
    straight = calibrate(band(movement(10)), bundle_for(pattern), seconds=8).donning(bundle_for().manifest)
    seen = [InputStream(SPEC, None, 3, way)(signal) for way, signal in ((donning, turned), (straight, movement(10)))]
    assert np.array_equal(*seen)


def test_rest_is_listened_to_first_and_lies_between_rest_and_movement():
    rest = 500 + np.random.default_rng(5).normal(size=(5200, 3)) * GAINS
    heard: list[str] = []
    both = band(np.concatenate([rest, movement(12)]))
    profile = calibrate(both, bundle_for(), seconds=8, rest_seconds=5, on_move=lambda: heard.append("move"))
    quiet = 1 / profile.level_uv[0]
    assert quiet < profile.rest_level < 1
    assert heard == ["move"]
    spec = DecisionSpec(rest_gesture="Rest", rest_level=0.1)
    assert profile.decide(spec).rest_level == profile.rest_level
    assert profile.decide(DecisionSpec()).rest_level == 0  # the bundle has no rest gesture


def test_an_electrode_that_is_far_too_weak_is_named_unless_it_is_known_to_be_dead():
    pattern = np.array([0.8, -0.3, -1.1, 0.4, 0.9, -0.7])
    level_uv = tuple(np.exp(pattern) * np.array([1, 1, 1, 0.1, 1, 1]))
    assert odd_electrodes(profile_of(level_uv), pattern) == {4: pytest.approx(0.1)}
    assert odd_electrodes(profile_of(level_uv).model_copy(update={"dead": (3,)}), pattern) == {}


def test_a_donning_comes_back_from_json_number_for_number():
    rng = np.random.default_rng(3)
    level_uv, centre = rng.random(3, np.float32), rng.normal(size=12).astype(np.float32)
    before = Donning((2, 0, 1), level_uv, (1,), centre, rng.normal(size=(2, 5)).astype(np.float32))
    after = Donning.from_json(before.to_json())
    assert (after.order, after.dead) == (before.order, before.dead)
    for name in ("level_uv", "centre", "head_means"):
        assert np.array_equal(getattr(after, name), getattr(before, name))
    with pytest.raises(ValueError, match="no donning"):
        Donning.from_json({"order": [0]})


@pytest.mark.parametrize("level", ["0", "0.0", "-1", "NaN", "Infinity", "1e39", "1e-30"])
def test_a_level_that_samples_cannot_be_divided_by_is_refused(tmp_path, level):
    (tmp_path / "profile.json").write_text(profile_of((10.0, 12.5)).model_dump_json().replace("12.5", level))
    with pytest.raises(ArtifactError, match="level_uv"):
        load_profile(tmp_path / "profile.json")
