"""Read a TOML file into a pydantic model, with all its errors in one message."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cpep_edge.errors import ConfigError
from cpep_edge.toml_text import faults, load_toml

M = TypeVar("M", bound="Section")


class Section(BaseModel):
    """A table of a TOML file; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


def read_toml(path: Path, model: type[M], what: str) -> M:
    """Read a file and validate it as `model`.

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
        raise ConfigError(f"{what} {path.name}: {faults(error)}") from error
