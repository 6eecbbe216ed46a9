"""The pose encoder for the device, in float32: it lets a user enrol a gesture by joint angles alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_edge.manifest import EncoderSpec, PoseSpec
from cpep_edge.session import JOINT_NAMES
from cpep_export.fused import FusedEncoder
from cpep_export.lower import Program, lower, require_delegated
from cpep_train.checkpoint import Checkpoint
from cpep_train.evaluate import Examples
from cpep_train.recipe import N_WRIST_ANGLES

WRIST_NAMES = (
    "wrist_flexion",
    "wrist_ulnar_deviation",
    "forearm_pronation",
)  # in the order of pose templates
_POSES_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class PoseProgram:
    """A lowered pose encoder and what is needed to feed it."""

    program: Program
    checkpoint: Checkpoint
    spread_rad: NDArray[np.float64]  # (n_joints,), SD between people who make one gesture

    def spec(self, file: str) -> PoseSpec:
        """Its entry in the manifest."""
        recipe, pose = self.checkpoint.recipe, self.checkpoint.pose
        config = pose.encoder.config
        encoder = EncoderSpec(
            file=file,
            runtime="executorch-xnnpack",
            quantisation="fp32",
            n_channels=config.n_channels,
            window_samples=config.window_samples,
            d_embed=pose.d_embed,
            n_parameters=sum(parameter.numel() for parameter in pose.parameters()),
            n_delegates=self.program.n_delegates,
            n_operators_outside=len(self.program.operators_outside),
        )
        return PoseSpec(
            encoder=encoder,
            joints=(*JOINT_NAMES, *WRIST_NAMES)[: config.n_channels],
            rate_hz=recipe.signal.sample_rate_hz / recipe.pose.decimation,
            mean_rad=tuple(self.checkpoint.pose_mean_rad.tolist()),
            std_rad=tuple(self.checkpoint.pose_std_rad.tolist()),
            spread_rad=tuple(self.spread_rad.tolist()),
        )


def lower_pose_encoder(checkpoint: Checkpoint, references: Examples) -> PoseProgram:
    """Lower the pose encoder of a checkpoint.

    references: pose windows of training people, to measure the spread between them
    """
    fused = FusedEncoder(checkpoint.pose).eval()
    program = require_delegated(lower(fused, fused.n_channels, fused.window_samples))
    return PoseProgram(program, checkpoint, spread_between_people(checkpoint, references))


def spread_between_people(checkpoint: Checkpoint, references: Examples) -> NDArray[np.float64]:
    """SD of each joint's mean between people making one gesture, root mean square over gestures, (n_joints,) rad."""
    starts = range(0, len(references), _POSES_AT_ONCE)
    batches = [references.poses(at, at + _POSES_AT_ONCE) for at in starts]
    poses = np.concatenate([batch.mean(axis=2) for batch in batches]) * checkpoint.pose_std_rad  # (R, J)
    variances = []
    for gesture in np.unique(references.gesture_index):
        of_gesture = references.gesture_index == gesture
        people = np.unique(references.user_index[of_gesture])
        means = [poses[of_gesture & (references.user_index == person)].mean(axis=0) for person in people]
        variances.append(np.var(means, axis=0))
    spread: NDArray[np.float64] = np.sqrt(np.mean(variances, axis=0))
    return spread


if len(WRIST_NAMES) != N_WRIST_ANGLES:  # catches a mistake in the table above
    raise AssertionError("the wrist has other angles in a recipe than in a bundle")
