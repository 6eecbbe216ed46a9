import torch
from torch import Tensor

from cpep_train.checkpoint import build_encoders
from cpep_train.mae import MaskedAutoencoder
from cpep_train.model import Encoder, patches
from cpep_train.recipe import Recipe

P, N = 20, 5


def _module(recipe: Recipe) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(build_encoders(recipe)[0].encoder, recipe.emg_mae, "emg", seed=0).eval()


def _window() -> Tensor:
    return torch.randn(3, 4, P * N, generator=torch.Generator().manual_seed(1))


def _order() -> Tensor:
    return torch.tensor([[2, 0, 1, 3, 4], [4, 3, 2, 1, 0], [0, 2, 4, 1, 3]])


def test_half_of_the_tokens_are_masked(tiny_recipe):
    assert _module(tiny_recipe).n_masked == round(N / 2)


def test_patches_are_the_samples_of_all_channels_in_a_slice_of_time():
    window = _window()
    cut = patches(window, P)
    for number in range(N):
        expected = window[1, :, number * P : (number + 1) * P].reshape(-1)
        torch.testing.assert_close(cut[1, number], expected)


def test_the_encoder_sees_nothing_of_a_masked_patch(tiny_recipe):
    module, seen = _module(tiny_recipe), []
    mix = module.encoder.mix

    def spy(tokens: Tensor) -> Tensor:
        seen.append(mix(tokens))
        return seen[-1]

    module.encoder.mix = spy  # type: ignore[method-assign]  # records the tokens without changing them
    window = _window()
    module.loss(window, _order())
    changed = window.clone()
    changed[0, :, 2 * P : 3 * P] += 5  # masked in window 0
    changed[1, :, 4 * P : 5 * P] += 5  # masked in window 1
    module.loss(changed, _order())
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)
    changed[0, :, 4 * P : 5 * P] += 5  # visible
    module.loss(changed, _order())
    assert not torch.allclose(seen[0][0], seen[2][0])


def test_the_loss_is_the_squared_error_of_masked_patches_alone(tiny_recipe):
    module, order, window = _module(tiny_recipe), _order(), _window()
    encoder: Encoder = module.encoder
    visible = order[:, 2:].sort(dim=1).values
    tokens = torch.stack([encoder.patch_tokens(window)[row, visible[row]] for row in range(3)])
    predicted = module.decoder(encoder.mix(tokens), visible)
    errors = [
        (predicted[row, place] - window[row, :, place * P : (place + 1) * P].abs().reshape(-1)).square().mean()
        for row in range(3)
        for place in order[row, :2].tolist()
    ]
    torch.testing.assert_close(module.loss(window, order), torch.stack(errors).mean())


def test_the_cls_token_learns(tiny_recipe):
    module = _module(tiny_recipe)
    module.loss(_window(), _order()).backward()
    assert module.encoder.cls.grad.abs().sum() > 0
