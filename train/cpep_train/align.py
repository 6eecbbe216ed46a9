"""Contrastive alignment: train the EMG encoder to embed each window where the frozen pose encoder embeds its pose.

Symmetric InfoNCE over the windows of a batch with a learnable temperature (Cui et al., arXiv 2509.04699). Only the EMG
encoder, its projection and the temperature are trained. The paper reports that training diverges when the pose encoder
is trained too; a recipe can still ask for it with `train_pose`.
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
ALIKE_STD = 0.4  # RMS over the joints; about the distance between two people's holds of one gesture

SameGesture = Literal["negative", "ignored", "positive"]


class Pairs(NamedTuple):
    """The embeddings of one step's whole batch; row i of each tensor belongs to window i."""

    emg: Tensor  # (B, D), unit length
    pose: Tensor  # (B, D), unit length
    gesture: Tensor  # (B,), `NO_GESTURE` for free movement
    posture: Tensor  # (B, J), the mean pose of each window, in standard deviations
    teacher: Tensor | None = None  # (B, D), with distillation: the teacher's embeddings of the same EMG

    def each(self, change: Callable[[Tensor], Tensor]) -> "Pairs":
        """Apply a function to every tensor."""
        teacher = None if self.teacher is None else change(self.teacher)
        return Pairs(change(self.emg), change(self.pose), change(self.gesture), change(self.posture), teacher)

    def same(self) -> Tensor:
        """Which pairs of windows match, (B, B): by gesture or, where either has no gesture, by nearly equal pose."""
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
        """Switch to training mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    @property
    def temperature(self) -> Tensor:
        """The current temperature, ()."""
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
    """Symmetric InfoNCE: match each window to its own pose among those of the batch, and each pose to its window.

    emg, pose: (B, D), unit length
    same: (B, B), which windows show the same gesture
    same_gesture: how other windows of the same gesture count: as negatives, as published; not at all; or as
        positives, which share the target evenly (Khosla et al. 2020)
    """
    logits = emg @ pose.T / temperature  # (B, B)
    right, counted = _right_and_counted(same, same_gesture)
    targets = right.to(logits.dtype)
    targets = targets / targets.sum(dim=1, keepdim=True)  # `same` is symmetric, so this serves rows and columns
    logits = logits.masked_fill(~counted, torch.finfo(logits.dtype).min / 2)  # not -inf: infinity times zero is NaN
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def top1(pairs: Pairs, same_gesture: SameGesture) -> Tensor:
    """Share of windows whose nearest pose in the batch is a correct one, ()."""
    right, counted = _right_and_counted(pairs.same(), same_gesture)
    similarity = pairs.emg.float() @ pairs.pose.float().T  # in half precision the two may differ in type
    nearest = similarity.masked_fill(~counted, -torch.inf).argmax(dim=1, keepdim=True)
    return right.gather(1, nearest).float().mean()


def chance(same: Tensor, same_gesture: SameGesture) -> float:
    """The `top1` that poses drawn at random would reach."""
    right, counted = _right_and_counted(same, same_gesture)
    return (right.sum(dim=1) / counted.sum(dim=1)).mean().item()


def _right_and_counted(same: Tensor, same_gesture: SameGesture) -> tuple[Tensor, Tensor]:
    """Which poses of a batch are correct for each window, and which are counted at all, both (B, B)."""
    own = torch.eye(len(same), dtype=torch.bool, device=same.device)
    right = same if same_gesture == "positive" else own
    counted = own | ~same if same_gesture == "ignored" else torch.ones_like(same)
    return right, counted
