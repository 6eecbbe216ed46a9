"""Every documented value of a recipe's keys trains, and every variant in half precision, which a CPU computes too."""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from pydantic import BaseModel

from cpep_train.corpus import Corpus
from cpep_train.recipe import Recipe
from cpep_train.training import train

# What each variant of train/recipes changes, at the size of the toy.
VARIANTS: dict[str, dict[str, Any]] = {
    "published": {"emg.front_end": "raw"},
    "mean-pooling": {"emg.pooling": "mean", "pose.pooling": "mean"},
    "log-covariances": {
        "emg.front_end": "mpf", "emg.span_samples": 40, "emg.band_edges_hz": [20, 60, 200], "signal.notch_hz": 50.0,
        "windows.stride_samples": 40, "calibration.repetitions": 1, "calibration.placed": True,
        "calibration.mirrored": True, "calibration.donning": "user", "augmentation.mirror": True,
    },
    "mean-levels": {"emg.front_end": "rectified", "emg.level_samples": 5},
    "templates": {"pose.source": "templates"},
    "gestures": {"pose.source": "gestures"},
    "wearing": {"calibration.stages": ["Fist", "Flat"], "calibration.donning": "wearing"},
    "random-init": {"align.emg_start": "random"},
    "frozen-emg": {"align.train_emg": False},
    "trainable-pose": {"align.train_pose": True},
    "streaming": {"emg.block_patches": 1, "align.emg_start": "random"},
    "positive": {"align.same_gesture": "positive"},
    "ignored": {"align.same_gesture": "ignored"},
    "calibrated": {"calibration.stages": ["Fist", "Flat"]},
    "augmented": {f"augmentation.{key}": value for key, value in
                  {"channel_roll": 1, "gain_log_sd": 0.1, "channel_gain_log_sd": 0.1, "channel_dropout": 0.25,
                   "noise_sd": 0.1}.items()},
    "dropout": {"emg.dropout": 0.1, "pose.dropout": 0.1},
}  # fmt: skip
QUICK = ("published", "log-covariances", "gestures")  # the others train with the slow tests
PRECISIONS = get_args(Recipe.model_fields["precision"].annotation)


def changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    values = recipe.model_dump(mode="json")
    for stage in ("emg_mae", "pose_mae", "align"):
        values[stage]["epochs"] = 1
    for key, value in changes.items():
        *parts, last = key.split(".")
        table = values
        for part in parts:
            table = table[part]
        table[last] = value
    return Recipe.model_validate(values)


@pytest.fixture(scope="module")
def named_by_template(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The toy corpus with gestures that there are pose templates for."""
    from tests.train import toy_corpus as toy

    folder = tmp_path_factory.mktemp("templates") / "toy"
    toy.write_toy_corpus(folder)
    names = {"Fist": "PowerGrip", "Flat": "OpenHand", "Point": "PinchGrip", "Rest": "NoMotion", "Spread": "ChuckGrip"}
    return toy.renamed(folder, names)


@pytest.mark.parametrize(
    ("variant", "precision"),
    [
        *(
            pytest.param(variant, "bf16-mixed", marks=() if variant in QUICK else pytest.mark.slow)
            for variant in VARIANTS
        ),
        *(("published", p) for p in PRECISIONS if p != "bf16-mixed"),
    ],
)
def test_every_variant_trains_in_half_precision_and_one_in_every(
    variant: str, precision: str, toy_corpus: Corpus, named_by_template: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = changed(tiny_recipe, {**VARIANTS[variant], "precision": precision})
    corpus = named_by_template if recipe.pose.source == "templates" else toy_corpus
    checkpoint = train(recipe, corpus.folder, tmp_path / "run", progress=False)
    assert checkpoint is not None
    assert all(torch.isfinite(value).all() for value in checkpoint.emg.state_dict().values())
    assert all(value.dtype == torch.float32 for value in checkpoint.emg.state_dict().values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_a_compiled_run_ends_as_one_that_is_not(toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path) -> None:
    plain, compiled = (
        train(changed(tiny_recipe, {"compile": on}), toy_corpus.folder, tmp_path / str(on), progress=False)
        for on in (False, True)
    )
    assert plain is not None
    assert compiled is not None
    for name, value in plain.emg.state_dict().items():
        torch.testing.assert_close(compiled.emg.state_dict()[name], value, atol=1e-3, rtol=0)


def test_a_student_is_distilled_in_half_precision(
    trained_run: Path, toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    distillation = {"temperature": 0.1, "neighbour_weight": 1.0}
    recipe = changed(tiny_recipe, {"precision": "bf16-mixed", "align.distillation": distillation})
    assert train(recipe, toy_corpus.folder, tmp_path / "run", progress=False, teacher=trained_run) is not None


def _choices(part: type[BaseModel], prefix: str = "") -> set[tuple[str, object]]:
    """Every value of every key that may only have certain ones."""
    found: set[tuple[str, object]] = set()
    for name, field in part.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if get_origin(kind) is Literal:
                found |= {(prefix + name, value) for value in get_args(kind)}
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= _choices(kind, f"{prefix}{name}.")
            elif kind is bool:
                found |= {(prefix + name, True), (prefix + name, False)}
    return found


def test_no_documented_value_is_left_untried(tiny_recipe: Recipe) -> None:
    tried = set()
    for changes in ({}, {"precision": "auto"}, *VARIANTS.values()):
        recipe = changed(tiny_recipe, changes)
        for key, _ in _choices(Recipe):
            value: Any = recipe
            for part in key.split("."):
                value = getattr(value, part, None)
            tried.add((key, value))
    elsewhere = {("compile", True), *(("precision", precision) for precision in PRECISIONS)}
    untried = _choices(Recipe) - tried - elsewhere
    elsewhere_too = {"log_to.name", "recordings.hand"}  # test_training.py, test_emg2pose_as_published.py
    assert {key for key, _ in untried} <= elsewhere_too
