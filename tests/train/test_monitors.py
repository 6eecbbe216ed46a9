from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cpep_edge.errors import TrainingError
from cpep_train import training
from cpep_train.align import Alignment, Pairs
from cpep_train.corpus import Corpus
from cpep_train.epochs import EpochLog
from cpep_train.mae import MaskedAutoencoder
from cpep_train.monitors import effective_rank, spread_of
from cpep_train.recipe import Recipe
from cpep_train.training import train
from cpep_train.windows import WindowBatch
from tests.train.toy_corpus import varied


def test_rank_and_spread_of_known_clouds():
    generator = torch.Generator().manual_seed(0)
    sphere = F.normalize(torch.randn(5000, 6, generator=generator), dim=1)
    assert effective_rank(sphere) == pytest.approx(6, rel=0.01)
    assert spread_of(sphere) == pytest.approx(1, abs=0.01)
    line = F.normalize(torch.ones(50, 6) + torch.linspace(-0.1, 0.1, 50)[:, None] * torch.eye(6)[0], dim=1)
    assert effective_rank(line) < 1.2
    point = F.normalize(torch.ones(50, 6), dim=1)
    assert spread_of(point) == pytest.approx(0, abs=1e-6)


def _run_with(recipe: Recipe, corpus: Corpus, out: Path, **align: object) -> None:
    train(varied(recipe, align=align), corpus.folder, out, progress=False)


def test_a_loss_that_is_no_number_stops_the_stage(toy_corpus, tiny_recipe, tmp_path, monkeypatch):
    sound = MaskedAutoencoder.loss

    def broken(self: MaskedAutoencoder, window: Tensor, order: Tensor) -> Tensor:
        loss = sound(self, window, order)
        return loss * torch.nan if self.global_step == 3 else loss

    monkeypatch.setattr(MaskedAutoencoder, "loss", broken)
    said = "stage emg-mae diverged: its loss was not a finite number at step 4 in epoch 1"
    with pytest.raises(TrainingError, match=said):
        train(tiny_recipe, toy_corpus.folder, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "emg-mae" / "weights.safetensors").exists()


@pytest.mark.parametrize("side", ["emg", "pose"])
def test_embeddings_that_shrink_to_a_line_stop_the_stage(side, toy_corpus, tiny_recipe, tmp_path, monkeypatch):
    sound = Alignment._pairs

    def broken(self: Alignment, emg: Tensor, batch: WindowBatch) -> Pairs:
        pairs = sound(self, emg, batch)
        line = torch.zeros_like(pairs.emg).index_fill(1, torch.tensor(0), 1.0)
        return pairs._replace(**{side: F.normalize(1 + getattr(pairs, side) * line, dim=1)})

    monkeypatch.setattr(Alignment, "_pairs", broken)
    with pytest.raises(TrainingError, match=f"stage align collapsed in epoch 1: the {side} embeddings"):
        train(tiny_recipe, toy_corpus.folder, tmp_path / "run", progress=False)


def test_an_alignment_at_chance_is_stopped_and_one_that_learns_is_not(toy_corpus, tiny_recipe, tmp_path):
    _run_with(tiny_recipe, toy_corpus, tmp_path / "sound", epochs=5)
    with pytest.raises(TrainingError, match=r"learnt nothing in 3 epochs: .* by chance it is 6\.25%"):
        _run_with(tiny_recipe, toy_corpus, tmp_path / "run", epochs=5, learning_rate=1e-12)


def test_the_log_notes_rank_and_top1_of_every_epoch(toy_corpus, tiny_recipe, tmp_path, monkeypatch):
    seen = list[dict[str, float]]()

    class Noting(EpochLog):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen.append({key: float(value) for key, value in trainer.callback_metrics.items()})
            super().on_train_epoch_end(trainer, pl_module)

    monkeypatch.setattr(training, "EpochLog", Noting)
    train(tiny_recipe, toy_corpus.folder, tmp_path / "run", progress=False)
    assert all(1 <= epoch["pose_rank"] <= 16 and 0 <= epoch["top1"] <= 1 for epoch in seen[-2:])
    text = (tmp_path / "run" / "align" / "epochs.csv").read_text().splitlines()
    assert text[0] == "epoch,loss,validation_loss,temperature,reconstruction,top1,emg_rank,pose_rank,seconds"
    assert f"{seen[-1]['emg_rank']:.6g}" in text[-1]
