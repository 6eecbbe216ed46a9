"""Print the gesture in each second of a recording.

python examples/recognise_recording.py my.cpep session.hdf5
"""

import sys
from pathlib import Path

import cpep_edge

if len(sys.argv) != 3:
    sys.exit("usage: python examples/recognise_recording.py BUNDLE SESSION")
try:
    recogniser = cpep_edge.load(sys.argv[1])
    with cpep_edge.Session(Path(sys.argv[2])) as session:
        emg_uv = session.emg()  # (n_samples, n_channels)
    second = max(round(recogniser.sample_rate_hz), recogniser.window_samples)
    for end in range(second, len(emg_uv) + 1, second):
        answer = recogniser.recognise(emg_uv[end - second : end])
        print(f"{end / recogniser.sample_rate_hz:6.1f} s  {answer.gesture}  {answer.confidence:.0%}")
except cpep_edge.errors.CpepError as error:
    sys.exit(f"error: {error}")
