"""How many multiply-adds one window takes, counted from the shapes; energy models start from it.

Counted are products of activations with weights or with each other, as the engine computes them: only [CLS] leaves the
last block. What fills up vectors is not counted, nor are norms, the softmax and the filter, which are below 1 %.
"""

from dataclasses import dataclass

from cpep_export.fixed_point import IntegerEncoder


@dataclass(frozen=True, slots=True)
class MultiplyAdds:
    """Multiply-adds of one window."""

    patches: int
    projections: int  # of attention: queries, keys, values, outputs
    attention: int  # scores and mixing
    mlp: int
    embedding: int
    search: int  # prototypes, coarse; how many are compared in full besides depends on the window

    @property
    def total(self) -> int:
        """All of them."""
        return self.patches + self.projections + self.attention + self.mlp + self.embedding + self.search


def count_multiply_adds(encoder: IntegerEncoder, n_prototypes: int) -> MultiplyAdds:
    """Count for one window and one search among prototypes."""
    n, d = encoder.n_tokens, encoder.width
    n_queries = (len(encoder.blocks) - 1) * n + 1  # rows that leave a block, over all blocks
    return MultiplyAdds(
        patches=(n - 1) * d * encoder.n_channels * encoder.patch_samples // encoder.level_samples,
        projections=2 * len(encoder.blocks) * n * d * d + 2 * n_queries * d * d,
        attention=2 * n_queries * n * d,
        mlp=2 * n_queries * d * encoder.hidden,
        embedding=d * encoder.d_embed,
        search=n_prototypes * encoder.d_embed,
    )
