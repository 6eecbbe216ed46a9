"""The forearm as a conductor: what a pair of electrodes on the skin sees of an action potential that travels below.

The arm is a cylinder of muscle, which conducts better along its fibres than across, under a layer of fat, as in
Farina, Mesin, Martina & Merletti (2004), and a thin, well conducting skin; bone is left out. There the potential on
the surface separates into waves round the arm (n) and along it (k), and for each the two layers have a closed
solution in modified Bessel functions:

    muscle, r < a:  A I_n(kappa r) + source,  kappa = k sqrt(sigma_along / sigma_across)
    fat, a < r < R: B I_n(k r) + C K_n(k r)

with potential and radial current equal at a; what reaches the skin at R spreads in it and goes no further. The skin
blurs the potential over a centimetre, which is why neighbouring electrodes agree as much as they do. Two electrodes
`pitch_mm` apart along the arm, as long and wide as they are, are filters over k and n, and so is the spread of a
unit's fibres about their mean.

A fibre's source is that of Rosenfalck (1969) as Farina & Merletti (2001) write it: the slope of the intracellular
potential travels from the end-plate to both tendons and appears and vanishes there, which all electrodes see at once.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

_CONDUCTIVITY_ALONG, _CONDUCTIVITY_ACROSS, _CONDUCTIVITY_FAT = 0.5, 0.1, 0.05  # S/m (Farina et al. 2004)
_SKIN_CONDUCTANCE = 1.0 * 1.5  # S/m times mm
_N_ROUND = 33  # waves round the arm
_REACH_MM = 150  # along the arm to either side; what is farther is not seen
_WAVES_ALONG = np.arange(1, 60) * math.pi / _REACH_MM  # rad/mm
_N_ANGLES = 128  # of half a turn
SHALLOWEST_MM = 1.0  # of a fibre below the surface of the muscle
DEEPEST_RADIUS_MM = 4.0
_FIBRE_SPREAD_MM = (3.0, 3.0)  # sd of a unit's fibres along the arm (end-plates, tendons) and across
_TENDON_SPREAD_MM = 5.0  # sd of where a unit's fibres end
# A unit's fibres do not start at once, as its nerve branches: sd 0.4 ms.
_STARTS_S = 0.0004 * np.linspace(0, 5, 9)
_START_SHARES = special.softmax(-(np.linspace(-2.5, 2.5, 9) ** 2) / 2)
_VELOCITY_STEP_MM_S = 100.0  # to which speeds are rounded
_HALF_FIBRE_MM = 75  # the longest from end-plate to tendon


@dataclass(frozen=True, slots=True)
class Electrodes:
    """A bipolar channel of a band: two electrodes one behind the other along the arm."""

    pitch_mm: float = 20.0  # between their centres
    length_mm: float = 8.0
    width_mm: float = 10.0


@dataclass(frozen=True, slots=True)
class LeadField:
    """What a channel sees of a dipole along the arm, by the dipole's depth, angle and place along the arm."""

    surface_mm: float  # radius of the muscle's surface
    seen: NDArray[np.float32]  # (n_depths, n_angles, n_places); depth and place in mm, angle in shares of half a turn

    def action_potentials(
        self,
        radius_mm: NDArray[np.float64],
        angle_rad: NDArray[np.float64],
        end_plate_mm: NDArray[np.float64],
        half_fibres_mm: NDArray[np.float64],
        velocity_mm_s: NDArray[np.float64],
        sample_rate_hz: float,
        n_samples: int,
    ) -> NDArray[np.float32]:
        """Action potentials of units at the channels.

        radius_mm: (n,) of each unit's fibres from the arm's axis
        angle_rad: (n, n_channels) from each channel to the unit
        end_plate_mm: (n,) from the channels along the arm
        half_fibres_mm: (n, 2) from the end-plate to the tendons, towards the hand and towards the elbow
        velocity_mm_s: (n,)
        returns: (n_samples, n, n_channels), in units of one fibre's; it starts when the first fibres do
        """
        depth = np.clip(np.rint(self.surface_mm - SHALLOWEST_MM - radius_mm), 0, len(self.seen) - 1).astype(int)
        turned = np.abs(np.mod(angle_rad + math.pi, 2 * math.pi) - math.pi)
        angle = np.rint(turned / math.pi * (_N_ANGLES - 1)).astype(int)
        along_mm = np.arange(_HALF_FIBRE_MM)
        centre = np.rint(end_plate_mm).astype(int) + self.seen.shape[2] // 2
        potentials = np.empty((n_samples, len(depth), angle.shape[1]), np.float32)
        steps = np.rint(velocity_mm_s / _VELOCITY_STEP_MM_S).astype(int)
        for step in np.unique(steps):
            some = np.flatnonzero(steps == step)
            since_s = np.arange(n_samples) / sample_rate_hz - _STARTS_S[:, None, None]  # (start, 1, time)
            behind_mm = step * _VELOCITY_STEP_MM_S * since_s - along_mm[:, None]
            slope = (_START_SHARES @ _potential_slope(behind_mm).reshape(len(_STARTS_S), -1)).astype(np.float32)
            slope = slope.reshape(len(along_mm), n_samples)  # (place, time)
            field = np.zeros((len(some), angle.shape[1], _HALF_FIBRE_MM), np.float32)
            for side, ends_mm in zip((1, -1), half_fibres_mm[some].T, strict=True):
                places = np.clip(centre[some, None] + side * along_mm, 0, self.seen.shape[2] - 1)
                lasting = special.ndtr((ends_mm[:, None] - along_mm) / _TENDON_SPREAD_MM).astype(np.float32)
                seen = self.seen[depth[some, None, None], angle[some, :, None], places[:, None]]
                field += side * seen * lasting[:, None]  # the slope of what travels the other way is the other way up
            potentials[:, some] = (field @ slope).transpose(2, 0, 1)
        return potentials


def lead_field(radius_mm: float, fat_mm: float, electrodes: Electrodes) -> LeadField:
    """Solve the cylinder; radius_mm: of the arm, fat_mm: thickness of the fat."""
    k = _WAVES_ALONG
    n = np.arange(_N_ROUND)[:, None]
    outer, inner = radius_mm, radius_mm - fat_mm
    source_mm = np.arange(inner - SHALLOWEST_MM, DEEPEST_RADIUS_MM, -1.0)
    surface = _surface_potential(source_mm, n, k, inner, outer)  # (depth, n, k)
    along = -2 * k**2 * np.sin(k * electrodes.pitch_mm / 2) / k
    along *= np.sinc(k * electrodes.length_mm / 2 / math.pi) * np.exp(-((k * _FIBRE_SPREAD_MM[0]) ** 2) / 2)
    width_rad, spread_rad = electrodes.width_mm / outer, _FIBRE_SPREAD_MM[1] / inner
    round_arm = np.where(n == 0, 1.0, 2.0) * np.sinc(n * width_rad / 2 / math.pi) * np.exp(-((n * spread_rad) ** 2) / 2)
    angle_rad = np.linspace(0, math.pi, _N_ANGLES)
    place_mm = np.arange(-_REACH_MM, _REACH_MM + 1)
    waves = (surface * round_arm * along).astype(np.float32)
    seen = np.cos(angle_rad[:, None] * n.T).astype(np.float32) @ waves  # (depth, angle, k)
    return LeadField(inner, seen @ np.cos(k[:, None] * place_mm).astype(np.float32))


def _surface_potential(
    source_mm: NDArray[np.float64], n: NDArray[np.int64], k: NDArray[np.float64], inner: float, outer: float
) -> NDArray[np.float64]:
    """Potential on the skin of a unit source at each depth, by wave, (n_depths, n, k).

    Bessel functions are scaled by their exponential growth, which is put back where it does not cancel.
    """
    kappa = k * math.sqrt(_CONDUCTIVITY_ALONG / _CONDUCTIVITY_ACROSS)
    in_fat, on_skin, in_muscle = k * inner, k * outer, kappa * inner
    grown = np.exp(-2 * (on_skin - in_fat))  # of waves through the fat and back
    sheet = _SKIN_CONDUCTANCE / _CONDUCTIVITY_FAT * (k**2 + (n / outer) ** 2)
    i_skin = k * _slope_i(n, on_skin) + sheet * special.ive(n, on_skin)
    k_skin = k * _slope_k(n, on_skin) + sheet * special.kve(n, on_skin)
    potential = special.ive(n, in_fat) * k_skin * grown - special.kve(n, in_fat) * i_skin
    current = _slope_i(n, in_fat) * k_skin * grown - _slope_k(n, in_fat) * i_skin
    denominator = (
        _CONDUCTIVITY_FAT * k * current * special.ive(n, in_muscle)
        - _CONDUCTIVITY_ACROSS * kappa * _slope_i(n, in_muscle) * potential
    )
    decay = np.exp(kappa * (source_mm[:, None, None] - inner)) * np.exp(-(on_skin - in_fat))
    source = special.ive(n, kappa * source_mm[:, None, None])
    found: NDArray[np.float64] = source * decay / (inner * outer * denominator)
    return found


def _slope_i(n: NDArray[np.int64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """I_n'(x), scaled as `ive`."""
    slope: NDArray[np.float64] = (special.ive(np.abs(n - 1), x) + special.ive(n + 1, x)) / 2
    return slope


def _slope_k(n: NDArray[np.int64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """K_n'(x), scaled as `kve`."""
    slope: NDArray[np.float64] = -(special.kve(np.abs(n - 1), x) + special.kve(n + 1, x)) / 2
    return slope


def _potential_slope(behind_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slope of the intracellular potential in mV/mm, so far behind the front of the action potential."""
    z = np.maximum(behind_mm, 0)
    slope: NDArray[np.float64] = 96 * z**2 * (3 - z) * np.exp(-z)
    return slope
