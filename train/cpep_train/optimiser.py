"""The optimiser of all three stages: AdamW, linear warm-up, cosine decay to zero, and reproducible randomness."""

import math

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn

from cpep_train.processes import rank
from cpep_train.recipe import AlignStage, MaeStage


class TrainingStage(pl.LightningModule):
    """Base of the three stages. A subclass defines the trained modules and the steps."""

    def __init__(self, settings: MaeStage | AlignStage, seed: int) -> None:
        super().__init__()
        self.settings = settings
        self.seed = seed

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over all weights that are not frozen; biases, norms, positions and [CLS] have no weight decay."""
        trained = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        decayed = [p for name, p in trained if name.endswith("weight") and p.ndim > 1]
        kept = [p for name, p in trained if not (name.endswith("weight") and p.ndim > 1)]
        groups = [{"params": decayed, "weight_decay": self.settings.weight_decay}, {"params": kept, "weight_decay": 0}]
        optimiser = torch.optim.AdamW(groups, lr=self.settings.learning_rate, betas=(0.9, 0.95))
        n_steps = int(self.trainer.estimated_stepping_batches)
        n_warm_up = max(1, round(self.settings.warm_up_share * n_steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, n_warm_up, n_steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Seed augmentation and dropout by the step, so that a resumed run repeats it exactly."""
        seed = self.step_seed + 999_331 * rank()
        if self.device.type == "cpu":  # torch.manual_seed keeps each seed and its call stack for a later GPU
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    @property
    def step_seed(self) -> int:
        """The seed of this step, the same in every process."""
        return self.seed * 1_000_003 + self.global_step


def freeze(module: nn.Module) -> None:
    """Exclude a module's weights from training and put it in evaluation mode."""
    module.requires_grad_(False)
    module.eval()


def _rate(step: int, n_warm_up: int, n_steps: int) -> float:
    if step < n_warm_up:
        return (step + 1) / n_warm_up
    done = (step - n_warm_up) / max(1, n_steps - n_warm_up)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
