"""The EMG encoder rewritten, with the same weights, in the form that XNNPACK runs completely and fastest.

`cpep_train.model` is the reference; this module computes the same embedding with fewer and different operators. Every
rewrite is exact, and tests require the two to agree to 1e-5:

- Only LayerNorms read the residual stream, and they subtract its mean. So the weights of everything that writes to the
  stream (patches, positions, [CLS], attention, MLP) are centred once, and a LayerNorm is left with the division by the
  root mean square. Its gain and offset move into the linear layer that follows.
- The softmax ignores a term that is equal for all keys, so the bias of k is dropped. Its rows sum to one, so the bias
  of v moves into that of the output layer. The scale of the scores moves into q.
- With [CLS] pooling, only the row of [CLS] is read after the last block, so only that row gets a query, an output and
  an MLP there. With one query per head, the layers of keys and values need not run over all tokens (`ClsBlock`).
- The patch convolution becomes a linear layer over patches. Levels, which are means of rectified samples, need no
  operator of their own: the weight of a level is divided among its samples.

[CLS] is inserted by padding and adding. Concatenation would be as exact, but the XNNPACK quantizer converts every
concatenation to int8, regardless of its configuration, and the residual stream with it: on a weak model this changed
30 % of the votes.

The batch size is always 1.
Shapes: C channels, T samples, P samples per patch, N tokens with [CLS], D width, H heads, E outputs.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpep_edge.errors import ConfigError
from cpep_train.model import Attention, Block, Embedder, Encoder, StreamingEncoder

_TINY = 1e-12  # prevents division by zero in silence; its square root is far below any real length


class FusedEncoder(nn.Module):
    """An `Embedder` for one window at a time, in float32, ready to be quantised and lowered."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        if not isinstance(embedder.encoder, Encoder):
            raise ConfigError("a streaming encoder runs on Linux only; export it with --target linux or linux-aarch64")
        config = embedder.encoder.config
        blocks: list[Block] = [block for block in embedder.encoder.blocks if isinstance(block, Block)]
        self.n_channels = config.n_channels
        self.window_samples = config.window_samples
        self.d_embed = embedder.d_embed
        self.patch = PatchLayer(embedder.encoder)
        cls = embedder.encoder.cls.double() + embedder.encoder.position[:, :1].double()
        cls = _centred(cls, dim=-1).detach().float()
        self.start: Tensor
        self.register_buffer("start", torch.cat([cls, self.patch.offset], dim=1))  # (1, N, D), the tokens of silence
        reads_cls = config.pooling == "cls"
        self.blocks = nn.ModuleList((ClsBlock if reads_cls and b is blocks[-1] else FusedBlock)(b) for b in blocks)
        self.norm = RootMeanSquare(embedder.encoder.norm)
        self.pool: nn.Module = nn.Identity() if reads_cls else MeanPool(1 + config.n_tokens)
        self.projection = after_norm(embedder.encoder.norm, *projection_of(embedder))
        self.ones: Tensor
        self.register_buffer("ones", torch.ones(1, self.d_embed))

    @property
    def cls(self) -> Tensor:
        """The token in front of the patches, (1, 1, D)."""
        return self.start[:, :1]

    def inputs(self, window: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The inputs of each run of `forward` for a window, (1, C, T); here one run, with the window itself."""
        yield (window,)

    def embed(self, window: Tensor) -> Tensor:
        """window: (1, C, T); returns the embedding (1, E)."""
        embedding: Tensor = self(window)
        return embedding

    def forward(self, window: Tensor) -> Tensor:
        """window: (1, C, T) float32, preprocessed; returns the embedding (1, E), of unit length."""
        return unit_length(self.features(window), self.ones)

    def features(self, window: Tensor) -> Tensor:
        """The embedding before it is scaled to unit length, (1, 1, E)."""
        tokens = F.pad(self.patch(window), (0, 0, 1, 0)) + self.start  # (1, N, D)
        for block in self.blocks:
            tokens = block(tokens)
        features: Tensor = self.projection(self.pool(self.norm(tokens)))
        return features


class PatchLayer(nn.Module):
    """Turn patches into tokens. The constant part, with the positions if the encoder has them, is `offset`."""

    def __init__(self, encoder: Encoder | StreamingEncoder) -> None:
        super().__init__()
        patch = encoder.patch
        if patch.bias is None:
            raise ValueError("the patch layer has no bias, so this is not an encoder of cpep_train.model")
        self.rectified = encoder.config.front_end == "rectified"
        self.n_channels = patch.in_channels
        self.patch_samples = encoder.config.patch_samples
        self.level_samples = encoder.config.level_samples
        offset = patch.bias.double()[None, None]  # (1, 1, D)
        if isinstance(encoder, Encoder):
            offset = offset + encoder.position[:, 1:].double()  # (1, N - 1, D)
        weight = patch.weight.double().repeat_interleave(self.level_samples, dim=2) / self.level_samples  # (D, C, P)
        self.linear = _linear(_centred(weight.flatten(1), dim=0), None)
        self.offset: Tensor
        self.register_buffer("offset", _centred(offset, dim=-1).detach().float())

    def forward(self, window: Tensor) -> Tensor:
        """window: (1, C, T); returns the tokens without the offset, (1, N - 1, D)."""
        window = window.abs() if self.rectified else window
        patches = window.view(self.n_channels, -1, self.patch_samples).permute(1, 0, 2)  # (N - 1, C, P)
        tokens: Tensor = self.linear(patches.reshape(1, patches.shape[0], -1))
        return tokens


class RootMeanSquare(nn.Module):
    """A LayerNorm without centring, as its input has zero mean; its gain and offset are part of the next layer."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        d = norm.normalized_shape[0]
        self.eps = norm.eps
        self.mean: Tensor
        self.register_buffer("mean", torch.full((1, d), 1 / d))  # XNNPACK is slow at means, fast at products

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (1, N, D), of zero mean; returns the same shape, each token of mean square one."""
        return tokens * torch.rsqrt(F.linear(tokens * tokens, self.mean) + self.eps)


class FusedBlock(nn.Module):
    """One pre-norm transformer block."""

    only_cls = False  # whether the output is the row of [CLS] alone

    def __init__(self, block: Block) -> None:
        super().__init__()
        norm, attention = block.attention_norm, block.attention
        (wq, bq), (wk, _), (wv, bv) = _qkv(attention)
        wo, bo = _weights(attention.out)
        bv = bv + wv @ norm.bias.double()
        self.n_heads = attention.n_heads
        self.attention_norm = RootMeanSquare(norm)
        self.q = after_norm(norm, wq, bq)
        self.k = _linear(wk * norm.weight.double(), None)
        self.v = _linear(wv * norm.weight.double(), None)
        self.out = _linear(_centred(wo, dim=0), _centred(bo + wo @ bv, dim=0))
        self.mlp = FusedMlp(block)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (1, N, D); returns the same shape."""
        tokens = self.mlp(self.attend(tokens))
        return tokens

    def attend(self, tokens: Tensor) -> Tensor:
        """The first half, residual included."""
        normed = self.attention_norm(tokens)
        q, k, v = self.heads(self.q(normed)), self.heads(self.k(normed)), self.heads(self.v(normed))
        attention = torch.softmax(torch.bmm(q, k.transpose(1, 2)), dim=-1)  # (H, N, N)
        mixed = torch.bmm(attention, v).permute(1, 0, 2).reshape(1, q.shape[1], -1)  # (1, N, D)
        tokens = tokens + self.out(mixed)
        return tokens

    def heads(self, tokens: Tensor) -> Tensor:
        """(1, N, D) to (H, N, D / H)."""
        return tokens.view(tokens.shape[1], self.n_heads, -1).permute(1, 0, 2)


class ClsBlock(FusedBlock):
    """The last block when only [CLS] is read after it: (1, N, D) to (1, 1, D).

    With one query per head it is cheaper to multiply the query by the weights of the keys than to compute all keys,
    q (Wk x) = (q Wk) x, and to mix the tokens before the layer of the values, a (Wv x) = Wv (a x). Both layers become
    grouped convolutions over one position, with one group per head and the same weights.
    """

    only_cls = True

    def __init__(self, block: Block) -> None:
        super().__init__(block)
        width = self.k.in_features
        by_head = self.k.weight.view(self.n_heads, -1, width).transpose(1, 2)  # (H, D, D / H)
        self.k_of_query = _constant(by_head.reshape(self.n_heads * width, -1, 1))
        self.v_of_mixed = _constant(self.v.weight.view(width, width, 1))

    def attend(self, tokens: Tensor) -> Tensor:
        """The first half, residual included."""
        normed = self.attention_norm(tokens)
        query = self.q(normed[:, 0:1]).view(1, -1, 1)  # a slice, because XNNPACK has no `select`
        asked = F.conv1d(query, self.k_of_query, groups=self.n_heads).view(1, self.n_heads, -1)  # (1, H, D)
        scores = torch.bmm(normed, asked.transpose(1, 2)).transpose(1, 2)  # (1, H, N)
        mixed = torch.bmm(torch.softmax(scores, dim=-1), normed)  # (1, H, D)
        values = F.conv1d(mixed.reshape(1, -1, 1), self.v_of_mixed, groups=self.n_heads)  # (1, D, 1)
        tokens = tokens[:, 0:1] + self.out(values.view(1, 1, -1))
        return tokens


class FusedMlp(nn.Module):
    """The second half of a block, residual included."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        weight, bias = _weights(block.mlp_out)
        self.norm = RootMeanSquare(block.mlp_norm)
        self.inner = after_norm(block.mlp_norm, *_weights(block.mlp_in))
        self.outer = _linear(_centred(weight, dim=0), _centred(bias, dim=0))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (1, N, D); returns the same shape."""
        written: Tensor = self.outer(F.gelu(self.inner(self.norm(tokens))))
        return tokens + written


class MeanPool(nn.Module):
    """The mean of all tokens but [CLS]."""

    def __init__(self, n_tokens: int) -> None:
        super().__init__()
        share = torch.full((1, 1, n_tokens), 1 / (n_tokens - 1))
        share[..., 0] = 0  # [CLS] is first
        self.share: Tensor
        self.register_buffer("share", share)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (1, N, D); returns (1, 1, D)."""
        return torch.bmm(self.share, tokens)


def unit_length(features: Tensor, ones: Tensor) -> Tensor:
    """features: (1, 1, E); ones: (1, E); returns (1, E), of unit length."""
    unit: Tensor = features * torch.rsqrt(F.linear(features * features, ones) + _TINY)
    return unit.view(1, -1)


def _qkv(attention: Attention) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of q, k and v; those of q include the scale of the scores."""
    weight, bias = _weights(attention.qkv)
    (wq, bq), key, value = zip(weight.chunk(3), bias.chunk(3), strict=True)
    scale = (wq.shape[0] // attention.n_heads) ** -0.5
    return [(wq * scale, bq * scale), key, value]


def projection_of(embedder: Embedder) -> tuple[Tensor, Tensor]:
    """Weight and bias of the projection; those of the identity if there is none."""
    if isinstance(embedder.projection, nn.Linear):
        return _weights(embedder.projection)
    return torch.eye(embedder.d_embed, dtype=torch.float64), torch.zeros(embedder.d_embed, dtype=torch.float64)


def after_norm(norm: nn.LayerNorm, weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer that includes the gain and the offset of the LayerNorm before it."""
    return _linear(weight * norm.weight.double(), bias + weight @ norm.bias.double())


def _centred(weight: Tensor, dim: int) -> Tensor:
    return weight - weight.mean(dim=dim, keepdim=True)


def _weights(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias in float64, so that merging loses no precision."""
    return layer.weight.double(), layer.bias.double()


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = _constant(weight)
    if bias is not None:
        layer.bias = _constant(bias)
    return layer


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().float().contiguous(), requires_grad=False)
