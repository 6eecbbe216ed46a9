"""Read hand gestures from wrist EMG on the device: the runtime of cpep-edge.

    import cpep_edge

    for decision in cpep_edge.live("my.cpep", "/dev/ttyACM0", profile="profile.json"):
        if decision.changed:
            print(decision.gesture, decision.confidence)

Importing this package pulls in neither torch, executorch, hnswlib nor pyserial.
"""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cpep_edge.decisions import Decision

__version__ = "0.1.0"


def live(
    bundle: str | PathLike[str],
    port: str,
    *,
    profile: str | PathLike[str] | None = None,
    device: str = "cpep",
    hop_ms: float | None = None,
    max_risk: float | None = None,
    min_confidence: float | None = None,
    debounce_ms: float | None = None,
    refractory_ms: float | None = None,
    seconds: float | None = None,
    device_config: str | PathLike[str] | None = None,
    reconnect_s: float = 30.0,
    trust: bool = False,
    timeout_s: float | None = None,
    baud: int | None = None,
    boot_s: float | None = None,
) -> "Iterator[Decision]":
    """Open a wristband and a bundle, and yield a decision each hop until the band ends its stream.

    Leaving the loop closes the band. What falls while the body of the loop runs is skipped: the newest counts.

    profile: this session's calibration, from `cpep-edge calibrate`
    max_risk: reject so much that at most this share of what is accepted was wrong on held-out data at export
    min_confidence: share of the votes below which a window is rejected, in place of the bundle's
    debounce_ms: for which a gesture must be seen before it is decided on, in place of the bundle's
    refractory_ms: after a gesture was decided on, until another may be, in place of the bundle's
    seconds: of signal after which to stop
    trust: the code that the bundle carries may run here, although it was made elsewhere and no key vouches for it
    device_config: which of the device's channels go where, from what rate, as `cpep-edge live --device-config`
    reconnect_s, timeout_s, baud, boot_s: as `cpep_bridge.devices.open_source` takes them
    Raises ArtifactError, ConfigError or LinkError, in one sentence, when the bundle cannot be trusted, does not fit the
    band, or the band does not answer.
    """
    from cpep_bridge.devices import open_source
    from cpep_edge.bundle import Bundle
    from cpep_edge.calibration import fit_to_wearer
    from cpep_edge.decisions import with_gates
    from cpep_edge.live_loop import Live
    from cpep_edge.recogniser import Recogniser

    opened = Bundle.open(Path(bundle), trust=trust)
    recogniser = Recogniser(opened)
    opened.keep_older_out()
    calibration = None if profile is None else Path(profile)
    donning, spec = fit_to_wearer(recogniser.manifest, calibration, max_risk)
    spec = with_gates(spec, min_confidence=min_confidence, debounce_ms=debounce_ms, refractory_ms=refractory_ms)
    source_of = open_source(
        port,
        device=device,
        timeout_s=timeout_s,
        baud=baud,
        boot_s=boot_s,
        reconnect_s=reconnect_s,
        config=None if device_config is None else Path(device_config),
    )
    with source_of as source:
        yield from Live(source, recogniser, hop_ms=hop_ms, seconds=seconds, donning=donning, spec=spec)
