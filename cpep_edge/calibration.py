"""Calibrate to the person and to how the band sits: the level of each channel while the hand moves for half a minute.

Skin, fat, and where electrodes lie decide how strong each channel is; they differ between people far more than gestures
do. Dividing each channel by its level in a short, unlabelled stretch of movement takes most of that away. The level is
the geometric mean of the RMS over tenths of a second, so that strong and weak moments count alike.
"""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cpep_edge.blocks import BlockSource
from cpep_edge.errors import ArtifactError, ConfigError, DataError
from cpep_edge.files import replacing
from cpep_edge.preprocess import Preprocessing, Preprocessor

LEVEL_STRETCH_S = 0.1
MIN_CALIBRATION_S = 2.0
SETTLE_S = 0.2  # of the filter, left out at the start
_FLAT_UV = 0.05  # quieter than the noise of any amplifier for EMG: the electrode hangs in the air or is shorted


class Profile(BaseModel):
    """One session's calibration, kept as a small JSON file beside the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(default=1, ge=1, le=1)
    level_uv: tuple[float, ...] = Field(min_length=1)  # of each channel
    sample_rate_hz: float = Field(gt=0)
    sos: tuple[tuple[float, ...], ...]  # the filter that the levels were measured behind
    seconds: float = Field(gt=0)
    created_utc: str

    def levels(self, preprocessing: Preprocessing, n_channels: int) -> NDArray[np.float32]:
        """The levels, (n_channels,); raises ConfigError when they were measured for another bundle's signal."""
        same_signal = (self.sample_rate_hz, self.sos) == (preprocessing.sample_rate_hz, preprocessing.sos)
        if len(self.level_uv) != n_channels or not same_signal:
            raise ConfigError(
                f"the profile, {len(self.level_uv)} channels at {self.sample_rate_hz:g} Hz, was measured for another "
                "bundle's signal; run cpep-edge calibrate with this bundle"
            )
        return np.array(self.level_uv, dtype=np.float32)


def stretch_levels_uv(filtered_uv: NDArray[np.float32], sample_rate_hz: float) -> NDArray[np.float64]:
    """RMS of each tenth of a second, (n_stretches, n_channels), microvolts.

    filtered_uv: (n_samples, n_channels), filtered and not scaled
    """
    n = round(LEVEL_STRETCH_S * sample_rate_hz)
    n_stretches = len(filtered_uv) // n
    stretches = filtered_uv[: n_stretches * n].reshape(n_stretches, n, -1).astype(np.float64)
    levels: NDArray[np.float64] = np.sqrt(np.mean(stretches**2, axis=1))
    return levels


def channel_levels_uv(stretches_uv: NDArray[np.float64]) -> NDArray[np.float32]:
    """The level of each channel, (n_channels,): the geometric mean over stretches, (n_stretches, n_channels).

    Raises DataError when there is too little signal, or a channel is flat.
    """
    if len(stretches_uv) < MIN_CALIBRATION_S / LEVEL_STRETCH_S:
        raise DataError(f"{len(stretches_uv) * LEVEL_STRETCH_S:.1f} s of signal are too short, calibrate for longer")
    levels = np.exp(np.mean(np.log(np.maximum(stretches_uv, 1e-9)), axis=0))
    flat = np.flatnonzero(levels < _FLAT_UV)
    if flat.size:
        raise DataError(f"channel {flat[0] + 1} is flat: check that its electrode touches the skin")
    level_uv: NDArray[np.float32] = levels.astype(np.float32)
    return level_uv


def calibrate(source: BlockSource, preprocessing: Preprocessing, seconds: float) -> Profile:
    """Measure the channel levels of a session from an opened source, while the wearer moves.

    Raises DataError when too little signal came or a channel is flat.
    """
    info = source.info
    unscaled = Preprocessing(preprocessing.sample_rate_hz, preprocessing.sos, scale_uv=1.0, clip=np.inf)
    preprocess = Preprocessor(unscaled, info.n_channels)
    wanted = round((seconds + SETTLE_S) * preprocessing.sample_rate_hz)
    filtered: list[NDArray[np.float32]] = []
    n_samples = 0
    for block in source:
        filtered.append(preprocess(block.samples_uv))
        n_samples += len(block.samples_uv)
        if n_samples >= wanted:
            break
    settled = np.concatenate([np.empty((0, info.n_channels), np.float32), *filtered])
    settled = settled[round(SETTLE_S * preprocessing.sample_rate_hz) :]
    levels = channel_levels_uv(stretch_levels_uv(settled, preprocessing.sample_rate_hz))
    return Profile(
        level_uv=tuple(float(level) for level in levels),
        sample_rate_hz=preprocessing.sample_rate_hz,
        sos=preprocessing.sos,
        seconds=len(settled) / preprocessing.sample_rate_hz,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def save_profile(profile: Profile, path: Path) -> None:
    """Write a profile, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(profile.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_profile(path: Path) -> Profile:
    """Read a profile; raises ArtifactError when there is none or it is malformed."""
    if not path.is_file():
        raise ArtifactError(f"{path}: there is no such profile; make one with: cpep-edge calibrate")
    try:
        return Profile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a valid profile: {error.errors()[0]['msg']}") from error
