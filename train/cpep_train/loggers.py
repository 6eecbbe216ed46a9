"""The loggers of Lightning that a recipe may name: TensorBoard, Weights & Biases, MLflow and others."""

from pathlib import Path

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
_IN_FOLDER = ("csv", "tensorboard", "wandb")  # those that take a folder to write to


def open_logger(settings: LogTo, run: Path, stage: str) -> Logger | None:
    """The logger of one stage of a run; None where the recipe names none.

    Raises ConfigError where its package is not installed, or it does not take one of the options.
    """
    if settings.name == "none" or rank() != 0:
        return None
    kind, package = _CLASSES[settings.name]
    options: dict[str, object] = dict(settings.options)
    if settings.name in _IN_FOLDER:
        options.setdefault("save_dir", str(run / LOG_FOLDER))
    if settings.name in ("csv", "tensorboard"):
        options.setdefault("name", stage)
    try:
        logger: Logger = getattr(loggers, kind)(**options)
    except ModuleNotFoundError as error:
        raise ConfigError(f"log_to.name: {settings.name} needs a package more: pip install {package}") from error
    except TypeError as error:
        raise ConfigError(f"log_to.options: {kind} of Lightning does not take them: {error}") from error
    return logger
