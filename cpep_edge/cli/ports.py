"""Options of every command that opens a port."""

from pathlib import Path
from typing import Annotated

import typer

PORT_HELP = (
    "Serial port, pty, VID:PID:SERIAL of a USB device; socket://, rfc2217://, udp:// or ws://HOST:PORT; ble:NAME, "
    "lsl:NAME or brainflow:BOARD."
)

PortOption = typer.Option(envvar="CPEP_PORT", help=PORT_HELP)
Port = Annotated[str, PortOption]
Device = Annotated[str, typer.Option(help="What hangs on the port: a driver, a profile's name, or its path.")]
DeviceConfig = Annotated[Path | None, typer.Option(help="TOML file: channel map, resampling, scale.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        help="Give up on a device that sends no sample for so long.",
        show_default="2, or longer if it boots slowly",
    ),
]
Baud = Annotated[int | None, typer.Option(min=50, help="Speed of the serial line.", show_default="the device's")]
Boot = Annotated[
    float | None,
    typer.Option(min=0, help="Seconds the device may take to start once opened.", show_default="the device's"),
]
Reconnect = Annotated[float, typer.Option(min=0, help="Look so long for a device whose samples stopped coming.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
