from pathlib import Path

import pytest

from cpep_edge.errors import ConfigError
from cpep_train.recipe import Recipe, load_recipe, shipped_recipes


def test_the_papers_recipe_is_the_papers() -> None:
    recipe = load_recipe("cpep")
    assert recipe.windows.window_samples == 2 * recipe.signal.sample_rate_hz == 4000
    assert (recipe.emg.patch_samples, recipe.pose.patch_samples) == (50, 200)
    for encoder in (recipe.emg, recipe.pose):
        assert (encoder.n_layers, encoder.width, encoder.pooling) == (4, 256, "cls")
    for stage in (recipe.emg_mae, recipe.pose_mae, recipe.align):
        assert (stage.epochs, stage.batch_size) == (100, 256)
    assert recipe.align.temperature == 0.02
    assert recipe.emg.front_end == "raw"
    assert recipe.emg_mae.mask_ratio == recipe.pose_mae.mask_ratio == 0.5


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_loads(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_recipe_says_only_what_differs_from_its_base(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "cpep.toml"\nname = "mine"\n[align]\ntemperature = 0.1\n')
    (tmp_path / "again.toml").write_text('base = "mine.toml"\nname = "again"\n')
    mine, cpep = load_recipe(tmp_path / "again.toml"), load_recipe("cpep")
    changed = {"name": "again", "align": cpep.align.model_copy(update={"temperature": 0.1})}
    assert mine == cpep.model_copy(update=changed)


def test_settings_go_over_the_file_in_order() -> None:
    recipe = load_recipe("cpep", ["seed=3", "emg.pooling=mean", 'name="x"', "signal.notch_hz = 50.0", "seed=4"])
    assert (recipe.seed, recipe.emg.pooling, recipe.name, recipe.signal.notch_hz) == (4, "mean", "x", 50.0)


def test_all_unknown_keys_and_bad_values_are_named_at_once() -> None:
    settings = ["signal.rate=1", "emg.widht=3", "window.x=1", "align.epochs=0", "seed=-1", "pose.pooling=max"]
    with pytest.raises(ConfigError) as caught:
        load_recipe("cpep", settings)
    message = str(caught.value)
    for key in ("signal.rate is not a known key", "emg.widht is not", "window is not", "align.epochs:", "seed:"):
        assert key in message
    assert "pose.pooling:" in message
    assert "\n" not in message


def test_parts_that_do_not_fit_together_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("cpep", ["emg.width=250", "emg.patch_samples=48", "pose.decimation=3", "signal.notch_hz=1000"])
    for key in ("emg.n_heads", "emg.patch_samples", "windows.window_samples", "signal.notch_hz"):
        assert key in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('base = "gone"\n', "there is no recipe gone"),
        ('base = "self.toml"\n', "comes back to itself"),
        ("base = 3\n", "base must be the name"),
        ("= no toml", "cannot be read"),
    ],
)
def test_a_recipe_that_cannot_be_read_says_why(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "self.toml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_recipe(tmp_path / "self.toml")


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="cpep, demo"):
        load_recipe("nope")


@pytest.mark.parametrize("setting", ["seed", "=3", "emg..width=3"])
def test_a_setting_that_is_none_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"key\.sub=value"):
        load_recipe("cpep", [setting])
