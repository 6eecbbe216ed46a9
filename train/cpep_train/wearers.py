"""Simulated wearers: the muscles of a forearm, a person's motor units, and a band of electrodes put round them.

Physical assumptions, each with its source:
- Where muscles lie in the forearm's cross-section is read off atlas figures of its middle third (Gray's Anatomy,
  Visible Human); a belly fills a disc in proportion to its strength. Fibres have the lengths that Lieber et al.
  (1992) measured. Muscles are pennate: end-plates of neighbouring units lie centimetres apart along the arm, round
  the belly's middle.
- Motor units are spread evenly over the disc; a unit has fibres in proportion to its twitch force (`motor_units`),
  and large units conduct faster (Andreassen & Arendt-Nielsen 1987), 4.3 m/s in the middle.
- What an electrode sees of them is the business of `volume_conductor`.
- Pronation turns the radius, and the muscles that hang on it, under a band that the skin holds. Fatigue slows the
  fibres (Merletti et al. 1990). Both change the action potentials; they are computed at some postures and degrees of
  fatigue, and a spike takes one of the two nearest, the nearer the more often.
- People differ in girth and fat, in where and how large their muscles are, in how they share load between muscles,
  press joints and let muscles go along with their neighbours. A donning turns and shifts the band and renews the skin
  contacts (Young et al. 2011 show what that costs).

The muscles of the palm are out of the band's reach, although the hand needs them.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cpep_train.hand_model import N_POSE, TORQUE_TOLERANCE, Hand, joint_values, load_hand
from cpep_train.motor_units import twitch_forces
from cpep_train.stages import Style, draw_style
from cpep_train.volume_conductor import SHALLOWEST_MM, Electrodes, LeadField, lead_field

BASE_RATE_HZ = 2_000  # at which action potentials are computed, whatever the band's rate
N_POTENTIAL = 48  # samples of an action potential: 24 ms
PRONATION_STEP_RAD = 0.4
N_FATIGUES = 3  # rested to exhausted
_SLOWING = 0.25  # of the fibres of an exhausted muscle


@dataclass(frozen=True, slots=True)
class Muscle:
    """Where a muscle lies in the middle of the right forearm; angles are seen from the elbow."""

    angle_deg: float  # 0 thumb side, 90 palm side
    depth: float  # of the belly's centre below the fat, share of the forearm's radius
    fibre_mm: float
    along_mm: float  # of the end-plates' middle from the middle of the forearm, towards the hand
    turning: float  # share of the forearm's pronation that it follows under the skin


MUSCLES: dict[str, Muscle] = {
    "ECRL": Muscle(350, 0.18, 76, -60, 0.35), "ECRB": Muscle(325, 0.22, 48, -35, 0.30),
    "ECU": Muscle(228, 0.18, 51, -10, 0.05), "FCR": Muscle(72, 0.18, 51, -35, 0.25),
    "FCU": Muscle(155, 0.16, 42, -25, 0.00), "PL": Muscle(95, 0.14, 50, -35, 0.15),
    "PT": Muscle(48, 0.30, 36, -50, 0.45), "PQ": Muscle(85, 0.75, 23, 90, 0.10),
    "FDS5": Muscle(138, 0.34, 42, 15, 0.10), "FDS4": Muscle(112, 0.30, 60, -5, 0.15),
    "FDS3": Muscle(96, 0.30, 61, -15, 0.15), "FDS2": Muscle(106, 0.46, 32, 20, 0.15),
    "FDP5": Muscle(178, 0.42, 61, -5, 0.00), "FDP4": Muscle(160, 0.48, 65, -5, 0.00),
    "FDP3": Muscle(142, 0.52, 68, -10, 0.00), "FDP2": Muscle(122, 0.58, 61, 5, 0.05),
    "EDC5": Muscle(262, 0.18, 53, -5, 0.15), "EDC4": Muscle(274, 0.18, 51, -15, 0.15),
    "EDC3": Muscle(288, 0.18, 59, -20, 0.20), "EDC2": Muscle(303, 0.20, 57, -10, 0.20),
    "EDM": Muscle(250, 0.18, 55, 0, 0.10), "EIP": Muscle(258, 0.44, 48, 50, 0.05),
    "EPL": Muscle(276, 0.46, 44, 35, 0.10), "EPB": Muscle(312, 0.42, 44, 60, 0.25),
    "APL": Muscle(325, 0.44, 50, 35, 0.25), "FPL": Muscle(52, 0.52, 45, 20, 0.25),
    "BRD": Muscle(18, 0.20, 121, -45, 0.35), "SUP": Muscle(340, 0.52, 33, -60, 0.40),
}  # fmt: skip
_END_PLATE_SPREAD_MM = 18.0  # sd along the arm
_NEWTONS_A_CM2 = 90.0  # force per area of cross-section; high, as few muscles are thickest in the middle of the forearm
_NEWTONS_A_UNIT = 4.0  # fewer and larger units than anatomists count, for speed
_UNITS_OF_A_MUSCLE = (24, 90)
_VELOCITY_M_S = (3.7, 4.9)  # conduction velocity of the first unit recruited and of the last

# Calibrated against real recordings; `benchmarks/measure_realism.py` has the table.
_UV_A_FIBRE = 0.2  # amplitude of the fibres that give one newton
_COCONTRACTION = 0.005  # activation that all muscles share at a torque of `LOAD_NM`
LOAD_NM = 0.1

# How far people differ, as standard deviations; of logarithms where the quantity is a factor.
_BAND_SPREAD_MM = 8.0
_DONNING_SPREAD_MM = 6.0
_FAT = (0.05, 0.13)  # thickness, share of the arm's radius
_BELLY_SPREAD_RAD = math.radians(6)
_DEPTH_SPREAD = 0.15
_STRENGTH_SPREAD = 0.25
_RELUCTANCE_SPREAD = 0.25
# Spread of the factor on a joint's own torque, and of the share of another joint's torque that it adds (in units of
# `TORQUE_TOLERANCE`): from person to person, and from donning to donning.
_PRESSING = (0.11, 0.0075)
_PRESSING_TODAY = (0.06, 0.01)
_SPILL = (0.06, 0.5)  # share of a muscle's activation that its nearest neighbour takes over, and its spread
_GAIN_SPREAD = 0.2
_CONTACT_SPREAD = 0.15


@dataclass(frozen=True, slots=True)
class RingBand:
    """A band of bipolar electrodes round the forearm."""

    n_channels: int = 16
    sample_rate_hz: float = 2_000.0
    pass_band_hz: tuple[float, float] = (0.5, 850.0)  # of the amplifier
    electrodes: Electrodes = Electrodes()
    along_mm: float = 0.0  # where it is worn, from the middle of the forearm towards the hand
    turned_rad: float = math.radians(6)  # sd of how people turn it, each in their own way
    donned_rad: float = math.radians(8)  # sd from donning to donning; 6 mm on a forearm of 8 cm across
    mirrored: float = 0.0  # share of people who wear it the other way round, or on the other arm
    noise_uv: float = 3.0  # of amplifier and skin
    common: float = 0.0  # share of the mean over all channels that the common reference takes from each channel
    offset_uv: float = 50.0  # sd of the electrodes' offsets; 0 where the amplifier passes none
    step_uv: float = 0.0  # resolution of the converter; 0: not modelled


CPEP_BAND = RingBand()


@dataclass(frozen=True, slots=True)
class Units:
    """All motor units of a person, muscle by muscle."""

    muscle: NDArray[np.intp]  # (n,) in the order of `MUSCLES`
    place: NDArray[np.float64]  # (n,) in the order of recruitment, to 1
    radius_mm: NDArray[np.float64]  # (n,) from the arm's axis
    angle_rad: NDArray[np.float64]  # (n,) round the arm
    end_plate_mm: NDArray[np.float64]  # (n,) from the middle of the forearm
    half_fibres_mm: NDArray[np.float64]  # (n, 2) towards the hand and towards the elbow
    velocity_mm_s: NDArray[np.float64]  # (n,)
    strength_uv: NDArray[np.float64]  # (n,) amplitude of all of a unit's fibres


@dataclass(frozen=True, slots=True)
class SimulatedWearer:
    """One simulated person; drawn once."""

    style: Style
    arm_mm: float  # radius of the forearm
    field: LeadField
    units: Units
    turning: NDArray[np.float64]  # (n_units,) share of pronation that a unit follows
    reluctance: NDArray[np.float64]  # (n_muscles of the hand,) cost of activating each muscle
    pressing: NDArray[np.float64]  # (23, 23) maps the torques that a movement needs to those that this person applies
    spill: NDArray[np.float64]  # (28, 28) maps the activations that a movement needs to this person's
    cocontraction: float  # activation that all muscles share at a torque of `LOAD_NM`
    way_round: float  # 0 to 1; below `RingBand.mirrored` the ring runs the other way round
    band_turn: float  # where this person wears the band, in standard deviations of `RingBand.turned_rad`
    band_mm: float


@dataclass(frozen=True, slots=True)
class SimulatedDonning:
    """One donning: the band as a person put it on once."""

    wearer: SimulatedWearer
    band: RingBand
    electrode_rad: NDArray[np.float64]  # (n_channels,)
    shift_mm: float  # along the arm, from the middle of the forearm
    pressing: NDArray[np.float64]  # (23, 23) the wearer's, varied for this donning
    contact: NDArray[np.float64]  # (n_channels,) gain of each
    noise_uv: NDArray[np.float32]  # (n_channels,)
    hum_uv: NDArray[np.float32]  # (n_channels,)
    offset_uv: NDArray[np.float32]  # (n_channels,)
    artefact_uv: NDArray[np.float32]  # (n_channels,) at a joint speed of 1 rad/s
    _computed: dict[tuple[int, int], NDArray[np.float32]] = field(default_factory=dict)

    def action_potentials_uv(self, pronation_step: int, fatigue: int) -> NDArray[np.float32]:
        """All units' action potentials, (n_samples, n_units, n_channels) at `BASE_RATE_HZ`; computed once.

        pronation_step: forearm rotation in steps of `PRONATION_STEP_RAD`; fatigue: 0 to `N_FATIGUES` - 1
        """
        key = (pronation_step, fatigue)
        if key not in self._computed:
            units, wearer = self.wearer.units, self.wearer
            angle_rad = units.angle_rad + wearer.turning * pronation_step * PRONATION_STEP_RAD
            potentials = wearer.field.action_potentials(
                units.radius_mm,
                angle_rad[:, None] - self.electrode_rad,
                units.end_plate_mm - self.shift_mm,
                units.half_fibres_mm,
                units.velocity_mm_s * (1 - _SLOWING * fatigue / (N_FATIGUES - 1)),
                BASE_RATE_HZ,
                N_POTENTIAL,
            )
            potentials *= units.strength_uv[:, None].astype(np.float32) * self.contact.astype(np.float32)
            self._computed[key] = potentials
        return self._computed[key]


def stream(seed: int, *path: int) -> np.random.Generator:
    """The generator of a wearer, a donning or a recording: the same wherever and whenever it is asked for."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=path))


def muscles_in_reach(hand: Hand) -> list[int]:
    """Indices of `MUSCLES` among the hand's muscles."""
    return [hand.muscle_names.index(name) for name in MUSCLES]


@lru_cache(maxsize=4)
def draw_wearer(seed: int, user_index: int, electrodes: Electrodes = CPEP_BAND.electrodes) -> SimulatedWearer:
    """Draw one person's anatomy and habits.

    electrodes: of the band whose lead field is to be solved; the person is the same for all
    """
    rng = stream(seed, user_index)
    hand = load_hand()
    style = draw_style(rng)
    arm_mm = float(np.clip(rng.normal(40, 3), 33, 48))
    lead = lead_field(arm_mm, arm_mm * rng.uniform(*_FAT), electrodes)
    units = _draw_units(hand, arm_mm, lead.surface_mm, rng)
    return SimulatedWearer(
        style=style,
        arm_mm=arm_mm,
        field=lead,
        units=units,
        turning=np.array([muscle.turning for muscle in MUSCLES.values()])[units.muscle] * rng.lognormal(0, 0.2),
        reluctance=rng.lognormal(0, _RELUCTANCE_SPREAD, len(hand.muscle_names)),
        pressing=_draw_pressing(_PRESSING, rng),
        spill=_draw_spill(rng),
        cocontraction=_COCONTRACTION * rng.lognormal(0, 0.25),
        band_turn=rng.normal(),
        band_mm=rng.normal(0, _BAND_SPREAD_MM),
        way_round=rng.random(),
    )


def draw_donning(
    wearer: SimulatedWearer, seed: int, user_index: int, session_index: int, band: RingBand = CPEP_BAND
) -> SimulatedDonning:
    """Put the band on once: where it sits, how well each electrode touches."""
    rng = stream(seed, user_index, session_index)
    n, way = band.n_channels, -1 if wearer.way_round < band.mirrored else 1
    turn_rad = band.turned_rad * wearer.band_turn + rng.normal(0, band.donned_rad)
    shift_mm = band.along_mm + wearer.band_mm + rng.normal(0, _DONNING_SPREAD_MM)
    return SimulatedDonning(
        wearer=wearer,
        band=band,
        electrode_rad=turn_rad + way * 2 * np.pi / n * (np.arange(n) + rng.normal(0, 0.05, n)),
        shift_mm=shift_mm,
        pressing=_draw_pressing(_PRESSING_TODAY, rng) @ wearer.pressing,
        contact=rng.lognormal(0, _CONTACT_SPREAD, n),
        noise_uv=(band.noise_uv * rng.lognormal(0, 0.25, n)).astype(np.float32),
        hum_uv=(1.5 * rng.lognormal(0, 0.7, n)).astype(np.float32),
        offset_uv=rng.normal(0, band.offset_uv, n).astype(np.float32),
        artefact_uv=(8.0 * rng.lognormal(0, 0.5, n)).astype(np.float32),
    )


def _draw_units(hand: Hand, arm_mm: float, surface_mm: float, rng: np.random.Generator) -> Units:
    force_n = hand.peak_force_n[muscles_in_reach(hand)]
    muscles = list(MUSCLES.values())
    n_muscles = len(muscles)
    belly_rad = np.radians([muscle.angle_deg for muscle in muscles]) + rng.normal(0, _BELLY_SPREAD_RAD, n_muscles)
    depth_mm = arm_mm * np.array([muscle.depth for muscle in muscles]) * rng.lognormal(0, _DEPTH_SPREAD, n_muscles)
    middle_mm = np.array([muscle.along_mm for muscle in muscles]) + rng.normal(0, 8, n_muscles)
    strength = _UV_A_FIBRE * force_n * rng.lognormal(0, _GAIN_SPREAD) * rng.lognormal(0, _STRENGTH_SPREAD, n_muscles)
    n_units = np.clip(force_n / _NEWTONS_A_UNIT, *_UNITS_OF_A_MUSCLE).astype(int)
    muscle = np.repeat(np.arange(n_muscles), n_units)
    place = np.concatenate([np.arange(1, n + 1) / n for n in n_units])
    fibres = twitch_forces(place)
    fibres /= np.bincount(muscle, fibres)[muscle]
    n = len(muscle)
    # Units are spread evenly over a disc about the belly's centre; the disc ends at the muscle's surface.
    out_mm = np.sqrt(rng.random(n) * force_n[muscle] / _NEWTONS_A_CM2 / np.pi) * 10
    turn_rad = rng.uniform(0, 2 * np.pi, n)
    centre = (surface_mm - depth_mm[muscle]) * np.exp(1j * belly_rad[muscle]) + out_mm * np.exp(1j * turn_rad)
    half_mm = np.array([one.fibre_mm for one in muscles])[muscle, None] / 2 * rng.lognormal(0, 0.15, (n, 2))
    slow, fast = _VELOCITY_M_S
    velocity_m_s = (slow + (fast - slow) * place) * rng.lognormal(0, 0.06) * rng.lognormal(0, 0.04, n)
    return Units(
        muscle=muscle,
        place=place,
        radius_mm=np.minimum(np.abs(centre), surface_mm - SHALLOWEST_MM),
        angle_rad=np.angle(centre),
        end_plate_mm=middle_mm[muscle] + rng.normal(0, _END_PLATE_SPREAD_MM, n),
        half_fibres_mm=half_mm,
        velocity_mm_s=1000 * velocity_m_s,
        strength_uv=strength[muscle] * fibres,
    )


def _draw_pressing(spread: tuple[float, float], rng: np.random.Generator) -> NDArray[np.float64]:
    """People press some joints harder than a movement needs, and others along with them: their own synergies."""
    own, along = spread
    tolerance = joint_values(TORQUE_TOLERANCE)
    pressing = rng.normal(0, along, (N_POSE, N_POSE)) * tolerance[:, None] / tolerance
    np.fill_diagonal(pressing, rng.lognormal(0, own, N_POSE))
    return pressing


def _draw_spill(rng: np.random.Generator) -> NDArray[np.float64]:
    """Muscles take neighbours along, the nearer the more (Schieber & Santello 2004), each person in their own way."""
    angle_rad = np.radians([muscle.angle_deg for muscle in MUSCLES.values()])
    share, spread = _SPILL
    near = np.exp((np.cos(angle_rad[:, None] - angle_rad) - 1) / 0.1)
    spill: NDArray[np.float64] = share * near * rng.lognormal(0, spread, near.shape)
    np.fill_diagonal(spill, 1.0)
    return spill
