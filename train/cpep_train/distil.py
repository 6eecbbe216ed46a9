"""Distillation: train a small EMG encoder to embed windows where a larger, trained one embeds them.

It replaces contrastive alignment. The student keeps the teacher's pose encoder, so both read the same index. Two
things are matched on the same augmented windows: the embedding itself, by cosine; and the teacher's ranking of the
batch's poses around it, by the KL divergence between softmaxes of similarities (Hinton et al. 2015; over similarities
as in Fang et al. 2021, SEED). A vote of nearest poses depends on that ranking.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from cpep_edge.errors import ConfigError
from cpep_train.align import Alignment, Pairs
from cpep_train.checkpoint import Checkpoint
from cpep_train.model import Embedder
from cpep_train.optimiser import freeze
from cpep_train.provenance import Provenance
from cpep_train.recipe import Distillation, Recipe
from cpep_train.windows import WindowBatch


class DistilledAlignment(Alignment):
    """Trains the EMG embedder against a frozen larger one that was aligned with the same poses."""

    def __init__(
        self, emg: Embedder, pose: Embedder, recipe: Recipe, settings: Distillation, teacher: Embedder
    ) -> None:
        super().__init__(emg, pose, recipe)
        self.distillation = settings
        self.teacher = teacher
        self.log_temperature.requires_grad_(False)
        self._frozen.append(self.teacher)
        freeze(self.teacher)

    def _pairs(self, emg: Tensor, batch: WindowBatch) -> Pairs:
        with torch.no_grad():
            taught = self.teacher(emg)
        return super()._pairs(emg, batch)._replace(teacher=taught)

    def _loss(self, pairs: Pairs) -> Tensor:
        if pairs.teacher is None:
            raise ValueError("the student's batch was not shown to its teacher")
        return distillation_loss(pairs.emg, pairs.teacher, pairs.pose, self.distillation)


def distillation_loss(student: Tensor, teacher: Tensor, pose: Tensor, settings: Distillation) -> Tensor:
    """How far the student is from the teacher: one minus the cosine, and the KL divergence of their neighbours.

    student, teacher, pose: (B, D), unit length
    """
    apart = (1 - (student * teacher).sum(dim=1)).mean()
    guessed, right = (F.log_softmax(emg @ pose.T / settings.temperature, dim=1) for emg in (student, teacher))  # (B, B)
    divergence = F.kl_div(guessed, right, reduction="batchmean", log_target=True)
    return apart + settings.neighbour_weight * divergence


def check_teacher(recipe: Recipe, data: Provenance, teacher: Checkpoint, run: Path) -> None:
    """Raise ConfigError when a student with this recipe and data cannot share windows and poses with the teacher."""
    if recipe.align.distillation is None:
        raise ConfigError(f"recipe {recipe.name} distils nothing; set align.distillation, or leave out --teacher")
    theirs = teacher.recipe
    for part in ("signal", "windows", "calibration", "pose"):
        if getattr(recipe, part) != getattr(theirs, part):
            raise ConfigError(f"recipe {recipe.name}: {part} is not that of its teacher {run}, and must be")
    if theirs.align.train_pose:
        raise ConfigError(f"{run} trained its pose encoder during alignment; a teacher must have left it frozen")
    if data.data_sha256 != teacher.provenance.data_sha256:
        raise ConfigError(f"{run} was trained on other data; a student needs the data of its teacher")
