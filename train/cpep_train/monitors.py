"""Watch a stage of training and stop it, with one sentence, when it cannot succeed.

It detects three failures: the loss is not finite; one side's embeddings have collapsed to a point or a line; or
windows find their poses no better than by chance.
"""

import math
from collections.abc import Mapping

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.nn import functional as F

from cpep_edge.errors import TrainingError
from cpep_train.align import Alignment, Pairs, chance, top1

_SMALLEST_SPREAD = 1e-4  # mean squared distance from the batch's centre; 1: spread over the whole sphere
_SMALLEST_RANK = 1.5  # between a line and a plane
_PATIENCE_SHARE, _LEAST_PATIENCE = 0.25, 3  # successive epochs at chance before a stage stops


class Monitor(pl.Callback):
    """Stops a stage that has diverged or collapsed, and logs rank and spread of the embeddings."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._n_at_chance = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        if isinstance(outputs, Mapping) and not torch.isfinite(outputs["loss"]):
            raise TrainingError(
                f"stage {self._stage} diverged: its loss was not a finite number at step {trainer.global_step} in "
                f"epoch {trainer.current_epoch + 1}; lower its learning_rate"
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(pl_module, Alignment) or pl_module.last is None:
            return
        same = pl_module.last.same()
        n_gestures = len(torch.unique(same, dim=0))
        for side, embeddings in (("emg", pl_module.last.emg), ("pose", pl_module.last.pose)):
            embeddings = F.normalize(embeddings, dim=1)  # several queries of a window are concatenated
            spread, rank = spread_of(embeddings), effective_rank(embeddings)
            trainer.callback_metrics[f"{side}_rank"] = torch.tensor(rank)
            if spread < _SMALLEST_SPREAD or (n_gestures > 2 and rank < _SMALLEST_RANK):  # two gestures lie on a line
                raise TrainingError(
                    f"stage {self._stage} collapsed in epoch {trainer.current_epoch + 1}: the {side} embeddings of a "
                    f"batch have effective rank {rank:.1f} and spread {spread:.1g}; {_advice(pl_module)}"
                )
        self._watch_chance(trainer, pl_module, pl_module.last, same)

    def _watch_chance(self, trainer: pl.Trainer, module: Alignment, last: Pairs, same: Tensor) -> None:
        found, blind = float(trainer.callback_metrics["top1"]), chance(same, module.recipe.align.same_gesture)
        at_chance = found <= _by_luck(blind, len(same) * trainer.num_training_batches)
        # Poses of one gesture are nearly alike, so with two gestures finding a window's own pose stays close to chance.
        # The stage only counts as at chance if finding any pose of the gesture is at chance too.
        of_gesture = float(top1(last, "positive"))
        at_chance = at_chance and of_gesture <= _by_luck(chance(same, "positive"), len(same))
        self._n_at_chance = self._n_at_chance + 1 if at_chance else 0
        if self._n_at_chance >= max(_LEAST_PATIENCE, math.ceil(_PATIENCE_SHARE * (trainer.max_epochs or 0))):
            raise TrainingError(
                f"stage {self._stage} learnt nothing in {self._n_at_chance} epochs: windows find their pose in a batch "
                f"in {found:.2%} of cases, by chance it is {blind:.2%}; {_advice(module)}"
            )


def _by_luck(blind: float, n_asked: float) -> float:
    """The share of correct answers that this many random guesses hardly ever exceed."""
    return blind + 3 * math.sqrt(blind * (1 - blind) / n_asked)


def spread_of(embeddings: Tensor) -> float:
    """Mean squared distance of unit vectors (B, D) from their centre: 0 where all are one, 1 where they cancel out."""
    return 1 - float(embeddings.float().mean(dim=0).square().sum())


def effective_rank(embeddings: Tensor) -> float:
    """How many directions embeddings (B, D) fill: exp of the entropy of their singular values (Roy & Vetterli 2007)."""
    centred = embeddings.float() - embeddings.float().mean(dim=0)
    values = torch.linalg.svdvals(centred.cpu())
    share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return float(torch.exp(torch.special.entr(share).sum()))


def _advice(module: Alignment) -> str:
    if module.recipe.align.train_pose:
        return "keep the pose encoder frozen (align.train_pose=false)"
    return "look at the losses of the stages before it, then lower align.learning_rate"
