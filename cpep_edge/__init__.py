"""Read hand gestures from wrist EMG on the device: the runtime of cpep-edge.

    import cpep_edge

    for decision in cpep_edge.live("my.cpep", "/dev/ttyACM0", profile="profile.json"):
        if decision.changed:
            print(decision.gesture, decision.confidence)

Signal is always (n_samples, n_channels), float32: of `Block.samples_uv`, of `Session.emg` and of what
`load(...).recognise` takes. It is in microvolts, or in counts where `StreamInfo.unit` says so. Failures of the world
are `errors.CpepError`s, in one sentence; a caller's slip is a ValueError or a TypeError.

Importing this package pulls in neither numpy, torch, executorch, hnswlib nor pyserial: each name is loaded when it is
first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from cpep_edge import errors

if TYPE_CHECKING:
    from cpep_edge.blocks import Block, StreamInfo
    from cpep_edge.bundle import Bundle
    from cpep_edge.decisions import Decision
    from cpep_edge.front_door import load, open_band
    from cpep_edge.live_run import LiveRun, live
    from cpep_edge.session import Session
    from cpep_edge.window_recogniser import Answer, WindowRecogniser

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Block",
    "Bundle",
    "Decision",
    "LiveRun",
    "Session",
    "StreamInfo",
    "WindowRecogniser",
    "errors",
    "live",
    "load",
    "open_band",
]

_MODULES = {
    "Answer": "window_recogniser",
    "Block": "blocks",
    "Bundle": "bundle",
    "Decision": "decisions",
    "LiveRun": "live_run",
    "Session": "session",
    "StreamInfo": "blocks",
    "WindowRecogniser": "window_recogniser",
    "live": "live_run",
    "load": "front_door",
    "open_band": "front_door",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
