"""The hand that a viewer shows: joint angles of the poses nearest to an embedding.

A bundle may contain a few poses of each gesture with their embeddings. They are for display only: decisions come from
the index or the head. A gesture without a pose is drawn after its name, see `cpep_edge.hand_shapes`.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpep_edge.bundle import Bundle
from cpep_edge.errors import ArtifactError
from cpep_edge.files import as_float32, read_arrays
from cpep_edge.hand_shapes import N_JOINTS, N_WRIST

N_ANGLES = (N_JOINTS, N_JOINTS + N_WRIST)  # pose templates also have the angles of the wrist
_N_NEAREST = 8
_TEMPERATURE = 0.03  # of the weights by cosine: low, so that the nearest poses count most


@dataclass(frozen=True, slots=True)
class HandPoses:
    """Some poses, as embeddings and as joint angles."""

    embedding: NDArray[np.float32]  # (n_poses, d_embed), unit length
    joint_angles_rad: NDArray[np.float32]  # (n_poses, 20 or 23)
    rest_rad: NDArray[np.float32]  # (20 or 23,), shown while the muscles rest

    def nearest(self, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean of the poses nearest to an embedding, weighted by cosine.

        embedding: (d_embed,), unit length
        returns: (20 or 23,) radians
        """
        similarity = embedding @ self.embedding.T
        chosen = np.argsort(similarity)[-_N_NEAREST:]
        weight = np.exp((similarity[chosen] - similarity[chosen[-1]]) / _TEMPERATURE)
        mean_rad: NDArray[np.float32] = weight @ self.joint_angles_rad[chosen] / weight.sum()
        return mean_rad

    def to_bytes(self) -> bytes:
        """The content of the bundle's file, in half precision."""
        file = io.BytesIO()
        fields = {name: getattr(self, name).astype(np.float16) for name in self.__dataclass_fields__}
        np.savez_compressed(file, **fields)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, d_embed: int) -> "HandPoses":
        """Read the bundle's file, never a pickle; raises ArtifactError when it holds anything else."""
        try:
            arrays = read_arrays(content, {"embedding": 2, "joint_angles_rad": 2, "rest_rad": 1})
            fields = {name: as_float32(array, name) for name, array in arrays.items()}
        except ValueError as error:
            raise ArtifactError(f"the hand's poses cannot be read: {error}") from error
        poses = cls(**fields)
        n = len(poses.embedding)
        n_angles = poses.rest_rad.size
        shapes = (poses.embedding.shape, poses.joint_angles_rad.shape, poses.rest_rad.shape)
        if n == 0 or n_angles not in N_ANGLES or shapes != ((n, d_embed), (n, n_angles), (n_angles,)):
            raise ArtifactError("the hand's poses do not have the shapes of this bundle")
        return poses


def hand_poses_of(bundle: Bundle) -> HandPoses | None:
    """The poses in a bundle, None when it has none; raises ArtifactError when they were changed."""
    name = bundle.manifest.hand_file
    return None if name is None else HandPoses.from_bytes(bundle.read(name), bundle.manifest.d_embed)
