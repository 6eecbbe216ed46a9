"""Distillation: a small encoder learns from a trained one."""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from cpep_edge.errors import ConfigError
from cpep_train.checkpoint import Checkpoint, load_checkpoint
from cpep_train.distil import distillation_loss
from cpep_train.evaluate import embed_emg, evaluation_set, torch_embedding
from cpep_train.recipe import Distillation, Recipe
from cpep_train.training import train
from tests.train.toy_corpus import train_on, varied, write_toy_corpus

SETTINGS = Distillation(temperature=0.1, neighbour_weight=0.5)


def _unit(rng: np.random.Generator) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((6, 4))), dim=1)


def _student_recipe(recipe: Recipe, **align: object) -> Recipe:
    more = {"distillation": SETTINGS, "emg_start": "random", "epochs": 12, "learning_rate": 5e-3, **align}
    return varied(recipe, emg={"width": 8}, align=more)


@pytest.fixture(scope="module")
def student(trained_run, toy_corpus, tmp_path_factory) -> Checkpoint:
    recipe = _student_recipe(load_checkpoint(trained_run).recipe)
    return train_on(recipe, toy_corpus, tmp_path_factory.mktemp("student") / "run", teacher=trained_run)


def test_the_loss_is_the_lost_cosine_and_the_divergence_of_neighbours():
    rng = np.random.default_rng(0)
    student, teacher, pose = _unit(rng), _unit(rng), _unit(rng)
    cosine = np.mean([a @ b for a, b in zip(student.numpy(), teacher.numpy(), strict=True)])
    guessed, right = (softmax(emg.numpy() @ pose.numpy().T / 0.1, axis=1) for emg in (student, teacher))
    expected = 1 - cosine + 0.5 * rel_entr(right, guessed).sum(axis=1).mean()

    assert float(distillation_loss(student, teacher, pose, SETTINGS)) == pytest.approx(expected, rel=1e-6)
    assert float(distillation_loss(teacher, teacher, pose, SETTINGS)) == pytest.approx(0, abs=1e-9)


def test_a_student_lands_near_its_teacher_on_people_whom_neither_saw(student, trained_run, toy_corpus):
    teacher = load_checkpoint(trained_run)
    evaluation = evaluation_set(teacher, toy_corpus)
    taught, learnt = (embed_emg(torch_embedding(c.emg), evaluation.queries) for c in (teacher, student))
    asked = evaluation.queries.held_out_user & evaluation.seen[evaluation.queries.gesture_index]

    assert np.mean(np.sum(taught * learnt, axis=1)[asked]) > 0.9


def test_a_student_has_the_poses_of_its_teacher(student, trained_run):
    theirs = load_checkpoint(trained_run).pose.state_dict()

    assert all(torch.equal(value, theirs[name]) for name, value in student.pose.state_dict().items())


def test_a_recipe_that_distils_asks_for_a_teacher_and_no_other_takes_one(
    trained_run, toy_corpus, tiny_recipe, tmp_path
):
    with pytest.raises(ConfigError, match="name it with --teacher RUN"):
        train(_student_recipe(tiny_recipe), toy_corpus.folder, tmp_path / "a", progress=False)
    with pytest.raises(ConfigError, match="distils nothing"):
        train(tiny_recipe, toy_corpus.folder, tmp_path / "b", progress=False, teacher=trained_run)


def test_a_teacher_with_other_poses_or_other_data_is_refused_before_a_folder_is_made(
    trained_run, toy_corpus, tiny_recipe, tmp_path
):
    recipe, out = _student_recipe(load_checkpoint(trained_run).recipe), tmp_path / "run"
    other_poses = varied(recipe, pose={"width": 8})
    with pytest.raises(ConfigError, match="pose is not that of its teacher"):
        train(other_poses, toy_corpus.folder, out, progress=False, teacher=trained_run)
    other_data = write_toy_corpus(tmp_path / "other", n_samples=600)
    with pytest.raises(ConfigError, match="needs the data of its teacher"):
        train(recipe, other_data.folder, out, progress=False, teacher=trained_run)
    assert not out.exists()
