"""Vary each window as a new wearing of the band would: its turn, its gains, dead electrodes and noise."""

import torch
from torch import Tensor

from cpep_edge.mpf import MpfSpec, permutation
from cpep_train.recipe import Augmentation


def augment(emg: Tensor, spec: Augmentation, front_end: MpfSpec | None = None) -> Tensor:
    """Vary windows of preprocessed signal, or of tokens.

    emg: (B, C, T), or (B, F, N) of a front end; returns the same shape
    """
    n_electrodes = emg.shape[1] if front_end is None else front_end.n_electrodes
    if spec.channel_roll or spec.mirror:
        emg = _worn_otherwise(emg, spec, n_electrodes, front_end)
    if spec.gain_log_sd or spec.channel_gain_log_sd:
        log_gain = spec.gain_log_sd * _normal(emg, (len(emg), 1, 1))
        if front_end is None:
            log_gain = log_gain + spec.channel_gain_log_sd * _normal(emg, (*emg.shape[:2], 1))
            emg = emg * log_gain.exp()
        else:  # log(g^2 C) = log C + 2 log g on the diagonal
            emg = emg + 2 * log_gain * _on_diagonal(front_end, emg)[None, :, None]
    if spec.channel_dropout:
        kept = torch.rand(len(emg), n_electrodes, device=emg.device) >= spec.channel_dropout  # (B, C)
        if front_end is not None:  # zero every entry of a token that involves a dead electrode
            row, column = torch.triu_indices(n_electrodes, n_electrodes, device=emg.device)
            kept = (kept[:, row] & kept[:, column]).repeat(1, len(front_end.bands))  # (B, F)
        emg = emg * kept[:, :, None]
    if spec.noise_sd:
        emg = emg + spec.noise_sd * torch.randn_like(emg)
    return emg


def _worn_otherwise(emg: Tensor, spec: Augmentation, n_electrodes: int, front_end: MpfSpec | None) -> Tensor:
    """Turn each band by a whole number of electrodes, which form a ring, and mirror some."""
    ways = []
    for turn in range(-spec.channel_roll, spec.channel_roll + 1):
        ring = torch.arange(n_electrodes).roll(-turn)
        ways += [ring, ring.flip(0)] if spec.mirror else [ring]
    if front_end is not None:
        ways = [torch.from_numpy(permutation(way.tolist(), len(front_end.bands))) for way in ways]
    table = torch.stack(ways).to(emg.device)
    source = table[torch.randint(len(ways), (len(emg),), device=emg.device)]  # (B, C) or (B, F)
    worn: Tensor = emg[torch.arange(len(emg), device=emg.device)[:, None], source]
    return worn


def _on_diagonal(front_end: MpfSpec, like: Tensor) -> Tensor:
    """1 for each token entry on the diagonal of a covariance, else 0, (F,)."""
    row, column = torch.triu_indices(front_end.n_electrodes, front_end.n_electrodes)
    on: Tensor = (row == column).repeat(len(front_end.bands)).to(like)
    return on


def _normal(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, device=like.device, dtype=like.dtype)
