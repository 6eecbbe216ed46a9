import numpy as np

from cpep_bench.machine import this_machine


def test_a_machine_without_a_table_of_processors_has_no_clock(tmp_path):
    machine = this_machine(tmp_path / "cpuinfo", clock_khz=tmp_path / "clock")

    assert machine.clock_mhz is None
    assert machine.cpu


def test_the_clock_is_read_from_the_table_of_processors(tmp_path):
    table = tmp_path / "cpuinfo"
    table.write_text("processor\t: 0\nmodel name\t: Toy\ncpu MHz\t\t: 1234.5\n\nprocessor\t: 1\n")

    machine = this_machine(table)

    assert (machine.cpu, machine.clock_mhz) == ("Toy", 1234.5)
    assert np.isfinite(machine.load_1min)


def test_a_board_without_names_in_its_table_is_known_by_its_device_tree(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 108.00\n")
    (tmp_path / "model").write_text("Raspberry Pi 5 Model B\0")
    (tmp_path / "clock").write_text("2400000\n")

    machine = this_machine(tmp_path / "cpuinfo", tmp_path / "model", tmp_path / "clock")

    assert (machine.cpu, machine.clock_mhz) == ("Raspberry Pi 5 Model B", 2400.0)
