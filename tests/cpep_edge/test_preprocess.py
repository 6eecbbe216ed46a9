import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from cpep_edge.preprocess import Preprocessing, Preprocessor, design_filter, steady_state

RATE_HZ = 2000.0
SPEC = Preprocessing(RATE_HZ, design_filter(RATE_HZ, 40.0), scale_uv=10.0, clip=20.0)


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 10, (n_samples, 3)).astype(np.float32)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=12))
def test_the_output_does_not_depend_on_how_the_stream_was_cut(sizes):
    samples = noise(sum(sizes))
    whole = Preprocessor(SPEC, 3)(samples)
    in_blocks = Preprocessor(SPEC, 3)
    cuts = np.split(samples, np.cumsum(sizes)[:-1])
    assert np.array_equal(np.concatenate([in_blocks(cut) for cut in cuts]), whole)


def test_the_filter_is_the_butterworth_that_scipy_designs():
    tone_hz, t_s = np.array([10.0, 40.0, 200.0]), np.arange(8000) / RATE_HZ
    tones = np.sin(2 * np.pi * t_s[:, None] * tone_hz).astype(np.float32) * 50
    settled = Preprocessor(SPEC, 3)(tones)[4000:] * SPEC.scale_uv
    b, a = signal.butter(4, 40.0, "highpass", fs=RATE_HZ)
    expected = np.abs(signal.freqz(b, a, tone_hz, fs=RATE_HZ)[1])
    assert np.allclose(settled.std(axis=0) / (50 / np.sqrt(2)), expected, atol=2e-3)


def test_the_notch_removes_mains_hum():
    spec = Preprocessing(RATE_HZ, design_filter(RATE_HZ, 40.0, notch_hz=50.0), scale_uv=1.0, clip=1e6)
    hum = np.sin(2 * np.pi * 50 * np.arange(8000) / RATE_HZ).astype(np.float32)[:, None]
    assert np.abs(Preprocessor(spec, 1)(hum)[4000:]).max() < 0.01


def test_an_electrode_offset_makes_no_step():
    samples = noise(500)
    plain, offset = Preprocessor(SPEC, 3)(samples), Preprocessor(SPEC, 3)(samples + 1500)
    assert np.abs(plain - offset).max() < 0.01


@pytest.mark.parametrize("notch_hz", [None, 50.0])
def test_the_steady_state_is_the_one_that_scipy_computes(notch_hz):
    sos = np.array(design_filter(RATE_HZ, 40.0, notch_hz, order=6))
    np.testing.assert_allclose(steady_state(sos), signal.sosfilt_zi(sos), atol=1e-12)


def test_reset_forgets_the_past():
    samples = noise(300)
    preprocess = Preprocessor(SPEC, 3)
    first = preprocess(samples)
    preprocess.reset()
    assert np.array_equal(preprocess(samples), first)


def test_the_scaled_signal_is_clipped():
    click = np.zeros((100, 3), np.float32)
    click[50] = 1e6
    assert np.abs(Preprocessor(SPEC, 3)(click)).max() == SPEC.clip


@pytest.mark.parametrize(("high_pass_hz", "notch_hz"), [(0.0, None), (1000.0, None), (40.0, 1200.0)])
def test_a_corner_outside_the_band_is_refused(high_pass_hz, notch_hz):
    with pytest.raises(ValueError, match="below half"):
        design_filter(RATE_HZ, high_pass_hz, notch_hz)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, 1e30, 1e12])
@pytest.mark.parametrize("at", [0, 1, 500])
def test_a_number_that_no_electrode_gives_spoils_neither_its_channel_nor_another(bad, at):
    samples = noise(3_000)
    held = samples.copy()
    held[at, 1] = held[at - 1, 1] if at else 0.0
    spoilt = samples.copy()
    spoilt[at, 1] = bad
    in_blocks = Preprocessor(SPEC, 3)
    filtered = np.concatenate([in_blocks(block) for block in np.split(spoilt, range(7, 3_000, 7))])

    assert np.array_equal(filtered, Preprocessor(SPEC, 3)(held))


def test_a_channel_of_nothing_but_nan_stays_silent():
    samples = noise(100)
    samples[:, 2] = np.nan

    assert not Preprocessor(SPEC, 3)(samples)[:, 2].any()
