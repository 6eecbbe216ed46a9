import csv
import fcntl
import logging
import os
import signal
import subprocess
import sys
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
from typer.testing import CliRunner

from cpep_edge.cli import app
from cpep_edge.errors import ArtifactError, ConfigError, CpepError, DataError
from cpep_train import training
from cpep_train.checkpoint import Checkpoint, load_checkpoint
from cpep_train.corpus import FREE_STAGE, Corpus, write_metadata
from cpep_train.epochs import EpochLog
from cpep_train.evaluate import evaluation_set
from cpep_train.loggers import _Outlived
from cpep_train.recipe import LogTo, Recipe
from cpep_train.training import STAGES, train
from tests.train.toy_corpus import HELD_OUT_STAGE, write_recipe, write_toy_corpus


@pytest.fixture(scope="module")
def whole(toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Checkpoint]:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    checkpoint = train(tiny_recipe, toy_corpus.folder, out, progress=False)
    assert checkpoint is not None
    return out, checkpoint


def _weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    emg = {f"emg.{name}": value for name, value in checkpoint.emg.state_dict().items()}
    return emg | {f"pose.{name}": value for name, value in checkpoint.pose.state_dict().items()}


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    pairs = zip(_weights(one).values(), _weights(other).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_run_leaves_recipe_weights_losses_and_nothing_temporary(whole: tuple[Path, Checkpoint]) -> None:
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


def test_free_movement_is_trained_on_and_is_no_gesture(tiny_recipe: Recipe, tmp_path: Path) -> None:
    corpus = write_toy_corpus(tmp_path / "toy")
    with h5py.File(corpus.folder / "u0-Fist.hdf5", "r+") as file:
        file["emg2pose"].attrs["stage"] = FREE_STAGE
    rows = [replace(row, stage=FREE_STAGE) if row.filename == "u0-Fist" else row for row in corpus.rows]
    write_metadata(corpus.folder, rows)
    checkpoint = train(tiny_recipe, corpus.folder, tmp_path / "run", progress=False)
    assert checkpoint is not None
    assert FREE_STAGE not in checkpoint.seen_stages + checkpoint.unseen_stages
    examples = evaluation_set(checkpoint, Corpus.open(corpus.folder))
    assert FREE_STAGE not in examples.gestures


def test_what_is_loaded_is_what_was_trained(whole: tuple[Path, Checkpoint]) -> None:
    out, checkpoint = whole
    loaded = load_checkpoint(out)
    assert _same(loaded, checkpoint)
    assert loaded.recipe == checkpoint.recipe
    assert loaded.preprocessing == checkpoint.preprocessing
    assert loaded.metrics == checkpoint.metrics
    assert not loaded.emg.training


def test_the_same_seed_gives_the_same_weights(
    whole: tuple[Path, Checkpoint], toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    again = train(tiny_recipe, toy_corpus.folder, tmp_path / "run", progress=False)
    assert again is not None
    assert _same(again, whole[1])


def test_one_stage_at_a_time_gives_what_all_at_once_gives(
    whole: tuple[Path, Checkpoint], toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    for stage in STAGES[:2]:
        assert train(tiny_recipe, toy_corpus.folder, tmp_path, stage=stage, progress=False) is None
    last = train(tiny_recipe, toy_corpus.folder, tmp_path, stage="align", progress=False)
    assert last is not None
    assert _same(last, whole[1])


def test_alignment_without_the_stages_before_it_is_refused(
    toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="align needs stage emg-mae"):
        train(tiny_recipe, toy_corpus.folder, tmp_path, stage="align", progress=False)


class _Interrupting(EpochLog):
    """Presses Ctrl-C in the middle of the second epoch of one stage."""

    stage = ""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        if trainer.current_epoch == 1 and args[1] == 2 and self._file.parent.name == self.stage:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("stage", [*(pytest.param(stage, marks=pytest.mark.slow) for stage in STAGES[:-1]), STAGES[-1]])
def test_a_run_resumed_after_ctrl_c_ends_with_the_same_weights(
    stage: str,
    whole: tuple[Path, Checkpoint],
    toy_corpus: Corpus,
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(_Interrupting, "stage", stage)
        patch.setattr(training, "EpochLog", _Interrupting)
        with pytest.raises(CpepError, match="--resume"):
            train(tiny_recipe, toy_corpus.folder, tmp_path / "run", progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "run" / stage / "resume.ckpt").is_file()
    assert not (tmp_path / "run" / "checkpoint.json").exists()
    resumed = train(tiny_recipe, toy_corpus.folder, tmp_path / "run", resume=True, progress=False)
    assert resumed is not None
    assert _same(resumed, whole[1])
    assert resumed.metrics == whole[1].metrics


def test_a_folder_with_a_run_is_never_trained_over(
    whole: tuple[Path, Checkpoint], toy_corpus: Corpus, tiny_recipe: Recipe
) -> None:
    with pytest.raises(ConfigError, match="add --resume"):
        train(tiny_recipe, toy_corpus.folder, whole[0], progress=False)


def test_a_run_is_not_resumed_with_another_recipe_or_other_data(
    whole: tuple[Path, Checkpoint], toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    other = tiny_recipe.model_copy(update={"seed": 99})
    with pytest.raises(ConfigError, match="another recipe"):
        train(other, toy_corpus.folder, whole[0], resume=True, progress=False)
    elsewhere = write_toy_corpus(tmp_path / "toy", n_samples=1200)
    with pytest.raises(ConfigError, match="other data"):
        train(tiny_recipe, elsewhere.folder, whole[0], resume=True, progress=False)


def test_a_folder_with_other_things_is_left_alone(toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="holds letter.txt, which does not belong to a training run"):
        train(tiny_recipe, toy_corpus.folder, tmp_path, progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_a_start_that_is_refused_leaves_no_trace_and_blocks_nothing(tiny_recipe: Recipe, tmp_path: Path) -> None:
    corpus = write_toy_corpus(tmp_path / "toy")
    file, out = corpus.folder / f"{corpus.rows[0].filename}.hdf5", tmp_path / "new" / "run"
    with h5py.File(file, "r+") as session:
        table = session["emg2pose/timeseries"][:]
        table["emg"][5, 3] = float("nan")
        session["emg2pose/timeseries"][:] = table

    with pytest.raises(DataError, match="emg"):
        train(tiny_recipe, corpus.folder, out, progress=False)
    assert not out.parent.exists()

    table["emg"][5, 3] = 0
    with h5py.File(file, "r+") as session:
        session["emg2pose/timeseries"][:] = table
    assert train(tiny_recipe, corpus.folder, out, progress=False) is not None


def test_ctrl_c_before_the_first_epoch_leaves_the_folder_as_it_was(
    toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(training, "fit_statistics", interrupted)

    with pytest.raises(CpepError, match="before its first epoch was done"):
        train(tiny_recipe, toy_corpus.folder, tmp_path / "run", progress=False)

    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("stopped_at", ["save_layouts", "save_provenance", "save_splits", "save_recipe", "fit"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of later Pythons, that a fork has one thread
def test_a_kill_before_anything_was_trained_blocks_nothing(
    stopped_at: str, toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that forked stands for one that was killed: it runs none of what should tidy up."""
    out, write = tmp_path / "run", getattr(training, stopped_at)

    def stop(*given: object, **named: object) -> None:
        if stopped_at != "fit":
            write(*given, **named)
        (out / ".recipe.json.0123abcd.tmp").touch()
        os._exit(7)

    child = os.fork()
    if not child:
        monkeypatch.setattr(training, stopped_at, stop)
        train(tiny_recipe, toy_corpus.folder, out, progress=False)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert any(out.iterdir())

    assert train(tiny_recipe, toy_corpus.folder, out, stage="pose-mae", progress=False) is None
    assert (out / "pose-mae" / "weights.safetensors").is_file()


def test_a_folder_in_which_another_training_runs_is_refused(
    toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    held = os.open(tmp_path / "run", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)

    with pytest.raises(ConfigError, match="another training runs in it"):
        train(tiny_recipe, toy_corpus.folder, tmp_path / "run", progress=False)
    os.close(held)


def test_a_stage_trained_anew_leaves_what_a_user_put_beside_it(
    toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    train(tiny_recipe, toy_corpus.folder, tmp_path / "run", stage="pose-mae", progress=False)
    (tmp_path / "run" / "pose-mae" / "notes.txt").write_text("mine")

    train(tiny_recipe, toy_corpus.folder, tmp_path / "run", stage="pose-mae", progress=False)

    assert (tmp_path / "run" / "pose-mae" / "notes.txt").read_text() == "mine"


def test_training_says_nothing_where_no_terminal_listens(
    toy_corpus: Corpus,
    tiny_recipe: Recipe,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        train(tiny_recipe, toy_corpus.folder, tmp_path / "run", stage="pose-mae")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert [record.message for record in caplog.records if "lightning" in record.name] == []


def test_the_bar_goes_to_stderr(
    toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tiny_recipe, toy_corpus.folder, tmp_path / "run", stage="pose-mae", progress=True)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "pose-mae" in captured.err
    assert "2/2" in captured.err


def test_without_a_terminal_lines_tell_epochs(
    toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tiny_recipe, toy_corpus.folder, tmp_path / "run", stage="pose-mae", progress="lines")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert [line.split(",")[0] for line in captured.err.splitlines()] == [
        "pose-mae: epoch 1 of 2", "pose-mae: epoch 2 of 2",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["csv", pytest.param("tensorboard", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own imports
def test_a_logger_of_the_recipe_gets_every_epoch_and_changes_no_weight(
    name: str, whole: tuple[Path, Checkpoint], toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = tiny_recipe.model_copy(update={"log_to": LogTo.model_validate({"name": name})})
    logged = train(recipe, toy_corpus.folder, tmp_path / "run", progress=False)
    assert logged is not None
    assert _same(logged, whole[1])
    logs = tmp_path / "run" / "logs"
    if name == "csv":
        with next(logs.glob("align/*/metrics.csv")).open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["loss"]]
        assert [row["epoch"] for row in rows] == ["0", "1"]
    else:
        assert {file.parent.parent.name for file in logs.rglob("events.out*")} == set(STAGES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what these import
@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb"), ("comet", "comet_ml")])
def test_a_logger_of_a_service_keeps_its_log_offline_a_stage_each(
    name: str, package: str, whole: tuple[Path, Checkpoint], toy_corpus: Corpus, tiny_recipe: Recipe,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip(package, reason=f"pip install {package.replace('_', '-')}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    recipe = tiny_recipe.model_copy(update={"log_to": LogTo.model_validate({"name": name})})
    logged = train(recipe, toy_corpus.folder, tmp_path / "run", progress=False)
    assert logged is not None
    assert _same(logged, whole[1])
    kept = {"wandb": "wandb/offline-run-*/run-*.wandb", "comet": "*.zip"}[name]
    assert len(list((tmp_path / "run" / "logs").glob(kept))) == len(STAGES)
    assert capfd.readouterr().out == ""


def test_a_logger_that_is_not_installed_does_not_start_or_takes_other_options_is_one_sentence(
    toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    refused = [
        (LogTo(name="csv", options={"colour": "red"}), "CSVLogger of Lightning does not take them"),
        (LogTo(name="csv", options={"save_dir": str(tmp_path / "file")}), "csv does not start: .*Not a directory"),
    ]
    if find_spec("mlflow") is None:
        refused.append((LogTo(name="mlflow"), "mlflow needs another package: pip install mlflow"))
    for log_to, says in refused:
        recipe = tiny_recipe.model_copy(update={"log_to": log_to})
        with pytest.raises(ConfigError, match=says):
            train(recipe, toy_corpus.folder, tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()


class _Unreachable(CSVLogger):
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        raise ConnectionError("no route to host")


def test_a_logger_that_fails_on_the_way_says_so_once_and_training_goes_on(
    whole: tuple[Path, Checkpoint], toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    unreachable = _Outlived("csv", _Unreachable(str(tmp_path / "logs")))
    monkeypatch.setattr(training, "open_logger", lambda settings, run, stage: unreachable)
    recipe = tiny_recipe.model_copy(update={"log_to": LogTo(name="csv")})
    logged = train(recipe, toy_corpus.folder, tmp_path / "run", progress=False)
    assert logged is not None
    assert _same(logged, whole[1])
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
    whole: tuple[Path, Checkpoint], toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    file, out = write_recipe(tiny_recipe, tmp_path / "tiny.toml"), tmp_path / "run"
    paths = [str(Path(folder).resolve()) for folder in sys.path if Path(folder).name in ("main", "train")]
    command = (sys.executable, "-c", _KILLED, "align", str(file), str(toy_corpus.folder), str(out))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (out / "align" / "resume.ckpt").is_file()
    (out / "align" / ".resume.ckpt.1234abcd.tmp").write_bytes(b"half of it")  # killed while writing
    resumed = train(tiny_recipe, toy_corpus.folder, out, resume=True, progress=False)
    assert resumed is not None
    assert _same(resumed, whole[1])
    assert resumed.metrics == whole[1].metrics
    assert list(out.rglob("*.tmp")) == []


def _varied(recipe: Recipe, **align: object) -> Recipe:
    return recipe.model_copy(update={"align": recipe.align.model_copy(update=align)})


def test_a_random_start_leaves_out_the_auto_encoding_of_emg(
    toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = _varied(tiny_recipe, emg_start="random")
    assert train(recipe, toy_corpus.folder, tmp_path / "run", progress=False) is not None
    assert not (tmp_path / "run" / "emg-mae").exists()
    with pytest.raises(ConfigError, match="has no stage emg-mae"):
        train(recipe, toy_corpus.folder, tmp_path / "run", stage="emg-mae", progress=False)


def test_a_frozen_emg_encoder_is_that_of_its_auto_encoding(
    whole: tuple[Path, Checkpoint], toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    frozen = train(_varied(tiny_recipe, train_emg=False), toy_corpus.folder, tmp_path / "run", progress=False)
    assert frozen is not None
    kept = load_file(whole[0] / "emg-mae" / "weights.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in frozen.emg.encoder.state_dict().items())


def test_a_pose_encoder_that_was_trained_too_is_the_one_that_is_kept(
    whole: tuple[Path, Checkpoint], toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    moved = train(_varied(tiny_recipe, train_pose=True), toy_corpus.folder, tmp_path / "run", progress=False)
    assert moved is not None
    assert not torch.equal(moved.pose.encoder.cls, whole[1].pose.encoder.cls)
    assert _same(load_checkpoint(tmp_path / "run"), moved)


def test_a_resume_point_needs_no_place_for_temporary_files(
    toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may be another disk, a full one, and which keeps for ever what a kill left in it."""
    once = tiny_recipe.model_copy(update={"pose_mae": tiny_recipe.pose_mae.model_copy(update={"epochs": 1})})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    train(once, toy_corpus.folder, tmp_path / "run", stage="pose-mae", progress=False)
    assert (tmp_path / "run" / "pose-mae" / "weights.safetensors").is_file()


def test_more_reading_processes_than_any_machine_has_are_wrong_usage() -> None:
    """Lightning would start them all, and be busy with it for ever."""
    answer = CliRunner().invoke(app, ["train", "cpep", "--data", "x", "--out", "y", "--workers", "99999999999"])
    assert answer.exit_code == 2
