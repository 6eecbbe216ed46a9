"""The state of a running action, as the page shows it to every viewer."""

from dataclasses import asdict, dataclass

from cpep_edge.target_test import Fitts, ReachAndHold


@dataclass(frozen=True, slots=True)
class Doing:
    """The running action, as the page shows it."""

    what: str  # "calibrate", "teach", "record", "test" or "connect"
    said: str = ""  # instruction to the wearer
    gesture: str = ""  # label of the gesture to make
    left_s: float = 0.0
    n_done: int = 0
    n_steps: int = 0
    now: bool = False  # whether the gesture is to be made now, rather than next
    game: dict[str, object] | None = None  # state of a test's game


def playing(game: ReachAndHold | Fitts) -> Doing:
    """The state of a game, as the page shows it."""
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
