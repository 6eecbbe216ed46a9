"""The streaming program gives the trained module's embeddings of the same windows, on both runtimes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cpep_edge.encoder import open_encoder
from cpep_edge.errors import ArtifactError, ConfigError
from cpep_edge.manifest import StreamSpec
from cpep_export.fused import FusedEncoder
from cpep_export.lower import Program, lower
from cpep_export.quantise import quantise
from cpep_export.streaming_graph import StreamingStep
from cpep_train.model import Embedder, EncoderConfig
from tests.export.programs import encoder_spec

pytestmark = pytest.mark.executorch

CONFIG = EncoderConfig(3, 120, 10, width=32, n_layers=1, n_heads=2, mlp_ratio=2, front_end="rectified", block_patches=2)
SPEC = encoder_spec(3, 120, 24, stream=StreamSpec(block_samples=CONFIG.block_samples, n_blocks=CONFIG.n_blocks_seen))


def embedder_of(config: EncoderConfig) -> Embedder:
    """An embedder with random parameters, because zeros and ones, as at initialisation, could hide mistakes."""
    torch.manual_seed(0)
    embedder = Embedder(config, 24).eval()
    with torch.no_grad():
        for parameter in embedder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return embedder


@pytest.fixture(scope="module")
def module() -> Embedder:
    """One layer, because lowering takes seconds per layer."""
    return embedder_of(CONFIG)


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 400)).astype(np.float32)


@pytest.fixture(scope="module")
def windows(signal) -> np.ndarray:
    """Windows one hop apart, then after jumps, (n, C, T)."""
    ends = (*range(120, 261, 20), 330, 350, 390)
    return np.stack([signal[:, end - 120 : end] for end in ends])


@pytest.fixture(scope="module")
def expected(module, windows) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(windows)).numpy()


@pytest.fixture(scope="module")
def fp32(module) -> Program:
    step = StreamingStep(module).eval()
    return lower(step, 3, step.block_samples, step.fresh_state())


@pytest.fixture(scope="module")
def int8(module, signal) -> Program:
    step = StreamingStep(module).eval()
    calibration = np.stack([signal[:, start : start + 120] for start in range(0, 280, 10)])
    return lower(quantise(step, "int8", calibration), 3, step.block_samples, step.fresh_state())


@pytest.mark.parametrize("n_layers", [1, 3])
def test_step_by_step_the_rewritten_module_gives_what_the_trained_one_gives(n_layers, windows):
    module = embedder_of(replace(CONFIG, n_layers=n_layers))
    step = StreamingStep(module).eval()

    with torch.no_grad():
        expected = module(torch.from_numpy(windows))
        got = torch.cat([step.embed(window[None]) for window in torch.from_numpy(windows)])

    assert (expected[0] @ expected[-1]) < 0.9999  # embeddings differ between windows
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("native", [True, False])
def test_the_program_streams_what_the_module_gives_for_whole_windows(fp32, native, library, windows, expected):
    encoder = open_encoder(fp32.content, SPEC, library=library if native else None)

    assert (fp32.n_delegates, fp32.operators_outside) == (1, ())
    np.testing.assert_allclose([encoder.embed(window) for window in windows], expected, atol=1e-5)


@pytest.mark.slow
def test_the_int8_program_streams_too(int8, windows, expected):
    encoder = open_encoder(int8.content, SPEC)

    got = np.stack([encoder.embed(window) for window in windows])

    assert (int8.n_delegates, int8.operators_outside) == (1, ())
    assert np.sum(got * expected, axis=1).min() > 0.99
    assert np.abs(got - expected).max() > 1e-4  # it was really quantised


@pytest.mark.parametrize("native", [True, False])
def test_a_program_with_a_state_is_not_taken_for_one_without(fp32, native, library):
    plain = SPEC.model_copy(update={"stream": None, "window_samples": CONFIG.block_samples})

    with pytest.raises(ArtifactError, match="whether it streams"):
        open_encoder(fp32.content, plain, library=library if native else None)


def test_what_needs_whole_windows_says_so(module):
    with pytest.raises(ConfigError, match="a streaming encoder runs on Linux only"):
        FusedEncoder(module)
