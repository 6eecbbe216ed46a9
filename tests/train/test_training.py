import csv
import fcntl
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file

from cpep_edge.errors import ArtifactError, ConfigError, CpepError
from cpep_train import training
from cpep_train.checkpoint import Checkpoint, load_checkpoint
from cpep_train.corpus import FREE_STAGE, Corpus, write_metadata
from cpep_train.epochs import EpochLog
from cpep_train.evaluate import evaluation_set
from cpep_train.loggers import _Outlived
from cpep_train.recipe import LogTo, Recipe
from cpep_train.training import STAGES, train
from cpep_train.windows import SessionStore
from tests.processes import environment, invoke, python
from tests.train.toy_corpus import HELD_OUT_STAGE, train_on, varied, write_recipe, write_toy_corpus


@pytest.fixture(scope="module")
def whole(toy_corpus, tiny_recipe, tmp_path_factory) -> tuple[Path, Checkpoint]:
    """A run without interruption."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, train_on(tiny_recipe, toy_corpus, out)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def fit(toy_corpus, tiny_recipe, out) -> Callable[..., Checkpoint | None]:
    """A function that trains on the toy corpus, by default with the tiny recipe and into `out`."""

    def fit(recipe: Recipe = tiny_recipe, **options: Any) -> Checkpoint | None:
        return train(recipe, toy_corpus.folder, **{"out": out, "progress": False, **options})

    return fit


def _weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    emg = {f"emg.{name}": value for name, value in checkpoint.emg.state_dict().items()}
    return emg | {f"pose.{name}": value for name, value in checkpoint.pose.state_dict().items()}


def _same(one: Checkpoint | None, other: Checkpoint) -> bool:
    assert one is not None
    pairs = zip(_weights(one).values(), _weights(other).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_run_leaves_recipe_weights_losses_and_nothing_temporary(whole):
    out, checkpoint = whole
    files = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())
    per_stage = [f"{stage}/{name}" for stage in STAGES for name in ("epochs.csv", "weights.safetensors")]
    encoders = ["emg_encoder.safetensors", "pose_encoder.safetensors"]
    whence = ["provenance.json", "recipe.json", "recordings.json", "splits.json"]
    assert files == sorted([*per_stage, *encoders, "checkpoint.json", "curves.png", *whence])
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert HELD_OUT_STAGE not in checkpoint.seen_stages
    assert checkpoint.unseen_stages == (HELD_OUT_STAGE,)
    assert checkpoint.provenance.versions["torch"] == torch.__version__


def test_free_movement_is_trained_on_and_is_no_gesture(tiny_recipe, tmp_path):
    corpus = write_toy_corpus(tmp_path / "toy")
    with h5py.File(corpus.folder / "u0-Fist.hdf5", "r+") as file:
        file["emg2pose"].attrs["stage"] = FREE_STAGE
    rows = [replace(row, stage=FREE_STAGE) if row.filename == "u0-Fist" else row for row in corpus.rows]
    write_metadata(corpus.folder, rows)
    checkpoint = train_on(tiny_recipe, corpus, tmp_path / "run")
    assert FREE_STAGE not in checkpoint.seen_stages + checkpoint.unseen_stages
    examples = evaluation_set(checkpoint, Corpus.open(corpus.folder))
    assert FREE_STAGE not in examples.gestures


def test_what_is_loaded_is_what_was_trained(whole):
    out, checkpoint = whole
    loaded = load_checkpoint(out)
    assert _same(loaded, checkpoint)
    assert loaded.recipe == checkpoint.recipe
    assert loaded.preprocessing == checkpoint.preprocessing
    assert loaded.metrics == checkpoint.metrics
    assert not loaded.emg.training


def test_the_same_seed_gives_the_same_weights(whole, fit):
    assert _same(fit(), whole[1])


def test_one_stage_at_a_time_gives_what_all_at_once_gives(whole, fit):
    for stage in STAGES[:2]:
        assert fit(stage=stage) is None
    assert _same(fit(stage="align"), whole[1])


def test_alignment_without_the_stages_before_it_is_refused(fit):
    with pytest.raises(ArtifactError, match="align needs stage emg-mae"):
        fit(stage="align")


class _Interrupting(EpochLog):
    """Simulates Ctrl-C in the middle of the second epoch of one stage."""

    stage = ""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        if trainer.current_epoch == 1 and args[1] == 2 and self._file.parent.name == self.stage:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("stage", [*(pytest.param(stage, marks=pytest.mark.slow) for stage in STAGES[:-1]), STAGES[-1]])
def test_a_run_resumed_after_ctrl_c_ends_with_the_same_weights(stage, whole, fit, out, monkeypatch):
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(_Interrupting, "stage", stage)
        patch.setattr(training, "EpochLog", _Interrupting)
        with pytest.raises(CpepError, match="--resume"):
            fit()
    assert signal.getsignal(signal.SIGINT) is handler
    assert (out / stage / "resume.ckpt").is_file()
    assert not (out / "checkpoint.json").exists()
    resumed = fit(resume=True)
    assert _same(resumed, whole[1])
    assert resumed.metrics == whole[1].metrics


def test_a_folder_with_a_run_is_never_trained_over(whole, fit):
    with pytest.raises(ConfigError, match="add --resume"):
        fit(out=whole[0])


def test_a_run_is_not_resumed_with_another_recipe_or_other_data(whole, fit, tiny_recipe, tmp_path):
    other = tiny_recipe.model_copy(update={"seed": 99})
    with pytest.raises(ConfigError, match="another recipe"):
        fit(other, out=whole[0], resume=True)
    elsewhere = write_toy_corpus(tmp_path / "toy", n_samples=1200)
    with pytest.raises(ConfigError, match="other data"):
        train(tiny_recipe, elsewhere.folder, whole[0], resume=True, progress=False)


def test_a_folder_with_other_things_is_left_alone(fit, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="holds letter.txt, which does not belong to a training run"):
        fit(out=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_ctrl_c_before_the_first_epoch_leaves_the_folder_as_it_was(fit, out, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    out.mkdir()
    monkeypatch.setattr(training, "fit_statistics", interrupted)

    with pytest.raises(CpepError, match="before its first epoch was done"):
        fit()

    assert list(out.iterdir()) == []


@pytest.mark.parametrize("stopped_at", ["save_layouts", "save_provenance", "save_splits", "save_recipe", "fit"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # later Pythons warn that a fork has one thread
def test_a_kill_before_anything_was_trained_blocks_nothing(stopped_at, fit, out, monkeypatch):
    """A forked process that ends with `os._exit` simulates a kill, because it runs no clean-up code."""
    write = getattr(training, stopped_at)

    def stop(*given: object, **named: object) -> None:
        if stopped_at != "fit":
            write(*given, **named)
        (out / ".recipe.json.0123abcd.tmp").touch()
        os._exit(7)

    child = os.fork()
    if not child:
        monkeypatch.setattr(training, stopped_at, stop)
        fit()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert any(out.iterdir())

    assert fit(stage="pose-mae") is None
    assert (out / "pose-mae" / "weights.safetensors").is_file()


def test_a_folder_in_which_another_training_runs_is_refused(fit, out):
    out.mkdir()
    held = os.open(out, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)

    with pytest.raises(ConfigError, match="another training runs in it"):
        fit()
    os.close(held)


def test_a_stage_trained_anew_leaves_what_a_user_put_beside_it(fit, out):
    fit(stage="pose-mae")
    (out / "pose-mae" / "notes.txt").write_text("mine")

    fit(stage="pose-mae")

    assert (out / "pose-mae" / "notes.txt").read_text() == "mine"


def test_training_says_nothing_where_no_terminal_listens(fit, capfd, caplog):
    with caplog.at_level(logging.INFO):
        fit(stage="pose-mae", progress=None)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert [record.message for record in caplog.records if "lightning" in record.name] == []


def test_the_bar_goes_to_stderr(fit, capfd):
    fit(stage="pose-mae", progress=True)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "pose-mae" in captured.err
    assert "2/2" in captured.err


def test_without_a_terminal_lines_tell_epochs(fit, capfd):
    fit(stage="pose-mae", progress="lines")
    captured = capfd.readouterr()
    assert captured.out == ""
    told = [line.split(",")[0] for line in captured.err.splitlines()]
    assert told == ["pose-mae: epoch 1 of 2", "pose-mae: epoch 2 of 2"]


@pytest.mark.parametrize("name", ["csv", pytest.param("tensorboard", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own imports
def test_a_logger_of_the_recipe_gets_every_epoch_and_changes_no_weight(name, whole, fit, tiny_recipe, out):
    recipe = tiny_recipe.model_copy(update={"log_to": LogTo.model_validate({"name": name})})
    assert _same(fit(recipe), whole[1])
    logs = out / "logs"
    if name == "csv":
        with next(logs.glob("align/*/metrics.csv")).open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["loss"]]
        assert [row["epoch"] for row in rows] == ["0", "1"]
    else:
        assert {file.parent.parent.name for file in logs.rglob("events.out*")} == set(STAGES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # warnings from what these import
@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb"), ("comet", "comet_ml")])
def test_a_logger_of_a_service_keeps_its_log_offline_a_stage_each(
    name, package, whole, fit, tiny_recipe, out, monkeypatch, capfd
):
    pytest.importorskip(package, reason=f"pip install {package.replace('_', '-')}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    recipe = tiny_recipe.model_copy(update={"log_to": LogTo.model_validate({"name": name})})
    assert _same(fit(recipe), whole[1])
    kept = {"wandb": "wandb/offline-run-*/run-*.wandb", "comet": "*.zip"}[name]
    assert len(list((out / "logs").glob(kept))) == len(STAGES)
    assert capfd.readouterr().out == ""


def test_a_logger_that_is_not_installed_does_not_start_or_takes_other_options_is_one_sentence(
    fit, tiny_recipe, tmp_path, out
):
    (tmp_path / "file").touch()
    refused = [
        (LogTo(name="csv", options={"colour": "red"}), "CSVLogger of Lightning does not take them"),
        (LogTo(name="csv", options={"save_dir": str(tmp_path / "file")}), "csv does not start: .*Not a directory"),
    ]
    if find_spec("mlflow") is None:
        refused.append((LogTo(name="mlflow"), "mlflow needs another package: pip install mlflow"))
    for log_to, says in refused:
        with pytest.raises(ConfigError, match=says):
            fit(tiny_recipe.model_copy(update={"log_to": log_to}))
        assert not out.exists()


class _Unreachable(CSVLogger):
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        raise ConnectionError("no route to host")


def test_a_logger_that_fails_on_the_way_says_so_once_and_training_goes_on(
    whole, fit, tiny_recipe, tmp_path, monkeypatch, caplog
):
    unreachable = _Outlived("csv", _Unreachable(str(tmp_path / "logs")))
    monkeypatch.setattr(training, "open_logger", lambda settings, run, stage: unreachable)
    assert _same(fit(tiny_recipe.model_copy(update={"log_to": LogTo(name="csv")})), whole[1])
    said = [record.getMessage() for record in caplog.records]
    assert said == ["csv failed, and logs no more of this stage: no route to host"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from cpep_train import training
from cpep_train.epochs import EpochLog
from cpep_train.recipe import load_recipe

stage, recipe, data, out = sys.argv[1:]

class Killing(EpochLog):
    def on_train_batch_start(self, trainer, pl_module, *args):
        if trainer.current_epoch == 1 and args[1] == 2 and self._file.parent.name == stage:
            os.kill(os.getpid(), signal.SIGKILL)

training.EpochLog = Killing
training.train(load_recipe(recipe), Path(data), Path(out), progress=False)
"""


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_epoch_resumes_to_the_same_weights(
    whole, fit, toy_corpus, tiny_recipe, tmp_path, out
):
    file = write_recipe(tiny_recipe, tmp_path / "tiny.toml")
    words = ("-c", _KILLED, "align", file, toy_corpus.folder, out)
    killed = python(*words, env=environment(OMP_NUM_THREADS="1"), timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (out / "align" / "resume.ckpt").is_file()
    (out / "align" / ".resume.ckpt.1234abcd.tmp").write_bytes(b"half of it")  # killed while writing
    resumed = fit(resume=True)
    assert _same(resumed, whole[1])
    assert resumed.metrics == whole[1].metrics
    assert list(out.rglob("*.tmp")) == []


def test_a_random_start_leaves_out_the_auto_encoding_of_emg(fit, tiny_recipe, out):
    recipe = varied(tiny_recipe, align={"emg_start": "random"})
    assert fit(recipe) is not None
    assert not (out / "emg-mae").exists()
    with pytest.raises(ConfigError, match="has no stage emg-mae"):
        fit(recipe, stage="emg-mae")


def test_a_frozen_emg_encoder_is_that_of_its_auto_encoding(whole, fit, tiny_recipe):
    frozen = fit(varied(tiny_recipe, align={"train_emg": False}))
    kept = load_file(whole[0] / "emg-mae" / "weights.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in frozen.emg.encoder.state_dict().items())


def test_a_pose_encoder_that_was_trained_too_is_the_one_that_is_kept(whole, fit, tiny_recipe, out):
    moved = fit(varied(tiny_recipe, align={"train_pose": True}))
    assert not torch.equal(moved.pose.encoder.cls, whole[1].pose.encoder.cls)
    assert _same(load_checkpoint(out), moved)


def test_a_resume_point_needs_no_place_for_temporary_files(fit, tiny_recipe, out, monkeypatch):
    """That place may be on another, full disk, and files that a kill leaves there would never be removed."""
    monkeypatch.setattr("tempfile.tempdir", str(out / "nowhere"))
    fit(varied(tiny_recipe, pose_mae={"epochs": 1}), stage="pose-mae")
    assert (out / "pose-mae" / "weights.safetensors").is_file()


def test_more_reading_processes_than_any_machine_has_are_wrong_usage():
    """Lightning would try to start them all, which would take for ever."""
    assert invoke("train", "cpep", "--data", "x", "--out", "y", "--workers", "99999999999").exit_code == 2


def test_recordings_that_the_cache_has_no_room_for_are_filtered_anew_every_epoch(
    toy_corpus, tiny_recipe, tmp_path, monkeypatch
):
    loaded = list[int]()
    load = SessionStore._load
    monkeypatch.setattr(SessionStore, "_load", lambda store, number: loaded.append(number) or load(store, number))
    recipe = write_recipe(tiny_recipe, tmp_path / "tiny.toml")
    counts = []
    for name, options in (("kept", []), ("anew", ["--cache-gib", "0"])):
        loaded.clear()
        result = invoke(
            *("train", recipe, "--data", toy_corpus.folder, "--out", tmp_path / name, "--workers", "0", *options)
        )
        assert result.exit_code == 0, result.output
        counts.append(max(Counter(loaded).values()))
    assert counts[0] == 1
    assert counts[1] >= tiny_recipe.pose_mae.epochs + tiny_recipe.align.epochs
