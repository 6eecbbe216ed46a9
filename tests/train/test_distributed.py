import csv
from pathlib import Path

import pytest
import torch

from cpep_edge.errors import ConfigError
from cpep_train.batches import TrainingBatches
from cpep_train.checkpoint import load_checkpoint
from cpep_train.processes import gathered
from cpep_train.training import STAGES
from cpep_train.windows import SessionStore, WindowDataset, fit_statistics
from tests.processes import python
from tests.train.toy_corpus import train_on, write_recipe


def _curve(run: Path, stage: str) -> list[list[float]]:
    with (run / stage / "epochs.csv").open() as file:
        lines = list(csv.DictReader(file))
    return [[float(value) for key, value in line.items() if value and key != "seconds"] for line in lines]


@pytest.mark.slow
def test_two_processes_draw_the_same_loss_curves_and_embed_as_one_process_does(toy_corpus, tiny_recipe, tmp_path):
    file = write_recipe(tiny_recipe, tmp_path / "tiny.toml")
    alone = train_on(tiny_recipe, toy_corpus, tmp_path / "one")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cpep_edge")
    words = ("train", file, "--data", toy_corpus.folder, "--out", tmp_path / "two")
    answer = python(*launcher, *words, timeout=300)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == [str(tmp_path / "two")]
    for stage in STAGES:
        one, two = _curve(tmp_path / "one", stage), _curve(tmp_path / "two", stage)
        torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-3, atol=0)
    together = load_checkpoint(tmp_path / "two")
    windows = torch.randn(20, 4, 100, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # not the weights: some, like the keys' bias, have no effect and drift by rounding
        torch.testing.assert_close(together.emg(windows), alone.emg(windows), rtol=0, atol=5e-3)


def test_the_shares_of_all_processes_are_the_batch_and_none_is_shared(toy_corpus, tiny_recipe, monkeypatch):
    store = SessionStore(toy_corpus, tiny_recipe, fit_statistics(toy_corpus, tiny_recipe))
    dataset = WindowDataset(store, toy_corpus.numbers("train"), with_pose=True)
    whole = [batch.tolist() for batch in TrainingBatches(dataset, 12, seed=0)]
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for number in range(3):
        monkeypatch.setenv("RANK", str(number))
        shares.append([batch.tolist() for batch in TrainingBatches(dataset, 12, seed=0)])
    assert [sorted(sum(parts, [])) for parts in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(ConfigError, match="12 windows does not divide among 5 processes"):
        TrainingBatches(dataset, 12, seed=0)


def test_one_process_alone_gathers_nothing():
    rows = torch.randn(3, 2)
    assert gathered(rows) is rows
