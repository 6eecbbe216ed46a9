from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.blocks import Block, LinkCounts, StreamInfo
from cpep_edge.bundle import DecisionSpec
from cpep_edge.calibration import (
    MAX_TURN,
    Profile,
    calibrate,
    channel_levels_uv,
    find_turn,
    load_profile,
    odd_electrodes,
    save_profile,
    stretch_levels_uv,
)
from cpep_edge.errors import ArtifactError, ConfigError, DataError
from cpep_edge.preprocess import Preprocessing, Preprocessor, design_filter

RATE_HZ = 1000.0
SPEC = Preprocessing(RATE_HZ, design_filter(RATE_HZ, 20.0), scale_uv=10.0, clip=20.0)
GAINS = np.array([1.0, 4.0, 0.25], np.float32)


class Source:
    """A band that plays an array and ends."""

    def __init__(self, signal_uv: np.ndarray) -> None:
        self.info, self.counts = StreamInfo("test band", signal_uv.shape[1], RATE_HZ), LinkCounts()
        self._signal_uv = signal_uv.astype(np.float32)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *exc: object) -> None: ...

    def __iter__(self) -> Iterator[Block]:
        for start in range(0, len(self._signal_uv), 37):
            yield Block(self._signal_uv[start : start + 37], start, start / RATE_HZ, 0.0)


def movement(seconds: float, seed: int = 0) -> np.ndarray:
    """One source of EMG whose strength changes, seen by three electrodes of different gain on an offset."""
    rng = np.random.default_rng(seed)
    n_samples = round(seconds * RATE_HZ)
    effort = np.exp(np.sin(np.arange(n_samples) / 700))
    return 20 * effort[:, None] * rng.normal(size=(n_samples, 1)) * GAINS + 500


def test_a_calibrated_signal_does_not_tell_one_electrode_s_gain_from_another_s() -> None:
    profile = calibrate(Source(movement(10)), SPEC, seconds=8)
    level_uv = profile.levels(SPEC, 3)
    assert np.allclose(level_uv / level_uv[0], GAINS, rtol=1e-3)
    scaled = Preprocessor(SPEC, 3, level_uv)(movement(5, seed=1).astype(np.float32))
    assert np.allclose(scaled[:, 1:], scaled[:, :1], atol=1e-3)


def test_the_level_is_the_geometric_mean_of_the_stretches() -> None:
    loud, quiet = np.full((2000, 1), 100.0, np.float32), np.full((2000, 1), 1.0, np.float32)
    stretches = stretch_levels_uv(np.concatenate([loud, quiet]), RATE_HZ)
    assert len(stretches) == 40
    assert channel_levels_uv(stretches) == pytest.approx([10.0])


def test_only_the_asked_seconds_are_used() -> None:
    assert calibrate(Source(movement(10)), SPEC, seconds=3).seconds == pytest.approx(3, abs=0.1)


def test_a_flat_electrode_and_too_short_a_signal_are_said() -> None:
    flat = movement(5)
    flat[:, 1] = 500
    with pytest.raises(DataError, match="channel 2 is flat"):
        calibrate(Source(flat), SPEC, seconds=4)
    with pytest.raises(DataError, match="too short"):
        calibrate(Source(movement(1.5)), SPEC, seconds=8)


def test_a_profile_comes_back_as_it_was_saved_and_fits_only_its_signal(tmp_path: Path) -> None:
    profile = calibrate(Source(movement(5)), SPEC, seconds=4)
    save_profile(profile, tmp_path / "profile.json")
    assert load_profile(tmp_path / "profile.json") == profile
    other_filter = Preprocessing(RATE_HZ, design_filter(RATE_HZ, 40.0), scale_uv=10.0, clip=20.0)
    for preprocessing, n_channels in ((SPEC, 4), (other_filter, 3)):
        with pytest.raises(ConfigError, match="run cpep-edge calibrate"):
            profile.levels(preprocessing, n_channels)


@pytest.mark.parametrize("text", ["", "{}", '{"schema_version": 2}'])
def test_a_malformed_profile_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "profile.json").write_text(text)
    with pytest.raises(ArtifactError, match="not a valid profile"):
        load_profile(tmp_path / "profile.json")
    with pytest.raises(ArtifactError, match="there is no such profile"):
        load_profile(tmp_path / "none.json")


def test_a_profile_s_levels_replace_the_corpus_scale() -> None:
    profile = Profile(level_uv=(10.0, 10.0, 10.0), sample_rate_hz=RATE_HZ, sos=SPEC.sos, seconds=5, created_utc="")
    signal_uv = movement(2).astype(np.float32)
    assert np.array_equal(Preprocessor(SPEC, 3)(signal_uv), Preprocessor(SPEC, 3, profile.levels(SPEC, 3))(signal_uv))


PATTERN = np.array([0.8, -0.3, -1.1, 0.4, 0.9, -0.7])


@pytest.mark.parametrize("turn", range(-MAX_TURN, MAX_TURN + 1))
def test_a_turned_band_is_found_through_the_differences_between_people(turn: int) -> None:
    rng = np.random.default_rng(turn + 9)
    level_uv = 30 * np.exp(PATTERN + rng.normal(0, 0.2, len(PATTERN)))
    assert find_turn(np.roll(level_uv, turn).astype(np.float32), PATTERN) == turn


def test_without_a_pattern_no_turn_is_found() -> None:
    assert find_turn(np.array([1.0, 2.0, 3.0], np.float32), ()) == 0


def test_a_profile_of_a_turned_band_holds_the_levels_as_the_model_knows_them() -> None:
    turned = np.roll(movement(10), 1, axis=1)
    profile = calibrate(Source(turned), SPEC, seconds=8, pattern=np.log(GAINS))
    assert profile.turn == 1
    assert np.allclose(np.array(profile.level_uv) / profile.level_uv[0], GAINS, rtol=1e-3)


def test_rest_is_listened_to_first_and_lies_between_rest_and_movement() -> None:
    rest = 500 + np.random.default_rng(5).normal(size=(5200, 3)) * GAINS
    heard: list[str] = []
    both = Source(np.concatenate([rest, movement(12)]))
    profile = calibrate(both, SPEC, seconds=8, rest_seconds=5, on_move=lambda: heard.append("move"))
    quiet = 1 / profile.level_uv[0]
    assert quiet < profile.rest_level < 1
    assert heard == ["move"]
    spec = DecisionSpec(rest_gesture="Rest", rest_level=0.1)
    assert profile.decide(spec).rest_level == profile.rest_level
    assert profile.decide(DecisionSpec()).rest_level == 0  # the bundle knows no rest


def test_an_electrode_that_is_far_too_weak_is_named() -> None:
    level_uv = tuple(np.exp(PATTERN) * np.array([1, 1, 1, 0.1, 1, 1]))
    profile = Profile(level_uv=level_uv, sample_rate_hz=RATE_HZ, sos=SPEC.sos, seconds=5, created_utc="")
    assert odd_electrodes(profile, PATTERN) == {4: pytest.approx(0.1)}
