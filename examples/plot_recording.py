"""Plot a folder that `live --record` wrote: the EMG and the decisions. Needs matplotlib.

python examples/plot_recording.py RECORDING plot.png
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cpep_edge.live_recording import LINES_FILE, SESSION_FILE
from cpep_edge.names import UNKNOWN
from cpep_edge.session import Session

_STROKES = 2000  # a plot has no more pixels in width


def plot_recording(recording: Path) -> Figure:
    """One strip per channel, scaled by its standard deviation; a coloured span for each gesture while it lasted."""
    with Session(recording / SESSION_FILE) as session:
        emg_uv, rate_hz = session.emg(0, session.n_samples), session.meta.sample_rate
    emg_uv -= np.median(emg_uv, axis=0)  # the electrodes' offsets
    lines = [json.loads(line) for line in (recording / LINES_FILE).read_text().splitlines()]
    blocks = [line for line in lines if line["type"] == "block"]
    changes = [line for line in lines if line["type"] == "decision" and line["changed"]]
    quiet = {UNKNOWN, lines[0]["spec"]["rest_gesture"]}
    began_s, duration_s = blocks[0]["device_t_s"], len(emg_uv) / rate_hz
    gestures = sorted({change["gesture"] for change in changes} - quiet)
    figure = Figure(figsize=(12, 0.35 * emg_uv.shape[1] + 1.2), layout="constrained")
    axes = figure.add_subplot(xlabel="seconds", ylabel="channel", title=recording.name, xlim=(0, duration_s))
    step = max(1, len(emg_uv) // _STROKES)
    whole = emg_uv[: len(emg_uv) // step * step].reshape(-1, step, emg_uv.shape[1])
    unit_uv = 8 * np.maximum(np.std(emg_uv, axis=0), 1e-3)
    seconds = (np.arange(len(whole)) + 0.5) * step / rate_hz
    for channel in range(emg_uv.shape[1]):
        low, high = (
            whole[..., channel].min(axis=1) / unit_uv[channel],
            whole[..., channel].max(axis=1) / unit_uv[channel],
        )
        axes.fill_between(seconds, channel + 1 + low, channel + 1 + high, color="0.25", linewidth=0.3)
    axes.set_yticks(range(1, emg_uv.shape[1] + 1))
    axes.invert_yaxis()
    end = {"device_t_s": began_s + duration_s}
    for change, after in pairwise([*changes, end]):
        if change["gesture"] in quiet:
            continue
        start_s, end_s = change["device_t_s"] - began_s, after["device_t_s"] - began_s
        axes.axvspan(start_s, end_s, color=f"C{gestures.index(change['gesture'])}", alpha=0.3, label=change["gesture"])
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def main() -> None:
    """Plot the recording named first into the file named second."""
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/plot_recording.py RECORDING plot.png")
    plot_recording(Path(sys.argv[1])).savefig(sys.argv[2], dpi=140)


if __name__ == "__main__":
    main()
