from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cpep_train.align import (
    ALIKE_STD,
    LARGEST_TEMPERATURE,
    SMALLEST_TEMPERATURE,
    Alignment,
    Pairs,
    chance,
    info_nce,
    top1,
)
from cpep_train.augmentation import augment
from cpep_train.checkpoint import build_encoders
from cpep_train.recipe import Augmentation, Recipe
from cpep_train.windows import NO_GESTURE, WindowBatch
from tests.train.toy_corpus import varied

Treatment = Literal["negative", "ignored", "positive"]


def _same(gesture: list[int]) -> Tensor:
    return torch.tensor([[one == other for other in gesture] for one in gesture])


def _unit(rng: np.random.Generator) -> NDArray[np.float64]:
    rows = rng.standard_normal((6, 4))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _numpy_info_nce(
    emg: NDArray[np.float64], pose: NDArray[np.float64], temperature: float, gesture: list[int], treatment: Treatment
) -> float:
    """InfoNCE computed pair by pair."""
    similarity = np.exp(emg @ pose.T / temperature)
    total = 0.0
    for table in (similarity, similarity.T):
        for i, row in enumerate(table):
            others = [j for j in range(6) if j != i and gesture[j] == gesture[i]]
            counted = [j for j in range(6) if treatment != "ignored" or j not in others]
            right = [i, *others] if treatment == "positive" else [i]
            total -= np.mean([np.log(row[j] / row[counted].sum()) for j in right])
    return float(total / 12)


@pytest.mark.parametrize("treatment", ["negative", "ignored", "positive"])
def test_the_loss_is_symmetric_info_nce(treatment):
    rng = np.random.default_rng(0)
    emg, pose, gesture = _unit(rng), _unit(rng), [0, 1, 0, 2, 2, 0]
    got = info_nce(torch.tensor(emg), torch.tensor(pose), torch.tensor(0.07), _same(gesture), treatment)
    assert float(got) == pytest.approx(_numpy_info_nce(emg, pose, 0.07, gesture, treatment), rel=1e-6)


def test_top1_counts_right_poses_among_those_asked_about_and_chance_is_blind():
    unit = torch.eye(4)
    pairs = Pairs(unit, unit[[1, 0, 2, 3]], torch.tensor([0, 0, 1, 2]), torch.zeros(4, 2))
    assert top1(pairs, "negative").item() == 0.5
    assert top1(pairs, "positive").item() == 1.0
    assert top1(pairs, "ignored").item() == 1.0  # the pose of the other window of gesture 0 is ignored
    assert chance(pairs.same(), "negative") == pytest.approx(0.25)
    assert chance(pairs.same(), "positive") == pytest.approx((0.5 + 0.5 + 0.25 + 0.25) / 4)
    assert chance(pairs.same(), "ignored") == pytest.approx((1 / 3 + 1 / 3 + 1 / 4 + 1 / 4) / 4)


def test_windows_without_a_gesture_show_the_same_where_their_poses_are_near():
    unit, gesture = torch.eye(5), torch.tensor([0, 0, NO_GESTURE, NO_GESTURE, 1])
    far, near = 2 * ALIKE_STD, 0.5 * ALIKE_STD
    posture = torch.tensor([0.0, far, near, 3 * far, 3 * far + near])[:, None].expand(5, 20)
    same = Pairs(unit, unit, gesture, posture).same()
    # Two named windows are compared by name, whatever their poses; pairs with an unnamed one by pose.
    apart = {(0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4)}
    assert {(i, j) for i in range(5) for j in range(i, 5) if not same[i, j]} == apart
    assert torch.equal(same, same.T)


def test_a_frozen_emg_encoder_leaves_only_projection_and_temperature_to_learn(tiny_recipe):
    frozen = _aligned(tiny_recipe, train_emg=False)
    _step(frozen, tiny_recipe).backward()
    moving = {name for name, p in frozen.named_parameters() if p.grad is not None}
    assert moving == {"log_temperature", "emg.projection.weight", "emg.projection.bias"}


def test_a_trainable_pose_encoder_learns_too(tiny_recipe):
    module = _aligned(tiny_recipe, train_pose=True)
    module.train()
    assert module.pose.training
    _step(module, tiny_recipe).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.pose.parameters())


def _aligned(recipe: Recipe, **changes: object) -> Alignment:
    changed = varied(recipe, align=changes)
    return Alignment(*build_encoders(changed), changed)


def _batch(recipe: Recipe) -> WindowBatch:
    torch.manual_seed(5)
    n_samples = recipe.windows.window_samples
    emg, pose = torch.randn(8, 4, n_samples), torch.randn(8, 20, n_samples // recipe.pose.decimation)
    return WindowBatch(emg, pose, torch.arange(8) % 3, torch.zeros(8, dtype=torch.int64), torch.arange(8))


def _step(module: Alignment, recipe: Recipe) -> Tensor:
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]  # without a trainer there is no log
    return module.training_step(_batch(recipe))


def test_the_pose_encoder_stays_as_it_is_to_the_last_bit(tiny_recipe):
    emg, pose = build_encoders(tiny_recipe)
    before = {name: value.clone() for name, value in pose.state_dict().items()}
    module = Alignment(emg, pose, tiny_recipe)
    module.train()
    assert not pose.training
    assert not any(p.requires_grad for p in pose.parameters())
    optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1.0)
    for _ in range(3):
        optimiser.zero_grad()
        _step(module, tiny_recipe).backward()
        optimiser.step()
    assert all(torch.equal(before[name], value) for name, value in pose.state_dict().items())
    assert all(p.grad is None for p in pose.parameters())


def test_everything_on_the_emg_side_and_the_temperature_learns(tiny_recipe):
    module = Alignment(*build_encoders(tiny_recipe), tiny_recipe)
    _step(module, tiny_recipe).backward()
    still = [name for name, p in module.emg.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []
    assert module.log_temperature.grad is not None
    assert module.log_temperature.grad != 0


def test_the_temperature_starts_as_asked_and_stays_in_its_range(tiny_recipe):
    module = Alignment(*build_encoders(tiny_recipe), tiny_recipe)
    assert module.temperature.item() == pytest.approx(tiny_recipe.align.temperature)
    for log_temperature, limit in ((-9.0, SMALLEST_TEMPERATURE), (9.0, LARGEST_TEMPERATURE)):
        module.log_temperature.data.fill_(log_temperature)
        assert module.temperature.item() == pytest.approx(limit)


def test_augmentation_off_changes_nothing_and_a_turn_only_moves_channels():
    torch.manual_seed(0)
    emg = torch.randn(50, 6, 7)
    torch.testing.assert_close(augment(emg, Augmentation()), emg)
    turned = augment(emg, Augmentation(channel_roll=1))
    turns = {
        next(turn for turn in (-1, 0, 1) if torch.equal(turned[row], emg[row].roll(turn, dims=0))) for row in range(50)
    }
    assert turns == {-1, 0, 1}


def test_gains_scale_windows_and_electrodes_and_dropout_silences():
    torch.manual_seed(0)
    emg = torch.ones(2000, 5, 3)
    window = augment(emg, Augmentation(gain_log_sd=0.3))
    assert torch.equal(window, window[:, :1, :1].expand_as(window))
    assert window[:, 0, 0].log().std().item() == pytest.approx(0.3, rel=0.1)
    channel = augment(emg, Augmentation(channel_gain_log_sd=0.2))
    assert channel[:, :, 0].log().std().item() == pytest.approx(0.2, rel=0.1)
    assert augment(emg, Augmentation(channel_dropout=0.25)).mean().item() == pytest.approx(0.75, abs=0.03)
    assert (augment(emg, Augmentation(noise_sd=0.5)) - emg).std().item() == pytest.approx(0.5, rel=0.05)
