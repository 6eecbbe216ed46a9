"""JSON that every parser accepts: NaN and infinity become null, and objects are written by their fields."""

import json
import math
from dataclasses import fields, is_dataclass
from typing import Any


def to_json(answer: Any, indent: int | None = None) -> str:
    """JSON of dataclasses, pydantic models, arrays and collections of these; NaN and infinity become null."""
    return json.dumps(_plain(answer), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int) or value is None:
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "model_dump"):
        return _plain(value.model_dump(mode="json"))
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value)
