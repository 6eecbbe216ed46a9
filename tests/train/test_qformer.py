"""EMBridge's queries: what they see, what they start from, and that the best of them answers."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from cpep_edge.errors import ConfigError
from cpep_edge.pose_index import cosines
from cpep_train.align import similarity
from cpep_train.checkpoint import build_encoders, load_checkpoint, load_weights
from cpep_train.corpus import Corpus
from cpep_train.embridge import BridgedAlignment
from cpep_train.evaluate import best_query, nearest_labels
from cpep_train.model import Embedder
from cpep_train.protocols import evaluate_run
from cpep_train.qformer import QueryEmbedder
from cpep_train.recipe import QFormerSettings, Recipe, load_recipe
from cpep_train.stacking import with_seen_penalty
from cpep_train.training import WEIGHTS_FILE, train

SETTINGS = QFormerSettings(n_queries=3, reconstruction_weight=0.5)


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Recipe) -> Recipe:
    pose = tiny_recipe.pose.model_copy(update={"n_layers": 3})
    align = tiny_recipe.align.model_copy(update={"epochs": 12, "learning_rate": 3e-3})
    return tiny_recipe.model_copy(update={"qformer": SETTINGS, "pose": pose, "align": align})


def _encoders(recipe: Recipe) -> tuple[QueryEmbedder, Embedder]:
    torch.manual_seed(0)
    emg, pose = build_encoders(recipe)
    assert isinstance(emg, QueryEmbedder)
    return emg.eval(), pose.eval()


def _unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    rows = rng.standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_a_window_is_as_near_to_a_reference_as_the_nearest_of_its_queries() -> None:
    rng = np.random.default_rng(0)
    queries, references = _unit(rng, 300, 5, 8), _unit(rng, 40, 8)
    brute = np.array([[max(q @ r for q in window) for r in references] for window in queries])
    flat = queries.reshape(300, -1)
    np.testing.assert_allclose(cosines(flat, references), brute, atol=1e-6)
    in_training = similarity(torch.from_numpy(flat), torch.from_numpy(references))
    np.testing.assert_allclose(in_training.numpy(), brute, atol=1e-6)
    labels = np.arange(40)
    assert np.array_equal(nearest_labels(flat, references, labels, 7), np.argsort(-brute, axis=1)[:, :7])
    won = np.array([max(window, key=lambda q: (references @ q).max()) for window in queries])
    assert np.array_equal(best_query(flat, references), won)


def test_a_penalty_lowers_the_best_query_too() -> None:
    rng = np.random.default_rng(1)
    queries, references = _unit(rng, 6, 4, 8).reshape(6, -1), _unit(rng, 10, 8)
    seen, gesture = np.array([True, False]), np.arange(10) % 2
    examples = SimpleNamespace(seen=seen, references=SimpleNamespace(gesture_index=gesture))
    got = cosines(*with_seen_penalty(examples, queries, references, 0.3))  # type: ignore[arg-type]  # reads no more
    np.testing.assert_allclose(got, cosines(queries, references) - 0.3 * (gesture == 0), atol=1e-6)


def test_the_self_attention_blocks_start_as_those_of_the_auto_encoded_pose_encoder(
    recipe: Recipe, bridged_run: Path
) -> None:
    emg, pose = _encoders(recipe)
    load_weights(bridged_run / "pose-mae" / WEIGHTS_FILE, pose.encoder)
    tokens = torch.randn(2, SETTINGS.n_queries, recipe.pose.width, generator=torch.Generator().manual_seed(1))
    before = pose.encoder.blocks[1](tokens)
    assert not torch.allclose(emg.qformer.blocks[1](tokens), before)

    BridgedAlignment(emg, pose, recipe, SETTINGS)

    torch.testing.assert_close(emg.qformer.blocks[1](tokens), before, rtol=0, atol=0)
    assert all(
        torch.equal(weight, pose.encoder.blocks.state_dict()[name])
        for name, weight in emg.qformer.blocks.state_dict().items()
    )


def test_queries_read_the_emg_and_only_through_cross_attention(recipe: Recipe) -> None:
    emg, _ = _encoders(recipe)
    loud, quiet = torch.randn(1, 4, 100, generator=torch.Generator().manual_seed(2)), torch.zeros(1, 4, 100)
    assert (emg(loud) - emg(quiet)).abs().max() > 1e-3
    with torch.no_grad():
        for crossing in emg.qformer.crossings:
            crossing.out.weight.zero_()
    torch.testing.assert_close(emg(loud), emg(quiet), rtol=0, atol=0)


def test_every_second_block_reads_the_emg_from_the_first(recipe: Recipe) -> None:
    emg, _ = _encoders(recipe)
    assert len(emg.qformer.blocks) == recipe.pose.n_layers == 3
    called: list[object] = []
    for module in (*emg.qformer.crossings, *(block.mlp_in for block in emg.qformer.blocks)):
        module.register_forward_hook(lambda module, inputs, output: called.append(module))
    emg(torch.zeros(1, 4, 100))
    first, second = emg.qformer.crossings
    inner = [block.mlp_in for block in emg.qformer.blocks]
    assert called == [first, inner[0], inner[1], second, inner[2]]


def test_pose_tokens_see_the_queries_alone_and_the_queries_never_see_them(recipe: Recipe) -> None:
    emg, _ = _encoders(recipe)
    m, tokens = SETTINGS.n_queries, torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(3))
    hidden = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(4))
    together = emg.qformer(tokens, hidden)
    torch.testing.assert_close(together[:, :m], emg.qformer(tokens))
    changed = hidden.clone()
    changed[:, 0] *= -1
    again = emg.qformer(tokens, changed)
    torch.testing.assert_close(again[:, m + 1 :], together[:, m + 1 :])
    assert not torch.allclose(again[:, m], together[:, m])
    assert not torch.allclose(emg.qformer(tokens + 1, hidden)[:, m:], together[:, m:])  # the EMG, through the queries


def test_each_query_is_an_embedding_of_unit_length(recipe: Recipe) -> None:
    emg, pose = _encoders(recipe)
    embedding: Tensor = emg(torch.randn(2, 4, 100))
    assert embedding.shape == (2, SETTINGS.n_queries * pose.d_embed)
    torch.testing.assert_close(embedding.view(2, SETTINGS.n_queries, -1).norm(dim=2), torch.ones(2, 3))


@pytest.fixture(scope="module")
def bridged_run(recipe: Recipe, toy_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("bridged") / "run"
    train(recipe, toy_corpus.folder, run, progress=False)
    return run


def test_poses_are_rebuilt_from_what_the_queries_read(bridged_run: Path) -> None:
    with (bridged_run / "align" / "epochs.csv").open() as file:
        loss = [float(line["reconstruction"]) for line in csv.DictReader(file)]
    assert loss[-1] < 0.3 * loss[0]


def test_a_trained_bridge_is_read_back_and_answers_every_protocol(bridged_run: Path, toy_corpus: Corpus) -> None:
    checkpoint = load_checkpoint(bridged_run)
    assert checkpoint.emg.n_queries == SETTINGS.n_queries
    evaluation, material = evaluate_run(bridged_run, checkpoint, toy_corpus.folder)
    assert material.queries.shape[1] == SETTINGS.n_queries * checkpoint.emg.d_embed
    assert {reading.protocol for reading in evaluation.readings} == {"zero-shot", "probe", "enrolment"}
    seen = next(s for s in evaluation.readings[0].scores if (s.users, s.gestures) == ("held-out", "seen"))
    assert seen.balanced_accuracy > 2 * seen.chance


def test_the_variant_goes_over_any_recipe_and_needs_two_blocks() -> None:
    assert load_recipe("cpep+embridge").qformer == QFormerSettings(n_queries=16, reconstruction_weight=0.5)
    assert load_recipe("demo+embridge").align.soft_targets is not None
    with pytest.raises(ConfigError, match="qformer: a pose encoder of one block"):
        load_recipe("demo+embridge", ("pose.n_layers=1",))
    with pytest.raises(ConfigError, match="qformer: its queries read the whole window"):
        load_recipe("demo+embridge+streaming")
