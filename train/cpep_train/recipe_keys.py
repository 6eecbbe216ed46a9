"""Every key of a recipe with its type, default and meaning, extracted from the source of the recipe classes.

The meaning is the comment behind a field in `cpep_train.recipe`, so it is written in one place only.
"""

import inspect
import re
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

_FIELD = re.compile(r"^    (\w+): ")
_COMMENT = re.compile(r"#\s*(.*)$")


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a recipe."""

    name: str  # with its table: "align.epochs"
    kind: str  # type of value: "whole number", or the allowed values
    default: str  # in TOML syntax; empty: the key is required
    meaning: str


@cache
def keys_of(recipe: type[BaseModel]) -> tuple[Key, ...]:
    """All keys of a recipe's model, in the order in which it has them."""
    return tuple(_keys(recipe, ""))


def _keys(part: type[BaseModel], prefix: str) -> list[Key]:
    meanings, found = _meanings(part), []
    for name, field in part.model_fields.items():
        inner = _table_of(field.annotation)
        if inner is not None:
            found += _keys(inner, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        text = "" if default is PydanticUndefined else _toml(default)
        found.append(Key(f"{prefix}{name}", _kind(field.annotation), text, meanings.get(name, "")))
    return found


def _meanings(part: type[BaseModel]) -> dict[str, str]:
    """The comment of each field, including inherited fields."""
    found: dict[str, str] = {}
    for made_from in reversed(part.__mro__):
        if issubclass(made_from, BaseModel) and made_from is not BaseModel:
            name = ""
            for line in inspect.getsource(made_from).splitlines():
                field = _FIELD.match(line)
                name = field[1] if field else name
                comment = _COMMENT.search(line)
                if comment and name in made_from.model_fields:
                    found[name] = comment[1]
                    name = ""  # a field's comment is the first one on or after its line
                elif line.startswith("    def "):
                    break
    return found


def _table_of(annotation: Any) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " | ".join(f'"{value}"' for value in get_args(annotation))
    if get_origin(annotation) in (UnionType, Union):
        return " | ".join(_kind(one) for one in get_args(annotation) if one is not NoneType)
    if get_origin(annotation) is tuple:
        return f"list of {_kind(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        return "table"
    names = {int: "whole number", float: "number", str: "text", bool: "true | false"}
    return names.get(annotation, str(annotation))


def _toml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml(one) for one in value)}]"
    if isinstance(value, dict):
        return "{}" if not value else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
