"""Draw one session: its signal, its spectrum, its label and its pose."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from cpep_edge.errors import DataError
from cpep_edge.files import write_file
from cpep_edge.session import JOINT_NAMES, Session
from cpep_train.plots import png

MOST_COLUMNS = 4_000  # of a picture; a longer signal is drawn as minimum and maximum per column
_MOST_SPECTRUM_S = 60.0
_SHOWN_JOINTS = (
    "thumb_mcp_flexion",
    "index_mcp_flexion",
    "middle_mcp_flexion",
    "ring_mcp_flexion",
    "pinky_mcp_flexion",
)


def draw_session(path: Path, out: Path) -> Path:
    """Write a picture of a session file as PNG; raises DataError when the session cannot be read."""
    from matplotlib.figure import Figure

    with Session(path) as session:
        meta, time_s, emg = session.meta, session.time_s(), session.emg()
        poses, valid = session.valid_poses()
    if not np.isfinite(emg).all():
        raise DataError(f"{path}: field emg holds NaN or infinity")
    with_pose = bool(valid.any())
    figure = Figure(figsize=(13, 0.45 * emg.shape[1] + (6.5 if with_pose else 4)), layout="constrained")
    panels = figure.subplots(
        3 if with_pose else 2, 1, height_ratios=[max(3, 0.45 * emg.shape[1]), *([2.2] if with_pose else []), 2.2]
    )
    start_s = float(time_s[0])
    figure.suptitle(
        f"{path.name}: {meta.stage}, {meta.user}, session {meta.session}, {meta.side} wrist, {meta.num_channels} "
        f"channels at {meta.sample_rate:g} Hz, {len(emg) / meta.sample_rate:.1f} s"
    )
    centred = emg - np.median(emg, axis=0)
    apart = 6 * float(np.median(np.abs(centred)) or 1) + 1e-9
    for number, column in enumerate(centred.T):
        places, low, high = _least_and_greatest(column)
        panels[0].fill_between(time_s[places] - start_s, low - number * apart, high - number * apart, linewidth=0.4)
    panels[0].set_yticks(-apart * np.arange(emg.shape[1]), [f"{n + 1}" for n in range(emg.shape[1])])
    panels[0].set(ylabel=f"channel, {apart:.0f} µV apart", xlabel="s", xlim=(0, time_s[-1] - start_s))
    steps = np.flatnonzero(np.diff(time_s) > 1.5 / meta.sample_rate)
    for at in steps:
        panels[0].axvspan(time_s[at] - start_s, time_s[at + 1] - start_s, color="0.85")
    if with_pose:
        shown = np.where(valid[:, None], poses, np.nan)
        thin = max(1, len(shown) // MOST_COLUMNS)
        for name in _SHOWN_JOINTS:
            column = np.rad2deg(shown[::thin, JOINT_NAMES.index(name)])
            panels[1].plot(time_s[::thin] - start_s, column, label=name.replace("_", " "), linewidth=0.9)
        panels[1].set(ylabel="degrees", xlabel="s", xlim=(0, time_s[-1] - start_s))
        panels[1].legend(loc="upper right", fontsize="small", ncols=5)
    n = min(len(emg), round(_MOST_SPECTRUM_S * meta.sample_rate))
    frequency, power = signal.welch(centred[:n], meta.sample_rate, nperseg=min(n, round(meta.sample_rate)), axis=0)
    panels[-1].semilogy(frequency[1:], np.sqrt(power[1:]), linewidth=0.7)
    panels[-1].set(xlabel="Hz", ylabel="µV / √Hz", xlim=(0, meta.sample_rate / 2))
    write_file(out, png(figure))
    return out


def _least_and_greatest(
    column: NDArray[np.float32],
) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]:
    """Reduce a signal for drawing: positions, and the minimum and maximum from each position to the next."""
    n = -(-len(column) // MOST_COLUMNS)
    places = np.arange(0, len(column), n)
    return places, np.minimum.reduceat(column, places), np.maximum.reduceat(column, places)
