"""The fingerprint of a recording's samples: a hash of all of them, and marks that also recognise a piece of it.

Every stretch of eight successive samples is hashed, and the marks are the smallest of these hashes (Broder 1997: a
sketch of the set). Two recordings that share half of their samples share about half of their marks, wherever one was
cut, because noise makes every stretch unique. Stretches in which a sample repeats the previous one carry no
information and are left out.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpep_edge.session import Session

N_MARKS = 16
_STRETCH_SAMPLES = 8
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits evenly mixed: two to the 64 by the golden ratio
_RECORDINGS_A_PROCESS = 500  # starting a process, which imports torch, takes about as long as reading these


@dataclass(frozen=True, slots=True)
class Content:
    """The fingerprint of a recording."""

    emg_sha256: str
    pose_sha256: str  # of joint angles and time stamps
    emg_marks: tuple[int, ...]  # N_MARKS at most, rising


def content_of(session: Session) -> Content:
    """Read a recording and compute its fingerprint."""
    emg = np.ascontiguousarray(session.emg())
    other = hashlib.sha256(np.ascontiguousarray(session.joint_angles()).tobytes())
    other.update(np.ascontiguousarray(session.time_s()).tobytes())
    return Content(hashlib.sha256(emg.tobytes()).hexdigest(), other.hexdigest(), marks(emg))


def marks(emg: NDArray[np.float32]) -> tuple[int, ...]:
    """The marks of some EMG, (n_samples, n_channels)."""
    values = emg.view(np.uint32).astype(np.uint64)
    with np.errstate(over="ignore"):
        sample = np.zeros(len(values), np.uint64)
        for column in values.T:
            sample = _mixed(sample * _MIX + column)
        n = len(sample) - _STRETCH_SAMPLES + 1
        if n <= 0:
            return ()
        stretch = np.zeros(n, np.uint64)
        for at in range(_STRETCH_SAMPLES):
            stretch = _mixed(stretch * _MIX + sample[at : at + n])
    repeats = np.concatenate(([0], np.cumsum(sample[1:] == sample[:-1])))
    telling = np.unique(stretch[repeats[_STRETCH_SAMPLES - 1 :] == repeats[:n]])
    return tuple(telling[:N_MARKS].tolist())


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of MurmurHash3: every bit of the input moves every bit of the output."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(33))
    return mixed


@contextmanager
def over_recordings(n_recordings: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A `map` over all cores, or in this process when there are too few recordings to pay for starting others."""
    n = min(os.cpu_count() or 1, n_recordings // _RECORDINGS_A_PROCESS)
    if n < 2:
        yield map
        return
    with get_context("spawn").Pool(n) as pool:
        yield partial(pool.imap, chunksize=16)
