import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cpep_edge.cli import app
from cpep_edge.errors import ConfigError, TrainingError
from cpep_train import sweep as sweeps
from cpep_train.corpus import Corpus
from cpep_train.recipe import Recipe, load_recipe
from cpep_train.sweep import Figure, Result, Sweep, lines, markdown, shared_stage
from tests.train.toy_corpus import write_recipe


def _figure(accuracy: float) -> Figure:
    return Figure(
        users="held-out",
        gestures="seen",
        balanced_accuracy=accuracy,
        low=accuracy - 0.1,
        high=accuracy + 0.1,
        chance=0.25,
        n_users=3,
    )


def _sweep(*results: Result) -> Sweep:
    return Sweep(command="c", machine="m", git_commit="0" * 40, data="toy", data_sha256="", results=results)


def test_a_line_is_the_mean_over_seeds_with_their_spread() -> None:
    runs = [
        Result(recipe="one", seed=seed, figures=(_figure(0.5 + seed / 10),), seconds=1, git_commit="")
        for seed in range(3)
    ]
    (line,) = lines(_sweep(*runs))
    assert (line.n_seeds, line.chance) == (3, 0.25)
    assert (line.mean, line.low, line.high, line.spread) == pytest.approx((0.6, 0.5, 0.7, 0.1))
    assert "| one | 0.600 ± 0.100 [0.50, 0.70] |" in markdown(_sweep(*runs))


def test_a_run_that_was_stopped_is_told_and_counts_nowhere() -> None:
    stopped = Result(recipe="two", seed=0, stopped="stage align collapsed", seconds=1, git_commit="")
    fine = Result(recipe="one", seed=0, figures=(_figure(0.5),), seconds=1, git_commit="")
    assert [line.recipe for line in lines(_sweep(stopped, fine))] == ["one"]
    assert "- two, seed 0: stage align collapsed" in markdown(_sweep(stopped, fine))


def test_recipes_share_a_stage_that_nothing_but_the_alignment_tells_apart() -> None:
    demo = load_recipe("demo")
    assert shared_stage(demo, load_recipe("demo+soft-targets"), "emg-mae")
    assert not shared_stage(demo, load_recipe("demo+soft-targets"), "align")
    assert not shared_stage(demo, load_recipe("demo", ["seed=1"]), "emg-mae")
    other = load_recipe("demo", ["pose_mae.epochs=1"])
    assert shared_stage(demo, other, "emg-mae")
    assert not shared_stage(demo, other, "pose-mae")


@pytest.fixture
def variant(tmp_path: Path) -> Path:
    file = tmp_path / "soft.toml"
    file.write_text("[align.soft_targets]\ncommunities = 4\nneighbours = 4\ntemperature = 0.1\n")
    return file


def test_a_sweep_trains_judges_tabulates_and_does_nothing_twice(
    toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path, variant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = write_recipe(tiny_recipe, tmp_path / "tiny.toml")
    out = tmp_path / "out"
    arguments = ["sweep", str(tiny), f"{tiny}+{variant}", "--data", str(toy_corpus.folder), "--out", str(out)]
    answer = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    found = json.loads(answer.stdout)
    assert [result["recipe"] for result in found["results"]] == ["tiny", "tiny+soft"]
    assert all(result["figures"] and not result["stopped"] for result in found["results"])
    assert found == json.loads((out / "sweep.json").read_text())
    table = (out / "sweep.md").read_text()
    assert "| tiny |" in table
    assert "| tiny+soft |" in table
    plain, soft = out / "tiny" / "seed-0", out / "tiny+soft" / "seed-0"
    assert (plain / "emg-mae" / "epochs.csv").read_bytes() == (soft / "emg-mae" / "epochs.csv").read_bytes()
    assert (plain / "align" / "epochs.csv").read_bytes() != (soft / "align" / "epochs.csv").read_bytes()

    monkeypatch.setattr(sweeps, "train", None)  # nothing may be trained again
    again = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "tiny+soft" in again.stdout
    with pytest.raises(ConfigError, match="another recipe of that name"):
        sweeps.sweep([str(tiny)], toy_corpus.folder, out, seeds=[0], settings=["align.epochs=3"])


def test_a_stopped_training_does_not_stop_the_sweep(
    toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = write_recipe(tiny_recipe, tmp_path / "tiny.toml")
    sound = sweeps.train

    def failing(recipe: Recipe, *args: object, **options: object) -> object:
        if recipe.seed == 0:
            sound(recipe, *args, **{**options, "stage": "pose-mae"})  # type: ignore[arg-type]
            raise TrainingError("stage align collapsed")
        return sound(recipe, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sweeps, "train", failing)
    found = sweeps.sweep([str(tiny)], toy_corpus.folder, tmp_path / "out", seeds=[0, 1])
    assert [result.stopped for result in found.results] == ["stage align collapsed", ""]
    assert found.results[1].figures


def test_recipes_of_one_name_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="same name and seed"):
        sweeps.sweep(["demo", "demo"], tmp_path, tmp_path / "out", seeds=[0])
    assert not (tmp_path / "out").exists()


def test_seeds_that_are_no_numbers_are_wrong_usage(tmp_path: Path) -> None:
    answer = CliRunner().invoke(
        app, ["sweep", "demo", "--data", str(tmp_path), "--out", str(tmp_path), "--seeds", "a,b"]
    )
    assert answer.exit_code == 2
