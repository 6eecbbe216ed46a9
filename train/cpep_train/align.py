"""Contrastive alignment: the EMG encoder learns to land where the frozen pose encoder puts the same window's pose.

Symmetric InfoNCE over the windows of a batch with a learnable temperature (Cui et al., arXiv 2509.04699). Only the EMG
encoder, its projection and the temperature move; with the pose encoder moving too, the paper saw training diverge. The
recipe may ask for that nevertheless.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpep_train.augmentation import augment
from cpep_train.model import Embedder
from cpep_train.optimiser import TrainingStage, freeze
from cpep_train.processes import gathered
from cpep_train.recipe import Recipe
from cpep_train.windows import NO_GESTURE, WindowBatch

SMALLEST_TEMPERATURE = 0.01  # as in CLIP: below, a single pair can make the loss explode
LARGEST_TEMPERATURE = 1.0
ALIKE_STD = 0.4  # root mean square over the joints; two holds of a gesture by two people are about so far apart

SameGesture = Literal["negative", "ignored", "positive"]


class Pairs(NamedTuple):
    """The embeddings of one step's whole batch; row by row they belong together."""

    emg: Tensor  # (B, D), unit length
    pose: Tensor  # (B, D), unit length
    gesture: Tensor  # (B,), `NO_GESTURE` for free movement
    posture: Tensor  # (B, J), the mean pose of each window, in standard deviations
    teacher: Tensor | None = None  # (B, D), where one is distilled: what it makes of the same EMG

    def each(self, change: Callable[[Tensor], Tensor]) -> "Pairs":
        """The same with every tensor changed."""
        teacher = None if self.teacher is None else change(self.teacher)
        return Pairs(change(self.emg), change(self.pose), change(self.gesture), change(self.posture), teacher)

    def same(self) -> Tensor:
        """Which windows show the same, (B, B): a gesture or, where either shows none by name, nearly the same pose."""
        named = (self.gesture[:, None] != NO_GESTURE) & (self.gesture[None, :] != NO_GESTURE)
        return torch.where(named, self.gesture[:, None] == self.gesture[None, :], alike(self.posture))


class Alignment(TrainingStage):
    """Trains the EMG embedder against the frozen pose embedder."""

    def __init__(self, emg: Embedder, pose: Embedder, recipe: Recipe) -> None:
        super().__init__(recipe.align, recipe.seed)
        self.recipe = recipe
        self.emg = emg
        self.pose = pose
        self._front_end = recipe.mpf_spec()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(recipe.align.temperature)))
        self.last: Pairs | None = None  # of the last training step, for `cpep_train.monitors`
        self._frozen: list[nn.Module] = []
        if not recipe.align.train_pose:
            self._frozen.append(self.pose)
        if not recipe.align.train_emg:
            self._frozen.append(self.emg.encoder)
        for module in self._frozen:
            freeze(module)

    def train(self, mode: bool = True) -> "Alignment":
        """Switch to training, what is frozen excepted."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    @property
    def temperature(self) -> Tensor:
        """The temperature in force, ()."""
        return self.log_temperature.exp().clamp(SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE)

    def training_step(self, batch: WindowBatch) -> Tensor:
        local = self._pairs(augment(batch.emg, self.recipe.augmentation, self._front_end), batch)
        pairs = local.each(gathered)
        self.last = pairs.each(Tensor.detach)
        loss = self._loss(pairs)
        found = top1(self.last, self.recipe.align.same_gesture)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(pairs.emg))
        self.log("temperature", self.temperature.detach(), on_step=False, on_epoch=True, batch_size=1)
        self.log("top1", found, on_step=False, on_epoch=True, batch_size=len(pairs.emg))
        return loss

    def validation_step(self, batch: WindowBatch) -> None:
        loss = self._loss(self._pairs(batch.emg, batch))
        self.log("validation_loss", loss, batch_size=len(batch.emg))

    def _pairs(self, emg: Tensor, batch: WindowBatch) -> Pairs:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.recipe.align.train_pose):
            pose = self.pose(batch.pose)
        return Pairs(self.emg(emg), pose, batch.stage_index, batch.pose.mean(dim=2))

    def _loss(self, pairs: Pairs) -> Tensor:
        return info_nce(pairs.emg, pairs.pose, self.temperature, pairs.same(), self.recipe.align.same_gesture)


def alike(posture: Tensor) -> Tensor:
    """Which windows' mean poses, (B, J) in standard deviations, lie within `ALIKE_STD` of each other, (B, B)."""
    gap = torch.cdist(posture, posture) / math.sqrt(posture.shape[1])
    return (gap < ALIKE_STD).fill_diagonal_(True)


def info_nce(
    emg: Tensor,
    pose: Tensor,
    temperature: Tensor,
    same: Tensor,
    same_gesture: SameGesture = "negative",
) -> Tensor:
    """Symmetric InfoNCE: each window should find its own pose among the batch's, and each pose its window.

    emg, pose: (B, D), unit length
    same: (B, B), which windows show the same gesture
    same_gesture: what the other windows of a gesture count as: negatives, as published; nothing; or positives, which
        share the target evenly (Khosla et al. 2020)
    """
    logits = emg @ pose.T / temperature  # (B, B)
    right, counted = _right_and_counted(same, same_gesture)
    targets = right.to(logits.dtype)
    targets = targets / targets.sum(dim=1, keepdim=True)  # rows count the same gestures as columns
    logits = logits.masked_fill(~counted, torch.finfo(logits.dtype).min / 2)  # infinity times zero is no number
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def top1(pairs: Pairs, same_gesture: SameGesture) -> Tensor:
    """Share of windows to which a right pose is nearest in the batch, ()."""
    right, counted = _right_and_counted(pairs.same(), same_gesture)
    similarity = pairs.emg.float() @ pairs.pose.float().T  # in half precision the two may differ in type
    nearest = similarity.masked_fill(~counted, -torch.inf).argmax(dim=1, keepdim=True)
    return right.gather(1, nearest).float().mean()


def chance(same: Tensor, same_gesture: SameGesture) -> float:
    """The `top1` of poses drawn at random."""
    right, counted = _right_and_counted(same, same_gesture)
    return (right.sum(dim=1) / counted.sum(dim=1)).mean().item()


def _right_and_counted(same: Tensor, same_gesture: SameGesture) -> tuple[Tensor, Tensor]:
    """Which poses of a batch are right for each window, and which it is asked about, both (B, B)."""
    own = torch.eye(len(same), dtype=torch.bool, device=same.device)
    right = same if same_gesture == "positive" else own
    counted = own | ~same if same_gesture == "ignored" else torch.ones_like(same)
    return right, counted
