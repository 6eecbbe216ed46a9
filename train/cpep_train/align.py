"""Contrastive alignment: the EMG encoder learns to land where the frozen pose encoder puts the same window's pose.

Symmetric InfoNCE over the windows of a batch with a learnable temperature (Cui et al., arXiv 2509.04699). Only the EMG
encoder, its projection and the temperature move; with the pose encoder moving too, the paper saw training diverge.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpep_train.augmentation import augment
from cpep_train.model import Embedder
from cpep_train.optimiser import TrainingStage, freeze
from cpep_train.recipe import Recipe
from cpep_train.windows import WindowBatch

SMALLEST_TEMPERATURE = 0.01  # as in CLIP: below, a single pair can make the loss explode
LARGEST_TEMPERATURE = 1.0


class Alignment(TrainingStage):
    """Trains the EMG embedder against the frozen pose embedder."""

    def __init__(self, emg: Embedder, pose: Embedder, recipe: Recipe) -> None:
        super().__init__(recipe.align, recipe.seed)
        self.recipe = recipe
        self.emg = emg
        self.pose = pose
        self.log_temperature = nn.Parameter(torch.tensor(math.log(recipe.align.temperature)))
        freeze(self.pose)

    def train(self, mode: bool = True) -> "Alignment":
        """Switch to training, the pose encoder excepted."""
        super().train(mode)
        self.pose.eval()
        return self

    @property
    def temperature(self) -> Tensor:
        """The temperature in force, ()."""
        return self.log_temperature.exp().clamp(SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE)

    def training_step(self, batch: WindowBatch) -> Tensor:
        loss = self._loss(augment(batch.emg, self.recipe.augmentation), batch)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.emg))
        self.log("temperature", self.temperature.detach(), on_step=False, on_epoch=True, batch_size=1)
        return loss

    def validation_step(self, batch: WindowBatch) -> None:
        self.log("validation_loss", self._loss(batch.emg, batch), batch_size=len(batch.emg))

    def _loss(self, emg: Tensor, batch: WindowBatch) -> Tensor:
        with torch.no_grad():
            pose = self.pose(batch.pose)
        return info_nce(self.emg(emg), pose, self.temperature, batch.stage_index, self.recipe.align.same_gesture)


def info_nce(
    emg: Tensor,
    pose: Tensor,
    temperature: Tensor,
    gesture: Tensor,
    same_gesture: Literal["negative", "ignored", "positive"] = "negative",
) -> Tensor:
    """Symmetric InfoNCE: each window should find its own pose among the batch's, and each pose its window.

    emg, pose: (B, D), unit length
    gesture: (B,) labels
    same_gesture: what the other windows of a gesture count as: negatives, as published; nothing; or positives, which
        share the target evenly (Khosla et al. 2020)
    """
    logits = emg @ pose.T / temperature  # (B, B)
    same = gesture[:, None] == gesture[None, :]
    own = torch.eye(len(emg), dtype=torch.bool, device=emg.device)
    if same_gesture == "ignored":
        logits = logits.masked_fill(same & ~own, -torch.inf)
    right = (same if same_gesture == "positive" else own).to(logits.dtype)
    targets = right / right.sum(dim=1, keepdim=True)  # symmetric but for this: rows count the same gestures as columns
    return (F.cross_entropy(_finite(logits), targets) + F.cross_entropy(_finite(logits.T), targets)) / 2


def _finite(logits: Tensor) -> Tensor:
    """Zero targets times minus infinity would be no number."""
    return logits.clamp_min(torch.finfo(logits.dtype).min / 2)
