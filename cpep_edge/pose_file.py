"""Read joint angles from a file, for `cpep-edge gestures add --from-pose`.

A CSV file has a header with the bundle's joint names, in any order, and one row per pose, in radians. One row is a pose
that is held. Several rows are a movement; then a column `time_s` gives the time of each. Of a session in HDF5, the
tracked poses are read.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import DataError
from cpep_edge.files import read_plain
from cpep_edge.outside import unreadable

TIME_COLUMN = "time_s"
_MAX_ROWS = 1_000_000
_MAX_BYTES = 1 << 28
_LARGEST_RAD = np.pi  # no joint of a hand turns further


@dataclass(frozen=True, slots=True)
class Movement:
    """Poses over time; a single pose is one that is held."""

    angles_rad: NDArray[np.float64]  # (n_poses, n_joints)
    time_s: NDArray[np.float64]  # (n_poses,), rising

    @property
    def duration_s(self) -> float:
        """From the first pose to the last."""
        return float(self.time_s[-1] - self.time_s[0])

    def at(self, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Poses at given times after the first, between poses by a straight line, (n_times, n_joints)."""
        at = self.time_s[0] + time_s
        return np.column_stack([np.interp(at, self.time_s, joint) for joint in self.angles_rad.T])


def read_movement(file: Path, joints: tuple[str, ...]) -> Movement:
    """Read the angles of the named joints.

    Raises DataError when the file has other joints, contains NaN, or its angles look like degrees.
    """
    movement = _from_session(file, joints) if file.suffix in (".hdf5", ".h5") else _from_csv(file, joints)
    _check(file, movement, joints)
    return movement


def _from_session(file: Path, joints: tuple[str, ...]) -> Movement:
    from cpep_edge.session import JOINT_NAMES, Session
    from cpep_edge.session_trial import check_session

    if joints != JOINT_NAMES:
        raise DataError(
            f"{file}: a session has no angles for {joints[-1]}, which this bundle's poses have; write a CSV file with "
            f"the columns {', '.join(joints)}"
        )
    check_session(file)
    with Session(file) as session:
        poses, valid = session.valid_poses()
        if not valid.any():
            raise DataError(f"{file}: field joint_angles holds no pose, none was tracked in this session")
        return Movement(poses[valid].astype(np.float64), session.time_s()[valid])


def _from_csv(file: Path, joints: tuple[str, ...]) -> Movement:
    try:
        text = read_plain(file, _MAX_BYTES, follow=True).decode("utf-8-sig")
        header, *rows = [row for row, _ in zip(csv.reader(text.splitlines()), range(_MAX_ROWS), strict=False) if row]
    except FileNotFoundError as error:
        raise DataError(f"{file}: there is no such file") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {unreadable(error)}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{file}: not a CSV file with a header and at least one row") from error
    names = [name.strip() for name in header]
    _check_header(file, names, joints)
    if not rows:
        raise DataError(f"{file}: there is no row below the header")
    table = np.array([_numbers(file, number, row, len(names)) for number, row in enumerate(rows, start=2)])
    angles = table[:, [names.index(joint) for joint in joints]]
    if TIME_COLUMN in names:
        return Movement(angles, table[:, names.index(TIME_COLUMN)])
    if len(angles) > 1:
        raise DataError(f"{file}: {len(angles)} poses and no column {TIME_COLUMN} that says when each was")
    return Movement(angles, np.zeros(1))


def _check_header(file: Path, names: list[str], joints: tuple[str, ...]) -> None:
    missing = [joint for joint in joints if joint not in names]
    unknown = [name for name in names if name not in (*joints, TIME_COLUMN)]
    if missing or unknown or len(set(names)) != len(names):
        what = f"lacks {missing[0]}" if missing else f"has {unknown[0]}" if unknown else "repeats a joint"
        raise DataError(f"{file}: the header {what}; this bundle's joints are {', '.join(joints)}")


def _numbers(file: Path, line: int, row: list[str], n: int) -> list[float]:
    try:
        numbers = [float(cell) for cell in row]
    except ValueError as error:
        raise DataError(f"{file}: line {line} holds something that is not a number") from error
    if len(numbers) != n:
        raise DataError(f"{file}: line {line} has {len(numbers)} numbers, the header {n} names")
    return numbers


def _check(file: Path, movement: Movement, joints: tuple[str, ...]) -> None:
    bad = np.argwhere(~np.isfinite(movement.angles_rad))
    if bad.size:
        raise DataError(f"{file}: {joints[bad[0, 1]]} is NaN or infinite in pose {bad[0, 0] + 1}")
    if not np.all(np.isfinite(movement.time_s)) or np.any(np.diff(movement.time_s) <= 0):
        raise DataError(f"{file}: {TIME_COLUMN} does not rise from pose to pose")
    pose, joint = np.unravel_index(np.argmax(np.abs(movement.angles_rad)), movement.angles_rad.shape)
    largest = movement.angles_rad[pose, joint]
    if abs(largest) > _LARGEST_RAD:
        raise DataError(
            f"{file}: {joints[joint]} is {largest:g} in pose {pose + 1}; these look like degrees, give radians"
        )
