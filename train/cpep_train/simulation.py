"""Simulate people wearing an EMG band: paired EMG and pose, as a corpus of emg2pose sessions.

A wearer moves through the stages (`cpep_train.stages`); the musculoskeletal hand says which muscles pull
(`cpep_train.hand_model`), their motor units fire (`cpep_train.motor_units`), and every spike sends an action potential
past the electrodes (`cpep_train.wearers`, `cpep_train.volume_conductor`). Every random draw comes from the seed and
the number of the wearer, the donning and the stage, so a corpus is the same bit for bit whatever order it is made in.

Physical assumptions beside those of these modules, each with its source:
- Activation wanders about what the movement needs, quickly as drive does that units share (De Luca & Erim 1994), and
  slowly as people hold a gesture now more firmly, now less; each muscle besides by itself.
- A muscle tires within minutes of hard work and recovers within minutes; its units fire more slowly and are driven
  harder.
- Electrodes add amplifier noise, mains hum, an offset and motion artefacts below 20 Hz (Clancy et al. 2002).

What it is not: an arm that moves in space (no gravity, no elbow), a skin that slides under the band within a session,
an exchange of units in long holds. It is calibrated to real recordings in the figures of
`benchmarks/measure_realism.py`.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal, sparse

from cpep_edge.errors import ConfigError
from cpep_edge.events import Label
from cpep_edge.folders import output_folder
from cpep_edge.session import N_JOINTS, SessionMeta, write_session
from cpep_train.corpus import FREE_STAGE, Row, write_metadata
from cpep_train.free_movement import move_free
from cpep_train.hand_model import Hand, activations, load_hand, passive_torque
from cpep_train.motor_units import excitation_for, spike_trains
from cpep_train.stages import REST_RAD, STAGES, USER_SPREAD_RAD, VALIDATION_STAGES, Motion, Stage, move, move_prompted
from cpep_train.wearers import (
    BASE_RATE_HZ,
    CPEP_BAND,
    LOAD_NM,
    N_FATIGUES,
    N_POTENTIAL,
    PRONATION_STEP_RAD,
    RingBand,
    SimulatedDonning,
    draw_donning,
    draw_wearer,
    muscles_in_reach,
    stream,
)

SAMPLE_RATE_HZ = round(CPEP_BAND.sample_rate_hz)
N_CHANNELS = CPEP_BAND.n_channels
CALIBRATING_S = 20.0  # free movement of held-out people, to calibrate by; `cpep-edge calibrate` asks for as much
MOST_HOURS = 10_000  # longest corpus; emg2pose has 370
POSE_RATE_HZ = 25  # static optimisation runs at this rate; activation changes far more slowly than EMG
_RECORDINGS_A_PROCESS = 64  # starting a process takes about as long as simulating these

# Calibrated against real recordings; `benchmarks/measure_realism.py` has the table.
_EFFORT = 8.0  # torque of a gesture over that of passively held joints: people press, they do not just hold
_TONE = 0.001  # activation of a resting muscle
_WANDERING = ((0.15, 4.0), (0.25, 0.5))  # sd of the logarithm of all muscles' activation, and its rate in Hz
_OWN_WANDERING = (0.25, 2.0)  # the same, for each muscle separately
# People who are trained on form gestures in more ways than people do: training that saw more hand shapes tells apart
# more of those that it did not see (domain randomisation: Tobin et al. 2017; figures in docs/training.md).
_TRAINED_SPREAD_RAD = 0.08
_MAINS_HZ = 50.0
_FREE = Stage(FREE_STAGE, REST_RAD[None])
_NUMBERED = (*STAGES, None, None, *VALIDATION_STAGES)  # numbers of the random streams; None: prompts, free movement

# Fatigue: a muscle at full activation is exhausted in so many seconds and recovers in so many.
_TIRES_S, _RECOVERS_S = 60.0, 180.0
_FATIGUE_AT_START = 0.15  # mean fatigue with which people begin a recording
_FATIGUED_RATE = 0.8  # factor on the firing rate of an exhausted muscle's units
_FATIGUED_DRIVE = 1.25  # factor on an exhausted muscle's activation, which keeps its force


@dataclass(frozen=True, slots=True)
class Recording:
    """One simulated recording."""

    emg_uv: NDArray[np.float32]  # (n_samples, n_channels), raw: offset, hum and artefacts are in it
    joint_angles_rad: NDArray[np.float32]  # (n_samples, 20)


def synthesise_corpus(
    out: Path,
    *,
    n_users: int,
    sessions_per_user: int,
    seconds: float,
    seed: int,
    force: bool = False,
    free_seconds: float = 0.0,
    only_first: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a corpus of simulated sessions: every wearer, donning and stage, `seconds` each, and metadata.csv.

    With three wearers or more every fourth, at least one, is held out. The seen stages of the others' last donning are
    for validation where there are three donnings or more; else every fifth of the others, at least one of two, is.

    force: replace an earlier output although it was changed since
    free_seconds: of free movement (`cpep_train.free_movement`) beside the stages of every donning that is not held out;
        with it come the gestures that are set apart for validation (`cpep_train.stages`), and 20 s of free movement of
        every held-out donning, to calibrate by
    only_first: of the wearers, so many; each is in the split that the whole corpus would have them in
    progress: called with (recordings done, recordings in all)
    Raises ValueError for impossible counts or seeds, ConfigError without mujoco, for more than `MOST_HOURS` or where
    `out` holds other things, CpepError when the disk refuses.
    """
    if n_users < 1 or sessions_per_user < 1 or seconds < 1:
        raise ValueError(f"need users, sessions and a second at least, got {n_users}, {sessions_per_user}, {seconds:g}")
    if seed < 0:
        raise ValueError(f"a seed is 0 or more, got {seed}")
    if free_seconds and free_seconds < 1:
        raise ValueError(f"free movement takes a second at least, got {free_seconds:g}")
    check_length(n_users * sessions_per_user * (len(STAGES) * seconds + free_seconds))
    load_hand()  # a missing package shows before anything is written
    lengths_s = dict.fromkeys(STAGES, seconds)
    of_trained = lengths_s | (dict.fromkeys(VALIDATION_STAGES, seconds) | {_FREE: free_seconds} if free_seconds else {})
    of_held_out = lengths_s | ({_FREE: CALIBRATING_S} if free_seconds else {})
    recordings = [
        (user, session, stage, length_s)
        for user in range(n_users)[:only_first]
        for session in range(sessions_per_user)
        for stage, length_s in (of_held_out if _is_held_out(user, n_users) else of_trained).items()
    ]
    made_by = simulated_by(
        n_users=n_users, sessions_per_user=sessions_per_user, seconds=seconds, seed=seed, free_seconds=free_seconds
    )
    made_by += "" if only_first is None else f", the first {only_first} people"
    with output_folder(out, made_by, force=force) as folder, _workers(len(recordings)) as run:
        rows = [metadata_row(*recording[:3], n_users, sessions_per_user) for recording in recordings]
        jobs = (
            (folder, user, session, stage.name, length_s, row.split, seed)
            for (user, session, stage, length_s), row in zip(recordings, rows, strict=True)
        )
        for done, _ in enumerate(run(_write_recording, jobs)):
            if progress is not None:
                progress(done + 1, len(recordings))
        write_metadata(folder, rows)


def check_length(seconds: float) -> None:
    """Raise ConfigError for a corpus that nobody could simulate, keep or train on."""
    if not seconds <= MOST_HOURS * 3600:
        raise ConfigError(
            f"that would be {seconds / 3600:,.0f} hours of signal, and {MOST_HOURS:,} are the most: ask for fewer "
            "people, sessions or seconds"
        )


def simulated_by(*, n_users: int, sessions_per_user: int, seconds: float, seed: int, free_seconds: float = 0.0) -> str:
    """The command that makes a simulated corpus, as its folder notes it; equal texts mean equal corpora."""
    people = f"--users {n_users} --sessions-per-user {sessions_per_user}"
    free = f" --free-seconds {free_seconds:g}" if free_seconds else ""
    return f"data synth {people} --seconds {seconds:g}{free} --seed {seed}"


def simulate(
    user_index: int,
    session_index: int,
    stage: Stage,
    seconds: float,
    seed: int,
    band: RingBand = CPEP_BAND,
    spread_rad: float = USER_SPREAD_RAD,
) -> Recording:
    """Simulate one recording of one wearer's donning.

    spread_rad: how far this wearer's ways to form gestures lie from the gestures, standard deviation of each joint
    """
    donning = _donned(user_index, session_index, seed, band)
    style = replace(donning.wearer.style, spread_rad=spread_rad)
    rng = stream(seed, user_index, session_index, _NUMBERED.index(stage))
    n_poses = math.ceil(seconds * POSE_RATE_HZ) + 1
    motion = move(stage, style, load_hand(), n_poses, POSE_RATE_HZ, rng)
    return record(donning, motion, seconds, rng)


def simulate_free(
    user_index: int, session_index: int, seconds: float, seed: int, band: RingBand = CPEP_BAND
) -> Recording:
    """Simulate free movement of one wearer's donning."""
    donning = _donned(user_index, session_index, seed, band)
    rng = stream(seed, user_index, session_index, len(STAGES) + 1)
    n_poses = math.ceil(seconds * POSE_RATE_HZ) + 1
    motion = move_free(donning.wearer.style, load_hand(), n_poses, POSE_RATE_HZ, rng)
    return record(donning, motion, seconds, rng)


def simulate_prompted(
    user_index: int, session_index: int, stages: Sequence[Stage], seed: int
) -> tuple[Recording, tuple[Label, ...]]:
    """Simulate one wearer who makes gesture after gesture as asked, resting in between, and when each was made."""
    donning = _donned(user_index, session_index, seed, CPEP_BAND)
    rng = stream(seed, user_index, session_index, len(STAGES))
    motion, labels = move_prompted(stages, donning.wearer.style, load_hand(), POSE_RATE_HZ, rng)
    return record(donning, motion, (len(motion.poses_rad) - 1) / POSE_RATE_HZ, rng), labels


@lru_cache(maxsize=2)
def _donned(user_index: int, session_index: int, seed: int, band: RingBand) -> SimulatedDonning:
    wearer = draw_wearer(seed, user_index, band.electrodes)
    return draw_donning(wearer, seed, user_index, session_index, band)


def record(donning: SimulatedDonning, motion: Motion, seconds: float, rng: np.random.Generator) -> Recording:
    """Record a movement with the band; `motion` has one pose more than the seconds need."""
    band = donning.band
    n_samples = round(seconds * band.sample_rate_hz)
    drive = muscle_drive(load_hand(), donning, motion)
    emg_uv = _muscle_signal(donning, drive, motion, math.ceil(seconds * BASE_RATE_HZ), rng)
    emg_uv -= band.common * emg_uv.mean(axis=1, keepdims=True)
    emg_uv = _amplified(emg_uv, band)[:n_samples] + _disturbances(donning, motion, n_samples, rng)
    if band.step_uv:
        emg_uv = band.step_uv * np.clip(np.rint(emg_uv / band.step_uv), -128, 127)
    return Recording(emg_uv.astype(np.float32), _upsample(motion.poses_rad[:, :N_JOINTS], n_samples, band))


def muscle_drive(hand: Hand, donning: SimulatedDonning, motion: Motion) -> NDArray[np.float64]:
    """Activations of the muscles in the band's reach for a movement, (n_poses, 28)."""
    wearer = donning.wearer
    torque_nm = passive_torque(motion.poses_rad, REST_RAD, POSE_RATE_HZ) @ donning.pressing.T
    torque_nm *= _EFFORT * motion.effort[:, None]
    load_nm = np.sqrt(np.mean(torque_nm**2, axis=1, keepdims=True))
    floor = np.tile(_TONE + wearer.cocontraction * load_nm / LOAD_NM, (1, len(hand.muscle_names)))
    solved = activations(hand, motion.poses_rad, torque_nm, floor, wearer.reluctance)
    drive: NDArray[np.float64] = np.minimum(solved[:, muscles_in_reach(hand)] @ wearer.spill.T, 1.0)
    return drive


def _muscle_signal(
    donning: SimulatedDonning, drive: NDArray[np.float64], motion: Motion, n_samples: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """The muscles' signals at the electrodes, (n_samples, n_channels) at `BASE_RATE_HZ`."""
    units = donning.wearer.units
    wandering = [_wander(len(drive), 1, rate_hz, spread, rng) for spread, rate_hz in _WANDERING]
    spread, rate_hz = _OWN_WANDERING
    drive = drive * np.exp(sum(wandering) + _wander(len(drive), drive.shape[1], rate_hz, spread, rng))
    fatigue = _fatigue(drive, rng)
    excitation = excitation_for(np.minimum(drive * _FATIGUED_DRIVE**fatigue, 1.0))[:, units.muscle]
    slowing = (_FATIGUED_RATE**fatigue)[:, units.muscle]
    unit, time_s = spike_trains(units.place, excitation, slowing, POSE_RATE_HZ, rng)
    kept = time_s < n_samples / BASE_RATE_HZ
    unit, time_s = unit[kept], time_s[kept]
    sample, pose = (time_s * BASE_RATE_HZ).astype(int), (time_s * POSE_RATE_HZ).astype(int)
    # Potentials are computed for a few postures and degrees of fatigue. Each spike takes one of the two nearest, drawn
    # so that the mean over spikes is right.
    turned = np.floor(motion.poses_rad[pose, N_JOINTS] / PRONATION_STEP_RAD + rng.random(len(unit))).astype(int)
    tired = np.floor(fatigue[pose, units.muscle[unit]] * (N_FATIGUES - 1) + rng.random(len(unit))).astype(int)
    emg_uv: NDArray[np.float32] = np.zeros((n_samples + N_POTENTIAL, donning.band.n_channels), np.float32)
    state = turned * N_FATIGUES + tired
    for one in np.unique(state):
        potentials_uv = donning.action_potentials_uv(*divmod(int(one), N_FATIGUES))
        chosen = state == one
        fired = (np.ones(int(chosen.sum()), np.float32), (sample[chosen], unit[chosen]))
        spikes = sparse.csr_array(fired, shape=(n_samples, len(units.place)))
        for lag, potential_uv in enumerate(potentials_uv):
            emg_uv[lag : lag + n_samples] += spikes @ potential_uv
    return emg_uv[:n_samples]


def _fatigue(drive: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """How tired each muscle is, 0 to 1, (n_poses, n_muscles)."""
    fatigue = np.empty_like(drive)
    tired = np.minimum(_FATIGUE_AT_START * rng.exponential(1.0, drive.shape[1]), 1.0)
    for row, active in enumerate(drive):
        fatigue[row] = tired
        tired = tired + (active * (1 - tired) / _TIRES_S - tired / _RECOVERS_S) / POSE_RATE_HZ
    return fatigue


def _wander(n_poses: int, n: int, rate_hz: float, spread: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """`n` random walks about zero: knots `rate_hz` a second joined by straight lines, (n_poses, n)."""
    n_knots = math.ceil(n_poses / POSE_RATE_HZ * rate_hz) + 2
    knots = rng.normal(0, spread, (n_knots, n))
    at = np.arange(n_poses) / POSE_RATE_HZ * rate_hz + rng.uniform()
    left = at.astype(int)
    share = (at - left)[:, None]
    walk: NDArray[np.float64] = (1 - share) * knots[left] + share * knots[left + 1]
    return walk


def _amplified(emg_uv: NDArray[np.float32], band: RingBand) -> NDArray[np.float32]:
    """The signal as the band's amplifier and converter pass it on, at the band's rate."""
    low_hz, high_hz = band.pass_band_hz
    sos = signal.butter(2, (low_hz, min(high_hz, 0.49 * BASE_RATE_HZ)), "bandpass", fs=BASE_RATE_HZ, output="sos")
    passed = signal.sosfilt(sos.astype(np.float32), emg_uv, axis=0).astype(np.float32, copy=False)
    ratio = Fraction(band.sample_rate_hz / BASE_RATE_HZ).limit_denominator(1000)
    if ratio == 1:
        return passed
    resampled: NDArray[np.float32] = signal.resample_poly(passed, ratio.numerator, ratio.denominator, axis=0)
    return resampled


def _disturbances(
    donning: SimulatedDonning, motion: Motion, n_samples: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Everything on the electrodes that no muscle made, (n_samples, n_channels)."""
    band = donning.band
    time_s = np.arange(n_samples, dtype=np.float64)[:, None] / band.sample_rate_hz
    noise = rng.standard_normal((n_samples, band.n_channels), dtype=np.float32) * donning.noise_uv
    phase_rad = 2 * np.pi * (_MAINS_HZ * time_s + rng.uniform())
    hum = (np.sin(phase_rad) + 0.3 * np.sin(3 * phase_rad)).astype(np.float32) * donning.hum_uv
    speed = np.linalg.norm(np.gradient(motion.poses_rad, 1 / POSE_RATE_HZ, axis=0), axis=1, keepdims=True)
    shaking = rng.standard_normal((len(speed), band.n_channels)) * (0.3 + speed) * donning.artefact_uv / 3
    sum_uv: NDArray[np.float32] = noise + hum + donning.offset_uv + _upsample(shaking, n_samples, band)
    return sum_uv


def _upsample(values: NDArray[np.float64], n_samples: int, band: RingBand) -> NDArray[np.float32]:
    """Join values at the pose rate by straight lines at the sample rate, (n_samples, columns)."""
    at = np.arange(n_samples) * (POSE_RATE_HZ / band.sample_rate_hz)
    left = np.minimum(at.astype(int), len(values) - 2)
    share = (at - left).astype(np.float32)[:, None]
    values32 = values.astype(np.float32)
    upsampled: NDArray[np.float32] = values32[left] + share * np.diff(values32, axis=0)[left]
    return upsampled


@contextmanager
def _workers(n_recordings: int) -> Iterator[Callable[..., Iterator[None]]]:
    """A `map` over all cores, or in this process when there are too few recordings to pay for starting others."""
    n_processes = min(os.cpu_count() or 1, n_recordings // _RECORDINGS_A_PROCESS)
    if n_processes < 2:
        yield map
        return
    with get_context("spawn").Pool(n_processes) as pool:
        yield pool.imap


def _write_recording(job: tuple[Path, int, int, str, float, str, int]) -> None:
    folder, user_index, session_index, name, seconds, split, seed = job
    user, session = _names(user_index, session_index)
    if name == FREE_STAGE:
        recording = simulate_free(user_index, session_index, seconds, seed)
    else:
        stage = next(stage for stage in (*STAGES, *VALIDATION_STAGES) if stage.name == name)
        spread_rad = _TRAINED_SPREAD_RAD if split == "train" else USER_SPREAD_RAD
        recording = simulate(user_index, session_index, stage, seconds, seed, spread_rad=spread_rad)
    write_recording(folder, user, session, name, recording)


def write_recording(folder: Path, user: str, session: str, stage: str, recording: Recording) -> None:
    """Write one recording as the session file that `metadata_row` names."""
    filename = f"{session}-{stage}"
    time_s = np.arange(len(recording.emg_uv)) / SAMPLE_RATE_HZ
    meta = SessionMeta(
        session, user, stage, "right", 0.0, float(time_s[-1]), N_CHANNELS, float(SAMPLE_RATE_HZ), filename
    )
    write_session(folder / f"{filename}.hdf5", meta, time_s, recording.emg_uv, recording.joint_angles_rad)


def metadata_row(user_index: int, session_index: int, stage: Stage, n_users: int, sessions_per_user: int) -> Row:
    """The line of metadata.csv of one recording, in a corpus of so many wearers and donnings."""
    user, session = _names(user_index, session_index)
    held_out_user = _is_held_out(user_index, n_users)
    is_val = _is_validation(user_index, session_index, n_users, sessions_per_user)
    split, generalization = _split(held_out_user, stage.held_out, is_val)
    if stage in VALIDATION_STAGES:
        split, generalization = "val", ""
    filename = f"{session}-{stage.name}"
    return Row(
        user, session, stage.name, "right", "right", held_out_user, stage.held_out, split, generalization, filename
    )


def _names(user_index: int, session_index: int) -> tuple[str, str]:
    user = f"sim{user_index:03d}"
    return user, f"{user}-d{session_index}"


def _is_held_out(user_index: int, n_users: int) -> bool:
    return n_users >= 3 and user_index % 4 == 2


def _is_validation(user_index: int, session_index: int, n_users: int, sessions_per_user: int) -> bool:
    if sessions_per_user >= 3:
        return session_index == sessions_per_user - 1
    training = [user for user in range(n_users) if not _is_held_out(user, n_users)]
    return len(training) >= 2 and user_index in training[::5]


def _split(held_out_user: bool, held_out_stage: bool, is_validation: bool) -> tuple[str, str]:
    if held_out_user or held_out_stage:
        return "test", "user_stage" if held_out_user and held_out_stage else "user" if held_out_user else "stage"
    return ("val" if is_validation else "train"), ""
