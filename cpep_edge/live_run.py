"""Run a bundle on a band: the function `cpep_edge.live`, which `cpep-edge live` uses too."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from cpep_bridge.band import Band
from cpep_bridge.chosen_port import ChosenPort
from cpep_bridge.device_watch import DeviceWatch
from cpep_bridge.devices import LinkOptions, open_source
from cpep_bridge.frames import Capability
from cpep_bridge.heard_rate import AtPromisedRate
from cpep_edge.blocks import BlockSource
from cpep_edge.bundle import Bundle
from cpep_edge.calibration import fit_to_wearer
from cpep_edge.decisions import Decision, with_gates
from cpep_edge.donning import Donning
from cpep_edge.errors import ConfigError, LinkError
from cpep_edge.front_door import StrPath
from cpep_edge.hand import hand_poses_of
from cpep_edge.live_loop import Live, LiveEngine, Tap, check_stream, expected_stream
from cpep_edge.live_recording import LiveRecording
from cpep_edge.live_stats import LiveSummary
from cpep_edge.live_view import LiveView
from cpep_edge.manifest import DecisionSpec, Manifest
from cpep_edge.on_device import decisions_of, gains_of, turn_of
from cpep_edge.recogniser import Recogniser
from cpep_edge.sinks import OpenSink, SinkTap, close_sinks, parse_sink

if TYPE_CHECKING:
    from cpep_edge.web.server import ViewServer


def live(
    bundle: StrPath,
    port: str | None = None,
    *,
    device: str = "cpep",
    device_config: StrPath | None = None,
    profile: StrPath | None = None,
    hop_ms: float | None = None,
    seconds: float | None = None,
    max_risk: float | None = None,
    min_confidence: float | None = None,
    debounce_ms: float | None = None,
    refractory_ms: float | None = None,
    wake: str | None = None,
    adapt: bool = False,
    sinks: Sequence[str] = (),
    mapping: StrPath | None = None,
    dry_run: Callable[[str], None] | None = None,
    record: StrPath | None = None,
    on_device: bool = False,
    web: bool = False,
    web_host: str = "127.0.0.1",
    web_port: int = 8765,
    web_token: str | None = None,
    reconnect_s: float = 30.0,
    timeout_s: float | None = None,
    baud: int | None = None,
    boot_s: float | None = None,
    key: StrPath | None = None,
    trust: bool = False,
) -> "LiveRun":
    """Recognise gestures from a wristband as they happen: iterate over what this returns.

    All arguments are checked at once. Iterating opens the band, and leaving the loop closes it. Decisions that are made
    while the body of the loop runs are skipped, so that the next one is the newest.

    bundle: folder NAME.cpep
    port: serial port, pty or address, as for `open_band`, which also describes device, device_config, reconnect_s,
        timeout_s, baud and boot_s. None with `web`: it is chosen on the page
    profile: calibration of this wearing, from `cpep-edge calibrate`
    hop_ms: time between two decisions; None: the bundle's
    seconds: stop after this many seconds of signal; None: when the band ends its stream
    max_risk: reject uncertain windows until the error rate, estimated at export, is at most this
    min_confidence: share of the votes that a gesture needs to begin; None: the bundle's
    debounce_ms: time that a gesture must last before it is decided; None: the bundle's
    refractory_ms: time after a gesture before another can be decided; None: the bundle's
    wake: ignore gestures until this one is made twice, and again after 10 s without any
    adapt: adapt to slow changes of the signal
    sinks: also send decisions to FILE.jsonl, udp://HOST:PORT, osc://HOST:PORT, ws://HOST:PORT/PATH, lsl
    mapping: TOML file that maps gestures to keys, mouse, MIDI and OSC
    dry_run: called with one line for each action of `mapping`; the action itself is not done
    record: folder to record in: EMG, decisions and link events for `cpep-edge replay`
    on_device: give the gestures that the band itself recognises; the host runs no encoder
    web, web_host, web_port, web_token: serve the page of the moving hand; its address is `LiveRun.page.url`
    key: public key that must have signed the bundle
    trust: allow the bundle's code to run although it is not signed by a trusted key
    Raises ArtifactError or ConfigError for a bundle, a profile or an option that cannot be used.
    Iterating raises ConfigError when the band does not fit the bundle, and LinkError when it does not answer.
    """
    if port is None and not web:
        raise ValueError("without web there must be a port")
    for name, value, least in (("hop_ms", hop_ms, 5.0), ("seconds", seconds, 0.1)):
        if value is not None and not value >= least:
            raise ValueError(f"{name} must be at least {least:g}, not {value:g}")
    twice = next((address for address in sinks if list(sinks).count(address) > 1), None)
    if twice is not None:
        raise ConfigError(f"decisions are sent to {twice} twice: name it once")
    openers = [(address, parse_sink(address)) for address in sinks]
    opened = Bundle.open(Path(bundle), None if key is None else Path(key), trust=trust)
    manifest = opened.manifest
    if mapping is not None:
        from cpep_edge.gesture_map import load_map, map_sink

        does = load_map(Path(mapping), manifest.gesture_names)
        openers.append((f"map {Path(mapping).name}", map_sink(does, dry_run)))

    def open_port(port: str, device: str) -> BlockSource:
        return open_source(
            port,
            device=device,
            link=LinkOptions(timeout_s, baud, boot_s, reconnect_s),
            config=None if device_config is None else Path(device_config),
        )

    source = None if port is None else open_port(port, device)
    calibration = None if profile is None else Path(profile)
    if on_device:
        gates = (max_risk, min_confidence, debounce_ms, refractory_ms, wake, adapt or None)
        if web or any(value is not None for value in (record, hop_ms, seconds, device_config, *gates)):
            raise ConfigError(
                "with on_device the band decides by itself: of the other options only device, profile, sinks, mapping, "
                "reconnect_s, timeout_s, baud, boot_s, key and trust can be used"
            )
        assert source is not None
        opened.keep_older_out()
        return LiveRun(opened, None, port, device, source, openers, profile=calibration)
    recogniser = Recogniser(opened)
    opened.keep_older_out()
    donning, spec = fit_to_wearer(manifest, calibration, max_risk)
    spec = with_gates(
        spec,
        min_confidence=min_confidence,
        debounce_ms=debounce_ms,
        refractory_ms=refractory_ms,
        wake_gesture=wake,
        adapt=adapt,
    )
    wanted = expected_stream(manifest)
    LiveEngine(recogniser, wanted, hop_ms=hop_ms, donning=donning, spec=spec)  # raises for options that cannot be
    if web:
        source = ChosenPort(wanted, open_port, lambda info: check_stream(info, manifest), waits=port is None)
    assert source is not None
    return LiveRun(
        opened,
        recogniser,
        port,
        device,
        source,
        openers,
        profile=calibration,
        donning=donning,
        spec=spec,
        hop_ms=hop_ms,
        seconds=seconds,
        record=None if record is None else Path(record),
        page_at=(web_host, web_port, web_token) if web else None,
    )


class LiveRun:
    """A run of `cpep_edge.live`. `with` opens the band; iterating opens it too if it is not open."""

    loop: Live
    view: LiveView
    sinks: tuple[SinkTap, ...]
    page: "ViewServer | None" = None
    band: Band  # only with `on_device`; there is no loop or view then

    def __init__(
        self,
        bundle: Bundle,
        recogniser: Recogniser | None,
        port: str | None,
        device: str,
        source: BlockSource,
        sinks: Sequence[tuple[str, OpenSink]],
        *,
        profile: Path | None = None,
        donning: Donning | None = None,
        spec: DecisionSpec | None = None,
        hop_ms: float | None = None,
        seconds: float | None = None,
        record: Path | None = None,
        page_at: tuple[str, int, str | None] | None = None,
    ) -> None:
        """source: not yet opened; recogniser: None when the band recognises gestures itself; the rest as for `live`."""
        self._device = device
        self.bundle, self.manifest, self.on_device = bundle, bundle.manifest, recogniser is None
        self._recogniser, self._port, self._source, self._openers = recogniser, port, source, sinks
        self._profile, self._donning, self._spec = profile, donning or Donning(), spec or bundle.manifest.decision
        self._hop_ms, self._seconds, self._record, self._page_at = hop_ms, seconds, record, page_at
        self._opened: ExitStack | None = None

    def __enter__(self) -> "LiveRun":
        with ExitStack() as stack:
            source = stack.enter_context(self._source)
            if self._recogniser is None:
                self.band = _calibrated(source, self.manifest, self._profile)
            elif isinstance(source, ChosenPort):
                if self._port is not None:
                    source.choose(self._port, self._device)
            elif not source.info.has_clock:
                source = AtPromisedRate(source)
            self.info = source.info
            self.sinks = tuple(SinkTap(name, opens, source.info) for name, opens in self._openers)
            stack.callback(close_sinks, self.sinks)
            if self._recogniser is not None:
                self._open_loop(source, self._recogniser, stack)
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def __iter__(self) -> Iterator[Decision]:
        """The decisions, one per window, until the band ends its stream."""
        if self._opened is None:
            with self:
                yield from self
        elif self._recogniser is None:
            yield from decisions_of(self.band, self.manifest, self.sinks)
        else:
            for decision in self.loop:
                self.view.stats.add(decision)
                yield decision

    def summary(self) -> LiveSummary:
        """The figures of the run so far; not available with `on_device`."""
        return self.view.summary()

    def _open_loop(self, source: BlockSource, recogniser: Recogniser, stack: ExitStack) -> None:
        watch = DeviceWatch(source)
        taps: list[Tap] = [*self.sinks, watch]
        if self._record is not None:
            hop_ms = self._hop_ms or self._spec.hop_ms
            keeping = LiveRecording(
                self._record, source, recogniser, hop_ms=hop_ms, spec=self._spec, donning=self._donning
            )
            taps.append(stack.enter_context(closing(keeping)))
        self.loop = Live(
            source,
            recogniser,
            hop_ms=self._hop_ms,
            seconds=self._seconds,
            donning=self._donning,
            spec=self._spec,
            taps=taps,
        )
        where = f"{source.info.name} on {self._port}" if self._port else "no device yet"
        title = f"{self.bundle.path.name}  ·  {where}"
        self.view = LiveView(title, recogniser, self.loop, hand_poses_of(self.bundle), self.sinks, watch)
        if self._page_at is not None:
            from cpep_edge.web.acting import Acting
            from cpep_edge.web.server import ViewServer

            chosen = source if isinstance(source, ChosenPort) else None
            acting = Acting(self.bundle, recogniser, self.view, chosen, is_recorded=self._record is not None)
            stack.callback(acting.close)
            taps.append(acting)
            self.page = stack.enter_context(ViewServer(self.view, *self._page_at, acting))


def _calibrated(source: BlockSource, manifest: Manifest, profile: Path | None) -> Band:
    """Check that a band recognises gestures itself, and send it the calibration, or the bundle's usual one."""
    if not isinstance(source, Band) or not source.identity.capabilities & Capability.PREDICTION:
        raise LinkError(f"{source.info.name} recognises no gestures itself; leave out --on-device")
    if profile is not None and manifest.front_end is not None:
        raise ConfigError(
            f"a profile of {manifest.name} holds a centre and means, which cannot be sent to a band that recognises "
            "gestures itself; leave out --on-device, or --profile"
        )
    donning, _ = fit_to_wearer(manifest, profile, None)
    if profile is not None or source.identity.capabilities & Capability.CALIBRATION:
        source.calibrate(gains_of(manifest, donning.level_uv), turn_of(donning))
    return source
