"""Simulate people wearing an EMG band: paired EMG and pose, as a corpus of emg2pose sessions.

A wearer moves through the stages (`cpep_train.stages`); the musculoskeletal hand says which muscles pull
(`cpep_train.hand`); their signals reach 16 electrodes round the forearm. Every random draw comes from the seed and from
the number of the wearer, the donning and the stage, so a corpus is the same bit for bit whatever order it is made in.

Physical assumptions, each with its source:
- Where the muscles lie in the forearm's cross-section is read off atlas figures of its middle third (Gray's Anatomy,
  Visible Human). The muscles of the palm are out of the band's reach, although the hand needs them.
- A muscle's signal is Gaussian noise with the spectrum of Shwedyk et al. (1977), 20 to 450 Hz (De Luca 2002), its
  amplitude proportional to the activation (Hogan & Mann 1980), flickering slowly as motor units come and go.
- Its strength grows with the square root of the muscle's size (independent fibres add in power) and falls with the
  distance to the electrode as a power law, fat adding to the distance (Roeleveld et al. 1997; Kuiken et al. 2003).
- A large muscle is several sources side by side, so neighbouring electrodes see similar but not equal signals.
- People differ in where and how large their muscles are, in fat, skin and gain, and in how they share load. Each
  donning turns the band by some millimetres and renews the skin contacts (Young et al. 2011 show what that costs).
- Electrodes add amplifier noise, mains hum, an offset and motion artefacts below 20 Hz (Clancy et al. 2002).

What it is not: no motor units, no action potentials, no finite volume conductor, no fatigue, no limb positions. It is
calibrated to real recordings only in the figures of `cpep_train.realism`.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from cpep_edge.events import Label
from cpep_edge.folders import output_folder
from cpep_edge.session import N_JOINTS, SessionMeta, write_session
from cpep_train.corpus import Row, write_metadata
from cpep_train.hand import Hand, activations, load_hand, passive_torque
from cpep_train.stages import REST_RAD, STAGES, Motion, Stage, Style, draw_style, move, move_prompted

SAMPLE_RATE_HZ = 2_000
N_CHANNELS = 16
POSE_RATE_HZ = 25  # static optimisation runs at this rate; activation changes far more slowly than EMG

# Angle round the right forearm seen from the elbow (0 thumb side, 90 palm side, degrees) and depth of the belly's
# centre below the skin as a share of the forearm's radius.
_BELLIES: dict[str, tuple[float, float]] = {
    "ECRL": (350, 0.18), "ECRB": (325, 0.22), "ECU": (228, 0.18),
    "FCR": (72, 0.18), "FCU": (155, 0.16), "PL": (95, 0.14), "PT": (48, 0.30), "PQ": (85, 0.75),
    "FDS5": (138, 0.34), "FDS4": (112, 0.30), "FDS3": (96, 0.30), "FDS2": (106, 0.46),
    "FDP5": (178, 0.42), "FDP4": (160, 0.48), "FDP3": (142, 0.52), "FDP2": (122, 0.58),
    "EDC5": (262, 0.18), "EDC4": (274, 0.18), "EDC3": (288, 0.18), "EDC2": (303, 0.20),
    "EDM": (250, 0.18), "EIP": (258, 0.44), "EPL": (276, 0.46), "EPB": (312, 0.42), "APL": (325, 0.44),
    "FPL": (52, 0.52),
}  # fmt: skip
_SOURCES_PER_MUSCLE = 3
_RECORDINGS_A_PROCESS = 64  # starting one costs about as much as these

# Calibrated against the real recordings; `cpep_train.realism` has the table.
_EFFORT = 8.0  # torque of a gesture over that of passively held joints: people press, they do not just hold
_TONE = 0.004  # activation of a resting muscle
_COCONTRACTION = 0.012  # activation that all muscles share at a torque of `_LOAD_NM`
_LOAD_NM = 0.1
_UV_AT_FULL_ACTIVATION = 800.0  # a median muscle under the electrode
_DISTANCE_EXPONENT = 2.5
_FLICKER = 0.12  # sd of the logarithm of a source's amplitude within a hold
_FLICKER_RATE_HZ = 4.0
_CORNERS_HZ = (60.0, 170.0)  # of the Shwedyk spectrum
_BAND_HZ = (20.0, 450.0)
_MAINS_HZ = 50.0

# How far people differ, as standard deviations; of logarithms where the quantity is a factor.
_BAND_SPREAD_RAD = math.radians(10)
_DONNING_SPREAD_RAD = math.radians(6)  # 4 mm on a forearm of 8 cm across
_BELLY_SPREAD_RAD = math.radians(6)
_STRENGTH_SPREAD = 0.25
_RELUCTANCE_SPREAD = 0.15
_GAIN_SPREAD = 0.2
_CONTACT_SPREAD = 0.15
_SPECTRUM_SPREAD = 0.12


@dataclass(frozen=True, slots=True)
class Wearer:
    """One simulated person; drawn once."""

    style: Style
    belly_rad: NDArray[np.float64]  # (26,) angle round the forearm
    belly_depth: NDArray[np.float64]  # (26,) of the belly's centre below the skin, share of the forearm's radius
    strength_uv: NDArray[np.float64]  # (26,) signal at full activation, on the skin above a median muscle
    reluctance: NDArray[np.float64]  # (39,) cost of using each muscle
    cocontraction: float  # activation that all muscles share at a torque of `_LOAD_NM`
    band_rad: float  # where this person wears the band
    shaping_sos: tuple[NDArray[np.float32], ...]  # 26 filters, white noise to the spectrum of each muscle


@dataclass(frozen=True, slots=True)
class Donning:
    """The band as put on once."""

    leads_uv: NDArray[np.float32]  # (n_sources, 16), signal of each source at full activation
    noise_uv: NDArray[np.float32]  # (16,)
    hum_uv: NDArray[np.float32]  # (16,)
    offset_uv: NDArray[np.float32]  # (16,)
    artefact_uv: NDArray[np.float32]  # (16,) at a joint speed of 1 rad/s


@dataclass(frozen=True, slots=True)
class Recording:
    """One simulated recording."""

    emg_uv: NDArray[np.float32]  # (n_samples, 16), raw: offset, hum and artefacts are in it
    joint_angles_rad: NDArray[np.float32]  # (n_samples, 20)


def synthesise_corpus(
    out: Path,
    *,
    n_users: int,
    sessions_per_user: int,
    seconds: float,
    seed: int,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a corpus of simulated sessions: every wearer, donning and stage, `seconds` each, and metadata.csv.

    With three wearers or more every fourth, at least one, is held out. The seen stages of the others' last donning are
    for validation where there are three donnings or more; else every fifth of the others, at least one of two, is.

    force: replace an earlier output although it was changed since
    progress: called with (recordings done, recordings in all)
    Raises ValueError for impossible counts, ConfigError without mujoco or where `out` holds other things, CpepError
    when the disk refuses.
    """
    if n_users < 1 or sessions_per_user < 1 or seconds < 1:
        raise ValueError(f"need users, sessions and a second at least, got {n_users}, {sessions_per_user}, {seconds:g}")
    load_hand()  # a missing package shows before anything is written
    recordings = [
        (user, session, stage) for user in range(n_users) for session in range(sessions_per_user) for stage in STAGES
    ]
    made_by = simulated_by(n_users=n_users, sessions_per_user=sessions_per_user, seconds=seconds, seed=seed)
    with output_folder(out, made_by, force=force) as folder, _workers(len(recordings)) as run:
        jobs = ((folder, user, session, STAGES.index(stage), seconds, seed) for user, session, stage in recordings)
        for done, _ in enumerate(run(_write_recording, jobs)):
            if progress is not None:
                progress(done + 1, len(recordings))
        write_metadata(folder, [metadata_row(*recording, n_users, sessions_per_user) for recording in recordings])


def simulated_by(*, n_users: int, sessions_per_user: int, seconds: float, seed: int) -> str:
    """What a simulated corpus is noted to be made by: the same words, the same corpus."""
    return f"data synth --users {n_users} --sessions-per-user {sessions_per_user} --seconds {seconds:g} --seed {seed}"


def simulate(user_index: int, session_index: int, stage: Stage, seconds: float, seed: int) -> Recording:
    """Simulate one recording of one wearer's donning."""
    wearer = draw_wearer(seed, user_index)
    donning = draw_donning(wearer, seed, user_index, session_index)
    rng = _rng(seed, user_index, session_index, STAGES.index(stage))
    n_poses = math.ceil(seconds * POSE_RATE_HZ) + 1
    motion = move(stage, wearer.style, load_hand(), n_poses, POSE_RATE_HZ, rng)
    return _record(wearer, donning, motion, round(seconds * SAMPLE_RATE_HZ), rng)


def simulate_prompted(
    user_index: int, session_index: int, stages: Sequence[Stage], seed: int
) -> tuple[Recording, tuple[Label, ...]]:
    """Simulate one wearer who makes gesture after gesture as asked, resting in between, and when each was made."""
    wearer = draw_wearer(seed, user_index)
    donning = draw_donning(wearer, seed, user_index, session_index)
    rng = _rng(seed, user_index, session_index, len(STAGES))
    motion, labels = move_prompted(stages, wearer.style, load_hand(), POSE_RATE_HZ, rng)
    n_samples = (len(motion.poses_rad) - 1) * SAMPLE_RATE_HZ // POSE_RATE_HZ
    return _record(wearer, donning, motion, n_samples, rng), labels


def _record(wearer: Wearer, donning: Donning, motion: Motion, n_samples: int, rng: np.random.Generator) -> Recording:
    """What the band records of a movement; `motion` holds a pose more than the samples need."""
    hand = load_hand()
    drive = muscle_drive(hand, wearer, motion)[:, _belly_index(hand)]
    emg_uv = _muscle_signal(wearer, donning, drive, n_samples, rng) + _disturbances(donning, motion, n_samples, rng)
    return Recording(emg_uv, _upsample(motion.poses_rad[:, :N_JOINTS], n_samples))


def muscle_drive(hand: Hand, wearer: Wearer, motion: Motion) -> NDArray[np.float64]:
    """Activations of all muscles for a movement, (n_poses, n_muscles)."""
    torque_nm = passive_torque(motion.poses_rad, REST_RAD, POSE_RATE_HZ)
    torque_nm[:, :N_JOINTS] *= _EFFORT * motion.effort[:, None]  # fingers press; the wrist is only held
    load_nm = np.sqrt(np.mean(torque_nm**2, axis=1, keepdims=True))
    floor = np.tile(_TONE + wearer.cocontraction * load_nm / _LOAD_NM, (1, len(hand.muscle_names)))
    return activations(hand, motion.poses_rad, torque_nm, floor, wearer.reluctance)


@lru_cache(maxsize=4)
def draw_wearer(seed: int, user_index: int) -> Wearer:
    """Draw one person's anatomy and habits."""
    rng = _rng(seed, user_index)
    hand = load_hand()
    angle_deg, depth = np.array(list(_BELLIES.values())).T
    fat = rng.uniform(0.05, 0.15)  # share of the radius: 2 to 6 mm
    size = np.sqrt(hand.peak_force_n[_belly_index(hand)] / 150.0)
    gain = rng.lognormal(0, _GAIN_SPREAD)
    belly_depth = fat + depth * rng.lognormal(0, 0.15, len(depth))
    # Tissue passes the high frequencies of deep fibres less (Lindstrom & Magnusson 1977), and fibre speeds differ.
    person = rng.lognormal(0, _SPECTRUM_SPREAD)
    muscle = rng.lognormal(0, _SPECTRUM_SPREAD, len(depth)) * (0.3 / belly_depth) ** 0.4
    return Wearer(
        style=draw_style(rng),
        belly_rad=np.radians(angle_deg) + rng.normal(0, _BELLY_SPREAD_RAD, len(depth)),
        belly_depth=belly_depth,
        strength_uv=_UV_AT_FULL_ACTIVATION * gain * size * rng.lognormal(0, _STRENGTH_SPREAD, len(depth)),
        reluctance=rng.lognormal(0, _RELUCTANCE_SPREAD, len(hand.muscle_names)),
        cocontraction=_COCONTRACTION * rng.lognormal(0, 0.25),
        band_rad=rng.normal(0, _BAND_SPREAD_RAD),
        shaping_sos=tuple(_shaping_sos(factor) for factor in person * muscle),
    )


def draw_donning(wearer: Wearer, seed: int, user_index: int, session_index: int) -> Donning:
    """Put the band on once: where it sits, how well each electrode touches."""
    rng = _rng(seed, user_index, session_index)
    turn_rad = wearer.band_rad + rng.normal(0, _DONNING_SPREAD_RAD)
    spacing_rad = 2 * np.pi / N_CHANNELS
    electrode_rad = turn_rad + spacing_rad * (np.arange(N_CHANNELS) + rng.normal(0, 0.05, N_CHANNELS))
    contact = rng.lognormal(0, _CONTACT_SPREAD, N_CHANNELS)
    return Donning(
        leads_uv=(_leads_uv(wearer, electrode_rad) * contact).astype(np.float32),
        noise_uv=(3.0 * rng.lognormal(0, 0.25, N_CHANNELS)).astype(np.float32),
        hum_uv=(1.5 * rng.lognormal(0, 0.7, N_CHANNELS)).astype(np.float32),
        offset_uv=rng.normal(0, 50, N_CHANNELS).astype(np.float32),
        artefact_uv=(8.0 * rng.lognormal(0, 0.5, N_CHANNELS)).astype(np.float32),
    )


def _leads_uv(wearer: Wearer, electrode_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each source gives each electrode at full activation, (n_sources, 16)."""
    radius = 1 - wearer.belly_depth
    width_rad = 0.18 / np.maximum(radius, 0.3)  # half a belly's breadth, about 7 mm
    side = np.linspace(-1, 1, _SOURCES_PER_MUSCLE)
    source_rad = (wearer.belly_rad[:, None] + side * width_rad[:, None]).ravel()
    radius = np.repeat(radius, _SOURCES_PER_MUSCLE)
    gap_rad = source_rad[:, None] - electrode_rad
    distance = np.sqrt(1 + radius[:, None] ** 2 - 2 * radius[:, None] * np.cos(gap_rad))
    strength_uv = np.repeat(wearer.strength_uv, _SOURCES_PER_MUSCLE) / math.sqrt(_SOURCES_PER_MUSCLE)
    leads_uv: NDArray[np.float64] = strength_uv[:, None] * (0.2 / distance) ** _DISTANCE_EXPONENT
    return leads_uv


def _muscle_signal(
    wearer: Wearer, donning: Donning, drive: NDArray[np.float64], n_samples: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """The muscles' signals at the electrodes, (n_samples, 16)."""
    n_sources = len(donning.leads_uv)
    carrier = rng.standard_normal((len(wearer.shaping_sos), _SOURCES_PER_MUSCLE, n_samples), dtype=np.float32)
    for muscle, sos in enumerate(wearer.shaping_sos):
        carrier[muscle] = signal.sosfilt(sos, carrier[muscle])
    n_knots = math.ceil(n_samples / SAMPLE_RATE_HZ * _FLICKER_RATE_HZ) + 2
    knots_s = (np.arange(n_knots) - rng.uniform()) / _FLICKER_RATE_HZ
    knots = rng.normal(0, _FLICKER, (n_knots, n_sources))
    pose_s = np.arange(len(drive)) / POSE_RATE_HZ
    flicker = np.array([np.interp(pose_s, knots_s, column) for column in knots.T]).T
    envelope = _upsample(np.repeat(drive, _SOURCES_PER_MUSCLE, axis=1) * np.exp(flicker), n_samples)
    emg_uv: NDArray[np.float32] = (carrier.reshape(n_sources, n_samples).T * envelope) @ donning.leads_uv
    return emg_uv


def _disturbances(donning: Donning, motion: Motion, n_samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Everything on the electrodes that no muscle made, (n_samples, 16)."""
    time_s = np.arange(n_samples, dtype=np.float64)[:, None] / SAMPLE_RATE_HZ
    noise = rng.standard_normal((n_samples, N_CHANNELS), dtype=np.float32) * donning.noise_uv
    phase_rad = 2 * np.pi * (_MAINS_HZ * time_s + rng.uniform())
    hum = (np.sin(phase_rad) + 0.3 * np.sin(3 * phase_rad)).astype(np.float32) * donning.hum_uv
    speed = np.linalg.norm(np.gradient(motion.poses_rad, 1 / POSE_RATE_HZ, axis=0), axis=1, keepdims=True)
    shaking = rng.standard_normal((len(speed), N_CHANNELS)) * (0.3 + speed) * donning.artefact_uv / 3
    sum_uv: NDArray[np.float32] = noise + hum + donning.offset_uv + _upsample(shaking, n_samples)
    return sum_uv


def _shaping_sos(factor: float) -> NDArray[np.float32]:
    """Second-order sections that turn white noise into unit-power EMG, its frequencies stretched by `factor`."""
    low, high = (2 * np.pi * factor * corner_hz for corner_hz in _CORNERS_HZ)
    zeros, poles, gain = signal.bilinear_zpk([0], [-low, -high, -high], high**2, SAMPLE_RATE_HZ)
    band = signal.butter(2, _BAND_HZ, "bandpass", fs=SAMPLE_RATE_HZ, output="sos")
    sos = np.concatenate([signal.zpk2sos(zeros, poles, float(gain)), band])
    _, response = signal.sosfreqz(sos, 4096)
    sos[0, :3] /= np.sqrt(np.mean(np.abs(response) ** 2))
    return sos.astype(np.float32)


def _upsample(values: NDArray[np.float64], n_samples: int) -> NDArray[np.float32]:
    """Join values at the pose rate by straight lines at the sample rate, (n_samples, columns)."""
    factor = SAMPLE_RATE_HZ // POSE_RATE_HZ
    ramp = (np.arange(factor, dtype=np.float32) / factor)[None, :, None]
    values32 = values.astype(np.float32)
    joined = values32[:-1, None] + ramp * np.diff(values32, axis=0)[:, None]
    upsampled: NDArray[np.float32] = joined.reshape(-1, values.shape[1])[:n_samples]
    return upsampled


def _belly_index(hand: Hand) -> list[int]:
    """Where the muscles within the band's reach stand among all."""
    return [hand.muscle_names.index(name) for name in _BELLIES]


def _rng(seed: int, *path: int) -> np.random.Generator:
    """The generator of a wearer, a donning or a recording: the same wherever and whenever it is asked for."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=path))


@contextmanager
def _workers(n_recordings: int) -> Iterator[Callable[..., Iterator[None]]]:
    """A `map` over all cores, or in this process where so few recordings do not repay starting others."""
    n_processes = min(os.cpu_count() or 1, n_recordings // _RECORDINGS_A_PROCESS)
    if n_processes < 2:
        yield map
        return
    with get_context("spawn").Pool(n_processes) as pool:
        yield pool.imap


def _write_recording(job: tuple[Path, int, int, int, float, int]) -> None:
    folder, user_index, session_index, stage_index, seconds, seed = job
    stage = STAGES[stage_index]
    user, session = _names(user_index, session_index)
    write_recording(folder, user, session, stage.name, simulate(user_index, session_index, stage, seconds, seed))


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
