"""Reading a TOML file into a model of its keys, with everything that is wrong in one sentence."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cpep_edge.errors import ConfigError
from cpep_edge.toml_text import load_toml

M = TypeVar("M", bound="Section")


class Section(BaseModel):
    """A table of a TOML file; a key that it does not have is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


def read_toml(path: Path, model: type[M], what: str) -> M:
    """A file as its model.

    what: the kind of file, such as "profile"
    Raises ConfigError naming all unknown keys and bad values at once.
    """
    try:
        values = load_toml(path)
    except ValueError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error}") from error
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{what} {path.name}: {_faults(error)}") from error


def _faults(error: ValidationError) -> str:
    return "; ".join(_fault(".".join(str(part) for part in e["loc"]), e["type"], e["msg"]) for e in error.errors())


def _fault(where: str, kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return f"{where} is not a known key"
    said = message.removeprefix("Value error, ")
    return f"{where}: {said[0].lower()}{said[1:]}" if where else said
