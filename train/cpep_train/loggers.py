"""The loggers of Lightning that a recipe may name: TensorBoard, Weights & Biases, MLflow and others."""

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.loggers import Logger

from cpep_edge.errors import ConfigError
from cpep_train.processes import rank
from cpep_train.recipe import LogTo

LOG_FOLDER = "logs"
_CLASSES = {
    "csv": ("CSVLogger", ""),
    "tensorboard": ("TensorBoardLogger", "tensorboard"),
    "wandb": ("WandbLogger", "wandb"),
    "mlflow": ("MLFlowLogger", "mlflow"),
    "comet": ("CometLogger", "comet-ml"),
    "lit": ("LitLogger", "litlogger"),
}
_FOLDER_OPTION = {
    "csv": "save_dir", "tensorboard": "save_dir", "wandb": "save_dir", "comet": "offline_directory", "lit": "root_dir",
}  # fmt: skip
_END = {"wandb": "finish", "comet": "end"}  # methods that end a log, or the next stage would write into it
_WAY_OUT = {
    "wandb": "log in with `wandb login`, or set WANDB_MODE=offline to keep the log in the run's folder",
    "comet": "set COMET_API_KEY, or COMET_START_ONLINE=0 to keep the log in the run's folder",
    "lit": "set LIGHTNING_USER_ID and LIGHTNING_API_KEY; it has no offline log, as csv, tensorboard and wandb have",
    "mlflow": "give log_to.options.tracking_uri a server that answers, or a folder",
}

_log = logging.getLogger(__name__)


def open_logger(settings: LogTo, run: Path, stage: str) -> Logger | None:
    """The logger of one stage of a run; None where the recipe names none.

    Raises ConfigError when its package is not installed, it does not accept one of the options, or it cannot start.
    """
    if settings.name == "none" or rank() != 0:
        return None
    kind, package = _CLASSES[settings.name]
    options: dict[str, object] = dict(settings.options)
    if settings.name in _FOLDER_OPTION:
        options.setdefault(_FOLDER_OPTION[settings.name], str(run / LOG_FOLDER))
    if settings.name == "mlflow":
        options.setdefault("run_name", f"{run.name}-{stage}")
    else:
        options.setdefault("name", stage if settings.name in ("csv", "tensorboard") else f"{run.name}-{stage}")
    if settings.name == "lit":
        options.setdefault("save_logs", False)  # otherwise it starts this command a second time, to copy its output
    (run / LOG_FOLDER).mkdir(exist_ok=True)
    try:
        with redirect_stdout(sys.stderr):
            logger: Logger = getattr(loggers, kind)(**options)
            _ = logger.experiment  # type: ignore[attr-defined]
    except ModuleNotFoundError as error:
        raise ConfigError(f"log_to.name: {settings.name} needs another package: pip install {package}") from error
    except TypeError as error:
        raise ConfigError(f"log_to.options: {kind} of Lightning does not take them: {error}") from error
    except Exception as error:  # each logger has its own exceptions
        way_out = _WAY_OUT.get(settings.name, "change log_to.options")
        raise ConfigError(f"log_to.name: {settings.name} does not start: {_first_line(error)}; {way_out}") from error
    return _Outlived(settings.name, logger)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip(" .")


class _Outlived(Logger):
    """Wraps a logger: a failure ends the log but not the training, and the log is closed at the end of the stage."""

    def __init__(self, kind: str, inner: Logger) -> None:
        super().__init__()
        self._kind, self._inner, self._failed = kind, inner, False

    @property
    def name(self) -> str | None:
        return self._inner.name

    @property
    def version(self) -> int | str | None:
        return self._inner.version

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._try(self._inner.log_hyperparams, params, *args, **kwargs)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._try(self._inner.log_metrics, metrics, step)

    def save(self) -> None:
        self._try(self._inner.save)

    def finalize(self, status: str) -> None:
        self._try(self._inner.finalize, status)
        if self._kind in _END:
            self._try(getattr(self._inner.experiment, _END[self._kind]))  # type: ignore[attr-defined]

    def _try(self, call: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        if self._failed:
            return
        try:
            with redirect_stdout(sys.stderr):
                call(*args, **kwargs)
        except Exception as error:
            self._failed = True
            _log.warning("%s failed, and logs no more of this stage: %s", self._kind, _first_line(error))
