"""The base class of every part of a bundle's manifest, and how its JSON is read."""

import json
import math
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]  # plain names, never paths


class Part(BaseModel):
    """Part of a manifest: immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def parse_json(content: bytes) -> Any:
    """Read JSON that every reader understands in the same way; raises ValueError, never anything else.

    It refuses a name that occurs twice in an object, because readers differ in which value they take; NaN, infinity and
    numbers beyond float64, which are not JSON; and nesting so deep that it would overflow the stack.
    """
    try:
        text = content.decode()  # given bytes, json would also accept UTF-16 and UTF-32
        return json.loads(text, object_pairs_hook=_object, parse_float=_finite, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:100]!r} is in it twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a number that a float64 can hold")
    return number


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
