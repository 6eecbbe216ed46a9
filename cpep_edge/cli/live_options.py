"""Options of `cpep-edge live`, the most used ones first, grouped into the panels of its help."""

from pathlib import Path
from typing import Annotated

import typer

_OUTPUTS, _DECISIONS, _PAGE = "Where decisions go", "How to decide", "The page"  # panels of --help

MinConfidence = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=_DECISIONS,
        min=0,
        max=1,
        help="Share of the votes that a gesture needs to begin; it needs none to continue.",
        show_default="the bundle's",
    ),
]
DebounceMs = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=_DECISIONS,
        min=0,
        help="Time in ms that a gesture must last before it is decided.",
        show_default="the bundle's",
    ),
]
RefractoryMs = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=_DECISIONS,
        min=0,
        help="Time in ms after a gesture before another can be decided.",
        show_default="the bundle's",
    ),
]
Profile = Annotated[Path | None, typer.Option(help="Calibration of this wearing, written by cpep-edge calibrate.")]
Web = Annotated[bool, typer.Option("--web", help="Serve a page that shows the run in a browser.")]
Seconds = Annotated[float | None, typer.Option(min=0.1, help="Stop after this many seconds of signal.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print JSON lines: one for each decision, then a summary.")]
Sinks = Annotated[
    list[str] | None,
    typer.Option(
        rich_help_panel=_OUTPUTS,
        help="Also send decisions to FILE.jsonl, udp://HOST:PORT, osc://HOST:PORT, ws://HOST:PORT/PATH or lsl.",
    ),
]
Mapping = Annotated[
    Path | None,
    typer.Option("--map", rich_help_panel=_OUTPUTS, help="TOML file that maps gestures to keys, mouse, MIDI or OSC."),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", rich_help_panel=_OUTPUTS, help="With --map: print what would be done, and do nothing."),
]
Record = Annotated[
    Path | None,
    typer.Option(rich_help_panel=_OUTPUTS, help="Record EMG, decisions and link events in this folder, for replay."),
]
MaxRisk = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=_DECISIONS,
        min=0,
        max=1,
        help="Reject uncertain windows until the estimated error rate is at most this.",
    ),
]
Wake = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_DECISIONS,
        help="Ignore gestures until this one is made twice, and again after 10 s without any.",
        show_default="none",
    ),
]
Adapt = Annotated[
    bool,
    typer.Option(
        "--adapt",
        rich_help_panel=_DECISIONS,
        help="Adapt to slow changes of the signal; helps if the band was not calibrated.",
    ),
]
HopMs = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=_DECISIONS, min=5.0, help="Time in ms between two decisions.", show_default="the bundle's"
    ),
]
OnDevice = Annotated[
    bool,
    typer.Option(
        "--on-device",
        rich_help_panel=_DECISIONS,
        help="Show the gestures that the band itself recognises; the host only listens.",
    ),
]
WebHost = Annotated[
    str,
    typer.Option(
        rich_help_panel=_PAGE, help="Address of the page; if other machines can reach it, a token protects it."
    ),
]
WebPort = Annotated[
    int, typer.Option(rich_help_panel=_PAGE, min=0, max=65535, help="Port of the page; 0 chooses a free one.")
]
WebToken = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_PAGE,
        envvar="CPEP_WEB_TOKEN",
        help="Token that a browser must give.",
        show_default="a new one",
    ),
]
OpenPage = Annotated[
    bool,
    typer.Option("--open", rich_help_panel=_PAGE, help="With --web: open the page in this machine's browser."),
]
