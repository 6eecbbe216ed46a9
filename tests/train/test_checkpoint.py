import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cpep_edge.errors import ArtifactError, CpepError
from cpep_train.checkpoint import (
    CHECKPOINT_FILE,
    EMG_WEIGHTS_FILE,
    POSE_WEIGHTS_FILE,
    RECIPE_FILE,
    Checkpoint,
    build_encoders,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from cpep_train.provenance import Provenance
from tests.train.toy_corpus import varied


@pytest.fixture
def saved(tiny_recipe, tmp_path) -> tuple[Path, Checkpoint]:
    torch.manual_seed(0)
    emg, pose = build_encoders(tiny_recipe)
    checkpoint = Checkpoint(
        recipe=tiny_recipe,
        preprocessing=tiny_recipe.preprocessing(7.5),
        pose_mean_rad=np.linspace(0, 1, 20, dtype=np.float32),
        pose_std_rad=np.linspace(1, 2, 20, dtype=np.float32),
        emg=emg,
        pose=pose,
        seen_stages=("A", "B"),
        unseen_stages=("C",),
        provenance=Provenance(data="toy", data_sha256="0", git_commit="", versions={}, created_utc="now"),
        metrics={"align loss": 1.5},
    )
    save_checkpoint(tmp_path / "run", checkpoint)
    return tmp_path / "run", checkpoint


def test_a_checkpoint_reads_back_as_it_was_written(saved):
    run, checkpoint = saved
    loaded = load_checkpoint(run)
    for name in ("recipe", "preprocessing", "seen_stages", "unseen_stages", "provenance", "metrics"):
        assert getattr(loaded, name) == getattr(checkpoint, name)
    np.testing.assert_array_equal(loaded.pose_mean_rad, checkpoint.pose_mean_rad)
    np.testing.assert_array_equal(loaded.pose_std_rad, checkpoint.pose_std_rad)
    window = torch.randn(2, 4, 100)
    with torch.no_grad():
        assert torch.equal(loaded.emg(window), checkpoint.emg.eval()(window))


def test_the_folder_holds_four_files_and_no_pickle(saved):
    names = {file.name for file in saved[0].iterdir()}
    assert names == {RECIPE_FILE, CHECKPOINT_FILE, EMG_WEIGHTS_FILE, POSE_WEIGHTS_FILE}


def test_a_save_that_falls_anywhere_leaves_the_earlier_checkpoint(saved, monkeypatch):
    run, checkpoint = saved
    torch.manual_seed(1)
    emg, pose = build_encoders(checkpoint.recipe)
    later = replace(checkpoint, emg=emg, pose=pose, metrics={"align loss": 0.5})
    real, left = os.replace, 0

    def falls(source: Path, target: Path) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise OSError("no space")
        real(source, target)

    monkeypatch.setattr(os, "replace", falls)
    for step in range(1, 5):  # the files: recipe, two encoders, checkpoint.json
        left = step
        with pytest.raises(CpepError):
            save_checkpoint(run, later)
        assert load_checkpoint(run).metrics == {"align loss": 1.5}
        for name, value in load_checkpoint(run).emg.state_dict().items():
            assert torch.equal(value, checkpoint.emg.state_dict()[name])
    save_checkpoint(run, later)

    assert load_checkpoint(run).metrics == {"align loss": 0.5}
    for name, value in load_checkpoint(run).pose.state_dict().items():
        assert torch.equal(value, pose.state_dict()[name])
    assert len(list(run.glob("*.safetensors"))) == 2  # no weights of the earlier one are left
    save_checkpoint(run, checkpoint)
    assert load_checkpoint(run).metrics == {"align loss": 1.5}
    assert len(list(run.glob("*.safetensors"))) == 2


def _flip(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        content = bytearray((run / name).read_bytes())
        content[-1] ^= 1
        (run / name).write_bytes(content)

    return change


def _json(name: str, key: str, value: object) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        content = json.loads((run / name).read_text())
        content[key] = value
        (run / name).write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_flip(EMG_WEIGHTS_FILE), "emg_encoder.safetensors was changed"),
        (_flip(POSE_WEIGHTS_FILE), "pose_encoder.safetensors was changed"),
        (_json(CHECKPOINT_FILE, "pose_mean_rad", [0.0] * 19), "are not 20 long"),
        (_json(CHECKPOINT_FILE, "surprise", 1), "not valid at surprise"),
        (_json(CHECKPOINT_FILE, "schema_version", 2), "not valid at schema_version"),
        (_json(RECIPE_FILE, "seed", "x"), "not valid at seed"),
        (lambda run: (run / RECIPE_FILE).unlink(), "this is not a training run"),
        (lambda run: (run / CHECKPOINT_FILE).unlink(), "train the run to its end"),
        (lambda run: (run / EMG_WEIGHTS_FILE).unlink(), "emg_encoder.safetensors is missing"),
    ],
)
def test_a_checkpoint_that_was_tampered_with_is_refused(saved, change, says):
    change(saved[0])
    with pytest.raises(ArtifactError, match=says):
        load_checkpoint(saved[0])


def test_weights_of_another_size_are_refused_by_name_and_shape(saved, tiny_recipe):
    wider = varied(tiny_recipe, emg={"width": 32})
    with pytest.raises(ArtifactError, match=r"tensor encoder\.\S+ has shape \(.*\), the recipe wants"):
        load_weights(saved[0] / EMG_WEIGHTS_FILE, build_encoders(wider)[0])


def test_weights_with_a_tensor_too_few_or_no_safetensors_are_refused(saved, tmp_path):
    emg = saved[1].emg
    weights = {name: value for name, value in emg.state_dict().items() if name != "encoder.cls"}
    safetensors.torch.save_file(weights, tmp_path / "few.safetensors")
    with pytest.raises(ArtifactError, match=r"encoder\.cls is in the file or in the recipe"):
        load_weights(tmp_path / "few.safetensors", emg)
    (tmp_path / "none.safetensors").write_bytes(b"\x80\x04junk")
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        load_weights(tmp_path / "none.safetensors", emg)


def test_a_recipe_with_keys_that_are_gone_is_read_where_it_left_them_unused(saved):
    run, checkpoint = saved
    recipe = json.loads((run / RECIPE_FILE).read_text())
    unused = {"learn_temperature": True, "loss": "info-nce", "soft_targets": None, "apart_s": 0.0, "ema_decay": None}
    recipe["align"] |= unused
    (run / RECIPE_FILE).write_text(json.dumps({**recipe, "qformer": None}))
    assert load_checkpoint(run).recipe == checkpoint.recipe
    for name, used in (("align.loss", {**recipe, "align": {**recipe["align"], "loss": "siglip"}}),
                       ("qformer", {**recipe, "qformer": {"n_queries": 16}})):  # fmt: skip
        (run / RECIPE_FILE).write_text(json.dumps(used))
        with pytest.raises(ArtifactError, match=f"sets {name}, which this version of cpep-edge does not know"):
            load_checkpoint(run)


@pytest.mark.parametrize("content", ["", "[1]", '{"align": 3}', "[" * 5000, '{"align": {"loss": []}}'])
def test_what_is_no_recipe_is_refused(content, saved):
    (saved[0] / RECIPE_FILE).write_text(content)
    with pytest.raises(ArtifactError, match="is not valid"):
        load_checkpoint(saved[0])
