import torch

from cpep_train.checkpoint import build_encoders
from tests.train.toy_corpus import varied


def test_patch_tokens_are_the_strided_convolution_of_the_front_end_and_positions(tiny_recipe):
    torch.manual_seed(0)
    encoder = build_encoders(tiny_recipe)[0].encoder
    window = torch.randn(3, 4, 100)
    expected = encoder.patch(window.abs()).transpose(1, 2) + encoder.position[:, 1:]
    torch.testing.assert_close(encoder.patch_tokens(window), expected)


def test_embeddings_have_unit_length_and_one_width_on_both_sides(tiny_recipe):
    emg, pose = build_encoders(tiny_recipe)
    for embedding in (emg(torch.randn(2, 4, 100)), pose(torch.randn(2, 20, 10))):
        assert embedding.shape == (2, tiny_recipe.d_embed)
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


def test_a_raw_front_end_hears_the_sign_and_a_rectified_one_does_not(tiny_recipe):
    rectified = build_encoders(tiny_recipe)[0].eval()
    raw = build_encoders(varied(tiny_recipe, emg={"front_end": "raw"}))[0].eval()
    raw.load_state_dict(rectified.state_dict())
    window = torch.randn(2, 4, 100)
    with torch.no_grad():
        torch.testing.assert_close(rectified(window), rectified(-window))
        torch.testing.assert_close(rectified(window), raw(window.abs()))
        assert not torch.allclose(raw(window), raw(-window))
