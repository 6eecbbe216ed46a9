"""Helpers for tests of programs: an encoder's manifest entry, a trained run on disk, and skips for missing tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cpep_edge.manifest import EncoderSpec
from cpep_export.arm_toolchain import missing_tool

if TYPE_CHECKING:
    from cpep_train.checkpoint import Checkpoint

needs_make = pytest.mark.skipif(
    missing_tool(None) is not None, reason="needs make and gcc: apt-get install build-essential"
)
needs_qemu = pytest.mark.skipif(
    missing_tool("m55") is not None,
    reason="needs apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm",
)


def encoder_spec(n_channels: int, window_samples: int, d_embed: int, **more: Any) -> EncoderSpec:
    """The manifest entry of a fully delegated float32 encoder; `more` replaces other values."""
    values = {"runtime": "executorch-xnnpack", "quantisation": "fp32", "n_parameters": 1, "n_delegates": 1, **more}
    return EncoderSpec(
        file="encoder.pte",
        n_channels=n_channels,
        window_samples=window_samples,
        d_embed=d_embed,
        n_operators_outside=0,
        **values,
    )


def saved_run(folder: Path, checkpoint: "Checkpoint", data: Path) -> Path:
    """Write the folder of a training run."""
    from cpep_train.checkpoint import save_checkpoint
    from cpep_train.corpus import Corpus
    from cpep_train.leakage import save_splits, split_manifest

    folder.mkdir(exist_ok=True)
    save_checkpoint(folder, checkpoint)
    save_splits(folder, split_manifest(Corpus.open(data)))
    return folder
