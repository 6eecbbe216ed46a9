"""The display of `cpep-edge teach`: the hand shape to make, its name, and a countdown.

A terminal of at least 70 by 20 characters that can show braille gets a picture. A smaller terminal gets one line that
is overwritten. A file or a pipe gets one line per cue.
"""

import math
from types import TracebackType

from rich.align import Align
from rich.console import Console, Group, RenderableType
from rich.control import Control
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

from cpep_edge.cli.output import stderr
from cpep_edge.hand_braille import COLUMNS, LINES, hand_in_braille
from cpep_edge.hand_shapes import shape_of
from cpep_edge.lesson import OTHER_MOVEMENTS, Cue
from cpep_edge.names import UNKNOWN, shown_name
from cpep_edge.outside import printable

_LEAST_WIDTH, _LEAST_HEIGHT = 70, 20
_BAR_CELLS = 30


class Prompter:
    """Shows cues; call it with each cue."""

    def __init__(self, console: Console = stderr) -> None:
        self._console = console
        self._last: tuple[str, str, int, int] | None = None
        self._phase_s = 0.0  # length of this phase
        fits = console.width >= _LEAST_WIDTH and console.height >= _LEAST_HEIGHT
        drawn = console.is_terminal and fits and not console.is_dumb_terminal and console.encoding.startswith("utf")
        self._live = Live(console=console, auto_refresh=False, transient=True) if drawn else None

    @property
    def draws(self) -> bool:
        """Whether it shows the picture, which also tells the wearer why a repetition is asked for again."""
        return self._live is not None

    def __enter__(self) -> "Prompter":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._console.is_terminal:
            self._console.print()

    def __call__(self, cue: Cue) -> None:
        """Show a cue."""
        a_second = 10 if self._live is not None else 1
        now = (cue.phase, cue.gesture, cue.number, math.ceil(a_second * cue.left_s))
        if now == self._last or cue.phase == "done":
            return
        phase_changed, self._last = self._last is None or now[:3] != self._last[:3], now
        if phase_changed:
            self._phase_s = max(cue.left_s, 1e-3)
            if cue.phase == "make" and self._console.is_terminal:
                self._console.bell()
        if self._live is not None:
            self._live.update(picture(cue, self._phase_s), refresh=True)
            return
        gesture = OTHER_MOVEMENTS if cue.gesture == UNKNOWN else printable(cue.gesture)
        what = {
            "rest": f"rest the hand; first comes {gesture}",
            "ready": f"rest; next: {gesture}",
            "make": f"NOW: {gesture}",
        }[cue.phase]
        line = f"{cue.n_done + 1:>3}/{cue.n_steps}  {what}  ({math.ceil(cue.left_s)} s)"
        if self._console.is_terminal:
            self._console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 0)))
            self._console.print(line, end="", soft_wrap=True)
        elif phase_changed:
            self._console.print(line)


def picture(cue: Cue, phase_s: float) -> RenderableType:
    """The hand shape to make, with its name and a countdown; phase_s: length of the whole phase."""
    making, others = cue.phase == "make", cue.gesture == UNKNOWN
    name, how = OTHER_MOVEMENTS.split(": ") if others else (printable(shown_name(cue.gesture)), "")
    now = "now do, but none of the gestures" if others else "now make, and hold"
    colour = "green" if making else "cyan"
    shape = shape_of(cue.gesture)
    hand = [" " * COLUMNS] * LINES if shape is None else hand_in_braille(shape)
    countdown = Table.grid(padding=(0, 2))
    gone_s = max(0.0, phase_s - cue.left_s)
    bar = ProgressBar(phase_s, gone_s, width=_BAR_CELLS, complete_style=colour, finished_style=colour)
    countdown.add_row(bar, Text(f"{math.ceil(cue.left_s)} s", style="dim"))
    words = Group(
        Text(f"{cue.n_done + 1} of {cue.n_steps}", style="dim"),
        Text(),
        Text(now if making else "rest the hand; next comes", style=colour if making else ""),
        Text(name, style=f"bold {colour}", overflow="ellipsis", no_wrap=True),
        Text(how),
        Text(),
        countdown,
        Text(),
        Text(printable(cue.said, 500), style="yellow"),
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(width=COLUMNS)
    table.add_column(width=_LEAST_WIDTH - COLUMNS - 4)
    table.add_row(Text("\n".join(hand), style=f"bold {colour}" if making else colour), Align(words, vertical="middle"))
    return table
