"""The CPEP encoders: one small transformer for EMG, one for pose, as in Cui et al., arXiv 2509.04699.

A window is cut into patches by a strided convolution, a [CLS] token is put in front, and pre-norm transformer blocks
follow. This module is the readable reference used for training. `cpep_export.fused` rewrites the same weights for the
device, and its output is checked against this one.

Shapes: B windows, C channels (electrodes or joints), T samples, N tokens without [CLS], D width, H heads.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpep_edge.errors import ConfigError


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The size of one encoder. The paper's: 4 layers, width 256; heads and MLP ratio are not published."""

    n_channels: int
    window_samples: int
    patch_samples: int
    width: int = 256
    n_layers: int = 4
    n_heads: int = 4
    mlp_ratio: int = 4
    dropout: float = 0.0
    pooling: Literal["cls", "mean"] = "cls"
    front_end: Literal["raw", "rectified"] = "raw"  # for `cpep_edge.mpf` too it is raw: the tokens arrive as channels
    level_samples: int = 1  # samples averaged to one level; 1 when the front end is raw
    block_patches: int = 0  # of a `StreamingEncoder`; 0: every token sees the whole window

    def __post_init__(self) -> None:
        if self.window_samples % self.patch_samples:
            raise ValueError(
                f"window_samples {self.window_samples} is not a whole number of patches of {self.patch_samples}"
            )
        if self.width % self.n_heads:
            raise ValueError(f"width {self.width} does not divide into {self.n_heads} heads")
        if self.patch_samples % self.level_samples:
            raise ValueError(
                f"patch_samples {self.patch_samples} is not a whole number of levels of {self.level_samples}"
            )
        if self.block_patches and self.n_tokens % self.block_patches:
            raise ValueError(f"{self.n_tokens} patches are no whole number of blocks of {self.block_patches}")

    @property
    def n_tokens(self) -> int:
        """Patches in a window, [CLS] not counted."""
        return self.window_samples // self.patch_samples

    @property
    def patch_values(self) -> int:
        """Values of one channel in a patch, after the front end."""
        return self.patch_samples // self.level_samples

    @property
    def n_context(self) -> int:
        """Blocks that a streaming token sees, including its own: as many as keep all layers within the window."""
        return 1 + (self.n_tokens // self.block_patches - 1) // self.n_layers

    @property
    def n_blocks_seen(self) -> int:
        """Blocks that a streaming embedding depends on, through all layers."""
        return 1 + self.n_layers * (self.n_context - 1)

    @property
    def block_samples(self) -> int:
        """Samples of a block."""
        return self.block_patches * self.patch_samples


def front_end(window: Tensor, config: EncoderConfig) -> Tensor:
    """What the patches are cut from: the window as it is, or rectified.

    The sign of EMG is random and a patch embedding is linear, so on raw signal the mean of its output carries no
    information. On rectified signal it is the envelope. Averaging a few samples gives the envelope too, with less work.

    window: (B, C, T); returns the same shape, or (B, C, T / level_samples)
    """
    if config.front_end == "raw":
        return window
    return window.abs() if config.level_samples == 1 else F.avg_pool1d(window.abs(), config.level_samples)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, N, D); returns the same shape."""
        b, n, d = tokens.shape
        qkv = self.qkv(tokens).view(b, n, 3, self.n_heads, d // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, N, D / H)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(b, n, d))  # (B, N, D)
        return out


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp_in = nn.Linear(config.width, config.mlp_ratio * config.width)
        self.mlp_out = nn.Linear(config.mlp_ratio * config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, N, D); returns as many as the attention gives."""
        mixed: Tensor = self.attention(self.attention_norm(tokens))
        tokens = tokens[:, -mixed.shape[1] :] + self.dropout(mixed)  # streaming: only the newest tokens
        hidden = F.gelu(self.mlp_in(self.mlp_norm(tokens)))
        tokens = tokens + self.dropout(self.mlp_out(hidden))
        return tokens


class Encoder(nn.Module):
    """Patches, positions, [CLS] and blocks: a window in, tokens out."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patch = nn.Conv1d(config.n_channels, config.width, config.patch_values, stride=config.patch_values)
        self.cls = nn.Parameter(torch.empty(1, 1, config.width))
        self.position = nn.Parameter(torch.empty(1, 1 + config.n_tokens, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.width)
        nn.init.trunc_normal_(self.cls, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)

    def patch_tokens(self, window: Tensor) -> Tensor:
        """Embed the patches of a window and add their positions.

        window: (B, C, T) float32, preprocessed
        returns: (B, N, D)
        """
        cut = patches(front_end(window, self.config), self.config.patch_values)  # (B, N, C P)
        # A linear layer, equal to the strided convolution: on a CPU its backward pass takes a third of the time.
        tokens = F.linear(cut, self.patch.weight.flatten(1), self.patch.bias)  # (B, N, D)
        return tokens + self.position[:, 1:]

    def mix(self, tokens: Tensor) -> Tensor:
        """Put [CLS] in front of any subset of patch tokens and run the blocks.

        tokens: (B, N', D), N' <= N
        returns: (B, 1 + N', D), normalised
        """
        cls = (self.cls + self.position[:, :1]).expand(tokens.shape[0], -1, -1)
        tokens = torch.cat((cls, tokens), dim=1)  # (B, 1 + N', D)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return tokens

    def forward(self, window: Tensor) -> Tensor:
        """window: (B, C, T); returns the features of the window, (B, D)."""
        tokens = self.mix(self.patch_tokens(window))
        return tokens[:, 0] if self.config.pooling == "cls" else tokens[:, 1:].mean(dim=1)  # (B, D)


def patches(window: Tensor, patch_samples: int) -> Tensor:
    """Cut windows (B, C, T) into patches (B, N, C P)."""
    b, c, t = window.shape
    cut = window.view(b, c, t // patch_samples, patch_samples)
    return cut.transpose(1, 2).reshape(b, t // patch_samples, c * patch_samples)  # (B, N, C P)


class StreamingAttention(Attention):
    """Self-attention of each block over itself and the blocks before it."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.block, self.n_context = config.block_patches, config.n_context
        self.distance = nn.Parameter(torch.zeros(config.n_heads, (self.n_context + 1) * self.block - 1))

    def bias(self) -> Tensor:
        """The bias of a block's scores by the distance of query and key, (H, b, n_context b), newest key last."""
        n_keys = self.n_context * self.block
        query, key = torch.arange(n_keys - self.block, n_keys)[:, None], torch.arange(n_keys)
        return self.distance[:, query - key + self.block - 1]  # a key of the same block may be later than the query

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, N, D); returns (B, N - (n_context - 1) b, D), the newest tokens."""
        b, n, d = tokens.shape
        heads = self.qkv(tokens).view(b, n // self.block, self.block, 3, self.n_heads, d // self.n_heads)
        q, k, v = heads.permute(3, 0, 4, 1, 2, 5)  # each (B, H, M, b, D / H)
        mixed = F.scaled_dot_product_attention(
            q[:, :, self.n_context - 1 :],
            self._contexts(k),
            self._contexts(v),
            attn_mask=self.bias()[:, None],
            dropout_p=self.dropout if self.training else 0.0,
        )  # (B, H, M - n_context + 1, b, D / H)
        out: Tensor = self.out(mixed.permute(0, 2, 3, 1, 4).reshape(b, -1, d))
        return out

    def _contexts(self, heads: Tensor) -> Tensor:
        """Gather what each block sees: (B, H, M, b, D / H) to (B, H, M - n_context + 1, n_context b, D / H)."""
        return heads.flatten(2, 3).unfold(2, self.n_context * self.block, self.block).transpose(3, 4)


class StreamingBlock(Block):
    """A pre-norm transformer block that returns only the tokens whose whole context was in its input."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.attention = StreamingAttention(config)


class StreamingEncoder(nn.Module):
    """The EMG encoder for streams: each hop computes only new patches, with exactly the result of the whole window.

    Patches are grouped in blocks. A token sees its own block and the `n_context - 1` blocks before it, and nothing
    later. Positions are relative (one learnt bias per head and distance, as in Raffel et al. 2020, T5); there is no
    [CLS] and no absolute position. So the keys and values of a block never change and can be cached. All layers
    together see no further back than the window: older signal has no influence, and after a start or a loss a device is
    exact again within one window.

    Nothing is padded or masked: a layer computes only the blocks whose whole context is present, as a convolution
    without padding does. The features of a window are the mean of its newest block.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patch = nn.Conv1d(config.n_channels, config.width, config.patch_values, stride=config.patch_values)
        self.blocks = nn.ModuleList(StreamingBlock(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, window: Tensor) -> Tensor:
        """window: (B, C, T); returns the features of the window, (B, D)."""
        n_samples = self.config.n_blocks_seen * self.config.block_samples
        return self.stream(window[..., -n_samples:])[:, 0]

    def stream(self, signal: Tensor) -> Tensor:
        """Features of every block whose whole past is in the signal.

        signal: (B, C, M b P), any number of blocks M that is at least `n_blocks_seen`
        returns: (B, M - n_blocks_seen + 1, D)
        """
        cut = patches(front_end(signal, self.config), self.config.patch_values)  # (B, N, C P)
        tokens = F.linear(cut, self.patch.weight.flatten(1), self.patch.bias)  # (B, N, D)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)  # (B, N of the last layer, D)
        features: Tensor = tokens.unflatten(1, (-1, self.config.block_patches)).mean(dim=2)
        return features


class Embedder(nn.Module):
    """An encoder with its projection to the space that EMG and pose share; the output has unit length.

    The EMG side has a projection (256 -> 256 in the paper); the frozen pose side returns its [CLS] features unchanged.
    """

    def __init__(self, config: EncoderConfig, d_embed: int | None) -> None:
        """d_embed: width of the projection; None leaves it out."""
        super().__init__()
        self.encoder: Encoder | StreamingEncoder = (StreamingEncoder if config.block_patches else Encoder)(config)
        self.projection = nn.Identity() if d_embed is None else nn.Linear(config.width, d_embed)
        self.d_embed = config.width if d_embed is None else d_embed

    @property
    def bidirectional(self) -> Encoder:
        """The encoder, all of whose tokens see the whole window. Raises ConfigError for a streaming encoder."""
        if isinstance(self.encoder, StreamingEncoder):
            raise ConfigError("a streaming encoder is only trained by alignment from a random start")
        return self.encoder

    def forward(self, window: Tensor) -> Tensor:
        """window: (B, C, T) float32, preprocessed; returns embeddings (B, d_embed) of unit length."""
        return F.normalize(self.projection(self.encoder(window)), dim=-1)
