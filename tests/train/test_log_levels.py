"""The front end of log levels: what it sees, what it trains, and that export says it cannot have it."""

import math
from dataclasses import replace

import pytest
import torch

from cpep_edge.errors import ConfigError
from cpep_export.shaped import ShapedEncoder
from cpep_train.mae import MaskedAutoencoder
from cpep_train.model import Embedder, Encoder, EncoderConfig, front_end
from cpep_train.recipe import Recipe, load_recipe

CONFIG = EncoderConfig(3, 100, 20, width=16, n_layers=1, n_heads=2, front_end="log-levels", level_samples=5)


@pytest.fixture
def window() -> torch.Tensor:
    return torch.randn(4, 3, 100, generator=torch.Generator().manual_seed(0))


def test_a_gain_is_an_offset_and_silence_is_finite(window: torch.Tensor) -> None:
    encoder = Encoder(CONFIG)
    loud, louder = front_end(100 * window, encoder.config), front_end(300 * window, encoder.config)
    assert loud.shape == (4, 3, 20)
    torch.testing.assert_close(louder - loud, torch.full_like(loud, math.log(3)), atol=0.01, rtol=0)
    assert torch.isfinite(front_end(torch.zeros_like(window), encoder.config)).all()


def test_a_level_is_the_mean_of_its_own_samples_alone(window: torch.Tensor) -> None:
    encoder = Encoder(CONFIG)
    changed = window.clone()
    changed[:, 1, 10:15] *= 2  # the third level of the second channel
    moved = (front_end(changed, encoder.config) != front_end(window, encoder.config)).any(dim=0)
    assert moved.nonzero().tolist() == [[1, 2]]


def test_rectified_levels_are_the_means_of_rectified_samples(window: torch.Tensor) -> None:
    levels = front_end(window, replace(CONFIG, front_end="rectified"))
    torch.testing.assert_close(levels, window.abs().view(4, 3, 20, 5).mean(dim=-1))


def test_the_masked_autoencoder_fills_in_levels(window: torch.Tensor) -> None:
    settings = load_recipe("demo").emg_mae
    module = MaskedAutoencoder(Encoder(CONFIG), settings, "emg", seed=0)
    order = torch.arange(5).repeat(4, 1)
    with_noise = window.clone()
    with_noise[:, :, :40] = 0  # the masked patches: a target, and no input
    tokens = module.encoder.patch_tokens(window)
    assert tokens.shape == (4, 5, 16)
    module.n_masked = 2
    assert module.loss(window, order) != module.loss(with_noise, order)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"level_samples": 7}, "emg.level_samples: a patch is no whole number of levels of 7"),
        ({"front_end": "raw"}, 'emg.level_samples: front_end "raw" has no levels'),
    ],
)
def test_a_recipe_whose_levels_do_not_fit_is_refused(change: dict[str, object], says: str) -> None:
    values = load_recipe("3dc-levels").model_dump()
    values["emg"].update(change)
    with pytest.raises(ValueError, match=says):
        Recipe.model_validate(values)


def test_export_says_that_it_cannot_have_it() -> None:
    with pytest.raises(ConfigError, match="log-levels.* cannot be exported yet"):
        ShapedEncoder(Embedder(CONFIG, 8))
