"""Decisions from a band that recognises gestures itself: its predictions are turned into decisions on the host.

The host runs no encoder. A prediction carries no similarity, so only the threshold on the share of votes applies. The
band runs its encoder at rest too.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cpep_edge.blocks import Block
from cpep_edge.decisions import Decider, Decision
from cpep_edge.donning import Donning
from cpep_edge.errors import ConfigError, LinkError
from cpep_edge.live_loop import Tap
from cpep_edge.manifest import Manifest
from cpep_edge.pose_index import Vote


class Prediction(Protocol):
    """The band's prediction for one window; `cpep_bridge.frames.Prediction`."""

    @property
    def t_us(self) -> int: ...
    @property
    def sample_index(self) -> int: ...
    @property
    def gesture_id(self) -> int: ...
    @property
    def confidence(self) -> float: ...
    @property
    def total_us(self) -> int: ...


class PredictingSource(Protocol):
    """A band that runs its own engine: iterate over it for blocks, and collect its predictions in between."""

    def take_predictions(self) -> Sequence[Prediction]:
        """The band's predictions since the last call, oldest first."""
        ...

    def __iter__(self) -> Iterator[Block]: ...


def decisions_of(source: PredictingSource, manifest: Manifest, taps: Sequence[Tap] = ()) -> Iterator[Decision]:
    """Yield a decision for every prediction of the band, until its stream ends.

    taps: they receive the band's samples and the decisions, as those of `cpep_edge.live_loop.Live` do
    Raises LinkError for a gesture that the bundle does not have, because then the band runs another model.
    """
    decider = Decider(manifest.decision, manifest.gesture_names)
    for block in source:
        for tap in taps:
            tap.block(block)
        for said in source.take_predictions():
            decision = _decision(said, decider, manifest)
            for tap in taps:
                tap.decision(decision)
            yield decision


def gains_of(manifest: Manifest, level_uv: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """The usual scale divided by each channel's calibrated level, (n_channels,); ones without a calibration."""
    gains = np.ones(manifest.n_channels, np.float32)
    return gains if level_uv is None else (manifest.preprocessing.scale_uv / level_uv).astype(np.float32)


def turn_of(donning: Donning) -> int:
    """By how many electrodes a band is turned. Raises ConfigError for a mirrored band: bands can only undo turns."""
    n = len(donning.order)
    turn = donning.order[0] if donning.order else 0
    if donning.order != tuple((turn + place) % n for place in range(n)):
        raise ConfigError("the band is mirrored, which a band that recognises gestures itself cannot undo")
    return turn if turn <= n // 2 else turn - n


def _decision(said: Prediction, decider: Decider, manifest: Manifest) -> Decision:
    if said.gesture_id >= len(manifest.gestures):
        raise LinkError(
            f"the band reports gesture {said.gesture_id} and {manifest.name} has {len(manifest.gestures)}: "
            "give the bundle that the band runs"
        )
    vote = Vote(said.gesture_id, said.confidence, similarity=1.0)
    changed = decider.update(vote)
    return Decision(
        sample_index=said.sample_index,
        device_t_s=said.t_us / 1e6,
        gesture=decider.gesture,
        changed=changed,
        window_gesture=decider.accept(vote),
        confidence=said.confidence,
        similarity=0.0,
        at_rest=False,
        interpolated=False,
        delay_ms=said.total_us / 1e3,
    )
