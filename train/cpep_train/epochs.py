"""Lightning callbacks around each epoch: log the losses, save a resume point, show progress."""

import csv
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cpep_edge.files import replacing, write_file

_FIGURES = ("loss", "validation_loss", "temperature", "reconstruction", "top1", "emg_rank", "pose_rank")
_COLUMNS = ("epoch", *_FIGURES, "seconds")


class EpochLog(pl.Callback):
    """Writes a CSV file with one line per epoch; an epoch that is run again replaces its line."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._started_s = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started_s = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = trainer.callback_metrics  # read in every process, because it gathers from all
        if not trainer.is_global_zero:
            return
        lines = [line for line in _lines(self._file) if int(line["epoch"]) < trainer.current_epoch]
        line = {"epoch": str(trainer.current_epoch), "seconds": f"{time.monotonic() - self._started_s:.2f}"}
        for key in _FIGURES:
            value = metrics.get(key)
            line[key] = "" if value is None else f"{float(value):.6g}"
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*lines, line])
        write_file(self._file, text.getvalue())


class ResumePoint(pl.callbacks.Checkpoint):
    """Saves the whole state of training after each epoch, whole or not at all."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:  # other processes help to gather the state but write nothing
            trainer.save_checkpoint(self._file)
            return
        with replacing(self._file) as temporary:
            trainer.save_checkpoint(temporary)


class ProgressBar(pl.Callback):
    """One line on stderr: the stage, its epochs, the loss, the time."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._bar = Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs  {task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._task = self._bar.add_task(self._stage, total=trainer.max_epochs, completed=trainer.current_epoch, loss="")
        self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        done = trainer.current_epoch + (args[2] + 1) / max(1, trainer.num_training_batches)
        self._bar.update(self._task, completed=done)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = trainer.callback_metrics.get("loss")
        self._bar.update(self._task, loss="" if loss is None else f"loss {float(loss):.3f}")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._bar.stop()


class ProgressLines(pl.Callback):
    """One line per epoch on stderr, for logs of runs without a terminal."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._started_s = 0.0
        self._first = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started_s, self._first = time.monotonic(), trainer.current_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = trainer.callback_metrics.get("loss")
        done, n_epochs = trainer.current_epoch + 1, trainer.max_epochs or 0
        spent_s = time.monotonic() - self._started_s
        left_s = spent_s / (done - self._first) * (n_epochs - done)
        text = "" if loss is None else f", loss {float(loss):.3f}"
        sys.stderr.write(f"{self._stage}: epoch {done} of {n_epochs}{text}, about {left_s:.0f} s left\n")
        sys.stderr.flush()


def last_losses(file: Path) -> Iterator[tuple[str, float]]:
    """The losses of the last epoch in a log, by name; nothing when there is no log."""
    lines = _lines(file)
    for key in ("loss", "validation_loss"):
        if lines and lines[-1][key]:
            yield key.replace("_", " "), float(lines[-1][key])


def _lines(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))
