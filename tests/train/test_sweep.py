import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import permutation_test

from cpep_edge.errors import ConfigError, CpepError, TrainingError
from cpep_train import sweep as sweeps
from cpep_train.launching import Cluster, run_all
from cpep_train.recipe import Recipe, load_recipe
from cpep_train.sweep import Figure, Result, Sweep, comparisons, exchange_p, holm, lines, markdown, shared_stage
from tests.processes import invoke
from tests.train.toy_corpus import write_recipe


def _figure(accuracy: float) -> Figure:
    about = {"users": "held-out", "gestures": "seen", "chance": 0.25, "n_users": 3}
    return Figure(balanced_accuracy=accuracy, low=accuracy - 0.1, high=accuracy + 0.1, **about)


def _result(recipe: str, seed: int, figure: Figure | None = None, stopped: str = "") -> Result:
    figures = () if figure is None else (figure,)
    return Result(recipe=recipe, seed=seed, figures=figures, stopped=stopped, seconds=1, git_commit="")


def _sweep(*results: Result) -> Sweep:
    return Sweep(command="c", machine="m", git_commit="0" * 40, data="toy", data_sha256="", results=results)


def test_a_line_is_the_mean_over_seeds_with_their_spread():
    runs = [_result("one", seed, _figure(0.5 + seed / 10)) for seed in range(3)]
    (line,) = lines(_sweep(*runs))
    assert (line.n_seeds, line.chance) == (3, 0.25)
    assert (line.mean, line.low, line.high, line.spread) == pytest.approx((0.6, 0.5, 0.7, 0.1))
    assert "| one | 0.600 ± 0.100 [0.50, 0.70] |" in markdown(_sweep(*runs))


def test_a_run_that_was_stopped_is_told_and_counts_nowhere():
    stopped = _result("two", 0, stopped="stage align collapsed")
    fine = _result("one", 0, _figure(0.5))
    assert [line.recipe for line in lines(_sweep(stopped, fine))] == ["one"]
    assert "- two, seed 0: stage align collapsed" in markdown(_sweep(stopped, fine))


def test_recipes_share_a_stage_that_nothing_but_the_alignment_tells_apart():
    demo = load_recipe("demo")
    assert shared_stage(demo, load_recipe("demo+augmented"), "emg-mae")
    assert not shared_stage(demo, load_recipe("demo+augmented"), "align")
    assert not shared_stage(demo, load_recipe("demo", ["seed=1"]), "emg-mae")
    other = load_recipe("demo", ["pose_mae.epochs=1"])
    assert shared_stage(demo, other, "emg-mae")
    assert not shared_stage(demo, other, "pose-mae")


def test_a_mask_or_another_hand_is_another_stage():
    demo = load_recipe("demo")
    assert not shared_stage(demo, load_recipe("demo", ["recordings.masked_channels=[3]"]), "emg-mae")
    assert shared_stage(demo, load_recipe("demo", ["log_to.name=csv"]), "emg-mae")


@pytest.mark.parametrize("n", [6, 40])
def test_the_p_of_paired_differences_is_that_of_scipys_permutation_test(n):
    differences = np.random.default_rng(n).normal(0.3 / np.sqrt(n), 0.2, n)
    expected = permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
    )
    assert exchange_p(differences) == pytest.approx(expected.pvalue, abs=1e-12 if n == 6 else 0.03)


def test_holms_correction_is_that_of_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_recipes_are_compared_person_by_person_over_their_seeds():
    people = [f"p{n}" for n in range(8)]
    ease = np.linspace(-0.3, 0.3, 8)  # people differ more than recipes

    def result(recipe: str, seed: int, lift: float) -> Result:
        by_user = {person: 0.6 + e + lift + 0.02 * seed for person, e in zip(people, ease, strict=True)}
        return _result(recipe, seed, _figure(0.6).model_copy(update={"by_user": by_user}))

    lifts = (("a", 0.0), ("b", 0.05), ("c", 0.0))
    found = _sweep(*(result(recipe, seed, lift) for recipe, lift in lifts for seed in (0, 1)))
    better, same = comparisons(found)
    assert (better.recipe, better.against, better.n_users) == ("b", "a", 8)
    assert better.difference == pytest.approx(0.05)
    assert better.p == pytest.approx(2 * 2 / 2**8)  # the smallest p with eight people, doubled for two comparisons
    assert (same.difference, same.p) == (pytest.approx(0), 1.0)
    assert "| b | held-out | seen | +0.050 | +0.050 to +0.050 | 0.016 | 8 |" in markdown(found)


@pytest.mark.slow
def test_runs_on_a_cluster_come_to_what_runs_here_do(toy_corpus, tiny_recipe, tmp_path, monkeypatch):
    tiny = write_recipe(tiny_recipe, tmp_path / "tiny.toml")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def swept(out: str, cluster: Cluster | None) -> Sweep:
        recipes, settings = [str(tiny)], ["align.epochs=1"]
        return sweeps.sweep(
            recipes, toy_corpus.folder, tmp_path / out, seeds=(0, 1), settings=settings, cluster=cluster
        )

    assert [r.figures for r in swept("there", "local").results] == [r.figures for r in swept("here", None).results]
    assert (tmp_path / "there" / "jobs").is_dir()


@pytest.mark.slow
def test_a_job_that_fails_on_a_cluster_is_one_sentence_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with pytest.raises(CpepError, match=r"1 of 2 jobs failed, see .*\.err"):
        run_all([partial(int, "1"), partial(int, "one")], "local", tmp_path)
    with pytest.raises(ConfigError, match="submitit does not take it"):
        run_all([], "local", tmp_path, {"no_such_option": 1})


@pytest.fixture
def variant(tmp_path) -> Path:
    file = tmp_path / "noisy.toml"
    file.write_text("[augmentation]\nnoise_sd = 0.5\n")
    return file


def test_a_sweep_trains_judges_tabulates_and_does_nothing_twice(
    toy_corpus, tiny_recipe, tmp_path, variant, monkeypatch
):
    tiny = write_recipe(tiny_recipe, tmp_path / "tiny.toml")
    out = tmp_path / "out"
    words = ("sweep", tiny, f"{tiny}+{variant}", "--data", toy_corpus.folder, "--out", out)
    answer = invoke(*words, "--json", catch_exceptions=False)
    found = json.loads(answer.stdout)
    assert [result["recipe"] for result in found["results"]] == ["tiny", "tiny+noisy"]
    assert all(result["figures"] and not result["stopped"] for result in found["results"])
    assert found == json.loads((out / "sweep.json").read_text())
    table = (out / "sweep.md").read_text()
    assert "| tiny |" in table
    assert "| tiny+noisy |" in table
    plain, noisy = out / "tiny" / "seed-0", out / "tiny+noisy" / "seed-0"
    assert (plain / "emg-mae" / "epochs.csv").read_bytes() == (noisy / "emg-mae" / "epochs.csv").read_bytes()
    assert (plain / "align" / "epochs.csv").read_bytes() != (noisy / "align" / "epochs.csv").read_bytes()

    monkeypatch.setattr(sweeps, "train", None)  # training again would fail
    again = invoke(*words, catch_exceptions=False)
    assert "tiny+noisy" in again.stdout
    with pytest.raises(ConfigError, match="another recipe of that name"):
        sweeps.sweep([str(tiny)], toy_corpus.folder, out, seeds=[0], settings=["align.epochs=3"])


def test_a_stopped_training_does_not_stop_the_sweep(toy_corpus, tiny_recipe, tmp_path, monkeypatch):
    tiny = write_recipe(tiny_recipe, tmp_path / "tiny.toml")
    sound = sweeps.train

    def failing(recipe: Recipe, *args: object, **options: object) -> object:
        if recipe.seed == 0:
            sound(recipe, *args, **{**options, "stage": "pose-mae"})
            raise TrainingError("stage align collapsed")
        return sound(recipe, *args, **options)

    monkeypatch.setattr(sweeps, "train", failing)
    found = sweeps.sweep([str(tiny)], toy_corpus.folder, tmp_path / "out", seeds=[0, 1])
    assert [result.stopped for result in found.results] == ["stage align collapsed", ""]
    assert found.results[1].figures


def test_recipes_of_one_name_are_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ConfigError, match="same name and seed"):
        sweeps.sweep(["demo", "demo"], tmp_path, tmp_path / "out", seeds=[0])
    assert not (tmp_path / "out").exists()


def test_seeds_that_are_no_numbers_are_wrong_usage(tmp_path):
    assert invoke("sweep", "demo", "--data", tmp_path, "--out", tmp_path, "--seeds", "a,b").exit_code == 2
