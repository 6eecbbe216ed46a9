"""Options of every command that opens a port."""

from pathlib import Path
from typing import Annotated

import typer

PORT_HELP = (
    "Serial port or pty; VID:PID:SERIAL of a USB device; socket://, rfc2217://, udp:// or ws://HOST:PORT; ble:NAME, "
    "lsl:NAME or brainflow:BOARD."
)

PortOption = typer.Option(envvar="CPEP_PORT", help=PORT_HELP)
Port = Annotated[str, PortOption]
Device = Annotated[
    str,
    typer.Option(help="Device type: a driver, or a board profile by name or path; `cpep-edge devices` lists them."),
]
_LINK = "Link to the band"

DeviceConfig = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=_LINK, help="TOML file that maps the device's channels, rate and scale to the model's."
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=_LINK,
        min=0.1,
        help="Give up after this many seconds without a sample.",
        show_default="2, or longer if it boots slowly",
    ),
]
Baud = Annotated[
    int | None,
    typer.Option(rich_help_panel=_LINK, min=50, help="Baud rate of the serial port.", show_default="the device's"),
]
Boot = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=_LINK,
        min=0,
        help="Seconds that the device takes to start after its port is opened.",
        show_default="the device's",
    ),
]
Reconnect = Annotated[
    float,
    typer.Option(
        rich_help_panel=_LINK, min=0, help="Seconds to try to reconnect after the stream breaks; 0 gives up at once."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]
