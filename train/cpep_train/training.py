"""Run the stages of a recipe on a corpus; each can be interrupted and resumed.

A run's folder holds one folder per stage with `resume.ckpt`, Lightning's checkpoint after each epoch; `epochs.csv`, the
losses; and the weights, once the stage is done. After the last stage the checkpoint is written, see
`cpep_train.checkpoint`.
"""

import fcntl
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import torch
from torch import nn

from cpep_edge.errors import ArtifactError, ConfigError, CpepError, DataError
from cpep_edge.files import make_folder, replacing
from cpep_train.align import Alignment
from cpep_train.batches import training_loader, validation_loader
from cpep_train.checkpoint import (
    RECIPE_FILE,
    Checkpoint,
    build_encoders,
    load_checkpoint,
    load_run_recipe,
    load_weights,
    save_checkpoint,
    save_recipe,
    save_weights,
)
from cpep_train.corpus import FREE_STAGE, Corpus, all_faults
from cpep_train.curves import draw_curves
from cpep_train.distil import DistilledAlignment, check_teacher
from cpep_train.epochs import EpochLog, ProgressBar, ProgressLines, ResumePoint, last_losses
from cpep_train.fitting import fit
from cpep_train.leakage import SPLITS_FILE, SplitManifest, audit, load_splits, save_splits
from cpep_train.loggers import LOG_FOLDER, open_logger
from cpep_train.mae import MaskedAutoencoder
from cpep_train.monitors import Monitor
from cpep_train.optimiser import TrainingStage
from cpep_train.plain_head import with_plain_head
from cpep_train.processes import join, rank, wait_for_all
from cpep_train.provenance import PROVENANCE_FILE, Provenance, load_provenance, provenance_of, save_provenance
from cpep_train.recipe import Recipe
from cpep_train.recordings import RECORDINGS_FILE, Layout, load_layouts, look_through, save_layouts
from cpep_train.windows import CACHE_BYTES, SessionStore, WindowDataset, fit_statistics

logger = logging.getLogger(__name__)

StageName = Literal["emg-mae", "pose-mae", "align"]
STAGES: tuple[StageName, ...] = ("emg-mae", "pose-mae", "align")
WEIGHTS_FILE = "weights.safetensors"
POSE_WEIGHTS_FILE = "pose_weights.safetensors"  # of stage align, when the recipe trains the pose encoder too
RESUME_FILE = "resume.ckpt"
LOG_FILE = "epochs.csv"
_BEGUN = (RECIPE_FILE, PROVENANCE_FILE, SPLITS_FILE, RECORDINGS_FILE, LOG_FOLDER)  # written before anything is trained
_OF_STAGE = (RESUME_FILE, WEIGHTS_FILE, POSE_WEIGHTS_FILE, LOG_FILE)


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    stage: StageName | None = None,
    resume: bool = False,
    progress: bool | Literal["lines"] | None = None,
    n_workers: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    lend: Callable[[StageName], Path | None] = lambda stage: None,
    teacher: Path | None = None,
    skip_bad: bool = False,
    go_on: str = "the same command with --resume",
) -> Checkpoint | None:
    """Train a recipe on the corpus in `data` into the folder `out`.

    stage: train only this stage again, from the stages before it; None trains all stages of the recipe
    resume: continue a run with the same recipe and data where it stopped; finished stages are kept
    progress: a bar on stderr, or one line per epoch; None draws a bar if stderr is a terminal
    n_workers: processes that read the corpus; None chooses by its size
    cache_bytes: memory for filtered recordings; a corpus that needs more is filtered anew every epoch, and its windows
        are shuffled in streams
    lend: returns the folder of another run's finished copy of a stage, to be copied from there
    teacher: a finished run to distil, whose pose encoder is used; the recipe must ask for distillation
    skip_bad: leave out and list recordings that cannot be used, instead of refusing to start
    go_on: the command that the user is told after Ctrl-C, to go on
    returns: the checkpoint, or None where the last stage was not asked for
    Raises DataError or ConfigError before training when corpus, recipe and folder do not fit together, and leaves
    nothing behind then; TrainingError when it diverged or collapsed, and CpepError when Ctrl-C stopped it.
    """
    join()
    if progress is None:
        progress = sys.stderr.isatty() and rank() == 0
    try:
        with _claimed(out) if rank() == 0 else nullcontext():
            may_exist = resume or stage is not None
            run = _Run(recipe, data, out, may_exist, progress, n_workers, cache_bytes, lend, teacher, skip_bad)
            for name in stages_of(recipe) if stage is None else (stage,):
                run.stage(name, resume)
            return run.finish() if stage in (None, "align") else None
    except KeyboardInterrupt:
        if not _holds_training(out):
            raise CpepError(f"training was interrupted before its first epoch was done; {out} is as it was") from None
        raise CpepError(f"training was interrupted; {go_on} continues in {out}") from None


def stages_of(recipe: Recipe) -> tuple[StageName, ...]:
    """The stages that a recipe goes through."""
    return STAGES if recipe.align.emg_start == "mae" else STAGES[1:]


class _Run:
    """One run: what its stages share."""

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        out: Path,
        may_exist: bool,
        progress: bool | Literal["lines"],
        n_workers: int | None,
        cache_bytes: int,
        lend: Callable[[StageName], Path | None],
        teacher: Path | None,
        skip_bad: bool,
    ) -> None:
        self.recipe, self.out, self.progress, self.n_workers, self.lend = recipe, out, progress, n_workers, lend
        corpus = Corpus.open(data)
        self.is_new = not _holds_training(out)
        if rank() == 0:
            if not self.is_new:
                self._check_same_run(may_exist)
            corpus, layouts, self.splits = self._looked_through(corpus, skip_bad)
        else:
            wait_for_all()  # for the first process to claim the folder
            self.splits, self.provenance = load_splits(out), load_provenance(out)
            corpus, layouts = corpus.usable(recipe, self.provenance.skipped), load_layouts(out) or {}
        self.teacher = self._taught_by(teacher)
        self.statistics = with_plain_head(corpus, recipe, fit_statistics(corpus, recipe), layouts)
        self.store = SessionStore(corpus, recipe, self.statistics, cache_bytes=cache_bytes, layouts=layouts)
        self._windows("train", with_pose=True)
        if rank() == 0:  # last, so that a refused start does not block the folder
            _remove_unfinished(self.out)
            if self.is_new:
                save_provenance(self.out, self.provenance)
                save_splits(self.out, self.splits)
                save_layouts(self.out, layouts)
                save_recipe(self.out, self.recipe)  # written last; it makes the folder a run
            wait_for_all()
        torch.manual_seed(recipe.seed)
        self.emg, self.pose = build_encoders(recipe)
        if recipe.compile:
            for block in (*self.emg.encoder.blocks, *self.pose.encoder.blocks):
                block.compile()

    def stage(self, name: StageName, resume: bool) -> None:
        """Train one stage, or keep it if it is finished and the run is resumed."""
        if name not in stages_of(self.recipe):
            raise ConfigError(f"recipe {self.recipe.name} starts its EMG encoder at random, so it has no stage {name}")
        folder = self.out / name
        done, lent = resume and (folder / WEIGHTS_FILE).is_file(), self.lend(name)
        if rank() == 0:
            _prepare(folder, resume, done)
            if not done and lent is not None:
                _copy(lent, folder)
        wait_for_all()
        if done or lent is not None:
            return
        torch.manual_seed(self.recipe.seed)
        module, kept = self._work(name)
        settings, with_pose = module.settings, name != "emg-mae"
        loader = training_loader(
            self._windows("train", with_pose),
            settings.batch_size,
            self.recipe.seed,
            n_workers=self.n_workers,
        )
        validation = self._windows("val", with_pose)
        fit(
            module,
            loader,
            validation_loader(validation, settings.batch_size) if len(validation) else None,
            self._callbacks(name, folder),
            precision=self.recipe.precision,
            logger=open_logger(self.recipe.log_to, self.out, name),
            resume_file=folder / RESUME_FILE if resume and (folder / RESUME_FILE).is_file() else None,
        )
        if rank() == 0:
            draw_curves(self.out)
            for file, part in reversed(tuple(kept.items())):  # the first file marks the stage as done, so write it last
                save_weights(folder / file, part)
            (folder / RESUME_FILE).unlink(missing_ok=True)
        wait_for_all()

    def finish(self) -> Checkpoint:
        """Combine the trained encoders and write the checkpoint."""
        load_weights(self.out / "pose-mae" / WEIGHTS_FILE, self.pose.encoder)
        load_weights(self.out / "align" / WEIGHTS_FILE, self.emg)
        if self.recipe.align.train_pose:
            load_weights(self.out / "align" / POSE_WEIGHTS_FILE, self.pose)
        corpus = self.store.corpus
        checkpoint = Checkpoint(
            recipe=self.recipe,
            preprocessing=self.store.preprocessing,
            pose_mean_rad=self.statistics.pose_mean_rad,
            pose_std_rad=self.statistics.pose_std_rad,
            front_end=self.statistics.front_end,
            head=self.statistics.head,
            head_gestures=self.statistics.head_gestures,
            emg=self.emg.eval(),
            pose=self.pose.eval(),
            seen_stages=tuple(sorted({corpus.rows[number].stage for number in corpus.numbers("train")} - {FREE_STAGE})),
            unseen_stages=corpus.unseen_stages,
            provenance=self.provenance,
            metrics={f"{name} {key}": loss for name in STAGES for key, loss in last_losses(self.out / name / LOG_FILE)},
            splits=self.splits,
        )
        if rank() == 0:
            save_checkpoint(self.out, checkpoint)
        return checkpoint

    def _taught_by(self, run: Path | None) -> Checkpoint | None:
        """The teacher, whose pose encoder this run uses."""
        if run is None:
            if self.recipe.align.distillation is not None:
                raise ConfigError(f"recipe {self.recipe.name} distils a trained run; name it with --teacher RUN")
            return None
        teacher = load_checkpoint(run)
        check_teacher(self.recipe, self.provenance, teacher, run)
        others = self.lend
        self.lend = lambda stage: run / stage if stage == "pose-mae" else others(stage)
        return teacher

    def _check_same_run(self, may_exist: bool) -> None:
        if not may_exist:
            raise ConfigError(f"{self.out} already holds a run; add --resume to continue, or choose another folder")
        if not load_run_recipe(self.out).trains_as(self.recipe):
            raise ConfigError(f"{self.out} was started with another recipe; choose another folder, or that recipe")

    def _looked_through(self, corpus: Corpus, skip_bad: bool) -> tuple[Corpus, dict[int, Layout], SplitManifest]:
        """The recordings that the run uses, their layouts, and the split manifest.

        Raises DataError that names all recordings that cannot be used, or when a split leaks into another.
        """
        skipped = {} if self.is_new else load_provenance(self.out).skipped
        usable = corpus.usable(self.recipe, skipped)
        layouts, faults = look_through(usable, self.recipe, load_layouts(self.out))
        if faults and not skip_bad:
            raise DataError(all_faults(list(faults.values())))
        for number, fault in faults.items():
            logger.warning("left out: %s", fault)
            skipped = {**skipped, usable.rows[number].filename: fault}
        if faults:
            usable = corpus.usable(self.recipe, skipped)
        usable.check_splits()
        layouts = {number: layout for number, layout in layouts.items() if usable.rows[number].split}
        splits = audit(usable, {number: layout.content for number, layout in layouts.items()})
        self.provenance = self._provenance(corpus, splits, skipped)
        return usable, layouts, splits

    def _provenance(self, corpus: Corpus, splits: SplitManifest, skipped: dict[str, str]) -> Provenance:
        """The provenance of the run; raises ConfigError when it was started on other data."""
        if not self.is_new:
            started = load_provenance(self.out)
            if started.data_sha256 != splits.fingerprint:
                raise ConfigError(f"{self.out} was started on other data; choose another folder, or that data")
            return started
        return provenance_of(corpus, splits.fingerprint, skipped)

    def _work(self, name: StageName) -> tuple[TrainingStage, dict[str, nn.Module]]:
        """The module that a stage trains, and the parts of it to save, by file name."""
        recipe, emg, pose = self.recipe, self.emg.encoder, self.pose.encoder
        if name == "emg-mae":
            masked = MaskedAutoencoder(self.emg.bidirectional, recipe.emg_mae, "emg", recipe.seed)
            return masked, {WEIGHTS_FILE: emg}
        if name == "pose-mae":
            masked = MaskedAutoencoder(self.pose.bidirectional, recipe.pose_mae, "pose", recipe.seed)
            return masked, {WEIGHTS_FILE: pose}
        encoders = {"emg-mae": emg, "pose-mae": pose}
        for earlier in stages_of(recipe)[:-1]:
            if not (self.out / earlier / WEIGHTS_FILE).is_file():
                raise ArtifactError(f"{self.out}: stage align needs stage {earlier}, train that first")
            load_weights(self.out / earlier / WEIGHTS_FILE, encoders[earlier])
        module = self._alignment()
        kept: dict[str, nn.Module] = {WEIGHTS_FILE: self.emg}
        if recipe.align.train_pose:
            kept[POSE_WEIGHTS_FILE] = self.pose
        return module, kept

    def _alignment(self) -> Alignment:
        distillation = self.recipe.align.distillation
        if self.teacher is not None and distillation is not None:
            return DistilledAlignment(self.emg, self.pose, self.recipe, distillation, self.teacher.emg)
        return Alignment(self.emg, self.pose, self.recipe)

    def _callbacks(self, name: StageName, folder: Path) -> list[pl.Callback]:
        callbacks: list[pl.Callback] = [
            Monitor(name),
            EpochLog(folder / LOG_FILE),
            ResumePoint(folder / RESUME_FILE),
        ]
        if self.progress == "lines" and rank() == 0:
            callbacks.append(ProgressLines(name))
        elif self.progress:
            callbacks.append(ProgressBar(name))
        return callbacks

    def _windows(self, split: str, with_pose: bool) -> WindowDataset:
        windows = WindowDataset(self.store, self.store.corpus.numbers(split), with_pose=with_pose)
        if split == "train" and len(windows) < 2:
            folder = self.store.corpus.folder
            raise DataError(f"{folder}: split train has {len(windows)} usable windows, too few to train on")
        return windows


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Lock a run's folder, and restore it if nothing was trained.

    Raises ConfigError when it holds other things than a run, or another process trains in it.
    """
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
    if os.path.lexists(out) and not out.is_dir():
        raise ConfigError(f"{out} is not a folder; choose another name")
    if not _holds_training(out) and _strangers(out):
        raise ConfigError(
            f"{out} holds {_strangers(out)[0]}, which does not belong to a training run; choose another folder"
        )
    make_folder(out)
    handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{out}: another training runs in it; wait for it, or choose another folder") from error
        except OSError:
            pass  # a file system without locks, like some network file systems
        try:
            yield
        finally:
            if not _holds_training(out) and not _strangers(out):
                for file in out.iterdir():
                    shutil.rmtree(file) if file.is_dir() else file.unlink()
                for folder in created:
                    folder.rmdir()
    finally:
        os.close(handle)


def _holds_training(out: Path) -> bool:
    """Whether the folder holds a run with at least part of a stage."""
    done = (RESUME_FILE, WEIGHTS_FILE)
    return (out / RECIPE_FILE).is_file() and any((out / stage / file).exists() for stage in STAGES for file in done)


def _strangers(out: Path) -> list[str]:
    """Files in the folder that do not belong to a training run."""
    if not out.is_dir():
        return []
    ours = {*_BEGUN, *STAGES}
    names = sorted(file.name for file in out.iterdir() if not _is_unfinished(file) and file.name not in ours)
    inside = [file for stage in STAGES if (out / stage).is_dir() for file in sorted((out / stage).iterdir())]
    return names + [
        f"{file.parent.name}/{file.name}" for file in inside if not _is_unfinished(file) and file.name not in _OF_STAGE
    ]


def _is_unfinished(file: Path) -> bool:
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", file.name) is not None


def _prepare(folder: Path, resume: bool, done: bool) -> None:
    """Make a folder for a stage, or clean the one to resume in of files that earlier attempts left."""
    make_folder(folder)
    _remove_unfinished(folder)
    old = (RESUME_FILE,) if done else () if resume else _OF_STAGE
    for name in old:
        (folder / name).unlink(missing_ok=True)


def _remove_unfinished(folder: Path) -> None:
    for file in folder.iterdir():
        if _is_unfinished(file):
            file.unlink()


def _copy(stage: Path, folder: Path) -> None:
    """Copy a stage from another run; its weights last, because they mark it as done."""
    for file in sorted(stage.iterdir(), key=lambda file: file.name == WEIGHTS_FILE):
        with replacing(folder / file.name) as temporary:
            shutil.copyfile(file, temporary)
