"""Cut sessions into windows of EMG and pose, filtered exactly as in live use.

Each gap-free stretch of a session is filtered once, from its start, with the stateful filter of the runtime, and
windows are cut from the result; no window crosses a gap. Filtered sessions are cached up to a number of bytes, so a
small corpus is read once; `cpep_train.batches` decides the order in which a large one is read.

Shapes: B windows, C electrodes, T samples, J joint angles, T' = T / decimation poses.
"""

import itertools
import math
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cpep_edge.donning import Donning
from cpep_edge.errors import DataError
from cpep_edge.head import Head
from cpep_edge.input_stream import InputStream
from cpep_edge.mpf import MpfSpec
from cpep_edge.preprocess import Preprocessing
from cpep_edge.session import Session
from cpep_train.corpus import FREE_STAGE, Corpus, Row
from cpep_train.donnings import DonningKey, Donnings
from cpep_train.pose_templates import gesture_poses, template_poses
from cpep_train.recipe import Recipe
from cpep_train.recordings import Layout, layout_of

CACHE_BYTES = 4 << 30  # tokens of about 1,200 simulated people; a corpus that does not fit is filtered anew every epoch
NO_GESTURE = -1
_STATISTICS_SESSIONS = 96  # spread over the training split; enough for a scale without reading all recordings
_LEAST_SCALE_UV = 2e-3  # quieter than any amplifier in microvolts, larger than any EMG in volts
_SMALLEST_STD_RAD = 0.05  # avoids amplifying a joint that hardly moves in the corpus


class Window(NamedTuple):
    """One example."""

    emg: Tensor  # (C, T) float32, preprocessed
    pose: Tensor  # (J, T') float32, standardised
    stage_index: int  # in the store's `stages`; `NO_GESTURE` if it shows none
    session_index: int  # row of the corpus
    start: int  # first sample, counted in the session


class WindowBatch(NamedTuple):
    """Some examples; the fields are those of Window."""

    emg: Tensor  # (B, C, T)
    pose: Tensor  # (B, J, T')
    stage_index: Tensor  # (B,) int64
    session_index: Tensor  # (B,) int64
    start: Tensor  # (B,) int64


@dataclass(frozen=True, slots=True)
class Statistics:
    """Scales measured on a corpus' training sessions, never on held-out people or gestures."""

    scale_uv: float  # RMS of the filtered signal; with calibration, the typical channel level
    pose_mean_rad: NDArray[np.float32]  # (J,)
    pose_std_rad: NDArray[np.float32]  # (J,)
    front_end: MpfSpec | None = None  # with the mean token of the sessions; None: the encoder reads the signal itself
    head: Head | None = None  # over the tokens, fitted on labels of training windows
    head_gestures: tuple[str, ...] = ()  # the head's classes, in its order


@dataclass(frozen=True, slots=True)
class _Track:
    """One session, ready to be cut."""

    emg: NDArray[np.float32]  # (C, n_samples), or tokens, (F, n_samples / hop): column g begins at sample g hop
    pose: NDArray[np.float32]  # (J, n_poses)

    @property
    def size_bytes(self) -> int:
        return self.emg.nbytes + self.pose.nbytes


class SessionStore:
    """The filtered sessions of a corpus, computed on first use and cached while there is room."""

    def __init__(
        self,
        corpus: Corpus,
        recipe: Recipe,
        statistics: Statistics,
        *,
        cache_bytes: int = CACHE_BYTES,
        layouts: Mapping[int, Layout] | None = None,
    ) -> None:
        """layouts: those already known, by row of the corpus; others are read when needed."""
        self.corpus = corpus
        self.recipe = recipe
        self.preprocessing = recipe.preprocessing(statistics.scale_uv)
        self.stages = tuple(sorted({row.stage for row in corpus.rows}))
        self.donnings = Donnings(
            corpus,
            recipe,
            self.preprocessing,
            statistics.front_end,
            statistics.head if recipe.calibration.max_turn or recipe.calibration.mirrored else None,
        )
        self._statistics = statistics
        self.cache_bytes = cache_bytes
        self._used_bytes = 0
        self._tracks: OrderedDict[int, _Track] = OrderedDict()
        self._layouts = dict(layouts or {})

    def track(self, number: int) -> _Track:
        """The filtered signal and standardised poses of one row of the corpus."""
        if number in self._tracks:
            self._tracks.move_to_end(number)
            return self._tracks[number]
        track = self._load(number)
        self._keep(number, track)
        return track

    def prepare(self, numbers: Iterable[int]) -> None:
        """Filter recordings before they are asked for, in parallel, as many as the cache has room for.

        Threads serve, because scipy's filters and LAPACK let other threads run. Each takes whole wearings, so that each
        wearing is calibrated once.
        """
        wearings: dict[DonningKey, list[int]] = {}
        room_bytes = self.cache_bytes - self._used_bytes
        for number in numbers:
            if number in self._tracks:
                continue
            room_bytes -= self.track_bytes(number)
            if room_bytes < 0:
                break
            wearings.setdefault(self.donnings.key(self.corpus.rows[number]), []).append(number)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            loaded = pool.map(lambda wearing: [(number, self._load(number)) for number in wearing], wearings.values())
            for number, track in itertools.chain.from_iterable(loaded):
                self._keep(number, track)

    def _keep(self, number: int, track: _Track) -> None:
        self._tracks[number] = track
        self._used_bytes += track.size_bytes
        while self._used_bytes > self.cache_bytes and len(self._tracks) > 1:
            _, dropped = self._tracks.popitem(last=False)
            self._used_bytes -= dropped.size_bytes

    def poses(self, number: int) -> NDArray[np.float32]:
        """The standardised poses of one row of the corpus, (J, n_poses), without filtering its signal."""
        if number in self._tracks:
            return self._tracks[number].pose
        row = self.corpus.rows[number]
        with self.corpus.session(row) as session:
            return self._standardised(session, row)

    def layout(self, number: int) -> Layout:
        """Gaps and failed poses of one row of the corpus."""
        if number not in self._layouts:
            self._layouts[number] = layout_of(self.corpus, number, self.recipe)
        return self._layouts[number]

    def track_bytes(self, number: int) -> int:
        """About how many bytes the track of one row of the corpus takes in memory."""
        front_end, recipe = self._statistics.front_end, self.recipe
        of_emg = recipe.signal.n_channels if front_end is None else front_end.n_features / front_end.hop_samples
        a_sample = of_emg + recipe.n_joints / recipe.pose.decimation
        return round(4 * a_sample * self.layout(number).n_samples)

    def _load(self, number: int) -> _Track:
        row = self.corpus.rows[number]
        with self.corpus.session(row) as session:
            emg = self._steps(session, self.layout(number).spans, self.donnings.of(row))
            return _Track(emg, self._standardised(session, row))

    def _standardised(self, session: Session, row: Row) -> NDArray[np.float32]:
        """The standardised poses of a recording, (J, n_poses); 0 where there is no valid one."""
        poses, valid = poses_of(session, row, self.recipe)
        statistics, step = self._statistics, self.recipe.pose.decimation
        pose = (poses[::step] - statistics.pose_mean_rad) / statistics.pose_std_rad
        pose[~valid[::step]] = 0
        return np.ascontiguousarray(pose.T)

    def _steps(self, session: Session, spans: Sequence[tuple[int, int]], donning: Donning) -> NDArray[np.float32]:
        """The encoder's input for a recording; each gap-free stretch is filtered from its start."""
        raw, front_end = session.emg(), self._statistics.front_end
        if front_end is None:
            return _filtered(raw, spans, self.preprocessing, donning)
        hop = front_end.hop_samples
        out = np.zeros((front_end.n_features, len(raw) // hop + 1), np.float32)
        for first, last in spans:
            stream = InputStream(self.preprocessing, front_end, raw.shape[1], donning)
            stream.reset(first)
            tokens, column = stream(raw[first:last]), -(-first // hop)
            out[:, column : column + len(tokens)] = tokens.T
        return out

    @property
    def front_end(self) -> MpfSpec | None:
        """The front end that turns the signal into tokens; None when the encoder reads the signal itself."""
        return self._statistics.front_end

    @property
    def input_shape(self) -> tuple[int, int]:
        """Rows and steps of the encoder's input for one window."""
        front_end, window_samples = self._statistics.front_end, self.recipe.windows.window_samples
        if front_end is None:
            return self.recipe.signal.n_channels, window_samples
        return front_end.n_features, front_end.n_tokens(window_samples)

    @property
    def hop_samples(self) -> int:
        """EMG samples from one step of the encoder's input to the next."""
        return 1 if self._statistics.front_end is None else self._statistics.front_end.hop_samples


class WindowDataset(Dataset[Window]):
    """Windows of some sessions of a store."""

    def __init__(
        self, store: SessionStore, sessions: Sequence[int], *, with_pose: bool, stride_samples: int | None = None
    ) -> None:
        """Find all windows.

        sessions: rows of the store's corpus
        with_pose: leave out windows in which the fit of any pose failed
        stride_samples: instead of the recipe's
        """
        self.store = store
        self.with_pose = with_pose
        self.window_samples = store.recipe.windows.window_samples
        self._step = store.recipe.pose.decimation
        self.grid = math.lcm(self._step, store.hop_samples)  # windows may start at multiples of this
        self.input_shape = store.input_shape
        stride = stride_samples or store.recipe.windows.stride_samples
        found = [self._starts(number, stride) for number in sessions]
        self.index: NDArray[np.int64] = np.concatenate([np.empty((0, 2), np.int64), *found])  # session, start
        row_stage = [
            NO_GESTURE if row.stage == FREE_STAGE else store.stages.index(row.stage) for row in store.corpus.rows
        ]
        self._stage_of_session = np.array(row_stage, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> Window:
        batch = self.fetch(self.index[number][None])
        stage, session, start = (int(field[0]) for field in batch[2:])
        return Window(batch.emg[0], batch.pose[0], stage, session, start)

    def stage_index(self) -> NDArray[np.int64]:
        """Label of each window, (n_windows,)."""
        labels: NDArray[np.int64] = self._stage_of_session[self.index[:, 0]]
        return labels

    def fetch(self, places: NDArray[np.int64]) -> WindowBatch:
        """Cut windows anywhere in the sessions.

        places: (B, 2), session and start; starts are multiples of `grid`
        """
        n_samples, step, hop = self.window_samples, self._step, self.store.hop_samples
        joints, n_steps = self.store.recipe.n_joints, self.input_shape[1]
        emg = np.empty((len(places), *self.input_shape), np.float32)
        pose = np.empty((len(places), joints, n_samples // step), np.float32)
        for at in np.argsort(places[:, 0], kind="stable"):  # session by session, to open each only once
            number, start = places[at]
            track = self.store.track(int(number))
            emg[at] = track.emg[:, start // hop : start // hop + n_steps]
            pose[at] = track.pose[:, start // step : (start + n_samples) // step]
        session, start = torch.from_numpy(places.T.copy())
        stage = torch.from_numpy(self._stage_of_session[places[:, 0]])
        return WindowBatch(torch.from_numpy(emg), torch.from_numpy(pose), stage, session, start)

    def poses(self, places: NDArray[np.int64]) -> Tensor:
        """The poses of windows as in `fetch`, (B, J, T'), without their EMG, which takes far longer to prepare."""
        n_poses, step = self.window_samples // self._step, self._step
        pose = np.empty((len(places), self.store.recipe.n_joints, n_poses), np.float32)
        for number in np.unique(places[:, 0]):
            poses = self.store.poses(int(number))
            for at in np.flatnonzero(places[:, 0] == number):
                first = places[at, 1] // step
                pose[at] = poses[:, first : first + n_poses]
        return torch.from_numpy(pose)

    def admissible(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which windows lie inside one gap-free stretch and, if poses are needed, hold no failed one.

        places: (B, 2), session and start
        returns: (B,)
        """
        return np.array([self._fits(self.store.layout(int(number)), int(start)) for number, start in places], bool)

    def _fits(self, layout: Layout, start: int) -> bool:
        if not any(first <= start and start + self.window_samples <= last for first, last in layout.spans):
            return False
        return not self.with_pose or not bool(_meets(layout.failed, np.array([start]), self.window_samples)[0])

    def _starts(self, number: int, stride: int) -> NDArray[np.int64]:
        layout = self.store.layout(number)
        starts = [
            np.arange(-(-first // self.grid) * self.grid, last - self.window_samples + 1, stride, dtype=np.int64)
            for first, last in layout.spans
        ]
        start = np.concatenate([np.empty(0, np.int64), *starts])
        if self.with_pose:
            start = start[~_meets(layout.failed, start, self.window_samples)]
        return np.column_stack((np.full(len(start), number), start))


def _meets(stretches: Sequence[tuple[int, int]], start: NDArray[np.int64], window_samples: int) -> NDArray[np.bool_]:
    """Which windows overlap any of the stretches, which are disjoint and sorted, (n_windows,)."""
    if not stretches:
        return np.zeros(len(start), bool)
    first, last = np.array(stretches, np.int64).T
    next_one = np.searchsorted(last, start, side="right")  # the first stretch that ends after the window's start
    meets: NDArray[np.bool_] = np.append(first, np.iinfo(np.int64).max)[next_one] < start + window_samples
    return meets


def fit_statistics(corpus: Corpus, recipe: Recipe) -> Statistics:
    """Measure the scale of EMG and the mean and spread of each joint over training sessions.

    Raises DataError when the EMG is flat or, with recorded poses, no training session holds one.
    """
    numbers = corpus.numbers("train")
    chosen = numbers[:: -(-len(numbers) // _STATISTICS_SESSIONS)]
    unscaled = Preprocessing(recipe.signal.sample_rate_hz, recipe.preprocessing(1.0).sos, 1.0, np.inf)
    power, poses = [], []
    for number in chosen:
        row = corpus.rows[number]
        with corpus.session(row) as session:
            emg = _filtered(session.emg(), layout_of(corpus, number, recipe).spans, unscaled, Donning())
            pose, valid = poses_of(session, row, recipe)
        power.append(np.mean(np.square(emg, dtype=np.float64)))
        poses.append(pose[valid])
    pose = np.concatenate(poses)
    if len(pose) == 0:
        raise DataError(f"{corpus.folder}: field joint_angles holds no pose in any training session")
    scale_uv = _typical_level_uv(corpus, recipe, chosen) or float(np.sqrt(np.mean(power)))
    if 0 < scale_uv < _LEAST_SCALE_UV:
        raise DataError(
            f"{corpus.folder}: field emg has an RMS of {scale_uv:.2g} µV in the training sessions, so it must be in "
            "volts; import it again with its unit"
        )
    if not scale_uv > 0:
        raise DataError(f"{corpus.folder}: field emg is flat throughout the training sessions")
    std_rad = np.maximum(pose.std(axis=0, dtype=np.float64), _SMALLEST_STD_RAD)
    return Statistics(scale_uv, pose.mean(axis=0, dtype=np.float64).astype(np.float32), std_rad.astype(np.float32))


def _typical_level_uv(corpus: Corpus, recipe: Recipe, numbers: Sequence[int]) -> float | None:
    """The geometric mean of the channel levels of some sessions, used for a session that was not calibrated."""
    donnings = Donnings(corpus, recipe, recipe.preprocessing(1.0))
    levels_uv = [donnings.live_levels_uv(corpus.rows[number]) for number in numbers]
    measured = [level for level in levels_uv if level is not None]
    return float(np.exp(np.mean(np.log(np.concatenate(measured))))) if measured else None


def poses_of(session: Session, row: Row, recipe: Recipe) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The poses of a session, recorded or, if the recipe says so, drawn for its gesture, and where they are valid.

    returns: (n_samples, J) radians, (n_samples,)
    """
    if recipe.pose.source == "recorded":
        return session.valid_poses()
    name = f"{recipe.seed} {row.filename}"
    drawn = template_poses if recipe.pose.source == "templates" else gesture_poses
    poses = drawn(row.stage, session.n_samples, session.meta.sample_rate, name)
    return poses, np.ones(session.n_samples, bool)


def _filtered(
    raw: NDArray[np.float32], spans: Sequence[tuple[int, int]], spec: Preprocessing, donning: Donning
) -> NDArray[np.float32]:
    """Filter each gap-free stretch of raw signal, (n_samples, C), from its start; returns (C, n_samples)."""
    out = np.empty((raw.shape[1], raw.shape[0]), np.float32)
    for first, last in spans:
        out[:, first:last] = InputStream(spec, None, raw.shape[1], donning)(raw[first:last]).T
    return out
