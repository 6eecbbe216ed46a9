"""Every documented value of every recipe key trains, and every variant in every precision, all on a CPU."""

import math
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from pydantic import BaseModel

from cpep_train.corpus import Corpus
from cpep_train.fitting import _precision
from cpep_train.recipe import Recipe
from tests.train.toy_corpus import renamed, train_on, write_toy_corpus

# The changes of each variant in train/recipes, at toy size.
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
PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
QUICK = [("log-covariances", "bf16-mixed"), ("gestures", "bf16-mixed"), *(("published", kind) for kind in PRECISIONS)]
N_SAMPLES = 700  # per recording, for a few steps per epoch


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
def short_corpus(tmp_path_factory) -> Corpus:
    return write_toy_corpus(tmp_path_factory.mktemp("short") / "toy", N_SAMPLES)


@pytest.fixture(scope="module")
def named_by_template(tmp_path_factory) -> Corpus:
    """The toy corpus with names of gestures that have pose templates."""
    folder = tmp_path_factory.mktemp("templates") / "toy"
    write_toy_corpus(folder, N_SAMPLES)
    names = {"Fist": "PowerGrip", "Flat": "OpenHand", "Point": "PinchGrip", "Rest": "NoMotion", "Spread": "ChuckGrip"}
    return renamed(folder, names)


@pytest.mark.parametrize(
    ("variant", "precision"),
    [
        pytest.param(variant, precision, marks=() if (variant, precision) in QUICK else pytest.mark.slow)
        for variant in VARIANTS
        for precision in PRECISIONS
    ],
)
def test_every_stage_of_every_variant_trains_in_every_precision(
    variant, precision, short_corpus, named_by_template, tiny_recipe, tmp_path
):
    recipe = changed(tiny_recipe, {**VARIANTS[variant], "precision": precision})
    corpus = named_by_template if recipe.pose.source == "templates" else short_corpus
    checkpoint = train_on(recipe, corpus, tmp_path / "run")
    assert all(math.isfinite(loss) for loss in checkpoint.metrics.values())
    assert all(torch.isfinite(value).all() for value in checkpoint.emg.state_dict().values())
    assert all(value.dtype == torch.float32 for value in checkpoint.emg.state_dict().values())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision_is_the_one_that_is_asked_for(precision):
    with _precision(precision).forward_context():
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == PRECISIONS[precision]


def test_auto_trains_in_full_precision_without_a_gpu():
    with _precision("auto").forward_context():
        half_too = torch.cuda.is_available()
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == (torch.bfloat16 if half_too else torch.float32)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, during compilation
def test_a_compiled_run_ends_as_one_that_is_not(toy_corpus, tiny_recipe, tmp_path):
    plain, compiled = (
        train_on(changed(tiny_recipe, {"compile": on}), toy_corpus, tmp_path / str(on)) for on in (False, True)
    )
    for name, value in plain.emg.state_dict().items():
        torch.testing.assert_close(compiled.emg.state_dict()[name], value, atol=1e-3, rtol=0)


def test_a_student_is_distilled_in_half_precision(trained_run, toy_corpus, tiny_recipe, tmp_path):
    distillation = {"temperature": 0.1, "neighbour_weight": 1.0}
    recipe = changed(tiny_recipe, {"precision": "bf16-mixed", "align.distillation": distillation})
    train_on(recipe, toy_corpus, tmp_path / "run", teacher=trained_run)


def _choices(part: type[BaseModel], prefix: str = "") -> set[tuple[str, object]]:
    """All values of all keys that have a fixed set of values."""
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


def test_no_documented_value_is_left_untried(tiny_recipe):
    tried = set()
    for changes in ({}, *VARIANTS.values()):
        recipe = changed(tiny_recipe, changes)
        for key, _ in _choices(Recipe):
            value: Any = recipe
            for part in key.split("."):
                value = getattr(value, part, None)
            tried.add((key, value))
    elsewhere = {("compile", True), *(("precision", precision) for precision in (*PRECISIONS, "auto"))}
    untried = _choices(Recipe) - tried - elsewhere
    elsewhere_too = {"log_to.name", "recordings.hand"}  # test_training.py, test_emg2pose_as_published.py
    assert {key for key, _ in untried} <= elsewhere_too
