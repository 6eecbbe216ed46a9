"""`cpep-edge simulate`, `record`, `devices`, `doctor` and `soak`: commands for the wristband link, without a model."""

import json
import math
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from cpep_edge.cli.output import print_json, print_table, progress, stderr, stdout
from cpep_edge.cli.ports import PORT_HELP, Baud, Boot, Device, DeviceConfig, Force, PortOption, Reconnect, Timeout
from cpep_edge.cli.trust import KeyOption, TrustOption
from cpep_edge.errors import CpepError
from cpep_edge.outside import printable

if TYPE_CHECKING:
    from cpep_bridge.prompts import Prompt, Show
    from cpep_bridge.recording import Recorded


def simulate(
    sessions: Annotated[list[Path], typer.Argument(help="emg2pose recordings, played back to back.")],
    link: Annotated[Path | None, typer.Option(help="Make a symbolic link with this name to the pty.")] = None,
    speed: Annotated[float, typer.Option(min=0.01, max=1000.0, help="Playback speed; 2 is twice real time.")] = 1.0,
    loss: Annotated[float, typer.Option(min=0, max=1, help="Probability that a frame is lost.")] = 0.0,
    corrupt: Annotated[float, typer.Option(min=0, max=1, help="Probability that a frame is damaged.")] = 0.0,
    device: Annotated[
        str, typer.Option(help="Device to simulate: cpep, cyton, cyton-daisy, chords, or a board profile.")
    ] = "cpep",
    firmware: Annotated[
        bool, typer.Option("--firmware", help="Run the band's own C firmware, which is built on first use.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="With --firmware: cortex-m bundle for the band to run itself.")
    ] = None,
    drift: Annotated[
        float,
        typer.Option(min=-100_000.0, max=100_000.0, help="Clock error of the device in ppm; positive runs fast."),
    ] = 0.0,
    once: Annotated[bool, typer.Option("--once", help="Stop after the last recording; default: start over.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random faults.")] = 0,
    key: KeyOption = None,
    trust: TrustOption = False,
) -> None:
    """Simulate a wristband: play recordings on a pty, byte for byte as a band sends them."""
    from cpep_bridge.simulated_boards import simulate_device
    from cpep_edge.bundle import Bundle
    from cpep_edge.session import Session
    from cpep_edge.session_trial import check_session

    if model is not None and not firmware:
        raise typer.BadParameter("only a band with --firmware runs a model", param_hint="--model")
    for path in sessions:
        check_session(path)
    with ExitStack() as stack:
        simulated = simulate_device(
            device,
            [stack.enter_context(Session(path)) for path in sessions],
            firmware=firmware,
            model=None if model is None else Bundle.open(model, key, trust=trust),  # its code is compiled and run
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


def record(
    port: Annotated[str | None, PortOption] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write, NAME.hdf5; with --prompt, corpus folder to write.")
    ] = None,
    device: Device = "cpep",
    device_config: DeviceConfig = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Stop after this many seconds of signal; default: on Ctrl-C.")
    ] = None,
    prompt: Annotated[Path | None, typer.Option(help="TOML file that lists what the wearer is asked to do.")] = None,
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(
            help="Put all prompted recordings into this split.", show_default="last repetitions test, those before val"
        ),
    ] = None,
    stage: Annotated[str, typer.Option(help="Gesture label of a recording without prompts.")] = "unconstrained",
    user: Annotated[str, typer.Option(help="Who wears the band.")] = "user",
    session: Annotated[
        str, typer.Option(help="Name of this wearing, from putting the band on to taking it off.")
    ] = "session",
    side: Annotated[Literal["left", "right"], typer.Option(help="Which arm.")] = "right",
    reconnect_s: Reconnect = 30.0,
    timeout_s: Timeout = None,
    baud: Baud = None,
    boot_s: Boot = None,
    raw: Annotated[
        Path | None,
        typer.Option(help="Also save every byte of the line as a pcap file; --port file://PATH plays it again."),
    ] = None,
    recover: Annotated[
        Path | None, typer.Option(help="Make the recording from the .part file that a killed `record` left behind.")
    ] = None,
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was recorded as one JSON object.")] = False,
) -> None:
    """Record a wristband as emg2pose files; if the program is killed, at most the last second is lost."""
    from cpep_bridge import recording
    from cpep_bridge.devices import LinkOptions, open_source
    from cpep_bridge.prompts import METADATA, list_finished, load_prompts, record_prompts
    from cpep_edge.files import check_free
    from cpep_edge.names import check_gesture

    if recover is not None:
        one = recording.recover(recover, force)
        if (one.path.parent / METADATA).exists():
            list_finished(one.path.parent)  # it was recorded with --prompt
        _print_recorded([one], as_json)
        return
    if port is None or out is None:
        raise typer.BadParameter("give --port and --out, or --recover and the journal")
    wearer = recording.Wearer(user, session, side)
    check_gesture(stage)
    prompts = None if prompt is None else load_prompts(prompt)
    check_free(
        out / "metadata.csv" if prompts else out, force=prompts is not None or force
    )  # prompted recordings add rows to metadata.csv
    if raw is not None:
        check_free(raw, force)
    opened = open_source(
        port, device=device, link=LinkOptions(timeout_s, baud, boot_s, reconnect_s), config=device_config, capture=raw
    )
    with opened as source:
        if prompts is not None:
            recorded = record_prompts(source, out, wearer, prompts, _prompter(), split)
        else:
            taken = recording.record(source, out, wearer, stage, seconds, force=force)
            recorded = [] if taken is None else [taken]
    if not recorded:
        raise CpepError(f"nothing was recorded from {port}")
    _print_recorded(recorded, as_json)


def devices(
    port: Annotated[list[str] | None, typer.Option(help=f"Also look here. {PORT_HELP}")] = None,
    timeout_s: Timeout = None,
    baud: Baud = None,
    boot_s: Boot = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List serial ports, and the wristbands and boards that answer on them."""
    from cpep_bridge.ports import find_ports

    found = find_ports(port or (), timeout_s=timeout_s, baud=baud, boot_s=boot_s)
    if as_json:
        print_json({"ports": found})
        return
    if not found:
        stdout.print("no serial device is connected")
    for one in found:
        about = " ".join(part for part in (one.description, one.usb and f"({one.usb})") if part)
        stdout.print(Text.assemble((printable(one.port), "bold"), f"  {about}".rstrip()), soft_wrap=True)
        if one.band:
            what = f"{one.n_channels} channels at {one.sample_rate_hz:g} Hz"
            serial_number = f", serial number {one.serial_number}" if one.serial_number else ""
            firmware = f", firmware {one.firmware}" if one.firmware else ""
            stdout.print(f"  {one.band}: {what}{serial_number}{firmware}; --device {one.device}", soft_wrap=True)
        else:
            stdout.print(f"  {one.problem}", soft_wrap=True)


def doctor(
    port: Annotated[str | None, typer.Option(envvar="CPEP_PORT", help="Also check the device on this port.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Also check that this bundle's encoder runs here.")] = None,
    device: Device = "cpep",
    device_config: DeviceConfig = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="Seconds to listen to the device.")] = 3.0,
    timeout_s: Timeout = None,
    baud: Baud = None,
    boot_s: Boot = None,
    key: KeyOption = None,
    trust: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check packages, ports, permissions, latency, the link and the electrodes, and say what to do about faults."""
    from cpep_bridge.devices import LinkOptions
    from cpep_bridge.doctor import examine

    findings = []
    options = LinkOptions(timeout_s, baud, boot_s)
    for finding in examine(port, device, seconds, bundle, options, key, trust=trust, config=device_config):
        findings.append(finding)
        if not as_json:
            colour = {"good": "green", "note": "yellow", "bad": "red"}[finding.state]
            mark, about = (f"{finding.state:4}", colour), (printable(finding.about), "bold")
            stdout.print(Text.assemble(mark, "  ", about, "  ", finding.said), soft_wrap=True)
    n_bad = sum(finding.state == "bad" for finding in findings)
    if as_json:
        print_json({"healthy": not n_bad, "findings": findings})
    if n_bad:
        raise CpepError(f"{n_bad} of {len(findings)} checks found something wrong")


def soak(
    seconds: Annotated[float, typer.Option(min=1.0, help="Seconds of signal.")] = 60.0,
    out: Annotated[Path | None, typer.Option(help="Folder for soak.json and soak.md.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the signal and the faults.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Stress the link with faults, and compare every sample and count with what was sent."""
    from cpep_bench.machine import this_machine
    from cpep_bridge.soak import as_json_object, to_markdown
    from cpep_bridge.soak import soak as run
    from cpep_edge.folders import check_report, write_reports

    if out is not None:
        check_report(out, "soak.json")
    machine = this_machine()
    with progress("soaking") as advance:
        named = f"{machine.n_cpus} cores shared with other work, {machine.cpu}"
        report = run(seconds, seed=seed, machine=named, progress=advance)
    if out is not None:
        figures = json.dumps(as_json_object(report), indent=1) + "\n"
        write_reports(out, {"soak.json": figures.encode(), "soak.md": to_markdown(report).encode()})
    if as_json:
        print_json(as_json_object(report))
    else:
        stdout.print(to_markdown(report), end="")
    if not report.passed:
        raise CpepError("; ".join(report.faults))


def _prompter() -> "Show":
    """A function that shows on stderr what to do, once a second."""
    last: tuple[str, bool, int] | None = None

    def show(prompt: "Prompt", resting: bool, left_s: float) -> None:
        nonlocal last
        now = (prompt.stage, resting, math.ceil(left_s))
        if now != last:
            last = now
            what = "rest; next" if resting else "NOW"
            stderr.print(f"{what}: {prompt.text or prompt.stage}  ({now[2]} s)")

    return show


def _print_recorded(recorded: list["Recorded"], as_json: bool) -> None:
    if as_json:
        print_json({"recorded": recorded})
        return
    rows = [(str(one.path), one.stage, f"{one.duration_s:.1f}", str(one.n_gaps)) for one in recorded]
    print_table("recorded", ("file", "stage", "seconds", "gaps"), rows)
