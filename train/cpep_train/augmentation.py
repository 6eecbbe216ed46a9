"""What may differ from one wearing of the band to the next, drawn anew for each window: turn, gains, silence, noise."""

import torch
from torch import Tensor

from cpep_train.recipe import Augmentation


def augment(emg: Tensor, spec: Augmentation) -> Tensor:
    """Vary preprocessed windows.

    emg: (B, C, T); returns the same shape
    """
    if spec.channel_roll:
        emg = _rolled(emg, spec.channel_roll)
    if spec.gain_log_sd or spec.channel_gain_log_sd:
        log_gain = spec.gain_log_sd * _normal(emg, (len(emg), 1, 1))
        log_gain = log_gain + spec.channel_gain_log_sd * _normal(emg, (*emg.shape[:2], 1))
        emg = emg * log_gain.exp()
    if spec.channel_dropout:
        emg = emg * (torch.rand(*emg.shape[:2], 1, device=emg.device) >= spec.channel_dropout)
    if spec.noise_sd:
        emg = emg + spec.noise_sd * torch.randn_like(emg)
    return emg


def _rolled(emg: Tensor, reach: int) -> Tensor:
    """Turn each band by a whole number of electrodes; they form a ring."""
    b, c, _ = emg.shape
    turn = torch.randint(-reach, reach + 1, (b, 1), device=emg.device)
    source = (torch.arange(c, device=emg.device) + turn) % c  # (B, C)
    return emg[torch.arange(b, device=emg.device)[:, None], source]


def _normal(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, device=like.device, dtype=like.dtype)
