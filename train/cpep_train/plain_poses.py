"""Zero-shot without an encoder: ridge regression from simple EMG features to joint angles, then the nearest poses.

It is the baseline for an encoder trained on poses. It also compares by cosine, so every reading of the zero-shot
protocol applies to it. The features are the front end's mean token, which holds levels and log-covariances, or the
logarithms of the levels when there is no front end.

Shapes: B windows, C channels, T samples or tokens of EMG and poses each, F features, J joints.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cpep_edge.errors import DataError
from cpep_edge.spread import evenly_spread
from cpep_train.checkpoint import Checkpoint
from cpep_train.windows import SessionStore, WindowDataset

_STRENGTH = 0.05  # regularisation per window; features have unit variance
_MOST_WINDOWS = 30_000  # to fit on, spread over all windows
_AT_ONCE = 512
_SMALLEST = 1e-12  # floor for the power of a silent channel


@dataclass(frozen=True, slots=True)
class PlainPair:
    """A baseline with the interface of a pair of encoders."""

    emg: nn.Module  # (B, C, T) to unit vectors, (B, J)
    pose: nn.Module  # (B, J, T) to unit vectors, (B, J)
    seen_stages: tuple[str, ...]


def fit_plain_pair(checkpoint: Checkpoint, store: SessionStore) -> PlainPair:
    """Fit to the windows that the checkpoint's encoders were trained on, free movement among them.

    Raises DataError when the store has no such window.
    """
    windows = WindowDataset(store, store.corpus.numbers("train"), with_pose=True)
    if not len(windows):
        raise DataError(f"{store.corpus.folder}: there are no training windows with poses")
    store.prepare(store.corpus.numbers("train"))
    chosen = windows.index[evenly_spread(len(windows), _MOST_WINDOWS)]
    tokens = checkpoint.front_end is not None
    features, poses = [], []
    for at in range(0, len(chosen), _AT_ONCE):
        batch = windows.fetch(chosen[at : at + _AT_ONCE])
        features.append(_features(batch.emg, tokens))
        poses.append(_late(batch.pose))
    x, y = torch.cat(features).double(), torch.cat(poses).double()
    mean, spread, usual = x.mean(dim=0), x.std(dim=0) + 1e-6, y.mean(dim=0)
    joint_spread = y.std(dim=0) + 1e-6
    x, y = (x - mean) / spread, (y - usual) / joint_spread
    weights = torch.linalg.solve(x.T @ x + _STRENGTH * len(x) * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    return PlainPair(
        emg=_Ridge(mean.float(), spread.float(), weights.float(), tokens),
        pose=_LatePose(usual.float(), joint_spread.float()),
        seen_stages=checkpoint.seen_stages,
    )


class _Ridge(nn.Module):
    def __init__(self, mean: Tensor, spread: Tensor, weights: Tensor, tokens: bool) -> None:
        super().__init__()
        self.mean, self.spread, self.weights, self.tokens = mean, spread, weights, tokens

    def forward(self, emg: Tensor) -> Tensor:
        pose = (_features(emg, self.tokens) - self.mean) / self.spread @ self.weights
        return nn.functional.normalize(pose, dim=1)


class _LatePose(nn.Module):
    def __init__(self, usual: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.usual, self.spread = usual, spread

    def forward(self, pose: Tensor) -> Tensor:
        return nn.functional.normalize((_late(pose) - self.usual) / self.spread, dim=1)


def _features(emg: Tensor, tokens: bool) -> Tensor:
    return emg.mean(dim=2) if tokens else torch.log(emg.square().mean(dim=2) + _SMALLEST) / 2


def _late(pose: Tensor) -> Tensor:
    """The mean pose over the second half of each window, by when the hand has arrived."""
    return pose[:, :, pose.shape[2] // 2 :].mean(dim=2)
