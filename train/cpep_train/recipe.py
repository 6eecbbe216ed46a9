"""Recipes: everything that decides a training run, read from TOML into one frozen object.

A recipe may name another as its `base` and say only what differs. A variant is a short recipe without a base that can
be applied to any other: `cpep+mean-pooling` is the recipe `cpep` with the variant `mean-pooling` applied.
Unknown keys and bad values are reported together, in one sentence, before anything else happens. Lengths in samples
count EMG samples, on the pose side too.
"""

import difflib
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cpep_edge.errors import ConfigError
from cpep_edge.mpf import MpfSpec, band_edges_hz, design_bands
from cpep_edge.names import check_name
from cpep_edge.preprocess import Preprocessing, design_filter
from cpep_edge.session import N_JOINTS
from cpep_edge.toml_text import faults, load_toml, parse_toml
from cpep_train.recipe_keys import keys_of

if TYPE_CHECKING:
    from cpep_train.model import EncoderConfig  # imports torch; a wrong recipe is refused without waiting for that

N_WRIST_ANGLES = 3  # flexion, deviation, pronation: only pose templates have them

# Plausible upper bounds: a larger value is a mistake, or a malicious file that would use up the memory.
_MOST_SAMPLES = 1_000_000  # of a window
_WIDEST = 16_384
_MOST_EPOCHS = 1_000_000
_STRONGEST = 1_000.0  # of learning rates, temperatures, weights and noise
_MOST_ELECTRODES = 64  # of covariances, as MpfSpec takes
_LONGEST_NAME = 4_096  # of a path, on Linux

Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    """Part of a recipe: immutable, and strict about unknown keys and values of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Signal(_Part):
    """The signal of the wristband, and its filter."""

    sample_rate_hz: float = Field(gt=0, le=1e6)  # sample rate of the recordings; a corpus at another rate is refused
    n_channels: int = Field(gt=0, le=1_024)  # number of electrodes
    high_pass_hz: float = Field(gt=0)  # corner of the high-pass, which removes movement of cables
    notch_hz: float | None = Field(default=None, gt=0)  # mains frequency to remove; None: no notch filter
    clip: float = Field(gt=0, le=1e6)  # limit of the filtered signal, as a multiple of the corpus' RMS


class Windows(_Part):
    """How recordings are cut."""

    window_samples: int = Field(gt=0, le=_MOST_SAMPLES)  # length of a window
    stride_samples: int = Field(gt=0, le=_MOST_SAMPLES)  # distance between the starts of two windows
    jitter_samples: int = Field(default=0, ge=0, le=_MOST_SAMPLES)  # shifts each training window by up to this much


class Recordings(_Part):
    """The recordings that are used, and dead channels."""

    hand: Literal["moving", "any"] = "moving"  # moving: only the wrist that was asked to move
    masked_channels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(), strict=False
    )  # dead channels, counted from 1, which are set to zero


class Calibration(_Part):
    """What a wearer does, unlabelled, at the start of a session, so that it is known how the band sits on this arm."""

    stages: tuple[str, ...] = Field(default=(), strict=False)  # movements to calibrate with, by stage name
    repetitions: int = Field(
        default=0, ge=0, le=_MOST_EPOCHS
    )  # recordings of each stage to use; both 0 and no stages: no calibration
    donning: Literal["session", "wearing", "user"] = "session"  # which recordings share a calibration
    max_turn: int = Field(default=2, ge=0, le=64)  # largest turn of the band to correct, in electrodes
    mirrored: bool = False  # also correct a band that is worn mirrored
    placed: bool = False  # bring training people to a common placement too

    @property
    def asked(self) -> bool:
        """Whether wearers calibrate."""
        return bool(self.stages or self.repetitions)


class _Encoder(_Part):
    patch_samples: int = Field(gt=0, le=_MOST_SAMPLES)  # samples of one token
    width: int = Field(gt=0, le=_WIDEST)  # size of a token
    n_layers: int = Field(gt=0, le=1_000)  # number of transformer blocks
    n_heads: int = Field(gt=0, le=_WIDEST)  # attention heads; must divide the width
    mlp_ratio: int = Field(gt=0, le=100)  # width of a block's hidden layer, relative to the width
    dropout: float = Field(default=0.0, ge=0, lt=1)  # dropout rate
    pooling: Literal["cls", "mean"] = "cls"  # output of the encoder: a [CLS] token, or the mean of all tokens


class EmgEncoderSettings(_Encoder):
    """The encoder that goes to the device."""

    # The paper uses raw; `cpep_train.model.front_end` says what rectifying gains. With mpf (`cpep_edge.mpf`), a patch
    # is the hop from one token to the next.
    front_end: Literal["raw", "rectified", "mpf"] = "raw"  # signal, its absolute value, or log-covariances
    level_samples: int = Field(default=1, gt=0, le=_MOST_SAMPLES)  # rectified: samples averaged into one
    span_samples: int = Field(
        default=0, ge=0, le=_MOST_SAMPLES
    )  # mpf: samples that a token's covariances cover, whole patches
    band_edges_hz: tuple[float, ...] = Field(
        default=(), strict=False
    )  # mpf: edges of the frequency bands; none: chosen by the sample rate
    shrinkage: float = Field(default=0.01, gt=0, lt=1)  # mpf: shrinkage of covariances to a sphere
    block_patches: int = Field(
        default=0, ge=0, le=_MOST_SAMPLES
    )  # patches of a block of a streaming encoder; 0: not streaming


class PoseEncoderSettings(_Encoder):
    """The encoder that fills the index; its width is that of the embeddings."""

    source: Literal["recorded", "templates", "gestures"] = "recorded"  # where poses come from, see `pose_templates`
    decimation: int = Field(default=1, gt=0, le=_MOST_SAMPLES)  # keep every n-th pose sample; poses are smooth


class _Stage(_Part):
    epochs: int = Field(gt=0, le=_MOST_EPOCHS)  # passes over all windows
    batch_size: int = Field(gt=1, le=1_000_000)  # windows per step, over all processes
    learning_rate: float = Field(gt=0, le=_STRONGEST)  # peak of the schedule
    weight_decay: float = Field(ge=0, le=_STRONGEST)  # weight decay of AdamW
    warm_up_share: Share  # share of steps in which the learning rate rises; then cosine decay


class MaeStage(_Stage):
    """Masked auto-encoding of one side."""

    mask_ratio: float = Field(gt=0, lt=1)  # share of patches that are hidden
    decoder_width: int = Field(gt=0, le=_WIDEST)  # width of the decoder that predicts hidden patches
    decoder_layers: int = Field(gt=0, le=1_000)  # blocks of that decoder


class Distillation(_Part):
    """Match a trained, larger encoder in place of contrasting with poses; see `cpep_train.distil`."""

    temperature: float = Field(ge=1e-4, le=_STRONGEST)  # temperature of the softmax over a batch's poses
    neighbour_weight: float = Field(ge=0, le=_STRONGEST)  # weight of the divergence beside one minus the cosine


class AlignStage(_Stage):
    """Contrastive alignment of EMG with the frozen pose encoder."""

    temperature: float = Field(ge=1e-4, le=_STRONGEST)  # start value of the learnable temperature
    same_gesture: Literal["negative", "ignored", "positive"] = "negative"  # other windows of the gesture in a batch
    distillation: Distillation | None = None  # None: no teacher
    emg_start: Literal["mae", "random"] = "mae"  # start of the EMG encoder; random skips stage emg-mae
    train_emg: bool = True  # False: train only the projection
    train_pose: bool = False  # True: train the pose encoder too; helps small encoders on covariances


class Augmentation(_Part):
    """What is varied in the EMG of the alignment, because the next wearer will vary it; all off by default."""

    channel_roll: int = Field(default=0, ge=0, le=1_024)  # turn the band by up to this many electrodes
    mirror: bool = False  # mirror the band in half of the windows
    gain_log_sd: float = Field(default=0.0, ge=0, le=10)  # random gain of the whole window, sd of its logarithm
    channel_gain_log_sd: float = Field(default=0.0, ge=0, le=10)  # random gain of each electrode, sd of its logarithm
    channel_dropout: Share = 0.0  # share of electrodes set to zero
    noise_sd: float = Field(default=0.0, ge=0, le=_STRONGEST)  # white noise, as a multiple of the corpus' RMS


class LogTo(_Part):
    """Where the figures of each epoch go beside `epochs.csv`; it changes nothing of the training."""

    name: Literal["none", "csv", "tensorboard", "wandb", "mlflow", "comet", "lit"] = "none"  # logger of Lightning
    options: dict[str, str | int | float | bool] = {}  # options of the logger: project = "...", tracking_uri = "..."


class Recipe(_Part):
    """One training run."""

    name: Annotated[str, AfterValidator(check_name)]  # name of the recipe in reports
    seed: int = Field(ge=0, lt=1 << 32)  # random seed; the same seed, data and machine give the same weights
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"  # auto: bf16-mixed where there is a GPU
    compile: bool = False  # use torch.compile: takes minutes first, then trains faster
    signal: Signal
    windows: Windows
    recordings: Recordings = Recordings()
    calibration: Calibration = Calibration()
    emg: EmgEncoderSettings
    pose: PoseEncoderSettings
    emg_mae: MaeStage
    pose_mae: MaeStage
    align: AlignStage
    augmentation: Augmentation = Augmentation()
    log_to: LogTo = LogTo()

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        odd = [n for n in self.recordings.masked_channels if n > self.signal.n_channels]
        faults = [f"recordings.masked_channels: there is no channel {n}" for n in odd]
        if len(set(self.recordings.masked_channels) - set(odd)) >= self.signal.n_channels:
            faults.append("recordings.masked_channels: no channel is left")
        faults += [*self._signal_faults(), *self._window_faults(), *self._encoder_faults(), *self._align_faults()]
        faults += self._mpf_faults()
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _signal_faults(self) -> list[str]:
        corners = {"high_pass_hz": self.signal.high_pass_hz, "notch_hz": self.signal.notch_hz}
        half_hz = self.signal.sample_rate_hz / 2
        return [
            f"signal.{key}: {corner:g} does not lie below half the sample rate"
            for key, corner in corners.items()
            if corner is not None and corner >= half_hz
        ]

    def _window_faults(self) -> list[str]:
        samples = {
            "windows.window_samples": self.windows.window_samples,
            "windows.stride_samples": self.windows.stride_samples,
            "windows.jitter_samples": self.windows.jitter_samples,
            "pose.patch_samples": self.pose.patch_samples,
        }
        step = self.pose.decimation
        return [f"{key}: {n} is not a multiple of pose.decimation {step}" for key, n in samples.items() if n % step]

    def _encoder_faults(self) -> list[str]:
        faults = []
        for side, encoder in (("emg", self.emg), ("pose", self.pose)):
            if self.windows.window_samples % encoder.patch_samples and not (
                side == "emg" and self.emg.front_end == "mpf"
            ):
                faults.append(
                    f"{side}.patch_samples: a window is not a whole number of {encoder.patch_samples}; "
                    f"windows.window_samples={self._nearest_window()} would be"
                )
            if encoder.width % encoder.n_heads:
                faults.append(f"{side}.n_heads: width {encoder.width} does not divide into {encoder.n_heads}")
        if self.emg.patch_samples % self.emg.level_samples:
            faults.append(f"emg.level_samples: a patch is not a whole number of levels of {self.emg.level_samples}")
        faults += self._streaming_faults()
        if self.emg.level_samples > 1 and self.emg.front_end != "rectified":
            faults.append('emg.level_samples: only front_end "rectified" has levels')
        return faults

    def _mpf_faults(self) -> list[str]:
        emg, windows, faults = self.emg, self.windows, []
        if emg.front_end != "mpf":
            given = [key for key in ("span_samples", "band_edges_hz") if getattr(emg, key)]
            return [f'emg.{key}: only front_end "mpf" has it' for key in given]
        hop = emg.patch_samples
        if emg.span_samples < hop or emg.span_samples % hop:
            faults.append(f"emg.span_samples: {emg.span_samples} is not a whole number of patches of {hop}")
        elif windows.window_samples - emg.span_samples < hop:
            faults.append(
                f"windows.window_samples: {windows.window_samples} hold fewer than two tokens, each over "
                f"{emg.span_samples} samples; lengthen the window or shorten emg.span_samples"
            )
        for key, n in (("stride_samples", windows.stride_samples), ("jitter_samples", windows.jitter_samples)):
            if n % hop:
                faults.append(f"windows.{key}: {n} is not a multiple of a token's hop, emg.patch_samples {hop}")
        if not 2 <= self.signal.n_channels <= _MOST_ELECTRODES:
            faults.append(f'signal.n_channels: front_end "mpf" takes two to {_MOST_ELECTRODES} electrodes')
        if emg.block_patches:
            faults.append('emg.block_patches: a streaming encoder takes the signal, not front_end "mpf"')
        if self.augmentation.channel_gain_log_sd:
            faults.append('augmentation.channel_gain_log_sd: tokens of front_end "mpf" know no gain of one electrode')
        try:
            design_bands(self.signal.sample_rate_hz, self._band_edges_hz())
        except ValueError as error:
            faults.append(f"emg.band_edges_hz: {error}")
        return faults

    def _band_edges_hz(self) -> tuple[float, ...]:
        return self.emg.band_edges_hz or band_edges_hz(self.signal.sample_rate_hz, self.signal.high_pass_hz)

    def mpf_spec(self) -> MpfSpec | None:
        """The front end that turns the signal into tokens; None when the encoder reads the signal itself."""
        if self.emg.front_end != "mpf":
            return None
        return MpfSpec(
            n_electrodes=self.signal.n_channels,
            bands=design_bands(self.signal.sample_rate_hz, self._band_edges_hz()),
            hop_samples=self.emg.patch_samples,
            span_samples=self.emg.span_samples,
            shrinkage=self.emg.shrinkage,
        )

    def _streaming_faults(self) -> list[str]:
        block = self.emg.block_patches
        if not block:
            return []
        faults = []
        n_patches = self.windows.window_samples // self.emg.patch_samples
        if n_patches % block or n_patches // block <= self.emg.n_layers:
            faults.append(
                f"emg.block_patches: {n_patches} patches are not more than {self.emg.n_layers} whole blocks of {block}"
            )
        if self.align.emg_start != "random":
            faults.append('emg.block_patches: masked auto-encoding needs the whole window, so emg_start = "random"')
        return faults

    def _nearest_window(self) -> int:
        """The window length nearest to the recipe's that both encoders' patches divide."""
        step = math.lcm(self.emg.patch_samples, self.pose.patch_samples, self.pose.decimation)
        return step * max(1, round(self.windows.window_samples / step))

    def _align_faults(self) -> list[str]:
        align, faults = self.align, []
        if align.distillation is not None and align.train_pose:
            faults.append("align.distillation: the poses are the teacher's, so align.train_pose must be false")
        if not align.train_emg and align.emg_start == "random":
            faults.append("align.train_emg: an encoder that starts at random must be trained")
        return faults

    def trains_as(self, other: "Recipe") -> bool:
        """Whether both lead to the same weights."""
        return self.model_dump(exclude={"log_to"}) == other.model_dump(exclude={"log_to"})

    @property
    def n_joints(self) -> int:
        """Angles in one pose: the 20 joints of the format, plus the wrist's when no pose was recorded."""
        return N_JOINTS + (0 if self.pose.source == "recorded" else N_WRIST_ANGLES)

    @property
    def d_embed(self) -> int:
        """Width of the embeddings, which is that of the frozen pose encoder."""
        return self.pose.width

    def emg_config(self) -> "EncoderConfig":
        """Size of the EMG encoder."""
        from cpep_train.model import EncoderConfig

        size = self.emg.model_dump(exclude={"span_samples", "band_edges_hz", "shrinkage"})
        spec = self.mpf_spec()
        if spec is None:
            return EncoderConfig(self.signal.n_channels, self.windows.window_samples, **size)
        size |= {"front_end": "raw", "patch_samples": 1}
        return EncoderConfig(spec.n_features, spec.n_tokens(self.windows.window_samples), **size)

    def pose_config(self) -> "EncoderConfig":
        """Size of the pose encoder, in decimated samples."""
        from cpep_train.model import EncoderConfig

        size = self.pose.model_dump(exclude={"source", "decimation", "patch_samples"})
        step = self.pose.decimation
        n_samples, patch = self.windows.window_samples // step, self.pose.patch_samples // step
        return EncoderConfig(self.n_joints, n_samples, patch, **size)

    def preprocessing(self, scale_uv: float) -> Preprocessing:
        """The filter of this recipe, with a scale that training measured."""
        signal = self.signal
        sos = design_filter(signal.sample_rate_hz, signal.high_pass_hz, signal.notch_hz)
        return Preprocessing(signal.sample_rate_hz, sos, scale_uv, signal.clip)


def load_recipe(path: Path | str, overrides: Sequence[str] = (), data: Path | None = None) -> Recipe:
    """Read a recipe by path, or by name among the shipped ones, with variants applied: NAME+VARIANT+...

    overrides: "key.sub=value", the value in TOML syntax; a bare word counts as a string
    data: the corpus that a recipe with `from_data` is adapted to (`cpep_train.own_band`); None: not adapted
    Raises ConfigError, naming all unknown keys and bad values at once.
    """
    first, *variants = str(path).split("+")
    file = _find(first, Path())
    values = _read(file, ())
    for variant in variants:
        values = _merged(values, _read_variant(variant))
    if variants:
        values["name"] = "+".join((str(values.get("name")), *(Path(variant).stem for variant in variants)))
    if values.pop("from_data", False) and data is not None:
        from cpep_train.own_band import fitted_to

        values = fitted_to(values, data)
    for override in overrides:
        values = _merged(values, _override(override))
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"recipe {'+'.join((file.name, *variants))}: {faults(error, _meant)}") from error


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the project, by name."""
    return _shipped("*.toml")


def shipped_variants() -> dict[str, Path]:
    """The variants that come with the project, by name; each can be applied to any recipe."""
    return _shipped("variants/*.toml")


def _shipped(pattern: str) -> dict[str, Path]:
    here = Path(__file__).parent
    folders = (here / "recipes", here.parent / "recipes")  # inside the wheel; in a checkout
    return {file.stem: file for folder in folders for file in sorted(folder.glob(pattern))}


def _find(path: Path | str, folder: Path) -> Path:
    given = folder / path
    with suppress(OSError):  # a name that is too long is not a file
        if given.is_file():
            return given
    shipped = shipped_recipes()
    name = Path(path).stem if Path(path).parent == Path() else None
    if name in shipped:
        return shipped[name]
    if name in shipped_variants():
        raise ConfigError(f"{name} is a variant, to be added to a recipe: write cpep+{name}")
    raise ConfigError(f"there is no recipe {path}; give a path, or one of {', '.join(sorted(shipped))}")


def _read_variant(path: str) -> dict[str, Any]:
    shipped = shipped_variants()
    file = Path(path) if len(path) < _LONGEST_NAME and Path(path).is_file() else shipped.get(path)
    if file is None:
        raise ConfigError(f"there is no variant {path}; give a path, or one of {', '.join(sorted(shipped))}")
    values = _values(file)
    if "base" in values:
        raise ConfigError(f"{file.name} has a base, so it is a recipe; a variant says only what it changes")
    return values


def _read(file: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if file in seen:
        raise ConfigError(f"recipe {file.name}: its chain of bases comes back to itself")
    values = _values(file)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"recipe {file.name}: base must be the name of a recipe")
    return _merged(_read(_find(base, file.parent), (*seen, file)), values)


def _values(file: Path) -> dict[str, Any]:
    try:
        return load_toml(file)
    except ValueError as error:
        raise ConfigError(f"recipe {file.name} cannot be read: {error}") from error


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both_tables = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both_tables else value
    return merged


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise ConfigError(f"cannot read the setting {text!r}; write it as key.sub=value")
    try:
        parsed: Any = parse_toml(f"value = {value}")["value"]
    except ValueError:
        parsed = value.strip()
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    result: dict[str, Any] = parsed
    return result


def _meant(key: str) -> str:
    """Suggest a key with a similar name, or with the same last word in another table; empty if there is none."""
    names = [known.name for known in keys_of(Recipe)]
    names += sorted({name.rpartition(".")[0] for name in names} - {""})
    last = key.rpartition(".")[2]
    near = difflib.get_close_matches(key, names, n=1) or [name for name in names if name.rpartition(".")[2] == last]
    return f"; did you mean {near[0]}?" if near else ""
