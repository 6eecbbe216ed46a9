from dataclasses import fields

import pytest

from cpep_bench.energy import MeasuredEnergy, ModelledEnergy, Window, measure_energy
from cpep_bench.power import Instrument, Meter, PowerReading
from cpep_bench.report_text import joules
from cpep_edge.errors import PowerError

TOY = Instrument("toy", "a toy", 10.0)


class Scripted(Meter):
    """A meter that returns given mean powers, one after another."""

    instrument = TOY

    def __init__(self, powers_w: list[float]) -> None:
        self.powers_w = iter(powers_w)

    def begin(self) -> None:
        pass

    def end(self) -> PowerReading:
        return PowerReading(next(self.powers_w), 1.0, 10)


def windows(powers_w: list[float], *, seconds: float = 10.0, n_inferences: int = 100) -> MeasuredEnergy:
    made = (Window(power, seconds, n_inferences * (number % 2), 10) for number, power in enumerate(powers_w))
    return MeasuredEnergy(TOY, tuple(made))


def test_net_energy_is_what_inferences_take_beyond_idling():
    energy = windows([2.0, 5.0, 2.0, 5.0, 2.0])

    assert energy.net_mj == pytest.approx(3.0 * 10 / 100 * 1e3)
    assert energy.gross_mj == pytest.approx(5.0 * 10 / 100 * 1e3)
    assert energy.net_uncertainty_mj == pytest.approx(0)


def test_a_steady_drift_of_the_idle_power_leaves_the_net_energy_alone():
    drifting = [2.0 + 0.3 * number + (3.0 if number % 2 else 0.0) for number in range(11)]

    assert windows(drifting).net_mj == pytest.approx(300.0)
    assert windows(drifting).net_uncertainty_mj == pytest.approx(0, abs=1e-9)


def test_the_uncertainty_is_students_interval_of_the_windows():
    stats = pytest.importorskip("scipy.stats")
    nets_w = [3.0, 3.2, 2.9, 3.1, 3.3]
    powers_w = [power for net_w in nets_w for power in (2.0, 2.0 + net_w)] + [2.0]

    low, high = stats.t.interval(0.95, 4, loc=310.0, scale=stats.sem([net * 100 for net in nets_w]))

    assert windows(powers_w).net_mj == pytest.approx(310.0)
    assert windows(powers_w).net_uncertainty_mj == pytest.approx((high - low) / 2, rel=1e-3)


def test_idle_and_active_windows_take_turns_and_idle_ones_hold_no_inference():
    done: list[str] = []

    energy = measure_energy(
        Scripted([1.0] * 7),
        lambda: done.append("inference"),
        n_windows=3,
        window_s=0.002,
        idle=lambda seconds: done.append("idle"),
    )

    assert [bool(window.n_inferences) for window in energy.windows] == [False, True] * 3 + [False]
    assert done.count("idle") == 4
    assert done[:2] == ["inference", "idle"]
    assert sum(window.n_inferences for window in energy.windows) == done.count("inference") - 1  # the first warms up


def test_a_machine_that_slept_has_measured_nothing():
    asleep_s = iter([0.0, 0.0, 7.0, 7.0])

    with pytest.raises(PowerError, match="slept for 7.0 s during the measurement: keep it awake"):
        measure_energy(
            Scripted([1.0] * 7),
            lambda: None,
            n_windows=1,
            window_s=0.001,
            idle=lambda seconds: None,
            slept_s=lambda: next(asleep_s),
        )


def test_windows_that_do_not_alternate_are_no_measurement():
    active = Window(2.0, 1.0, 5, 10)

    with pytest.raises(ValueError, match="between idle windows"):
        MeasuredEnergy(TOY, (active, active))


def test_no_figure_can_be_put_into_a_measurement_and_every_figure_of_a_model_says_what_it_is():
    assert {field.name for field in fields(MeasuredEnergy)} == {"instrument", "windows"}
    assert all(field.name.startswith("modelled_") for field in fields(ModelledEnergy))


def test_energies_are_told_in_the_unit_in_which_they_can_be_read():
    told = ["12.3 mJ", "0.1 mJ", "3.66 uJ", "-2 uJ"]
    assert [joules(energy_mj) for energy_mj in (12.345, 0.1, 0.00366, -0.002)] == told
