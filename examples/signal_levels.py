"""Print how strong the signal of each electrode is, once a second, and how many samples the link lost.

python examples/signal_levels.py /dev/ttyACM0 cpep
"""

import sys

import numpy as np

import cpep_edge

if not 2 <= len(sys.argv) <= 3:
    sys.exit("usage: python examples/signal_levels.py PORT [DEVICE]")
try:
    with cpep_edge.open_band(sys.argv[1], device=sys.argv[2] if len(sys.argv) == 3 else "cpep") as band:
        info = band.info
        print(f"{info.name}: {info.n_channels} channels at {info.sample_rate_hz:g} Hz", flush=True)
        second = []
        for block in band:
            second.append(block.samples_uv)  # (n_samples, n_channels)
            if sum(map(len, second)) >= info.sample_rate_hz:
                levels = " ".join(f"{level:7.1f}" for level in np.concatenate(second).std(axis=0))
                print(f"{levels} {info.unit}, {band.counts.lost_samples} samples lost", flush=True)
                second = []
except cpep_edge.errors.CpepError as error:
    sys.exit(f"error: {error}")
