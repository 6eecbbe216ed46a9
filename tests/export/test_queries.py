"""An encoder with a Q-Former on the device: all its queries leave the program, and the best of them votes."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from cpep_edge.bundle import Bundle
from cpep_edge.errors import ArtifactError, ConfigError
from cpep_edge.pose_index import vote
from cpep_edge.recogniser import Recogniser
from cpep_edge.verify import verify_bundle
from cpep_export.chip_program import chip_program
from cpep_export.package import export_bundle
from cpep_export.shaped import ShapedEncoder
from cpep_train.evaluate import torch_embedding
from cpep_train.model import EncoderConfig
from cpep_train.qformer import QueryEmbedder
from cpep_train.recipe import QFormerSettings

if TYPE_CHECKING:
    from cpep_train.checkpoint import Checkpoint

pytestmark = pytest.mark.executorch

N_QUERIES = 3


def embedder(emg: EncoderConfig, pose: EncoderConfig) -> QueryEmbedder:
    """One in which nothing is zero or one, as in a freshly made one."""
    torch.manual_seed(0)
    module = QueryEmbedder(emg, pose, N_QUERIES, pose.width).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: "Checkpoint") -> "Checkpoint":
    """The toy with queries that were never trained: what they answer is arbitrary, and must stay the same."""
    settings = QFormerSettings(n_queries=N_QUERIES, reconstruction_weight=1.0)
    recipe = tiny_checkpoint.recipe.model_copy(update={"qformer": settings})
    return replace(tiny_checkpoint, recipe=recipe, emg=embedder(recipe.emg_config(), recipe.pose_config()))


@pytest.fixture(scope="module")
def bundle(checkpoint: "Checkpoint", tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("queries") / "queries.cpep"
    export_bundle(checkpoint, tiny_corpus, path, quant="int8", pose_encoder=False, force=True)
    return path


@pytest.mark.parametrize("n_layers", [2, 3])
def test_shaped_queries_are_those_of_the_module(n_layers: int) -> None:
    pose = EncoderConfig(20, 10, 5, width=24, n_layers=n_layers, n_heads=4, mlp_ratio=2)
    module = embedder(EncoderConfig(4, 100, 10, width=32, n_layers=2, n_heads=2, mlp_ratio=2), pose)
    loudness = torch.logspace(-1, 1, 8)[:, None, None]
    windows = loudness * torch.randn(8, 4, 100, generator=torch.Generator().manual_seed(1))
    shaped = ShapedEncoder(module).eval()

    with torch.no_grad():
        expected = module(windows)
        got = torch.cat([shaped(window[None]) for window in windows])

    assert (expected[0] - expected[-1]).abs().max() > 0.01  # the inputs are told apart at all
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_bundle_of_queries_is_one_int8_delegate_and_its_golden_inputs_hold(bundle: Path) -> None:
    encoder = Bundle(bundle).manifest.encoder

    assert (encoder.n_queries, encoder.quantisation) == (N_QUERIES, "int8")
    assert (encoder.n_delegates, encoder.n_operators_outside) == (1, 0)
    assert verify_bundle(bundle).smallest_cosine > 0.9999


def test_the_device_votes_as_the_best_query_does(bundle: Path, checkpoint: "Checkpoint") -> None:
    recogniser = Recogniser(Bundle(bundle))
    index, k = recogniser.index, recogniser.manifest.decision.k
    window = np.random.default_rng(0).normal(size=(4, 200)).astype(np.float32)

    got = recogniser.recognise(window)

    expected = torch_embedding(checkpoint.emg)(window[None])[0]
    queries = got.embedding.reshape(N_QUERIES, -1)
    assert np.sum(queries * expected.reshape(N_QUERIES, -1), axis=1).min() > 0.99
    best = np.array([max(float(query @ vector) for query in queries) for vector in index.vectors])
    nearest = np.argsort(-best)[:k]
    by_hand = vote(index.gesture_index[nearest], best[nearest].astype(np.float32))
    assert (got.vote.gesture_index, got.vote.share) == (by_hand.gesture_index, by_hand.share)
    assert got.vote.similarity == pytest.approx(by_hand.similarity, abs=1e-5)


def test_a_manifest_with_another_number_of_queries_is_refused(bundle: Path) -> None:
    whole = Bundle(bundle)
    encoder = whole.manifest.encoder.model_copy(update={"n_queries": N_QUERIES + 1})
    whole.manifest = whole.manifest.model_copy(update={"encoder": encoder})

    with pytest.raises(ArtifactError, match="the encoder program's output"):
        Recogniser(whole)


def test_a_chip_refuses_queries_in_one_sentence(checkpoint: "Checkpoint") -> None:
    with pytest.raises(ConfigError, match="gives 3; train without"):
        chip_program("cortex-m", None, checkpoint, None, None, None)  # type: ignore[arg-type]  # refused before any use
