import numpy as np
import pytest
import torch
from torch import nn

from cpep_edge.encoder import open_encoder
from cpep_edge.errors import ArtifactError
from cpep_export.fused import FusedEncoder
from cpep_export.lower import lower, require_delegated
from cpep_train.model import Embedder, EncoderConfig
from tests.export.programs import encoder_spec

pytestmark = pytest.mark.executorch


class Cumulative(nn.Module):
    """A module for which XNNPACK has no operator."""

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(window, dim=-1)[:, 0] + 1


@pytest.mark.parametrize("kind", [{"pooling": "cls", "front_end": "rectified"}, {"pooling": "mean"}], ids=str)
def test_xnnpack_takes_the_whole_encoder_and_gives_its_embedding(kind):
    torch.manual_seed(0)
    config = EncoderConfig(4, 100, 10, width=32, n_layers=1, n_heads=2, mlp_ratio=2, **kind)
    module = Embedder(config, 24).eval()
    window = np.random.default_rng(0).normal(size=(4, 100)).astype(np.float32)

    program = lower(FusedEncoder(module).eval(), 4, 100)

    assert (program.n_delegates, program.operators_outside) == (1, ())
    with torch.no_grad():
        expected = module(torch.from_numpy(window)[None])[0].numpy()
    np.testing.assert_allclose(
        open_encoder(program.content, encoder_spec(4, 100, 24)).embed(window), expected, atol=1e-5
    )


def test_operators_outside_are_counted_and_named():
    program = lower(Cumulative(), 2, 16)

    assert any("cumsum" in name for name in program.operators_outside)
    with pytest.raises(ArtifactError, match="cumsum"):
        require_delegated(program)
