"""What each way to quantise the EMG encoder costs in votes and accuracy, on trained encoders.

    python benchmarks/measure_quantisation.py --run RUN --data CORPUS [--run RUN --data CORPUS ...] --out FILE

Every way is evaluated like the ladder of an export: zero-shot accuracy on the same windows, and the share of votes
equal to those of the float32 module. Graphs are run by torch and not lowered; the ladder of an export includes the
effect of lowering. Scales are smoothed as in SmoothQuant (Xiao et al. 2023), which is exact in float32: the input of a
linear layer after a normalisation is divided by a scale for each channel, and its weights are multiplied by it.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cpep_edge.files import write_file
from cpep_edge.manifest import LadderStep
from cpep_edge.versions import git_commit
from cpep_export import training_windows
from cpep_export.fused import ClsBlock, FusedBlock, FusedEncoder, RootMeanSquare
from cpep_export.ladder import Ladder
from cpep_export.quantise import quantise
from cpep_train.checkpoint import load_checkpoint
from cpep_train.corpus import Corpus
from cpep_train.evaluate import embed_emg, embed_poses, evaluation_set, torch_embedding

SHARE_OF_ACTIVATIONS = 0.5  # alpha of SmoothQuant: how much of the activations' range is moved into the weights
MODULE = "float32 module"

Windows = NDArray[np.float32]


class SmoothedNorm(nn.Module):
    """A normalisation whose channels are divided by a scale."""

    def __init__(self, norm: RootMeanSquare, scale: Tensor) -> None:
        super().__init__()
        self.norm = norm
        self.inverse: Tensor
        self.register_buffer("inverse", 1 / scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (1, N, D)."""
        scaled: Tensor = self.norm(tokens) * self.inverse
        return scaled


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, action="append", help="Folder of a finished training run.")
    parser.add_argument("--data", type=Path, required=True, action="append", help="Its corpus.")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Ways to quantise the encoder, by the votes they keep\n",
        "| encoder | way | seen | unseen | votes kept |",
        "| --- | --- | --: | --: | --: |",
    ]
    for run, data in zip(options.run, options.data, strict=True):
        lines += [f"| {_row(step)} |" for step in _measure(run, data)]
    lines += [
        "",
        "Zero-shot balanced accuracy and votes as in an export's ladder, the graph run by torch. `python "
        f"benchmarks/measure_quantisation.py`, commit `{git_commit()[:12]}`.",
        "",
    ]
    write_file(options.out, "\n".join(lines))


def _measure(run: Path, data: Path) -> list[tuple[str, LadderStep]]:
    checkpoint = load_checkpoint(run)
    evaluation = evaluation_set(checkpoint, Corpus.open(data))
    ladder = Ladder(evaluation, embed_poses(checkpoint.pose, evaluation.references))
    queries, fused = ladder.evaluation.queries, FusedEncoder(checkpoint.emg).eval()
    drawn = training_windows.calibration_windows(evaluation, checkpoint.recipe.seed)
    ladder.climb_by_embedding(MODULE, embed_emg(torch_embedding(checkpoint.emg), queries))
    for name, make in _ways(fused, drawn).items():
        ladder.climb_by_embedding(name, embed_emg(_one_by_one(make()), queries))
    label = f"{checkpoint.recipe.name}, seed {checkpoint.recipe.seed}, {len(queries)} windows"
    return [(label, step) for step in ladder.steps]


def _ways(fused: FusedEncoder, drawn: Windows) -> dict[str, Callable[[], nn.Module]]:
    n = len(drawn)
    return {
        f"static int8, {n} windows": lambda: quantise(fused, "int8", drawn),
        f"static int8, {n // 4} windows": lambda: quantise(fused, "int8", drawn[: n // 4]),
        f"static int8, smoothed, {n} windows": lambda: quantise(_smoothed(fused, drawn), "int8", drawn),
        "dynamic int8": lambda: quantise(fused, "int8-dynamic", drawn),
        "int8 weights, float32 activations": lambda: _rounded(fused),
    }


def _rounded(fused: FusedEncoder) -> FusedEncoder:
    """The encoder with its weights rounded to int8 by output channel."""
    rounded = copy.deepcopy(fused)
    with torch.no_grad():
        for weight in rounded.parameters():
            if weight.dim() > 1:
                unit = weight.flatten(1).abs().amax(dim=1).view(-1, *[1] * (weight.dim() - 1)) / 127
                weight.copy_((weight / unit).round() * unit)
    return rounded


def _smoothed(fused: FusedEncoder, windows: Windows) -> FusedEncoder:
    smoothed = copy.deepcopy(fused)
    blocks = [block for block in smoothed.blocks if isinstance(block, FusedBlock)]
    for block in blocks:
        read_by: list[tuple[nn.Module, str, tuple[nn.Linear, ...]]] = [(block.mlp, "norm", (block.mlp.inner,))]
        if not isinstance(block, ClsBlock):  # in a ClsBlock, scores and mixture also read it, in float32
            read_by.append((block, "attention_norm", (block.q, block.k, block.v)))
        for owner, name, layers in read_by:
            norm = getattr(owner, name)
            scale = _scale(_largest(smoothed, norm, windows), layers)
            setattr(owner, name, SmoothedNorm(norm, scale))
            for layer in layers:
                layer.weight = nn.Parameter(layer.weight * scale, requires_grad=False)
    return smoothed


def _scale(largest: Tensor, layers: tuple[nn.Linear, ...]) -> Tensor:
    weights = torch.stack([layer.weight.abs().amax(dim=0) for layer in layers]).amax(dim=0)
    scale = largest.clamp_min(1e-5) ** SHARE_OF_ACTIVATIONS / weights.clamp_min(1e-5) ** (1 - SHARE_OF_ACTIVATIONS)
    return scale / scale.mean()


def _largest(encoder: FusedEncoder, norm: nn.Module, windows: Windows) -> Tensor:
    """The largest absolute value of each output channel of a normalisation, (D,)."""
    seen: list[Tensor] = []
    hook = norm.register_forward_hook(lambda _module, _given, gave: seen.append(gave.abs().amax(dim=(0, 1))))
    with torch.no_grad():
        for window in torch.from_numpy(windows):
            encoder(window[None])
    hook.remove()
    return torch.stack(seen).amax(dim=0)


def _one_by_one(module: nn.Module) -> Callable[[Windows], Windows]:
    @torch.no_grad()
    def embed(windows: Windows) -> Windows:
        return np.concatenate([module(window[None]).numpy() for window in torch.from_numpy(windows)])

    return embed


def _row(step: tuple[str, LadderStep]) -> str:
    label, (name, seen, unseen, votes) = step[0], (step[1].step, step[1].seen, step[1].unseen, step[1].vote_agreement)
    cells = (f"{value:.3f}" if value is not None else "-" for value in (seen, unseen))
    return " | ".join((label, name, *cells, f"{votes:.1%}"))


if __name__ == "__main__":
    main()
