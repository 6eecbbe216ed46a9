"""What a page may ask of a run, checked where it comes in."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_LONGEST_S = 600.0  # of a recording


class Asked(BaseModel):
    """One thing that is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Calibrate(Asked):
    """Rest, then movement."""

    rest_s: float = Field(default=5.0, ge=0, le=60)
    seconds: float = Field(default=20.0, ge=2, le=120)


class Teach(Asked):
    """Gestures to teach, of a new bundle beside the one that runs."""

    gestures: tuple[str, ...] = Field(min_length=2, max_length=20)
    repetitions: int = Field(default=3, ge=1, le=20)


class Record(Asked):
    """Gestures, each for so long and so many times, going round the list."""

    gestures: tuple[str, ...] = Field(min_length=1, max_length=50)
    seconds: float = Field(default=5.0, ge=1, le=_LONGEST_S)
    repetitions: int = Field(default=1, ge=1, le=50)
    rest_s: float = Field(default=3.0, ge=0, le=60)


class Devices(Asked):
    """Look which devices there are."""


class Connect(Asked):
    """Take the device on a port in place of the present one."""

    port: str = Field(min_length=1, max_length=300)
    device: str = Field(default="cpep", min_length=1, max_length=300)


class Test(Asked):
    """A game: make and hold each gesture, or drive a point to targets by two pairs of them."""

    game: Literal["hold", "targets"] = "hold"
    rounds: int = Field(default=2, ge=1, le=20)


class Gates(Asked):
    """Thresholds; apply: from now on, else only what they would have done is told."""

    min_confidence: float | None = Field(default=None, ge=0, le=1)
    debounce_ms: float | None = Field(default=None, ge=0, le=5_000)
    refractory_ms: float | None = Field(default=None, ge=0, le=10_000)
    apply: bool = False


class Forget(Asked):
    """A gesture's label."""

    gesture: str


class Rename(Asked):
    """A new name to show for a gesture, which is given by its label."""

    gesture: str
    called: str


class Stop(Asked):
    """Break off what is being done."""
