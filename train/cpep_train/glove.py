"""Convert CyberGlove sensors to the joint angles of the format: find working sensors, their ranges and their lag."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from cpep_edge.session import JOINT_NAMES, N_JOINTS

# Sensors of the CyberGlove 2 in its order; the 18-sensor glove lacks the distal joints. None: no joint of the format.
GLOVE_22: tuple[str | None, ...] = (
    "thumb_cmc_flexion", "thumb_mcp_flexion", "thumb_ip_flexion", "thumb_cmc_abduction",
    "index_mcp_flexion", "index_pip_flexion", "index_dip_flexion",
    "middle_mcp_flexion", "middle_pip_flexion", "middle_dip_flexion", "index_mcp_abduction",
    "ring_mcp_flexion", "ring_pip_flexion", "ring_dip_flexion", "ring_mcp_abduction",
    "pinky_mcp_flexion", "pinky_pip_flexion", "pinky_dip_flexion", "pinky_mcp_abduction",
    None, None, None,
)  # fmt: skip
GLOVE_18 = tuple(name for name in GLOVE_22 if name is None or "dip" not in name)
GLOVES = {22: GLOVE_22, 18: GLOVE_18}
# Usual active ranges in degrees (American Academy of Orthopaedic Surgeons), from the straight hand.
_RANGE_DEG = {
    "thumb_cmc_flexion": (0, 40), "thumb_cmc_abduction": (0, 60), "thumb_mcp_flexion": (0, 50),
    "thumb_ip_flexion": (0, 80), "mcp_flexion": (0, 90), "pip_flexion": (0, 100), "dip_flexion": (0, 70),
    "mcp_abduction": (0, 20),
}  # fmt: skip
_AWAY_FROM_THUMB = ("ring_mcp_abduction", "pinky_mcp_abduction")  # spreading moves these the other way than the index
_EXTREMES = (1, 99)  # percentiles that count as the ends of a sensor's range
_LARGEST_RANGE = 360  # degrees, or 8-bit codes: no finger can move more than this
_MOST_RANGE_VALUES = 200_000  # per file, evenly chosen, for the percentiles
_LONGEST_LAG_S = 0.6
_SMOOTH_S = 0.05


def sensor_ranges(gloves: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ends of each sensor's range over some files of one person, (sensors,) each; NaN where the sensor is broken.

    A sensor is broken if it has no value, never moved, or has a range that no joint can have.
    """
    values = np.concatenate([glove[:: -(-len(glove) // _MOST_RANGE_VALUES)] for glove in gloves])
    usable = np.isfinite(values).any(axis=0)
    low, high = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    if usable.any():
        finite = np.where(np.isfinite(values), values, np.nan)
        low[usable], high[usable] = np.nanpercentile(finite[:, usable], _EXTREMES, axis=0)
    broken = ~(high > low) | (high - low > _LARGEST_RANGE)
    low[broken] = high[broken] = np.nan
    return low, high


def joint_angles(
    glove: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], in_degrees: bool = False
) -> NDArray[np.float32]:
    """Map a glove's sensors to the joints of the format.

    glove: (n, 18 or 22)
    low, high: (18 or 22,), the ends of each sensor's range; sensors with NaN are left out
    in_degrees: whether the values are calibrated angles already
    returns: (n, 20) radians; joints without a working sensor are zero, rows with a non-finite value are NaN
    """
    out = np.zeros((len(glove), N_JOINTS))
    for sensor, joint in enumerate(GLOVES[glove.shape[1]]):
        if joint is None or not np.isfinite(low[sensor]) or not np.isfinite(high[sensor]):
            continue
        angle_deg = glove[:, sensor]
        if not in_degrees:
            if not high[sensor] > low[sensor]:
                continue
            finger, _, kind = joint.partition("_")
            least, most = _RANGE_DEG[joint if finger == "thumb" else kind]
            angle_deg = least + np.clip((angle_deg - low[sensor]) / (high[sensor] - low[sensor]), 0, 1) * (most - least)
        sign = -1 if joint in _AWAY_FROM_THUMB else 1
        out[:, JOINT_NAMES.index(joint)] = sign * np.deg2rad(angle_deg)
    out[:, JOINT_NAMES.index("pinky_mcp_abduction")] += out[:, JOINT_NAMES.index("ring_mcp_abduction")]
    out[~np.isfinite(out).all(axis=1)] = np.nan
    return out.astype(np.float32)


def lag_s(emg: NDArray[np.floating[Any]], pose_rad: NDArray[np.floating[Any]], sample_rate_hz: float) -> float | None:
    """How much later the glove moves than the muscles, in seconds; None when the two are not correlated.

    It is the lag at which changes of the EMG amplitude correlate best with the speed at which the hand leaves or
    approaches its usual pose. It includes the delays of the muscle, of the sensors and of the recording.

    emg: (n, n_channels); pose_rad: (n, 20)
    """
    smooth = max(1.0, _SMOOTH_S * sample_rate_hz)
    centred = np.abs(emg - np.median(emg, axis=0)).astype(np.float64)
    amplitude = ndimage.gaussian_filter1d(centred, smooth, axis=0)
    effort = np.mean(amplitude / (np.median(amplitude, axis=0) + 1e-12), axis=1)
    pose = np.nan_to_num(pose_rad.astype(np.float64))
    away = ndimage.gaussian_filter1d(np.linalg.norm(pose - np.median(pose, axis=0), axis=1), smooth)
    rise, move = np.diff(np.log(effort + 1e-12)), np.diff(away)
    if rise.std() == 0 or move.std() == 0 or len(rise) < 4:
        return None
    n = round(_LONGEST_LAG_S * sample_rate_hz)
    together = signal.correlate(_standard(move), _standard(rise), method="fft")[len(rise) - 1 :][: n + 1] / len(rise)
    best = int(np.argmax(together))
    by_luck = 5 / np.sqrt(len(rise) / (4 * smooth))  # smoothed samples are not independent
    return None if together[best] < by_luck else best / sample_rate_hz


def _standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    standard: NDArray[np.float64] = (values - values.mean()) / values.std()
    return standard
