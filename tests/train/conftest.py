"""What the tests of training share."""

import pytest
import torch

from cpep_train.corpus import Corpus
from cpep_train.recipe import Recipe
from tests.train import toy_corpus as toy


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    return toy.tiny_recipe()


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return toy.write_toy_corpus(tmp_path_factory.mktemp("data") / "toy")
