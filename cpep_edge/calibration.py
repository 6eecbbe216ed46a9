"""Calibrate to the person and to how the band sits: half a minute of rest and movement before a session.

A calibration measures a `cpep_edge.donning.Donning`, and a `Profile` stores it as a file beside the bundle. If rest is
recorded too, it gives the rest level of this arm: below that level the muscles count as inactive.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cpep_edge.blocks import BlockSource
from cpep_edge.decisions import at_risk
from cpep_edge.donning import (
    FLAT_SHARE,
    FLAT_UV,
    SETTLE_S,
    Donning,
    Tokens,
    measure_donning,
    stretch_levels_uv,
    unscaled,
)
from cpep_edge.errors import ArtifactError, ConfigError, DataError
from cpep_edge.files import read_plain, write_file
from cpep_edge.input_stream import InputStream
from cpep_edge.manifest import DecisionSpec, Manifest
from cpep_edge.outside import unreadable
from cpep_edge.preprocess import LARGEST_UV, Preprocessing, Preprocessor
from cpep_edge.recogniser import Recogniser, head_input

PROFILE_SCHEMA = 2
REST_KEPT = 0.98  # share of the 0.1 s stretches of rest that should lie below the rest level
ADAPTING_HOP_S = 0.1  # between the windows that a head is adapted to
_REST_SHARE = 0.75  # how far down from movement to rest, in logarithms; chosen on simulated validation people
_GESTURE_MARGIN = 0.8  # the rest level stays below this share of the quietest 0.1 s stretches of gestures
_LEAST_LEVEL_UV = 1e-6  # accepted from a profile file; even a flat channel gets a far higher level
_MAX_PROFILE_BYTES = 1 << 24
_ODD_FACTOR = 4.0  # an electrode this many times stronger or weaker than usual is suspect

# Samples are divided by the level, so it is neither 0 nor infinite.
Level = Annotated[float, Field(ge=_LEAST_LEVEL_UV, le=LARGEST_UV)]


class Profile(BaseModel):
    """The calibration of one donning, stored as a small JSON file beside the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: int = Field(default=PROFILE_SCHEMA, ge=PROFILE_SCHEMA, le=PROFILE_SCHEMA)
    signal: str = Field(pattern=r"^[0-9a-f]{16}$")  # `signal_id` of the bundle it was measured with
    level_uv: tuple[Level, ...] = Field(min_length=1)  # of each channel, in the model's order
    order: tuple[int, ...] = Field(min_length=1)  # for each electrode of the model, the band's electrode, from 0
    dead: tuple[int, ...] = ()  # electrodes of the model that carry no signal of their own
    centre: tuple[float, ...] = ()  # mean token of the front end; empty: the bundle has no front end
    head: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")  # SHA-256 of the head to which `head_means` belong
    head_means: tuple[tuple[float, ...], ...] = ()
    rest_level: float = Field(default=0.0, ge=0, le=1e9)  # all channels, in units of their levels; 0: not measured
    seconds: float = Field(gt=0)
    created_utc: str

    def donning(self, manifest: Manifest) -> Donning:
        """The measured donning, for a bundle with the same signal.

        If the head was changed since, by teaching, its own means are used again.
        Raises ConfigError when the profile was measured for another bundle's signal, or is not complete.
        """
        n = manifest.n_channels
        n_features = 0 if manifest.front_end is None else manifest.front_end.n_features
        if self.signal != signal_id(manifest) or len(self.level_uv) != n:
            raise ConfigError(
                f"the profile, of {len(self.level_uv)} channels, was measured for another bundle's signal; run "
                "cpep-edge calibrate with this bundle"
            )
        if n_features and not self.centre:
            raise ConfigError(
                f"the profile has no mean token, which {manifest.name} subtracts from every token; make one with: "
                f"cpep-edge calibrate {manifest.name}.cpep"
            )
        whole = sorted(self.order) == list(range(n)) and len(self.centre) == n_features and min(self.level_uv) > 0
        if not whole or any(not 0 <= electrode < n for electrode in self.dead):
            raise ConfigError("the profile is damaged; run cpep-edge calibrate again")
        same_head = manifest.head is not None and self.head == manifest.files[manifest.head.file].sha256
        return Donning(
            order=self.order,
            level_uv=np.array(self.level_uv, np.float32),
            dead=self.dead,
            centre=np.array(self.centre, np.float32) if self.centre else None,
            head_means=np.array(self.head_means, np.float32) if same_head and self.head_means else None,
        )

    def decide(self, spec: DecisionSpec) -> DecisionSpec:
        """A bundle's decision settings with the rest level of this arm, if both have one."""
        return spec.model_copy(update={"rest_level": self.rest_level}) if self.rest_level and spec.rest_level else spec


def signal_id(manifest: Manifest) -> str:
    """A hash of everything that a calibration depends on: filter, channels and front end."""
    front_end = None if manifest.front_end is None else manifest.front_end.model_copy(update={"centre": ()})
    preprocessing = manifest.preprocessing
    signal = (manifest.n_channels, preprocessing.sample_rate_hz, preprocessing.sos, front_end)
    return hashlib.sha256(repr(signal).encode()).hexdigest()[:16]


def fit_to_wearer(
    manifest: Manifest, profile: Path | None, max_risk: float | None = None
) -> tuple[Donning, DecisionSpec]:
    """The donning and the decision settings of a bundle for one wearer.

    profile: file of `calibrate`; None: the band was not calibrated
    max_risk: share of the accepted windows that may be wrong, see `cpep_edge.decisions.at_risk`
    Raises ArtifactError when the profile cannot be read, ConfigError when it is of another bundle's signal or the
    risk cannot be reached.
    """
    spec = manifest.decision if max_risk is None else at_risk(manifest.decision, max_risk)
    if profile is None:
        return manifest.usual_donning, spec
    calibration = load_profile(profile)
    return calibration.donning(manifest), calibration.decide(spec)


def donning_of(
    recogniser: Recogniser,
    movement_uv: Sequence[NDArray[np.float32]],
    *,
    missing: Sequence[int] = (),
    placed: bool = True,
) -> Donning:
    """Measure from unlabelled movement how a band sits, and the means of the wearer's gestures for the head.

    movement_uv: recordings, each (n_samples, n_channels), raw
    missing: channels without an electrode of their own, as in `StreamInfo`; channels that were dead when the bundle
        was taught count as missing too
    placed: False assumes that the band sits as usual
    Raises DataError when there is too little signal, or too few channels carry any.
    """
    manifest, head, worn = recogniser.manifest, recogniser.head, recogniser.manifest.worn
    usual_dead = () if worn is None else tuple(worn.order[place] if worn.order else place for place in worn.dead)

    other = manifest.other_movements
    known = head if head is None or other is None else head.without(other)

    def likelihood(recordings: Sequence[Tokens]) -> float:
        return 0.0 if known is None else known.fit_of(head_inputs(recogniser, recordings))

    donning = measure_donning(
        movement_uv,
        manifest.preprocessing,
        manifest.front_end,
        orders=manifest.placement.orders(manifest.n_channels) if placed else (),
        likelihood=None if head is None else likelihood,
        pattern=manifest.level_pattern,
        missing=sorted({*missing, *manifest.masked_channels, *usual_dead}),
        flat_uv=FLAT_UV if manifest.unit == "uV" or worn is None else FLAT_SHARE * float(np.median(worn.level_uv)),
    )
    if head is None:
        return donning
    windows = head_inputs(recogniser, [recogniser.stream(donning)(one) for one in movement_uv])
    return replace(donning, head_means=head.adapted(windows, other).means)


def rest_level(rest_uv: NDArray[np.float64], level_uv: NDArray[np.float32]) -> float:
    """The rest level: a level between rest and movement, whose level is 1, on a logarithmic scale.

    rest_uv: (n_stretches, n_channels), of rest, from `stretch_levels_uv`
    level_uv: (n_channels,), of movement
    """
    resting = np.sqrt(np.mean((rest_uv / level_uv) ** 2, axis=1))
    return float(min(1.0, np.quantile(resting, REST_KEPT)) ** _REST_SHARE)


def rest_level_of(
    preprocessing: Preprocessing,
    donning: Donning,
    resting: Sequence[NDArray[np.float32]],
    moving: Sequence[NDArray[np.float32]],
) -> float:
    """The level that separates rest from gestures; 0 if none does, so that every window is classified.

    resting, moving: recordings, each (n_samples, n_channels), raw
    """
    quiet, loud = (
        np.concatenate([np.empty(0), *(_scaled_levels(preprocessing, donning, one) for one in recordings)])
        for recordings in (resting, moving)
    )
    if not len(quiet) or not len(loud):
        return 0.0
    between = float(min(1.0, np.quantile(quiet, REST_KEPT)) ** _REST_SHARE)
    level = min(between, _GESTURE_MARGIN * float(np.quantile(loud, 1 - REST_KEPT)))
    return level if level > float(np.median(quiet)) else 0.0


def calibrate(
    source: BlockSource,
    recogniser: Recogniser,
    seconds: float,
    *,
    rest_seconds: float = 0.0,
    on_move: Callable[[], None] = lambda: None,
) -> Profile:
    """Calibrate from an opened source: the wearer rests for `rest_seconds`, then moves for `seconds`.

    on_move: called when the rest is over
    Raises DataError when too little signal arrived or a channel is flat.
    """
    info, manifest = source.info, recogniser.manifest
    rate_hz = manifest.preprocessing.sample_rate_hz
    n_rest = round((rest_seconds + SETTLE_S) * rate_hz) if rest_seconds else 0
    wanted = n_rest + round((seconds + SETTLE_S) * rate_hz)
    raw: list[NDArray[np.float32]] = []
    n_samples = 0
    for block in source:
        raw.append(block.samples_uv)
        moving, n_samples = n_samples >= n_rest, n_samples + len(block.samples_uv)
        if not moving and n_samples >= n_rest:
            on_move()
        if n_samples >= wanted:
            break
    everything = np.concatenate([np.empty((0, info.n_channels), np.float32), *raw])
    if len(everything) <= n_rest:
        raise DataError(f"{len(everything) / rate_hz:.1f} s of signal are too short, calibrate for longer")
    donning = donning_of(recogniser, [everything[n_rest:]], missing=info.missing)
    resting = 0.0
    if n_rest and donning.level_uv is not None:
        resting = resting_level(recogniser, donning, everything[:n_rest])
    head = manifest.head
    return Profile(
        signal=signal_id(manifest),
        level_uv=() if donning.level_uv is None else tuple(donning.level_uv.tolist()),
        order=donning.order,
        dead=donning.dead,
        centre=() if donning.centre is None else tuple(donning.centre.tolist()),
        head="" if head is None else manifest.files[head.file].sha256,
        head_means=() if donning.head_means is None else tuple(map(tuple, donning.head_means.tolist())),
        rest_level=resting,
        seconds=(len(everything) - n_rest) / rate_hz,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def resting_level(recogniser: Recogniser, donning: Donning, rest_uv: NDArray[np.float32]) -> float:
    """`rest_level` of a recording of rest, (n_samples, n_channels), raw."""
    if donning.level_uv is None:
        return 0.0
    spec = recogniser.manifest.preprocessing
    filtered = Preprocessor(unscaled(spec), rest_uv.shape[1])(donning.arranged(rest_uv))
    stretches = stretch_levels_uv(filtered[round(SETTLE_S * spec.sample_rate_hz) :], spec.sample_rate_hz)
    live = [place for place in range(len(donning.level_uv)) if place not in donning.dead]
    return rest_level(stretches[:, live], donning.level_uv[live]) if len(stretches) else 0.0


def _scaled_levels(
    preprocessing: Preprocessing, donning: Donning, samples_uv: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The level of each 0.1 s of a recording, all live channels together, as `live` measures it, (n_stretches,)."""
    scaled = InputStream(preprocessing, None, samples_uv.shape[1], donning).scaled(samples_uv)
    settled = scaled[round(SETTLE_S * preprocessing.sample_rate_hz) :]
    stretches = stretch_levels_uv(settled, preprocessing.sample_rate_hz)
    live = [place for place in range(scaled.shape[1]) if place not in donning.dead]
    levels: NDArray[np.float64] = np.sqrt(np.mean(stretches[:, live] ** 2, axis=1))
    return levels


def odd_electrodes(profile: Profile, pattern: Sequence[float]) -> dict[int, float]:
    """Electrodes that are much stronger or weaker than usual, relative to the others.

    returns: factor from the usual level, by electrode, counted from 1 in the model's order
    """
    if len(pattern) != len(profile.level_uv):
        return {}
    unusual = np.log(profile.level_uv) - np.array(pattern)
    factors = np.exp(unusual - np.median(unusual))
    return {
        n + 1: float(f)
        for n, f in enumerate(factors)
        if n not in profile.dead and not 1 / _ODD_FACTOR < f < _ODD_FACTOR
    }


def save_profile(profile: Profile, path: Path) -> None:
    """Write a profile, completely or not at all; only an earlier profile is replaced."""
    require_profile_or_nothing(path)
    write_file(path, profile.model_dump_json(indent=2) + "\n")


def require_profile_or_nothing(path: Path) -> None:
    """Raise ConfigError when `path` exists and is not a profile, of any version."""
    if not os.path.lexists(path):
        return
    try:
        keys = set(json.loads(read_plain(path, _MAX_PROFILE_BYTES, follow=True)))
        is_profile = {"schema_version", "level_uv", "created_utc"} <= keys
    except (OSError, ValueError, TypeError, RecursionError):
        is_profile = False
    if not is_profile:
        raise ConfigError(f"{path} exists and is not a profile; choose another name with --out")


def load_profile(path: Path) -> Profile:
    """Read a profile. Raises ArtifactError when it is missing, malformed, or of an older version."""
    try:
        content = read_plain(path, _MAX_PROFILE_BYTES, follow=True)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: there is no such profile; make one with: cpep-edge calibrate") from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"profile {path} cannot be read: {unreadable(error)}") from error
    try:
        return Profile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if where == "schema_version" or b'"turn"' in content:
            raise ArtifactError(
                f"{path} is a profile of an older cpep-edge; make a new one with: cpep-edge calibrate"
            ) from error
        raise ArtifactError(f"{path} is not a profile: {where or 'the file'}: {first['msg']}") from error


def head_inputs(recogniser: Recogniser, recordings: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The head's inputs for the windows of some recordings, one every 0.1 s, (n, d).

    recordings: steps of the encoder's input, each (m, n_inputs), as `Recogniser.stream` gives them
    """
    manifest, n_steps = recogniser.manifest, recogniser.manifest.input_shape[1]
    a_step = 1 if manifest.front_end is None else manifest.front_end.hop_samples
    hop = max(1, round(ADAPTING_HOP_S * manifest.preprocessing.sample_rate_hz / a_step))
    if manifest.head is None:
        raise ValueError("this bundle has no head")
    reads_tokens = manifest.head.reads == "tokens"
    inputs = [np.empty((0, 0 if recogniser.head is None else len(recogniser.head.origin)), np.float32)]
    for steps in recordings:
        for at in range(0, len(steps) - n_steps + 1, hop):
            window = np.ascontiguousarray(steps[at : at + n_steps].T)
            embedding = np.empty(0, np.float32) if reads_tokens else recogniser.encoder.embed(window)
            inputs.append(head_input(manifest.head, window, embedding)[None])
    return np.concatenate(inputs)
