"""Calibrate to the person and to how the band sits: half a minute of rest and movement before a session.

Skin, fat, and where electrodes lie decide how strong each channel is; they differ between people far more than gestures
do. Dividing each channel by its level in a short, unlabelled stretch of movement takes most of that away. The level is
the geometric mean of the RMS over tenths of a second, so that strong and weak moments count alike.

Which electrode lies over which muscle shows in the same levels: forearms are alike in where they are strong. A band
that was turned shows the usual pattern a few electrodes further on, and the turn under which both agree best is
undone.

Rest, where it was measured, tells how quiet this arm is: the level below which the muscles are taken to do nothing.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cpep_edge.blocks import BlockSource
from cpep_edge.bundle import DecisionSpec, Manifest
from cpep_edge.decisions import at_risk
from cpep_edge.errors import ArtifactError, ConfigError, DataError
from cpep_edge.files import replacing
from cpep_edge.preprocess import Preprocessing, Preprocessor

LEVEL_STRETCH_S = 0.1
MIN_CALIBRATION_S = 2.0
SETTLE_S = 0.2  # of the filter, left out at the start
MAX_TURN = 2  # electrodes to either side that a turned band is looked for
REST_KEPT = 0.98  # of the tenths of a second of rest that its level is to lie above
_REST_SHARE = 0.75  # of the way from movement down to rest; chosen on simulated people of validation
_ODD_FACTOR = 4.0  # stronger or weaker than usual, from which an electrode is suspect
_FLAT_UV = 0.05  # quieter than the noise of any amplifier for EMG: the electrode hangs in the air or is shorted


class Profile(BaseModel):
    """One session's calibration, kept as a small JSON file beside the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(default=1, ge=1, le=1)
    level_uv: tuple[float, ...] = Field(min_length=1)  # of each channel, as the model knows them: the turn is undone
    turn: int = Field(default=0, ge=-MAX_TURN, le=MAX_TURN)  # electrodes by which the band sits turned
    rest_level: float = Field(default=0.0, ge=0)  # of all channels, in units of their levels; 0: not measured
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

    def decide(self, spec: DecisionSpec) -> DecisionSpec:
        """A bundle's way to decide, with this arm's rest in place of the usual one."""
        return spec.model_copy(update={"rest_level": self.rest_level}) if self.rest_level and spec.rest_level else spec


def fit_to_wearer(
    manifest: Manifest, profile: Path | None, max_risk: float | None
) -> tuple[NDArray[np.float32] | None, int, DecisionSpec]:
    """A bundle on one arm: the levels of its channels, (n_channels,), the band's turn, and how to decide.

    profile: file of `calibrate`; None leaves the levels out
    max_risk: share of the accepted windows that may be wrong, as `cpep_edge.decisions.at_risk` takes it
    Raises ArtifactError for no such profile, ConfigError for one of another bundle's signal or a risk out of reach.
    """
    spec = manifest.decision if max_risk is None else at_risk(manifest.decision, max_risk)
    if profile is None:
        return None, 0, spec
    calibration = load_profile(profile)
    levels_uv = calibration.levels(manifest.preprocessing, manifest.encoder.n_channels)
    return levels_uv, calibration.turn, calibration.decide(spec)


def unscaled(preprocessing: Preprocessing) -> Preprocessing:
    """The same filter, whose output is in microvolts."""
    return Preprocessing(preprocessing.sample_rate_hz, preprocessing.sos, scale_uv=1.0, clip=np.inf)


def stretch_levels_uv(filtered_uv: NDArray[np.float32], sample_rate_hz: float) -> NDArray[np.float64]:
    """RMS of each tenth of a second, (n_stretches, n_channels), microvolts.

    filtered_uv: (n_samples, n_channels), filtered and not scaled
    """
    n = round(LEVEL_STRETCH_S * sample_rate_hz)
    n_stretches = len(filtered_uv) // n
    stretches = filtered_uv[: n_stretches * n].reshape(n_stretches, n, filtered_uv.shape[1]).astype(np.float64)
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


def find_turn(level_uv: NDArray[np.float32], pattern: Sequence[float]) -> int:
    """By how many electrodes a band sits turned: where its levels correlate best with the usual pattern.

    level_uv: (n_channels,); pattern: the same number, logarithms; empty: nothing is known, and no turn is found
    """
    if len(pattern) != len(level_uv):
        return 0
    turns = sorted(range(-MAX_TURN, MAX_TURN + 1), key=abs)  # among equals the least
    agreement = [np.corrcoef(np.log(np.roll(level_uv, -turn)), pattern)[0, 1] for turn in turns]
    return turns[int(np.argmax(agreement))]


def rest_level(rest_uv: NDArray[np.float64], level_uv: NDArray[np.float32]) -> float:
    """The level that rest stays below: between it and movement, whose level is one, on a logarithmic scale.

    rest_uv: (n_stretches, n_channels), of rest, by `stretch_levels_uv`
    level_uv: (n_channels,), of movement
    """
    resting = np.sqrt(np.mean((rest_uv / level_uv) ** 2, axis=1))
    return float(min(1.0, np.quantile(resting, REST_KEPT)) ** _REST_SHARE)


def calibrate(
    source: BlockSource,
    preprocessing: Preprocessing,
    seconds: float,
    *,
    rest_seconds: float = 0.0,
    pattern: Sequence[float] = (),
    on_move: Callable[[], None] = lambda: None,
) -> Profile:
    """Calibrate from an opened source: the wearer rests for `rest_seconds`, then moves for `seconds`.

    pattern: of the bundle, by which a turned band is found
    on_move: called when the rest is over
    Raises DataError when too little signal came or a channel is flat.
    """
    info = source.info
    preprocess = Preprocessor(unscaled(preprocessing), info.n_channels)
    n_rest = round((rest_seconds + SETTLE_S) * preprocessing.sample_rate_hz) if rest_seconds else 0
    wanted = n_rest + round((seconds + SETTLE_S) * preprocessing.sample_rate_hz)
    filtered: list[NDArray[np.float32]] = []
    n_samples = 0
    for block in source:
        filtered.append(preprocess(block.samples_uv))
        moving, n_samples = n_samples >= n_rest, n_samples + len(block.samples_uv)
        if not moving and n_samples >= n_rest:
            on_move()
        if n_samples >= wanted:
            break
    everything = np.concatenate([np.empty((0, info.n_channels), np.float32), *filtered])
    settle = round(SETTLE_S * preprocessing.sample_rate_hz)
    rest, settled = everything[settle:n_rest], everything[n_rest + settle :]
    levels = channel_levels_uv(stretch_levels_uv(settled, preprocessing.sample_rate_hz))
    turn = find_turn(levels, pattern)
    rest_uv = stretch_levels_uv(rest, preprocessing.sample_rate_hz)
    return Profile(
        level_uv=tuple(float(level) for level in np.roll(levels, -turn)),
        turn=turn,
        rest_level=rest_level(rest_uv, levels) if len(rest_uv) else 0.0,
        sample_rate_hz=preprocessing.sample_rate_hz,
        sos=preprocessing.sos,
        seconds=len(settled) / preprocessing.sample_rate_hz,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def odd_electrodes(profile: Profile, pattern: Sequence[float]) -> dict[int, float]:
    """Electrodes much stronger or weaker than usual beside the others, counted from 1 as the model does: the factor."""
    if len(pattern) != len(profile.level_uv):
        return {}
    unusual = np.log(profile.level_uv) - np.array(pattern)
    factors = np.exp(unusual - np.median(unusual))
    return {n + 1: float(f) for n, f in enumerate(factors) if not 1 / _ODD_FACTOR < f < _ODD_FACTOR}


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
