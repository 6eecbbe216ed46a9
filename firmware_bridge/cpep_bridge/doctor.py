"""Diagnose why a band does not work: check packages, ports, permissions, settings, the line and the electrodes.

Each finding says what was found and, if something is wrong, what to do.
"""

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from serial.tools import list_ports

from cpep_bridge.arrivals import HEARD_RATE_TOLERANCE
from cpep_bridge.band import Band
from cpep_bridge.channel_health import HUM_FLOOR_UV, ChannelHealth, assess_channels
from cpep_bridge.devices import LinkOptions, open_source
from cpep_bridge.frames import DataFlag, Info
from cpep_bridge.line_rate import BITS_PER_BYTE, stream_bytes_per_s
from cpep_bridge.transports import in_use_by, no_permission
from cpep_edge.blocks import Block, BlockSource, StreamInfo
from cpep_edge.donning import doubled_channels
from cpep_edge.errors import CpepError

State = Literal["good", "note", "bad"]

LATENCY_TIMER_MS = 1
FULL_LINE = 0.95  # largest share of a line's bits for samples; the rest is for answers, telemetry and a fast clock

_LATENCY_TIMERS = Path("/sys/bus/usb-serial/devices")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    about: str
    state: State
    said: str


def examine(
    port: str | None,
    device: str = "cpep",
    seconds: float = 3.0,
    bundle: Path | None = None,
    options: LinkOptions = LinkOptions(),
    key_file: Path | None = None,
    *,
    trust: bool = False,
    config: Path | None = None,
) -> Iterator[Finding]:
    """Run all checks, including those of the device on `port` and of a bundle if they are given.

    config: the device config with which the device is used
    Yields each finding as soon as it is made.
    """
    yield from examine_packages()
    if bundle is not None:
        yield from examine_bundle(bundle, key_file, trust=trust)
    yield from examine_ports()
    found = []
    if port is not None:
        for finding in examine_device(port, device, seconds, options, config):
            found.append(finding)
            yield finding
    yield _next_step(port, device, bundle, config, found)


def examine_packages() -> Iterator[Finding]:
    """Check Python, the packages that a device needs, and their compiled parts."""
    yield Finding("python", "good", f"{platform.python_version()} on {platform.machine()}")
    for name in _needed_packages():
        try:
            yield Finding(name, "good", version(name))
        except PackageNotFoundError:
            yield Finding(name, "bad", f"is not installed: run 'pip install {name}'")
    if find_spec("cobs.cobs._cobs_ext") is None:
        yield Finding("cobs", "note", "runs without its C extension, slower: install a C compiler and reinstall cobs")
    runtime = find_spec("executorch") is not None
    lacking = "only bundles that carry a library for this machine run here; for others pip install 'cpep-edge[export]'"
    said = "executorch is installed" if runtime else lacking
    yield Finding("encoder runtime", "good" if runtime else "note", said)


def examine_bundle(path: Path, key_file: Path | None = None, *, trust: bool = False) -> Iterator[Finding]:
    """Check that a bundle is complete and that its encoder runs on this machine, and say with which library."""
    from cpep_edge.bundle import Bundle
    from cpep_edge.golden import try_golden
    from cpep_edge.native_encoder import carried_library

    try:
        opened = Bundle.open(path, key_file, trust=trust)
        opened.check_files()
        library = carried_library(opened)
        try_golden(opened)
    except CpepError as error:
        yield Finding(path.name, "bad", str(error))
        return
    how = "the installed executorch and torch" if library is None else f"its own library for {library.architecture}"
    yield Finding(path.name, "good", f"is complete, and its encoder runs here with {how}")


def examine_ports() -> Iterator[Finding]:
    """Check every serial port: permission, use by another program, and the latency of its adapter."""
    ports = sorted(port.device for port in list_ports.comports())
    if not ports:
        yield Finding("ports", "note", "no serial device is connected")
    for port in ports:
        if not os.access(port, os.R_OK | os.W_OK):
            yield Finding(port, "bad", no_permission(port))
            continue
        by_whom = in_use_by(port)
        yield Finding(port, "note" if by_whom else "good", f"is in use{by_whom}" if by_whom else "can be used")
        yield from examine_latency(port)


def examine_latency(port: str, timers: Path = _LATENCY_TIMERS) -> Iterator[Finding]:
    """Check how long an FTDI adapter waits before it passes on a few bytes; yields nothing for other ports."""
    timer = timers / Path(port).name / "latency_timer"
    try:
        timer_ms = int(timer.read_text())
    except (OSError, ValueError):
        return
    if timer_ms <= LATENCY_TIMER_MS:
        yield Finding(port, "good", f"its adapter passes on bytes after {timer_ms} ms")
        return
    cure = f"run 'echo {LATENCY_TIMER_MS} | sudo tee {timer}' if delays stay high"
    said = f"its adapter holds bytes back for {timer_ms} ms; while a stream runs it is asked not to: {cure}"
    yield Finding(port, "note", said)


def examine_device(
    port: str, device: str, seconds: float, options: LinkOptions = LinkOptions(), config: Path | None = None
) -> Iterator[Finding]:
    """Open a device, listen to it for a while, and judge the line and the electrodes."""
    try:
        source_of = open_source(port, device=device, link=options, config=config)
        with source_of as source:
            info = source.info
            identity = source.identity if isinstance(source, Band) else None
            blocks = _listen(source, seconds)
            counts = source.counts
    except CpepError as error:
        yield Finding(port, "bad", str(error))
        return
    if len(blocks) < 2:
        yield Finding(port, "bad", f"sent no signal in {seconds:g} s: listen longer with --seconds")
        return
    unit = "" if info.unit == "uV" else ", which does not say what a count is in microvolts"
    said = f"{info.name} answers: {info.n_channels} channels at {info.sample_rate_hz:g} Hz{unit}"
    yield Finding(port, "good", said)
    if identity is not None and identity.baud:
        yield _line(port, identity)
    yield _rate(port, info, blocks)
    n_samples = sum(len(block.samples_uv) for block in blocks)
    share = counts.lost_samples / (counts.lost_samples + n_samples)
    state: State = "bad" if share > 0.01 else "note" if counts.lost_frames or counts.corrupt_frames else "good"
    advice = ": a shorter or better cable, another hub, or a lower rate may help" if state == "bad" else ""
    yield Finding(
        port, state, f"{counts.lost_frames} frames lost, {counts.corrupt_frames} damaged ({share:.2%}){advice}"
    )
    yield from _electrodes(info, blocks)


def _needed_packages() -> list[str]:
    """The required packages of cpep-edge, without those of extras."""
    try:
        lines = requires("cpep-edge") or []
    except PackageNotFoundError:
        lines = ["numpy", "h5py", "pyserial", "cobs"]
    return [_name(line) for line in lines if "extra ==" not in line]


def _name(requirement: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else " " for letter in requirement).split()[0]


def _listen(source: BlockSource, seconds: float) -> list[Block]:
    end_s, blocks = time.monotonic() + seconds, list[Block]()
    for block in source:
        blocks.append(block)
        if block.host_t_s > end_s:
            break
    return blocks


def _line(port: str, identity: Info) -> Finding:
    """Check how much of a serial line the stream uses; opening already refused a line that is too slow."""
    share = stream_bytes_per_s(identity) * BITS_PER_BYTE / identity.baud
    said = f"its line runs at {identity.baud} baud, of which the stream takes {share:.0%}"
    if share <= FULL_LINE:
        return Finding(port, "good", said)
    return Finding(port, "note", f"{said}: answers and telemetry may displace samples; use a faster line")


def _rate(port: str, info: StreamInfo, blocks: list[Block]) -> Finding:
    first, last = blocks[0], blocks[-1]
    n_samples = last.sample_index + len(last.samples_uv) - first.sample_index - len(first.samples_uv)
    heard_hz = n_samples / max(1e-9, last.host_t_s - first.host_t_s)
    if abs(heard_hz / info.sample_rate_hz - 1) <= HEARD_RATE_TOLERANCE:
        return Finding(port, "good", f"samples arrive at {heard_hz:.1f} Hz")
    said = f"samples arrive at {heard_hz:.1f} Hz where {info.sample_rate_hz:g} Hz are promised: listen longer"
    return Finding(port, "note", said)


def _electrodes(info: StreamInfo, blocks: list[Block]) -> Iterator[Finding]:
    samples = np.concatenate([block.samples_uv for block in blocks])
    flags = np.bitwise_or.reduce([block.flags for block in blocks])
    in_uv = info.unit == "uV"
    all_health = assess_channels(samples, info.sample_rate_hz, HUM_FLOOR_UV if in_uv else 0.0)
    health = [channel for channel in all_health if channel.channel not in info.missing]
    if flags & DataFlag.LEAD_OFF:
        yield Finding("electrodes", "bad", "the device reports an electrode off the skin: tighten the band")
    if flags & DataFlag.SATURATION:
        yield Finding("electrodes", "note", "the device reports saturation: check the reference electrode")
    if info.missing:
        named = ", ".join(map(str, info.missing))
        yield Finding("electrodes", "note", f"the device config gives no electrode of their own to channels {named}")
    faults = [fault for channel in health if (fault := _fault(channel)) is not None]
    for first, second in doubled_channels(samples):
        if second not in info.missing:
            said = f"carries the same signal as channel {first}: they touch, sweat bridges them, or a wire feeds both"
            faults.append((f"channel {second}", said))
    for about, said in faults:
        yield Finding(about, "note" if "mains hum" in said and not in_uv else "bad", said)
    if not faults:
        middle = float(np.median([channel.rms for channel in health]))
        yield Finding(
            "electrodes", "good", f"{len(health)} channels have a signal, median {middle:.1f} {info.unit} RMS"
        )


def _fault(channel: ChannelHealth) -> tuple[str, str] | None:
    about = f"channel {channel.channel}"
    if channel.flat:
        return about, "is flat: it is not connected, or it is switched off"
    if channel.stuck:
        return about, "is stuck and flickers by a count: its electrode is not connected, or its input is shorted"
    if channel.saturated:
        return about, "is saturated: press the electrode on, check the reference"
    if channel.hum_hz is not None:
        return (
            about,
            f"is {channel.hum_share:.0%} mains hum ({channel.hum_hz:g} Hz): wet the electrode, move away from chargers",
        )
    return None


def _next_step(
    port: str | None, device: str, bundle: Path | None, config: Path | None, found: list[Finding]
) -> Finding:
    """The last finding: what to do next."""
    if port is None:
        said = "see what is connected with 'cpep-edge devices', then look at it with 'cpep-edge doctor --port PORT'"
        return Finding("next", "note", said)
    named = f"--port {port}" + ("" if device == "cpep" else f" --device {device}")
    named += "" if config is None else f" --device-config {config}"
    if any(finding.state == "bad" for finding in found):
        return Finding("next", "note", f"fix what is bad above, then run 'cpep-edge doctor {named}' again")
    if bundle is not None:
        return Finding("next", "good", f"put the band on and run 'cpep-edge calibrate {bundle} {named}'")
    return Finding("next", "good", f"put the band on and run 'cpep-edge record {named} --out one.hdf5 --seconds 10'")
