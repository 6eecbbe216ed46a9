"""What an action of the page shows to every viewer while it runs."""

from dataclasses import asdict, dataclass

from cpep_edge.target_test import Fitts, ReachAndHold


@dataclass(frozen=True, slots=True)
class Doing:
    """The action that is running, as every viewer is shown it."""

    what: str  # "calibrate", "teach", "record", "test" or "connect"
    said: str = ""  # to the wearer
    gesture: str = ""  # to be made, by its label
    left_s: float = 0.0
    n_done: int = 0
    n_steps: int = 0
    now: bool = False  # the gesture is to be made now; else it comes next
    game: dict[str, object] | None = None  # of a test: how it stands


def playing(game: ReachAndHold | Fitts) -> Doing:
    """A game, as every viewer is shown it."""
    score = game.score
    if isinstance(game, Fitts):
        target = game.target
        shown = {"held": round(game.held, 2), "n_hits": score.n_hits, "cursor": game.cursor, "target": asdict(target)}
        said, asked = "drive the point into the ring, and stay there", ""
    else:
        shown = {"held": round(game.held, 2), "n_hits": score.n_hits}
        said, asked = ("make it and hold it" if game.phase == "reach" else "rest; next comes"), game.asked
    return Doing(
        "test",
        said,
        asked,
        game.left_s,
        game.n_done,
        game.n_targets,
        now=bool(asked and game.phase == "reach"),
        game=shown,
    )
