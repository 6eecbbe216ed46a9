"""`cpep-edge try`: try gesture recognition without a band, with a simulated wearer."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.text import Text

from cpep_edge.cli.output import stderr

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpep_edge.events import Label
    from cpep_edge.personal import Repetition

WEARER, SEED = 7, 0  # select one simulated person, the same one every time
GESTURES = (
    "GraspPunchCloseFar",
    "FingerAbductionSeries",
    "PokePinchCloseFar",
    "ThumbsUpDownThumbRotationsCWCCWP",
    "WristFlexionAbduction",
)
REST = "Rest"
TAUGHT_ROUNDS, SHOWN_ROUNDS = 2, 2
_EASE_S = 0.3  # a hand may still be moving for this long after a change
BUNDLE = "try.cpep"


def try_out(
    out: Annotated[
        Path | None, typer.Option(help=f"Folder to keep {BUNDLE} and the recordings in.", show_default="nothing stays")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="Stop after this many seconds of signal.")] = None,
    web_host: Annotated[
        str, typer.Option(help="Address of the page; with 0.0.0.0 a phone can open it with the code in the terminal.")
    ] = "127.0.0.1",
    web_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 chooses a free one.")] = 8765,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Try it without a band: a simulated wearer teaches five gestures and makes them; a page shows the hand."""
    from cpep_bridge.simulator import SimulatedBand
    from cpep_edge.cli.live import live
    from cpep_edge.errors import ConfigError
    from cpep_edge.files import check_free
    from cpep_edge.manifest import MANIFEST_FILE
    from cpep_edge.personal import design_reading
    from cpep_edge.taught import fit_taught, write_taught
    from cpep_train.simulation import N_CHANNELS, SAMPLE_RATE_HZ, simulate_prompted
    from cpep_train.stages import STAGES

    if out is not None:
        check_free(out / BUNDLE / MANIFEST_FILE, force=False)
    asked = [next(stage for stage in STAGES if stage.name == name) for name in GESTURES]
    order = np.random.default_rng(SEED)
    stderr.print(Text.assemble(("1/2", "bold"), " a simulated wearer teaches a band five gestures, twice each"))
    lesson, labels = simulate_prompted(WEARER, 0, asked * TAUGHT_ROUNDS, SEED)
    repetitions = repetitions_of(lesson.emg_uv, labels, SAMPLE_RATE_HZ)
    taught = fit_taught(repetitions, REST, design_reading(N_CHANNELS, SAMPLE_RATE_HZ))
    mixed = [asked[number] for _ in range(SHOWN_ROUNDS) for number in order.permutation(len(asked))]
    shown, _ = simulate_prompted(WEARER, 0, mixed, SEED)
    with tempfile.TemporaryDirectory() as folder:
        bundle = (Path(folder) if out is None else out) / BUNDLE
        bundle.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_taught(bundle, taught, repetitions, "a simulated wearer")
        except OSError as error:
            raise ConfigError(f"{bundle} cannot be written: {error.strerror or error}") from error
        stderr.print(Text.assemble(("2/2", "bold"), " the wearer makes them in another order; Ctrl-C ends"))
        with SimulatedBand([shown.emg_uv], SAMPLE_RATE_HZ) as band:
            live(
                bundle, band.port, seconds=seconds, web=True, web_host=web_host, web_port=web_port, open_page=open_page
            )
    tell_what_next("try it on your own arm")


def repetitions_of(
    emg_uv: "NDArray[np.float32]", labels: "tuple[Label, ...]", sample_rate_hz: float
) -> "list[Repetition]":
    """Cut a prompted recording into its gestures and the rests between them, round by round.

    emg_uv: (n_samples, n_channels), raw
    """
    from cpep_edge.donning import SETTLE_S
    from cpep_edge.personal import Repetition

    def cut(name: str, number: int, start_s: float, end_s: float) -> None:
        first, last = round((start_s - SETTLE_S) * sample_rate_hz), round(end_s * sample_rate_hz)
        if first >= 0 and last - first > 2 * SETTLE_S * sample_rate_hz:
            found.append(Repetition(name, number, emg_uv[first:last]))

    found: list[Repetition] = []
    rounds: dict[str, int] = {}
    rest_from_s = 0.0
    for label in labels:
        number = rounds[label.gesture] = rounds.get(label.gesture, 0) + 1
        cut(REST, number, rest_from_s + SETTLE_S, label.start_s)
        cut(label.gesture, number, label.start_s + _EASE_S, label.end_s)
        rest_from_s = label.end_s + _EASE_S
    return found


def tell_what_next(why: str) -> None:
    """Print the three commands to run next, to use an own band."""
    stderr.print(Text.assemble("\nNow ", why, ":"))
    for command, what in (
        ("cpep-edge devices", "find your band"),
        ("cpep-edge teach MINE.cpep --port PORT", "teach your own gestures, in two minutes"),
        ("cpep-edge live MINE.cpep --port PORT --web", "see your own hand on the page"),
    ):
        stderr.print(Text.assemble("    ", (f"{command:46}", "bold"), what), soft_wrap=True)
