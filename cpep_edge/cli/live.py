"""`cpep-edge simulate` and `cpep-edge live`: both ends of the wire."""

from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cpep_edge.cli.output import print_json, print_table, stderr, stdout

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cpep_edge.live import Live
    from cpep_edge.live_stats import LiveSummary

_SCREENS_A_SECOND = 8


def simulate(
    sessions: Annotated[list[Path], typer.Argument(help="emg2pose session files, played back to back.")],
    link: Annotated[Path | None, typer.Option(help="Make this symbolic link to the pty.")] = None,
    speed: Annotated[float, typer.Option(min=0.01, help="Times real time.")] = 1.0,
    loss: Annotated[float, typer.Option(min=0, max=1, help="Chance of a frame to be lost.")] = 0.0,
    corrupt: Annotated[float, typer.Option(min=0, max=1, help="Chance of a frame to be damaged.")] = 0.0,
    device: Annotated[str, typer.Option(help="What to be: cpep, cyton, cyton-daisy, chords, or a profile.")] = "cpep",
    drift: Annotated[float, typer.Option(help="How much too fast the device's clock runs, ppm.")] = 0.0,
    once: Annotated[bool, typer.Option("--once", help="End with the sessions, rather than start over.")] = False,
    seed: Annotated[int, typer.Option(help="Of the faults.")] = 0,
) -> None:
    """Be a wristband: play sessions on a pty, byte for byte as a band would send them."""
    from cpep_bridge.simulated_boards import simulate_device
    from cpep_edge.session import Session

    with ExitStack() as stack:
        simulated = simulate_device(
            device,
            [stack.enter_context(Session(path)) for path in sessions],
            link=link,
            speed=speed,
            loss=loss,
            corrupt=corrupt,
            drift_ppm=drift,
            once=once,
            seed=seed,
        )
        stack.enter_context(simulated)
        typer.echo(simulated.port)
        with suppress(KeyboardInterrupt):
            simulated.wait()
    stderr.print(f"sent {simulated.sent.frames} frames, of which {simulated.sent.lost_frames} were lost or damaged")


def live(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, NAME.cpep.")],
    port: Annotated[str, typer.Option(envvar="CPEP_PORT", help="Serial port, pty, or socket://HOST:PORT.")],
    device: Annotated[str, typer.Option(help="What hangs on the port.")] = "cpep",
    device_config: Annotated[Path | None, typer.Option(help="TOML file: channel map, resampling, scale.")] = None,
    reconnect_s: Annotated[float, typer.Option(min=0, help="Look so long for a band that was unplugged.")] = 30.0,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Stop after so much signal.")] = None,
    hop_ms: Annotated[float, typer.Option(min=5.0, help="Time between two decisions.")] = 100.0,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Give up on a band silent for so long.")] = 2.0,
    profile: Annotated[Path | None, typer.Option(help="This session's calibration, from cpep-edge calibrate.")] = None,
    json_lines: Annotated[bool, typer.Option("--json", help="JSON lines: a decision each, then a summary.")] = False,
) -> None:
    """Recognise gestures from a wristband on a serial port, as they happen."""
    from cpep_bridge.devices import open_source
    from cpep_edge.bundle import Bundle
    from cpep_edge.calibration import load_profile
    from cpep_edge.live import Live
    from cpep_edge.recogniser import Recogniser

    recogniser = Recogniser(Bundle(bundle))
    manifest = recogniser.manifest
    level_uv = None
    if profile is not None:
        level_uv = load_profile(profile).levels(manifest.preprocessing, manifest.encoder.n_channels)
    elif manifest.calibration:
        stderr.print(f"not calibrated, expect many errors; first run: cpep-edge calibrate {bundle} --port {port}")
    with open_source(port, device=device, timeout_s=timeout_s, reconnect_s=reconnect_s, config=device_config) as source:
        loop = Live(source, recogniser, hop_ms, seconds=seconds, level_uv=level_uv)
        if json_lines:
            _run_as_json(loop)
        else:
            _run_on_screen(f"{bundle.name}  ·  {source.info.name} on {port}", loop)


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, NAME.cpep.")],
    port: Annotated[str, typer.Option(envvar="CPEP_PORT", help="Serial port, pty, or socket://HOST:PORT.")],
    out: Annotated[Path, typer.Option(help="Profile to write, for live --profile.")] = Path("profile.json"),
    device: Annotated[str, typer.Option(help="What hangs on the port.")] = "cpep",
    device_config: Annotated[Path | None, typer.Option(help="TOML file: channel map, resampling, scale.")] = None,
    seconds: Annotated[float, typer.Option(min=2.0, help="Of movement to listen to.")] = 20.0,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Give up on a band silent for so long.")] = 2.0,
) -> None:
    """Measure how strong each electrode is on this arm, while the hand moves; live --profile then makes up for it."""
    from cpep_bridge.devices import open_source
    from cpep_edge.bundle import Bundle
    from cpep_edge.calibration import calibrate as measure
    from cpep_edge.calibration import save_profile
    from cpep_edge.live import check_stream

    manifest = Bundle(bundle).manifest
    stderr.print(f"for {seconds:g} s: {', then '.join(manifest.calibration) or 'move the hand in many ways'}")
    with open_source(port, device=device, timeout_s=timeout_s, config=device_config) as source:
        check_stream(source.info, manifest)
        save_profile(measure(source, manifest.preprocessing, seconds), out)
    stdout.print(out)


def _run_as_json(loop: "Live") -> None:
    from cpep_edge.live_stats import LiveStats

    stats = LiveStats()
    try:
        with suppress(KeyboardInterrupt):
            for decision in loop:
                stats.add(decision)
                print_json({"type": "decision", **asdict(decision)})
    finally:
        print_json({"type": "summary", **asdict(stats.summary(loop.engine, loop.source.counts))})


def _run_on_screen(title: str, loop: "Live") -> None:
    from rich.live import Live as Screen

    from cpep_edge.cli.view import render
    from cpep_edge.live_stats import LiveStats

    stats = LiveStats()

    def page() -> "RenderableType":
        summary = stats.summary(loop.engine, loop.source.counts)
        return render(title, stats.last, tuple(stats.changes), summary)

    screen = Screen(get_renderable=page, console=stdout, refresh_per_second=_SCREENS_A_SECOND)
    try:
        with screen, suppress(KeyboardInterrupt):
            for decision in loop:
                stats.add(decision)
    finally:
        _print_summary(stats.summary(loop.engine, loop.source.counts))


def _print_summary(summary: "LiveSummary") -> None:
    delay = "-" if summary.delay_p50_ms is None else f"{summary.delay_p50_ms:.1f} / {summary.delay_p99_ms:.1f} ms"
    link = summary.link
    rows = [
        ("decisions", str(summary.n_decisions)),
        ("changes", str(summary.n_changes)),
        ("delay p50 / p99", delay),
        ("skipped, suppressed hops", f"{summary.skipped_hops}, {summary.suppressed_hops}"),
        ("frames", str(link.frames)),
        ("lost, corrupt, repeated", f"{link.lost_frames}, {link.corrupt_frames}, {link.duplicate_frames}"),
        *((f"windows of {gesture}", str(n)) for gesture, n in summary.windows_by_gesture.items()),
    ]
    print_table("live", ("", ""), rows)
