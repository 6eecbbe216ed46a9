"""Train one stage to its last epoch with Lightning, without its messages, on the available hardware."""

import io
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import MixedPrecision, Precision, TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from cpep_train.optimiser import TrainingStage
from cpep_train.processes import backend, n_local_processes, n_processes
from cpep_train.windows import WindowBatch


def fit(
    module: TrainingStage,
    training: DataLoader[WindowBatch],
    validation: DataLoader[WindowBatch] | None,
    callbacks: list[pl.Callback],
    *,
    precision: str = "auto",
    logger: Logger | None = None,
    resume_file: Path | None = None,
) -> None:
    """Train a module to its last epoch, starting from a resume point if one is given."""
    with _quiet(), _interrupts():
        trainer = pl.Trainer(
            max_epochs=module.settings.epochs,
            accelerator="auto",
            devices=n_local_processes(),
            num_nodes=n_processes() // n_local_processes(),
            strategy=DDPStrategy(process_group_backend=backend()) if n_processes() > 1 else "auto",
            use_distributed_sampler=False,  # `TrainingBatches` shares batches among processes itself
            logger=logger or False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,
            callbacks=callbacks,
            plugins=[_InPlace(), _precision(precision)],
        )
        trainer.fit(module, training, validation, ckpt_path=resume_file, weights_only=True)


class _InPlace(TorchCheckpointIO):
    """Writes a resume point in its own folder.

    Lightning's version writes to the system's temporary folder first. That may be another or a full disk, and a killed
    process leaves its files there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        packed = io.BytesIO()
        torch.save(checkpoint, packed)
        Path(path).write_bytes(packed.getbuffer())


def _precision(wanted: str) -> Precision:
    """The number format to train with. Given 16-mixed on a CPU, Lightning would use bfloat16 with a warning."""
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if wanted == "auto":
        wanted = "bf16-mixed" if device == "cuda" else "32-true"
    if wanted == "32-true":
        return Precision()
    return MixedPrecision("16-mixed" if wanted == "16-mixed" else "bf16-mixed", device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Lightning's banners, tips and hints; failures are still raised."""
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
    """Raise KeyboardInterrupt after Ctrl-C, where Lightning would ignore SIGINT and raise SystemExit."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
