"""Run the three stages of a recipe over a corpus, each to be interrupted and resumed at will.

A run's folder holds one folder a stage: `resume.ckpt`, Lightning's own, after each epoch; `epochs.csv`, the losses; and
`weights.safetensors` once the stage is done. After the last stage the checkpoint itself is written, see
`cpep_train.checkpoint`.
"""

import logging
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from cpep_edge.errors import ArtifactError, ConfigError, CpepError, DataError
from cpep_train.align import Alignment
from cpep_train.checkpoint import (
    RECIPE_FILE,
    Checkpoint,
    build_encoders,
    load_run_recipe,
    load_weights,
    save_checkpoint,
    save_recipe,
    save_weights,
)
from cpep_train.corpus import Corpus
from cpep_train.epochs import EpochLog, ProgressBar, ResumePoint, last_losses
from cpep_train.mae import MaskedAutoencoder
from cpep_train.optimiser import TrainingStage
from cpep_train.provenance import load_provenance, provenance_of, save_provenance
from cpep_train.recipe import Recipe
from cpep_train.windows import (
    SessionStore,
    WindowBatch,
    WindowDataset,
    fit_statistics,
    training_loader,
    validation_loader,
)

StageName = Literal["emg-mae", "pose-mae", "align"]
STAGES: tuple[StageName, ...] = ("emg-mae", "pose-mae", "align")
WEIGHTS_FILE = "weights.safetensors"
RESUME_FILE = "resume.ckpt"
LOG_FILE = "epochs.csv"
_VALIDATION_WINDOWS = 512  # enough for a curve; evaluation is `cpep_train.evaluate`


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    stage: StageName | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Checkpoint | None:
    """Train a recipe on the corpus in `data` into the folder `out`.

    stage: only this one, anew, from the stages before it; None trains all
    resume: go on where a run with the same recipe and data stopped; finished stages are kept
    progress: a bar on stderr; None draws it where stderr is a terminal
    returns: the checkpoint, or None where the last stage was not asked for
    Raises DataError or ConfigError before training when corpus, recipe and folder do not fit together, and CpepError
    when Ctrl-C stopped it.
    """
    try:
        run = _Run(
            recipe, data, out, resume or stage is not None, sys.stderr.isatty() if progress is None else progress
        )
        for name in STAGES if stage is None else (stage,):
            run.stage(name, resume)
        return run.finish() if stage in (None, "align") else None
    except KeyboardInterrupt:
        raise CpepError(f"training was interrupted; the same command with --resume goes on in {out}") from None


class _Run:
    """One run: what its stages share."""

    def __init__(self, recipe: Recipe, data: Path, out: Path, may_exist: bool, progress: bool) -> None:
        self.recipe, self.out, self.progress = recipe, out, progress
        corpus = Corpus.open(data)
        corpus.check(recipe)
        self.provenance = provenance_of(corpus)
        self._claim_folder(may_exist)
        self.statistics = fit_statistics(corpus, recipe)
        self.store = SessionStore(corpus, recipe, self.statistics)
        torch.manual_seed(recipe.seed)
        self.emg, self.pose = build_encoders(recipe)

    def stage(self, name: StageName, resume: bool) -> None:
        """Train one stage, or take it as it is where it was finished and the run is resumed."""
        folder = self.out / name
        if resume and (folder / WEIGHTS_FILE).is_file():
            return
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(self.recipe.seed)
        module, trained = self._module(name)
        batch_size, with_pose = module.settings.batch_size, name != "emg-mae"
        windows = self._windows("train", with_pose)
        if len(windows) < 2:
            folder_of_data = self.store.corpus.folder
            raise DataError(f"{folder_of_data}: split train has {len(windows)} usable windows, too few to train on")
        loader = training_loader(windows, batch_size, self.recipe.seed)
        callbacks: list[pl.Callback] = [EpochLog(folder / LOG_FILE), ResumePoint(folder / RESUME_FILE)]
        if self.progress:
            callbacks.append(ProgressBar(name))
        _fit(module, loader, self._validation_loader(with_pose, batch_size), folder, self.recipe.precision, callbacks)
        save_weights(folder / WEIGHTS_FILE, trained)
        (folder / RESUME_FILE).unlink(missing_ok=True)

    def finish(self) -> Checkpoint:
        """Put the trained encoders together and write the checkpoint."""
        load_weights(self.out / "pose-mae" / WEIGHTS_FILE, self.pose.encoder)
        load_weights(self.out / "align" / WEIGHTS_FILE, self.emg)
        corpus = self.store.corpus
        checkpoint = Checkpoint(
            recipe=self.recipe,
            preprocessing=self.store.preprocessing,
            pose_mean_rad=self.statistics.pose_mean_rad,
            pose_std_rad=self.statistics.pose_std_rad,
            emg=self.emg.eval(),
            pose=self.pose.eval(),
            seen_stages=tuple(sorted({corpus.rows[number].stage for number in corpus.numbers("train")})),
            unseen_stages=corpus.unseen_stages,
            provenance=self.provenance,
            metrics={f"{name} {key}": loss for name in STAGES for key, loss in last_losses(self.out / name / LOG_FILE)},
        )
        save_checkpoint(self.out, checkpoint)
        return checkpoint

    def _claim_folder(self, may_exist: bool) -> None:
        """Start a run in the folder, or check that the run in it is this one."""
        if not (self.out / RECIPE_FILE).is_file():
            if self.out.is_dir() and any(self.out.iterdir()):
                raise ConfigError(f"{self.out} holds other things than a training run; choose another folder")
            save_provenance(self.out, self.provenance)
            save_recipe(self.out, self.recipe)
            return
        if not may_exist:
            raise ConfigError(f"{self.out} already holds a run; add --resume to go on, or choose another folder")
        if load_run_recipe(self.out) != self.recipe:
            raise ConfigError(f"{self.out} was started with another recipe; choose another folder, or that recipe")
        started = load_provenance(self.out)
        if started.data_sha256 != self.provenance.data_sha256:
            raise ConfigError(f"{self.out} was started on other data; choose another folder, or that data")
        self.provenance = started

    def _module(self, name: StageName) -> tuple[TrainingStage, torch.nn.Module]:
        """The stage's module, and the part of it whose weights are kept."""
        recipe, emg, pose = self.recipe, self.emg.encoder, self.pose.encoder
        if name == "emg-mae":
            return MaskedAutoencoder(emg, recipe.emg_mae, "emg", recipe.seed), emg
        if name == "pose-mae":
            return MaskedAutoencoder(pose, recipe.pose_mae, "pose", recipe.seed), pose
        for earlier, encoder in (("emg-mae", emg), ("pose-mae", pose)):
            if not (self.out / earlier / WEIGHTS_FILE).is_file():
                raise ArtifactError(f"{self.out}: stage align needs stage {earlier}, train that first")
            load_weights(self.out / earlier / WEIGHTS_FILE, encoder)
        return Alignment(self.emg, self.pose, recipe), self.emg

    def _windows(self, split: str, with_pose: bool) -> WindowDataset:
        return WindowDataset(self.store, self.store.corpus.numbers(split), with_pose=with_pose)

    def _validation_loader(self, with_pose: bool, batch_size: int) -> DataLoader[WindowBatch] | None:
        windows = self._windows("val", with_pose)
        if len(windows) == 0:
            return None
        return validation_loader(windows, batch_size, _VALIDATION_WINDOWS)


def _fit(
    module: TrainingStage,
    training: DataLoader[WindowBatch],
    validation: DataLoader[WindowBatch] | None,
    folder: Path,
    precision: str,
    callbacks: list[pl.Callback],
) -> None:
    """Train a module to its last epoch, from the folder's resume point where there is one."""
    resume_file = folder / RESUME_FILE
    with _quiet(), _interrupts():
        trainer = pl.Trainer(
            max_epochs=module.settings.epochs,
            precision=_precision(precision),
            accelerator="auto",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,
            callbacks=callbacks,
        )
        ckpt_path = resume_file if resume_file.is_file() else None
        trainer.fit(module, training, validation, ckpt_path=ckpt_path, weights_only=True)


def _precision(wanted: str) -> Any:
    if wanted != "auto":
        return wanted
    return "bf16-mixed" if torch.cuda.is_available() else "32-true"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's banners, tips and hints from the user; failures still come as exceptions."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Turn the way Lightning leaves after Ctrl-C (SIGINT ignored, SystemExit) back into a KeyboardInterrupt."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
