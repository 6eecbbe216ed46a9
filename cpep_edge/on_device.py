"""Decisions of a band that recognises gestures itself: its predictions, named and decided on as the bundle says.

The host runs no encoder. A prediction carries no similarity, so of the two thresholds only the share of votes holds;
and the band asks its encoder at rest too.
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
    """What the band says of one window; `cpep_bridge.frames.Prediction`."""

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
    """A band with an engine: iterating streams, and what it says meanwhile is taken out."""

    def take_predictions(self) -> Sequence[Prediction]:
        """The band's predictions since the last call, oldest first."""
        ...

    def __iter__(self) -> Iterator[Block]: ...


def decisions_of(source: PredictingSource, manifest: Manifest, taps: Sequence[Tap] = ()) -> Iterator[Decision]:
    """Every prediction of the band as a decision, until its stream ends.

    taps: see the band's samples and the decisions, as those of `cpep_edge.live_loop.Live` do
    Raises LinkError for a gesture that the bundle does not have: the band runs another model.
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
    """What a calibration, (n_channels,), makes of each channel's usual scale: ones without a calibration."""
    gains = np.ones(manifest.n_channels, np.float32)
    return gains if level_uv is None else (manifest.preprocessing.scale_uv / level_uv).astype(np.float32)


def turn_of(donning: Donning) -> int:
    """By how many electrodes a band sits turned. Raises ConfigError for one that is mirrored: bands undo turns only."""
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
