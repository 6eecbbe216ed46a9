"""`cpep-edge live`, `replay` and `calibrate`: run a bundle on a wristband or a recording, or calibrate it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cpep_edge.cli import live_options as options
from cpep_edge.cli.output import print_json, print_table, stderr, stdout
from cpep_edge.cli.ports import Baud, Boot, Device, DeviceConfig, Force, Port, PortOption, Reconnect, Timeout
from cpep_edge.cli.trust import KeyOption, TrustOption
from cpep_edge.errors import CpepError
from cpep_edge.outside import printable

if TYPE_CHECKING:
    from cpep_edge.blocks import StreamInfo
    from cpep_edge.cli.view import PageAddress
    from cpep_edge.decisions import Decision
    from cpep_edge.live_loop import Live
    from cpep_edge.live_run import LiveRun
    from cpep_edge.live_stats import LiveSummary
    from cpep_edge.live_view import LiveView
    from cpep_edge.sinks import SinkCounts, SinkTap

_SCREENS_A_SECOND = 12

BundlePath = Annotated[Path, typer.Argument(help="Bundle folder, NAME.cpep.")]


def live(
    bundle: BundlePath,
    port: Annotated[str | None, PortOption] = None,
    device: Device = "cpep",
    profile: options.Profile = None,
    web: options.Web = False,
    seconds: options.Seconds = None,
    json_lines: options.JsonLines = False,
    sink: options.Sinks = None,
    mapping: options.Mapping = None,
    dry_run: options.DryRun = False,
    record: options.Record = None,
    max_risk: options.MaxRisk = None,
    min_confidence: options.MinConfidence = None,
    debounce_ms: options.DebounceMs = None,
    refractory_ms: options.RefractoryMs = None,
    wake: options.Wake = None,
    adapt: options.Adapt = False,
    hop_ms: options.HopMs = None,
    on_device: options.OnDevice = False,
    web_host: options.WebHost = "127.0.0.1",
    web_port: options.WebPort = 8765,
    web_token: options.WebToken = None,
    open_page: options.OpenPage = False,
    device_config: DeviceConfig = None,
    reconnect_s: Reconnect = 30.0,
    timeout_s: Timeout = None,
    baud: Baud = None,
    boot_s: Boot = None,
    key: KeyOption = None,
    trust: TrustOption = False,
) -> None:
    """Recognise gestures from a wristband as they happen."""
    from cpep_edge.live_run import live as run_live

    if port is None and not web:
        raise typer.BadParameter("give --port, or --web to choose the device on the page")
    gates = (max_risk, min_confidence, debounce_ms, refractory_ms, wake, adapt or None)
    if on_device and (web or any(value is not None for value in (record, hop_ms, seconds, device_config, *gates))):
        raise typer.BadParameter(
            "the band decides by itself: only --port, --timeout-s, --baud, --boot-s, --reconnect-s, --profile, "
            "--sink and --json can be used"
        )
    prepared = run_live(
        bundle,
        port,
        device=device,
        device_config=device_config,
        profile=profile,
        hop_ms=hop_ms,
        seconds=seconds,
        max_risk=max_risk,
        min_confidence=min_confidence,
        debounce_ms=debounce_ms,
        refractory_ms=refractory_ms,
        wake=wake,
        adapt=adapt,
        sinks=sink or [],
        mapping=mapping,
        dry_run=stderr.print if dry_run else None,
        record=record,
        on_device=on_device,
        web=web,
        web_host=web_host,
        web_port=web_port,
        web_token=web_token,
        reconnect_s=reconnect_s,
        timeout_s=timeout_s,
        baud=baud,
        boot_s=boot_s,
        key=key,
        trust=trust,
    )
    manifest = prepared.manifest
    if not on_device and profile is None and manifest.calibration and manifest.worn is None:
        stderr.print(
            f"not calibrated, expect many errors; first run: cpep-edge calibrate {bundle} --port {port or 'PORT'}"
        )
    with prepared as run:
        if run.page is not None:
            if web_port not in (0, run.page.port):
                stderr.print(f"port {web_port} is taken: the page is on port {run.page.port}")
            stderr.print(f"open {run.page.url}", soft_wrap=True)
            if open_page:
                _open_in_browser(run.page.url)
        if on_device:
            _run_on_device(run, json_lines)
        elif json_lines:
            run_as_json(run.loop, run.view, run.sinks)
        else:
            run_on_screen(run.loop, run.view, run.sinks, run.page)


def replay(
    recording: Annotated[Path, typer.Argument(help="Folder of live --record, or a recording.")],
    bundle: BundlePath,
    key: KeyOption = None,
    trust: TrustOption = False,
    json_lines: Annotated[bool, typer.Option("--json", help="Print JSON lines, as live does.")] = False,
) -> None:
    """Recognise gestures in a recorded run; the same bundle gives exactly the same decisions."""
    from cpep_edge.bundle import Bundle
    from cpep_edge.live_recording import is_of_bundle
    from cpep_edge.live_recording import replay as decide
    from cpep_edge.recogniser import Recogniser

    recogniser = Recogniser(Bundle.open(bundle, key, trust=trust))
    if not is_of_bundle(recording, recogniser):
        stderr.print(f"{recording} was recorded with another encoder than {bundle}'s; decisions may differ")
    n_changes = 0
    for decision in decide(recording, recogniser):
        n_changes += decision.changed
        if json_lines:
            print_json({"type": "decision", **asdict(decision)})
        elif decision.changed:
            stdout.print(f"{decision.device_t_s:9.2f} s  {printable(recogniser.manifest.shown(decision.gesture))}")
    stderr.print(f"{n_changes} changes of the decision")


def calibrate(
    bundle: BundlePath,
    port: Port,
    out: Annotated[Path, typer.Option(help="File to write, for live --profile.")] = Path("profile.json"),
    device: Device = "cpep",
    device_config: DeviceConfig = None,
    rest_seconds: Annotated[float, typer.Option(min=0, help="Seconds of rest at the start; 0 skips it.")] = 5.0,
    seconds: Annotated[float, typer.Option(min=2.0, help="Seconds of movement after that.")] = 20.0,
    timeout_s: Timeout = None,
    baud: Baud = None,
    boot_s: Boot = None,
    force: Force = False,
    key: KeyOption = None,
    trust: TrustOption = False,
) -> None:
    """Calibrate for half a minute after putting the band on: signal levels, how the band is turned, and rest."""
    from cpep_bridge.devices import LinkOptions, open_source
    from cpep_edge.bundle import Bundle
    from cpep_edge.calibration import calibrate as measure
    from cpep_edge.calibration import odd_electrodes, require_profile_or_nothing, save_profile
    from cpep_edge.files import check_free
    from cpep_edge.live_loop import check_stream
    from cpep_edge.recogniser import Recogniser

    check_free(out, force)
    require_profile_or_nothing(out)
    recogniser = Recogniser(Bundle.open(bundle, key, trust=trust))
    manifest = recogniser.manifest
    move = f"for {seconds:g} s: {manifest.calibration_moves}"
    stderr.print(f"for {rest_seconds:g} s: rest the hand" if rest_seconds else move)
    with open_source(
        port, device=device, link=LinkOptions(timeout_s=timeout_s, baud=baud, boot_s=boot_s), config=device_config
    ) as source:
        check_stream(source.info, manifest)
        measured = measure(
            source,
            recogniser,
            seconds,
            rest_seconds=rest_seconds,
            on_move=lambda: stderr.print(move),
        )
    for electrode, factor in odd_electrodes(measured, manifest.level_pattern).items():
        strength = f"{factor:.1f} times stronger" if factor > 1 else f"{1 / factor:.1f} times weaker"
        stderr.print(f"electrode {electrode} is {strength} than usual: check its contact with the skin")
    if measured.dead:
        stderr.print(f"electrodes without signal: {', '.join(str(electrode + 1) for electrode in measured.dead)}")
    if measured.order != tuple(range(len(measured.order))):
        ring = ", ".join(str(electrode + 1) for electrode in measured.order)
        stderr.print(f"the band is turned: its electrodes {ring} are used as the first to the last")
    save_profile(measured, out)
    stdout.print(out)


def _open_in_browser(url: str) -> None:
    """Open the page in a graphical browser, if there is one. A text browser would take the terminal from the run."""
    import os
    import sys
    import webbrowser

    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(url)


def _run_on_device(run: "LiveRun", json_lines: bool) -> None:
    from cpep_edge.sinks import close_sinks

    n_decisions = n_changes = 0

    def summary() -> dict[str, object]:
        close_sinks(run.sinks)
        counts = {"n_decisions": n_decisions, "n_changes": n_changes}
        return {"type": "summary", **counts, "link": run.band.counts, "sinks": [sink.counts for sink in run.sinks]}

    with _json_lines(run.info, summary) if json_lines else nullcontext() as printed:
        with suppress(KeyboardInterrupt):
            for decision in run:
                n_decisions, n_changes = n_decisions + 1, n_changes + decision.changed
                if printed is not None:
                    printed(decision)
                elif decision.changed:
                    stdout.print(f"{decision.device_t_s:9.2f} s  {printable(run.manifest.shown(decision.gesture))}")
    if not json_lines:
        stderr.print(f"{n_decisions} decisions of the band, {n_changes} changes")


def run_as_json(loop: "Live", view: "LiveView", sinks: "tuple[SinkTap, ...]") -> None:
    from cpep_edge.sinks import close_sinks

    def summary() -> dict[str, object]:
        close_sinks(sinks)
        return {"type": "summary", **asdict(view.summary()), "sinks": view.sink_counts}

    with _json_lines(loop.source.info, summary) as printed, suppress(KeyboardInterrupt):
        for decision in loop:
            view.stats.add(decision)
            printed(decision)


@contextmanager
def _json_lines(info: "StreamInfo", summary: Callable[[], object]) -> Iterator["Callable[[Decision], None]"]:
    """Yield a function that prints decisions as JSON lines; a summary is printed at the end.

    It never blocks, so that a pipe that nobody reads cannot delay the run, its recording and its sinks.
    """
    from cpep_edge.sinks import SinkTap, parse_sink

    tap = SinkTap("-", parse_sink("-"), info)

    def printed(decision: "Decision") -> None:
        tap.decision(decision)
        if tap.counts.failures:
            raise CpepError(f"decisions cannot be printed: {tap.counts.last_error}")

    try:
        yield printed
    finally:
        tap.finish()  # it ends while the summary is made
        last, ended = summary(), tap.close()
        if ended and not tap.counts.failures:
            print_json(last)
        if tap.counts.dropped:
            stderr.print(f"{tap.counts.dropped} decisions were not printed: stdout is read too slowly, or not at all")


def run_on_screen(
    loop: "Live", view: "LiveView", sinks: "tuple[SinkTap, ...]", page: "PageAddress | None" = None
) -> None:
    from rich.live import Live as Screen

    from cpep_edge.cli.view import ScreenView
    from cpep_edge.sinks import close_sinks

    screen = Screen(
        get_renderable=ScreenView(view, page).render,
        console=stdout,
        refresh_per_second=_SCREENS_A_SECOND,
        screen=stdout.is_terminal,
    )
    try:
        with screen, suppress(KeyboardInterrupt):
            for decision in loop:
                view.stats.add(decision)
    finally:
        close_sinks(sinks)
        _print_summary(view, view.summary(), view.sink_counts)


def _print_summary(view: "LiveView", summary: "LiveSummary", sinks: "list[SinkCounts]") -> None:
    delay = "-" if summary.delay_p50_ms is None else f"{summary.delay_p50_ms:.1f} / {summary.delay_p99_ms:.1f} ms"
    link = summary.link
    rows = [
        ("decisions", str(summary.n_decisions)),
        ("changes", str(summary.n_changes)),
        ("delay p50 / p99", delay),
        ("skipped, suppressed hops", f"{summary.skipped_hops}, {summary.suppressed_hops}"),
        ("frames", str(link.frames)),
        ("lost, corrupt, repeated", f"{link.lost_frames}, {link.corrupt_frames}, {link.duplicate_frames}"),
        ("windows at rest", str(summary.rest_hops)),
        *(
            (f"sink {sink.address}", f"{sink.sent} sent, {sink.dropped} dropped, {sink.failures} failures")
            for sink in sinks
        ),
        *((f"windows of {view.shown(gesture)}", str(n)) for gesture, n in summary.windows_by_gesture.items()),
    ]
    print_table("live", ("", ""), rows)
