"""Map gestures to keys, mouse clicks, MIDI notes and OSC messages, as a TOML file says.

    [gesture.Fist]
    key = "space"                       # pressed and released once, when the gesture is decided on
    [gesture.Point]
    mouse = "left"                      # clicked: left, middle or right
    [gesture.Open]
    midi = { note = 60, velocity = 100, channel = 1 }   # on while the gesture lasts
    [gesture.Peace]
    osc = { address = "/light", value = 1.0 }           # to 127.0.0.1:9000, or as [osc] host and port say

A gesture may do several of these. `examples/map.toml` is a map to start from.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cpep_edge.blocks import StreamInfo
from cpep_edge.datagrams import Datagrams
from cpep_edge.decisions import Decision
from cpep_edge.errors import ConfigError
from cpep_edge.names import shown_name
from cpep_edge.sink_kinds import OpenSink, Sink
from cpep_edge.toml_text import faults, load_toml


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Note(_Part):
    """A MIDI note."""

    note: int = Field(ge=0, le=127)
    velocity: int = Field(default=100, ge=1, le=127)
    channel: int = Field(default=1, ge=1, le=16)


class Message(_Part):
    """An OSC message."""

    address: str = Field(pattern=r"^/[!-~]*$")
    value: float | int | str = 1.0


class OscTarget(_Part):
    """The receiver of OSC messages."""

    host: str = "127.0.0.1"
    port: int = Field(default=9000, ge=1, le=65535)


class Does(_Part):
    """The actions of one gesture."""

    key: str | None = Field(default=None, min_length=1)
    mouse: Literal["left", "middle", "right"] | None = None
    midi: Note | None = None
    osc: Message | None = None

    def said(self) -> str:
        """The actions in words, for a dry run."""
        parts = [
            self.key and f"press {self.key}",
            self.mouse and f"click {self.mouse}",
            self.midi and f"MIDI note {self.midi.note} on channel {self.midi.channel}",
            self.osc and f"OSC {self.osc.address} {self.osc.value}",
        ]
        return ", ".join(part for part in parts if part)


class GestureMap(_Part):
    """The whole file."""

    gesture: dict[str, Does] = Field(min_length=1)
    osc: OscTarget = OscTarget()
    midi_port: str = ""  # part of the port's name; empty: the first; if there is none, a virtual port is opened


def load_map(path: Path, known: Iterable[str]) -> GestureMap:
    """Read a map. Raises ConfigError, naming all faults, and for a gesture that is not among those of the bundle."""
    try:
        found = GestureMap.model_validate(load_toml(path))
    except ValidationError as error:
        raise ConfigError(f"map {path}: {faults(error)}") from error
    except ValueError as error:
        raise ConfigError(f"map {path} cannot be read: {error}") from error
    labels = list(known)
    strangers = [name for name in found.gesture if name not in labels]
    if strangers:
        raise ConfigError(f"map {path}: the bundle has no gesture {strangers[0]}, it has {', '.join(labels)}")
    idle = [name for name, does in found.gesture.items() if not does.said()]
    if idle:
        raise ConfigError(f"map {path}: {idle[0]} does nothing; give it a key, mouse, midi or osc")
    return found


class MapSink(Sink):
    """Performs the actions of a map when a gesture is decided on; a MIDI note ends with the gesture."""

    def __init__(self, mapping: GestureMap, say: Callable[[str], None] | None = None) -> None:
        """say: called with a line for each action instead of performing it; None: actions are performed

        Raises ConfigError when a package or a port that the map needs is not available.
        """
        does = mapping.gesture.values()
        self._map, self._say, self._standing = mapping, say, ""
        dry = say is not None
        self._press = _keyboard() if not dry and any(one.key for one in does) else None
        self._click = _mouse() if not dry and any(one.mouse for one in does) else None
        self._midi = _midi(mapping.midi_port) if not dry and any(one.midi for one in does) else None
        sends = not dry and any(one.osc for one in does)
        self._osc = (_osc_builder(), Datagrams(mapping.osc.host, mapping.osc.port)) if sends else None

    def decision(self, decision: Decision) -> None:
        if not decision.changed:
            return
        before, self._standing = self._map.gesture.get(self._standing), decision.gesture
        does = self._map.gesture.get(decision.gesture)
        if before is not None and before.midi is not None and self._midi is not None:
            self._midi("note_off", before.midi)
        if does is None:
            return
        if self._say is not None:
            self._say(f"{decision.device_t_s:9.2f} s  {shown_name(decision.gesture)}: {does.said()}")
        if does.key and self._press:
            self._press(does.key)
        if does.mouse and self._click:
            self._click(does.mouse)
        if does.midi and self._midi:
            self._midi("note_on", does.midi)
        if does.osc and self._osc:
            builder, datagrams = self._osc
            message = builder(does.osc.address)
            message.add_arg(does.osc.value)
            datagrams.send(message.build().dgram)

    def close(self) -> None:
        before = self._map.gesture.get(self._standing)
        if before is not None and before.midi is not None and self._midi is not None:
            self._midi("note_off", before.midi)
        if self._osc is not None:
            self._osc[1].close()


def map_sink(mapping: GestureMap, say: Callable[[str], None] | None = None) -> OpenSink:
    """A function that opens the sink of a map, as `SinkTap` takes it."""

    def opened(info: StreamInfo) -> Sink:
        return MapSink(mapping, say)

    return opened


def _keyboard() -> Callable[[str], None]:
    try:
        from pynput.keyboard import Controller, Key
    except ImportError as error:  # also raised when there is no display
        raise ConfigError(f"keys need a display and pynput: run pip install 'cpep-edge[map]' ({error})") from error
    controller = Controller()
    return lambda name: controller.tap(getattr(Key, name, name))


def _mouse() -> Callable[[str], None]:
    try:
        from pynput.mouse import Button, Controller
    except ImportError as error:
        raise ConfigError(
            f"the mouse needs a display and pynput: run pip install 'cpep-edge[map]' ({error})"
        ) from error
    controller = Controller()
    return lambda name: controller.click(getattr(Button, name))


def _midi(port: str) -> Callable[[str, Note], None]:
    try:
        import mido

        names = [name for name in mido.get_output_names() if port in name]
        output = mido.open_output(names[0]) if names else mido.open_output("cpep-edge", virtual=True)
    except (ImportError, OSError, RuntimeError, NotImplementedError) as error:
        raise ConfigError(f"no MIDI port is available; it needs pip install 'cpep-edge[map]' ({error})") from error
    return lambda kind, one: output.send(
        mido.Message(kind, note=one.note, velocity=one.velocity, channel=one.channel - 1)
    )


def _osc_builder() -> Callable[[str], Any]:
    try:
        from pythonosc.osc_message_builder import OscMessageBuilder
    except ImportError as error:
        raise ConfigError("OSC needs another package: run pip install 'cpep-edge[map]'") from error
    return OscMessageBuilder
