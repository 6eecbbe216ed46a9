"""Meters of the kernel and the board, on copies of the files and output that they read."""

import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cpep_bench import power
from cpep_bench.energy import open_meter
from cpep_bench.power import Instrument, PolledMeter, Rapl, battery, hwmon, integrate, pi5, rails_w
from cpep_edge.errors import ConfigError, PowerError
from tests.processes import forbidding

SENSOR = Instrument("toy", "a toy", 1_000.0)

# Output of a Raspberry Pi 5, shortened.
PMIC = """\
     3V7_WL_SW_A current(0)=0.10000000A
       3V3_SYS_A current(1)=0.50000000A
     3V7_WL_SW_V volt(8)=3.70000000V
       3V3_SYS_V volt(9)=3.30000000V
         EXT5V_V volt(24)=5.15950000V
"""


def files(folder: Path, **content: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in content.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def zone(root: Path, number: str, name: str, energy_uj: int, limit_uj: int = 1_000_000) -> Path:
    return files(root / f"intel-rapl:{number}", name=name, energy_uj=energy_uj, max_energy_range_uj=limit_uj)


def test_rapl_counts_packages_and_memory_and_not_the_parts_of_a_package_twice(tmp_path):
    package, core = zone(tmp_path, "0", "package-0", 100), zone(tmp_path, "0:0", "core", 100)
    memory, platform = zone(tmp_path, "0:1", "dram", 10), zone(tmp_path, "1", "psys", 500)

    meter = Rapl(tmp_path)
    meter.begin()
    for part, energy_uj in ((package, 400), (core, 300), (memory, 60), (platform, 9_000)):
        files(part, energy_uj=energy_uj)

    assert meter.end().energy_j == pytest.approx(350e-6)
    assert meter.instrument.covers == "package-0, dram"


def test_a_rapl_counter_that_wrapped_goes_on_from_zero(tmp_path):
    package = zone(tmp_path, "0", "package-0", 999_990, limit_uj=1_000_000)

    meter = Rapl(tmp_path)
    meter.begin()
    files(package, energy_uj=9)

    assert meter.end().energy_j == pytest.approx(20e-6)  # wraps: ten up to the limit, one to zero, nine more


def test_a_rapl_counter_that_stands_still_is_no_measurement(tmp_path):
    zone(tmp_path, "0", "package-0", 5)
    meter = Rapl(tmp_path)
    meter.begin()

    with pytest.raises(PowerError, match="stands still"):
        meter.end()


def test_rapl_without_permission_says_how_to_get_it():
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # other users cannot read pytest's folders
        package = zone(Path(folder), "0", "package-0", 5)

        with forbidding(package / "energy_uj"), pytest.raises(PowerError, match="sudo chmod a\\+r .*/energy_uj`"):
            Rapl(Path(folder))


def test_an_unreadable_meter_is_told_of_when_any_would_do(monkeypatch, caplog):
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setattr(power, "POWERCAP", Path(folder))
        for place in ("HWMON", "POWER_SUPPLY"):
            monkeypatch.setattr(power, place, Path(folder) / "nothing")
        monkeypatch.setattr(power, "VCGENCMD", "/no/such/program")
        with forbidding(zone(Path(folder), "0", "package-0", 5) / "energy_uj"):
            assert open_meter("auto") is None

    assert ["sudo chmod a+r" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("rapl", "no RAPL counters"),
        ("hwmon", "no power sensor of the INA family"),
        ("battery", "no battery"),
        ("pi5", "failed"),
    ],
)
def test_a_meter_that_is_not_there_is_told_in_a_sentence(spec, words, tmp_path):
    with pytest.raises(PowerError, match=words):
        open_meter(f"{spec}:{tmp_path}")


def test_a_meter_of_no_known_kind_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="--power wattmeter is not a meter: choose from auto, none, rapl"):
        open_meter("wattmeter")


@pytest.mark.parametrize("spec", ["ppk2:/dev/ttyACM0", "ppk2:@3700", "ppk2:/dev/ttyACM0@high"])
def test_a_ppk2_without_port_or_voltage_is_refused(spec):
    with pytest.raises(ConfigError, match="ppk2:/dev/ttyACM0@3700"):
        open_meter(spec)


def test_no_meter_is_a_choice():
    assert open_meter("none") is None


def read_once(meter: PolledMeter) -> float:
    return meter._read_w()


def test_an_ina219_tells_power_in_microwatts(tmp_path):
    files(tmp_path / "hwmon0", name="nvme")
    files(tmp_path / "hwmon1", name="ina219", power1_input=2_500_000, in1_input=5_000, curr1_input=1)

    meter = hwmon(tmp_path)

    assert (read_once(meter), meter.instrument.name) == (2.5, "ina219")


def test_an_ina3221_tells_current_and_voltage_of_the_whole_board(tmp_path):
    jetson = {"in1_label": "VDD_CPU", "in2_label": "VDD_IN", "in1_input": 1_000, "in2_input": 5_000}
    files(tmp_path, name="ina3221", curr1_input=200, curr2_input=900, **jetson)

    meter = hwmon(tmp_path)

    assert read_once(meter) == pytest.approx(4.5)
    assert meter.instrument.covers == "the rail VDD_IN"


@pytest.mark.parametrize(
    "gauge",
    [{"power_now": 4_000_000}, {"voltage_now": 4_000_000, "current_now": -1_000_000}],
    ids=["power", "current below zero"],
)
def test_a_battery_tells_power_or_current_and_voltage(gauge, tmp_path):
    files(tmp_path / "AC", type="Mains")
    files(tmp_path / "BAT0", type="Battery", status="Discharging", **gauge)

    assert read_once(battery(tmp_path)) == pytest.approx(4.0)


def test_a_battery_on_its_charger_measures_nothing(tmp_path):
    files(tmp_path / "BAT0", type="Battery", status="Charging", power_now=1)

    with pytest.raises(PowerError, match="BAT0 is charging: unplug the charger"):
        battery(tmp_path)


def test_the_rails_of_a_pi_5_add_up_and_an_input_without_current_does_not_count(tmp_path):
    program = tmp_path / "vcgencmd"
    program.write_text(f"#!/bin/sh\n[ \"$1\" = pmic_read_adc ] && cat <<'END'\n{PMIC}END\n")
    program.chmod(0o755)

    assert read_once(pi5(str(program))) == pytest.approx(0.1 * 3.7 + 0.5 * 3.3)


def test_another_pi_has_no_rails_to_tell():
    with pytest.raises(PowerError, match="only a Raspberry Pi 5"):
        rails_w("error=1 error_msg='Command not registered'")


def reading_n_times(n: int, then: Callable[[], float]) -> tuple[Callable[[], float], threading.Event]:
    """A sensor that reads 2 W n times and then calls `then`, and an event that is set at that moment."""
    happened, left = threading.Event(), iter(range(n))

    def read_w() -> float:
        if next(left, None) is None:
            happened.set()
            return then()
        return 2.0

    return read_w, happened


def test_a_meter_that_stops_is_told_with_its_reason():
    def fail() -> float:
        raise PowerError("the sensor was unplugged")

    read_w, happened = reading_n_times(8, fail)
    meter = PolledMeter(SENSOR, read_w)
    meter.begin()
    assert happened.wait(60)

    with pytest.raises(PowerError, match="toy stopped during the run: the sensor was unplugged"):
        meter.end()


def test_a_steady_power_is_what_its_readings_say():
    read_w, happened = reading_n_times(20, lambda: 2.0)
    meter = PolledMeter(SENSOR, read_w)
    meter.begin()
    assert happened.wait(60)

    reading = meter.end()

    assert reading.power_w == pytest.approx(2.0)
    assert reading.n_readings >= 20


def test_energy_under_a_ramp_is_exact_although_readings_come_unevenly():
    points = [(at, 3 * at) for at in (0.0, 0.1, 0.5, 0.6, 1.4, 2.0)]

    assert integrate(points, SENSOR).energy_j == pytest.approx(6.0)  # the area under 3 t from 0 to 2


def test_too_few_readings_ask_for_longer_windows():
    with pytest.raises(PowerError, match="gave 2 readings in a window, too few"):
        integrate([(0.0, 1.0), (1.0, 1.0)], SENSOR)
