"""The streaming encoder for a device: each run takes one block of signal and the state, and returns an embedding.

The rewrites are those of `cpep_export.fused`. The state holds the keys and values of each layer for the newest
`n_context` blocks. They are inputs of the program, and its outputs become the inputs of the next run. A new block
replaces the oldest one by padding and adding, because the quantizer would convert a concatenation's inputs to int8. A
state of zeros means a past without signal, and it has no influence after `n_blocks_seen` blocks.

Shapes: C channels, S samples per block, b tokens per block, K tokens in the state, D width, H heads, E outputs.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpep_export.fused import FusedBlock, PatchLayer, RootMeanSquare, after_norm, projection_of, unit_length
from cpep_train.model import Embedder, StreamingAttention, StreamingBlock, StreamingEncoder


class StreamingStep(nn.Module):
    """A streaming `Embedder`, block by block, in float32, ready to be quantised and lowered."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        encoder = embedder.encoder
        if not isinstance(encoder, StreamingEncoder):
            raise ValueError("the encoder sees its whole window at once, so it cannot run block by block")
        self.n_channels = encoder.config.n_channels
        self.window_samples = encoder.config.window_samples
        self.block_samples = encoder.config.block_samples
        self.n_blocks_seen = encoder.config.n_blocks_seen
        self.d_embed = embedder.d_embed
        self.patch = PatchLayer(encoder)
        self.blocks = nn.ModuleList(StepBlock(b) for b in encoder.blocks if isinstance(b, StreamingBlock))
        self.norm = RootMeanSquare(encoder.norm)
        self.projection = after_norm(encoder.norm, *projection_of(embedder))
        n_tokens, heads = encoder.config.block_patches, encoder.config.n_heads
        self._state_shape = (heads, n_tokens * encoder.config.n_context, encoder.config.width // heads)  # (H, K, D / H)
        self.ones: Tensor
        self.share: Tensor
        self.register_buffer("ones", torch.ones(1, self.d_embed))
        self.register_buffer("share", torch.full((1, 1, n_tokens), 1 / n_tokens))

    def fresh_state(self) -> tuple[Tensor, ...]:
        """Zeros: keys and values of each layer, (H, K, D / H)."""
        return tuple(torch.zeros(self._state_shape) for _ in range(2 * len(self.blocks)))

    def inputs(self, window: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The inputs of each run of `forward` for a window, (1, C, T), starting with a state of zeros."""
        state = self.fresh_state()
        for block in self._blocks(window):
            yield (block, *state)
            state = self(block, *state)[1:]

    def embed(self, window: Tensor) -> Tensor:
        """window: (1, C, T); returns the embedding (1, E) of its newest block."""
        state = self.fresh_state()
        for block in self._blocks(window):
            embedding, *state = self(block, *state)
        last: Tensor = embedding
        return last

    def forward(self, block: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """block: (1, C, S) float32, preprocessed; state: keys and values of each layer in turn, (H, K, D / H).

        returns: the embedding (1, E), unit length, and the state for the next block
        """
        tokens, after = self.patch(block) + self.patch.offset, []
        for layer, keys, values in zip(self.blocks, state[::2], state[1::2], strict=True):
            tokens, keys, values = layer(tokens, keys, values)
            after += [keys, values]
        features = self.projection(torch.bmm(self.share, self.norm(tokens)))  # (1, 1, E)
        return unit_length(features, self.ones), *after

    def _blocks(self, window: Tensor) -> tuple[Tensor, ...]:
        seen = window[..., -self.n_blocks_seen * self.block_samples :]
        return torch.split(seen, self.block_samples, dim=-1)


class StepBlock(FusedBlock):
    """One transformer block, for the newest tokens."""

    def __init__(self, block: StreamingBlock) -> None:
        super().__init__(block)
        if not isinstance(block.attention, StreamingAttention):
            raise ValueError("the attention is not that of a streaming encoder")
        self.bias: Tensor
        self.zero: Tensor
        self.register_buffer("bias", block.attention.bias().detach().contiguous())  # (H, b, K)
        self.register_buffer("zero", torch.zeros(1, 1, 1))

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """tokens: (1, b, D); keys, values: (H, K, D / H); returns all three for the next layer and the next block."""
        normed = self.attention_norm(tokens)
        keys, values = self._pushed(keys, self.k(normed)), self._pushed(values, self.v(normed))
        scores = torch.bmm(self.heads(self.q(normed)), keys.transpose(1, 2)) + self.bias  # (H, b, K)
        mixed = torch.bmm(torch.softmax(scores, dim=-1), values).permute(1, 0, 2).reshape(1, tokens.shape[1], -1)
        return self.mlp(tokens + self.out(mixed)), keys, values

    def _pushed(self, old: Tensor, tokens: Tensor) -> Tensor:
        """Drop the oldest tokens of old, (H, K, D / H), and append the new ones, (1, b, D).

        Adding zero is needed for int8: XNNPACK can pad the output of an addition, but not that of a quantised layer.
        """
        new = self.heads(tokens) + self.zero  # (H, b, D / H)
        n_new = new.shape[1]
        return F.pad(old[:, n_new:], (0, 0, 0, n_new)) + F.pad(new, (0, 0, old.shape[1] - n_new, 0))
