"""The cylinder solves its equations, and potentials propagate as expected."""

import numpy as np
from scipy import special

from cpep_train import volume_conductor as conductor
from cpep_train.volume_conductor import Electrodes, lead_field

OUTER_MM, FAT_MM = 40.0, 3.0


def test_the_closed_solution_is_that_of_the_boundary_conditions():
    """Compared with a numerical solution for the three coefficients, with unscaled Bessel functions."""
    inner = OUTER_MM - FAT_MM
    for n, k, source in ((0, 0.05, 20.0), (2, 0.3, 30.0), (9, 0.2, 34.0)):
        kappa = k * np.sqrt(0.5 / 0.1)
        i, k_, di, dk = special.iv, special.kv, special.ivp, special.kvp
        sheet = 1.5 / 0.05 * (k**2 + (n / OUTER_MM) ** 2)
        strength = i(n, kappa * source) / 0.1
        matrix = [
            [i(n, kappa * inner), -i(n, k * inner), -k_(n, k * inner)],
            [0.1 * kappa * di(n, kappa * inner), -0.05 * k * di(n, k * inner), -0.05 * k * dk(n, k * inner)],
            [
                0,
                k * di(n, k * OUTER_MM) + sheet * i(n, k * OUTER_MM),
                k * dk(n, k * OUTER_MM) + sheet * k_(n, k * OUTER_MM),
            ],
        ]
        wanted = -np.array([strength * k_(n, kappa * inner), 0.1 * kappa * strength * dk(n, kappa * inner), 0])
        _, rising, falling = np.linalg.solve(np.array(matrix, dtype=float), wanted)
        expected = rising * i(n, k * OUTER_MM) + falling * k_(n, k * OUTER_MM)
        got = conductor._surface_potential(np.array([source]), np.array([[n]]), np.array([k]), inner, OUTER_MM)
        np.testing.assert_allclose(got.item(), expected, rtol=1e-6)


def _potential(
    radius_mm: float, angle_rad: float = 0.0, end_plate_mm: float = -30.0, speed: float = 4000.0
) -> np.ndarray:
    field = lead_field(OUTER_MM, FAT_MM, Electrodes())
    found = field.action_potentials(
        np.array([radius_mm]), np.array([[angle_rad]]), np.array([end_plate_mm]), np.array([[60.0, 60.0]]),
        np.array([speed]), 2_000.0, 80,
    )  # fmt: skip
    return found[:, 0, 0]


def test_deeper_and_farther_fibres_are_heard_less():
    assert np.all(np.diff([np.abs(_potential(radius)).max() for radius in (36.0, 32.0, 26.0, 18.0)]) < 0)
    assert np.all(np.diff([np.abs(_potential(34.0, angle)).max() for angle in (0.0, 0.4, 0.8, 1.6)]) < 0)


def test_an_action_potential_travels_at_its_speed():
    at_s = [np.argmin(_potential(35.0, end_plate_mm=end_plate)[8:]) / 2_000 for end_plate in (-25.0, -45.0)]
    assert abs((at_s[1] - at_s[0]) * 4000 - 20) < 4  # mm
    slow_s = np.argmin(_potential(35.0, end_plate_mm=-45.0, speed=3000.0)[8:]) / 2_000
    assert slow_s > at_s[1]


def test_either_side_of_the_end_plate_is_the_other_upside_down():
    above, below = (_potential(33.0, end_plate_mm=place) for place in (-30.0, 30.0))
    np.testing.assert_allclose(above, -below, atol=0.02 * np.abs(above).max())


def test_fat_blurs_and_quietens():
    thin, thick = (lead_field(OUTER_MM, fat_mm, Electrodes()) for fat_mm in (2.0, 8.0))
    loud, width = [], []
    for field in (thin, thick):
        middle = np.abs(field.seen[3, :, :]).max(axis=1)  # at the same depth in the muscle, by angle
        loud.append(middle[0])
        width.append(np.argmax(middle < middle[0] / 2))
    assert loud[1] < loud[0]
    assert width[1] > width[0]
