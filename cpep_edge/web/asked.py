"""The requests that a page may send to a run, as models that validate them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_LONGEST_S = 600.0  # of a recording


class Asked(BaseModel):
    """The base class of all requests."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Calibrate(Asked):
    """Calibrate: first rest, then movement."""

    rest_s: float = Field(default=5.0, ge=0, le=60)
    seconds: float = Field(default=20.0, ge=2, le=120)


class Teach(Asked):
    """Teach gestures, as a new bundle beside the running one."""

    gestures: tuple[str, ...] = Field(min_length=2, max_length=20)
    repetitions: int = Field(default=3, ge=1, le=20)


class Record(Asked):
    """Record gestures, in rounds through the list; each lasts `seconds` and is repeated `repetitions` times."""

    gestures: tuple[str, ...] = Field(min_length=1, max_length=50)
    seconds: float = Field(default=5.0, ge=1, le=_LONGEST_S)
    repetitions: int = Field(default=1, ge=1, le=50)
    rest_s: float = Field(default=3.0, ge=0, le=60)


class Devices(Asked):
    """List the available devices."""


class Connect(Asked):
    """Connect to the device on a port, in place of the current one."""

    port: str = Field(min_length=1, max_length=300)
    device: str = Field(default="cpep", min_length=1, max_length=300)


class Test(Asked):
    """Play a game: make and hold each gesture, or drive a point to targets with two pairs of gestures."""

    game: Literal["hold", "targets"] = "hold"
    rounds: int = Field(default=2, ge=1, le=20)


class Gates(Asked):
    """Try thresholds on the last minutes; with `apply`, they are also used from now on."""

    min_confidence: float | None = Field(default=None, ge=0, le=1)
    debounce_ms: float | None = Field(default=None, ge=0, le=5_000)
    refractory_ms: float | None = Field(default=None, ge=0, le=10_000)
    apply: bool = False


class Forget(Asked):
    """Remove a gesture, which is given by its label."""

    gesture: str


class Rename(Asked):
    """Set the name to show for a gesture, which is given by its label."""

    gesture: str
    called: str


class Stop(Asked):
    """Stop the running action."""
