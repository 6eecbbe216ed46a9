"""Fitting a device to a model: channels, rate and unit are adapted only if the user asks for it."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import upfirdn

from cpep_bridge.board_models import SimulatedCyton
from cpep_bridge.board_profile import load_profile
from cpep_bridge.device_config import DeviceConfig, FittedSource, load_device_config
from cpep_bridge.devices import open_source
from cpep_bridge.prompts import load_prompts
from cpep_bridge.resampling import Resampler
from cpep_bridge.simulated_boards import SimulatedBoard
from cpep_edge.blocks import Block, StreamInfo
from cpep_edge.errors import ConfigError, LinkError
from cpep_edge.live_loop import check_stream
from tests.firmware_bridge.blocks_in_memory import BlocksInMemory


def noise(n_samples: int, n_channels: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(0, 50, (n_samples, n_channels)).astype(np.float32)


def blocks_of(signal: NDArray[np.float32], rate_hz: float, first: int = 0, boot_id: int = 0) -> list[Block]:
    return [Block(signal[n : n + 7], first + n, (first + n) / rate_hz, 0.0, boot_id) for n in range(0, len(signal), 7)]


@pytest.mark.parametrize(("from_hz", "to_hz"), [(250, 2_000), (2_000, 250), (500, 2_000), (512, 2_000), (1_150, 2_000)])
def test_resampling_is_what_scipy_computes_from_the_same_filter(from_hz, to_hz):
    resampler = Resampler(from_hz, to_hz, 2)
    signal = noise(900)
    signal[:200] = 0  # the resampler assumes that the past equals the first sample
    up, down = resampler._up, resampler._down
    reference = upfirdn(resampler.taps, signal, up, down, axis=0)
    resampled = resampler(signal)

    assert len(resampled) == -(-len(signal) * up // down)
    np.testing.assert_allclose(resampled, reference[: len(resampled)], atol=2e-3)


@given(cuts=st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_resampling_gives_the_same_however_the_stream_is_cut(cuts):
    signal = noise(sum(cuts))
    whole, pieces = Resampler(512, 2_000, 2), Resampler(512, 2_000, 2)
    stops = np.cumsum(cuts)
    parts = [pieces(signal[stop - cut : stop]) for cut, stop in zip(cuts, stops, strict=True)]

    np.testing.assert_allclose(np.concatenate(parts), whole(signal), atol=1e-4)


def test_a_tone_keeps_its_height_and_comes_late_by_the_delay_that_is_stated():
    resampler = Resampler(250, 2_000, 1)
    tone = np.sin(2 * np.pi * 30 * np.arange(1_000) / 250).astype(np.float32)[:, None]
    resampled = resampler(tone)[800:, 0]
    times_s = np.arange(800, 8_000) / 2_000 - resampler.delay_s

    np.testing.assert_allclose(resampled, np.sin(2 * np.pi * 30 * times_s), atol=0.01)
    assert 0.03 < resampler.delay_s < 0.05


def test_what_the_lower_rate_cannot_hold_is_taken_out():
    tone = np.sin(2 * np.pi * 400 * np.arange(8_000) / 2_000).astype(np.float32)[:, None]

    assert np.abs(Resampler(2_000, 250, 1)(tone)[50:]).max() < 0.002


def test_channels_are_put_where_the_config_says_and_missing_ones_are_silent():
    signal = noise(21, 3)
    source = BlocksInMemory(blocks_of(signal, 250.0), info=StreamInfo("three", 3, 250.0, "count"))
    with FittedSource(source, DeviceConfig(channels=[2, -1, 0, 0], uv_per_count=0.5)) as fitted:
        out = np.concatenate([block.samples_uv for block in fitted])

    np.testing.assert_array_equal(out, np.stack([signal[:, 2], 0 * signal[:, 0], signal[:, 0], signal[:, 0]], 1) / 2)
    assert (fitted.info.n_channels, fitted.info.unit, fitted.info.sample_rate_hz) == (4, "uV", 250.0)
    assert fitted.info.missing == (1, 3)  # the silent channel, and the repeated one
    assert source.closed


def test_a_loss_stays_a_jump_of_as_much_time_and_a_restart_starts_over():
    signal = noise(350)
    blocks = [*blocks_of(signal, 250.0), *blocks_of(signal, 250.0, 450), *blocks_of(signal, 250.0, boot_id=1)]
    source = BlocksInMemory(blocks, info=StreamInfo("two", 2, 250.0))
    with FittedSource(source, DeviceConfig(sample_rate_hz=2_000.0)) as fitted:
        out = list(fitted)
    ends = [block.sample_index + len(block.samples_uv) for block in out]
    jumps = [(end, block.sample_index) for end, block in zip(ends, out[1:], strict=False) if block.sample_index != end]

    assert jumps == [(2_800, 3_600), (6_400, 0)]
    again = np.concatenate([block.samples_uv for block in out if block.boot_id == 1])
    np.testing.assert_array_equal(again, np.concatenate([block.samples_uv for block in out[:50]]))
    for block in out:
        assert block.device_t_s == pytest.approx(block.sample_index / 2_000 - Resampler(250, 2_000, 1).delay_s)


def test_a_cyton_can_be_made_to_look_like_the_band_a_model_knows(tmp_path):
    config = tmp_path / "cyton.toml"
    config.write_text(f"channels = {[0, 1, 2, 3, 4, 5, 6, 7] + [-1] * 8}\nsample_rate_hz = 2000.0\n")
    with SimulatedBoard(SimulatedCyton(), [noise(250, 8)], speed=8) as board:
        with open_source(board.port, device="cyton", config=config) as source:
            block = next(iter(source))

    assert (source.info.n_channels, source.info.sample_rate_hz, source.info.unit) == (16, 2_000.0, "uV")
    assert block.samples_uv.shape[1] == 16


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (DeviceConfig(channels=[0, 5]), "names channel 5, but two has channels 0 to 1; write -1 for one"),
        (DeviceConfig(uv_per_count=2.0), "two already sends microvolts"),
        (DeviceConfig(sample_rate_hz=2_000.03), "250 Hz cannot be turned into 2000.03 Hz by whole factors up to 1000"),
    ],
)
def test_a_config_that_does_not_fit_the_device_is_refused_and_the_device_closed(config, said):
    source = BlocksInMemory([], info=StreamInfo("two", 2, 250.0))

    with pytest.raises(ConfigError, match=said):
        FittedSource(source, config).__enter__()
    assert source.closed


@pytest.mark.parametrize(
    "info",
    [
        StreamInfo("small", 8, 2_000.0),
        StreamInfo("slow", 16, 250.0),
        StreamInfo("counts", 16, 2_000.0, "count"),
        StreamInfo("all of it", 3, 500.0, "count"),
    ],
)
def test_the_lines_that_a_refusal_ends_in_are_a_config_that_fits(tmp_path, info):
    preprocessing = SimpleNamespace(sample_rate_hz=2_000.0)
    manifest = SimpleNamespace(unit="uV", name="model", n_channels=16, preprocessing=preprocessing)
    with pytest.raises(ConfigError, match="in a file for --device-config:") as caught:
        check_stream(info, manifest)
    (tmp_path / "fit.toml").write_text(str(caught.value).partition("--device-config:\n")[2])

    with FittedSource(BlocksInMemory([], info=info), load_device_config(tmp_path / "fit.toml")) as fitted:
        check_stream(fitted.info, manifest)


@pytest.mark.parametrize("channels", [[0, -1, -1], [1, 1, 1]])
def test_a_config_that_leaves_a_single_electrode_is_refused(channels):
    manifest = SimpleNamespace(name="model", n_channels=3, preprocessing=SimpleNamespace(sample_rate_hz=250.0))
    source = BlocksInMemory([], info=StreamInfo("two", 2, 250.0))
    with FittedSource(source, DeviceConfig(channels=channels)) as fitted:
        with pytest.raises(ConfigError, match="an electrode of its own for 1 of the 3 channels of model"):
            check_stream(fitted.info, manifest)


def test_the_examples_in_the_readme_are_valid(tmp_path):
    readme = (Path(__file__).parents[2] / "docs" / "bands.md").read_text()
    profile, lines, config, prompts = re.findall(r"```toml\n(.+?)```", readme, re.DOTALL)
    head = 'name = "lines"\nsource = "the README"\nsample_rate_hz = 500.0\nn_channels = 4\n'
    for name, text in (("profile", profile), ("lines", head + lines), ("config", config), ("prompts", prompts)):
        (tmp_path / f"{name}.toml").write_text(text)

    assert load_profile(tmp_path / "profile.toml").n_channels == 4
    assert load_profile(tmp_path / "lines.toml").lines is not None
    assert len(load_device_config(tmp_path / "config.toml").channels or ()) == 16
    assert len(load_prompts(tmp_path / "prompts.toml").steps()) == 2


def test_everything_wrong_in_a_config_file_is_said_at_once(tmp_path):
    (tmp_path / "bad.toml").write_text("channels = []\nrate = 5\nuv_per_count = -1")

    with pytest.raises(ConfigError, match=r"device config bad.toml: channels: .*; uv_per_count: .*rate is not a known"):
        load_device_config(tmp_path / "bad.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_device_config(tmp_path / "none.toml")


def test_a_device_that_fails_to_open_is_not_hidden_by_its_config(tmp_path):
    (tmp_path / "ok.toml").write_text("channels = [0]")

    with pytest.raises(LinkError, match="there is no port"):
        open_source("/dev/ttyNONE", config=tmp_path / "ok.toml").__enter__()
