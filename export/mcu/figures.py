"""Repeat the figures of README.md: export an untrained encoder of some size, run it under QEMU, write JSON to stdout.

    python export/mcu/figures.py paper|small

Instructions, bytes and multiply-adds depend on the sizes alone. The cosine is that of random weights on noise whose
level varies between electrodes and over time like EMG from rest to effort; for a trained encoder see its export report.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import signal

from cpep_edge.preprocess import Preprocessing, design_filter
from cpep_export.arm_toolchain import Processor, compile_for, run_check
from cpep_export.cortex_m import export_cortex_m
from cpep_export.fused import FusedEncoder
from cpep_export.prototypes import Prototypes
from cpep_train.model import Embedder, EncoderConfig

RATE_HZ = 2_000.0
CLIP = 20.0
PROCESSORS: tuple[Processor, ...] = ("m55", "m7")
SIZES = {
    "paper": EncoderConfig(n_channels=16, window_samples=4000, patch_samples=50),
    "small": EncoderConfig(n_channels=16, window_samples=1000, patch_samples=50, width=96, n_layers=3),
}


def emg_like(config: EncoderConfig, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Band-limited noise, (n, C, T), whose level is random per electrode and drifts over time."""
    band = signal.butter(2, [40, 450], "bandpass", fs=RATE_HZ, output="sos")
    shape = (n, config.n_channels, config.window_samples)
    noise = signal.sosfilt(band, rng.normal(size=(*shape[:2], shape[2] + 200)))[..., 200:]
    wander = np.cumsum(rng.normal(0, 0.5 / np.sqrt(shape[2]), shape), axis=-1)
    level = np.exp(rng.normal(-0.3, 0.8, (*shape[:2], 1)) + wander)
    windows: NDArray[np.float32] = np.clip(noise / noise.std() * level, -CLIP, CLIP).astype(np.float32)
    return windows


def main(size: str) -> None:
    config = SIZES[size]
    torch.manual_seed(0)
    encoder = FusedEncoder(Embedder(config, config.width).eval()).eval()
    rng = np.random.default_rng(0)
    windows = emg_like(config, 40, rng)
    with torch.no_grad():
        embedding = np.concatenate([encoder(torch.from_numpy(window[None])).numpy() for window in windows])
    near = np.repeat(embedding, 5, axis=0) + 0.02 * rng.normal(size=(200, config.width))
    unit = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "out"
        written = export_cortex_m(
            encoder,
            Preprocessing(RATE_HZ, design_filter(RATE_HZ, 40.0), 20.0, CLIP),
            Prototypes(unit, np.repeat(np.arange(40), 5)),
            [f"gesture {number}" for number in range(40)],
            folder,
            calibration=windows[:16],
            golden_uv=(windows[:2].transpose(0, 2, 1) * 20 + 300).astype(np.float32),
            evaluation=windows[16:],
            run_on=PROCESSORS,
        )
        plain = {processor: _plain_instructions(folder, processor, Path(scratch)) for processor in PROCESSORS}
    sys.stdout.write(json.dumps({**asdict(written.report), "plain_window_instructions": plain}, indent=2) + "\n")


def _plain_instructions(folder: Path, processor: Processor, objects: Path) -> int:
    """Instructions per window with the reference kernels."""
    compile_for(folder, processor, objects, "plain")
    return run_check(folder, processor, objects, "plain").window_instructions


if __name__ == "__main__":
    main(sys.argv[1])
