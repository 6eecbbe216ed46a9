"""The result of training: two encoders, and everything needed to use, evaluate and reproduce them.

A run's folder holds `recipe.json`, `checkpoint.json` and the weights of both encoders as safetensors, never a pickle.
`checkpoint.json` names the files of the weights and their SHA-256. Weights that differ from those of an
earlier checkpoint get file names with their hash, and `checkpoint.json` is written last, so the earlier checkpoint
stays complete until then.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from cpep_edge.errors import ArtifactError, ConfigError
from cpep_edge.files import write_file
from cpep_edge.head import Head
from cpep_edge.manifest_part import parse_json
from cpep_edge.mpf import MpfSpec
from cpep_edge.preprocess import Preprocessing
from cpep_train.leakage import SPLITS_FILE, SplitManifest, load_splits
from cpep_train.model import Embedder
from cpep_train.provenance import Provenance
from cpep_train.recipe import Recipe
from cpep_train.windows import Statistics

RECIPE_FILE = "recipe.json"
CHECKPOINT_FILE = "checkpoint.json"
EMG_WEIGHTS_FILE = "emg_encoder.safetensors"
POSE_WEIGHTS_FILE = "pose_encoder.safetensors"
HEAD_FILE = "head.npz"
SCHEMA_VERSION = 1
# Keys that were removed from recipes because they brought no benefit, with the values that switched them off.
_RETIRED = {"learn_temperature": True, "loss": "info-nce", "soft_targets": None, "apart_s": 0.0, "ema_decay": None}


@dataclass(frozen=True)
class Checkpoint:
    """A trained pair of encoders."""

    recipe: Recipe
    preprocessing: Preprocessing
    pose_mean_rad: NDArray[np.float32]  # (n_joints,), of the training sessions
    pose_std_rad: NDArray[np.float32]  # (n_joints,)
    emg: Embedder
    pose: Embedder
    seen_stages: tuple[str, ...]  # gestures whose EMG was trained on
    unseen_stages: tuple[str, ...]  # gestures held out of all training
    provenance: Provenance
    metrics: dict[str, float]  # last losses of the three stages
    front_end: MpfSpec | None = None  # None: the encoder reads the signal itself
    head: Head | None = None  # classifies the front end's tokens, without the encoder (`cpep_train.plain_head`)
    head_gestures: tuple[str, ...] = ()  # the head's classes, in its order
    splits: SplitManifest | None = None  # what was trained on and what may be tested; None: not recorded

    @property
    def statistics(self) -> Statistics:
        """The statistics that are needed to cut sessions into windows."""
        return Statistics(
            self.preprocessing.scale_uv,
            self.pose_mean_rad,
            self.pose_std_rad,
            self.front_end,
            self.head,
            self.head_gestures,
        )


class _Content(BaseModel):
    """`checkpoint.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)
    preprocessing: Preprocessing
    pose_mean_rad: list[float]
    pose_std_rad: list[float]
    front_end: MpfSpec | None = None
    head_gestures: tuple[str, ...] = ()
    seen_stages: tuple[str, ...]
    unseen_stages: tuple[str, ...]
    provenance: Provenance
    metrics: dict[str, float]
    weights_sha256: dict[str, str]  # by the name of the file

    def file(self, usual: str) -> str:
        """The file of this checkpoint that takes the place of the one with the usual name."""
        stem = Path(usual).stem
        return next((name for name in self.weights_sha256 if name == usual or name.startswith(f"{stem}-")), usual)


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint into the folder `run`, whole or not at all, in place of an earlier one."""
    save_recipe(run, checkpoint.recipe)
    parts = {EMG_WEIGHTS_FILE: _packed(checkpoint.emg), POSE_WEIGHTS_FILE: _packed(checkpoint.pose)}
    if checkpoint.head is not None:
        parts[HEAD_FILE] = checkpoint.head.to_bytes()
    hashes = dict(_save_part(run / name, content) for name, content in parts.items())
    content = _Content(
        schema_version=SCHEMA_VERSION,
        preprocessing=checkpoint.preprocessing,
        pose_mean_rad=checkpoint.pose_mean_rad.tolist(),
        pose_std_rad=checkpoint.pose_std_rad.tolist(),
        front_end=checkpoint.front_end,
        head_gestures=checkpoint.head_gestures,
        seen_stages=checkpoint.seen_stages,
        unseen_stages=checkpoint.unseen_stages,
        provenance=checkpoint.provenance,
        metrics=checkpoint.metrics,
        weights_sha256=hashes,
    )
    _write_text(run / CHECKPOINT_FILE, content.model_dump_json(indent=2) + "\n")
    for name in (EMG_WEIGHTS_FILE, POSE_WEIGHTS_FILE, HEAD_FILE):
        for file in (run / name, *run.glob(f"{Path(name).stem}-*{Path(name).suffix}")):
            if file.name not in hashes:
                file.unlink(missing_ok=True)


def load_checkpoint(run: Path) -> Checkpoint:
    """Read the checkpoint in the folder `run`; the encoders are in evaluation mode.

    Raises ArtifactError when a file is missing, was changed, or does not fit the recipe.
    """
    recipe = load_run_recipe(run)
    content = _read_content(run / CHECKPOINT_FILE)
    if not len(content.pose_mean_rad) == len(content.pose_std_rad) == recipe.n_joints:
        raise ArtifactError(f"{run / CHECKPOINT_FILE}: pose_mean_rad and pose_std_rad are not {recipe.n_joints} long")
    emg, pose = build_encoders(recipe)
    for name, module in ((EMG_WEIGHTS_FILE, emg), (POSE_WEIGHTS_FILE, pose)):
        load_weights(run / content.file(name), module, content.weights_sha256.get(content.file(name)))
    return Checkpoint(
        recipe=recipe,
        preprocessing=content.preprocessing,
        pose_mean_rad=np.array(content.pose_mean_rad, dtype=np.float32),
        pose_std_rad=np.array(content.pose_std_rad, dtype=np.float32),
        front_end=content.front_end,
        head=_load_head(run / content.file(HEAD_FILE), content.weights_sha256.get(content.file(HEAD_FILE))),
        head_gestures=content.head_gestures,
        emg=emg.eval(),
        pose=pose.eval(),
        seen_stages=content.seen_stages,
        unseen_stages=content.unseen_stages,
        provenance=content.provenance,
        metrics=content.metrics,
        splits=load_splits(run) if (run / SPLITS_FILE).is_file() else None,
    )


def build_encoders(recipe: Recipe) -> tuple[Embedder, Embedder]:
    """Fresh EMG and pose encoders of the recipe's sizes, sharing one embedding space.

    Raises ConfigError when they need more memory than is available.
    """
    try:
        return Embedder(recipe.emg_config(), recipe.d_embed), Embedder(recipe.pose_config(), None)
    except RuntimeError as error:
        if "alloc" not in str(error):
            raise
        raise ConfigError(
            f"the encoders of recipe {recipe.name} take more memory than there is; make them smaller"
        ) from error


def save_recipe(run: Path, recipe: Recipe) -> None:
    """Write the complete recipe, with bases and settings resolved."""
    _write_text(run / RECIPE_FILE, recipe.model_dump_json(indent=2) + "\n")


def load_run_recipe(run: Path) -> Recipe:
    """The recipe that the run in this folder was started with; raises ArtifactError where there is none."""
    file = run / RECIPE_FILE
    if not file.is_file():
        raise ArtifactError(f"{run}: {RECIPE_FILE} is missing, so this is not a training run")
    try:
        return Recipe.model_validate(_without_retired(parse_json(file.read_bytes())))
    except ValidationError as error:
        if error.errors()[0]["type"] == "extra_forbidden":
            key = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise ArtifactError(
                f"{file} sets {key}, which this version of cpep-edge does not know; use the version that trained it, "
                "or train it again"
            ) from error
        raise ArtifactError(f"{file} is not valid at {_first_fault(error)}") from error
    except ValueError as error:
        raise ArtifactError(f"{file} is not valid JSON: {error}") from error


def _without_retired(values: Any) -> Any:
    """Drop retired keys that are switched off; one that is in use stays, so that validation refuses it."""
    if not isinstance(values, dict) or not isinstance(values.get("align"), dict):
        return values
    align = {key: value for key, value in values["align"].items() if _RETIRED.get(key, ...) != value}
    return {key: value for key, value in values.items() if key != "qformer" or value is not None} | {"align": align}


def save_weights(file: Path, module: nn.Module) -> str:
    """Write the weights of a module as safetensors; returns the file's SHA-256."""
    content = _packed(module)
    write_file(file, content)
    return hashlib.sha256(content).hexdigest()


def load_weights(file: Path, module: nn.Module, sha256: str | None = None) -> None:
    """Read weights into a module.

    sha256: the expected hash of the file, if it is known
    Raises ArtifactError when the file is missing, was changed, or its tensors are not those of the module.
    """
    if not file.is_file():
        raise ArtifactError(f"{file} is missing; train the run to its end first")
    content = file.read_bytes()
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ArtifactError(f"{file} was changed after training (its SHA-256 differs)")
    try:
        weights = safetensors.torch.load(content)
    except (SafetensorError, ValueError) as error:
        raise ArtifactError(f"{file} is not a safetensors file: {error}") from error
    _check_shapes(file, weights, module.state_dict())
    module.load_state_dict(weights)


def _packed(module: nn.Module) -> bytes:
    return safetensors.torch.save(
        {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    )


def _save_part(file: Path, content: bytes) -> tuple[str, str]:
    """Write a file of a checkpoint without overwriting one that an earlier checkpoint may need.

    returns: the file's name and its SHA-256
    """
    sha256 = hashlib.sha256(content).hexdigest()
    if file.exists() and file.read_bytes() != content:
        file = file.with_stem(f"{file.stem}-{sha256[:12]}")
    write_file(file, content)
    return file.name, sha256


def _load_head(file: Path, sha256: str | None) -> Head | None:
    """The head of a run; None when the checkpoint has none. Raises ArtifactError when it is missing or was changed."""
    if sha256 is None:
        return None
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        raise ArtifactError(f"{file} is missing or was changed after training; train the run again")
    return Head.from_bytes(file.read_bytes())


def _check_shapes(file: Path, weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    odd = sorted(weights.keys() ^ expected.keys())
    if odd:
        raise ArtifactError(f"{file}: tensor {odd[0]} is in the file or in the recipe's encoder, not in both")
    for name, value in expected.items():
        if weights[name].shape != value.shape:
            got, wanted = tuple(weights[name].shape), tuple(value.shape)
            raise ArtifactError(f"{file}: tensor {name} has shape {got}, the recipe wants {wanted}")


def _read_content(file: Path) -> _Content:
    if not file.is_file():
        raise ArtifactError(f"{file} is missing; train the run to its end first")
    try:
        return _Content.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ArtifactError(f"{file} is not valid at {_first_fault(error)}") from error


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'the file'}: {first['msg']}"


def _write_text(file: Path, text: str) -> None:
    write_file(file, text)
