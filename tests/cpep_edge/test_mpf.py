import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal as dsp
from scipy.linalg import expm, logm

from cpep_edge.errors import DataError
from cpep_edge.mpf import MpfSpec, MpfStream, band_edges_hz, design_bands, log_covariances, turned

RATE_HZ = 1000.0


def spec(n_electrodes: int = 5, hop: int = 25, span: int = 100, shrinkage: float = 0.01) -> MpfSpec:
    bands = design_bands(RATE_HZ, band_edges_hz(RATE_HZ, 20.0))
    return MpfSpec(n_electrodes=n_electrodes, bands=bands, hop_samples=hop, span_samples=span, shrinkage=shrinkage)


def noise(n: int, n_electrodes: int = 5, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, n_electrodes)) @ rng.normal(size=(n_electrodes, n_electrodes))).astype(np.float32)


def test_a_token_is_the_matrix_logarithm_of_the_span_s_covariance_in_each_band():
    """Compared with scipy's filter over the whole signal, a covariance, and scipy's general matrix logarithm."""
    s, x = spec(), noise(700)
    tokens = MpfStream(s)(x)
    assert tokens.shape == (s.n_tokens(700), s.n_features) == (25, 60)
    for number in (0, 7, 24):
        expected = []
        for band in s.bands:
            sos = dsp.butter(2, (band.low_hz, band.high_hz), "bandpass", fs=RATE_HZ, output="sos")
            y = dsp.sosfilt(sos, x.astype(float), axis=0)[number * 25 : number * 25 + 100]
            c = y.T @ y / 100
            c += (0.01 * np.trace(c) / 5 + 1e-6) * np.eye(5)
            log = logm(c).real
            expected += [log[i, j] * (1 if i == j else np.sqrt(2)) for i in range(5) for j in range(i, 5)]
        assert np.allclose(tokens[number], expected, atol=1e-4)


def test_the_distance_of_tokens_is_that_of_the_log_euclidean_metric():
    rng = np.random.default_rng(1)
    logs = rng.normal(size=(2, 6, 6))
    logs = logs + logs.transpose(0, 2, 1)
    tokens = log_covariances(np.stack([expm(log) for log in logs])[:, None], 1e-9)
    assert np.linalg.norm(tokens[0] - tokens[1]) == pytest.approx(np.linalg.norm(logs[0] - logs[1]), rel=1e-3)


def test_a_turn_by_whole_electrodes_is_what_the_turned_band_hears_and_half_a_turn_lies_between():
    s, x = spec(), noise(700)
    n_bands, tokens = len(s.bands), MpfStream(s)(x)
    for electrodes in (-2, 0, 1, 3):
        heard = MpfStream(s)(np.roll(x, -electrodes, axis=1))
        assert np.allclose(turned(tokens, electrodes, n_bands), heard, atol=1e-4)
    between = (turned(tokens, 1, n_bands) + turned(tokens, 2, n_bands)) / 2
    assert np.allclose(turned(tokens, 1.5, n_bands), between, atol=1e-5)


def test_a_turn_gives_a_dead_electrode_nothing_to_say():
    s, x = spec(), noise(700)
    tokens = MpfStream(s, dead=(2,))(x)
    assert not turned(tokens, 0.4, len(s.bands), dead=(2,))[:, np.ptp(tokens, axis=0) == 0].any()


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 180), min_size=1, max_size=12), first=st.integers(0, 200))
def test_tokens_do_not_depend_on_how_the_signal_was_cut(sizes, first):
    x = noise(sum(sizes))
    whole, cut = MpfStream(spec()), MpfStream(spec())
    for stream in (whole, cut):
        stream.reset(first)
    parts = np.split(x, np.cumsum(sizes)[:-1])
    assert np.array_equal(whole(x), np.concatenate([cut(part) for part in parts]))


def test_blocks_begin_at_whole_multiples_of_the_hop_wherever_a_stream_begins():
    """Two streams of the same samples with different first samples agree once their filters have settled."""
    x, late = noise(4000), 1013
    early_stream, late_stream = MpfStream(spec()), MpfStream(spec())
    late_stream.reset(late)
    early, found = early_stream(x), late_stream(x[late:])
    assert np.allclose(early[-60:], found[-60:], atol=1e-3)


def test_a_token_s_cost_does_not_depend_on_the_span_and_nothing_after_it_matters():
    x = noise(1000)
    changed = x.copy()
    changed[600:] = 0
    before, after = MpfStream(spec())(x), MpfStream(spec())(changed)
    n_causal = spec().n_tokens(600)
    assert np.array_equal(before[:n_causal], after[:n_causal])
    assert not np.array_equal(before[n_causal:], after[n_causal:])


@pytest.mark.parametrize("kind", ["flat", "doubled", "silent", "one source"])
def test_rank_deficient_covariances_are_ordinary_input(kind):
    x = noise(500)
    if kind == "flat":
        x[:, 2] = 7
    elif kind == "doubled":
        x[:, 2] = x[:, 3]
    elif kind == "silent":
        x[:] = 0
    else:
        x = x[:, :1] * np.ones((1, 5), np.float32)
    assert np.isfinite(MpfStream(spec())(x)).all()


def test_a_dead_electrode_is_taken_out_and_leaves_the_others_as_they_would_be_without_it():
    x = noise(500)
    x[:, 4] = 0
    dead = MpfStream(spec(), dead=[4])(x)
    fewer = MpfStream(spec(4))(x[:, :4])
    row, column = np.triu_indices(5)
    kept = np.tile((row < 4) & (column < 4), 4)
    assert np.allclose(dead[:, kept], fewer, atol=1e-5)
    assert np.all(dead[:, ~kept] == 0)
    with pytest.raises(DataError, match="two live electrodes, but of 5 1, 2, 3, 4 are dead"):
        MpfStream(spec(), dead=[0, 1, 2, 3])


@pytest.mark.parametrize(
    ("rate_hz", "low_hz", "n_bands"), [(200, 15, 3), (250, 15, 3), (500, 20, 4), (1000, 20, 4), (2000, 40, 4)]
)
def test_bands_follow_the_rate_and_stay_below_its_half(rate_hz, low_hz, n_bands):
    edges = band_edges_hz(rate_hz, low_hz)
    assert len(edges) == n_bands + 1
    assert edges[0] == low_hz
    assert edges[-1] == min(0.45 * rate_hz, 450)
    widths = np.diff(edges)
    assert np.all(np.diff(widths) > 0)
    design_bands(rate_hz, edges)


def test_bands_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="0.45 of the sample rate"):
        design_bands(200, (15, 95))
    with pytest.raises(ValueError, match="must rise"):
        design_bands(1000, (100, 60))
    with pytest.raises(ValueError, match="no bands fit"):
        band_edges_hz(100, 40)
