"""A toy corpus whose EMG determines the pose, small enough to train on in seconds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cpep_edge.session import N_JOINTS, SessionMeta, write_session
from cpep_train.checkpoint import Checkpoint
from cpep_train.corpus import Corpus, Row, write_metadata
from cpep_train.recipe import Recipe
from cpep_train.training import train

RATE_HZ = 500
N_CHANNELS = 4
STAGES = ("Fist", "Flat", "Point", "Rest", "Spread")
HELD_OUT_STAGE = "Spread"


def tiny_recipe() -> Recipe:
    encoder = {"width": 16, "n_layers": 1, "n_heads": 2, "mlp_ratio": 2}
    stage = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "weight_decay": 0.01, "warm_up_share": 0.1}
    mae = {**stage, "mask_ratio": 0.5, "decoder_width": 8, "decoder_layers": 1}
    return Recipe.model_validate(
        {
            "name": "tiny",
            "seed": 3,
            "signal": {"sample_rate_hz": RATE_HZ, "n_channels": N_CHANNELS, "high_pass_hz": 20.0, "clip": 10.0},
            "windows": {"window_samples": 100, "stride_samples": 50, "jitter_samples": 20},
            "emg": {**encoder, "patch_samples": 20, "front_end": "rectified"},
            "pose": {**encoder, "patch_samples": 20, "decimation": 10},
            "emg_mae": mae,
            "pose_mae": mae,
            "align": {**stage, "temperature": 0.05},
        }
    )


def toy_signals(
    stage: str, n_samples: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """EMG and poses, (n, 4) and (n, 20): the stage determines channel amplitudes and joint angles."""
    number = STAGES.index(stage)
    amplitude_uv = 5 + 20 * np.array([number == 0, number == 1, number in (2, 4), number in (3, 4)])
    emg_uv = 100 + amplitude_uv * rng.standard_normal((n_samples, N_CHANNELS))
    pose = np.sin(np.arange(N_JOINTS) * (1 + number)) + 0.02 * rng.standard_normal((n_samples, N_JOINTS))
    return emg_uv.astype(np.float32), pose.astype(np.float32)


def write_toy_session(
    folder: Path,
    name: str,
    stage: str = "Fist",
    user: str = "u0",
    n_samples: int = 1000,
    seed: int = 0,
    time_s: NDArray[np.float64] | None = None,
    failed: slice | None = None,
) -> Path:
    """Write one session file; `failed` marks samples whose pose fit failed."""
    emg_uv, pose = toy_signals(stage, n_samples, np.random.default_rng(seed))
    if failed is not None:
        pose[failed] = np.nan
    time_s = np.arange(n_samples) / RATE_HZ if time_s is None else time_s
    meta = SessionMeta("s0", user, stage, "right", float(time_s[0]), float(time_s[-1]), N_CHANNELS, RATE_HZ, name)
    write_session(folder / f"{name}.hdf5", meta, time_s, emg_uv, pose)
    return folder / f"{name}.hdf5"


def write_toy_corpus(folder: Path, n_samples: int = 1000) -> Corpus:
    """Five people with five gestures; one person is for validation, one person and one gesture are held out."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for person in range(5):
        for stage in STAGES:
            held_user, held_stage = person == 4, stage == HELD_OUT_STAGE
            split = "test" if held_user or held_stage else "val" if person == 3 else "train"
            kind = "_".join(word for word, held in (("user", held_user), ("stage", held_stage)) if held)
            name = f"u{person}-{stage}"
            write_toy_session(folder, name, stage, f"u{person}", n_samples, seed=person * 10 + STAGES.index(stage))
            rows.append(Row(f"u{person}", "s0", stage, "right", "right", held_user, held_stage, split, kind, name))
    write_metadata(folder, rows)
    return Corpus.open(folder)


def renamed(folder: Path, names: dict[str, str]) -> Corpus:
    """A toy corpus with other gesture names, also in its files."""
    rows = []
    for row in Corpus.open(folder).rows:
        with h5py.File(folder / f"{row.filename}.hdf5", "r+") as file:
            file["emg2pose"].attrs["stage"] = names[row.stage]
        rows.append(replace(row, stage=names[row.stage]))
    write_metadata(folder, rows)
    return Corpus.open(folder)


def damage(file: Path, field: str, where: object, value: object) -> None:
    """Overwrite some samples of a field."""
    with h5py.File(file, "r+") as session:
        table = session["emg2pose/timeseries"][:]
        table[field][where] = value
        session["emg2pose/timeseries"][:] = table


def varied(recipe: Recipe, **parts: dict[str, object]) -> Recipe:
    """A copy of the recipe with some values changed."""
    changed = {name: getattr(recipe, name).model_copy(update=values) for name, values in parts.items()}
    return recipe.model_copy(update=changed)


def train_on(recipe: Recipe, corpus: Corpus, out: Path, **options: Any) -> Checkpoint:
    """Run a whole training without a progress display."""
    checkpoint = train(recipe, corpus.folder, out, progress=False, **options)
    assert checkpoint is not None
    return checkpoint


def write_recipe(recipe: Recipe, file: Path) -> Path:
    """Write the recipe as TOML, for commands."""
    values = recipe.model_dump(exclude_none=True, mode="json")
    parts = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if key not in parts]
    for name, part in parts.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in part.items())]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file
