import json
from contextlib import suppress
from functools import reduce

import pytest

from cpep_edge.errors import ConfigError
from cpep_train.recipe import Recipe, load_recipe, shipped_recipes, shipped_variants
from cpep_train.recipe_keys import keys_of
from tests.processes import invoke


def test_the_papers_recipe_is_the_papers():
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
def test_every_shipped_recipe_loads(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_recipe_says_only_what_differs_from_its_base(tmp_path):
    (tmp_path / "mine.toml").write_text('base = "cpep.toml"\nname = "mine"\n[align]\ntemperature = 0.1\n')
    (tmp_path / "again.toml").write_text('base = "mine.toml"\nname = "again"\n')
    mine, cpep = load_recipe(tmp_path / "again.toml"), load_recipe("cpep")
    changed = {"name": "again", "align": cpep.align.model_copy(update={"temperature": 0.1})}
    assert mine == cpep.model_copy(update=changed)


def test_settings_go_over_the_file_in_order():
    recipe = load_recipe("cpep", ["seed=3", "emg.pooling=mean", 'name="x"', "signal.notch_hz = 50.0", "seed=4"])
    assert (recipe.seed, recipe.emg.pooling, recipe.name, recipe.signal.notch_hz) == (4, "mean", "x", 50.0)


def test_all_unknown_keys_and_bad_values_are_named_at_once():
    settings = ["signal.rate=1", "emg.widht=3", "window.x=1", "align.epochs=0", "seed=-1", "pose.pooling=max"]
    with pytest.raises(ConfigError) as caught:
        load_recipe("cpep", settings)
    message = str(caught.value)
    for key in ("signal.rate is not a known key", "emg.widht is not", "window is not", "align.epochs:", "seed:"):
        assert key in message
    assert "pose.pooling:" in message
    assert "\n" not in message


def test_parts_that_do_not_fit_together_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        load_recipe("cpep", ["emg.width=250", "emg.patch_samples=48", "pose.decimation=3", "signal.notch_hz=1000"])
    for key in ("emg.n_heads", "emg.patch_samples", "windows.window_samples", "signal.notch_hz"):
        assert key in str(caught.value)
    with pytest.raises(ConfigError, match="recordings.masked_channels: no channel is left"):
        load_recipe("demo", [f"recordings.masked_channels={list(range(1, 17))}"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('base = "gone"\n', "there is no recipe gone"),
        ('base = "self.toml"\n', "comes back to itself"),
        ("base = 3\n", "base must be the name"),
        ("= no toml", "cannot be read"),
    ],
)
def test_a_recipe_that_cannot_be_read_says_why(tmp_path, text, says):
    (tmp_path / "self.toml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_recipe(tmp_path / "self.toml")


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("align.epoch=3", "align.epochs"),
        ("emg.widht=3", "emg.width"),
        ("calibraton.stages=[]", "calibration"),
        ("windows.sample_rate_hz=1", "signal.sample_rate_hz"),
    ],
)
def test_a_key_that_is_nearly_right_is_answered_with_the_one_that_is(setting, meant):
    with pytest.raises(ConfigError, match=rf"is not a known key; did you mean {meant}"):
        load_recipe("demo", [setting])


def test_every_key_has_a_meaning_and_the_default_that_the_recipe_takes():
    keys = {key.name: key for key in keys_of(Recipe)}
    assert [name for name, key in keys.items() if not key.meaning] == []
    assert keys["windows.jitter_samples"].default == "0"
    assert keys["emg.pooling"].kind == '"cls" | "mean"'
    assert keys["signal.notch_hz"].meaning == "mains frequency to remove; None: no notch filter"
    values = load_recipe("micro").model_dump()
    for name in keys:
        table = values
        for part in name.split(".")[:-1]:
            table = table.get(part) or {}
        assert not table or name.rpartition(".")[2] in table


def test_recipes_are_listed_and_shown():
    listed = invoke("recipes", "list", "--json")
    assert set(json.loads(listed.stdout)["recipes"]) == set(shipped_recipes())
    shown = invoke("recipes", "show", "demo+augmented", "--set", "align.epochs=7", "--json")
    values = {key["name"]: key["value"] for key in json.loads(shown.stdout)["keys"]}
    assert (values["align.epochs"], values["augmentation.noise_sd"], values["emg.width"]) == (7, 0.05, 64)
    assert "align.epochs = 10" in invoke("recipes", "show", "demo").stdout


@pytest.mark.parametrize("value", ["nan", "-inf", "1e308", "1000000000000000000", "[[[]]]", '"x"', "{}"])
def test_a_value_that_cannot_be_meant_is_a_sentence_wherever_it_stands(value):
    for key in keys_of(Recipe):
        with suppress(ConfigError):  # no other error is allowed
            recipe = load_recipe("demo", [f"{key.name}={value}"])
            recipe.emg_config()  # the first steps of a training
            recipe.pose_config()
            recipe.preprocessing(7.5)


@pytest.mark.parametrize("value", ["true", '"1"', "inf", "1e308", "1" + "0" * 30])
def test_a_number_is_a_number_and_one_that_a_training_can_use(value):
    """Neither true in place of 1 nor text is accepted, nor a count that would run for ever or take all memory."""
    recipe, numbers = load_recipe("demo"), []
    for key in keys_of(Recipe):
        now = reduce(lambda part, name: getattr(part, name, None), key.name.split("."), recipe)
        if isinstance(now, int | float) and not isinstance(now, bool):
            numbers.append(key.name)
            with pytest.raises(ConfigError, match=key.name):
                load_recipe("demo", [f"{key.name}={value}"])
    assert len(numbers) > 40
    with pytest.raises(ConfigError, match="compile: input should be a valid boolean"):
        load_recipe("demo", ["compile=1"])


def test_covariances_of_more_electrodes_than_they_take_are_refused():
    with pytest.raises(ConfigError, match='front_end "mpf" takes two to 64 electrodes'):
        load_recipe("3dc", ["signal.n_channels=65"])


@pytest.mark.parametrize("setting", ["seed", "=3", "emg..width=3"])
def test_a_setting_that_is_none_is_refused(setting):
    with pytest.raises(ConfigError, match=r"key\.sub=value"):
        load_recipe("cpep", [setting])


@pytest.mark.parametrize("base", ["cpep", "demo"])
@pytest.mark.parametrize("variant", sorted(shipped_variants()))
def test_every_variant_goes_over_the_papers_recipe_and_the_demo(variant, base):
    settings = ["windows.window_samples=1200"] if (base, variant) == ("demo", "patch-80") else []
    recipe, plain = load_recipe(f"{base}+{variant}", settings), load_recipe(base)
    assert recipe.name == f"{base}+{variant}"
    same = recipe.model_copy(update={"name": base}) == plain
    assert same == ((base, variant) in {("cpep", "patch-50"), ("demo", "patch-100"), ("demo", "window-500ms")})


def test_variants_go_over_each_other_in_order(tmp_path):
    (tmp_path / "mine.toml").write_text("[emg]\npatch_samples = 80\n")
    recipe = load_recipe(f"cpep+augmented+patch-200+{tmp_path / 'mine.toml'}")
    assert (recipe.name, recipe.emg.patch_samples) == ("cpep+augmented+patch-200+mine", 80)
    assert recipe.augmentation == load_recipe("cpep+augmented").augmentation


def test_a_patch_that_does_not_divide_the_window_is_refused_with_a_window_that_it_divides():
    with pytest.raises(ConfigError, match=r"not a whole number of 80; windows\.window_samples=800 would be"):
        load_recipe("demo+patch-80")
    assert load_recipe("demo+patch-80", ["windows.window_samples=800"]).emg_config().n_tokens == 10


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nope", "cpep, demo"),
        *((name, "there is no") for name in ("x" * 300, "x" * 5000, "demo+" + "x" * 5000)),  # too long for a file name
        ("augmented", "augmented is a variant, to be added to a recipe"),
        ("demo+nope", "there is no variant nope"),
        ("cpep+demo.toml", "there is no variant demo"),
        ("demo+frozen-emg+random-init", "must be trained"),
    ],
)
def test_what_makes_no_recipe_is_refused(name, says):
    with pytest.raises(ConfigError, match=says):
        load_recipe(name)
