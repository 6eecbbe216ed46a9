"""The streaming encoder: which tokens a token attends to, and that streams and windows give the same embeddings."""

import pytest
import torch
from torch.nn import functional as F

from cpep_edge.errors import ConfigError
from cpep_train.model import EncoderConfig, StreamingAttention, StreamingEncoder
from cpep_train.recipe import load_recipe

CONFIG = EncoderConfig(3, 120, 10, width=16, n_layers=2, n_heads=2, mlp_ratio=2, block_patches=2)
N_SIGNAL = 200


@pytest.fixture(scope="module")
def encoder() -> StreamingEncoder:
    torch.manual_seed(0)
    module = StreamingEncoder(CONFIG).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module


@pytest.fixture(scope="module")
def signal() -> torch.Tensor:
    return torch.randn(2, 3, N_SIGNAL, generator=torch.Generator().manual_seed(1))


def test_all_layers_together_see_no_more_than_the_window():
    assert (CONFIG.n_context, CONFIG.n_blocks_seen, CONFIG.block_samples) == (3, 5, 20)
    assert CONFIG.n_blocks_seen * CONFIG.block_samples <= CONFIG.window_samples


@torch.no_grad()
def test_a_stream_gives_what_each_of_its_windows_gives(encoder, signal):
    streamed = encoder.stream(signal)

    ends = range(CONFIG.n_blocks_seen * CONFIG.block_samples, N_SIGNAL + 1, CONFIG.block_samples)
    windows = torch.stack([encoder(signal[..., max(0, end - 120) : end]) for end in ends], dim=1)
    torch.testing.assert_close(streamed, windows, atol=1e-5, rtol=0)


def test_the_newest_block_is_decided_by_the_blocks_seen_and_by_nothing_else(encoder, signal):
    signal = signal.clone().requires_grad_()
    encoder.stream(signal)[:, -2].square().sum().backward()

    felt = signal.grad.abs().sum(dim=(0, 1)).view(-1, CONFIG.block_samples).sum(dim=1) > 0
    newest = len(felt) - 1
    assert felt.tolist() == [newest - CONFIG.n_blocks_seen <= block < newest for block in range(len(felt))]


@torch.no_grad()
def test_attention_is_that_of_all_tokens_under_a_mask_of_blocks():
    """Compared with an independent implementation: attention over all tokens, with minus infinity where masked."""
    torch.manual_seed(0)
    attention, n, b = StreamingAttention(CONFIG).eval(), 14, CONFIG.block_patches
    attention.distance.normal_()
    tokens = torch.randn(1, n, CONFIG.width)
    q, k, v = attention.qkv(tokens).view(n, 3, 2, 8).permute(1, 2, 0, 3)
    place = torch.arange(n)
    behind = place[:, None] // b - place // b
    bias = attention.distance[:, (place[:, None] - place + b - 1).clamp(0, attention.distance.shape[1] - 1)]
    masked = bias.masked_fill((behind < 0) | (behind >= CONFIG.n_context), -torch.inf)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=masked)
    expected = attention.out(mixed.transpose(0, 1).reshape(1, n, -1))

    whole_contexts = expected[:, (CONFIG.n_context - 1) * b :]

    torch.testing.assert_close(attention(tokens), whole_contexts, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("recipe", "setting", "said"),
    [
        ("cpep+streaming", 'align.emg_start="mae"', "masked auto-encoding needs the whole window"),
        ("cpep+streaming", "emg.block_patches=3", "80 patches are not more than 4 whole blocks of 3"),
        ("demo+streaming", "emg.block_patches=5", "10 patches are not more than 2 whole blocks of 5"),
    ],
)
def test_a_recipe_that_cannot_stream_is_refused(recipe, setting, said):
    with pytest.raises(ConfigError, match=said):
        load_recipe(recipe, [setting])
