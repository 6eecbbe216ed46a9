"""The alignment of EMBridge (ICLR 2026): the contrastive loss on the best query, and poses rebuilt from the queries.

Beside the contrastive loss, the tokens of hidden pose patches pass through the Q-Former and must come out as those
patches. They see the queries alone, so whatever they know of the pose came from the EMG through the queries. Visible
patches would change nothing for them, so all are hidden. How much this loss weighs is not published; it is ours.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpep_train.align import Alignment, Pairs
from cpep_train.model import Embedder, Encoder, patches
from cpep_train.processes import n_processes
from cpep_train.qformer import QueryEmbedder
from cpep_train.recipe import QFormerSettings, Recipe
from cpep_train.soft_targets import Communities
from cpep_train.windows import WindowBatch


class BridgedAlignment(Alignment):
    """Trains an EMG encoder and its Q-Former, which starts from the pose encoder, against that pose encoder."""

    def __init__(
        self,
        emg: QueryEmbedder,
        pose: Embedder,
        recipe: Recipe,
        settings: QFormerSettings,
        communities: Communities | None = None,
    ) -> None:
        super().__init__(emg, pose, recipe, communities)
        self.bridge = emg
        emg.qformer.start_from(pose.bidirectional)
        self.rebuild = PoseReconstruction(pose.bidirectional)
        self.reconstruction_weight = settings.reconstruction_weight
        self._rebuilt: Tensor | None = None  # loss of the windows embedded last, for the step that embedded them

    def _pairs(self, emg: Tensor, batch: WindowBatch) -> Pairs:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.recipe.align.train_pose):
            pose = self.pose(batch.pose)
        hidden = self.rebuild.hidden.expand(len(emg), -1, -1)
        queries, rebuilt = self.bridge.qformer(self.bridge.tokens(emg), hidden).split(
            (self.bridge.n_queries, hidden.shape[1]), dim=1
        )
        self._rebuilt = self.rebuild.loss(rebuilt, batch.pose)
        return Pairs(self.bridge.embeddings(queries), pose, batch.stage_index, batch.pose.mean(dim=2))

    def _loss(self, pairs: Pairs) -> Tensor:
        rebuilt, self._rebuilt = self._rebuilt, None
        if rebuilt is None:
            raise RuntimeError("the loss is that of windows embedded before")
        name, n_windows = "reconstruction" if self.training else "validation_reconstruction", len(pairs.emg)
        across = n_processes() > 1
        self.log(name, rebuilt.detach(), on_step=False, on_epoch=True, batch_size=n_windows, sync_dist=across)
        return super()._loss(pairs) + self.reconstruction_weight * rebuilt


class PoseReconstruction(nn.Module):
    """The tokens of hidden pose patches, and what is made of them; not kept after training."""

    def __init__(self, pose: Encoder) -> None:
        """pose: the auto-encoded pose encoder; positions start as its own"""
        super().__init__()
        size = pose.config
        self.patch_values = size.patch_values
        self.mask_token = nn.Parameter(torch.empty(1, 1, size.width))
        self.position = nn.Parameter(pose.position.detach()[:, 1:].clone())
        self.leave = nn.Linear(size.width, size.n_channels * size.patch_values)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    @property
    def hidden(self) -> Tensor:
        """A token for each patch, with nothing in it but its place, (1, L, D)."""
        return self.mask_token + self.position

    def loss(self, tokens: Tensor, poses: Tensor) -> Tensor:
        """Mean squared error of what the tokens (B, L, D) say about the window's poses, (B, joints, samples)."""
        return F.mse_loss(self.leave(tokens), patches(poses, self.patch_values))
