import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cpep_train.recipe import SoftTargets
from cpep_train.soft_targets import Communities

SETTINGS = SoftTargets(communities=3, neighbours=4, temperature=0.2)


def _poses(n_each: int = 10) -> tuple[Tensor, Tensor]:
    """Three tight clusters of unit vectors with a large part in common, and which is whose."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(3, 8) + 3 * torch.ones(8)
    which = torch.arange(3).repeat_interleave(n_each)
    return F.normalize(centres[which] + 0.02 * torch.randn(3 * n_each, 8, generator=generator), dim=1), which


def test_targets_share_a_row_among_poses_of_one_community_and_no_others() -> None:
    poses, which = _poses()
    targets = Communities(poses, SETTINGS, seed=0).targets(poses)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(30))
    assert ((targets > 0).sum(dim=1) == SETTINGS.neighbours).all()
    assert targets[which[:, None] != which[None, :]].max() == 0


def test_targets_are_the_softmax_over_the_largest_affinities_written_out() -> None:
    poses, _ = _poses(4)
    communities = Communities(poses, SETTINGS, seed=0)
    member = communities.membership(poses[:6]).numpy()
    targets = communities.targets(poses[:6]).numpy()
    affinity = member @ member.T
    for row in range(6):
        chosen = np.argsort(-(affinity[row] + (np.arange(6) == row)))[:4]
        assert row in chosen
        expected = np.exp(affinity[row, chosen] / 0.2)
        np.testing.assert_allclose(targets[row, chosen], expected / expected.sum(), rtol=1e-4)


def test_without_a_soft_share_targets_are_one_hot() -> None:
    poses, _ = _poses()
    communities = Communities(poses, SETTINGS.model_copy(update={"share": 0.0}), seed=0)
    torch.testing.assert_close(communities.targets(poses), torch.eye(30))
