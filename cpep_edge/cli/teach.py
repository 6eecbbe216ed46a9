"""`cpep-edge teach`: the wearer's own gestures on any band, in two minutes."""

import shlex
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cpep_edge.cli.output import print_json, stderr, stdout
from cpep_edge.cli.ports import PORT_HELP, Baud, Boot, Device, DeviceConfig, Reconnect, Timeout
from cpep_edge.cli.trust import KeyOption, SignOption, TrustOption, ask_password
from cpep_edge.errors import ConfigError, CpepError
from cpep_edge.names import UNKNOWN
from cpep_edge.outside import printable

if TYPE_CHECKING:
    from cpep_edge.blocks import Block, BlockSource, LinkCounts, StreamInfo
    from cpep_edge.taught import Taught
    from cpep_edge.teaching import Teaching

_SPLIT = "Names separated by commas."


def teach(
    bundle: Annotated[Path, typer.Argument(help="Bundle to write, NAME.cpep.")],
    port: Annotated[str | None, typer.Option(envvar="CPEP_PORT", help=PORT_HELP)] = None,
    device: Device = "cpep",
    device_config: DeviceConfig = None,
    gestures: Annotated[
        str | None,
        typer.Option(
            help=f"Gestures to teach. {_SPLIT} Or a TOML file with gestures = [...].",
            show_default="Fist,Open,Point,WristFlexion,WristExtension",
        ),
    ] = None,
    repetitions: Annotated[int, typer.Option(min=1, max=50, help="Repetitions of each gesture.")] = 3,
    again: Annotated[
        str | None,
        typer.Option(help=f"Record these gestures again; all: every one, after putting the band on again. {_SPLIT}"),
    ] = None,
    added: Annotated[str | None, typer.Option("--with", help=f"Add these gestures. {_SPLIT}")] = None,
    left_out: Annotated[str | None, typer.Option("--without", help=f"Remove these gestures. {_SPLIT}")] = None,
    trained: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Start from this trained bundle: its gestures stay, and its encoder is used if it helps."
        ),
    ] = None,
    others: Annotated[
        bool | None,
        typer.Option(
            "--others/--no-others",
            help="Also record other movements of a new bundle, so that live does not take them for gestures.",
            show_default="yes, without --from",
        ),
    ] = None,
    live: Annotated[bool, typer.Option("--live/--no-live", help="Start recognising after teaching.")] = True,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Stop recognising after this many seconds of signal.")
    ] = None,
    reconnect_s: Reconnect = 30.0,
    timeout_s: Timeout = None,
    baud: Baud = None,
    boot_s: Boot = None,
    key: KeyOption = None,
    trust: TrustOption = False,
    sign: SignOption = None,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print JSON lines: what was taught, then as live does.")
    ] = False,
) -> None:
    """Teach a bundle your own gestures, on any band with two or more channels. No training, no poses.

    You are shown what to do: each gesture three times, with rest in between, and three times anything else, so that it
    is not taken for a gesture. Five gestures take not quite two minutes.
    If you stop with Ctrl-C, nothing is lost: run the same command again to go on.
    """
    from cpep_bridge.devices import LinkOptions, open_source
    from cpep_edge.bundle import Bundle
    from cpep_edge.teaching import Teaching, Wish
    from cpep_edge.trust import load_signing_key

    with_others = trained is None if others is None else others
    wish = Wish(_names(gestures), repetitions, _names(again), _names(added), _names(left_out), with_others)
    opened = None if trained is None else Bundle.open(trained, key, trust=trust)
    signing_key = None if sign is None else load_signing_key(sign, ask_password())
    if port is None:
        teaching = Teaching(bundle, None, wish, opened)
        taught, used = teaching.fit()
        teaching.write(taught, used, signing_key)
        _tell(bundle, taught, sum(one.gesture != taught.rest for one in used), "--port PORT", json_lines)
        return
    named = shlex.join(
        ("--port", port, *(() if device == "cpep" else ("--device", device)))
        + (() if device_config is None else ("--device-config", str(device_config)))
    )
    source_of = open_source(
        port, device=device, link=LinkOptions(timeout_s, baud, boot_s, reconnect_s), config=device_config
    )
    with source_of as source:
        teaching = Teaching(bundle, source.info, wish, opened)
        if teaching.n_kept and teaching.cue.n_steps:
            stderr.print(
                f"going on: {teaching.n_kept} repetitions are kept, {teaching.cue.n_steps} are to be made",
                soft_wrap=True,
            )
        blocks = iter(source)
        try:
            _lead(teaching, blocks)
            with _Meanwhile(source, blocks) as meanwhile:
                taught, used = teaching.fit()
                teaching.write(taught, used, signing_key)
        except KeyboardInterrupt:
            _tell_stopped(bundle, teaching.recordings.folder)
            return
        try:
            _tell(bundle, taught, sum(one.gesture != taught.rest for one in used), named, json_lines)
            if live:
                _go_live(bundle, _GoingOn(source, meanwhile.read_on()), port, seconds, json_lines)
        finally:
            meanwhile.end()
    if not json_lines:
        _tell_next(shlex.quote(str(bundle)), named)


def _tell_stopped(bundle: Path, kept: Path) -> None:
    """Tell the user after Ctrl-C what was kept; kept: the folder of the recordings."""
    from cpep_edge.manifest import MANIFEST_FILE

    before = f"{bundle} is as it was, and " if (bundle / MANIFEST_FILE).is_file() else ""
    stderr.print(
        f"\nstopped; {before}what was recorded is in {kept}: the same command continues"
        if kept.exists()
        else "\nstopped before anything was recorded",
        soft_wrap=True,
    )


def _tell_next(bundle: str, named: str) -> None:
    """Tell the user how to continue another day; named: the options that select the band."""
    again = f"cpep-edge calibrate {bundle} {named} --force"  # --force replaces the last wearing's profile
    stderr.print(f"next time: cpep-edge live {bundle} {named}", soft_wrap=True)
    stderr.print(f"after putting the band on again, first run: {again}", soft_wrap=True)
    stderr.print("and then add to live: --profile profile.json", soft_wrap=True)


def _names(given: str | None) -> tuple[str, ...]:
    """The names given by an option, either separated by commas or in a TOML file."""
    if given is None:
        return ()
    if given.endswith(".toml"):
        from cpep_bridge.toml_config import Section, read_toml

        class Gestures(Section):
            gestures: list[str]

        return tuple(read_toml(Path(given), Gestures, "list of gestures").gestures)
    names = tuple(name.strip() for name in given.split(","))
    if not all(names):
        raise ConfigError(f"{given!r} has a name that is empty: write names separated by commas")
    return names


def _lead(teaching: "Teaching", blocks: "Iterator[Block]") -> None:
    """Lead the wearer through the lesson until every repetition is recorded."""
    from cpep_edge.cli.prompter import Prompter
    from cpep_edge.lesson import Again

    with Prompter() as show:
        show(teaching.cue)
        while teaching.cue.phase != "done":
            block = next(blocks, None)
            if block is None:
                raise CpepError(
                    f"the band ended its stream; {teaching.recordings.folder} keeps what was recorded, and the same "
                    "command continues"
                )
            for event in teaching.feed(block):
                if isinstance(event, Again) and (event.given_up or not show.draws):
                    what = "is left out" if event.given_up else "again"
                    stderr.print(f"{printable(event.step.gesture)} {what}: {event.reason}", soft_wrap=True)
            show(teaching.cue)


class _Meanwhile:
    """Reads a band in the background while something else is done, so that no data piles up in its port.

    Leaving the `with` block does not wait for the reading thread, which may hang on a silent band; `read_on` does.
    """

    def __init__(self, source: "BlockSource", blocks: "Iterator[Block]") -> None:
        self._source, self._blocks, self._done = source, blocks, threading.Event()
        self._error: CpepError | None = None
        self._thread = threading.Thread(target=self._read, name="reader", daemon=True)

    def __enter__(self) -> "_Meanwhile":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._done.set()
        if kind is not None:
            self.end()

    def end(self) -> None:
        """End the source's stream."""
        self._source.stop()
        self._thread.join()

    def read_on(self) -> "Iterator[Block]":
        """Yield the blocks from here on. Raises the error that ended the reading in the background, if any."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        yield from self._blocks

    def _read(self) -> None:
        try:
            while not self._done.is_set() and next(self._blocks, None) is not None:
                pass
        except CpepError as error:
            self._error = error


class _GoingOn:
    """A source that is already open; iterating over it continues with blocks that were begun before."""

    def __init__(self, source: "BlockSource", blocks: "Iterator[Block]") -> None:
        self._source, self._blocks = source, blocks

    @property
    def info(self) -> "StreamInfo":
        return self._source.info

    @property
    def counts(self) -> "LinkCounts":
        return self._source.counts

    def __enter__(self) -> "_GoingOn":
        return self

    def __exit__(self, *exc: object) -> None: ...

    def __iter__(self) -> "Iterator[Block]":
        return self._blocks

    def stop(self) -> None:
        self._source.stop()


def _go_live(bundle: Path, source: _GoingOn, port: str, seconds: float | None, json_lines: bool) -> None:
    from cpep_edge.bundle import Bundle
    from cpep_edge.cli.live import run_as_json, run_on_screen
    from cpep_edge.hand import hand_poses_of
    from cpep_edge.live_loop import Live
    from cpep_edge.live_view import LiveView
    from cpep_edge.recogniser import Recogniser

    opened = Bundle(bundle)
    recogniser = Recogniser(opened)
    loop = Live(source, recogniser, seconds=seconds)
    view = LiveView(f"{bundle.name}  ·  {source.info.name} on {port}", recogniser, loop, hand_poses_of(opened))
    if json_lines:
        run_as_json(loop, view, ())
    else:
        run_on_screen(loop, view, ())


def _tell(bundle: Path, taught: "Taught", n: int, named: str, json_lines: bool) -> None:
    """Print the result, and how the wearer can improve it.

    n: repetitions of all gestures; named: the options that select the band
    """
    judgement, name = taught.judgement, str(bundle)
    if json_lines:
        print_json(
            {
                "type": "taught",
                "bundle": name,
                "gestures": taught.gestures,
                "reads": taught.reads,
                "quiet_electrodes": taught.quiet,
                "passed_over": taught.passed_over,
                "decision": taught.decision.model_dump(mode="json"),
                "judgement": None if judgement is None else asdict(judgement),
            }
        )
        return
    own = [gesture for gesture in taught.gestures if gesture not in (taught.rest, UNKNOWN)]
    others = ", and what is not a gesture" if UNKNOWN in taught.gestures else ""
    stdout.print(
        f"{name}: taught {printable(', '.join(own), 500)} and rest{others}, from {n} repetitions", soft_wrap=True
    )
    for line in _findings(taught, f"cpep-edge teach {shlex.quote(name)} {named}"):
        stdout.print(f"  {printable(line, 500)}", soft_wrap=True)


def _findings(taught: "Taught", command: str) -> Iterator[str]:
    """Yield remarks on the result; command: the one that records more repetitions"""
    judgement = taught.judgement
    if taught.base is not None:
        yield f"uses {taught.reads} of the trained bundle; its poses answer where no taught gesture fits"
    for passed in taught.passed_over:
        yield f"not used: {passed}"
    if judgement is None:
        yield f"too few repetitions to estimate its accuracy; add some: {command} --repetitions 3"
        return
    yield (
        f"on repetitions that it was not taught with, it recognises {judgement.accuracy:.0%} of the windows "
        f"(between {judgement.low:.0%} and {judgement.high:.0%}) and decides correctly on "
        f"{judgement.decided:.0%} of the repetitions"
    )
    for one, other in judgement.same:
        if UNKNOWN in (one, other):
            again = f"{command} --again {UNKNOWN}"
            yield f"{one if other == UNKNOWN else other} is among the other movements: record those again: {again}"
            continue
        yield f"{one} and {other} look the same to these electrodes: remove one with --without {other}"
    if judgement.confused is not None and judgement.confused[:2] not in judgement.same:
        one, other, share = (*map(_said, judgement.confused[:2]), judgement.confused[2])
        of_two = [(judgement.without[name], name) for name in (one, other) if name in judgement.without]
        gain = max((pair for pair in of_two if pair[1] != taught.rest), default=None)
        without = "" if gain is None else f"; without {gain[1]} {gain[0]:.0%} would be right"
        yield f"most often confused: {one} and {other}, {share:.0%} of their windows{without}"
    for name in judgement.cannot_win:
        yield f"{name} is hardly ever decided: repeat it with --again {name}, or remove it with --without {name}"
    if judgement.with_one_more is not None:
        own = [pair for pair in judgement.recall.items() if pair[0] not in (taught.rest, UNKNOWN)]
        weakest = min(own, key=lambda pair: pair[1])[0]
        yield f"with one more repetition of each about {judgement.with_one_more:.0%} would be right"
        yield f"{weakest} needs it most: {command} --again {shlex.quote(weakest)}"
    if taught.quiet:
        electrodes = ", ".join(map(str, taught.quiet))
        yield f"electrodes without signal: {electrodes}; check their contact with the skin"


def _said(gesture: str) -> str:
    return "other movements" if gesture == UNKNOWN else gesture
