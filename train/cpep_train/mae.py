"""Masked auto-encoding (He et al. 2022) of one side, EMG or pose: the first two stages of CPEP.

The encoder sees only [CLS] and the patches that are not masked. A small decoder gets the encoder's tokens, with a
learnt token at each masked place, and predicts the masked patches. The loss is the mean squared error on those alone.
The decoder is not kept.

Shapes: B windows, C channels, P samples a patch, N tokens without [CLS], D width.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpep_train.model import Block, Encoder, front_end, patches
from cpep_train.optimiser import TrainingStage
from cpep_train.processes import n_processes, rank
from cpep_train.recipe import MaeStage
from cpep_train.windows import WindowBatch


class Decoder(nn.Module):
    """Predicts every patch from the tokens of the visible ones."""

    def __init__(self, encoder: Encoder, settings: MaeStage) -> None:
        super().__init__()
        size, width = encoder.config, settings.decoder_width
        config = replace(size, width=width, n_layers=settings.decoder_layers, dropout=0.0)
        self.enter = nn.Linear(size.width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, 1 + size.n_tokens, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(settings.decoder_layers))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, size.n_channels * size.patch_values)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """tokens: (B, 1 + N', D), [CLS] first; visible: (B, N') places; returns patches (B, N, C P)."""
        tokens = self.enter(tokens)  # (B, 1 + N', D of the decoder)
        b, _, d = tokens.shape
        n = self.position.shape[1] - 1
        patches = (
            self.mask_token.to(tokens.dtype)
            .expand(b, n, d)
            .scatter(1, visible[:, :, None].expand(-1, -1, d), tokens[:, 1:])
        )
        tokens = torch.cat((tokens[:, :1], patches), dim=1) + self.position  # (B, 1 + N, D of the decoder)
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.leave(self.norm(tokens[:, 1:]))  # (B, N, C P)
        return out


class MaskedAutoencoder(TrainingStage):
    """Trains one encoder to fill in masked patches."""

    def __init__(self, encoder: Encoder, settings: MaeStage, side: str, seed: int) -> None:
        """side: "emg" or "pose", the field of the batch that is encoded."""
        super().__init__(settings, seed)
        self.encoder = encoder
        self.decoder = Decoder(encoder, settings)
        self.side = side
        n_tokens = encoder.config.n_tokens
        self.n_masked = min(n_tokens - 1, max(1, round(settings.mask_ratio * n_tokens)))

    def training_step(self, batch: WindowBatch) -> Tensor:
        loss = self.loss(getattr(batch, self.side), self._step_order(len(batch.emg)))
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.emg), sync_dist=n_processes() > 1)
        return loss

    def validation_step(self, batch: WindowBatch) -> None:
        self.log("validation_loss", self._masked_loss(batch), batch_size=len(batch.emg))

    def loss(self, window: Tensor, order: Tensor) -> Tensor:
        """Mean squared error on the masked patches.

        window: (B, C, T)
        order: (B, N), a permutation of the places for each window; the first `n_masked` are masked
        """
        masked, visible = order[:, : self.n_masked], order[:, self.n_masked :].sort(dim=1).values
        tokens = self.encoder.patch_tokens(window)  # (B, N, D)
        tokens = self.encoder.mix(_at(tokens, visible))  # (B, 1 + N', D)
        predicted = self.decoder(tokens, visible)  # (B, N, C P)
        target = patches(front_end(window, self.encoder.config), self.encoder.config.patch_values)  # (B, N, C P)
        return F.mse_loss(_at(predicted, masked), _at(target, masked))

    def _step_order(self, n_windows: int) -> Tensor:
        """This process' rows of the whole batch's masking order, which is the same for any number of processes."""
        generator = torch.Generator(self.device).manual_seed(self.step_seed)
        shape = (n_windows * n_processes(), self.encoder.config.n_tokens)
        return torch.rand(shape, generator=generator, device=self.device)[rank() :: n_processes()].argsort(dim=1)

    def _masked_loss(self, batch: WindowBatch) -> Tensor:
        window: Tensor = getattr(batch, self.side)
        shape = (len(window), self.encoder.config.n_tokens)
        return self.loss(window, torch.rand(shape, device=window.device).argsort(dim=1))


def _at(tokens: Tensor, places: Tensor) -> Tensor:
    """The tokens (B, N, D) at places (B, M): (B, M, D)."""
    return tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2]))
