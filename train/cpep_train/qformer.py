"""The Q-Former of EMBridge (ICLR 2026): learnt queries read the EMG tokens through blocks that know poses.

Its self-attention blocks start as copies of the auto-encoded pose encoder's; every second one, the first included, also
reads the EMG tokens by cross-attention, between its self-attention and its MLP as in BLIP-2 (Li et al. 2023). Each
query leaves as an embedding, and a window is as near to a pose as the nearest of them. Pose tokens may pass through the
same blocks; they see the queries and nothing else, the queries never see them.

Shapes: B windows, M queries, N EMG tokens, L pose tokens, D width, H heads, E width of an embedding.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpep_edge.errors import ConfigError
from cpep_train.model import Block, Embedder, Encoder, EncoderConfig

CROSSING_STEP = 2  # of every so many blocks, the first reads the EMG


class CrossAttention(nn.Module):
    """Multi-head attention of queries to EMG tokens, pre-norm, residual included."""

    def __init__(self, config: EncoderConfig, emg_width: int) -> None:
        """config: of the blocks that the queries pass through"""
        super().__init__()
        self.n_heads = config.n_heads
        self.norm = nn.LayerNorm(config.width)
        self.q = nn.Linear(config.width, config.width)
        self.k = nn.Linear(emg_width, config.width)
        self.v = nn.Linear(emg_width, config.width)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, queries: Tensor, emg: Tensor) -> Tensor:
        """queries: (B, M, D); emg: (B, N, D of the EMG); returns (B, M, D)."""
        q, k, v = self._heads(self.q(self.norm(queries))), self._heads(self.k(emg)), self._heads(self.v(emg))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, M, D)
        queries = queries + self.dropout(self.out(mixed))
        return queries

    def _heads(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, H, N, D / H)."""
        b, n, d = tokens.shape
        return tokens.view(b, n, self.n_heads, d // self.n_heads).transpose(1, 2)


class QFormer(nn.Module):
    """Queries in, what they have read of the EMG out."""

    def __init__(self, pose: EncoderConfig, emg_width: int, n_queries: int) -> None:
        """pose: size of the pose encoder, whose blocks these are"""
        super().__init__()
        self.n_queries = n_queries
        self.queries = nn.Parameter(torch.empty(1, n_queries, pose.width))
        self.blocks = nn.ModuleList(Block(pose) for _ in range(pose.n_layers))
        self.crossings = nn.ModuleList(CrossAttention(pose, emg_width) for _ in self.blocks[::CROSSING_STEP])
        self.norm = nn.LayerNorm(pose.width)
        nn.init.trunc_normal_(self.queries, std=0.02)

    def start_from(self, pose: Encoder) -> None:
        """Take over the weights of the pose encoder's blocks; queries and cross-attention have no counterpart there."""
        self.blocks.load_state_dict(pose.blocks.state_dict())
        self.norm.load_state_dict(pose.norm.state_dict())

    def forward(self, emg: Tensor, pose: Tensor | None = None) -> Tensor:
        """emg: (B, N, D of the EMG) tokens; pose: (B, L, D) tokens to send along; returns (B, M + L, D), normalised."""
        m = self.n_queries
        tokens = self.queries.expand(len(emg), -1, -1)
        if pose is not None:
            tokens = torch.cat((tokens, pose), dim=1)  # (B, M + L, D)
        for number, block in enumerate(block for block in self.blocks if isinstance(block, Block)):
            tokens = block.attend(tokens, n_seen=m)
            if number % CROSSING_STEP == 0:
                read = self.crossings[number // CROSSING_STEP](tokens[:, :m], emg)
                tokens = torch.cat((read, tokens[:, m:]), dim=1)
            tokens = block.feed(tokens)
        normalised: Tensor = self.norm(tokens)
        return normalised


class QueryEmbedder(Embedder):
    """An EMG encoder with a Q-Former behind it: as many embeddings a window as there are queries."""

    encoder: Encoder

    def __init__(self, emg: EncoderConfig, pose: EncoderConfig, n_queries: int, d_embed: int) -> None:
        """Raises ConfigError for a streaming EMG encoder, which keeps no tokens of the whole window."""
        if emg.block_patches:
            raise ConfigError("a Q-Former reads all tokens of a window; take emg.block_patches out of the recipe")
        super().__init__(emg, None)
        self.n_queries = n_queries
        self.d_embed = d_embed
        self.qformer = QFormer(pose, emg.width, n_queries)
        self.projection = nn.Linear(pose.width, d_embed)

    def tokens(self, window: Tensor) -> Tensor:
        """What the queries read, [CLS] included. window: (B, C, T); returns (B, 1 + N, D of the EMG)."""
        encoder = self.bidirectional
        return encoder.mix(encoder.patch_tokens(window))

    def embeddings(self, queries: Tensor) -> Tensor:
        """What has left the Q-Former, (B, M, D), as embeddings one after the other, (B, M E), each of unit length."""
        return F.normalize(self.projection(queries), dim=-1).flatten(1)

    def forward(self, window: Tensor) -> Tensor:
        """window: (B, C, T) float32, preprocessed; returns embeddings, (B, M E)."""
        return self.embeddings(self.qformer(self.tokens(window)))
