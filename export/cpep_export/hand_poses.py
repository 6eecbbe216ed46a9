"""Pick the poses that a viewer's hand is drawn from: some windows of each gesture, by training people."""

import numpy as np
from numpy.typing import NDArray

from cpep_edge.hand import N_ANGLES, HandPoses
from cpep_export.rejection import REST_STAGES
from cpep_train.checkpoint import Checkpoint
from cpep_train.evaluate import EvaluationSet

POSES_PER_GESTURE = 24


def pick_hand_poses(
    checkpoint: Checkpoint, evaluation: EvaluationSet, embedded: NDArray[np.float32]
) -> HandPoses | None:
    """The poses of a bundle; None where the recipe's poses are not those of the 20 joints, with or without the wrist.

    embedded: (R, D), the evaluation's references
    """
    references = evaluation.references
    if checkpoint.recipe.n_joints not in N_ANGLES:
        return None
    rng = np.random.default_rng(checkpoint.recipe.seed)
    of_gesture = [np.flatnonzero(references.gesture_index == gesture) for gesture in range(len(evaluation.gestures))]
    chosen = np.concatenate([rng.permutation(places)[:POSES_PER_GESTURE] for places in of_gesture])
    standardised = references.dataset.fetch(references.places[chosen]).pose.numpy().mean(axis=2)
    angles_rad = standardised * checkpoint.pose_std_rad + checkpoint.pose_mean_rad
    rest = [number for number, name in enumerate(evaluation.gestures) if name in REST_STAGES]
    is_rest = np.isin(references.gesture_index[chosen], rest)
    rest_rad = angles_rad[is_rest].mean(axis=0) if is_rest.any() else angles_rad.mean(axis=0)
    return HandPoses(embedded[chosen], angles_rad.astype(np.float32), rest_rad.astype(np.float32))
