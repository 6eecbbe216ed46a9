import pytest
import torch

from cpep_export.fused import FusedEncoder
from cpep_train.model import Embedder, EncoderConfig

SIZES = {
    "cls": (EncoderConfig(4, 100, 10, width=32, n_layers=2, n_heads=2, mlp_ratio=2), 24),
    "cls, one layer, no projection": (EncoderConfig(3, 60, 20, width=16, n_layers=1, n_heads=4), None),
    "rectified": (EncoderConfig(4, 100, 10, width=32, n_layers=2, n_heads=2, mlp_ratio=2, front_end="rectified"), 24),
    "levels": (
        EncoderConfig(4, 100, 10, width=32, n_layers=2, n_heads=2, mlp_ratio=2, front_end="rectified", level_samples=5),
        24,
    ),
    "mean": (EncoderConfig(4, 100, 10, width=32, n_layers=3, n_heads=4, pooling="mean"), 24),
    "mean, no projection": (EncoderConfig(2, 40, 10, width=24, n_layers=2, n_heads=2, pooling="mean"), None),
    "paper": (EncoderConfig(16, 4000, 50, width=256, n_layers=4, n_heads=4), 256),
}


def embedder(size: str) -> Embedder:
    """An embedder with random parameters, because zeros and ones, as at initialisation, could hide mistakes."""
    torch.manual_seed(0)
    module = Embedder(*SIZES[size]).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module


def windows(module: Embedder, n: int = 8) -> torch.Tensor:
    config = module.encoder.config
    loudness = torch.logspace(-1, 1, n)[:, None, None]
    return loudness * torch.randn(
        n, config.n_channels, config.window_samples, generator=torch.Generator().manual_seed(1)
    )


@pytest.mark.parametrize("size", SIZES)
def test_the_fused_encoder_computes_what_the_module_computes(size):
    module = embedder(size)
    fused = FusedEncoder(module).eval()

    with torch.no_grad():
        expected = module(windows(module))
        got = torch.cat([fused(window[None]) for window in windows(module)])

    assert (expected[0] @ expected[-1]).item() < 0.9999  # embeddings differ between inputs
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", ["cls", "mean"])
def test_the_fused_encoder_embeds_silence_at_unit_length(size):
    module = embedder(size)

    with torch.no_grad():
        embedding = FusedEncoder(module).eval()(torch.zeros_like(windows(module, 1)))

    assert embedding.norm().item() == pytest.approx(1, abs=1e-5)


def test_the_fused_encoder_runs_one_row_through_the_last_block():
    fused = FusedEncoder(embedder("cls")).eval()
    rows = []
    for block in fused.blocks:
        block.mlp.inner.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[1]))

    with torch.no_grad():
        fused(torch.zeros(1, 4, 100))

    assert rows == [11, 1]
