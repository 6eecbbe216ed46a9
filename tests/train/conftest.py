"""Fixtures that the tests of training share."""

from pathlib import Path

import pytest
import torch

from cpep_train.corpus import Corpus
from cpep_train.recipe import Recipe
from tests.conftest import shared_folder
from tests.train import toy_corpus as toy


@pytest.fixture(autouse=True, scope="module")  # before any training in module fixtures
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch) -> None:
    """Draw no curves during a test, because they take a third of a tiny training; module fixtures still draw them."""
    monkeypatch.setattr("cpep_train.training.draw_curves", lambda run: None)


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    return toy.tiny_recipe()


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory) -> Corpus:
    return toy.write_toy_corpus(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="session")
def trained_run(toy_corpus, tmp_path_factory) -> Path:
    """The folder of a run that is accurate on the toy corpus."""
    from cpep_train.training import train

    torch.set_num_threads(1)
    longer = toy.varied(toy.tiny_recipe(), align={"epochs": 30, "learning_rate": 3e-3})
    return shared_folder(tmp_path_factory, "trained", lambda run: train(longer, toy_corpus.folder, run, progress=False))
