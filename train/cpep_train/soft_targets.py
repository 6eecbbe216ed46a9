"""Targets of the contrastive loss that say which poses are alike, in place of one-hot ones that call all others wrong.

After EMBridge (ICLR 2026), which replaces one-hot targets by those of communities found by k-means among the embeddings
of the frozen pose encoder. What is not published is ours: a pose belongs to communities in proportion to a softmax over
its cosines to their centres, two poses are alike as far as they share communities, and of each row of a batch the most
alike few share the target through a softmax.

Shapes: B windows, D width, K communities.
"""

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from cpep_train.recipe import SoftTargets

_MEMBERSHIP_TEMPERATURE = 0.1  # of the softmax over standardised cosines


class Communities(nn.Module):
    """Communities of pose embeddings, and the targets that follow from them."""

    def __init__(self, poses: Tensor, settings: SoftTargets, seed: int) -> None:
        """poses: (n, D) embeddings of training poses, unit length, n at least the number of communities."""
        super().__init__()
        self.settings = settings
        self.mean: Tensor
        self.centres: Tensor
        self.register_buffer("mean", poses.mean(dim=0))
        found = KMeans(settings.communities, n_init=1, random_state=seed).fit(self._unit(poses).cpu().numpy())
        centres = torch.from_numpy(found.cluster_centers_).to(poses)
        self.register_buffer("centres", F.normalize(centres, dim=1))  # (K, D)

    def membership(self, poses: Tensor) -> Tensor:
        """How far poses (B, D) belong to each community, (B, K); rows have unit length."""
        cosine = self._unit(poses) @ self.centres.T
        return F.normalize(torch.softmax(cosine / _MEMBERSHIP_TEMPERATURE, dim=1), dim=1)

    def targets(self, poses: Tensor) -> Tensor:
        """What each window of a batch should find, (B, B); rows sum to one."""
        member = self.membership(poses)
        affinity = member @ member.T  # (B, B)
        own = torch.eye(len(poses), device=poses.device)
        nearest = (affinity + own).topk(min(self.settings.neighbours, len(poses)), dim=1).indices
        chosen = torch.full_like(affinity, -torch.inf).scatter(1, nearest, affinity.gather(1, nearest))
        soft = torch.softmax(chosen / self.settings.temperature, dim=1)
        return self.settings.share * soft + (1 - self.settings.share) * own

    def _unit(self, poses: Tensor) -> Tensor:
        """Directions from the mean: what all embeddings share says nothing about which are alike."""
        return F.normalize(poses - self.mean, dim=1)
